//! Each client in each scenario: how often it asks, what it sees, and what it pays. The table is
//! `tests/clients/scenarios.txt`; the mock behind is `tests/clients/provider.py`.
//!
//! Each client has the settings that it comes with, so how often it asks again is its own matter.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::provider::{Provider, cost, told};
use super::{folder, installed, python};
use crate::support::front::Front;
use crate::support::{Database, Server, User, nanos, run};
use domain::catalogue::ProviderDialect;

/// Tests of a client each, by the language and the name that `steps.py` and `steps.js` have for it.
/// The database has no part in it.
macro_rules! clients {
    ($($name:ident: $language:literal, $client:literal, $dialect:ident;)*) => {
        $(#[test] fn $name() {
            run(client($language, $client, ProviderDialect::$dialect));
        })*
    };
}

clients! {
    openai_chat_of_python: "python", "openai-chat", OpenAi;
    openai_responses_of_python: "python", "openai-responses", OpenAi;
    anthropic_of_python: "python", "anthropic", Anthropic;
    gemini_of_python: "python", "gemini", Gemini;
    langchain_with_openai: "python", "langchain-openai", OpenAi;
    langchain_with_anthropic: "python", "langchain-anthropic", Anthropic;
    langchain_with_gemini: "python", "langchain-gemini", Gemini;
    openai_chat_of_node: "node", "openai-chat", OpenAi;
    openai_responses_of_node: "node", "openai-responses", OpenAi;
    anthropic_of_node: "node", "anthropic", Anthropic;
    gemini_of_node: "node", "gemini", Gemini;
    ai_with_openai_chat: "node", "ai-openai-chat", OpenAi;
    ai_with_openai_responses: "node", "ai-openai-responses", OpenAi;
    ai_with_anthropic: "node", "ai-anthropic", Anthropic;
    ai_with_gemini: "node", "ai-gemini", Gemini;
}

/// A model of its own for each scenario, with the orders that its deployments have.
const MODELS: [(&str, &[&str]); 8] = [
    ("well", &["well.a"]),
    ("limited-other", &["limited.a", "well.b"]),
    ("limited-once", &["limited-once.a"]),
    ("overloaded-other", &["overloaded.a", "well.c"]),
    ("overloaded", &["overloaded.b"]),
    ("closes", &["closes.a"]),
    ("silent", &["silent.a"]),
    ("endless", &["endless.a"]),
];

/// Who pays.
#[derive(Clone, Copy, PartialEq)]
enum Payer {
    Rich,
    /// Has nothing.
    Poor,
    /// Has enough for a part of an answer.
    Part,
}

struct Scenario {
    name: &'static str,
    model: &'static str,
    payer: Payer,
    is_stream: bool,
    has_tool: bool,
    /// A part of the message of the exception, if there is one.
    says: &'static str,
}

const fn scenario(name: &'static str, model: &'static str, says: &'static str) -> Scenario {
    Scenario { name, model, payer: Payer::Rich, is_stream: false, has_tool: false, says }
}

const SCENARIOS: [Scenario; 13] = [
    scenario("plain", "well", ""),
    Scenario { is_stream: true, ..scenario("stream", "well", "") },
    Scenario { has_tool: true, ..scenario("tool", "well", "") },
    Scenario { has_tool: true, is_stream: true, ..scenario("tool-stream", "well", "") },
    Scenario { payer: Payer::Poor, ..scenario("poor", "well", "your balance is insufficient") },
    Scenario {
        payer: Payer::Poor,
        is_stream: true,
        ..scenario("poor-stream", "well", "your balance is insufficient")
    },
    Scenario {
        payer: Payer::Part,
        is_stream: true,
        ..scenario("cut-for-money", "endless", "credits")
    },
    scenario("limited-other", "limited-other", ""),
    scenario("limited-once", "limited-once", "Everybody who serves this model is busy"),
    scenario("overloaded-other", "overloaded-other", ""),
    scenario("overloaded", "overloaded", "The upstream service failed. You were not charged"),
    scenario("lost", "closes", "It may have done the work"),
    scenario("given-up", "silent", "You were charged $"),
];

/// The process that makes the calls.
struct Steps {
    _process: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Steps {
    fn start(language: &str, url: &str) -> Self {
        let mut command = if language == "python" {
            let mut command = python();
            command.arg(folder().join("steps.py"));
            command
        } else {
            let mut command = Command::new("node");
            command.arg(folder().join("steps.js"));
            command.env("NODE_PATH", installed().join("node_modules"));
            command
        };
        // What they warn of is no result.
        command.env("PS_API_URL", url).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Steps { _process: process, input, lines }
    }

    async fn make(&mut self, step: &Value) -> Value {
        self.input.write_all(format!("{step}\n").as_bytes()).await.unwrap();
        let line = self.lines.next_line().await.unwrap();
        let line = line.expect("the client has ended; run tests/run, which installs it");
        serde_json::from_str(&line).unwrap()
    }
}

/// The server's clock goes on, so that what cools gets warm.
async fn tick(server: &Server) -> Value {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.advance(1);
    }
}

/// The tokens of a charge's bill, by dimension.
async fn billed(user: &User<'_>, charge: &str) -> Vec<(String, i64)> {
    let path = format!("/api/payments/transactions/{charge}/bill");
    let bill = user.get(&path).expect(200).await.body;
    let parts = bill["parts"].as_array().unwrap().iter();
    let parts = parts.map(|part| {
        (part["dimension"].as_str().unwrap().to_owned(), part["quantity"].as_i64().unwrap())
    });
    parts.filter(|(name, _)| name != "request").collect()
}

/// Walks a client through all scenarios.
async fn client(language: &str, client: &str, dialect: ProviderDialect) {
    let database = Database::sqlite();
    let provider = Provider::start().await;
    let models = MODELS.map(|(model, names)| (model, dialect, names));
    let (selling, (tell, hear)) = (provider.sells(&models), channel());
    let server = Server::start_prepared(
        &database,
        |settings| {
            settings.upstreams.v1.timeout_seconds = 3.try_into().unwrap();
            // So that a stream begins that is not covered to its end.
            settings.holds.lower_token_limit = false;
        },
        move |gateway| {
            gateway.models.replace(selling);
            tell.send(()).unwrap();
        },
    )
    .await;
    hear.recv().unwrap();
    let front = Front::start(server.address).await;
    let users = [server.user("rich").await, server.user("poor").await, server.user("part").await];
    users[0].pay("10.00").await;
    users[2].pay("0.0040").await;
    let keys = [users[0].key().await, users[1].key().await, users[2].key().await];
    let mut steps = Steps::start(language, &front.url());
    let mut rows = Vec::new();
    for scenario in &SCENARIOS {
        let payer = match scenario.payer {
            Payer::Rich => 0,
            Payer::Poor => 1,
            Payer::Part => 2,
        };
        let user = &users[payer];
        // What was before is long ago, for breakers, cooldowns and the budget of retries.
        server.advance(600);
        let (asked, served) = (front.requests(), provider.seen().await.len());
        let (before, balance) = (user.ledger().await.len(), user.folded().await);
        let step = json!({
            "client": client, "model": scenario.model, "key": keys[payer].value,
            "stream": scenario.is_stream, "tool": scenario.has_tool,
        });
        let saw = tokio::select! {
            saw = steps.make(&step) => saw,
            saw = tick(&server) => saw,
        };
        let (asked, served) = (front.requests() - asked, provider.seen().await.len() - served);
        let charges = user.ledger().await.split_off(before);
        let amounts: Vec<i64> = charges.iter().map(|entry| -nanos(&entry["amount"])).collect();
        let what = format!("{language} {client} {}: {saw}", scenario.name);
        let error = &saw["error"];
        let outcome = if error.is_null() {
            saw["end"].as_str().unwrap_or("-").to_owned()
        } else {
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(scenario.says), "{what}");
            let word = |name: &str| match &error[name] {
                Value::String(word) => word.clone(),
                other => other.to_string(),
            };
            [word("class"), word("status"), word("code")].join(" ")
        };
        let usual = cost(told(dialect));
        let paid = match scenario.model {
            "endless" => {
                let [amount] = amounts[..] else { panic!("{what}: {amounts:?}") };
                let bill = billed(user, charges[0]["reference"].as_str().unwrap()).await;
                let bill: Vec<_> =
                    bill.iter().map(|(name, count)| (name.as_str(), *count)).collect();
                assert_eq!(amount, cost(&bill), "{what}: {bill:?}");
                let words = saw["text"].as_str().unwrap().matches(" word").count();
                let of = bill.iter().find(|(name, _)| *name == "output").unwrap();
                assert_eq!(of.1, i64::try_from(words).unwrap(), "{what}");
                // To the last token that is covered. Each may be a thought until it has come, and
                // is held for at the price of thoughts.
                let left = user.folded().await;
                assert!((0..of.1 * 2_001 + 5 * 17_001).contains(&left), "{what}: {left} are left");
                "all that there was".to_owned()
            }
            "silent" => {
                for entry in &charges {
                    let bill = billed(user, entry["reference"].as_str().unwrap()).await;
                    let [(name, count)] = &bill[..] else { panic!("{what}: {bill:?}") };
                    assert_eq!(-nanos(&entry["amount"]), cost(&[(name, *count)]), "{what}");
                    assert_eq!(name, "input", "{what}");
                }
                format!("{} x the prompt", charges.len())
            }
            _ => {
                assert!(amounts.iter().all(|amount| *amount == usual), "{what}: {amounts:?}");
                for entry in &charges {
                    let bill = billed(user, entry["reference"].as_str().unwrap()).await;
                    let told: Vec<_> =
                        told(dialect).iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
                    assert_eq!(bill, told, "{what}");
                }
                if error.is_null() {
                    assert!(
                        saw["text"].as_str().unwrap().ends_with("Good morning, world!"),
                        "{what}"
                    );
                    let tool =
                        if scenario.has_tool { json!({ "city": "Bonn" }) } else { Value::Null };
                    assert_eq!(saw["tool"], tool, "{what}");
                }
                amounts.iter().sum::<i64>().to_string()
            }
        };
        assert_eq!(user.folded().await, balance - amounts.iter().sum::<i64>(), "{what}");
        let name = format!("{language} {client}");
        let row = format!("{name:27} {:17} {asked} {served}  {outcome}; {paid}", scenario.name);
        rows.push(row);
    }
    let table = std::fs::read_to_string(folder().join("scenarios.txt")).unwrap_or_default();
    let of_client = format!("{language} {client} ");
    let expected: Vec<&str> = table.lines().filter(|line| line.starts_with(&of_client)).collect();
    assert!(rows == expected, "the table should be, if this is right:\n{}", rows.join("\n"));
}
