//! Words that are one token each. They are counted without the regular expression of the
//! vocabulary, which takes ten times as long, and most of a text in English is such words.
//!
//! Every vocabulary splits a text before a space that is between another character and a letter: a
//! piece may begin with a space, and has none after another character. So the parts between such
//! spaces have as many tokens as the whole.

use std::collections::HashSet;
use std::sync::LazyLock;

/// The longest word with its space, in bytes.
const WORD_BYTES: usize = 16;
/// No token of the default vocabulary has a greater number.
const TOKENS: u32 = 200_019;

/// The words of the default vocabulary.
static WORDS: LazyLock<HashSet<u128>> = LazyLock::new(|| {
    let vocabulary = super::vocabulary(None);
    let bytes = (0..TOKENS).filter_map(|token| vocabulary.decode_bytes(&[token]).ok());
    bytes.filter_map(|bytes| packed(&bytes)).collect()
});

/// Finds the words, which takes a while.
pub(super) fn warm_up() {
    LazyLock::force(&WORDS);
}

/// A word as a number: letters, of which only the first may be large, perhaps after a space. `None`
/// for anything else, and for a long one.
fn packed(word: &[u8]) -> Option<u128> {
    let (first, rest) = word.strip_prefix(b" ").unwrap_or(word).split_first()?;
    if !first.is_ascii_alphabetic() || !rest.iter().all(u8::is_ascii_lowercase) {
        return None;
    }
    let mut bytes = [0; WORD_BYTES];
    bytes.get_mut(..word.len())?.copy_from_slice(word);
    Some(u128::from_le_bytes(bytes))
}

/// The tokens of a word, perhaps with a mark behind it, which is a token of its own. `None` if it
/// is not known. What follows is a space before a letter, or nothing.
fn known(part: &str) -> Option<usize> {
    let word = part.strip_suffix(['.', ',', '!', '?', ':', ';']);
    let is_known = WORDS.contains(&packed(word.unwrap_or(part).as_bytes())?);
    is_known.then(|| 1_usize.saturating_add(usize::from(word.is_some())))
}

/// The end of the part that begins at `start`.
fn end_of_part(text: &str, start: usize) -> usize {
    let is_end = |window: &[u8]| match window {
        [before, b' ', after] => before.is_ascii_graphic() && after.is_ascii_alphabetic(),
        _ => false,
    };
    let rest = text.as_bytes().get(start..).unwrap_or_default();
    let end = rest.windows(3).position(is_end).map(|place| place.saturating_add(1));
    start.saturating_add(end.unwrap_or(rest.len()))
}

/// The tokens of a text in the default vocabulary.
pub(super) fn count(text: &str) -> usize {
    let rest = |from: usize, to: usize| match text.get(from..to) {
        None | Some("") => 0,
        Some(rest) => super::vocabulary(None).count_ordinary(rest),
    };
    // Up to `counted` the text is counted, and up to `start` it is known not to be words.
    let (mut tokens, mut counted, mut start) = (0_usize, 0, 0);
    while start < text.len() {
        let end = end_of_part(text, start);
        if let Some(more) = text.get(start..end).and_then(known) {
            tokens = tokens.saturating_add(rest(counted, start)).saturating_add(more);
            counted = end;
        }
        start = end;
    }
    tokens.saturating_add(rest(counted, start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokens::vocabulary;

    fn is_exact(text: &str) {
        assert_eq!(count(text), vocabulary(None).count_ordinary(text), "{text:?}");
    }

    #[test]
    fn texts_count_as_the_vocabulary_counts_them() {
        for text in [
            "",
            " ",
            "Hello! How are you today?",
            "I can't. You're here; they'll SAY so: no, 3 times!",
            "The  quick\tbrown\nfox's \u{a0}jumped. Over?! camelCase HTTPServer",
            "a b  c\r\n d . e ,f ! g",
            "Über Straße \u{6f22}\u{5b57} and words. \u{1f44b}\u{1f3fd} all",
            "<|endoftext|> pseudopseudohypoparathyroidism supercalifragilistic",
        ] {
            is_exact(text);
        }
    }

    #[test]
    fn most_words_are_known() {
        assert_eq!(known("Hello!"), Some(2));
        assert_eq!(known(" the"), Some(1));
        assert!(
            [" HTTP", "it's", "12", "", " ", "!"].into_iter().all(|part| known(part).is_none())
        );
        assert!(WORDS.len() > 90_000);
    }

    proptest! {
        #[test]
        fn any_words_count_as_the_vocabulary_counts_them(
            words in proptest::collection::vec("[ ]{0,2}([A-Za-z]{1,9}|[ -~\\n\\r\\t]{0,5}|\\PC{0,3})[.,!?:;']?", 0..40)
        ) {
            is_exact(&words.concat());
        }

        #[test]
        fn any_text_counts_as_the_vocabulary_counts_it(text in any::<String>()) {
            is_exact(&text);
        }
    }
}
