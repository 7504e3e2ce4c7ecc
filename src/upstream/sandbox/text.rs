//! The text that the sandbox answers with.

use std::borrow::Cow;
use std::sync::LazyLock;

use tiktoken_rs::{CoreBPE, Rank};

use super::fault::Fault;
use crate::tokens;

/// The start of an answer; the prompt follows it.
const OPENING: &str = "This is a simulated answer of the Polysystems sandbox. You wrote:";

/// The part of a prompt that an answer repeats.
const ECHO_CHARS_MAX: usize = 400;

/// The longest answer of `sandbox-long`.
const LONG_TOKENS_MAX: usize = 65_536;

/// The tokens of [`OPENING`]. Every vocabulary splits before the space that follows it, whatever
/// comes next.
fn opening(bpe: &CoreBPE) -> Cow<'static, [Rank]> {
    static OF_DEFAULT: LazyLock<Vec<Rank>> =
        LazyLock::new(|| tokens::vocabulary(None).encode_ordinary(OPENING));
    if std::ptr::eq(bpe, tokens::vocabulary(None)) {
        Cow::Borrowed(&**OF_DEFAULT)
    } else {
        Cow::Owned(bpe.encode_ordinary(OPENING))
    }
}

/// The text of an answer, the same for the same prompt.
pub(super) struct GeneratedText {
    pub(super) text: String,
    /// The number of its tokens.
    pub(super) count: usize,
    /// The text by token, for a stream only.
    pub(super) pieces: Vec<Cow<'static, str>>,
    pub(super) finish_reason: &'static str,
}

impl GeneratedText {
    pub(super) fn new(
        prompt: &str,
        bpe: &CoreBPE,
        limit: usize,
        fault: Option<Fault>,
        is_stream: bool,
    ) -> Self {
        if fault == Some(Fault::Long) {
            let pieces = vec![Cow::Borrowed(" word"); limit.min(LONG_TOKENS_MAX)];
            let (text, count) = (pieces.concat(), pieces.len());
            return GeneratedText { text, count, pieces, finish_reason: "length" };
        }
        let echo: String = prompt.chars().take(ECHO_CHARS_MAX).collect();
        let rest = format!(" {echo}");
        let opening = opening(bpe);
        if !is_stream {
            let of_rest = usize::try_from(tokens::count(bpe, &rest)).unwrap_or(usize::MAX);
            let count = opening.len().saturating_add(of_rest);
            if count <= limit {
                let text = [OPENING, &rest].concat();
                return GeneratedText { text, count, pieces: Vec::new(), finish_reason: "stop" };
            }
        }
        let mut tokens = opening.into_owned();
        tokens.extend(bpe.encode_ordinary(&rest));
        let kept = tokens.get(..limit).unwrap_or(&tokens);
        let (count, is_cut) = (kept.len(), kept.len() < tokens.len());
        let finish_reason = if is_cut { "length" } else { "stop" };
        if !is_stream {
            let bytes = bpe.decode_bytes(kept).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return GeneratedText { text, count, pieces: Vec::new(), finish_reason };
        }
        // A token may be part of a character; the character goes with the last of its tokens.
        let mut pieces: Vec<Cow<'static, str>> = Vec::with_capacity(kept.len());
        let mut open: Vec<u8> = Vec::new();
        for token in kept {
            open.extend(bpe.decode_bytes(&[*token]).unwrap_or_default());
            let piece = match std::str::from_utf8(&open) {
                Ok(piece) => piece.to_owned(),
                Err(_) => String::new(),
            };
            if !piece.is_empty() {
                open.clear();
            }
            pieces.push(piece.into());
        }
        if let Some(last) = pieces.last_mut() {
            last.to_mut().push_str(&String::from_utf8_lossy(&open));
        }
        GeneratedText { text: pieces.concat(), count, pieces, finish_reason }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_answer_counts_as_the_whole_text(prompt in any::<String>()) {
            for model in tokens::MODEL_OF_EACH_VOCABULARY {
                let bpe = tokens::vocabulary(Some(model));
                let reply = GeneratedText::new(&prompt, bpe, usize::MAX, None, false);
                prop_assert_eq!(reply.count, bpe.encode_ordinary(&reply.text).len());
            }
        }
    }
}
