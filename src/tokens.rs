//! Counts tokens: of prompts before a call, and of delivered text if an upstream reports no usage.
//!
//! The vocabulary is that of the model if it is known, and otherwise `o200k_base`.

use serde_json::{Map, Value};
use tiktoken_rs::CoreBPE;

mod words;

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
const DATA_KEYS: [&str; 13] = [
    "file",
    "image_url",
    "audio_url",
    "video_url",
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
/// Words in the kinds of parts that are no text.
const DATA_KINDS: [&str; 5] = ["image", "audio", "file", "video", "document"];
/// Fields that say the kind of a part that does not say it itself.
const KINDS_BY_FIELD: [&str; 7] =
    ["image_url", "input_audio", "audio_url", "video_url", "file_data", "input_file", "file"];
/// Parameters, which are not shown to the model.
const PARAMETERS: [&str; 50] = [
    "allowed_token_ids",
    "audio",
    "background",
    "bad_words",
    "cache_salt",
    "client_metadata",
    "conversation",
    "dry_sequence_breakers",
    "ebnf",
    "encoding_format",
    "extra_body",
    "function_call",
    "grammar",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guided_whitespace_pattern",
    "image",
    "include",
    "input_type",
    "json_schema",
    "logit_bias",
    "metadata",
    "modalities",
    "model",
    "moderation",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "reasoning_effort",
    "regex",
    "safety_identifier",
    "service_tier",
    "stop",
    "stop_token_ids",
    "stream_options",
    "structured_outputs",
    "thinking",
    "thinking_config",
    "tool_choice",
    "transforms",
    "truncate",
    "truncation",
    "usage",
    "user",
    "verbosity",
];
/// The same of Anthropic's protocol alone.
const BLOCK_PARAMETERS: [&str; 4] =
    ["context_management", "inference_geo", "stop_sequences", "thinking"];
/// Bound for an image in Anthropic's protocol, at the highest resolution of its models.
const BLOCK_IMAGE_TOKENS_MAX: u64 = 5_000;
/// Bound for the text that Anthropic adds to a prompt with tools, and for each tool of its own.
const TOOL_TOKENS_MAX: u64 = 1_000;
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
pub(crate) const INLINE_BYTES_MAX: usize = 4 * 1024;

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
    words::warm_up();
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
    let is_default = std::ptr::eq(bpe, tiktoken_rs::o200k_base_singleton());
    let tokens = if is_default { words::count(text) } else { bpe.count_ordinary(text) };
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

/// Parts of a prompt of one kind whose tokens only the upstream knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnseenParts {
    /// How many there are.
    pub number: u64,
    /// What is held for them.
    pub tokens: u64,
}

impl UnseenParts {
    fn add(&mut self, tokens: u64) {
        self.number = self.number.saturating_add(1);
        self.tokens = self.tokens.saturating_add(tokens);
    }
}

/// What a prompt contains beside text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each kind is there or not")]
pub struct PromptKinds {
    /// Images.
    pub image: bool,
    /// Sound.
    pub audio: bool,
    /// Videos.
    pub video: bool,
    /// Other files.
    pub file: bool,
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
    /// Has it a part that may fill the context window, whatever its length here?
    pub has_file: bool,
    /// Its images. `unseen` and `bound` have their tokens.
    pub images: UnseenParts,
    /// Its files. `unseen` and `bound` have their tokens.
    pub files: UnseenParts,
    /// What it contains beside text, by what its parts say.
    pub kinds: PromptKinds,
}

impl PromptTokens {
    /// The tokens that are billed if the upstream does not report them.
    #[must_use]
    pub fn unreported(self) -> u64 {
        self.counted.saturating_add(self.unseen)
    }

    /// Of a request's body in Anthropic's protocol. Its models have vocabularies of their own, so
    /// the text is bounded by twice its count.
    #[must_use]
    pub fn of_messages(body: &Map<String, Value>, bpe: &CoreBPE) -> Self {
        let mut prompt = Prompt { has_blocks: true, ..Prompt::default() };
        for (name, value) in body {
            match (name.as_str(), value) {
                ("messages", _) => prompt.add_messages(value),
                ("system", _) => prompt.add(value),
                ("tools", Value::Array(tools)) if !tools.is_empty() => {
                    // Schemas are shown to the model as text, with a text of Anthropic's; its own
                    // tools are shown with texts that are not in the request.
                    prompt.push(&value.to_string());
                    let is_own = |tool: &&Value| {
                        tool.get("type").is_none_or(|kind| kind == "custom" || kind.is_null())
                    };
                    let foreign = tools.iter().filter(|tool| !is_own(tool)).count();
                    let texts = u64::try_from(foreign.saturating_add(1)).unwrap_or(u64::MAX);
                    let tokens = texts.saturating_mul(TOOL_TOKENS_MAX);
                    prompt.unseen = prompt.unseen.saturating_add(tokens);
                }
                (name, _) if PARAMETERS.contains(&name) || BLOCK_PARAMETERS.contains(&name) => {}
                (_, Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                    let bytes = value.to_string().len() / BYTES_PER_UNKNOWN_TOKEN;
                    let tokens = u64::try_from(bytes).unwrap_or(u64::MAX);
                    prompt.unseen = prompt.unseen.saturating_add(tokens);
                }
                _ => {}
            }
        }
        prompt.count_foreign(bpe)
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
pub(crate) struct Prompt {
    /// Are its parts blocks of Anthropic's?
    has_blocks: bool,
    text: String,
    /// The end of each text. Texts are counted separately, because tokens do not span them.
    ends: Vec<usize>,
    tokens: u64,
    /// An upper bound of the tokens that cannot be counted here.
    unseen: u64,
    has_file: bool,
    images: UnseenParts,
    files: UnseenParts,
    kinds: PromptKinds,
}

impl Prompt {
    /// Adds a text.
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    /// Adds the format tokens of the answer, once.
    pub(crate) fn begin_reply(&mut self) {
        self.tokens = self.tokens.saturating_add(TOKENS_PER_REPLY);
    }

    /// Adds the format tokens of a message; what it says follows.
    pub(crate) fn begin_message(&mut self) {
        self.tokens = self.tokens.saturating_add(TOKENS_PER_MESSAGE);
    }

    /// Adds a part that has so many tokens at most, and cannot be counted here.
    pub(crate) fn add_unseen(&mut self, tokens: u64) {
        self.unseen = self.unseen.saturating_add(tokens);
    }

    /// The same for a sound.
    pub(crate) fn add_sound(&mut self, tokens: u64) {
        self.add_unseen(tokens);
        self.kinds.audio = true;
    }

    /// The same for an image.
    pub(crate) fn add_image(&mut self, tokens: u64) {
        self.add_unseen(tokens);
        self.kinds.image = true;
        self.images.add(tokens);
    }

    /// The same for a part that may fill the context window all the same: a video, or another file.
    pub(crate) fn add_file(&mut self, tokens: u64, is_video: bool) {
        self.add_unseen(tokens);
        self.kinds.video |= is_video;
        self.kinds.file |= !is_video;
        self.files.add(tokens);
        self.has_file = true;
    }

    /// It contains a part of this kind.
    fn contains(&mut self, kind: &str) {
        let PromptKinds { image, audio, video, file } = &mut self.kinds;
        let known = [("image", image), ("audio", audio), ("video", video)];
        let known = known.into_iter().find(|(word, _)| kind.contains(word));
        *known.map_or(file, |(_, is_there)| is_there) = true;
    }

    /// The tokens for a model with a vocabulary of its own: the text is bounded by twice its count.
    pub(crate) fn count_foreign(&self, bpe: &CoreBPE) -> PromptTokens {
        let counted = self.count(bpe);
        let text = counted.bound.saturating_sub(counted.unseen);
        PromptTokens { bound: counted.bound.saturating_add(text), ..counted }
    }

    /// Adds each message with its format tokens.
    fn add_messages(&mut self, messages: &Value) {
        let Value::Array(messages) = messages else { return self.add(messages) };
        self.begin_reply();
        for message in messages {
            self.begin_message();
            self.add(message);
        }
    }

    fn add(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.push(text),
            // A prompt may consist of tokens.
            Value::Number(_) => self.tokens = self.tokens.saturating_add(1),
            Value::Array(values) => values.iter().for_each(|value| self.add(value)),
            Value::Object(block) if self.has_blocks => self.add_block(block),
            Value::Object(part) => {
                let kind = kind_of(part);
                let is_data = DATA_KINDS.iter().any(|word| kind.contains(word));
                let mut data_chars = 0_u64;
                for (name, value) in part {
                    if is_data && DATA_KEYS.contains(&name.as_str()) {
                        data_chars = data_chars.saturating_add(chars(value));
                    } else if !matches!(name.as_str(), "type" | "id") {
                        self.add(value);
                    }
                }
                if is_data {
                    // An image is shown at a bounded size, and a sound has its tokens by the
                    // second. A file may be compressed, so its length says little.
                    let of_data = match kind {
                        _ if kind.contains("image") => 0,
                        _ if kind.contains("audio") => data_chars / SOUND_CHARS_PER_TOKEN,
                        _ => data_chars,
                    };
                    let tokens = PART_TOKENS_MAX.max(of_data);
                    self.unseen = self.unseen.saturating_add(tokens);
                    // The name of a kind alone is no content.
                    if part.keys().any(|name| DATA_KEYS.contains(&name.as_str())) {
                        self.contains(kind);
                    }
                    if is_file(kind, part) {
                        self.has_file = true;
                        self.files.add(tokens);
                    } else if kind.contains("image") {
                        self.images.add(tokens);
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Adds a block of Anthropic's.
    fn add_block(&mut self, block: &Map<String, Value>) {
        let text = |of: &Map<String, Value>| {
            of.get("type").and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let kind = text(block);
        for (name, value) in block {
            match (name.as_str(), value) {
                ("type" | "id" | "signature" | "cache_control", _) => {}
                // The call of a tool is shown as JSON.
                ("input", Value::Object(_)) => self.push(&value.to_string()),
                ("source", Value::Object(source))
                    if !matches!(text(source).as_str(), "text" | "content") =>
                {
                    // A file may be text, and longer than it looks if it is compressed; the
                    // upstream's report counts in the end.
                    let tokens = match kind.as_str() {
                        "image" => BLOCK_IMAGE_TOKENS_MAX,
                        _ => PART_TOKENS_MAX.max(chars(value)),
                    };
                    self.unseen = self.unseen.saturating_add(tokens);
                    self.contains(&kind);
                    if kind != "image" || is_other(value, "image/") {
                        self.has_file = true;
                        self.files.add(tokens);
                    } else {
                        self.images.add(tokens);
                    }
                }
                // Thoughts that only the upstream can read.
                ("data", Value::String(data)) if kind == "redacted_thinking" => {
                    let tokens = data.len() / BYTES_PER_UNKNOWN_TOKEN;
                    self.unseen = self.unseen.saturating_add(tokens.try_into().unwrap_or(u64::MAX));
                }
                _ => self.add(value),
            }
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
        let Prompt { unseen, has_file, images, files, kinds, .. } = *self;
        PromptTokens { counted, unseen, bound, has_file, images, files, kinds }
    }
}

/// The kind of a part of a prompt. Some upstreams go by the names of its fields if it has none.
fn kind_of(part: &Map<String, Value>) -> &str {
    match part.get("type").and_then(Value::as_str) {
        Some(kind) => kind,
        None => KINDS_BY_FIELD.into_iter().find(|name| part.contains_key(*name)).unwrap_or(""),
    }
}

/// May the part be more than an image or a sound? An upstream goes by what the data is, not by the
/// name of the part.
fn is_file(kind: &str, part: &Map<String, Value>) -> bool {
    let media = if kind.contains("image") {
        "image/"
    } else if kind.contains("audio") {
        "audio/"
    } else {
        return true;
    };
    part.iter().any(|(name, value)| DATA_KEYS.contains(&name.as_str()) && is_other(value, media))
}

/// Is it data of another media type than those that begin so?
fn is_other(value: &Value, media: &str) -> bool {
    let is_of = |kind: &str| {
        kind.trim_start().get(..media.len()).is_some_and(|start| start.eq_ignore_ascii_case(media))
    };
    match value {
        Value::String(url) => {
            let url = url.trim_start();
            let scheme = url.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:"));
            scheme.is_some() && !url.get(5..).is_some_and(is_of)
        }
        Value::Object(fields) => fields.iter().any(|(name, value)| match (name.as_str(), value) {
            ("media_type" | "mime_type" | "mimeType", Value::String(kind)) => !is_of(kind),
            (_, value) => is_other(value, media),
        }),
        Value::Array(values) => values.iter().any(|value| is_other(value, media)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
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
        assert_eq!(of(&chat), PromptTokens { counted: 9, bound: 9, ..PromptTokens::default() });
        assert_eq!(of(&json!({ "prompt": ["Hello!", "Hello!"] })).counted, 4);
        assert_eq!(of(&json!({ "prompt": [[1, 2, 3], [4]] })).counted, 4);
        assert_eq!(of(&json!({ "input": "Hello!", "instructions": "Hello!" })).counted, 4);
        assert_eq!(of(&json!({ "max_tokens": 5, "user": "Hello!" })).counted, 0);
        let image = json!({ "messages": [{ "role": "user", "content": [
            { "type": "text", "text": "Hello!" },
            { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAAAAAAAAAAAAAA" } },
        ] }] });
        assert_eq!(
            of(&image),
            PromptTokens {
                counted: 9,
                unseen: 2_000,
                bound: 2_009,
                images: UnseenParts { number: 1, tokens: 2_000 },
                kinds: PromptKinds { image: true, ..PromptKinds::default() },
                ..PromptTokens::default()
            }
        );
        // The text of a message is counted whatever its type is.
        let chat = json!({ "messages": [{ "role": "user", "type": "file", "content": "Hello!" }] });
        assert_eq!(
            of(&chat),
            PromptTokens {
                counted: 9,
                unseen: 2_000,
                bound: 2_009,
                has_file: true,
                files: UnseenParts { number: 1, tokens: 2_000 },
                ..PromptTokens::default()
            }
        );
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
        assert_eq!(
            of(&unknown),
            PromptTokens { counted: 2, unseen: 100, bound: 102, ..PromptTokens::default() }
        );
    }

    #[test]
    fn what_may_be_longer_than_it_looks_is_a_file() {
        let (png, pdf) = ("data:image/png;base64,AA", "data:application/pdf;base64,AA");
        for (part, has_file) in [
            (json!({ "type": "image_url", "image_url": { "url": png } }), false),
            (json!({ "type": "image_url", "image_url": { "url": "https://a.example/b" } }), false),
            (json!({ "type": "input_image", "image_url": png }), false),
            (json!({ "type": "input_image", "image_url": " DATA:Image/PNG;base64,AA" }), false),
            (json!({ "type": "input_image", "image_url": pdf }), true),
            (json!({ "type": "image_url", "image_url": { "url": " DATA:video/mp4,x" } }), true),
            (json!({ "type": "image_url", "image_url": { "url": "data:;base64,AA" } }), true),
            (json!({ "image_url": pdf }), true),
            (
                json!({ "type": "image", "source": { "media_type": "image/png", "data": "AA" } }),
                false,
            ),
            (
                json!({ "type": "image", "source": { "media_type": "video/mp4", "data": "AA" } }),
                true,
            ),
            (json!({ "type": "input_audio", "input_audio": { "data": "AA" } }), false),
            (json!({ "type": "audio_url", "audio_url": { "url": pdf } }), true),
            (json!({ "type": "file", "file": { "file_data": "AA" } }), true),
            (json!({ "type": "input_file", "file_data": "AA" }), true),
            (json!({ "file": { "file_data": "AA" } }), true),
            (json!({ "type": "video_url", "video_url": { "url": png } }), true),
            (json!({ "type": "document", "source": { "data": "AA" } }), true),
            (json!({ "type": "text", "text": pdf }), false),
            (json!({ "role": "user", "content": "a file" }), false),
        ] {
            for body in [json!({ "messages": [part] }), json!({ "input": [{ "content": [part] }] })]
            {
                assert_eq!(of(&body).has_file, has_file, "{part}");
            }
        }
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
