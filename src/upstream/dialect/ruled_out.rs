//! Which kinds of tokens a request cannot take, so that nothing is held for them.
//!
//! The body is searched for words, not read: a word that is anywhere, in capitals or not, keeps the
//! kind in. So what is ruled out is ruled out for sure. A body that spells letters as escapes rules
//! out nothing.
//!
//! What an answer is made of is ruled out only if a protocol must be asked for it. Gemini's models
//! draw and speak unasked, and so may models behind OpenAI's protocol draw.

use domain::{Dim, DimSet};

use super::Dialect;

/// Does the body spell letters, digits or underscores as `\u00..`?
fn has_escaped_words(body: &str) -> bool {
    body.match_indices("\\u00").any(|(place, escape)| {
        let rest = body.get(place.saturating_add(escape.len())..).unwrap_or_default();
        let mut digits = rest.bytes();
        match (digits.next(), digits.next()) {
            (Some(b'3'), Some(low)) => low.is_ascii_digit(),
            (Some(b'4'..=b'7'), _) => true,
            _ => false,
        }
    })
}

impl Dialect {
    /// The kinds of tokens that a request with this body cannot take.
    #[must_use]
    pub fn ruled_out(self, body: &[u8]) -> DimSet {
        let Ok(text) = std::str::from_utf8(body) else { return DimSet::EMPTY };
        if has_escaped_words(text) {
            return DimSet::EMPTY;
        }
        let text = text.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let asks_for_cache = has(&["cache_co"]);
        let mut out = DimSet::EMPTY;
        // Other upstreams may write to their caches unasked.
        if self.is_anthropic() && !asks_for_cache {
            out = out.with(Dim::CacheWrite);
        }
        if !asks_for_cache || !has(&["\"1h\""]) {
            out = out.with(Dim::CacheWrite1h).with(Dim::CacheWrite12h);
        }
        for (words, dims) in [
            // A video has sound.
            (&["audio", "video"][..], &[Dim::InputAudio, Dim::CacheReadAudio][..]),
            // The pages of a document are images.
            (&["image", "pdf"], &[Dim::InputImage, Dim::CacheReadImage]),
            (&["video"], &[Dim::InputVideo]),
        ] {
            if !has(words) {
                out = dims.iter().fold(out, |out, dim| out.with(*dim));
            }
        }
        if !self.is_gemini() && !has(&["audio"]) {
            out = out.with(Dim::OutputAudio);
        }
        if self.is_anthropic() {
            out = out.with(Dim::OutputImage);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_word_asks_for_is_ruled_out() {
        let out = |dialect: Dialect, body: &str| {
            let out = dialect.ruled_out(body.as_bytes());
            let names = out.dims().map(Dim::name).filter(|name| name.starts_with("cache_write"));
            (names.collect::<Vec<_>>().len(), out.contains(Dim::OutputAudio))
        };
        let asked = r#"{"system":[{"cache_control":{"type":"ephemeral"}}]}"#;
        let hour = r#"{"system":[{"cache_control":{"type":"ephemeral","ttl":"1h"}}]}"#;
        for (dialect, body, expected) in [
            (Dialect::Messages, "{}", (3, true)),
            (Dialect::Messages, asked, (2, true)),
            (Dialect::Messages, hour, (0, true)),
            (Dialect::Messages, r#"{"\u0063ache_control":1}"#, (0, false)),
            (Dialect::Messages, r#"{"x":"\u003c b \u003e \u0026"}"#, (3, true)),
            (Dialect::Messages, r#"{"ttl":"\u0031h"}"#, (0, false)),
            (Dialect::Chat, "{}", (2, true)),
            (Dialect::Chat, r#"{"modalities":["text","audio"]}"#, (2, false)),
            (Dialect::Chat, r#"{"modalities":["text","AUDIO"]}"#, (2, false)),
            // Gemini's models speak unasked.
            (Dialect::Gemini, "{}", (2, false)),
        ] {
            assert_eq!(out(dialect, body), expected, "{body}");
        }
        assert_eq!(Dialect::Chat.ruled_out(&[0xff]), DimSet::EMPTY);
        let all = Dialect::Messages.ruled_out(b"{}");
        for kept in [Dim::Input, Dim::CacheRead, Dim::Output, Dim::Reasoning] {
            assert!(!all.contains(kept), "{kept:?}");
        }
    }

    #[test]
    fn what_a_request_shows_in_capitals_and_what_a_model_draws_unasked_is_not_ruled_out() {
        let inline = |kind: &str| format!(r#"{{"inlineData":{{"mimeType":"{kind}"}}}}"#);
        let kinds = [Dim::InputAudio, Dim::InputImage, Dim::InputVideo, Dim::OutputImage];
        for (dialect, body, kept) in [
            (Dialect::Gemini, "{}".to_owned(), &[Dim::OutputImage][..]),
            (Dialect::GeminiStream, inline("IMAGE/PNG"), &[Dim::InputImage, Dim::OutputImage]),
            (Dialect::Gemini, inline("Audio/WAV"), &[Dim::InputAudio, Dim::OutputImage]),
            (
                Dialect::Gemini,
                inline("VIDEO/MP4"),
                &[Dim::InputAudio, Dim::InputVideo, Dim::OutputImage],
            ),
            (Dialect::Gemini, inline("application/PDF"), &[Dim::InputImage, Dim::OutputImage]),
            (Dialect::Chat, "{}".to_owned(), &[Dim::OutputImage]),
            (Dialect::Messages, r#"{"type":"image"}"#.to_owned(), &[Dim::InputImage]),
        ] {
            let out = dialect.ruled_out(body.as_bytes());
            let found = kinds.into_iter().filter(|dim| !out.contains(*dim));
            assert_eq!(found.collect::<Vec<_>>(), kept, "{dialect:?} {body}");
        }
    }
}
