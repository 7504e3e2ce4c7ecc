//! A shop: models of two protocols with several deployments, a catalogue and prices for them, and a
//! stub of their providers that does what a request asks for.
//!
//! | model | who serves it | what is special |
//! |---|---|---|
//! | `chat` | deployments `a`, then `b` | falls back to `large` if a prompt is too long; two service tiers |
//! | `thinker` | `a`, then `b` | thinks unseen |
//! | `large` | `c` | five times as dear as `chat` |
//! | `claude` | `d` | Anthropic's protocol; a row for prompts over 200,000 tokens |
//! | `open/*` | `a`'s credential | a wildcard |

use std::time::Duration;

use serde_json::{Value, json};

use crate::upstream::{Script, Step, usage_and_done, word};

/// The shop's models are called by these names at their providers.
pub const DEPLOYMENTS: [&str; 4] = ["a", "b", "c", "d"];
const SECRET: &str = "sk-a-secret-of-a-provider-1b2c";

/// The catalogue, with all providers at this upstream.
pub fn catalogue(upstream: &str) -> Value {
    let provider = |name: &str, dialect: &str| {
        json!({ "name": name, "dialect": dialect, "url": format!("{upstream}/v1"),
            "allow_private": true })
    };
    let dialect = |name: &str| if name == "d" { "anthropic" } else { "openai" };
    let each = |make: &dyn Fn(&str) -> Value| DEPLOYMENTS.iter().map(|name| make(name)).collect();
    let target = |name: &str, priority: u32| json!({ "deployment": name, "priority": priority });
    let two = [target("a", 0), target("b", 1)];
    let model = |name: &str, targets: &[Value]| {
        let (input, output) = (400_000, 20_000);
        json!({ "name": name, "max_input": input, "max_output": output, "targets": targets })
    };
    let mut chat = model("chat", &two);
    chat["on_context"] = json!(["large"]);
    let mut thinker = model("thinker", &two);
    thinker["hides_thoughts"] = json!(true);
    let (large, claude) = (model("large", &[target("c", 0)]), model("claude", &[target("d", 0)]));
    let all: [Vec<Value>; 3] = [
        each(&|name| provider(name, dialect(name))),
        each(&|name| json!({ "name": name, "provider": name })),
        each(
            &|name| json!({ "name": name, "credential": name, "upstream_model": format!("theirs-{name}") }),
        ),
    ];
    let [providers, credentials, deployments] = all;
    json!({
        "providers": providers, "credentials": credentials, "deployments": deployments,
        "models": [chat, thinker, large, claude],
        "wildcards": [{ "pattern": "open/*", "target": { "credential": "a" },
            "max_input": 400_000, "max_output": 20_000 }],
    })
}

/// The cards of its models. The plain tokens of `chat` cost `dollars` more for a million.
pub fn cards(dollars: u32) -> Value {
    let (input, output) = (2 + dollars, 8 + dollars);
    let standard = json!({ "input": input.to_string(), "output": output.to_string(),
        "cache_read": "0.5", "reasoning": "10", "request": "0.001" });
    let flex = json!({ "service": "flex", "input": "1", "output": "4", "cache_read": "0.25" });
    json!([
        { "model": "chat", "rows": [standard.clone(), flex] },
        { "model": "thinker", "input": input.to_string(), "output": output.to_string(),
            "reasoning": "10", "request": "0.001" },
        { "model": "large", "input": (5 * input).to_string(), "output": (5 * output).to_string(),
            "request": "0.005" },
        { "model": "claude", "rows": [
            { "input": "3", "output": "15", "cache_read": "0.3", "cache_write": "3.75",
                "cache_write_1h": "6" },
            { "over": 200_000, "input": "6", "output": "22.5", "cache_read": "0.6",
                "cache_write": "7.5", "cache_write_1h": "12" },
        ] },
        { "model": "open/*", "input": "0.7", "output": "0.9" },
    ])
}

/// The requests that open it: method, path, the revision that must be in force, and body.
pub fn opening(upstream: &str) -> Vec<(&'static str, String, Option<&'static str>, Value)> {
    let publish = json!({ "publish": true, "cards": cards(0) });
    let mut requests = vec![
        ("PUT", "/api/admin/catalogue".to_owned(), Some("\"rev-0\""), catalogue(upstream)),
        ("POST", "/api/admin/price-lists/default/versions".to_owned(), None, publish),
    ];
    for name in DEPLOYMENTS {
        let secret = json!({ "provider": name, "secret": SECRET });
        requests.push(("PUT", format!("/api/admin/credentials/{name}"), None, secret));
    }
    requests
}

/// A chat with this model, of which the upstream does what `plan` says: see [`obey`].
pub fn chat(model: &str, plan: &Value) -> Value {
    json!({ "model": model, "max_tokens": 100, "metadata": plan,
        "messages": [{ "role": "user", "content": "Hello!" }] })
}

/// What the stub of the providers answers. The `metadata` of a request say:
///
/// - `fails`: the deployments that fail, with 503; `long`: those for which the prompt is too long
/// - `input`, `cached`, `written`, `output`, `thoughts`: the usage. Without `output` it is all that
///   the upstream was told as a limit
/// - `tier`: the service tier that has served
/// - `pause`: milliseconds before the answer, and before each word of a stream
/// - `words`: how many words a stream has
/// - `ends`: `cut` to break off before the end
pub fn obey(body: &Value) -> Script {
    let plan = &body["metadata"];
    let number = |name: &str| plan[name].as_u64();
    let deployment = body["model"].as_str().unwrap_or("").replace("theirs-", "");
    let is_one_of = |name: &str| {
        let names = plan[name].as_array().into_iter().flatten();
        names.filter_map(Value::as_str).any(|name| name == deployment)
    };
    if is_one_of("fails") {
        return Script::Answer(503, "{}".into());
    }
    if is_one_of("long") {
        let error = json!({ "message": "It is too long", "code": "context_length_exceeded" });
        return Script::Answer(400, json!({ "error": error }).to_string());
    }
    let told = body["max_tokens"].as_u64().or(body["max_completion_tokens"].as_u64());
    let words = number("words").unwrap_or(1);
    let output = number("output").or(told).unwrap_or(words);
    let (input, thoughts) = (number("input").unwrap_or(9), number("thoughts").unwrap_or(0));
    let usage = if deployment == "d" {
        json!({ "input_tokens": input, "cache_read_input_tokens": number("cached").unwrap_or(0),
            "cache_creation_input_tokens": number("written").unwrap_or(0),
            "output_tokens": output })
    } else {
        json!({ "prompt_tokens": input, "completion_tokens": output,
            "total_tokens": input + output,
            "prompt_tokens_details": { "cached_tokens": number("cached").unwrap_or(0) },
            "completion_tokens_details": { "reasoning_tokens": thoughts.min(output) } })
    };
    let pause = Duration::from_millis(number("pause").unwrap_or(0));
    if body["stream"] == true {
        return stream(&deployment, &usage, words, pause, plan["ends"] == "cut");
    }
    let answer = if deployment == "d" {
        json!({ "id": "m", "type": "message", "role": "assistant", "model": body["model"],
            "content": [{ "type": "text", "text": "hi" }], "usage": usage })
    } else {
        json!({ "id": deployment, "model": body["model"], "service_tier": plan["tier"],
            "choices": [{ "message": { "content": "hi" } }], "usage": usage })
    };
    Script::Slow(pause, answer.to_string())
}

fn event(kind: &str, mut fields: Value) -> Step {
    fields["type"] = json!(kind);
    Step::Send(format!("event: {kind}\ndata: {fields}\n\n"))
}

fn stream(deployment: &str, usage: &Value, words: u64, pause: Duration, is_cut: bool) -> Script {
    let is_anthropic = deployment == "d";
    let mut steps = Vec::new();
    if is_anthropic {
        let mut first = usage.clone();
        first["output_tokens"] = json!(1);
        let message = json!({ "id": "m", "type": "message", "role": "assistant", "content": [],
            "usage": first });
        steps.push(event("message_start", json!({ "message": message })));
    }
    for _ in 0..words {
        if !pause.is_zero() {
            steps.push(Step::Pause(pause));
        }
        steps.push(if is_anthropic {
            let delta = json!({ "type": "text_delta", "text": " word" });
            event("content_block_delta", json!({ "index": 0, "delta": delta }))
        } else {
            word(" word")
        });
    }
    if is_cut {
        steps.push(Step::Cut);
    } else if is_anthropic {
        let delta = json!({ "stop_reason": "end_turn" });
        let last = json!({ "output_tokens": usage["output_tokens"] });
        steps.push(event("message_delta", json!({ "delta": delta, "usage": last })));
        steps.push(event("message_stop", json!({})));
    } else {
        steps.push(usage_and_done(usage));
    }
    Script::Events(steps)
}
