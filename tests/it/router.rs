//! Models with several deployments: who is asked, what the customer sees of it, and what it costs.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use polysystems::config::Settings;
use polysystems::models::Selling;
use polysystems::pipeline::Gateway;
use serde_json::{Value, json};

use crate::streams::rich_user;
use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Answer, Database, Key, Request, Server, nanos, on_both, run};
use crate::thief::{RICH, leave_at_once};
use domain::catalogue::{
    Catalogue, CatalogueDocument, Credential, Deployment, DeploymentId, ModelProvider, ModelTarget,
    ProviderDialect, SoldModel, TargetAt,
};
use domain::ledger::Link;
use domain::routing::AttemptOutcome;
use domain::{
    Card, Dim, ListId, Multiplier, PriceBook, PriceVersion, Rates, Timestamp, UnitPrice, VersionId,
    VersionTerms,
};

on_both!(attempts_are_on_record_and_operators_see_who_is_asked);

macro_rules! on_sqlite {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test] fn $name() { super::run(super::$name(super::Database::sqlite())); })*
        }
    };
}

on_sqlite!(
    a_limit_of_a_provider_leads_to_another_deployment,
    if_all_are_busy_the_caller_is_told_how_long,
    one_of_three_that_is_dead_costs_nobody_an_answer,
    sessions_stay_where_they_are,
    a_refused_credential_is_not_used_after_three_times,
    a_prompt_that_is_too_long_goes_to_another_model_at_the_same_price,
    a_client_that_leaves_leaves_no_attempt_behind,
    nothing_is_asked_again_after_the_first_byte,
    ten_of_64_pay_exactly_over_a_fallback,
    each_provider_gets_its_own_credential_and_name_of_the_model,
    streams_have_the_public_name_and_are_otherwise_as_they_came,
    what_is_between_us_and_a_provider_is_not_told,
    work_that_was_given_up_is_paid_if_nobody_answers,
    a_private_address_is_asked_only_if_the_provider_allows_it,
);

const BASE: i64 = 2_000_000;
const TOKEN: i64 = 10_000;

/// A deployment `name` at this upstream, which calls the model `theirs-NAME`.
struct At<'u> {
    name: &'static str,
    dialect: ProviderDialect,
    upstream: &'u Upstream,
    priority: u32,
}

fn at<'u>(name: &'static str, upstream: &'u Upstream, priority: u32) -> At<'u> {
    At { name, dialect: ProviderDialect::OpenAi, upstream, priority }
}

/// A catalogue of models, each with its deployments and the models that take longer prompts. All
/// cost what their routes cost.
fn selling(models: &[(&str, &[At<'_>], &[&str])], allows_private: bool) -> Selling {
    let mut document = CatalogueDocument::default();
    let mut secrets = BTreeMap::new();
    for (model, served, on_context) in models {
        for at in *served {
            let name = |kind: &str| -> Arc<str> { format!("{kind}-{}", at.name).into() };
            document.providers.push(ModelProvider {
                name: name("provider"),
                dialect: at.dialect,
                url: Some(format!("{}/v1", at.upstream.url()).into()),
                allows_private,
                ..ModelProvider::default()
            });
            document.credentials.push(Credential {
                name: name("key"),
                provider: name("provider"),
                quota_group: None,
            });
            document.deployments.push(Deployment {
                name: at.name.into(),
                credential: name("key"),
                upstream_model: Some(name("theirs")),
                ..Deployment::default()
            });
            let secret = serde_json::from_value(json!(format!("secret-{}", at.name))).unwrap();
            secrets.insert(name("key"), secret);
        }
        let target = |at: &At<'_>| ModelTarget {
            at: TargetAt::Deployment(at.name.into()),
            weight: 1,
            priority: at.priority,
        };
        document.models.push(SoldModel {
            name: (*model).into(),
            max_input: 200_000,
            max_output: 100_000,
            tokenizer_permille: 1_000,
            targets: served.iter().map(target).collect(),
            on_context: on_context.iter().map(|name| (*name).into()).collect(),
            ..SoldModel::default()
        });
    }
    let price = |nanos| UnitPrice::from_nanos(nanos).unwrap();
    let rates = [(Dim::Request, BASE), (Dim::Input, TOKEN * 1_000_000)];
    let rates = rates.into_iter().chain([(Dim::Output, TOKEN * 1_000_000)]);
    let rates = rates.fold(Rates::NONE, |rates, (dim, nanos)| rates.with(dim, price(nanos)));
    let card = Arc::new(Card::flat(rates).unwrap());
    let terms = VersionTerms {
        id: VersionId::new(1_000).unwrap(),
        list: ListId::DEFAULT,
        parent: None,
        multiplier: Multiplier::ONE,
        effective_from: Timestamp::from_micros(0),
        cards: models.iter().map(|(name, ..)| ((*name).into(), Arc::clone(&card))).collect(),
    };
    let mut book = PriceBook::default();
    book.add(Arc::new(PriceVersion::new(terms, Link::START).unwrap())).unwrap();
    let names = document.deployment_names();
    let ids = names.into_iter().zip((1..).map(DeploymentId)).collect();
    Selling::new(Catalogue::new(1, document, &ids).unwrap(), book, secrets)
}

/// A server that sells these models, and what serves its paid calls.
async fn start(database: &Database, selling: Selling) -> (Server, Arc<Gateway>) {
    start_with(database, selling, |_| ()).await
}

async fn start_with(
    database: &Database,
    selling: Selling,
    change: impl FnOnce(&mut Settings),
) -> (Server, Arc<Gateway>) {
    let (tell, hear) = channel();
    let server = Server::start_prepared(database, change, move |gateway| {
        gateway.models.replace(selling);
        tell.send(Arc::clone(gateway)).unwrap();
    })
    .await;
    (server, hear.recv().unwrap())
}

fn completion(id: &str, words: usize) -> Script {
    let text = " word".repeat(words);
    let answer = json!({
        "id": id, "model": "theirs", "choices": [{ "message": { "content": text } }],
        "usage": { "prompt_tokens": 9, "completion_tokens": words },
    });
    Script::Answer(200, answer.to_string())
}

fn error(status: u16, code: &str, message: &str) -> Script {
    Script::Answer(status, json!({ "error": { "message": message, "code": code } }).to_string())
}

fn ask(server: &Server, key: &Key, change: &Value) -> Request {
    let mut body = json!({
        "model": "m", "max_tokens": 50, "messages": [{ "role": "user", "content": "Hello!" }],
    });
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    server.post("/v1/chat/completions", &body).key(key)
}

async fn call(server: &Server, key: &Key, status: u16) -> Answer {
    ask(server, key, &json!({})).expect(status).await
}

fn cost(answer: &Answer) -> i64 {
    answer.header("x-polysystems-cost").parse::<domain::Credits>().unwrap().nanos()
}

/// Waits until no attempt runs.
async fn quiet(gateway: &Gateway) {
    let running = || -> u32 {
        let routing = gateway.models.routing();
        (1..=9).map(|id| routing.standings.in_flight(DeploymentId(id))).sum()
    };
    for _ in 0..200 {
        if running() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} attempts are still running", running());
}

async fn a_limit_of_a_provider_leads_to_another_deployment(database: Database) {
    let limited = Script::Headed(429, "retry-after: 7\r\n", "{}".into());
    let a = Upstream::start(limited).await;
    let b = Upstream::start(completion("b", 3)).await;
    let (server, gateway) =
        start(&database, selling(&[("m", &[at("a", &a, 0), at("b", &b, 1)], &[])], true)).await;
    let (user, key) = rich_user(&server, "someone").await;
    let first = call(&server, &key, 200).await;
    assert_eq!(first.header("x-polysystems-attempts"), "2");
    assert_eq!((cost(&first), &first.body["id"]), (BASE + 12 * TOKEN, &json!("b")));
    server.advance(6);
    for _ in 0..20 {
        assert_eq!(call(&server, &key, 200).await.header("x-polysystems-attempts"), "1");
    }
    assert_eq!((a.calls(), b.calls()), (1, 21), "a cooling deployment was asked");
    server.advance(1);
    a.script(completion("a", 3));
    assert_eq!(call(&server, &key, 200).await.body["id"], "a");
    assert_eq!(user.folded().await, RICH - 22 * (BASE + 12 * TOKEN));
    quiet(&gateway).await;
}

async fn if_all_are_busy_the_caller_is_told_how_long(database: Database) {
    let a = Upstream::start(Script::Headed(429, "retry-after: 30\r\n", "{}".into())).await;
    let b = Upstream::start(Script::Headed(429, "retry-after-ms: 2500\r\n", "{}".into())).await;
    let c = Upstream::start(Script::Headed(429, "retry-after: 9\r\n", "{}".into())).await;
    let anthropic = At { dialect: ProviderDialect::Anthropic, ..at("c", &c, 0) };
    let (server, _) = start(
        &database,
        selling(
            &[("m", &[at("a", &a, 0), at("b", &b, 1)], &[]), ("claude", &[anthropic], &[])],
            true,
        ),
    )
    .await;
    let (user, key) = rich_user(&server, "someone").await;
    for _ in 0..3 {
        let refused = call(&server, &key, 429).await;
        assert_eq!(refused.header("retry-after"), "3", "the soonest, rounded up");
        assert_eq!(refused.body["error"]["code"], "upstream_busy");
        assert!(!refused.headers.contains_key("x-should-retry"));
    }
    assert_eq!((a.calls(), b.calls()), (1, 1), "nobody is asked while all cool");
    let body = json!({
        "model": "claude", "max_tokens": 9, "messages": [{ "role": "user", "content": "Hi" }],
    });
    let refused = server.post("/v1/messages", &body).key(&key).expect(429).await;
    assert_eq!(refused.body["error"]["type"], "rate_limit_error");
    assert_eq!(refused.header("retry-after"), "9");
    assert_eq!(user.folded().await, RICH, "nothing is charged");
    // What is soon is waited for, once.
    b.script(completion("b", 3));
    server.advance(2);
    let begun = std::time::Instant::now();
    let answered = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.advance(1);
    };
    let (answer, ()) = tokio::join!(call(&server, &key, 200), answered);
    assert_eq!(answer.body["id"], "b");
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
}

async fn one_of_three_that_is_dead_costs_nobody_an_answer(database: Database) {
    let mut upstreams = Vec::new();
    for name in ["a", "b", "c"] {
        upstreams.push(Upstream::start(completion(name, 3)).await);
    }
    let [a, b, c] = &upstreams[..] else { panic!("three") };
    let served = [at("a", a, 0), at("b", b, 0), at("c", c, 0)];
    let (server, gateway) = start(&database, selling(&[("m", &served, &[])], true)).await;
    let (_, key) = rich_user(&server, "someone").await;
    let calls = async |count: usize| {
        let asked = stream::iter(0..count).map(|_| call(&server, &key, 200)).buffer_unordered(8);
        asked.collect::<Vec<_>>().await.len()
    };
    let before = calls(200).await;
    assert!(upstreams.iter().all(|upstream| upstream.calls() > 20), "all are asked");
    b.script(Script::Answer(503, "{}".into()));
    let all = before + calls(300).await;
    let asked: usize = upstreams.iter().map(Upstream::calls).sum();
    assert!(asked * 10 <= all * 11 + 30, "{asked} for {all} calls");
    // Its breaker is open: it is not asked any more.
    let dead = b.calls();
    calls(50).await;
    assert_eq!(b.calls(), dead);
    quiet(&gateway).await;
}

async fn sessions_stay_where_they_are(database: Database) {
    let mut upstreams = Vec::new();
    for name in ["a", "b", "c"] {
        upstreams.push(Upstream::start(completion(name, 1)).await);
    }
    let [a, b, c] = &upstreams[..] else { panic!("three") };
    let all = [at("a", a, 0), at("b", b, 0), at("c", c, 0)];
    let (server, gateway) = start(&database, selling(&[("m", &all, &[])], true)).await;
    let (_, key) = rich_user(&server, "someone").await;
    let turn = async |session: usize| {
        let request = ask(&server, &key, &json!({}));
        let request = request.header("x-session-affinity", &session.to_string());
        request.expect(200).await.body["id"].as_str().unwrap().to_owned()
    };
    let mut homes = Vec::new();
    for session in 0..100 {
        homes.push(turn(session).await);
    }
    assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 3, "{homes:?}");
    let mut moved = 0;
    for _ in 0..4 {
        let turns = stream::iter(0..100).map(async |session| (session, turn(session).await));
        let turns: Vec<_> = turns.buffer_unordered(8).collect().await;
        moved += turns.iter().filter(|(session, home)| homes[*session] != *home).count();
    }
    assert!(moved <= 4, "{moved} of 400 turns left their deployment");
    // One is removed: only its sessions move. Numbers of deployments stay.
    let fewer = [at("a", a, 0), at("b", b, 0)];
    gateway.models.replace(selling(&[("m", &fewer, &[])], true));
    for (session, home) in homes.iter().enumerate() {
        let now = turn(session).await;
        assert!(home == "c" || now == *home, "{session} moved from {home} to {now}");
    }
}

async fn a_refused_credential_is_not_used_after_three_times(database: Database) {
    let a = Upstream::start(error(401, "invalid_api_key", "Incorrect API key: secret-a")).await;
    let b = Upstream::start(completion("b", 3)).await;
    let (server, _) =
        start(&database, selling(&[("m", &[at("a", &a, 0), at("b", &b, 1)], &[])], true)).await;
    let (_, key) = rich_user(&server, "someone").await;
    for attempts in ["2", "2", "2", "1", "1"] {
        assert_eq!(call(&server, &key, 200).await.header("x-polysystems-attempts"), attempts);
    }
    assert_eq!(a.calls(), 3);
}

async fn a_prompt_that_is_too_long_goes_to_another_model_at_the_same_price(database: Database) {
    let small = Upstream::start(error(400, "context_length_exceeded", "It is too long")).await;
    let large = Upstream::start(completion("large", 3)).await;
    let models: [(&str, &[At<'_>], &[&str]); 2] =
        [("m", &[at("small", &small, 0)], &["long"]), ("long", &[at("large", &large, 0)], &[])];
    let (server, _) = start(&database, selling(&models, true)).await;
    let (user, key) = rich_user(&server, "someone").await;
    let answer = call(&server, &key, 200).await;
    assert_eq!((cost(&answer), &answer.body["model"]), (BASE + 12 * TOKEN, &json!("m")));
    assert_eq!(answer.header("x-polysystems-attempts"), "2");
    assert_eq!(large.last_body()["model"], "theirs-large");
    // Any other error of the request is the caller's. A text of the request proves nothing.
    for said in ["temperature: must be at most 2", "Invalid value: 'prompt is too long'"] {
        small.script(error(400, "invalid", said));
        let refused = call(&server, &key, 400).await;
        assert_eq!(refused.body["error"]["message"], said);
    }
    assert_eq!(large.calls(), 1);
    // If nobody takes it, the caller is told.
    for upstream in [&small, &large] {
        upstream.script(error(400, "context_length_exceeded", "theirs-large: too long"));
    }
    let refused = call(&server, &key, 400).await;
    assert_eq!(refused.body["error"]["code"], "context_length_exceeded");
    assert_eq!(user.folded().await, RICH - BASE - 12 * TOKEN);
}

async fn a_client_that_leaves_leaves_no_attempt_behind(database: Database) {
    let a = Upstream::start(Script::Silent).await;
    let (server, gateway) = start(&database, selling(&[("m", &[at("a", &a, 0)], &[])], true)).await;
    let (_, key) = rich_user(&server, "someone").await;
    for _ in 0..3 {
        leave_at_once(&a, ask(&server, &key, &json!({ "stream": true }))).await;
        quiet(&gateway).await;
    }
    let routing = gateway.models.routing();
    let count = routing.counts[&DeploymentId(1)].of(AttemptOutcome::Dropped);
    assert_eq!(count, 3, "they say nothing of the deployment");
}

async fn nothing_is_asked_again_after_the_first_byte(database: Database) {
    let a = Upstream::start(Script::Events(vec![word(" word"), Step::Cut])).await;
    let b = Upstream::start(completion("b", 3)).await;
    let (server, gateway) =
        start(&database, selling(&[("m", &[at("a", &a, 0), at("b", &b, 1)], &[])], true)).await;
    let (_, key) = rich_user(&server, "someone").await;
    let mut stream = ask(&server, &key, &json!({ "stream": true })).stream().await;
    let events = stream.rest().await;
    let text = serde_json::to_string(&events).unwrap();
    assert!(text.contains(" word") && text.contains("upstream_error"), "{text}");
    assert_eq!((a.calls(), b.calls()), (1, 0));
    quiet(&gateway).await;
    // A stream counts as running until it has ended.
    let usage = usage_and_done(&json!({ "prompt_tokens": 9, "completion_tokens": 1 }));
    let steps = vec![word(" word"), Step::Pause(Duration::from_millis(300)), usage];
    a.script(Script::Events(steps));
    let mut stream = ask(&server, &key, &json!({ "stream": true })).stream().await;
    stream.next().await.unwrap();
    assert_eq!(gateway.models.routing().standings.in_flight(DeploymentId(1)), 1);
    stream.rest().await;
    quiet(&gateway).await;
}

async fn ten_of_64_pay_exactly_over_a_fallback(database: Database) {
    let a = Upstream::start(completion("a", 1)).await;
    // All of it takes a while, so that all are charged at once; and each costs all that is held.
    let answer = json!({
        "id": "b", "choices": [{ "message": { "content": "" } }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 50 },
    });
    let b = Upstream::start(Script::Slow(Duration::from_millis(500), answer.to_string())).await;
    let (server, gateway) =
        start(&database, selling(&[("m", &[at("a", &a, 0), at("b", &b, 1)], &[])], true)).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    user.pay("1").await;
    // So many may be tried again as a tenth of these, and three more.
    for _ in 0..100 {
        call(&server, &key, 200).await;
    }
    a.script(Script::Headed(429, "retry-after: 60\r\n", "{}".into()));
    let held = ask(&server, &key, &json!({})).header("x-dry-run", "true").expect(200).await;
    let held = nanos(&held.body["hold"]);
    let before = user.folded().await;
    // What is there pays for ten that are held at once.
    let limited = user.key().await;
    let limit = domain::Credits::from_nanos(10 * held);
    let limits = format!("{{\"daily_limit\": {limit}}}");
    let path = format!("/api/keys/{}/limits", limited.id);
    let set = server.request(reqwest::Method::PUT, &path).body(limits).bearer(&user.token);
    set.expect(200).await;
    let answers = join_all((0..64).map(|_| ask(&server, &limited, &json!({})).send())).await;
    let served: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
    let refused = answers.iter().filter(|answer| answer.status == 402).count();
    assert_eq!((served.len(), refused), (10, 54));
    let paid: i64 = served.iter().map(|answer| cost(answer)).sum();
    assert_eq!(user.folded().await, before - paid);
    assert_eq!(paid, 10 * (BASE + 59 * TOKEN));
    assert!(a.calls() > 100, "nobody has tried another deployment");
    quiet(&gateway).await;
}

/// The value of a header of the last request.
fn header(upstream: &Upstream, name: &str) -> Option<String> {
    let heads = upstream.heads.lock().unwrap();
    let last = heads.last().unwrap();
    last.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
}

async fn each_provider_gets_its_own_credential_and_name_of_the_model(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let of = |name, dialect| At { dialect, ..at(name, &upstream, 0) };
    let models: [(&str, &[At<'_>], &[&str]); 3] = [
        ("gpt/public", &[of("open", ProviderDialect::OpenAi)], &[]),
        ("azure", &[of("azure", ProviderDialect::Azure)], &[]),
        ("claude", &[of("anthropic", ProviderDialect::Anthropic)], &[]),
    ];
    let (server, _) = start(&database, selling(&models, true)).await;
    let (user, key) = rich_user(&server, "someone").await;
    for (path, model, name, header_name, value) in [
        ("/v1/chat/completions", "gpt/public", "open", "authorization", "bearer secret-open"),
        ("/v1/responses", "gpt/public", "open", "authorization", "bearer secret-open"),
        ("/v1/chat/completions", "azure", "azure", "api-key", "secret-azure"),
        ("/v1/messages", "claude", "anthropic", "x-api-key", "secret-anthropic"),
    ] {
        // Not as we would write it.
        let limit = if path == "/v1/responses" { "max_output_tokens" } else { "max_tokens" };
        let prompt = if path == "/v1/responses" { "input" } else { "messages" };
        let body = format!(
            "{{ \"temperature\":0.50, \"mod\\u0065l\" : \"{model}\",\"{limit}\":50 ,\n \
             \"{prompt}\":[{{\"role\":\"user\",\"content\":\"\\\"model\\\":\\\"{model}\\\" \\u00fc ü\"}}]}}"
        );
        let answer = format!(
            "{{\"id\":\"x\" , \"model\" :\"theirs-{name}-2026\",\"content\":[{{\"type\":\"text\",\"text\":\"é\"}}],\
             \"choices\":[{{\"message\":{{\"content\":\"a\",\"model\":\"theirs-{name}\"}}}}],\"output\":[],\
             \"usage\":{{\"input_tokens\":9,\"output_tokens\":1.0,\"prompt_tokens\":9,\"completion_tokens\":1}}}}"
        );
        let answer = answer.replace("1.0", "1");
        upstream.script(Script::Answer(200, answer.clone()));
        let got = server
            .post(path, &json!(null))
            .body(body.clone())
            .header("x-api-key", &key.value)
            .expect(200)
            .await;
        let sent = upstream.texts.lock().unwrap().last().unwrap().clone();
        let named = |name: &str| format!(" : \"{name}\"");
        assert_eq!(sent, body.replace(&named(model), &named(&format!("theirs-{name}"))), "{path}");
        let expected = answer.replace(&format!("theirs-{name}-2026"), model);
        assert_eq!(got.text, expected, "{path}");
        assert_eq!(header(&upstream, header_name).as_deref(), Some(value), "{path}");
        let heads = upstream.heads.lock().unwrap().last().unwrap().clone();
        assert!(!heads.contains(&key.value.to_lowercase()), "{heads}");
        let others = ["authorization", "api-key", "x-api-key", "x-goog-api-key"];
        for other in others.iter().filter(|other| **other != header_name) {
            assert_eq!(header(&upstream, other), None, "{path}");
        }
        assert!(heads.starts_with(&format!("post {path} ")), "{heads}");
        let version = header(&upstream, "anthropic-version");
        assert_eq!(version.is_some(), path == "/v1/messages", "{version:?}");
        assert_eq!(got.header("x-polysystems-upstream"), "v1");
        assert_eq!(got.header("x-polysystems-attempts"), "1");
        assert!(!got.headers.contains_key("x-polysystems-deployment"));
        for (name, value) in &got.headers {
            assert!(!value.to_str().unwrap().contains("theirs"), "{name}");
        }
    }
    // Nor does what the customer reads of the calls name a deployment.
    let calls = user.get("/api/monitoring/requests").expect(200).await.body;
    assert!(calls["requests"].as_array().unwrap().iter().all(|call| call["upstream"] == "v1"));
    let usage = user.get("/api/monitoring/usage?group_by=upstream").expect(200).await.body;
    assert_eq!(usage["groups"].as_array().unwrap().len(), 1, "{usage}");
    assert_eq!(
        (&usage["groups"][0]["group"], &usage["groups"][0]["calls"]),
        (&json!("v1"), &json!(4))
    );
    let probed = user.get("/api/monitoring/requests?upstream=open").expect(200).await.body;
    assert_eq!(probed["requests"], json!([]));
    // What a customer names instead stays.
    let body = json!({
        "model": "claude", "max_tokens": 9, "messages": [{ "role": "user", "content": "Hi" }],
    });
    let request = server.post("/v1/messages", &body).key(&key);
    request.header("anthropic-version", "2026-10-21").expect(200).await;
    assert_eq!(header(&upstream, "anthropic-version").as_deref(), Some("2026-10-21"));
}

async fn streams_have_the_public_name_and_are_otherwise_as_they_came(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let of = |name, dialect| At { dialect, ..at(name, &upstream, 0) };
    let models: [(&str, &[At<'_>], &[&str]); 2] = [
        ("gpt", &[of("open", ProviderDialect::OpenAi)], &[]),
        ("claude", &[of("anthropic", ProviderDialect::Anthropic)], &[]),
    ];
    let (server, _) = start(&database, selling(&models, true)).await;
    let (_, key) = rich_user(&server, "someone").await;
    let chat = [
        "data: {\"id\":\"c\", \"model\":\"theirs\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" ü\"}}]}\n\n",
        ": a comment with model\n\n",
        "data: {\"id\":\"c\",\"model\" : \"theirs\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\\"model\\\":\\\"theirs\\\"\"},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
    ];
    let responses = [
        "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"r\",\"model\": \"theirs\"}}\n\n",
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\" word\"}\n\n",
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":2,\"response\":{\"id\":\"r\",\"model\": \"theirs\",\"usage\":{\"input_tokens\":9,\"output_tokens\":3}}}\n\n",
    ];
    let messages = [
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\": \"theirs\",\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" word\"}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ];
    for (path, model, frames, passed) in [
        ("/v1/chat/completions", "gpt", &chat[..], 3),
        ("/v1/responses", "gpt", &responses[..], 2),
        ("/v1/messages", "claude", &messages[..], 3),
    ] {
        let all = frames.concat();
        let renamed = |text: &str| {
            let text = text.replace("\"model\":\"theirs\"", "\"model\":\"PUBLIC\"");
            let text = text.replace("\"model\" : \"theirs\"", "\"model\" : \"PUBLIC\"");
            text.replace("\"model\": \"theirs\"", "\"model\": \"PUBLIC\"").replace("PUBLIC", model)
        };
        // It does not matter how the bytes come.
        for size in [1, 7, 64, all.len()] {
            let pieces = all.as_bytes().chunks(size).map(|piece| Step::Bytes(piece.to_vec()));
            upstream.script(Script::Events(pieces.collect()));
            let limit = if path == "/v1/responses" { "max_output_tokens" } else { "max_tokens" };
            let prompt = if path == "/v1/responses" { "input" } else { "messages" };
            let content = json!([{ "role": "user", "content": "Hello!" }]);
            let body = json!({ "model": model, limit: 50, prompt: content, "stream": true });
            let got = server.post(path, &body).key(&key).expect(200).await;
            for frame in &frames[..passed] {
                assert!(got.text.contains(&renamed(frame)), "{path} {size}: {}", got.text);
            }
            assert!(!got.text.contains("\"theirs\""), "{path} {size}: {}", got.text);
            let name = if model == "gpt" { "open" } else { "anthropic" };
            assert_eq!(upstream.last_body()["model"], format!("theirs-{name}"));
        }
    }
}

async fn what_is_between_us_and_a_provider_is_not_told(database: Database) {
    let a = Upstream::start(Script::Silent).await;
    let (server, gateway) = start(&database, selling(&[("m", &[at("a", &a, 0)], &[])], true)).await;
    let (user, key) = rich_user(&server, "someone").await;
    for script in [
        error(401, "invalid_api_key", "Incorrect API key provided: secret-a of org-1234567890"),
        error(429, "insufficient_quota", "You exceeded your quota, secret-a"),
        error(400, "x", "Your credit balance is too low, secret-a"),
        error(402, "x", "secret-a"),
        error(404, "model_not_found", "secret-a"),
        Script::Answer(500, "secret-a".into()),
    ] {
        a.script(script);
        let selling = gateway.models.selling();
        let by = Arc::clone(selling.catalogue.deployment(DeploymentId(1)).unwrap());
        gateway.models.routing().standings.reset(&by);
        let refused = call(&server, &key, 502).await;
        assert!(!refused.text.contains("secret-a"), "{}", refused.text);
        assert!(!refused.text.contains("quota"), "{}", refused.text);
    }
    // Off, it is not asked, and nobody serves the model.
    a.script(error(402, "x", ""));
    let by = Arc::clone(gateway.models.selling().catalogue.deployment(DeploymentId(1)).unwrap());
    gateway.models.routing().standings.reset(&by);
    call(&server, &key, 502).await;
    let calls = a.calls();
    let refused = call(&server, &key, 503).await;
    assert_eq!(refused.body["outcome"], "not-attempted");
    assert_eq!(a.calls(), calls);
    // A refusal of the request names the public model.
    gateway.models.routing().standings.reset(&by);
    a.script(error(400, "x", "theirs-a does not take this"));
    let refused = call(&server, &key, 400).await;
    assert_eq!(refused.body["error"]["message"], "m does not take this");
    assert_eq!(user.folded().await, RICH);
}

async fn work_that_was_given_up_is_paid_if_nobody_answers(database: Database) {
    let a = Upstream::start(Script::Silent).await;
    let b = Upstream::start(completion("b", 3)).await;
    let sold = selling(&[("m", &[at("a", &a, 0), at("b", &b, 1)], &[])], true);
    let change = |settings: &mut Settings| {
        settings.upstreams.v1.timeout_seconds = 1.try_into().unwrap();
    };
    let (server, gateway) = start_with(&database, sold, change).await;
    let (user, key) = rich_user(&server, "someone").await;
    // Who answers is paid, once.
    let answer = call(&server, &key, 200).await;
    assert_eq!((cost(&answer), &answer.body["id"]), (BASE + 12 * TOKEN, &json!("b")));
    let mut left = RICH - BASE - 12 * TOKEN;
    // A refusal costs nothing, and would leave the work of the first one unpaid.
    b.script(error(400, "x", "no"));
    let refused = call(&server, &key, 424).await;
    assert_eq!(refused.body["error"]["code"], "upstream_given_up");
    left -= BASE + 9 * TOKEN;
    assert_eq!(user.folded().await, left);
    // No longer than two attempts.
    b.script(Script::Silent);
    let begun = std::time::Instant::now();
    call(&server, &key, 424).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    quiet(&gateway).await;
}

async fn a_private_address_is_asked_only_if_the_provider_allows_it(database: Database) {
    let a = Upstream::start(completion("a", 3)).await;
    let sold = |allows| selling(&[("m", &[at("a", &a, 0)], &[])], allows);
    let (server, gateway) = start(&database, sold(false)).await;
    let (_, key) = rich_user(&server, "someone").await;
    call(&server, &key, 502).await;
    assert_eq!(a.calls(), 0);
    gateway.models.replace(sold(true));
    call(&server, &key, 200).await;
    gateway.models.replace(sold(false));
    call(&server, &key, 502).await;
    assert_eq!(a.calls(), 1, "nor over a connection that is kept");
}

async fn attempts_are_on_record_and_operators_see_who_is_asked(database: Database) {
    let a = Upstream::start(error(402, "x", "no money")).await;
    let b = Upstream::start(completion("b", 3)).await;
    let (server, _gateway) =
        start(&database, selling(&[("m", &[at("a/eu", &a, 0), at("b", &b, 1)], &[])], true)).await;
    let (user, key) = rich_user(&server, "someone").await;
    let operator = server.operator(&database, "operator").await;
    let answer = call(&server, &key, 200).await;
    // A call that is answered at once is not recorded.
    call(&server, &key, 200).await;
    let mut attempts = Vec::new();
    for _ in 0..100 {
        let page = operator.get("/api/admin/attempts").expect(200).await.body;
        attempts = page["attempts"].as_array().unwrap().clone();
        if !attempts.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen: Vec<_> = attempts
        .iter()
        .map(|one| json!([one["n"], one["deployment"], one["status"], one["outcome"]]))
        .collect();
    assert_eq!(seen, [json!([2, "b", 200, "answered"]), json!([1, "a/eu", 402, "out_of_money"])]);
    let request = answer.header("x-polysystems-charge");
    assert!(attempts.iter().all(|attempt| attempt["request_id"] == request));
    for (query, count) in [
        (format!("request_id={request}"), 2),
        ("deployment=a/eu".to_owned(), 1),
        ("outcome=answered".to_owned(), 1),
        ("outcome=broken".to_owned(), 0),
        ("from=2024-01-15T12:00:01Z".to_owned(), 0),
        ("to=2024-01-15T12:00:01Z&limit=1".to_owned(), 1),
    ] {
        let page = operator.get(&format!("/api/admin/attempts?{query}")).expect(200).await.body;
        assert_eq!(page["attempts"].as_array().unwrap().len(), count, "{query}");
    }
    operator.get("/api/admin/attempts?outcome=x").expect(400).await;
    operator.get("/api/admin/attempts?deployment=x").expect(404).await;
    // Its credential is off.
    let health = operator.get("/api/admin/deployments/health").expect(200).await.body;
    let [first, second] = &health["deployments"].as_array().unwrap()[..] else { panic!("two") };
    assert_eq!((&first["deployment"], &first["is_credential_off"]), (&json!("a/eu"), &json!(true)));
    assert_eq!((&second["breaker"], &second["in_flight"]), (&json!("closed"), &json!(0)));
    assert_eq!(
        (&second["attempts"]["answered"], second["first_byte_ms"].is_null()),
        (&json!(2), false)
    );
    assert!(!health.to_string().contains("secret"));
    let plan = json!({ "model": "m", "dialect": "openai", "session": "s", "user": user.id });
    let planned = operator.post("/api/admin/routing/plan", &plan).expect(200).await.body;
    let order: Vec<_> = planned["order"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| json!([one["deployment"], one["upstream_model"], one["excluded"]]))
        .collect();
    let expected = [json!(["a/eu", "theirs-a/eu", "credential"]), json!(["b", "theirs-b", null])];
    assert_eq!(order, expected);
    operator.post("/api/admin/routing/plan", &json!({ "model": "x" })).expect(404).await;
    let other = json!({ "model": "m", "dialect": "anthropic" });
    let planned = operator.post("/api/admin/routing/plan", &other).expect(200).await.body;
    assert_eq!(planned["order"][1]["excluded"], "dialect");
    // A test asks it all the same. It is used again when it answers.
    let test = |name: &str| format!("/api/admin/deployments/{name}/test");
    let tested = operator.post(&test("a%2Feu"), &json!({})).expect(200).await.body;
    assert_eq!((&tested["outcome"], &tested["status"]), (&json!("out_of_money"), &json!(402)));
    call(&server, &key, 200).await;
    assert_eq!(a.calls(), 2);
    a.script(completion("a", 3));
    let tested = operator.post(&test("a%2Feu"), &json!({})).expect(200).await.body;
    assert_eq!(tested["outcome"], "answered");
    assert_eq!(a.last_body()["max_tokens"], 1);
    assert_eq!(call(&server, &key, 200).await.body["id"], "a");
    a.script(error(402, "x", "no money"));
    call(&server, &key, 200).await;
    a.script(completion("a", 3));
    assert_eq!(call(&server, &key, 200).await.body["id"], "b");
    operator.post("/api/admin/deployments/a%2Feu/reset", &json!({})).expect(200).await;
    assert_eq!(call(&server, &key, 200).await.body["id"], "a");
    operator.post("/api/admin/deployments/x/reset", &json!({})).expect(404).await;
    let acts = operator.get("/api/admin/audit-log?limit=5").expect(200).await.body.to_string();
    assert!(acts.contains("deployment.reset") && acts.contains("deployment.tested"), "{acts}");
    user.get("/api/admin/deployments/health").expect(403).await;
}
