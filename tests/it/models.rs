//! Calls that are priced by the card of their model, whatever protocol they speak: what is taken is
//! the usage times the card, to the nano-dollar, and its bill can be computed again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use polysystems::config::Settings;
use polysystems::models::Selling;
use serde_json::{Value, json};

use crate::streams::rich_user;
use crate::support::process::verify;
use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Database, Events, Key, Server, User, nanos, on_both};
use crate::thief::{RICH, leave_after, settled};
use domain::catalogue::{
    Catalogue, CatalogueDocument, Credential, DeploymentId, ModelProvider, ModelTarget,
    ProviderDialect, SoldModel, TargetAt,
};
use domain::price_book::{ListId, PriceBook, PriceVersion, VersionTerms};
use domain::{
    Bill, Card, CardRow, Dim, Flags, Link, Multiplier, Rates, Service, Timestamp, VersionId,
};

on_both!(
    whole_answers_cost_their_parts,
    streams_cost_their_parts,
    who_leaves_pays_for_a_cached_prompt_what_it_costs,
    what_is_not_sold_is_refused_before_anything_is_held,
    the_upstream_is_told_a_limit_only_if_the_balance_asks_for_one,
    ten_of_sixty_four_calls_get_exactly_the_money,
    a_dry_run_says_what_prices_the_call,
);

/// The number of the price version with the cards of the models.
const VERSION: u32 = 70;
/// Nano-dollars of a token at one dollar for a million.
const DOLLAR: i64 = 1_000;

pub(crate) fn row(service: Service, over: u64, prices: &[(Dim, &str)]) -> CardRow {
    let with = |rates: Rates, (dim, price): &(Dim, &str)| rates.with(*dim, price.parse().unwrap());
    CardRow { service, over, rates: prices.iter().fold(Rates::NONE, with) }
}

fn cards() -> Vec<(Arc<str>, Arc<Card>)> {
    let (input, output, read) = (Dim::Input, Dim::Output, Dim::CacheRead);
    let (write, hour) = (Dim::CacheWrite, Dim::CacheWrite1h);
    let chat = [
        row(
            Service::Standard,
            0,
            &[
                (input, "2"),
                (output, "8"),
                (read, "0.5"),
                (Dim::Reasoning, "10"),
                (Dim::Request, "0.001"),
            ],
        ),
        row(Service::Flex, 0, &[(input, "1"), (output, "4"), (read, "0.25")]),
    ];
    let long = [(input, "6"), (output, "22.5"), (read, "0.6"), (write, "7.5"), (hour, "12")];
    let claude = [
        row(
            Service::Standard,
            0,
            &[(input, "3"), (output, "15"), (read, "0.3"), (write, "3.75"), (hour, "6")],
        ),
        row(Service::Standard, 200_000, &long),
    ];
    let embed = [row(Service::Standard, 0, &[(input, "0.02")])];
    let named = [
        ("chat-large", chat.to_vec()),
        ("claude-large", claude.to_vec()),
        ("embed-small", embed.to_vec()),
        ("retired", embed.to_vec()),
    ];
    let own = named.map(|(name, rows)| (name.into(), Arc::new(Card::new(rows).unwrap())));
    own.into_iter().chain(crate::model_prices::cards()).collect()
}

fn version(cards: Vec<(Arc<str>, Arc<Card>)>) -> PriceVersion {
    let terms = VersionTerms {
        id: VersionId::new(VERSION).unwrap(),
        list: ListId::DEFAULT,
        parent: None,
        multiplier: Multiplier::ONE,
        effective_from: Timestamp::from_micros(0),
        cards,
    };
    PriceVersion::new(terms, Link::START).unwrap()
}

fn book_of(cards: Vec<(Arc<str>, Arc<Card>)>) -> PriceBook {
    let mut book = PriceBook::default();
    book.add(Arc::new(version(cards))).unwrap();
    book
}

pub(crate) fn book() -> PriceBook {
    book_of(cards())
}

/// The models, served by this upstream.
pub(crate) fn catalogue(url: &str) -> Catalogue {
    let provider = |name: &str, dialect| ModelProvider {
        name: name.into(),
        dialect,
        url: Some(format!("{url}/v1").into()),
        allows_private: true,
        ..ModelProvider::default()
    };
    let credential = |name: &str| Credential {
        name: name.into(),
        provider: name.into(),
        ..Credential::default()
    };
    let model = |name: &str, at: &str| SoldModel {
        name: name.into(),
        max_input: 400_000,
        max_output: 20_000,
        tokenizer_permille: 1_000,
        image_tokens_max: Some(1_500),
        targets: vec![ModelTarget { at: TargetAt::Credential(at.into()), weight: 1, priority: 0 }],
        ..SoldModel::default()
    };
    let document = CatalogueDocument {
        providers: vec![
            provider("o", ProviderDialect::OpenAi),
            provider("a", ProviderDialect::Anthropic),
            provider("g", ProviderDialect::Gemini),
        ],
        credentials: vec![credential("o"), credential("a"), credential("g")],
        models: [
            SoldModel { aliases: vec!["chat".into()], ..model("chat-large", "o") },
            model("claude-large", "a"),
            model("embed-small", "o"),
            model("unpriced", "o"),
            SoldModel {
                retires_at: Some(Timestamp::from_micros(1)),
                successor: Some("chat-large".into()),
                ..model("retired", "o")
            },
            SoldModel { max_input: 3, ..model("retired-window", "o") },
        ]
        .into_iter()
        .chain(crate::model_prices::models())
        .collect(),
        ..CatalogueDocument::default()
    };
    let ids = document.deployment_names().into_iter().zip((1..).map(DeploymentId)).collect();
    Catalogue::new(1, document, &ids).unwrap()
}

/// A server that sells the models, with their prices on record.
pub(crate) async fn selling(database: &Database, upstream: &Upstream) -> Server {
    let (url, sold) = (upstream.url(), catalogue(&upstream.url()));
    let change = |settings: &mut Settings| {
        settings.upstreams.v1.url = Some(url);
        settings.holds.visible_models = Vec::new();
    };
    sell(database, cards(), sold, change).await
}

/// A server that sells these models by these cards, with their prices on record.
pub(crate) async fn sell(
    database: &Database,
    cards: Vec<(Arc<str>, Arc<Card>)>,
    sold: Catalogue,
    change: impl FnOnce(&mut Settings),
) -> Server {
    let server = Server::start(database).await;
    let version = version(cards.clone());
    let bytes = |bytes: &[u8]| {
        let digits = hex::encode(bytes);
        if database.is_postgres() {
            format!("'\\x{digits}'::BYTEA")
        } else {
            format!("X'{digits}'")
        }
    };
    let insert = format!(
        "INSERT INTO price_version (id, list, parent, multiplier, effective_from, document, digest, link)
        VALUES ({VERSION}, 2, NULL, 1000000, 0, '{}', {}, {})",
        version.document(),
        bytes(&version.digest()),
        bytes(&version.link().0)
    );
    database.execute(&insert).await.unwrap();
    // The next one sees that the price lists are as it has found them, and keeps what it is given.
    server.stop();
    Server::start_prepared(database, change, move |gateway| {
        gateway.models.replace(Selling::new(sold, book_of(cards), [].into()));
    })
    .await
}

/// The bill of the last charge.
async fn last_bill(database: &Database, user: &User<'_>) -> Bill {
    user.get("/api/payments/transactions").expect(200).await;
    let digits = if database.is_postgres() { "ENCODE(bill, 'hex')" } else { "LOWER(HEX(bill))" };
    let sql = format!(
        "SELECT {digits} FROM ledger_entry WHERE bill IS NOT NULL ORDER BY seq DESC LIMIT 1"
    );
    Bill::read(&hex::decode(database.query(&sql).await).unwrap()).unwrap()
}

/// What was taken is what the bill costs, and the bill is of these parts.
pub(crate) async fn is_billed(
    database: &Database,
    user: &User<'_>,
    parts: &[(Dim, u64)],
    flags: Flags,
    taken: i64,
) {
    let bill = last_bill(database, user).await;
    assert_eq!(bill.quantities, parts.iter().copied().chain([(Dim::Request, 1)]).collect());
    assert_eq!((bill.version.number(), bill.flags), (VERSION, flags));
    assert_eq!(bill.cost(&book()).unwrap().nanos(), taken, "{bill:?}");
}

#[expect(clippy::too_many_lines, reason = "a table of answers")]
async fn whole_answers_cost_their_parts(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let hello = json!([{ "role": "user", "content": "Hello!" }]);
    let chat = json!({
        "prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500,
        "prompt_tokens_details": { "cached_tokens": 600 },
        "completion_tokens_details": { "reasoning_tokens": 300 },
    });
    let responses = json!({
        "input_tokens": 1_000, "output_tokens": 500, "total_tokens": 1_500,
        "input_tokens_details": { "cached_tokens": 600 },
        "output_tokens_details": { "reasoning_tokens": 300 },
    });
    let of_chat =
        [(Dim::Input, 400), (Dim::CacheRead, 600), (Dim::Output, 200), (Dim::Reasoning, 300)];
    let chat_cost = 1_000_000 + 800 * DOLLAR + 300 * DOLLAR + 1_600 * DOLLAR + 3_000 * DOLLAR;
    let written = json!({
        "input_tokens": 10, "output_tokens": 70, "cache_read_input_tokens": 150_000,
        "cache_creation_input_tokens": 50_000, "cache_creation": {
            "ephemeral_5m_input_tokens": 20_000, "ephemeral_1h_input_tokens": 30_000 },
    });
    let of_claude = [
        (Dim::Input, 10),
        (Dim::CacheRead, 150_000),
        (Dim::CacheWrite, 20_000),
        (Dim::CacheWrite1h, 30_000),
        (Dim::Output, 70),
    ];
    // 200,010 tokens: the row for prompts over 200,000.
    let claude_cost =
        60 * DOLLAR + 90_000 * DOLLAR + 150_000 * DOLLAR + 360_000 * DOLLAR + 1_575 * DOLLAR;
    let chat_body = json!({ "model": "chat", "messages": hello });
    let flex = json!({ "model": "chat-large", "messages": hello, "service_tier": "flex" });
    let cached = json!([{ "type": "text", "text": "Be kind.",
        "cache_control": { "type": "ephemeral", "ttl": "1h" } }]);
    let mut paid = 0;
    for (path, body, answer, parts, cost, name) in [
        (
            "/v1/chat/completions",
            chat_body.clone(),
            json!({ "choices": [{ "message": { "content": "hi" } }], "usage": chat }),
            &of_chat[..],
            chat_cost,
            "chat-large",
        ),
        // The flexible tier has no price of its own for thoughts, and none for the request.
        (
            "/v1/chat/completions",
            flex,
            json!({ "choices": [{ "message": { "content": "hi" } }], "usage": chat,
                "service_tier": "flex" }),
            &of_chat,
            400 * DOLLAR + 150 * DOLLAR + 2_000 * DOLLAR,
            "chat-large",
        ),
        (
            "/v1/responses",
            json!({ "model": "chat-large", "input": "Hello!" }),
            json!({ "output": [{ "type": "message", "content": [] }], "usage": responses }),
            &of_chat,
            chat_cost,
            "chat-large",
        ),
        (
            "/v1/messages",
            json!({ "model": "claude-large", "max_tokens": 100, "system": cached,
                "messages": hello }),
            json!({ "type": "message", "content": [{ "type": "text", "text": "hi" }],
                "usage": written }),
            &of_claude,
            claude_cost,
            "claude-large",
        ),
        (
            "/v1/embeddings",
            json!({ "model": "embed-small", "input": "Hello!" }),
            json!({ "data": [], "usage": { "prompt_tokens": 9, "total_tokens": 9 } }),
            &[(Dim::Input, 9)],
            9 * DOLLAR / 50,
            "embed-small",
        ),
    ] {
        upstream.script(Script::Answer(200, answer.to_string()));
        let answered = server.post(path, &body).key(&key).expect(200).await;
        assert_eq!(answered.header("x-polysystems-model"), name, "{path}");
        assert_eq!(answered.header("x-polysystems-price-version"), VERSION.to_string());
        assert_eq!(
            nanos(&json!(answered.header("x-polysystems-cost").parse::<f64>().unwrap())),
            cost
        );
        is_billed(&database, &user, parts, Flags::NONE, cost).await;
        paid += cost;
    }
    // A usage without parts is plain, and one that cannot be true is cut back and told.
    let plain = |prompt: u64, completion: u64, cached: i64| {
        json!({ "choices": [{ "message": { "content": "hi" } }], "usage": {
            "prompt_tokens": prompt, "completion_tokens": completion,
            "prompt_tokens_details": { "cached_tokens": cached } } })
        .to_string()
    };
    for (answer, parts, flags) in [
        (plain(9, 3, 0), [(Dim::Input, 9), (Dim::Output, 3)], Flags::NONE),
        (plain(9, 3, -7), [(Dim::Input, 9), (Dim::Output, 3)], Flags::ODD),
        (plain(900_000, 3, 0), [(Dim::Input, 400_000), (Dim::Output, 3)], Flags::ODD),
    ] {
        upstream.script(Script::Answer(200, answer));
        server.post("/v1/chat/completions", &chat_body).key(&key).expect(200).await;
        let tokens = |place: usize| i64::try_from(parts[place].1).unwrap();
        let cost = 1_000_000 + tokens(0) * 2 * DOLLAR + tokens(1) * 8 * DOLLAR;
        is_billed(&database, &user, &parts, flags, cost).await;
        paid += cost;
    }
    assert_eq!(user.folded().await, RICH - paid);
    let models = "SELECT COUNT(DISTINCT model) || '' FROM usage_record";
    assert_eq!(database.query(models).await, "3");
    server.stop();
    verify(&database);
}

fn event(kind: &str, mut fields: Value) -> Step {
    fields["type"] = json!(kind);
    Step::Send(format!("event: {kind}\ndata: {fields}\n\n"))
}

/// The beginning of a message whose prompt was cached.
fn message(usage: &Value) -> Vec<Step> {
    let message = json!({ "id": "m", "type": "message", "role": "assistant", "content": [],
        "usage": usage });
    let text = json!({ "type": "text_delta", "text": " word" });
    vec![
        event("message_start", json!({ "message": message })),
        event("content_block_delta", json!({ "index": 0, "delta": text })),
    ]
}

pub(crate) async fn stream_of(
    server: &Server,
    key: &Key,
    path: &str,
    body: &Value,
) -> (Events, i64) {
    let mut events = server.post(path, body).key(key).stream().await;
    events.rest().await;
    let cost = nanos(&events.bill()["cost"]);
    (events, cost)
}

async fn streams_cost_their_parts(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let hello = json!([{ "role": "user", "content": "Hello!" }]);
    let mut paid = 0;
    // The usage of a chat comes at the end.
    let usage = json!({ "prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500,
        "prompt_tokens_details": { "cached_tokens": 600 },
        "completion_tokens_details": { "reasoning_tokens": 300 } });
    upstream.script(Script::Events(vec![word("hi"), usage_and_done(&usage)]));
    let chat = json!({ "model": "chat", "stream": true, "messages": hello });
    let (events, cost) = stream_of(&server, &key, "/v1/chat/completions", &chat).await;
    assert_eq!(events.header("x-polysystems-model"), "chat-large");
    assert_eq!(cost, 6_700 * DOLLAR);
    let parts =
        [(Dim::Input, 400), (Dim::CacheRead, 600), (Dim::Output, 200), (Dim::Reasoning, 300)];
    is_billed(&database, &user, &parts, Flags::NONE, cost).await;
    paid += cost;
    // That of a message at its beginning and its end; a zero takes nothing away.
    let first = json!({ "input_tokens": 10, "cache_read_input_tokens": 1_000, "output_tokens": 1 });
    let last = json!({ "input_tokens": 0, "cache_read_input_tokens": null,
        "cache_creation": { "ephemeral_1h_input_tokens": 50 }, "output_tokens": 7 });
    let mut steps = message(&first);
    steps.push(event(
        "message_delta",
        json!({ "delta": { "stop_reason": "end_turn" },
        "usage": last }),
    ));
    steps.push(event("message_stop", json!({})));
    upstream.script(Script::Events(steps));
    let body = json!({ "model": "claude-large", "max_tokens": 1_000, "stream": true,
        "messages": hello });
    let (_, cost) = stream_of(&server, &key, "/v1/messages", &body).await;
    assert_eq!(cost, 30 * DOLLAR + 300 * DOLLAR + 300 * DOLLAR + 105 * DOLLAR);
    let parts =
        [(Dim::Input, 10), (Dim::CacheRead, 1_000), (Dim::CacheWrite1h, 50), (Dim::Output, 7)];
    is_billed(&database, &user, &parts, Flags::NONE, cost).await;
    paid += cost;
    // A response tells it in its last event.
    let usage = json!({ "input_tokens": 100, "output_tokens": 20,
        "input_tokens_details": { "cached_tokens": 60 } });
    let steps = vec![
        event("response.output_text.delta", json!({ "delta": "hi" })),
        event("response.completed", json!({ "response": { "usage": usage } })),
    ];
    upstream.script(Script::Events(steps));
    let body = json!({ "model": "chat-large", "stream": true, "input": "Hello!" });
    let mut events = server.post("/v1/responses", &body).key(&key).stream().await;
    events.rest().await;
    let cost = 1_000 * DOLLAR + 80 * DOLLAR + 30 * DOLLAR + 160 * DOLLAR;
    let parts = [(Dim::Input, 40), (Dim::CacheRead, 60), (Dim::Output, 20)];
    is_billed(&database, &user, &parts, Flags::NONE, cost).await;
    paid += cost;
    // Without a usage the words are counted, never for nothing.
    let end = Step::Send("data: {\"choices\":[],\"usage\":null}\n\ndata: [DONE]\n\n".into());
    upstream.script(Script::Events(vec![word("hi"), word(" there"), end]));
    let (_, cost) = stream_of(&server, &key, "/v1/chat/completions", &chat).await;
    assert_eq!(cost, 1_000 * DOLLAR + 9 * 2 * DOLLAR + 2 * 8 * DOLLAR);
    is_billed(&database, &user, &[(Dim::Input, 9), (Dim::Output, 2)], Flags::COUNTED, cost).await;
    paid += cost;
    assert_eq!(user.folded().await, RICH - paid);
    server.stop();
    verify(&database);
}

async fn who_leaves_pays_for_a_cached_prompt_what_it_costs(database: Database) {
    let first = json!({ "input_tokens": 10, "cache_read_input_tokens": 100_000,
        "output_tokens": 1 });
    let mut steps = message(&first);
    steps.push(Step::Stall);
    let upstream = Upstream::start(Script::Events(steps)).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let body = json!({ "model": "claude-large", "max_tokens": 1_000, "stream": true,
        "messages": [{ "role": "user", "content": "Hello!" }] });
    let stream = server.post("/v1/messages", &body).key(&key).stream().await;
    leave_after(stream, 2).await;
    settled(&database, 1).await;
    // Ten times as much if the cached tokens were plain.
    let cost = 30 * DOLLAR + 30_000 * DOLLAR + 15 * DOLLAR;
    let parts = [(Dim::Input, 10), (Dim::CacheRead, 100_000), (Dim::Output, 1)];
    is_billed(&database, &user, &parts, Flags::COUNTED.and(Flags::EARLY), cost).await;
    assert_eq!(user.folded().await, RICH - cost);
    server.stop();
    verify(&database);
}

async fn what_is_not_sold_is_refused_before_anything_is_held(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let test = user.key_of(&json!({ "name": "test", "environment": "test" })).await;
    let hello = json!([{ "role": "user", "content": "Hello, who are you?" }]);
    let with = |model: &str, more: Value| {
        let mut body = json!({ "model": model, "max_tokens": 10, "messages": hello });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let chat = "/v1/chat/completions";
    for (path, body, status, code, kind) in [
        (chat, with("other", json!({})), 404, "model_not_found", ""),
        (chat, with("unpriced", json!({})), 404, "model_not_priced", ""),
        (chat, with("retired", json!({})), 404, "model_retired", ""),
        (chat, with("retired-window", json!({})), 404, "model_not_priced", ""),
        (chat, json!({ "messages": hello }), 400, "bad_request", ""),
        (
            chat,
            with("chat", json!({ "service_tier": "priority" })),
            400,
            "service_tier_not_sold",
            "",
        ),
        ("/v1/messages", with("other", json!({})), 404, "", "not_found_error"),
        ("/v1/messages", with("retired", json!({})), 404, "", "not_found_error"),
        (
            "/v1/messages/count_tokens",
            json!({ "model": "other", "messages": hello }),
            404,
            "",
            "not_found_error",
        ),
    ] {
        for key in [&key, &test] {
            let answer = server.post(path, &body).key(key).send().await;
            assert_eq!(answer.status.as_u16(), status, "{body} {}", answer.text);
            let error = &answer.body["error"];
            if code.is_empty() {
                assert_eq!(error["type"], kind, "{body}");
            } else {
                assert_eq!(error["code"], code, "{body}");
            }
            if status == 404 {
                assert_eq!(answer.header("x-should-retry"), "false");
            }
            if code == "model_retired" {
                let message = error["message"].as_str().unwrap();
                assert!(message.contains("chat-large"), "{message}");
            }
        }
    }
    // Longer than the context window, in the words of each protocol.
    let long = "word ".repeat(400_100);
    let long = json!([{ "role": "user", "content": long }]);
    let body = json!({ "model": "chat", "messages": long });
    let answer = server.post(chat, &body).key(&key).expect(400).await;
    assert_eq!(answer.body["error"]["code"], "context_length_exceeded");
    let body = json!({ "model": "claude-large", "max_tokens": 1, "messages": long });
    let answer = server.post("/v1/messages", &body).key(&key).expect(400).await;
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("prompt is too long: "), "{message}");
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
    server.stop();
    verify(&database);
}

async fn the_upstream_is_told_a_limit_only_if_the_balance_asks_for_one(database: Database) {
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 1 });
    let answer = json!({ "choices": [{ "message": { "content": "hi" } }], "usage": usage });
    let upstream = Upstream::start(Script::Answer(200, answer.to_string())).await;
    let server = selling(&database, &upstream).await;
    let (_, rich) = rich_user(&server, "rich").await;
    let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "Hello!" }] });
    server.post("/v1/chat/completions", &body).key(&rich).expect(200).await;
    // `chat` is an alias.
    let mut told = body.clone();
    told["model"] = json!("chat-large");
    assert_eq!(upstream.last_body(), told);
    // 0.001 for the request, 9 tokens at 2 dollars and 1,000 at 10, the dearest that they may be.
    let poor = server.user("poor").await;
    poor.pay("0.011018").await;
    let key = poor.key().await;
    let answered = server.post("/v1/chat/completions", &body).key(&key).expect(200).await;
    assert_eq!(upstream.last_body()["max_tokens"], 1_000);
    assert_eq!(answered.header("x-polysystems-max-tokens"), "1000");
    server.stop();
    verify(&database);
}

async fn ten_of_sixty_four_calls_get_exactly_the_money(database: Database) {
    // All that the limit allows, at the dearest price.
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 100,
        "completion_tokens_details": { "reasoning_tokens": 100 } });
    let answer = json!({ "choices": [{ "message": { "content": "hi" } }], "usage": usage });
    let slow = Script::Slow(Duration::from_millis(300), answer.to_string());
    let upstream = Upstream::start(slow).await;
    let server = selling(&database, &upstream).await;
    let user = server.user("someone").await;
    // 0.001 + 9 x 0.000002 + 100 x 0.00001 = 0.002018 each.
    user.pay("0.020180").await;
    let key = user.key().await;
    let body = json!({ "model": "chat", "max_tokens": 100,
        "messages": [{ "role": "user", "content": "Hello!" }] });
    let calls = (0..64).map(|_| server.post("/v1/chat/completions", &body).key(&key).send());
    let answers = join_all(calls).await;
    let of = |status: u16| answers.iter().filter(|answer| answer.status.as_u16() == status).count();
    assert_eq!((of(200), of(402)), (10, 54));
    assert_eq!(user.folded().await, 0);
    server.stop();
    verify(&database);
}

async fn a_dry_run_says_what_prices_the_call(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let body = json!({ "model": "chat", "max_tokens": 100,
        "messages": [{ "role": "user", "content": "Hello!" }] });
    let run = server.post("/v1/chat/completions", &body).header("x-dry-run", "true");
    let quote = run.key(&key).expect(200).await.body;
    assert_eq!((&quote["model"], &quote["price_version"]), (&json!("chat-large"), &json!(VERSION)));
    assert_eq!((&quote["prompt_tokens"], &quote["prompt_tokens_max"]), (&json!(9), &json!(9)));
    // The dearest of the completion is a thought.
    assert_eq!(nanos(&quote["cost"]["most"]), 1_000_000 + 18 * DOLLAR + 1_000 * DOLLAR);
    assert_eq!(nanos(&quote["cost"]["least"]), 1_000_000);
    assert_eq!(quote["hold"], quote["cost"]["most"]);
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
    server.stop();
    verify(&database);
}
