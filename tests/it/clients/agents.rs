//! What coding agents send, as it was recorded by `.ci/agents`, through the server to a mock:
//! nothing of it is lost on its way, and each call costs what it should.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use std::sync::mpsc::channel;

use serde_json::Value;

use super::folder;
use super::provider::{Provider, cost, told};
use crate::streams::rich_user;
use crate::support::{Database, Server, nanos, run};
use domain::catalogue::ProviderDialect;

const SOLD: [(&str, ProviderDialect, &[&str]); 5] = [
    ("gpt-6", ProviderDialect::OpenAi, &["well.gpt-6"]),
    ("gpt-6-mini", ProviderDialect::OpenAi, &["well.gpt-6-mini"]),
    ("claude-sonnet-5", ProviderDialect::Anthropic, &["well.claude-sonnet-5"]),
    ("claude-haiku-5", ProviderDialect::Anthropic, &["well.claude-haiku-5"]),
    ("gemini-3.8-flash", ProviderDialect::Gemini, &["well.gemini-3.8-flash"]),
];

/// Does a header go on to the provider? The others say who pays, or are of no use to it.
fn passes(name: &str) -> bool {
    let named = ["accept", "anthropic-beta", "anthropic-version", "content-type", "user-agent"];
    named.contains(&name) || name.starts_with("x-stainless-")
}

fn recorded(agent: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join(format!("agents/{agent}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn claude_code_is_served() {
    run(replayed("claude", ProviderDialect::Anthropic));
}

#[test]
fn codex_is_served() {
    run(replayed("codex", ProviderDialect::OpenAi));
}

#[test]
fn opencode_is_served() {
    run(replayed("opencode", ProviderDialect::OpenAi));
}

#[test]
fn gemini_cli_is_served() {
    run(replayed("gemini", ProviderDialect::Gemini));
}

async fn replayed(agent: &str, dialect: ProviderDialect) {
    let database = Database::sqlite();
    let provider = Provider::start().await;
    let (selling, (tell, hear)) = (provider.sells(&SOLD), channel());
    let server = Server::start_prepared(
        &database,
        |_| (),
        move |gateway| {
            gateway.models.replace(selling);
            tell.send(()).unwrap();
        },
    )
    .await;
    hear.recv().unwrap();
    let (user, key) = rich_user(&server, "someone").await;
    let mut paid = 0;
    for (place, request) in recorded(agent).iter().enumerate() {
        let path = request["path"].as_str().unwrap();
        let what = format!("{agent} {place} {path}");
        let (before, served) = (user.ledger().await.len(), provider.seen().await.len());
        let method = request["method"].as_str().unwrap().parse().unwrap();
        let mut asked = server.request(method, path);
        for header in request["headers"].as_array().unwrap() {
            let value = header[1].as_str().unwrap().replace("KEY", &key.value);
            asked = asked.header(header[0].as_str().unwrap(), &value);
        }
        if !request["body"].is_null() {
            asked = asked.body(request["body"].to_string());
        }
        let status = request["status"].as_u64().unwrap();
        let answer = asked.expect(u16::try_from(status).unwrap()).await;
        if request["method"] != "POST" {
            assert_eq!(provider.seen().await.len(), served, "{what}");
            continue;
        }
        let mut seen = provider.seen().await.split_off(served);
        assert_eq!(seen.len(), 1, "{what}");
        let mut seen = seen.remove(0);
        // The name of the model is the one thing that is changed.
        let (public, theirs) = SOLD
            .iter()
            .map(|(public, _, names)| (*public, names[0]))
            .find(|(public, _)| {
                path.contains(&format!("/{public}:")) || request["body"]["model"] == *public
            })
            .unwrap();
        assert_eq!(seen.path.replace(theirs, public), path, "{what}");
        if dialect != ProviderDialect::Gemini {
            assert_eq!(seen.body["model"], theirs, "{what}");
            seen.body["model"] = public.into();
        }
        assert_eq!(seen.body, request["body"], "{what}: the body has changed");
        for header in request["headers"].as_array().unwrap() {
            let name = header[0].as_str().unwrap().to_lowercase();
            if passes(&name) {
                let value = seen.headers.get(&name).map(String::as_str);
                assert_eq!(value, header[1].as_str(), "{what}: {name}");
            }
        }
        assert!(!seen.headers.values().any(|value| value.contains(&key.value)), "{what}");
        // An agent calls its tool, and then says what it has done.
        let is_first = place
            == recorded(agent).iter().position(|one| one["body"]["tools"].is_array()).unwrap();
        assert!(
            answer.text.contains(if is_first { "hello.txt" } else { "world" }),
            "{what}: {}",
            answer.text
        );
        let charges = user.ledger().await.split_off(before);
        let [charge] = &charges[..] else { panic!("{what}: {charges:?}") };
        assert_eq!(-nanos(&charge["amount"]), cost(told(dialect)), "{what}");
        paid += 1;
    }
    assert!(paid >= 2, "{agent}: {paid}");
}
