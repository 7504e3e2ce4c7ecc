//! The request to a model: read for its price, and rewritten for the upstream.

use std::fmt;

use bytes::Bytes;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Dialect;
use crate::json::Object;
use crate::json::fields::Fields;
use crate::tokens::{PromptTokens, vocabulary};

/// The fields that are read here. They must be lowercase, because some upstreams ignore case.
const READ_FIELDS: [&str; 9] = [
    "stream",
    "stream_options",
    "model",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "prompt",
];

/// The part of a field's name that an error repeats.
const NAME_CHARS_MAX: usize = 64;

/// A token-priced request, as far as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRequest {
    /// Is the answer to be streamed?
    pub is_stream: bool,
    /// Does the client want to see the usage of a stream?
    pub wants_usage: bool,
    /// The model.
    pub model: Option<String>,
    /// The token limit of each completion, if the request names one.
    pub token_limit: Option<u64>,
    /// The number of completions.
    pub choices: u64,
    /// The tokens of the prompt.
    pub prompt: PromptTokens,
}

/// The body of a token-priced request. Fields that the price depends on are read with their types;
/// all others may be shown to the model. A duplicate field is an error, because readers differ in
/// which of the two they take.
#[derive(Default)]
struct RequestBody {
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    model: Option<String>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    n: Option<u64>,
    best_of: Option<u64>,
    shown: Map<String, Value>,
}

impl<'de> Deserialize<'de> for RequestBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = RequestBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RequestBody, A::Error> {
                let mut body = RequestBody::default();
                let mut seen = [false; READ_FIELDS.len()];
                while let Some(name) = map.next_key::<String>()? {
                    let read = READ_FIELDS.iter().position(|field| *field == name);
                    let before = match read.and_then(|place| seen.get_mut(place)) {
                        Some(seen) => std::mem::replace(seen, true),
                        None => body.shown.contains_key(&name),
                    };
                    if before {
                        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    match name.as_str() {
                        "stream" => body.stream = map.next_value()?,
                        "stream_options" => {
                            let options: Option<Object<StreamOptions>> = map.next_value()?;
                            body.stream_options = options.map(|Object(options)| options);
                        }
                        // A model that is no text is treated as unknown.
                        "model" => {
                            let model: &RawValue = map.next_value()?;
                            body.model = serde_json::from_str(model.get()).ok();
                        }
                        "max_tokens" => body.max_tokens = map.next_value()?,
                        "max_completion_tokens" => body.max_completion_tokens = map.next_value()?,
                        "max_output_tokens" => body.max_output_tokens = map.next_value()?,
                        "n" => body.n = map.next_value()?,
                        "best_of" => body.best_of = map.next_value()?,
                        _ => {
                            body.shown.insert(name, map.next_value()?);
                        }
                    }
                }
                Ok(body)
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

impl Dialect {
    /// Reads a request. The error is for the client.
    pub fn read_request(self, body: &[u8]) -> Result<ModelRequest, String> {
        let must_be = |error: serde_json::Error| format!("The body must be a JSON object: {error}");
        let read: RequestBody = serde_json::from_slice(body).map_err(must_be)?;
        let shown = read.shown;
        if let Some(name) = shown.keys().find(|name| {
            let lower = name.to_ascii_lowercase();
            READ_FIELDS.contains(&lower.as_str()) && lower != **name
        }) {
            return Err(format!("{name}: must be lowercase"));
        }
        let named = [
            ("max_tokens", read.max_tokens),
            ("max_completion_tokens", read.max_completion_tokens),
            ("max_output_tokens", read.max_output_tokens),
        ];
        let own = named.into_iter().filter(|(name, _)| self.limit_fields().contains(name));
        let token_limit = own.filter_map(|(_, limit)| limit).max();
        if let Some((name, _)) = named.iter().find(|(_, limit)| *limit == Some(0)) {
            return Err(format!("{name}: must be at least 1"));
        }
        let model = read.model;
        let prompt = PromptTokens::of(&shown, vocabulary(model.as_deref()));
        // In `/v1/completions` each prompt of a list gets its own completions.
        let prompts = match shown.get("prompt") {
            Some(Value::Array(prompts)) if prompts.iter().any(|prompt| !prompt.is_number()) => {
                u64::try_from(prompts.len()).unwrap_or(u64::MAX)
            }
            _ => 1,
        };
        let asked = read.n.max(read.best_of).unwrap_or(1).max(1);
        let wants_usage =
            read.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
        Ok(ModelRequest {
            is_stream: read.stream.unwrap_or(false) && self != Dialect::Embeddings,
            wants_usage: wants_usage || self == Dialect::Responses,
            model,
            token_limit: if self == Dialect::Embeddings { Some(0) } else { token_limit },
            choices: prompts.saturating_mul(asked),
            prompt,
        })
    }

    /// The request as it is sent to the upstream: with the token limit that is covered, if it is
    /// not the request's own, and with the usage of a stream requested. `limit_field` is the name
    /// of the limit if the upstream accepts only one.
    #[must_use]
    pub fn rewrite_request(
        self,
        body: &Bytes,
        limit: Option<u64>,
        limit_field: Option<&'static str>,
        is_stream: bool,
    ) -> Bytes {
        let may_be_renamed = matches!(self, Dialect::Chat | Dialect::Native);
        let limit_field = limit_field.filter(|_| may_be_renamed);
        if self == Dialect::Embeddings || (limit.is_none() && limit_field.is_none() && !is_stream) {
            return body.clone();
        }
        let text = std::str::from_utf8(body).unwrap_or_default();
        let Some(mut fields) = Fields::read(text) else { return body.clone() };
        let known = self.limit_fields();
        let named = || known.iter().copied().filter(|name| fields.get(name).is_some());
        let largest = named().filter_map(|name| fields.get(name)?.parse::<u64>().ok()).max();
        let own: Vec<&'static str> = named().collect();
        if let Some(limit) = limit.or(largest) {
            let first = known.first().copied().unwrap_or("max_tokens");
            let names = match limit_field {
                Some(field) => vec![field],
                None if own.is_empty() => vec![first],
                None => own.clone(),
            };
            own.iter().filter(|name| !names.contains(name)).for_each(|name| fields.remove(name));
            for name in names {
                fields.set(name, limit.to_string());
            }
        }
        if is_stream && self != Dialect::Responses {
            let mut options =
                fields.get("stream_options").and_then(Fields::read).unwrap_or_default();
            options.set("include_usage", "true");
            let options = options.to_string();
            fields.set("stream_options", options);
        }
        fields.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dialect: Dialect, body: &str) -> ModelRequest {
        dialect.read_request(body.as_bytes()).unwrap()
    }

    #[test]
    fn a_request_says_what_it_asks_for() {
        let body = r#"{"model":"m","max_tokens":5,"max_completion_tokens":7,"n":2,"stream":true,
            "stream_options":{"include_usage":true},"messages":[]}"#;
        let asked = read(Dialect::Chat, body);
        assert_eq!((asked.token_limit, asked.choices), (Some(7), 2));
        assert!(asked.is_stream && asked.wants_usage);
        assert_eq!(read(Dialect::Completion, r#"{"prompt":["a","b"],"best_of":3}"#).choices, 6);
        assert_eq!(read(Dialect::Completion, r#"{"prompt":[1,2,3]}"#).choices, 1);
        assert_eq!(read(Dialect::Responses, r#"{"max_output_tokens":9}"#).token_limit, Some(9));
        assert_eq!(read(Dialect::Embeddings, r#"{"input":"a"}"#).token_limit, Some(0));
        // Only the protocol's own names are limits.
        assert_eq!(read(Dialect::Chat, r#"{"max_output_tokens":1}"#).token_limit, None);
        assert_eq!(read(Dialect::Responses, r#"{"max_tokens":1}"#).token_limit, None);
        for body in [
            "",
            "[]",
            r#"{"stream":"yes"}"#,
            r#"{"n":-1}"#,
            r#"{"n":1,"n":2}"#,
            r#"{"prompt":"a","prompt":"b"}"#,
            r#"{"stream_options":{"include_usage":false,"include_usage":true}}"#,
            // What our reader of JSON takes for the number itself, and nobody else does.
            r#"{"max_tokens":{"$serde_json::private::RawValue":"5"}}"#,
            r#"{"n":{"$serde_json::private::RawValue":"5"}}"#,
            r#"{"Max_Tokens":1}"#,
            r#"{"N":2}"#,
            r#"{"max_tokens":0}"#,
            r#"{"stream_options":[true]}"#,
        ] {
            assert!(Dialect::Chat.read_request(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn the_upstream_is_told_the_limit_and_asked_for_usage() {
        let rewritten = |dialect: Dialect, body: &str, limit, is_stream| {
            let body =
                dialect.rewrite_request(&Bytes::from(body.to_owned()), limit, None, is_stream);
            String::from_utf8(body.to_vec()).unwrap()
        };
        assert_eq!(rewritten(Dialect::Chat, r#"{"a": 1}"#, None, false), r#"{"a": 1}"#);
        assert_eq!(
            rewritten(Dialect::Chat, r#"{"a":1.0}"#, Some(5), false),
            r#"{"a":1.0,"max_tokens":5}"#
        );
        assert_eq!(
            rewritten(Dialect::Chat, r#"{"max_completion_tokens":9,"a":1}"#, Some(5), false),
            r#"{"max_completion_tokens":5,"a":1}"#
        );
        assert_eq!(
            rewritten(Dialect::Responses, "{}", Some(5), true),
            r#"{"max_output_tokens":5}"#
        );
        assert_eq!(
            rewritten(Dialect::Chat, r#"{"stream_options":{"x":1}}"#, None, true),
            r#"{"stream_options":{"x":1,"include_usage":true}}"#
        );
        assert_eq!(rewritten(Dialect::Embeddings, "{}", Some(5), false), "{}");
        let foreign = r#"{"max_output_tokens":1}"#;
        assert_eq!(
            rewritten(Dialect::Chat, foreign, Some(5), false),
            r#"{"max_output_tokens":1,"max_tokens":5}"#
        );
        // An upstream that knows one name alone is told by that, also what the request names
        // itself.
        let renamed = |body: &'static str, limit| {
            let field = Some("max_completion_tokens");
            Dialect::Chat.rewrite_request(&Bytes::from_static(body.as_bytes()), limit, field, false)
        };
        assert_eq!(renamed(r#"{"max_tokens":9}"#, None), r#"{"max_completion_tokens":9}"#);
        assert_eq!(renamed(r#"{"max_tokens":9}"#, Some(5)), r#"{"max_completion_tokens":5}"#);
        assert_eq!(renamed("{}", Some(5)), r#"{"max_completion_tokens":5}"#);
    }
}
