//! Streams: relayed as they come, held for in steps, billed for what was delivered.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use domain::Credits;
use polysystems::config::OnDisconnect;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Database, Events, Key, Request, Server, User, nanos, on_both};

on_both!(
    every_generating_route_streams_and_is_billed,
    usage_is_asked_of_the_upstream_and_shown_to_who_asked,
    the_first_byte_waits_for_the_hold,
    a_hold_grows_with_the_stream,
    a_stream_that_runs_out_of_credits_ends_cleanly,
    a_call_gets_the_tokens_that_are_covered,
    who_leaves_a_stream_pays_for_what_was_delivered,
    a_drained_stream_is_billed_whole,
    an_upstream_that_breaks_off_is_told_in_the_stream,
    a_failure_before_the_first_byte_is_a_status,
    absurd_usage_is_clamped_and_flagged,
    hidden_tokens_are_held_and_billed,
    a_revoked_key_gets_no_more,
    what_was_taken_before_a_key_was_revoked_is_owed,
    a_stream_that_is_answered_whole_is_billed_whole,
    a_stream_without_its_end_is_a_cut,
    the_upstream_knows_the_limit_that_is_paid_for,
    who_leaves_before_the_first_byte_owes_the_prompt,
    two_hundred_streams_on_credits_for_fifty,
);

async fn rich(server: &Server) -> (User<'_>, Key) {
    rich_user(server, "someone").await
}

/// A user of this name with ten dollars, and a key.
pub(crate) async fn rich_user<'s>(server: &'s Server, name: &str) -> (User<'s>, Key) {
    let user = server.user(name).await;
    user.pay("10.00").await;
    let key = user.key().await;
    (user, key)
}

/// A stream of a chat, with these fields changed.
pub(crate) fn chat(server: &Server, key: &Key, change: &Value) -> Request {
    let mut body = json!({ "stream": true, "messages": [{ "role": "user", "content": "Hello!" }] });
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    server.post("/v1/chat/completions", &body).key(key)
}

/// The text of a chat's chunks.
fn text(events: &[Value]) -> String {
    let deltas = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    deltas.collect()
}

/// What the stream's own bill, the ledger and the balance say is the same.
async fn agreed_cost(user: &User<'_>, events: &Events) -> i64 {
    let bill = events.bill();
    let ledger = user.ledger().await;
    let id = events.header("x-request-id");
    let entry = ledger.iter().find(|entry| entry["reference"] == id).expect("no capture");
    assert_eq!(entry["kind"], "capture");
    assert_eq!(nanos(&entry["amount"]), -nanos(&bill["cost"]));
    assert_eq!(nanos(&entry["balance_after"]), nanos(&bill["balance"]));
    assert_eq!(bill["request_id"], id);
    nanos(&bill["cost"])
}

async fn holds(database: &Database) -> (String, String) {
    let open = database.query("SELECT CAST(COUNT(*) AS TEXT) FROM hold").await;
    let ended = "SELECT CAST(COUNT(*) AS TEXT) || '/' ||
        CAST(COALESCE(MIN(kind), 0) AS TEXT) FROM hold_end";
    (open, database.query(ended).await)
}

/// Waits until no hold is open: a stream that nobody listens to any more is settled a moment later.
async fn settled(database: &Database) {
    for _ in 0..500 {
        if holds(database).await.0 == "0" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a hold stays open");
}

/// How the last of `calls` calls ended, once it is written: of a call that moved no money nobody
/// waits for that.
async fn nth_ending(database: &Database, calls: usize) -> String {
    let count = "SELECT CAST(COUNT(*) AS TEXT) FROM usage_record";
    for _ in 0..500 {
        if database.query(count).await == calls.to_string() {
            return ending_and_tally(database).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no {calls} usage records");
}

async fn ending_and_tally(database: &Database) -> String {
    let sql = "SELECT CAST(ending AS TEXT) || '/' || CAST(tally AS TEXT) FROM usage_record
        ORDER BY number DESC LIMIT 1";
    database.query(sql).await
}

async fn every_generating_route_streams_and_is_billed(database: Database) {
    let server = Server::start(&database).await;
    let (user, key) = rich(&server).await;
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/api/hub/agents/chat",
        "/api/hub/agents/generate",
        "/api/omm/generate",
        "/api/yggdrasil/process",
    ] {
        for asks in [true, false] {
            let body = json!({
                "stream": true,
                "stream_options": { "include_usage": asks },
                "messages": [{ "role": "user", "content": "Hello!" }],
                "prompt": "Hello!",
            });
            let request = server.post(path, &body).key(&key).header("Accept-Encoding", "gzip, br");
            let mut stream = request.stream().await;
            assert_eq!(stream.header("content-type"), "text/event-stream");
            assert_eq!(stream.header("x-polysystems-upstream"), "sandbox");
            assert_eq!(stream.header("x-accel-buffering"), "no");
            assert!(stream.headers.get("content-encoding").is_none());
            let hold: Credits = stream.header("x-polysystems-hold").parse().unwrap();
            let events = stream.rest().await;
            let cost = agreed_cost(&user, &stream).await;
            assert!(cost > 0 && cost <= hold.nanos(), "{path}");
            let whole: String = events.iter().map(Value::to_string).collect();
            assert!(whole.contains("simulated"), "{path}");
            let is_responses = path == "/v1/responses";
            if is_responses {
                let last = events.last().unwrap();
                assert_eq!(last["type"], "response.completed");
                assert_eq!(nanos(&last["response"]["usage"]["cost"]), cost);
            } else {
                assert_eq!(events.last(), Some(&json!("[DONE]")), "{path}");
            }
            let with_usage: Vec<_> =
                events.iter().filter(|event| event["usage"].is_object()).collect();
            assert_eq!(with_usage.len(), usize::from(asks && !is_responses), "{path}");
            if let Some(event) = with_usage.first() {
                assert_eq!(nanos(&event["usage"]["cost"]), cost, "{path}");
            }
            assert_eq!(ending_and_tally(&database).await, "1/1", "{path}");
        }
    }
    assert_eq!(holds(&database).await, ("0".into(), "14/1".into()));
    user.folded().await;
}

async fn usage_is_asked_of_the_upstream_and_shown_to_who_asked(database: Database) {
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 3, "extra": { "cached": 1 } });
    let script = vec![word("Good"), word(" morning"), usage_and_done(&usage)];
    let upstream = Upstream::start(Script::Events(script)).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let (user, key) = rich(&server).await;
    for asks in [true, false] {
        let change = if asks {
            json!({ "stream_options": { "include_usage": true, "x": 1 } })
        } else {
            json!({})
        };
        let mut stream = chat(&server, &key, &change).stream().await;
        let events = stream.rest().await;
        let told = upstream.last_body();
        assert_eq!(told["stream_options"]["include_usage"], true);
        assert_eq!(told["stream_options"]["x"], if asks { json!(1) } else { json!(null) });
        assert_eq!(told["max_tokens"], 4_096);
        assert_eq!(text(&events), "Good morning");
        assert_eq!(agreed_cost(&user, &stream).await, 2_000_000 + 10 * 10_000);
        if asks {
            assert_eq!(events[2]["usage"]["extra"]["cached"], 1);
            assert_eq!(nanos(&events[2]["usage"]["cost"]), 2_100_000);
            assert_eq!(events[2]["id"], "c");
        } else {
            assert!(!stream.text.contains("usage"), "{}", stream.text);
        }
        assert_eq!(events.last(), Some(&json!("[DONE]")));
    }
    // Who names a limit is taken by their word.
    let change = json!({ "max_completion_tokens": 20 });
    let mut stream = chat(&server, &key, &change).stream().await;
    assert!(stream.headers.get("x-polysystems-max-tokens").is_none());
    stream.rest().await;
    assert_eq!(upstream.last_body()["max_completion_tokens"], 20);
    assert!(upstream.last_body().get("max_tokens").is_none());
}

/// Keeps paid calls from being committed, until it is dropped.
enum Blocked {
    Table(sea_orm::DatabaseTransaction),
    File(std::fs::File),
}

impl Blocked {
    async fn of(database: &Database) -> Self {
        use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
        if !database.is_postgres() {
            let file = std::fs::File::open(database.journal()).unwrap();
            file.lock().unwrap();
            return Blocked::File(file);
        }
        let connection = sea_orm::Database::connect(database.url()).await.unwrap();
        let transaction = connection.begin().await.unwrap();
        let sql = "LOCK TABLE journal IN ACCESS EXCLUSIVE MODE";
        transaction.execute_unprepared(sql).await.unwrap();
        Blocked::Table(transaction)
    }

    async fn end(self) {
        match self {
            Blocked::Table(transaction) => transaction.rollback().await.unwrap(),
            Blocked::File(file) => file.unlock().unwrap(),
        }
    }
}

async fn the_first_byte_waits_for_the_hold(database: Database) {
    let server = Server::start(&database).await;
    let (_, key) = rich(&server).await;
    // The account is in memory, so that nothing but the commit is waited for.
    chat(&server, &key, &json!({})).stream().await.rest().await;
    let block = Blocked::of(&database).await;
    let mut answer = Box::pin(chat(&server, &key, &json!({})).stream());
    let early = tokio::time::timeout(Duration::from_millis(700), &mut answer).await;
    assert!(early.is_err(), "a byte came before the hold was on record");
    block.end().await;
    answer.await.rest().await;
    server.stop();
    a_live_stream_has_a_hold_on_record(database).await;
}

async fn a_live_stream_has_a_hold_on_record(database: Database) {
    let (upstream, say) = Upstream::live().await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let user = server.user("other").await;
    user.pay("10.00").await;
    let key = user.key().await;
    let ended: usize =
        database.query("SELECT CAST(COUNT(*) AS TEXT) FROM hold_end").await.parse().unwrap();
    let send = |step| match step {
        Step::Send(bytes) => say.send(bytes).unwrap(),
        _ => panic!("not to be sent"),
    };
    send(word("Good"));
    let mut stream = chat(&server, &key, &json!({})).stream().await;
    assert!(stream.next().await.unwrap().contains("Good"));
    // It came although the upstream has not ended, and its hold is written down.
    assert_eq!(holds(&database).await.0, "1");
    let balance = user.get("/api/payments/credits/balance").expect(200).await;
    assert_eq!(balance.number("held"), stream.header("x-polysystems-hold"));
    send(word(" day"));
    assert!(stream.next().await.unwrap().contains(" day"));
    send(usage_and_done(&json!({ "total_tokens": 5 })));
    stream.rest().await;
    assert_eq!(holds(&database).await, ("0".into(), format!("{}/1", ended + 1)));
    assert_eq!(agreed_cost(&user, &stream).await, 2_050_000);
}

async fn a_hold_grows_with_the_stream(database: Database) {
    let server = Server::start(&database).await;
    let (user, key) = rich(&server).await;
    let change = json!({ "model": "sandbox-long", "max_tokens": 20_000 });
    let mut stream = chat(&server, &key, &change).stream().await;
    // 9 of the prompt, 512 of the first step.
    assert_eq!(stream.header("x-polysystems-hold"), "0.00721");
    let events = stream.rest().await;
    assert_eq!(text(&events).len(), 20_000 * " word".len());
    assert_eq!(agreed_cost(&user, &stream).await, 2_000_000 + 20_009 * 10_000);
    let end = "SELECT CAST(held AS TEXT) || '/' || CAST(captured AS TEXT) FROM hold_end";
    assert_eq!(database.query(end).await, "202090000/202090000");
    assert_eq!(ending_and_tally(&database).await, "1/1");
}

async fn a_stream_that_runs_out_of_credits_ends_cleanly(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.holds.lower_token_limit = false).await;
    let user = server.user("someone").await;
    user.pay("0.0300").await;
    let key = user.key().await;
    let ask = json!({ "model": "sandbox-long", "stream_options": { "include_usage": true } });
    for (path, reason) in [
        ("/v1/chat/completions", "insufficient_credits"),
        ("/v1/completions", "insufficient_credits"),
        ("/v1/responses", "insufficient_credits"),
        ("/api/omm/generate", "insufficient_credits"),
        ("/v1/chat/completions", "spending_limit"),
    ] {
        let before = nanos(&serde_json::from_str(&user.balance().await).unwrap());
        if reason == "spending_limit" {
            user.pay("1.00").await;
            user.limit(&key, &json!({ "per_request_limit": 0.0200 })).await;
        }
        let mut body = ask.clone();
        body["stream"] = json!(true);
        body["messages"] = json!([{ "role": "user", "content": "Hello!" }]);
        body["prompt"] = json!("Hello!");
        body["input"] = json!("Hello!");
        let mut stream = server.post(path, &body).key(&key).stream().await;
        let events = stream.rest().await;
        let cost = agreed_cost(&user, &stream).await;
        let most = if reason == "spending_limit" { 20_000_000 } else { before };
        // To the last token that is covered.
        assert!(cost <= most && cost > most - 30_000, "{path}: {cost} of {most}");
        let bill = stream.bill();
        assert_eq!(bill["ended_by"], reason, "{path}");
        let last = if path == "/v1/responses" {
            let last = events.last().unwrap();
            assert_eq!(last["type"], "response.incomplete");
            assert_eq!(last["response"]["status"], "incomplete");
            assert_eq!(nanos(&last["response"]["usage"]["cost"]), cost);
            &last["response"]
        } else {
            assert_eq!(events.last(), Some(&json!("[DONE]")));
            let [.., last, usage, _] = events.as_slice() else { panic!("too few events") };
            assert_eq!(nanos(&usage["usage"]["cost"]), cost, "{path}");
            let finish = last["choices"][0].get("finish_reason").or(last.get("finish_reason"));
            assert_eq!(finish, Some(&json!("length")), "{path}");
            last
        };
        assert_eq!(last["polysystems"]["ended_by"], reason, "{path}");
        assert_eq!(ending_and_tally(&database).await, "6/2", "{path}");
        user.pay("0.0300").await;
    }
    user.folded().await;
    assert_eq!(holds(&database).await.0, "0");
}

async fn a_call_gets_the_tokens_that_are_covered(database: Database) {
    for lowers in [true, false] {
        let server =
            Server::start_with(&database, |settings| settings.holds.lower_token_limit = lowers)
                .await;
        let user = server.user(if lowers { "someone" } else { "other" }).await;
        user.pay("0.0040").await;
        let key = user.key().await;
        let body = json!({
            "model": "sandbox-long", "max_tokens": 64_000,
            "messages": [{ "role": "user", "content": "Hello!" }],
        });
        let plain = server.post("/v1/chat/completions", &body).key(&key);
        if !lowers {
            let refused = plain.expect(402).await;
            assert_eq!(refused.body["error"]["code"], "insufficient_quota");
            assert!(refused.text.contains("$0.64209"));
            continue;
        }
        let answer = plain.expect(200).await;
        // 0.0040 - 0.0020 is 200 tokens, 9 of them the prompt.
        assert_eq!(answer.header("x-polysystems-max-tokens"), "191");
        assert_eq!(answer.body["usage"]["completion_tokens"], 191);
        assert_eq!(answer.header("x-polysystems-cost"), "0.0040");
        assert_eq!(answer.header("x-polysystems-balance"), "0.0000");
        user.pay("0.0030").await;
        let change = json!({ "model": "sandbox-long", "max_tokens": 64_000 });
        let mut stream = chat(&server, &key, &change).stream().await;
        assert_eq!(stream.header("x-polysystems-max-tokens"), "91");
        let events = stream.rest().await;
        assert_eq!(text(&events).len(), 91 * " word".len());
        assert_eq!(agreed_cost(&user, &stream).await, 3_000_000);
        assert!(stream.bill().get("ended_by").is_none(), "the upstream ended it by itself");
    }
}

/// A stream that goes on for ever, and has delivered `words` words of a token each.
async fn endless(server: &Server, key: &Key, words: usize) -> Events {
    let mut stream = chat(server, key, &json!({})).stream().await;
    for _ in 0..words {
        assert!(stream.next().await.unwrap().contains("word"));
    }
    stream
}

fn words_then(count: usize, step: Step) -> Script {
    let mut steps = vec![word(" word"); count];
    steps.push(step);
    Script::Events(steps)
}

async fn who_leaves_a_stream_pays_for_what_was_delivered(database: Database) {
    let upstream = Upstream::start(words_then(5, Step::Stall)).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let (user, key) = rich(&server).await;
    let stream = endless(&server, &key, 5).await;
    drop(stream);
    settled(&database).await;
    // 9 of the prompt, 5 words.
    assert_eq!(user.folded().await, 10_000_000_000 - 2_140_000);
    assert_eq!(ending_and_tally(&database).await, "4/2");
    for _ in 0..100 {
        if upstream.hung_up.load(Ordering::SeqCst) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the upstream was not cancelled");
}

async fn a_drained_stream_is_billed_whole(database: Database) {
    let usage = usage_and_done(&json!({ "prompt_tokens": 9, "completion_tokens": 7 }));
    let mut steps = vec![word(" word"); 5];
    steps.extend([Step::Pause(Duration::from_millis(300)), word(" word"), word(" word"), usage]);
    let upstream = Upstream::start(Script::Events(steps)).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(upstream.url());
        settings.upstreams.v1.on_disconnect = OnDisconnect::Drain;
    })
    .await;
    let (user, key) = rich(&server).await;
    drop(endless(&server, &key, 5).await);
    settled(&database).await;
    assert_eq!(user.folded().await, 10_000_000_000 - 2_160_000);
    assert_eq!(ending_and_tally(&database).await, "5/1");
    assert_eq!(upstream.hung_up.load(Ordering::SeqCst), 0);
}

async fn an_upstream_that_breaks_off_is_told_in_the_stream(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(upstream.url());
        settings.upstreams.v1.stream_idle_seconds = 1.try_into().unwrap();
    })
    .await;
    let (user, key) = rich(&server).await;
    for (step, code) in [(Step::Cut, "upstream_error"), (Step::Stall, "upstream_timeout")] {
        upstream.script(words_then(5, step));
        let mut stream = chat(&server, &key, &json!({})).stream().await;
        let events = stream.rest().await;
        assert_eq!(text(&events), " word".repeat(5));
        let [.., error, done] = events.as_slice() else { panic!("too few events") };
        assert_eq!(error["error"]["code"], code);
        assert_eq!(done, &json!("[DONE]"));
        assert_eq!(stream.bill()["ended_by"], code);
        assert_eq!(agreed_cost(&user, &stream).await, 2_140_000);
        assert_eq!(ending_and_tally(&database).await, "3/2");
    }
    // Nothing delivered, nothing charged.
    let before = user.folded().await;
    let empty =
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n";
    upstream.script(Script::Events(vec![Step::Send(empty.into()), Step::Cut]));
    let mut stream = chat(&server, &key, &json!({})).stream().await;
    stream.rest().await;
    assert_eq!(nanos(&stream.bill()["cost"]), 0);
    assert_eq!(user.folded().await, before);
    assert_eq!(holds(&database).await.0, "0");
}

async fn a_failure_before_the_first_byte_is_a_status(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let fallback = Upstream::start(Script::Silent).await;
    let server = Server::start_with(&database, |settings| {
        for group in [&mut settings.upstreams.v1, &mut settings.upstreams.hub] {
            group.url = Some(upstream.url());
            group.timeout_seconds = 1.try_into().unwrap();
            group.retries = 2;
        }
        settings.upstreams.hub.fallback_url = Some(fallback.url());
    })
    .await;
    let (user, key) = rich(&server).await;
    for (number, (script, status, ending)) in [
        (Script::Answer(500, "{}".into()), 502, "2/1"),
        (Script::Events(vec![Step::Cut]), 502, "2/1"),
        (Script::Events(vec![]), 502, "2/1"),
        // It was at work on the prompt.
        (Script::Events(vec![Step::Stall]), 424, "3/2"),
    ]
    .into_iter()
    .enumerate()
    {
        let before = upstream.calls();
        upstream.script(script);
        chat(&server, &key, &json!({})).expect(status).await;
        assert_eq!(upstream.calls() - before, 3, "one try and two more");
        assert_eq!(nth_ending(&database, number + 1).await, ending);
    }
    // What it refuses is its answer, and is not tried again.
    let before = upstream.calls();
    upstream.script(Script::Answer(404, "{\"error\":\"no such model\"}".into()));
    let refused = chat(&server, &key, &json!({})).expect(404).await;
    assert_eq!(refused.text, "{\"error\":\"no such model\"}");
    assert_eq!(upstream.calls() - before, 1);
    assert_eq!(user.folded().await, 10_000_000_000 - 2_090_000);
    // The fallback answers; one charge.
    upstream.script(Script::Answer(500, "{}".into()));
    let before = upstream.calls();
    let body = json!({ "stream": true, "messages": [{ "role": "user", "content": "Hello!" }] });
    let script = vec![word(" word"), usage_and_done(&json!({ "total_tokens": 10 }))];
    fallback.script(Script::Events(script));
    let mut stream = server.post("/api/hub/agents/chat", &body).key(&key).stream().await;
    assert_eq!(stream.header("x-polysystems-upstream"), "hub-fallback");
    stream.rest().await;
    assert_eq!((upstream.calls() - before, fallback.calls()), (3, 1));
    assert_eq!(user.folded().await, 10_000_000_000 - 2_090_000 - 2_100_000);
    assert_eq!(holds(&database).await.0, "0");
}

async fn absurd_usage_is_clamped_and_flagged(database: Database) {
    let server = Server::start(&database).await;
    let (user, key) = rich(&server).await;
    let body = |model: &str, is_stream: bool| {
        json!({ "model": model, "stream": is_stream, "max_tokens": 100,
            "messages": [{ "role": "user", "content": "Hello!" }] })
    };
    for is_stream in [true, false] {
        for (model, cost, flag) in [
            // What could be held: 9 and 100 tokens.
            ("sandbox-absurd-usage", 2_000_000 + 109 * 10_000, "1/4"),
            // The delivered text, as the well-behaved model counts it.
            ("sandbox-negative-usage", 2_000_000 + 26 * 10_000, "1/3"),
            ("sandbox-no-usage", 2_000_000 + 26 * 10_000, "1/2"),
            ("any-other", 2_000_000 + 26 * 10_000, "1/1"),
        ] {
            let before = user.folded().await;
            let request = server.post("/v1/chat/completions", &body(model, is_stream)).key(&key);
            if is_stream {
                request.stream().await.rest().await;
            } else {
                request.expect(200).await;
            }
            assert_eq!(before - user.folded().await, cost, "{model}, {is_stream}");
            assert_eq!(ending_and_tally(&database).await, flag, "{model}");
        }
    }
}

async fn hidden_tokens_are_held_and_billed(database: Database) {
    // Thinking that does not show: far more than the first step, less than the limit.
    let usage = usage_and_done(&json!({ "prompt_tokens": 9, "completion_tokens": 3_000 }));
    let upstream = Upstream::start(Script::Events(vec![word(" word"), usage])).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let (user, key) = rich(&server).await;
    let mut stream = chat(&server, &key, &json!({})).stream().await;
    stream.rest().await;
    assert_eq!(agreed_cost(&user, &stream).await, 2_000_000 + 3_009 * 10_000);
    assert_eq!(ending_and_tally(&database).await, "1/1");
}

async fn a_revoked_key_gets_no_more(database: Database) {
    let (upstream, say) = Upstream::live().await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let (user, key) = rich(&server).await;
    let send = |count: usize| {
        for _ in 0..count {
            let Step::Send(bytes) = word(" word") else { panic!("not to be sent") };
            say.send(bytes).unwrap();
        }
    };
    send(1);
    let mut stream = chat(&server, &key, &json!({})).stream().await;
    stream.next().await.unwrap();
    user.post(&format!("/api/keys/{}/revoke", key.id), &json!({})).expect(200).await;
    // What is held is delivered, and no more than that.
    send(600);
    let events = stream.rest().await;
    assert_eq!(stream.bill()["ended_by"], "key_inactive");
    assert_eq!(events.last(), Some(&json!("[DONE]")));
    assert_eq!(agreed_cost(&user, &stream).await, 2_000_000 + (512 + 9) * 10_000);
}

async fn what_was_taken_before_a_key_was_revoked_is_owed(database: Database) {
    let (upstream, say) = Upstream::live().await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let (user, key) = rich(&server).await;
    let send = |step| match step {
        Step::Send(bytes) => say.send(bytes).unwrap(),
        _ => panic!("not to be sent"),
    };
    send(word(" word"));
    let mut stream = chat(&server, &key, &json!({})).stream().await;
    stream.next().await.unwrap();
    user.delete(&format!("/api/keys/{}", key.id)).expect(204).await;
    // It was thinking all the time.
    send(usage_and_done(&json!({ "prompt_tokens": 9, "completion_tokens": 4_000 })));
    stream.rest().await;
    assert_eq!(agreed_cost(&user, &stream).await, 2_000_000 + 4_009 * 10_000);
}

async fn a_stream_that_is_answered_whole_is_billed_whole(database: Database) {
    let answer =
        json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": 4_000 } });
    let upstream = Upstream::start(Script::Answer(200, answer.to_string())).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let (user, key) = rich(&server).await;
    let answer = chat(&server, &key, &json!({})).expect(200).await;
    assert_eq!(answer.header("x-polysystems-cost"), "0.04209");
    assert_eq!(user.folded().await, 10_000_000_000 - 42_090_000);
    assert_eq!(ending_and_tally(&database).await, "1/1");
}

async fn a_stream_without_its_end_is_a_cut(database: Database) {
    let upstream = Upstream::start(Script::Events(vec![word(" word")])).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(upstream.url());
        settings.upstreams.omm.url = Some(upstream.url());
    })
    .await;
    let (user, key) = rich(&server).await;
    let mut stream = chat(&server, &key, &json!({})).stream().await;
    stream.rest().await;
    assert_eq!(stream.bill()["ended_by"], "upstream_error");
    assert_eq!(agreed_cost(&user, &stream).await, 2_100_000);
    // An upstream of its own kind need not say that it is at its end.
    let body = json!({ "prompt": "Hello!", "stream": true });
    let mut stream = server.post("/api/omm/generate", &body).key(&key).stream().await;
    stream.rest().await;
    assert!(stream.bill().get("ended_by").is_none());
}

async fn the_upstream_knows_the_limit_that_is_paid_for(database: Database) {
    let upstream =
        Upstream::start(Script::Answer(200, "{\"usage\":{\"total_tokens\":5}}".into())).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let (_, key) = rich(&server).await;
    for (path, foreign, told) in [
        ("/v1/chat/completions", json!({ "max_output_tokens": 1 }), "max_tokens"),
        ("/v1/completions", json!({ "max_completion_tokens": 1 }), "max_tokens"),
        ("/v1/responses", json!({ "max_tokens": 1 }), "max_output_tokens"),
    ] {
        server.post(path, &foreign).key(&key).expect(400).await;
        let answer = server.post(path, &json!({})).key(&key).expect(200).await;
        assert_eq!(answer.header("x-polysystems-max-tokens"), "4096");
        assert_eq!(upstream.last_body()[told], 4_096, "{path}");
    }
    for body in [json!({ "MAX_TOKENS": 1 }), json!({ "max_tokens": 0 })] {
        server.post("/v1/chat/completions", &body).key(&key).expect(400).await;
    }
}

async fn who_leaves_before_the_first_byte_owes_the_prompt(database: Database) {
    let upstream = Upstream::start(Script::Events(vec![Step::Stall])).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let (user, key) = rich(&server).await;
    let waiting = chat(&server, &key, &json!({})).0.send();
    assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err());
    settled(&database).await;
    assert_eq!(nth_ending(&database, 1).await, "4/2");
    assert_eq!(user.folded().await, 10_000_000_000 - 2_090_000);
    for _ in 0..100 {
        if upstream.hung_up.load(Ordering::SeqCst) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the upstream was not cancelled");
}

async fn two_hundred_streams_on_credits_for_fifty(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    // 50 streams of 1,000 tokens and 9 of prompt each: 0.01209.
    user.pay("0.6045").await;
    let key = user.key().await;
    let change = json!({ "model": "sandbox-long", "max_tokens": 1_000 });
    let one = async || {
        let answer = chat(&server, &key, &change).0.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        if status == 402 {
            return None;
        }
        assert_eq!(status, 200, "{text}");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let comment = text.rfind(": polysystems {").unwrap() + ": polysystems ".len();
        let bill: Value = serde_json::from_str(text[comment..].lines().next().unwrap()).unwrap();
        // What was charged is what was delivered.
        let delivered = i64::try_from(text.matches("\" word\"").count()).unwrap();
        assert_eq!(nanos(&bill["cost"]), 2_000_000 + (9 + delivered) * 10_000, "{bill}");
        Some((nanos(&bill["cost"]), bill.get("ended_by").is_some()))
    };
    let ended = futures_util::future::join_all((0..200).map(|_| one())).await;
    let billed: i64 = ended.iter().flatten().map(|(cost, _)| cost).sum();
    let left = user.folded().await;
    assert_eq!(billed, 604_500_000 - left);
    let cut = ended.iter().flatten().filter(|(_, is_cut)| *is_cut).count();
    let whole = ended.iter().flatten().filter(|(_, is_cut)| !*is_cut).count();
    assert!(cut > 0, "{whole} whole, {cut} cut: nothing was tried");
    assert!(whole + cut >= 50, "{whole} whole, {cut} cut");
    assert_eq!(holds(&database).await.0, "0");
}

/// A reader that reads nothing must not make us read all that the upstream has.
#[test]
fn a_slow_reader_costs_bounded_memory() {
    crate::support::run(async {
        let database = Database::sqlite();
        let large = word(&" word".repeat(10_000));
        let upstream = Upstream::start(Script::Events(vec![large; 1_000])).await;
        let server = Server::start_with(&database, |settings| {
            settings.upstreams.v1.url = Some(upstream.url());
            settings.holds.reader_seconds = 2.try_into().unwrap();
        })
        .await;
        let user = server.user("someone").await;
        user.pay("1000.00").await;
        let key = user.key().await;
        let change = json!({ "max_tokens": 20_000_000 });
        let stream = chat(&server, &key, &change).stream().await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        // 50 MB are there to be had; the sockets' own buffers take a few.
        let taken = upstream.taken.load(Ordering::SeqCst);
        assert!(taken < 16_000_000, "{taken} bytes taken in");
        // After a while it counts as gone.
        for _ in 0..500 {
            if upstream.hung_up.load(Ordering::SeqCst) == 1 {
                drop(stream);
                settled(&database).await;
                assert_eq!(ending_and_tally(&database).await, "4/2");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the upstream was not cancelled");
    });
}

/// Nagle's algorithm would hold each piece back until the one before is acknowledged, and the
/// reader here delays that, as readers do, by 40 ms.
#[test]
fn no_chunk_waits_for_a_delayed_acknowledgement() {
    crate::support::run(async {
        let database = Database::sqlite();
        let (upstream, say) = Upstream::live().await;
        let server = Server::start_with(&database, |settings| {
            settings.upstreams.v1.url = Some(upstream.url());
        })
        .await;
        let (_, key) = rich(&server).await;
        let send = |text: &str| {
            let Step::Send(bytes) = word(text) else { panic!("not to be sent") };
            say.send(bytes).unwrap();
        };
        let body = json!({ "stream": true, "messages": [] }).to_string();
        let mut connection = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: {}\r\n\r\n",
            key.value,
            body.len()
        );
        connection.write_all((head + &body).as_bytes()).await.unwrap();
        let (mut text, mut late) = (Vec::new(), 0);
        for number in 0..60 {
            let begun = Instant::now();
            // Two, a moment apart: the first is out, and not acknowledged, when the second comes.
            send("one");
            tokio::time::sleep(Duration::from_millis(3)).await;
            let last = format!("two-{number}.");
            send(&last);
            while !text.windows(last.len()).any(|bytes| bytes == last.as_bytes()) {
                socket2::SockRef::from(&connection).set_tcp_quickack(false).unwrap();
                assert!(connection.read_buf(&mut text).await.unwrap() > 0);
            }
            late += usize::from(begun.elapsed() > Duration::from_millis(35));
        }
        assert!(late < 20, "{late} of 60 pieces were late");
    });
}
