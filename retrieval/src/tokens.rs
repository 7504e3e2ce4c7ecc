//! Word pieces: the tokens of the embedding table, and the measure of a chunk's size.
//!
//! They are those of the model `all-MiniLM-L6-v2`: lowercase, without accents, each CJK character
//! and each punctuation mark a word of its own, a word then cut into the longest pieces that the
//! vocabulary has.

use std::collections::HashMap;
use std::sync::LazyLock;

use unicode_normalization::char::decompose_canonical;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// The number of a piece that stands for a word the vocabulary has no pieces for.
pub const UNKNOWN: u32 = 100;

/// Characters of the longest word that is cut into pieces. Longer ones are unknown.
const WORD_MAX: usize = 100;

/// How a piece begins that goes on with a word.
const CONTINUED: &str = "##";

static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(Vocabulary::read);

struct Vocabulary {
    first: HashMap<&'static str, u32>,
    continued: HashMap<&'static str, u32>,
}

impl Vocabulary {
    fn read() -> Self {
        let lines = include_str!("../data/vocabulary.txt").split('\n');
        let (mut first, mut continued) = (HashMap::new(), HashMap::new());
        for (piece, number) in lines.zip(0..) {
            match piece.strip_prefix(CONTINUED) {
                Some(rest) if !rest.is_empty() => continued.insert(rest, number),
                _ => first.insert(piece, number),
            };
        }
        Self { first, continued }
    }

    /// Gives the pieces of a word to `found`: the longest that fits, then the rest.
    fn cut(&self, word: &str, pieces: &mut Vec<u32>, found: &mut impl FnMut(u32)) {
        pieces.clear();
        let mut rest = word;
        let mut known = &self.first;
        while !rest.is_empty() {
            let ends = rest.char_indices().rev().map(|(start, letter)| start + letter.len_utf8());
            let longest = ends
                .filter_map(|end| rest.split_at_checked(end))
                .find_map(|(piece, after)| known.get(piece).map(|&number| (number, after)));
            let Some((number, after)) = longest else { return found(UNKNOWN) };
            pieces.push(number);
            rest = after;
            known = &self.continued;
        }
        pieces.iter().copied().for_each(found);
    }
}

/// Gives the numbers of the word pieces of a text to `found`, in order.
pub fn pieces(text: &str, mut found: impl FnMut(u32)) {
    let vocabulary = &*VOCABULARY;
    let mut word = String::new();
    let mut letters = 0;
    let mut numbers = Vec::new();
    let mut end = |word: &mut String, letters: &mut usize| {
        if *letters > WORD_MAX {
            found(UNKNOWN);
        } else if *letters > 0 {
            vocabulary.cut(word, &mut numbers, &mut found);
        }
        word.clear();
        *letters = 0;
    };
    for letter in text.chars() {
        if letter.is_whitespace() {
            end(&mut word, &mut letters);
        } else if is_ideograph(letter) {
            end(&mut word, &mut letters);
            // A few of them are other forms of one that the vocabulary has.
            decompose_canonical(letter, |plain| word.push(plain));
            letters = 1;
            end(&mut word, &mut letters);
        } else if !is_invisible(letter) {
            decompose_canonical(letter, |plain| {
                if plain.is_ascii() || plain.general_category() != GeneralCategory::NonspacingMark {
                    for lower in plain.to_lowercase() {
                        let alone = is_punctuation(lower);
                        if alone {
                            end(&mut word, &mut letters);
                        }
                        letters += 1;
                        if letters <= WORD_MAX {
                            word.push(lower);
                        }
                        if alone {
                            end(&mut word, &mut letters);
                        }
                    }
                }
            });
        }
    }
    end(&mut word, &mut letters);
}

/// How many word pieces a text has.
pub fn count(text: &str) -> usize {
    let mut count = 0;
    pieces(text, |_| count += 1);
    count
}

fn is_punctuation(letter: char) -> bool {
    letter.is_ascii_punctuation()
        || (!letter.is_ascii()
            && letter.general_category_group() == GeneralCategoryGroup::Punctuation)
}

/// Characters that are dropped: controls, formats, private ones, and the sign of a broken one.
fn is_invisible(letter: char) -> bool {
    if letter.is_ascii() {
        return letter.is_ascii_control();
    }
    let other = matches!(
        letter.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::PrivateUse
            | GeneralCategory::Surrogate
    );
    other || letter == char::REPLACEMENT_CHARACTER
}

/// The characters that the model's tokenizer takes for words of their own.
const fn is_ideograph(letter: char) -> bool {
    matches!(letter,
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{2a6df}' | '\u{2a700}'..='\u{2b73f}' | '\u{2b740}'..='\u{2b81f}'
        | '\u{2b920}'..='\u{2ceaf}' | '\u{2f800}'..='\u{2fa1f}')
}
