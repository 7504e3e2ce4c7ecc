//! A request in Gemini's protocol: read for its price, and rewritten for the upstream.

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::super::Dialect;
use super::super::items::KeptReasoning;
use super::super::names::decoded;
use super::super::request::ModelRequest;
use super::parts::{Reading, get, object, spelled};
use super::usage::is_standard_tier;
use crate::json::fields::Fields;
use crate::json::strict::Strict;
use crate::tokens::{Prompt, vocabulary};
use domain::pricing::Extra;

/// The fields of a request that generates.
const BODY: [&str; 11] = [
    "cachedContent",
    "contents",
    "continuationToken",
    "generationConfig",
    "model",
    "safetySettings",
    "serviceTier",
    "store",
    "systemInstruction",
    "toolConfig",
    "tools",
];
/// The fields of a count of tokens: those, or all of them in one.
const COUNT: [&str; 12] = [
    "cachedContent",
    "contents",
    "continuationToken",
    "generateContentRequest",
    "generationConfig",
    "model",
    "safetySettings",
    "serviceTier",
    "store",
    "systemInstruction",
    "toolConfig",
    "tools",
];
/// The fields of a request for embeddings, or of one of its parts.
const EMBEDDING: [&str; 7] = [
    "content",
    "embedContentConfig",
    "model",
    "outputDimensionality",
    "requests",
    "taskType",
    "title",
];
const EMBEDDING_CONFIG: [&str; 4] = ["autoTruncate", "outputDimensionality", "taskType", "title"];
const CONFIG: [&str; 24] = [
    "audioTimestamp",
    "candidateCount",
    "enableAffectiveDialog",
    "enableEnhancedCivicAnswers",
    "frequencyPenalty",
    "imageConfig",
    "logprobs",
    "maxOutputTokens",
    "mediaResolution",
    "modelSelectionConfig",
    "presencePenalty",
    "responseJsonSchema",
    "responseLogprobs",
    "responseMimeType",
    "responseModalities",
    "responseSchema",
    "routingConfig",
    "seed",
    "speechConfig",
    "stopSequences",
    "temperature",
    "thinkingConfig",
    "topK",
    "topP",
];
const THINKING: [&str; 3] = ["includeThoughts", "thinkingBudget", "thinkingLevel"];
const TOOL_CONFIG: [&str; 3] =
    ["functionCallingConfig", "includeServerSideToolInvocations", "retrievalConfig"];

/// What `generationConfig` says.
#[derive(Default)]
struct Config {
    token_limit: Option<u64>,
    choices: u64,
    /// Can the answer have tokens that are no text of it?
    may_hide: bool,
    least_tokens: u64,
}

/// A whole number of at least one.
fn positive(place: &str, value: Option<&Value>) -> Result<Option<u64>, String> {
    let Some(value) = value else { return Ok(None) };
    let number = value.as_u64().filter(|number| *number > 0);
    number.map(Some).ok_or_else(|| format!("generationConfig.{place}: must be a number from 1"))
}

impl Reading<'_> {
    fn config(&mut self, config: &Map<String, Value>) -> Result<Config, String> {
        let place = "generationConfig";
        self.check(place, config, &CONFIG)?;
        for other in ["modelSelectionConfig", "routingConfig"] {
            if get(config, other).is_some() {
                self.ask(Extra::OtherModels, place);
            }
        }
        for schema in ["responseSchema", "responseJsonSchema"] {
            self.push_json(get(config, schema));
        }
        let is_other = |kind: &Value| kind.as_str() != Some("TEXT");
        let kinds = get(config, "responseModalities").and_then(Value::as_array);
        let mut read = Config {
            token_limit: positive("maxOutputTokens", get(config, "maxOutputTokens"))?,
            choices: positive("candidateCount", get(config, "candidateCount"))?.unwrap_or(1),
            may_hide: kinds.is_some_and(|kinds| kinds.iter().any(is_other)),
            least_tokens: 0,
        };
        if let Some(thinking) = get(config, "thinkingConfig") {
            let place = "generationConfig.thinkingConfig";
            let thinking = object(place, thinking)?;
            self.check(place, thinking, &THINKING)?;
            let budget = get(thinking, "thinkingBudget");
            let is_off = budget.is_some_and(|budget| budget.as_i64() == Some(0));
            let is_shown = get(thinking, "includeThoughts") == Some(&Value::Bool(true));
            let has_level = get(thinking, "thinkingLevel").is_some();
            read.may_hide |= is_shown || has_level || (budget.is_some() && !is_off);
            // What is thought is a part of the limit.
            let budget = budget.and_then(Value::as_u64).filter(|budget| *budget > 0);
            read.least_tokens = budget.map_or(0, |budget| budget.saturating_add(1));
        }
        Ok(read)
    }

    /// Reads a request that generates, or is counted.
    fn body(
        &mut self,
        body: &Map<String, Value>,
        model: Option<&str>,
        passing: &[&str],
    ) -> Result<Config, String> {
        self.check("", body, passing)?;
        check_model(body, model)?;
        if get(body, "cachedContent").is_some() {
            self.ask(Extra::ItemReference, "cachedContent");
        }
        if get(body, "continuationToken").is_some() {
            self.ask(Extra::ItemReference, "continuationToken");
        }
        let tier = get(body, "serviceTier").map(|tier| tier.as_str().unwrap_or_default());
        if tier.is_some_and(|tier| !is_standard_tier(tier)) {
            self.ask(Extra::ServiceTier, "serviceTier");
        }
        if let Some(instruction) = get(body, "systemInstruction") {
            self.content("systemInstruction", instruction)?;
        }
        if let Some(tools) = get(body, "tools") {
            self.tools(tools)?;
        }
        if let Some(config) = get(body, "toolConfig") {
            self.check("toolConfig", object("toolConfig", config)?, &TOOL_CONFIG)?;
        }
        let config = match get(body, "generationConfig") {
            Some(config) => self.config(object("generationConfig", config)?)?,
            None => Config { choices: 1, ..Config::default() },
        };
        if let Some(whole) = get(body, "generateContentRequest") {
            if get(body, "contents").is_some() {
                return Err("generateContentRequest: must not stand beside contents".to_owned());
            }
            let whole = object("generateContentRequest", whole)?;
            return self.body(whole, model, &BODY);
        }
        self.contents("contents", get(body, "contents").unwrap_or(&Value::Null))?;
        Ok(config)
    }

    /// Reads a request for embeddings.
    fn embedding(
        &mut self,
        body: &Map<String, Value>,
        model: Option<&str>,
        is_part: bool,
    ) -> Result<(), String> {
        self.check("", body, &EMBEDDING)?;
        check_model(body, model)?;
        if let Some(config) = get(body, "embedContentConfig") {
            let place = "embedContentConfig";
            self.check(place, object(place, config)?, &EMBEDDING_CONFIG)?;
        }
        if let Some(title) = get(body, "title").and_then(Value::as_str) {
            self.prompt.push(title);
        }
        match get(body, "requests") {
            Some(Value::Array(requests)) if !is_part && get(body, "content").is_none() => requests
                .iter()
                .try_for_each(|request| self.embedding(object("requests", request)?, model, true)),
            Some(_) => Err("requests: must be a list, and without content beside it".to_owned()),
            None => self.content("content", get(body, "content").unwrap_or(&Value::Null)),
        }
    }
}

/// The model is in the path. An upstream might take that of the body instead.
fn check_model(body: &Map<String, Value>, model: Option<&str>) -> Result<(), String> {
    let Some(named) = get(body, "model") else { return Ok(()) };
    let named = named.as_str().map(|named| named.strip_prefix("models/").unwrap_or(named));
    if named.is_some() && (model.is_none() || named == model) {
        Ok(())
    } else {
        Err("model: must be the model that is in the path".to_owned())
    }
}

/// Reads a request to this model. The error is for the client.
pub(in crate::upstream::dialect) fn read(
    dialect: Dialect,
    body: &[u8],
    model: Option<&str>,
    more: &[String],
) -> Result<ModelRequest, String> {
    let must_be = |error: serde_json::Error| format!("The body must be a JSON object: {error}");
    let Strict(body) = serde_json::from_slice(body).map_err(must_be)?;
    let Value::Object(body) = body else {
        return Err("The body must be a JSON object".to_owned());
    };
    let mut reading = Reading { prompt: Prompt::default(), asked: Vec::new(), more };
    let config = if dialect == Dialect::GeminiEmbeddings {
        reading.embedding(&body, model, false)?;
        Config { choices: 1, ..Config::default() }
    } else if dialect == Dialect::GeminiCount {
        reading.body(&body, model, &COUNT)?
    } else {
        reading.body(&body, model, &BODY)?
    };
    let only_reads = dialect.only_reads();
    Ok(ModelRequest {
        is_stream: dialect == Dialect::GeminiStream,
        wants_usage: true,
        token_limit: if only_reads { Some(0) } else { config.token_limit },
        choices: config.choices,
        prompt: reading.prompt.count_foreign(vocabulary(model)),
        may_hide: !only_reads && config.may_hide,
        thinking_tokens: 0,
        asks_for: reading.asked,
        kept_reasoning: KeptReasoning::None,
        least_tokens: config.least_tokens,
        kept_for_an_hour: None,
        model: model.map(str::to_owned),
    })
}

/// The request with this token limit. All else of it stays as it is.
pub(in crate::upstream::dialect) fn with_limit(body: &Bytes, limit: Option<u64>) -> Bytes {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let (Some(limit), Some(mut fields)) = (limit, Fields::read(text)) else { return body.clone() };
    let place = spelled(|name| fields.has(name), "generationConfig", "generation_config");
    let config = fields.get(place).and_then(Fields::read).unwrap_or_default();
    let mut config = config.into_owned();
    let name = spelled(|name| config.has(name), "maxOutputTokens", "max_output_tokens");
    config.set(name, limit.to_string());
    fields.set(place, config.to_string());
    fields.to_string().into()
}

/// The body with another model, as a provider calls it, wherever it names the model. The path names
/// it, too.
#[must_use]
pub fn body_with_model(dialect: Dialect, body: &Bytes, model: &str) -> Bytes {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let (true, Some(mut fields)) = (dialect.is_gemini(), Fields::read(text)) else {
        return body.clone();
    };
    let model = model.strip_prefix("models/").unwrap_or(model);
    let name = Value::from(format!("models/{model}")).to_string();
    let is_named = rename(&mut fields, &name);
    if is_named { fields.to_string().into() } else { body.clone() }
}

/// Names the model where it is named; was it?
fn rename(fields: &mut Fields<'_>, name: &str) -> bool {
    let mut is_named = fields.get("model").is_some();
    if is_named {
        fields.set("model", name.to_owned());
    }
    let whole = |name: &str| fields.has(name);
    let place = spelled(whole, "generateContentRequest", "generate_content_request");
    if let Some(mut inner) = fields.get(place).and_then(Fields::read).map(Fields::into_owned)
        && rename(&mut inner, name)
    {
        fields.set(place, inner.to_string());
        is_named = true;
    }
    let requests = fields.get("requests").unwrap_or_default();
    if let Ok(requests) = serde_json::from_str::<Vec<&RawValue>>(requests) {
        let renamed = requests.into_iter().map(|request| match Fields::read(request.get()) {
            Some(mut request) => {
                rename(&mut request, name);
                request.to_string()
            }
            None => request.get().to_owned(),
        });
        let renamed: Vec<String> = renamed.collect();
        fields.set("requests", format!("[{}]", renamed.join(",")));
        is_named = true;
    }
    is_named
}

/// Refuses a query with which the answer would have another form than is read here. The error is
/// for the client.
pub fn check_query(dialect: Dialect, query: Option<&str>) -> Result<(), String> {
    if !dialect.is_gemini() {
        return Ok(());
    }
    let fields = query.unwrap_or_default().split(['&', ';']);
    let fields = fields.map(|field| field.split_once('=').unwrap_or((field, "")));
    let is_alt = |name: &str| decoded(name).is_some_and(|name| name == "alt");
    let mut forms = fields.filter(|(name, _)| is_alt(name)).map(|(_, value)| value).peekable();
    if dialect != Dialect::GeminiStream {
        let is_usual = forms.all(|form| form == "json");
        return if is_usual { Ok(()) } else { Err("alt: must be json, or absent".to_owned()) };
    }
    let is_there = forms.peek().is_some();
    if is_there && forms.all(|form| form == "sse") {
        Ok(())
    } else {
        Err("alt: must be sse; please send the request to :streamGenerateContent?alt=sse"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_as(dialect: Dialect, body: &Value) -> Result<ModelRequest, String> {
        read(dialect, body.to_string().as_bytes(), Some("m"), &[])
    }

    fn with(name: &str, value: Value) -> Value {
        let mut body = json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hello!" }] }] });
        body[name] = value;
        body
    }

    #[expect(clippy::needless_pass_by_value, reason = "made for the call")]
    fn with_part(part: Value) -> Value {
        json!({ "contents": [{ "role": "user", "parts": [part] }] })
    }

    #[test]
    fn a_request_says_what_it_asks_for() {
        let config = json!({
            "maxOutputTokens": 50, "candidateCount": 3, "temperature": 0.5, "topP": 1, "topK": 4,
            "thinkingConfig": { "thinkingBudget": 20, "includeThoughts": true },
        });
        let asked = read_as(Dialect::GeminiStream, &with("generationConfig", config)).unwrap();
        assert_eq!((asked.token_limit, asked.choices, asked.least_tokens), (Some(50), 3, 21));
        assert!(asked.is_stream && asked.may_hide && asked.asks_for.is_empty());
        assert_eq!(asked.model.as_deref(), Some("m"));
        // "user" is one token, "Hello!" two, the frame six. Google's count may be twice as much.
        assert_eq!((asked.prompt.counted, asked.prompt.bound), (9, 18));
        for (config, may_hide) in [
            (json!({}), false),
            (json!({ "responseModalities": ["TEXT"] }), false),
            (json!({ "responseModalities": ["TEXT", "IMAGE"] }), true),
            (json!({ "thinkingConfig": {} }), false),
            (json!({ "thinkingConfig": { "thinkingBudget": 0 } }), false),
            (json!({ "thinking_config": { "thinking_budget": -1 } }), true),
            (json!({ "thinkingConfig": { "thinkingLevel": "LOW" } }), true),
        ] {
            let body = with("generationConfig", config.clone());
            assert_eq!(read_as(Dialect::Gemini, &body).unwrap().may_hide, may_hide, "{config}");
        }
        let snake = json!({ "system_instruction": { "parts": [{ "text": "Hello!" }] },
            "contents": [], "generation_config": { "max_output_tokens": 7 } });
        let asked = read_as(Dialect::Gemini, &snake).unwrap();
        assert_eq!((asked.token_limit, asked.prompt.counted), (Some(7), 8));
    }

    #[test]
    fn what_costs_or_is_anothers_is_found() {
        let file = |uri: &str| with_part(json!({ "fileData": { "fileUri": uri } }));
        let inner = json!({ "functionResponse": { "name": "f", "response": {}, "parts": [
            { "fileData": { "file_uri": "files/1" } }] } });
        for (body, extra) in [
            (with("cachedContent", json!("cachedContents/1")), Extra::ItemReference),
            (with("cached_content", json!("cachedContents/1")), Extra::ItemReference),
            (with("continuationToken", json!("t")), Extra::ItemReference),
            (with("serviceTier", json!("priority")), Extra::ServiceTier),
            (with("serviceTier", json!(1)), Extra::ServiceTier),
            (with("tools", json!([{ "googleSearch": {} }])), Extra::HostedTools),
            (with("tools", json!([{ "google_search": {} }])), Extra::HostedTools),
            (with("tools", json!([{ "codeExecution": {} }])), Extra::HostedTools),
            (with("tools", json!([{ "urlContext": {} }])), Extra::HostedTools),
            (
                with("tools", json!([{ "functionDeclarations": [], "googleSearch": {} }])),
                Extra::HostedTools,
            ),
            (with("tools", json!([{ "fileSearch": {} }])), Extra::FileId),
            (with("tools", json!([{ "whatComesNext": {} }])), Extra::FileId),
            (with("generationConfig", json!({ "routingConfig": {} })), Extra::OtherModels),
            (file("https://generativelanguage.googleapis.com/v1beta/files/1"), Extra::FileId),
            (file("https://a.example/b"), Extra::FileUrl),
            (with_part(inner), Extra::FileId),
            (with_part(json!({ "toolCall": { "id": "t" } })), Extra::HostedTools),
            (with("systemInstruction", json!({ "parts": [{ "fileData": {} }] })), Extra::FileId),
        ] {
            for dialect in [Dialect::Gemini, Dialect::GeminiStream, Dialect::GeminiCount] {
                let asked = read_as(dialect, &body).unwrap().asks_for;
                assert!(asked.iter().any(|asked| asked.extra == extra), "{body}: {asked:?}");
            }
            let whole = json!({ "generateContentRequest": body });
            let asked = read_as(Dialect::GeminiCount, &whole).unwrap().asks_for;
            assert!(asked.iter().any(|asked| asked.extra == extra), "{whole}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        let config = |config: Value| with("generationConfig", config);
        for (body, told) in [
            (with("model", json!("models/other")), "model: must be the model"),
            (with("model", json!(1)), "model: must be the model"),
            (with("labels", json!({})), "labels: this field is not passed on"),
            (with("Contents", json!([])), "Contents: must be written contents"),
            (with("GenerationConfig", json!({})), "must be written generationConfig"),
            (
                json!({ "contents": [], "generationConfig": {}, "generation_config": {} }),
                "generation_config: is there twice",
            ),
            (config(json!({ "maxOutputTokens": 5, "max_output_tokens": 9 })), "is there twice"),
            (config(json!({ "maxOutputTokens": 0 })), "generationConfig.maxOutputTokens: must"),
            (config(json!({ "maxOutputTokens": "9" })), "generationConfig.maxOutputTokens: must"),
            (config(json!({ "candidateCount": -1 })), "generationConfig.candidateCount: must"),
            (config(json!({ "maxoutputtokens": 9 })), "must be written maxOutputTokens"),
            (config(json!({ "max_tokens": 9 })), "generationConfig.max_tokens: this field"),
            (config(json!({ "thinkingConfig": { "depth": 1 } })), "thinkingConfig.depth: this"),
            (json!({}), "contents: must be a list"),
            (json!({ "contents": "Hello!" }), "contents: must be a list"),
            (json!({ "contents": ["Hello!"] }), "contents: must be an object"),
            (with("systemInstruction", json!("Be kind.")), "systemInstruction: must be an object"),
            (with("tools", json!({})), "tools: must be a list"),
            (with("toolConfig", json!({ "x": 1 })), "toolConfig.x: this field"),
            (with_part(json!({ "uuid": "u" })), "contents.parts.uuid: this field"),
            (
                with_part(json!({ "inlineData": { "url": "x" } })),
                "contents.parts.inlineData.url: this field",
            ),
            (with_part(json!({ "Text": "x" })), "contents.parts.Text: must be written text"),
            (json!([]), "must be a JSON object"),
        ] {
            let error = read_as(Dialect::Gemini, &body).unwrap_err();
            assert!(error.contains(told), "{error:?} does not say {told:?}");
        }
        let twice = br#"{"contents":[],"contents":[]}"#;
        assert!(read(Dialect::Gemini, twice, None, &[]).unwrap_err().contains("duplicate field"));
        // The operator knows what it costs.
        let more = ["labels".to_owned(), "generationConfig.depth".to_owned()];
        let body = json!({ "contents": [], "labels": {}, "generationConfig": { "depth": 1 } });
        let read = read(Dialect::Gemini, body.to_string().as_bytes(), None, &more);
        assert!(read.is_ok(), "{read:?}");
    }

    #[test]
    fn usual_requests_ask_for_nothing() {
        let body = json!({
            "model": "models/m", "systemInstruction": { "parts": [{ "text": "Be kind." }] },
            "store": false, "serviceTier": "standard", "cachedContent": null,
            "safetySettings": [{ "category": "c", "threshold": "BLOCK_NONE" }],
            "toolConfig": { "functionCallingConfig": { "mode": "ANY" } },
            "tools": [{ "functionDeclarations": [{ "name": "f", "parameters": {
                "properties": { "fileData": {}, "cachedContent": {} } } }], "googleSearch": null }],
            "generationConfig": { "responseMimeType": "application/json",
                "responseSchema": { "properties": { "fileUri": { "type": "STRING" } } } },
            "contents": [
                { "role": "user", "parts": [{ "inlineData": { "mimeType": "image/png", "data": "AA" } },
                    { "text": "What is it?" }] },
                { "role": "model", "parts": [{ "text": "hm", "thought": true },
                    { "functionCall": { "name": "f", "args": { "fileUri": "mine" } },
                        "thoughtSignature": "c2ln" }] },
                { "role": "user", "parts": [{ "functionResponse": { "name": "f",
                    "response": { "fileData": { "fileUri": "mine" } } } }] },
            ],
        });
        let asked = read_as(Dialect::Gemini, &body).unwrap();
        assert_eq!(asked.asks_for, []);
        assert!(asked.prompt.unseen >= 5_000 && !asked.prompt.has_file);
        let pdf =
            with_part(json!({ "inlineData": { "mimeType": "application/pdf", "data": "AA" } }));
        assert!(read_as(Dialect::Gemini, &pdf).unwrap().prompt.has_file);
    }

    #[test]
    fn embeddings_are_read() {
        let text = json!({ "parts": [{ "text": "Hello!" }] });
        let one = json!({ "model": "models/m", "content": text, "outputDimensionality": 8 });
        let read = |body: &Value| read_as(Dialect::GeminiEmbeddings, body);
        let asked = read(&one).unwrap();
        assert_eq!((asked.prompt.counted, asked.token_limit), (5, Some(0)));
        assert!(!asked.is_stream);
        let many = json!({ "requests": [one, one] });
        assert_eq!(read(&many).unwrap().prompt.counted, 10);
        for body in [
            json!({}),
            json!({ "requests": [many] }),
            json!({ "requests": [one], "content": text }),
            json!({ "requests": [{ "model": "models/other", "content": text }] }),
            json!({ "content": text, "contents": [] }),
        ] {
            assert!(read(&body).is_err(), "{body}");
        }
    }

    #[test]
    fn the_limit_is_set_and_nothing_else_changes() {
        for (body, limit, sent) in [
            (r#"{"contents": [ ]}"#, None, r#"{"contents": [ ]}"#),
            (
                r#"{"contents": [ 1.50 ]}"#,
                Some(7),
                r#"{"contents":[ 1.50 ],"generationConfig":{"maxOutputTokens":7}}"#,
            ),
            (
                r#"{"generationConfig":{"topP":1.0,"maxOutputTokens":99,"x":[1, 2]},"a":"ü"}"#,
                Some(7),
                r#"{"generationConfig":{"topP":1.0,"maxOutputTokens":7,"x":[1, 2]},"a":"ü"}"#,
            ),
            (
                r#"{"generation_config":{"max_output_tokens":99}}"#,
                Some(7),
                r#"{"generation_config":{"max_output_tokens":7}}"#,
            ),
            (
                r#"{"generationConfig":null}"#,
                Some(7),
                r#"{"generationConfig":{"maxOutputTokens":7}}"#,
            ),
        ] {
            let body = Bytes::from_static(body.as_bytes());
            assert_eq!(with_limit(&body, limit), sent, "{body:?}");
            for dialect in [Dialect::Gemini, Dialect::GeminiStream] {
                assert_eq!(dialect.rewrite_request(&body, limit, None, true), sent);
                assert_eq!(dialect.rewrite_request(&body, limit, Some("max_tokens"), true), sent);
            }
            assert_eq!(Dialect::GeminiCount.rewrite_request(&body, limit, None, false), body);
        }
    }

    #[test]
    fn a_provider_reads_its_own_name_in_the_body() {
        for (body, sent) in [
            (r#"{"contents": [ ]}"#, r#"{"contents": [ ]}"#),
            (
                r#"{"model":"models/m","contents":[ ]}"#,
                r#"{"model":"models/theirs","contents":[ ]}"#,
            ),
            (
                r#"{"requests":[{"model":"models/m","content":{ }},{"content":1.0}]}"#,
                r#"{"requests":[{"model":"models/theirs","content":{ }},{"content":1.0}]}"#,
            ),
            (
                r#"{"generateContentRequest":{"model":"models/m","contents":[]}}"#,
                r#"{"generateContentRequest":{"model":"models/theirs","contents":[]}}"#,
            ),
        ] {
            let body = Bytes::from_static(body.as_bytes());
            assert_eq!(body_with_model(Dialect::GeminiCount, &body, "theirs"), sent);
            assert_eq!(body_with_model(Dialect::Chat, &body, "theirs"), body);
        }
    }

    #[test]
    fn the_form_of_the_answer_is_the_one_that_is_read() {
        for (dialect, query, passes) in [
            (Dialect::GeminiStream, None, false),
            (Dialect::GeminiStream, Some("alt=sse"), true),
            (Dialect::GeminiStream, Some("prettyPrint=false&alt=sse"), true),
            (Dialect::GeminiStream, Some("alt=sse&alt=json"), false),
            (Dialect::GeminiStream, Some("alt=sse&a%6ct=json"), false),
            (Dialect::GeminiStream, Some("alt=json"), false),
            (Dialect::Gemini, None, true),
            (Dialect::Gemini, Some("alt=json"), true),
            (Dialect::Gemini, Some("alt=sse"), false),
            (Dialect::Gemini, Some("a%6Ct=proto"), false),
            (Dialect::Chat, Some("alt=proto"), true),
        ] {
            assert_eq!(check_query(dialect, query).is_ok(), passes, "{query:?}");
        }
    }
}
