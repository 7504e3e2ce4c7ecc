//! Tools that a provider runs, in a request to a model that is priced by its card: how often they
//! may search the web, which has a price beside the tokens.
//!
//! A tool passes only if an answer tells how often it was used, or if it costs nothing but tokens.
//! All others would be run for nothing.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Dialect;
use super::extras::{self, Asked};
use super::messages;
use domain::pricing::Extra;

/// Searches that are held for if the request sets no bound. What is made beyond them is billed all
/// the same.
const SEARCHES_HELD: u64 = 10;
/// Sources that xAI looks at if the request names no other number.
const SOURCES_HELD: u64 = 20;

/// What a tool does that has a price.
enum Use {
    /// It searches, at most so often if that is known.
    Searches(Option<u64>),
    /// It costs tokens only.
    TokensOnly,
}

/// What Anthropic's tool does. `None`: nobody tells what it costs.
fn of_anthropic(tool: &Value) -> Option<Use> {
    let kind = tool.get("type").and_then(Value::as_str)?;
    if kind.starts_with("web_search_") {
        return Some(Use::Searches(tool.get("max_uses").and_then(Value::as_u64)));
    }
    let is_plain = kind.starts_with("web_fetch_")
        || kind.starts_with("tool_search_tool_")
        || kind == "mcp_toolset";
    is_plain.then_some(Use::TokensOnly)
}

/// The same of a tool of `/v1/responses`, or of another protocol with OpenAI's tools.
fn of_openai(tool: &Value) -> Option<Use> {
    let kind = tool.get("type").and_then(Value::as_str)?;
    if kind.starts_with("web_search") {
        return Some(Use::Searches(None));
    }
    (kind == "mcp").then_some(Use::TokensOnly)
}

/// The same of Google's tool, which has the name of its field.
fn of_google(name: &str) -> Option<Use> {
    match name {
        "googleSearch" | "google_search" | "googleSearchRetrieval" | "google_search_retrieval" => {
            Some(Use::Searches(None))
        }
        "codeExecution"
        | "code_execution"
        | "computerUse"
        | "computer_use"
        | "urlContext"
        | "url_context"
        | "functionDeclarations"
        | "function_declarations" => Some(Use::TokensOnly),
        _ => None,
    }
}

/// The searches of all tools, or the one that nobody can bill.
fn sum(tools: impl Iterator<Item = (String, Option<Use>)>) -> Result<u64, String> {
    let mut searches: u64 = 0;
    for (name, used) in tools {
        match used {
            Some(Use::Searches(most)) => {
                // A tool that may not search is there to search all the same.
                searches = searches.saturating_add(most.unwrap_or(SEARCHES_HELD).max(1));
            }
            Some(Use::TokensOnly) => {}
            None => return Err(name),
        }
    }
    Ok(searches)
}

/// What a tool is called in an error.
fn named(tool: &Value) -> String {
    let kind = tool.get("type").or_else(|| tool.get("name")).and_then(Value::as_str);
    kind.map_or_else(|| "tools".to_owned(), |kind| kind.chars().take(64).collect())
}

impl Dialect {
    /// How many searches the tools may make for which a request asks the provider, as far as the
    /// request sets a bound; else so many as are held for. 0: none searches.
    ///
    /// # Errors
    /// The name of a tool of which no answer tells what it costs.
    pub fn searches(self, body: &[u8], asked: &[Asked]) -> Result<u64, String> {
        let hosted = asked.iter().filter(|asked| asked.extra == Extra::HostedTools);
        // Each tool of a field is named; the field is looked at as a whole.
        let fields: BTreeSet<&str> = hosted.map(|asked| asked.field.as_str()).collect();
        if fields.is_empty() {
            return Ok(0);
        }
        // It was read before.
        let body: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let mut searches: u64 = 0;
        for field in fields {
            searches = searches.saturating_add(self.searches_of(field, &body)?);
        }
        Ok(searches)
    }

    fn searches_of(self, field: &str, body: &Map<String, Value>) -> Result<u64, String> {
        let value = body.get(field).unwrap_or(&Value::Null);
        let tools = value.as_array().map(Vec::as_slice).unwrap_or_default();
        if self.is_gemini() {
            let fields = tools.iter().filter_map(Value::as_object).flatten();
            let fields = fields.filter(|(_, value)| !value.is_null());
            return match field {
                "tools" => sum(fields.map(|(name, _)| (name.clone(), of_google(name)))),
                // What tools have said before.
                "contents" | "systemInstruction" => Ok(0),
                other => Err(other.to_owned()),
            };
        }
        match (field, self.is_anthropic()) {
            ("tools", _) if tools.is_empty() => Err(field.to_owned()),
            ("tools", true) => {
                let hosted = tools.iter().filter(|tool| messages::is_hosted(tool));
                sum(hosted.map(|tool| (named(tool), of_anthropic(tool))))
            }
            // A summary is told with the tokens of the answer, and what a remote server says is a
            // part of the prompt.
            ("context_management" | "mcp_servers", true) => Ok(0),
            ("tools", false) => {
                let hosted = tools.iter().filter(|tool| extras::is_hosted(tool));
                let searches = sum(hosted.map(|tool| (named(tool), of_openai(tool))))?;
                // One number bounds all tools together.
                let most = body.get("max_tool_calls").and_then(Value::as_u64);
                Ok(if searches > 0 { most.unwrap_or(searches).max(1) } else { 0 })
            }
            ("search_parameters", false) => {
                let most = value.get("max_search_results").and_then(Value::as_u64);
                Ok(most.unwrap_or(SOURCES_HELD).max(1))
            }
            ("web_search_options" | "enable_search", false) => Ok(1),
            (other, _) => Err(other.to_owned()),
        }
    }

    /// Do its answers tell how often they have searched? If they do not, one search is billed.
    #[must_use]
    pub fn tells_searches(self) -> bool {
        self.is_anthropic() || self.is_gemini() || self == Dialect::Responses
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_an_answer_tells_is_run() {
        let searches = |dialect: Dialect, mut body: Value| {
            if dialect.is_anthropic() {
                body["max_tokens"] = json!(1);
                body["messages"] = json!([]);
            }
            if dialect.is_gemini() && body.get("contents").is_none() {
                body["contents"] = json!([]);
            }
            let text = body.to_string();
            let request = dialect.read_request(text.as_bytes()).unwrap();
            dialect.searches(text.as_bytes(), &request.asks_for)
        };
        let tools = |tools: Value| json!({ "tools": tools });
        let own = json!({ "type": "function", "function": { "name": "f" } });
        let search = json!({ "type": "web_search_20250305", "name": "web_search", "max_uses": 3 });
        let endless = json!({ "type": "web_search_20260209", "name": "web_search" });
        let fetch = json!({ "type": "web_fetch_20250910", "name": "web_fetch" });
        let code = json!({ "type": "code_execution_20250825", "name": "code_execution" });
        let call = json!([{ "role": "model", "parts": [{ "toolCall": { "id": "t" } }] }]);
        for (dialect, body, expected) in [
            (Dialect::Messages, tools(json!([search.clone(), fetch.clone()])), Ok(3)),
            (Dialect::Messages, tools(json!([search.clone(), endless])), Ok(13)),
            (Dialect::Messages, tools(json!([fetch])), Ok(0)),
            (Dialect::Messages, tools(json!([search, code])), Err("code_execution_20250825")),
            (Dialect::Messages, json!({ "mcp_servers": [{ "url": "https://a.example" }] }), Ok(0)),
            (Dialect::Responses, json!({ "input": "a" }), Ok(0)),
            (Dialect::Responses, tools(json!([{ "type": "web_search" }, own])), Ok(10)),
            (
                Dialect::Responses,
                json!({ "tools": [{ "type": "web_search_preview" }], "max_tool_calls": 4 }),
                Ok(4),
            ),
            // It must have a price all the same.
            (
                Dialect::Responses,
                json!({ "tools": [{ "type": "web_search" }], "max_tool_calls": 0 }),
                Ok(1),
            ),
            (Dialect::Responses, tools(json!([{ "type": "mcp" }])), Ok(0)),
            (
                Dialect::Responses,
                tools(json!([{ "type": "web_search" }, { "type": "code_interpreter" }])),
                Err("code_interpreter"),
            ),
            (Dialect::Responses, tools(json!("web_search")), Err("tools")),
            (Dialect::Responses, tools(json!([{ "googleSearch": {} }])), Err("tools")),
            (Dialect::Chat, json!({ "web_search_options": {} }), Ok(1)),
            (Dialect::Chat, json!({ "search_parameters": { "mode": "on" } }), Ok(20)),
            (Dialect::Chat, json!({ "search_parameters": { "max_search_results": 7 } }), Ok(7)),
            (Dialect::Chat, json!({ "plugins": [{ "id": "web" }] }), Err("plugins")),
            (Dialect::Gemini, tools(json!([{ "googleSearch": {}, "urlContext": {} }])), Ok(10)),
            (Dialect::Gemini, tools(json!([{ "google_search": {} }])), Ok(10)),
            (Dialect::GeminiStream, tools(json!([{ "codeExecution": {} }])), Ok(0)),
            (Dialect::Gemini, tools(json!([{ "googleMaps": {} }])), Err("googleMaps")),
            (Dialect::Gemini, json!({ "contents": call }), Ok(0)),
        ] {
            let expected = expected.map_err(str::to_owned);
            assert_eq!(searches(dialect, body.clone()), expected, "{dialect:?} {body}");
        }
    }
}
