//! Counts tokens: of prompts before a call, and of delivered text if an upstream reports no usage.
//!
//! The vocabulary is that of the model if it is known, and otherwise `o200k_base`.

use serde_json::{Map, Value};
use tiktoken_rs::CoreBPE;

/// Prompt text up to this size is counted exactly. The rest is bounded at one token per byte, and
/// counted at one token per four bytes.
const COUNTED_BYTES_MAX: usize = 256 * 1024;
/// Bound for an image, a sound or a file in a prompt. Only the upstream knows their tokens.
const PART_TOKENS_MAX: u64 = 2_000;
/// A second of sound has ten tokens, and a thousand characters at least.
const SOUND_CHARS_PER_TOKEN: u64 = 100;
/// Unknown fields may be shown to the model too: bounded at one token per so many bytes.
const BYTES_PER_UNKNOWN_TOKEN: usize = 3;
/// Fields with the data of parts that are not text.
const DATA_KEYS: [&str; 11] = [
    "file",
    "image_url",
    "url",
    "data",
    "file_data",
    "file_url",
    "input_audio",
    "audio",
    "source",
    "b64_json",
    "image",
];
/// Parameters, which are not shown to the model.
const PARAMETERS: [&str; 20] = [
    "model",
    "stop",
    "user",
    "metadata",
    "logit_bias",
    "stream_options",
    "tool_choice",
    "modalities",
    "service_tier",
    "reasoning_effort",
    "reasoning",
    "include",
    "truncation",
    "safety_identifier",
    "prompt_cache_key",
    "encoding_format",
    "background",
    "conversation",
    "previous_response_id",
    "verbosity",
];
/// Roles that are one token in every vocabulary ("assistant" is two in the older ones).
const ROLES: [&str; 2] = ["user", "system"];
/// Tokens that the chat format adds to each message, and to the prompt (OpenAI cookbook, counting
/// tokens).
const TOKENS_PER_MESSAGE: u64 = 3;
const TOKENS_PER_REPLY: u64 = 3;
/// From this length on, delivered text is counted as far as later text cannot change it.
const PENDING_BYTES: usize = 2 * 1024;
/// At this length it is counted even if a word is cut.
const PENDING_BYTES_MAX: usize = 16 * 1024;

/// Texts above this size are counted on a blocking thread.
const INLINE_BYTES_MAX: usize = 4 * 1024;

/// Does work on a text of so many bytes, such as counting its tokens: a small one at once, a large
/// one on a blocking thread, because the HTTP thread has other calls to serve. `None` if that
/// thread failed.
pub async fn count_off_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= INLINE_BYTES_MAX {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}

/// Loads the default vocabulary, which takes a while the first time.
pub fn warm_up() {
    tiktoken_rs::o200k_base_singleton().count_ordinary("warm");
}

/// The vocabulary of a model.
#[must_use]
pub fn vocabulary(model: Option<&str>) -> &'static CoreBPE {
    let known = model.and_then(tiktoken_rs::tokenizer::get_tokenizer);
    known
        .and_then(|tokenizer| tiktoken_rs::bpe_for_tokenizer(tokenizer).ok())
        .unwrap_or_else(|| tiktoken_rs::o200k_base_singleton())
}

/// The tokens of a text.
#[must_use]
pub fn count(bpe: &CoreBPE, text: &str) -> u64 {
    if ROLES.contains(&text) {
        return 1;
    }
    u64::try_from(bpe.count_ordinary(text)).unwrap_or(u64::MAX)
}

/// The tokens of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptTokens {
    /// The tokens that can be counted here.
    pub counted: u64,
    /// What is held for parts that cannot be counted here, such as images.
    pub unseen: u64,
    /// An upper bound of what the upstream will count, as far as it can be known here.
    pub bound: u64,
}

impl PromptTokens {
    /// The tokens that are billed if the upstream does not report them.
    #[must_use]
    pub fn unreported(self) -> u64 {
        self.counted.saturating_add(self.unseen)
    }

    /// Of a request's body.
    #[must_use]
    pub fn of(body: &Map<String, Value>, bpe: &CoreBPE) -> Self {
        let mut prompt = Prompt::default();
        for (name, value) in body {
            match name.as_str() {
                "messages" => prompt.add_messages(value),
                // `text` is the text itself; in a response request it is the output format.
                "input" | "prompt" | "instructions" | "system" | "suffix" => prompt.add(value),
                "text" if !value.is_object() => prompt.add(value),
                // Schemas are shown to the model as text.
                "tools" | "functions" | "response_format" | "text" => {
                    prompt.push(&value.to_string());
                }
                parameter if PARAMETERS.contains(&parameter) => {}
                _ if value.is_string() || value.is_array() || value.is_object() => {
                    let bytes = value.to_string().len() / BYTES_PER_UNKNOWN_TOKEN;
                    let tokens = u64::try_from(bytes).unwrap_or(u64::MAX);
                    prompt.unseen = prompt.unseen.saturating_add(tokens);
                }
                _ => {}
            }
        }
        prompt.count(bpe)
    }
}

/// The part of a body that the model is shown.
#[derive(Default)]
struct Prompt {
    text: String,
    /// The end of each text. Texts are counted separately, because tokens do not span them.
    ends: Vec<usize>,
    tokens: u64,
    /// An upper bound of the tokens that cannot be counted here.
    unseen: u64,
}

impl Prompt {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    /// Adds each message with its format tokens.
    fn add_messages(&mut self, messages: &Value) {
        let Value::Array(messages) = messages else { return self.add(messages) };
        self.tokens = self.tokens.saturating_add(TOKENS_PER_REPLY);
        for message in messages {
            self.tokens = self.tokens.saturating_add(TOKENS_PER_MESSAGE);
            self.add(message);
        }
    }

    fn add(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.push(text),
            // A prompt may consist of tokens.
            Value::Number(_) => self.tokens = self.tokens.saturating_add(1),
            Value::Array(values) => values.iter().for_each(|value| self.add(value)),
            Value::Object(part) => {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
                let is_data =
                    ["image", "audio", "file", "video"].iter().any(|word| kind.contains(word));
                let mut data_chars = 0_u64;
                for (name, value) in part {
                    if is_data && DATA_KEYS.contains(&name.as_str()) {
                        data_chars = data_chars.saturating_add(chars(value));
                    } else if !matches!(name.as_str(), "type" | "id") {
                        self.add(value);
                    }
                }
                if is_data {
                    // An image is shown at a bounded size. A file may be text, and longer than it
                    // looks if it is compressed; the upstream's report counts in the end.
                    let of_data = match kind {
                        _ if kind.contains("image") => 0,
                        _ if kind.contains("audio") => data_chars / SOUND_CHARS_PER_TOKEN,
                        _ => data_chars,
                    };
                    let tokens = PART_TOKENS_MAX.max(of_data);
                    self.unseen = self.unseen.saturating_add(tokens);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn count(&self, bpe: &CoreBPE) -> PromptTokens {
        let (mut counted, mut bound, mut start) = (self.tokens, self.tokens, 0);
        for end in &self.ends {
            let cut = floor_char_boundary(&self.text, (*end).min(COUNTED_BYTES_MAX.max(start)));
            let (text, rest) =
                (self.text.get(start..cut).unwrap_or_default(), end.saturating_sub(cut));
            let (tokens, rest) = (count(bpe, text), u64::try_from(rest).unwrap_or(u64::MAX));
            counted = counted.saturating_add(tokens).saturating_add(rest.div_ceil(4));
            bound = bound.saturating_add(tokens).saturating_add(rest);
            start = *end;
        }
        bound = bound.saturating_add(self.unseen);
        PromptTokens { counted, unseen: self.unseen, bound }
    }
}

/// The characters of the texts in a value, in bytes.
fn chars(value: &Value) -> u64 {
    match value {
        Value::String(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
        Value::Array(values) => values.iter().map(chars).fold(0, u64::saturating_add),
        Value::Object(fields) => fields.values().map(chars).fold(0, u64::saturating_add),
        _ => 0,
    }
}

fn floor_char_boundary(text: &str, mut place: usize) -> usize {
    while !text.is_char_boundary(place) {
        place = place.saturating_sub(1);
    }
    place
}

/// Counts the tokens of a text that arrives in pieces, exactly and in bounded memory.
#[derive(Clone)]
pub struct TextCounter {
    bpe: &'static CoreBPE,
    counted: u64,
    /// The text whose tokens the next piece may change.
    pending: String,
    /// So many bytes of it were counted to so many tokens.
    known: (usize, u64),
}

impl TextCounter {
    /// Nothing yet.
    #[must_use]
    pub fn new(bpe: &'static CoreBPE) -> Self {
        TextCounter { bpe, counted: 0, pending: String::new(), known: (0, 0) }
    }

    /// Adds a piece.
    pub fn push(&mut self, mut text: &str) {
        // A large text is added in parts that the buffer can hold.
        while !text.is_empty() {
            let cut = floor_char_boundary(text, text.len().min(PENDING_BYTES_MAX));
            let (piece, rest) = text.split_at_checked(cut.max(1)).unwrap_or((text, ""));
            self.pending.push_str(piece);
            if self.pending.len() >= self.known.0.saturating_add(PENDING_BYTES) {
                self.tighten();
            }
            text = rest;
        }
    }

    /// Adds tokens that are no text.
    pub fn add(&mut self, tokens: u64) {
        self.counted = self.counted.saturating_add(tokens);
    }

    /// An upper bound of the tokens so far: a token has at least one byte.
    #[must_use]
    pub fn bound(&self) -> u64 {
        let (bytes, tokens) = self.known;
        let more = u64::try_from(self.pending.len().saturating_sub(bytes)).unwrap_or(u64::MAX);
        self.counted.saturating_add(tokens).saturating_add(more)
    }

    /// Tightens the bound. Text up to the last space between two words is counted for good, because
    /// every vocabulary splits there. The rest is counted as it is now.
    pub fn tighten(&mut self) {
        let bytes = self.pending.as_bytes();
        let is_part = |window: &[u8]| match window {
            [before, b' ', after] => before.is_ascii_alphabetic() && after.is_ascii_alphabetic(),
            _ => false,
        };
        let last = bytes.windows(3).rposition(is_part).map(|place| place.saturating_add(1));
        let is_full = self.pending.len() >= PENDING_BYTES_MAX;
        if let Some(end) = last.or_else(|| is_full.then_some(self.pending.len())) {
            let rest = self.pending.split_off(end);
            self.counted = self.counted.saturating_add(count(self.bpe, &self.pending));
            self.pending = rest;
        }
        self.known = (self.pending.len(), count(self.bpe, &self.pending));
    }

    /// The tokens so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counted.saturating_add(count(self.bpe, &self.pending))
    }

    /// Is it empty?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counted == 0 && self.pending.is_empty()
    }
}

/// o200k_base, o200k_harmony, cl100k_base, p50k_base, p50k_edit, r50k_base and gpt2.
#[cfg(test)]
pub(crate) const MODEL_OF_EACH_VOCABULARY: [&str; 7] = [
    "gpt-4o",
    "gpt-oss-20b",
    "gpt-4",
    "text-davinci-003",
    "text-davinci-edit-001",
    "davinci",
    "gpt2",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of(body: &Value) -> PromptTokens {
        PromptTokens::of(body.as_object().unwrap(), vocabulary(None))
    }

    #[test]
    fn a_prompt_is_what_the_model_is_shown() {
        // "user" is one token, "Hello!" two, the frame six.
        let chat = json!({ "model": "x", "messages": [{ "role": "user", "content": "Hello!" }] });
        assert_eq!(of(&chat), PromptTokens { counted: 9, unseen: 0, bound: 9 });
        assert_eq!(of(&json!({ "prompt": ["Hello!", "Hello!"] })).counted, 4);
        assert_eq!(of(&json!({ "prompt": [[1, 2, 3], [4]] })).counted, 4);
        assert_eq!(of(&json!({ "input": "Hello!", "instructions": "Hello!" })).counted, 4);
        assert_eq!(of(&json!({ "max_tokens": 5, "user": "Hello!" })).counted, 0);
        let image = json!({ "messages": [{ "role": "user", "content": [
            { "type": "text", "text": "Hello!" },
            { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAAAAAAAAAAAAAA" } },
        ] }] });
        assert_eq!(of(&image), PromptTokens { counted: 9, unseen: 2_000, bound: 2_009 });
        // The text of a message is counted whatever its type is.
        let chat = json!({ "messages": [{ "role": "user", "type": "file", "content": "Hello!" }] });
        assert_eq!(of(&chat), PromptTokens { counted: 9, unseen: 2_000, bound: 2_009 });
        // A file is held for by its size.
        let file = |data: &str| {
            json!({ "messages": [{ "role": "user", "content": [
            { "type": "text", "text": "Hello!" },
            { "type": "file", "file": { "file_data": data } },
        ] }] })
        };
        assert_eq!(of(&file("AA")).unseen, 2_000);
        assert_eq!(of(&file(&"A".repeat(50_000))).unseen, 50_000);
        let sound = json!({ "messages": [{ "role": "user", "content": [
            { "type": "input_audio", "input_audio": { "data": "A".repeat(500_000) } },
        ] }] });
        assert_eq!(of(&sound).unseen, 5_000);
        let unknown = json!({ "input": "Hello!", "documents": ["x".repeat(296)] });
        assert_eq!(of(&unknown), PromptTokens { counted: 2, unseen: 100, bound: 102 });
    }

    #[test]
    fn a_role_is_a_token() {
        for model in MODEL_OF_EACH_VOCABULARY {
            for role in ROLES {
                assert_eq!(vocabulary(Some(model)).count_ordinary(role), 1, "{model} {role}");
            }
        }
    }

    #[test]
    fn a_very_long_prompt_is_bounded() {
        let long = "word ".repeat(COUNTED_BYTES_MAX);
        let tokens = of(&json!({ "prompt": ["Hello!", long] }));
        assert!(tokens.counted < tokens.bound);
        assert!(tokens.bound > u64::try_from(COUNTED_BYTES_MAX).unwrap() * 4);
    }

    #[test]
    fn text_without_spaces_is_not_counted_again_and_again() {
        let mut counter = TextCounter::new(vocabulary(None));
        counter.push(&"\u{6f22}\u{5b57}".repeat(500));
        counter.tighten();
        let exact = counter.total();
        assert_eq!(counter.bound(), exact);
        counter.push("\u{6f22}");
        assert_eq!(counter.bound(), exact + 3);
        counter.push(&"a".repeat(100_000));
        assert!(counter.pending.len() < PENDING_BYTES_MAX && counter.bound() >= counter.total());
    }

    #[test]
    fn text_in_pieces_counts_as_the_whole() {
        let text = "The quick brown fox, it's said, jumped 12345 times. Über Straße! \n\n  x  y"
            .repeat(200);
        for size in [1, 3, 7, 1_000, 5_000] {
            let mut counter = TextCounter::new(vocabulary(None));
            let characters: Vec<char> = text.chars().collect();
            for piece in characters.chunks(size) {
                counter.push(&piece.iter().collect::<String>());
                assert!(counter.bound() >= counter.total());
                assert!(counter.pending.len() < PENDING_BYTES_MAX + 5_000);
            }
            counter.tighten();
            assert_eq!(counter.total(), count(vocabulary(None), &text), "{size}");
        }
    }

    proptest! {
        #[test]
        fn any_text_in_pieces_counts_as_the_whole(words in proptest::collection::vec("[a-zA-Z0-9 ,.'\\n-]{0,12}", 0..400)) {
            let mut counter = TextCounter::new(vocabulary(None));
            for word in &words {
                counter.push(word);
                counter.tighten();
                prop_assert!(counter.bound() >= counter.total());
            }
            prop_assert_eq!(counter.total(), count(vocabulary(None), &words.concat()));
        }
    }
}
