//! The request to a model: read for its price, and rewritten for the upstream.

use std::fmt;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Dialect;
use super::extras::Asked;
use super::gemini;
use super::items::KeptReasoning;
use super::messages::least_tokens;
use super::names::{self, READ_FIELDS, REASONING_FIELDS};
use crate::json::fields::Fields;
use crate::json::strict::{Strict, check_name, duplicate};
use crate::tokens::{PromptTokens, vocabulary};

/// The budget of thinking that a request names. Upstreams differ in whether it is part of the token
/// limit.
fn thinking_tokens(body: &Map<String, Value>) -> u64 {
    let places = [
        (None, "thinking_budget"),
        (Some("thinking"), "budget_tokens"),
        (Some("thinking_config"), "thinking_budget"),
        (Some("reasoning"), "max_tokens"),
        (Some("chat_template_kwargs"), "thinking_budget"),
    ];
    let budgets = places.into_iter().filter_map(|(outer, inner)| match outer {
        None => body.get(inner)?.as_u64(),
        Some(outer) => body.get(outer)?.get(inner)?.as_u64(),
    });
    budgets.max().unwrap_or(0)
}

/// Does the request ask for tokens that the answer need not show as text?
fn asks_for_hidden_tokens(body: &Map<String, Value>) -> bool {
    let is_asked = |name: &&str| body.get(*name).is_some_and(|value| asks_to_think(name, value));
    let is_other = |kind: &Value| kind.as_str() != Some("text");
    let kinds = body.get("modalities").and_then(Value::as_array);
    // Of a predicted text, what the model does not take over is generated all the same.
    REASONING_FIELDS.iter().chain(&["audio", "models", "fallbacks", "prediction"]).any(is_asked)
        || kinds.is_some_and(|kinds| kinds.iter().any(is_other))
}

/// Does the field ask for reasoning? It may also switch it off. What is only not shown is asked
/// for.
fn asks_to_think(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_on) => *is_on || name == "include_reasoning",
        Value::String(effort) => effort != "none",
        Value::Number(budget) => budget.as_u64() != Some(0),
        Value::Object(fields) => match fields.iter().next() {
            Some((inner, value)) if fields.len() == 1 => match inner.as_str() {
                "type" => value != "disabled",
                "effort" => value != "none",
                "enabled" | "enable_thinking" | "thinking" => value != &Value::Bool(false),
                _ => true,
            },
            _ => true,
        },
        Value::Array(_) => true,
    }
}

/// Models that refuse `max_tokens`: OpenAI's reasoning models. The name may begin with that of a
/// provider.
fn wants_completion_limit(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    ["o1", "o3", "o4", "gpt-5"].iter().any(|family| name.starts_with(family))
}

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
    /// Does it ask for tokens that the answer need not show: reasoning or sound? One whose model is
    /// not a text may.
    pub may_hide: bool,
    /// Tokens of thinking that it allows beside the token limit of each completion.
    pub thinking_tokens: u64,
    /// What it asks for whose cost cannot be known before the call.
    pub asks_for: Vec<Asked>,
    /// What becomes of reasoning that the upstream keeps.
    pub kept_reasoning: KeptReasoning,
    /// The least token limit that the upstream takes.
    pub least_tokens: u64,
    /// The field that asks the upstream to keep the prompt for an hour.
    pub kept_for_an_hour: Option<String>,
}

/// The body of a token-priced request. Fields that the price depends on are read with their types;
/// all others may be shown to the model. A duplicate field is an error, because readers differ in
/// which of the two they take.
#[derive(Default)]
struct RequestBody {
    stream: Option<bool>,
    stream_options: Value,
    model: Option<String>,
    is_model_unknown: bool,
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
                    check_name(&name)?;
                    let read = READ_FIELDS.iter().position(|field| *field == name);
                    let before = match read.and_then(|place| seen.get_mut(place)) {
                        Some(seen) => std::mem::replace(seen, true),
                        None => body.shown.contains_key(&name),
                    };
                    if before {
                        return Err(duplicate(&name));
                    }
                    match name.as_str() {
                        "stream" => body.stream = map.next_value()?,
                        "stream_options" => {
                            let Strict(options) = map.next_value()?;
                            body.stream_options = options;
                        }
                        // A model that is no text is treated as unknown.
                        "model" => {
                            let model: &RawValue = map.next_value()?;
                            body.model = serde_json::from_str(model.get()).ok();
                            body.is_model_unknown = body.model.is_none() && model.get() != "null";
                        }
                        "max_tokens" => body.max_tokens = map.next_value()?,
                        "max_completion_tokens" => body.max_completion_tokens = map.next_value()?,
                        "max_output_tokens" => body.max_output_tokens = map.next_value()?,
                        "n" => body.n = map.next_value()?,
                        "best_of" => body.best_of = map.next_value()?,
                        _ => {
                            let Strict(value) = map.next_value()?;
                            body.shown.insert(name, value);
                        }
                    }
                }
                Ok(body)
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// Does the client want to see the usage of a stream? The error is for the client.
fn wants_usage(options: &Value) -> Result<bool, String> {
    let must_be = |what: &str| format!("stream_options: {what}");
    let options = match options {
        Value::Null => return Ok(false),
        Value::Object(options) => options,
        _ => return Err(must_be("must be an object")),
    };
    // It is asked for in any case, and nobody may take it back.
    let is_other =
        |name: &&String| name.as_str() != "include_usage" && names::folded(name) == "include_usage";
    if let Some(name) = options.keys().find(is_other) {
        return Err(must_be(&format!("{name} must be written include_usage")));
    }
    match options.get("include_usage") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(wants)) => Ok(*wants),
        Some(_) => Err(must_be("include_usage must be true or false")),
    }
}

impl Dialect {
    /// Reads a request. The error is for the client.
    pub fn read_request(self, body: &[u8]) -> Result<ModelRequest, String> {
        self.read_request_with(body, &[])
    }

    /// Refuses a request without what Anthropic's protocol demands.
    fn check_messages(
        self,
        shown: &Map<String, Value>,
        token_limit: Option<u64>,
    ) -> Result<(), String> {
        if self.is_anthropic() && !matches!(shown.get("messages"), Some(Value::Array(_))) {
            return Err("messages: must be a list".to_owned());
        }
        if self == Dialect::Messages && token_limit.is_none() {
            return Err(
                "max_tokens: is missing; it is the most tokens that the answer may have".to_owned()
            );
        }
        Ok(())
    }

    /// Reads a request to this path that may also have these fields. The error is for the client.
    pub fn read_request_to(
        self,
        path: &str,
        body: &[u8],
        more: &[String],
    ) -> Result<ModelRequest, String> {
        if self.is_gemini() {
            let model = gemini::model_of(path);
            return gemini::read(self, body, model.as_deref(), more);
        }
        self.read_request_with(body, more)
    }

    /// Reads a request that may also have these fields. The error is for the client.
    #[expect(clippy::too_many_lines, reason = "what is read stands in one place")]
    pub fn read_request_with(self, body: &[u8], more: &[String]) -> Result<ModelRequest, String> {
        if self.is_gemini() {
            return gemini::read(self, body, None, more);
        }
        let must_be = |error: serde_json::Error| format!("The body must be a JSON object: {error}");
        let read: RequestBody = serde_json::from_slice(body).map_err(must_be)?;
        let shown = read.shown;
        names::check(self, &shown, more)?;
        if shown.contains_key("extra_body") {
            return Err("extra_body: its fields must stand beside the others".to_owned());
        }
        let asks_for = self.extras(&shown);
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
        let is_foreign = |name: &str| self.is_generating() && !self.limit_fields().contains(&name);
        if let Some((name, _)) =
            named.iter().find(|(name, limit)| limit.is_some() && is_foreign(name))
        {
            // An upstream may take the larger of two.
            return Err(format!("{name}: is no field of this route"));
        }
        if shown.get("enable_thinking") == Some(&Value::Bool(true))
            && shown.get("thinking_budget").is_none_or(|budget| budget.as_u64().is_none())
        {
            return Err(
                "enable_thinking: must come with thinking_budget, because what is thought \
                        is not part of the token limit"
                    .to_owned(),
            );
        }
        let model = read.model;
        self.check_messages(&shown, token_limit)?;
        let vocabulary = vocabulary(model.as_deref());
        let prompt = if self.is_anthropic() {
            PromptTokens::of_messages(&shown, vocabulary)
        } else {
            PromptTokens::of(&shown, vocabulary)
        };
        // In `/v1/completions` each prompt of a list gets its own completions.
        let prompts = match shown.get("prompt") {
            Some(Value::Array(prompts)) if prompts.iter().any(|prompt| !prompt.is_number()) => {
                u64::try_from(prompts.len()).unwrap_or(u64::MAX)
            }
            _ => 1,
        };
        // Most bodies have no such text, also not in escapes, and are not searched.
        let may_keep = std::str::from_utf8(body)
            .is_ok_and(|text| text.contains("1h") || text.contains("\\u00"));
        let kept_for_an_hour = if may_keep { names::kept_for_an_hour(self, &shown) } else { None };
        let asked = read.n.max(read.best_of).unwrap_or(1).max(1);
        let wants_usage = wants_usage(&read.stream_options)?;
        Ok(ModelRequest {
            is_stream: read.stream.unwrap_or(false) && !self.only_reads(),
            wants_usage: wants_usage || matches!(self, Dialect::Responses | Dialect::Messages),
            model,
            token_limit: if self.only_reads() { Some(0) } else { token_limit },
            choices: prompts.saturating_mul(asked),
            prompt,
            may_hide: !self.only_reads()
                && (read.is_model_unknown || asks_for_hidden_tokens(&shown)),
            // Of Anthropic's limit they are a part.
            thinking_tokens: if self.is_anthropic() { 0 } else { thinking_tokens(&shown) },
            least_tokens: if self.is_anthropic() { least_tokens(&shown) } else { 0 },
            asks_for,
            kept_for_an_hour,
            kept_reasoning: match shown.get("input") {
                Some(input) if self == Dialect::Responses => KeptReasoning::of(input),
                _ => KeptReasoning::None,
            },
        })
    }

    /// The name of the token limit in a request that has none.
    fn new_limit_field(self, fields: &Fields<'_>) -> &'static str {
        let model = || serde_json::from_str::<String>(fields.get("model")?).ok();
        if self == Dialect::Chat && model().is_some_and(|model| wants_completion_limit(&model)) {
            return "max_completion_tokens";
        }
        self.limit_fields().first().copied().unwrap_or("max_tokens")
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
        if matches!(self, Dialect::Gemini | Dialect::GeminiStream) {
            return gemini::with_limit(body, limit);
        }
        let may_be_renamed = matches!(self, Dialect::Chat | Dialect::Native);
        let limit_field = limit_field.filter(|_| may_be_renamed);
        if self.only_reads() || (limit.is_none() && limit_field.is_none() && !is_stream) {
            return body.clone();
        }
        let text = std::str::from_utf8(body).unwrap_or_default();
        let Some(mut fields) = Fields::read(text) else { return body.clone() };
        let known = self.limit_fields();
        let named = || known.iter().copied().filter(|name| fields.get(name).is_some());
        let largest = named().filter_map(|name| fields.get(name)?.parse::<u64>().ok()).max();
        let own: Vec<&'static str> = named().collect();
        if let Some(limit) = limit.or(largest) {
            let names = match limit_field {
                Some(field) => vec![field],
                None if own.is_empty() => vec![self.new_limit_field(&fields)],
                None => own.clone(),
            };
            own.iter().filter(|name| !names.contains(name)).for_each(|name| fields.remove(name));
            for name in names {
                fields.set(name, limit.to_string());
            }
        }
        if is_stream && !matches!(self, Dialect::Responses | Dialect::Messages) {
            let mut options =
                fields.get("stream_options").and_then(Fields::read).unwrap_or_default();
            options.set("include_usage", "true");
            let options = options.to_string();
            fields.set("stream_options", options);
        }
        fields.to_json().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dialect: Dialect, body: &str) -> ModelRequest {
        dialect.read_request(body.as_bytes()).unwrap()
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one list of what is asked for")]
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
        let budget = read(Dialect::Chat, r#"{"thinking":{"budget_tokens":7},"thinking_budget":3}"#);
        assert_eq!((budget.thinking_tokens, budget.may_hide), (7, true));
        assert!(
            !read(Dialect::Chat, r#"{"reasoning_effort":null,"modalities":["text"]}"#).may_hide
        );
        assert!(read(Dialect::Chat, r#"{"modalities":["text","audio"]}"#).may_hide);
        for (field, may_hide) in [
            (r#""reasoning_effort":"none""#, false),
            (r#""reasoning_effort":"low""#, true),
            (r#""enable_thinking":false"#, false),
            (r#""include_reasoning":false"#, true),
            (r#""thinking_budget":0"#, false),
            (r#""thinking":{"type":"disabled"}"#, false),
            (r#""thinking":{"type":"disabled","budget_tokens":9}"#, true),
            (r#""reasoning":{"effort":"none"}"#, false),
            (r#""chat_template_kwargs":{"enable_thinking":false}"#, false),
            (r#""chat_template_kwargs":{"enable_thinking":true}"#, true),
            (r#""models":["openai/o3"]"#, true),
        ] {
            let asked = read(Dialect::Chat, &format!("{{{field}}}"));
            assert_eq!(asked.may_hide, may_hide, "{field}");
        }
        assert!(read(Dialect::Chat, r#"{"model":["o3"]}"#).may_hide);
        // Only the protocol's own names are limits.
        assert_eq!(read(Dialect::Chat, r#"{"max_output_tokens":null}"#).token_limit, None);
        assert_eq!(read(Dialect::Native, r#"{"max_output_tokens":1}"#).token_limit, Some(1));
        assert!(Dialect::Responses.read_request(br#"{"max_tokens":1}"#).is_err());
        let budget = r#"{"enable_thinking":true,"thinking_budget":5}"#;
        assert_eq!(read(Dialect::Chat, budget).thinking_tokens, 5);
        // Text that is predicted and not taken over is billed by the upstream.
        assert!(read(Dialect::Chat, r#"{"prediction":{"content":"a"}}"#).may_hide);
        assert!(!read(Dialect::Embeddings, r#"{"model":["a"]}"#).may_hide);
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
            r#"{"max_token\u017f":1}"#,
            "{\"max_to\u{212a}ens\":1}",
            r#"{"maxTokens":1}"#,
            r#"{"reasoning_Effort":"high"}"#,
            r#"{"Background":true}"#,
            r#"{"stream_options":{"include_u\u017fage":false}}"#,
            r#"{"stream_options":{"include_usage":"no"}}"#,
            r#"{"messages":[{"content":"a","content":"b"}]}"#,
            r#"{"messages":[{"content":"a","Content":"b"}]}"#,
            r#"{"messages":[{"role":"user","content":[{"Type":"text"}]}]}"#,
            r#"{"tools":[{"type":"function","type":"web_search"}]}"#,
            r#"{"extra_body":{"max_tokens":1}}"#,
            r#"{"max_tokens":0}"#,
            r#"{"stream_options":[true]}"#,
            r#"{"max_output_tokens":9}"#,
            r#"{"enable_thinking":true}"#,
            r#"{"n_predict":9}"#,
            r#"{"unheard_of":1}"#,
            r#"{"topK":1}"#,
            r#"{"max_tokens\u0000":1}"#,
            r#"{"x\u0000":1}"#,
            r#"{"messages":[{"type\u0000x":1}]}"#,
            r#"{"tools":[{"function":{"a\u0000":1}}]}"#,
            r#"{"messages":[{"content":[{"cache_control":{"ttl":"24h"}}]}]}"#,
            r#"{"messages":[{"content":[{"cache_control":{"TTL":"2h"}}]}]}"#,
            r#"{"tools":[{"name":"f","cache_control":{"ttl":3600}}]}"#,
        ] {
            assert!(Dialect::Chat.read_request(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_prompt_that_is_to_be_kept_for_an_hour_is_noted() {
        for (body, field) in [
            (r#"{"messages":[{"content":[{"cache_control":{"ttl":"1h"}}]}]}"#, Some("messages")),
            (r#"{"messages":[{"content":[{"cache_control":{"TTL":"1h"}}]}]}"#, Some("messages")),
            (r#"{"tools":[{"name":"f","cache_control":{"ttl":"1h"}}]}"#, Some("tools")),
            (r#"{"tools":[{"name":"f","cache_control":{"ttl":"\u0031h"}}]}"#, Some("tools")),
            (r#"{"messages":[{"content":[{"cache_control":{"ttl":"5m"}}]}]}"#, None),
            (r#"{"messages":[{"content":"1h"}]}"#, None),
        ] {
            let asked = read(Dialect::Chat, body);
            assert_eq!(asked.kept_for_an_hour.as_deref(), field, "{body}");
        }
        let body = r#"{"max_tokens":1,"messages":[],"cache_control":{"ttl":"1h"}}"#;
        let asked = read(Dialect::Messages, body);
        assert_eq!(asked.kept_for_an_hour.as_deref(), Some("body"));
    }

    #[test]
    fn an_operator_may_let_more_fields_pass() {
        let more = ["unheard_of".to_owned(), "n_predict".to_owned(), "maxTokens".to_owned()];
        for (body, passes) in [
            (r#"{"unheard_of":1,"top_k":1}"#, true),
            (r#"{"n_predict":1}"#, true),
            (r#"{"Unheard_of":1}"#, false),
            (r#"{"maxTokens":1}"#, false),
        ] {
            let read = Dialect::Chat.read_request_with(body.as_bytes(), &more);
            assert_eq!(read.is_ok(), passes, "{body}");
        }
        // Services of other protocols have fields of their own.
        for (body, passes) in [
            (r#"{"anything":1,"top_k":1}"#, true),
            (r#"{"n_predict":1}"#, false),
            (r#"{"numPredict":1}"#, false),
            (r#"{"multi-agent":{}}"#, false),
            (r#"{"maxTokens":1}"#, false),
            (r#"{"cache_control":{"ttl":"1h"}}"#, true),
        ] {
            let read = Dialect::Native.read_request(body.as_bytes());
            assert_eq!(read.is_ok(), passes, "{body}");
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
        // OpenAI's reasoning models refuse the older name.
        for (model, name) in [
            ("gpt-5-mini", "max_completion_tokens"),
            ("openai/o3", "max_completion_tokens"),
            ("gpt-4o", "max_tokens"),
            ("deepseek-r1", "max_tokens"),
        ] {
            let sent =
                rewritten(Dialect::Chat, &format!(r#"{{"model":"{model}"}}"#), Some(5), false);
            assert_eq!(sent, format!(r#"{{"model":"{model}","{name}":5}}"#));
        }
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
