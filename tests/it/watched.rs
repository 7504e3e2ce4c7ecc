//! What operators watch: verifications and quarantine, settings, webhooks that fail, and what
//! happens now.

use std::time::Duration;

use polysystems::config::Secret;
use serde_json::{Value, json};

use crate::support::process::{command, finished};
use crate::support::receiver::Receiver;
use crate::support::{Database, Server, User, hello, nanos, on_both};

on_both!(
    an_operator_has_the_ledger_verified,
    one_verification_runs_at_a_time,
    a_quarantined_account_is_released_once_its_records_agree,
    no_secret_is_among_the_settings,
    webhooks_that_fail_are_told_without_their_secrets,
    an_operator_watches_what_happens,
    a_watch_ends_with_its_session,
    a_watch_ends_with_the_role,
    a_watch_ends_with_the_server,
    so_many_may_watch,
);

async fn verified(operator: &User<'_>) -> Value {
    for _ in 0..200 {
        let seen = operator.get("/api/admin/verify").expect(200).await.body;
        if seen["running"].is_null() && !seen["last"].is_null() {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("no verification has ended");
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

async fn acts_of(operator: &User<'_>, action: &str) -> Vec<Value> {
    let acts = operator.get("/api/admin/audit-log?limit=100").expect(200).await.body;
    let acts = acts["acts"].as_array().unwrap().iter();
    acts.filter(|act| act["action"] == action).cloned().collect()
}

async fn an_operator_has_the_ledger_verified(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.ledger.verify_hours = None;
    })
    .await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("someone").await;
    user.pay("3.00").await;
    let none = operator.get("/api/admin/verify").expect(200).await.body;
    assert_eq!(none, json!({ "running": null, "last": null, "every_hours": null }));
    user.get("/api/admin/verify").expect(403).await;
    user.post("/api/admin/verify", &json!({})).expect(403).await;
    let begun =
        operator.post("/api/admin/verify", &json!({ "reason": "a look" })).expect(202).await;
    assert!(begun.body["running"]["by"] == "operator" || begun.body["last"]["by"] == "operator");
    let last = verified(&operator).await["last"].clone();
    assert_eq!((&last["by"], &last["result"]), (&json!("operator"), &json!("agrees")));
    assert_eq!((&last["operator_id"], &last["findings"]), (&json!(operator.id), &json!([])));
    assert_eq!((&last["checked"]["accounts"], &last["checked"]["entries"]), (&json!(4), &json!(3)));
    let acts = acts_of(&operator, "verification.started").await;
    assert_eq!((acts.len(), &acts[0]["detail"]), (1, &json!("a look")), "{acts:?}");
    // What a proof of long ago does not open.
    server.advance(601);
    let refused = operator.post("/api/admin/verify", &json!({})).expect(403).await;
    assert_eq!(refused.body["error"], "Confirmation required");
    // The command is told as well, with what it finds.
    let set = "UPDATE account SET balance = balance + 1 WHERE balance = 3000000000";
    database.execute(set).await.unwrap();
    let (code, ..) = finished(command(&database).arg("verify"));
    assert_eq!(code, Some(1));
    let last = verified(&operator).await["last"].clone();
    assert_eq!((&last["by"], &last["result"]), (&json!("command"), &json!("disagrees")));
    assert!(last["findings"][0]["what"].as_str().unwrap().contains("stands at entry 1"), "{last}");
    assert_eq!((&last["checked"]["findings"], &last["operator_id"]), (&json!(1), &Value::Null));
}

async fn one_verification_runs_at_a_time(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.ledger.verify_hours = None;
    })
    .await;
    let operator = server.operator(&database, "operator").await;
    let all = (0..20).map(|_| operator.post("/api/admin/verify", &json!({})).send());
    let all = futures_util::future::join_all(all).await;
    let (begun, refused): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.status == 202);
    assert!(!begun.is_empty() && !refused.is_empty(), "{}", begun.len());
    for one in refused {
        assert_eq!(one.status, 409, "{}", one.text);
        assert!(one.body["message"].as_str().unwrap().contains("runs already"), "{}", one.text);
    }
    verified(&operator).await;
    assert_eq!(acts_of(&operator, "verification.started").await.len(), begun.len());
    let runs = database.query("SELECT CAST(COUNT(*) AS TEXT) FROM verification").await;
    assert_eq!(runs, begun.len().to_string());
}

async fn a_quarantined_account_is_released_once_its_records_agree(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("3.00").await;
    let key = user.key().await;
    for _ in 0..3 {
        server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    }
    let id = user.id.clone();
    server.stop();
    crate::commands::unlock(&database).await;
    let of = "account_id IN (SELECT id FROM account WHERE environment = 1 AND user_id =
        (SELECT id FROM users WHERE username = 'someone'))";
    let entry =
        |by: &str| format!("UPDATE ledger_entry SET amount = amount {by} 1 WHERE seq = 4 AND {of}");
    database.execute(&entry("-")).await.unwrap();
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let pay = || server.post("/api/hub/rag/index", &json!({})).key(&key);
    let empty = operator.get("/api/admin/quarantine").expect(200).await.body;
    assert_eq!(empty, json!({ "accounts": [], "next_cursor": null }));
    operator.post("/api/admin/quarantine/1/release", &json!({})).expect(404).await;
    pay().expect(503).await;
    let page = operator.get("/api/admin/quarantine").expect(200).await.body;
    let blocked = &page["accounts"][0];
    assert_eq!(page["accounts"].as_array().unwrap().len(), 1);
    assert_eq!((&blocked["user_id"], &blocked["environment"]), (&json!(id), &json!("live")));
    assert_eq!((&blocked["is_checked"], &blocked["first_wrong_entry"]), (&json!(true), &json!(4)));
    assert!(blocked["reason"].is_string() && blocked["since"].is_string(), "{blocked}");
    assert!(blocked["findings"][0].as_str().unwrap().contains("entry 4"), "{blocked}");
    let read = acts_of(&operator, "user.read").await;
    assert_eq!((&read[0]["user_id"], &read[0]["detail"]), (&json!(id), &json!("quarantine")));
    let path = format!("/api/admin/quarantine/{}/release", blocked["account"]);
    let refused = operator.post(&path, &json!({})).expect(409).await;
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("entry 4") && message.contains("stays blocked"), "{message}");
    pay().expect(503).await;
    for wrong in ["0", "x", "-1", "999999"] {
        let path = format!("/api/admin/quarantine/{wrong}/release");
        operator.post(&path, &json!({})).expect(404).await;
    }
    database.execute(&entry("+")).await.unwrap();
    // It stays on the list until somebody uses it or releases it.
    server.advance(61);
    let page = operator.get("/api/admin/quarantine").expect(200).await.body;
    assert_eq!(page["accounts"][0]["findings"], json!([]));
    let released = operator.post(&path, &json!({ "reason": "repaired" })).expect(200).await;
    assert_eq!(released.body["user_id"], json!(id));
    pay().expect(200).await;
    assert_eq!(operator.get("/api/admin/quarantine").expect(200).await.body, empty);
    let acts = acts_of(&operator, "quarantine.ended").await;
    assert_eq!(
        (acts.len(), &acts[0]["detail"], &acts[0]["user_id"]),
        (1, &json!("repaired"), &json!(id))
    );
    operator.post(&path, &json!({})).expect(404).await;
}

async fn no_secret_is_among_the_settings(database: Database) {
    let secret =
        |name: &str| Some(Secret::from(format!("hush-{name}-0123456789-0123456789-0123456789")));
    let server = Server::start_with(&database, |settings| {
        settings.auth.jwt_secret = secret("jwt");
        settings.auth.jwt_previous_secret = secret("jwt-previous");
        settings.auth.key_pepper = secret("pepper");
        settings.auth.key_previous_pepper = secret("pepper-previous");
        settings.server.metrics_token = secret("metrics");
        settings.payments.stripe.secret_key = secret("stripe");
        settings.payments.stripe.webhook_secret = secret("stripe-webhook");
        settings.payments.stripe.url = "http://hush-user:hush-pass@127.0.0.1:9".into();
        settings.payments.stripe.success_url =
            "https://example.com/?token=hush-success&s={ID}".into();
        settings.payments.x402.facilitator_api_key = secret("x402");
        settings.upstreams.hub.url = Some("http://hush-user:hush-pass@127.0.0.1:9/base".into());
        settings.upstreams.v1.fallback_url = Some("http://127.0.0.1:9".into());
        settings.upstreams.v1.url = Some("http://127.0.0.1:9".into());
        settings.upstreams.v1.api_key = secret("upstream");
        settings.upstreams.v1.fallback_api_key = secret("fallback");
        for upstream in [
            &mut settings.upstreams.hub,
            &mut settings.upstreams.omm,
            &mut settings.upstreams.yggdrasil,
        ] {
            upstream.api_key = secret("group");
            upstream.fallback_api_key = secret("group-fallback");
        }
        settings.email.smtp_url = Some(Secret::from("smtp://hush:hush@127.0.0.1:9".to_owned()));
    })
    .await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("someone").await;
    user.get("/api/admin/settings").expect(403).await;
    let answer = operator.get("/api/admin/settings").expect(200).await;
    assert!(!answer.text.contains("hush"), "{}", answer.text);
    let all = answer.body["settings"].as_array().unwrap();
    let of = |name: &str| {
        all.iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("{name}"))
    };
    for name in ["auth.jwt_secret", "auth.key_pepper", "upstreams.v1.api_key", "database.url"] {
        assert_eq!(of(name)["value"], "[redacted]", "{name}");
    }
    assert_eq!(of("upstreams.hub.url")["value"], "http://[redacted]@127.0.0.1:9/base");
    let shown = &of("payments.stripe.success_url")["value"];
    assert_eq!(shown, "https://example.com/?token=[redacted]&s={ID}");
    assert_eq!(of("ledger.verify_hours")["source"], "default");
    assert_eq!(of("server.bind")["change"], "restart");
    // Every secret that a setting may have is set here, and so tried.
    let secrets = all.iter().filter(|setting| setting["value"] == "[redacted]");
    assert_eq!(secrets.count(), SECRETS, "a secret is not set in this test, or is shown");
}

/// Settings that are secrets.
const SECRETS: usize = 18;

async fn webhooks_that_fail_are_told_without_their_secrets(database: Database) {
    let receiver = Receiver::start();
    let server = Server::start_with(&database, |settings| {
        settings.webhooks.allow_private_addresses = true;
    })
    .await;
    let operator = server.operator(&database, "operator").await;
    let path = "/api/admin/webhooks?state=failing";
    let (one, other) = (server.user("one").await, server.user("other").await);
    one.get(path).expect(403).await;
    let mut made = Vec::new();
    for (user, url) in [(&one, receiver.url.clone()), (&other, receiver.url.clone())] {
        let body = json!({ "url": url, "events": null });
        made.push(user.post("/api/webhooks", &body).expect(201).await.body);
    }
    let none = operator.get(path).expect(200).await.body;
    assert_eq!(none, json!({ "webhooks": [], "next_cursor": null }));
    receiver.answer(500);
    for (user, hook) in [(&one, &made[0]), (&other, &made[1])] {
        let path = format!("/api/webhooks/{}/test", hook["id"].as_str().unwrap());
        user.post(&path, &json!({})).send().await;
    }
    eventually("both fail", async || {
        operator.get(path).expect(200).await.body["webhooks"].as_array().unwrap().len() == 2
    })
    .await;
    server.advance(90);
    let first = operator.get(&format!("{path}&limit=1")).expect(200).await;
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let second = operator.get(&format!("{path}&limit=1&cursor={cursor}")).expect(200).await;
    assert_eq!(second.body["next_cursor"], Value::Null);
    let told = [&first.body["webhooks"][0], &second.body["webhooks"][0]];
    assert_eq!([&told[0]["user_id"], &told[1]["user_id"]], [&json!(other.id), &json!(one.id)]);
    let hook = told[1];
    assert_eq!((&hook["id"], &hook["url"]), (&made[0]["id"], &json!(receiver.url.clone())));
    assert_eq!(hook["last_failure"]["status"], 500, "{hook}");
    assert!(hook["oldest_event_age_seconds"].as_i64().unwrap() >= 90, "{hook}");
    assert!(hook["failing_since"].is_string() && hook["switched_off_at"].is_null());
    let secret = made[0]["secret"].as_str().unwrap();
    assert!(!first.text.contains("whsec_") && !second.text.contains(secret));
    let read = acts_of(&operator, "user.read").await;
    assert!(read.iter().any(|act| act["user_id"] == json!(one.id)), "{read:?}");
    // Who has switched theirs off by themselves has nothing that fails.
    let path_of_one = format!("/api/webhooks/{}", made[0]["id"].as_str().unwrap());
    let off = json!({ "enabled": false });
    one.server
        .request(reqwest::Method::PATCH, &path_of_one)
        .body(off.to_string())
        .bearer(&one.token)
        .expect(200)
        .await;
    let left = operator.get(path).expect(200).await.body;
    assert_eq!(left["webhooks"].as_array().unwrap().len(), 1, "{left}");
    // Gone is switched off at once.
    receiver.answer(410);
    let path = format!("/api/webhooks/{}/test", made[1]["id"].as_str().unwrap());
    other.post(&path, &json!({})).send().await;
    eventually("it is switched off", async || {
        let off = operator.get("/api/admin/webhooks?state=switched_off").expect(200).await.body;
        off["webhooks"][0]["switched_off_at"].is_string()
    })
    .await;
    operator.get("/api/admin/webhooks?state=well").expect(400).await;
    operator.get("/api/admin/webhooks?cursor=x").expect(400).await;
}

/// What an operator watches.
struct Watched(reqwest::Response, String);

impl Watched {
    async fn begin(server: &Server, header: (&str, &str), query: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.get(server.url(&format!("/api/admin/events{query}")));
        let answer = request.header(header.0, header.1).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Watched(answer, String::new())
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        let read = async {
            loop {
                if let Some((event, rest)) = self.1.split_once("\n\n") {
                    let (name, data) = event.split_once('\n').unwrap();
                    let name = name.strip_prefix("event: ").unwrap().to_owned();
                    let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
                    let rest = rest.to_owned();
                    self.1 = rest;
                    return Some((name, data));
                }
                let piece = self.0.chunk().await.unwrap()?;
                self.1.push_str(std::str::from_utf8(&piece).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("no event in ten seconds")
    }

    /// Reads to the end, and answers why it ended.
    async fn reason(&mut self) -> String {
        while let Some((name, data)) = self.next().await {
            if name == "end" {
                assert!(self.next().await.is_none());
                return data["reason"].as_str().unwrap().to_owned();
            }
        }
        panic!("it ended without a reason");
    }
}

async fn an_operator_watches_what_happens(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let key = user.key().await;
    user.get("/api/admin/events").expect(403).await;
    operator.get("/api/admin/events?seconds=0").expect(400).await;
    server
        .request(reqwest::Method::HEAD, "/api/admin/events")
        .bearer(&operator.token)
        .expect(200)
        .await;
    // Before somebody watches.
    server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
    let bearer = format!("Bearer {}", operator.token);
    let mut watched = Watched::begin(&server, ("authorization", &bearer), "").await;
    let (name, first) = watched.next().await.unwrap();
    assert_eq!(
        (name.as_str(), &first["calls"], &first["latest"]),
        ("second", &json!(0), &json!([]))
    );
    let mut said = hello();
    said["messages"][0]["content"] = json!("a word that stays here");
    let called = server.post("/v1/chat/completions", &said).key(&key).expect(200).await;
    let mut streamed = said.clone();
    streamed["stream"] = json!(true);
    server.post("/v1/chat/completions", &streamed).key(&key).expect(200).await;
    server.post("/v1/chat/completions", &said).header("X-API-Key", "ps_live_x").expect(401).await;
    let (mut calls, mut refused, mut latest, mut spent) = (0, 0, Vec::new(), 0);
    for _ in 0..20 {
        let (_, second) = watched.next().await.unwrap();
        assert!(!second.to_string().contains("a word that"), "{second}");
        calls += second["calls"].as_u64().unwrap();
        refused += second["refusals"]["invalid_key"].as_u64().unwrap_or_default();
        latest.splice(0..0, second["latest"].as_array().unwrap().clone());
        spent = nanos(&second["spent_in_minute"]);
        if (calls, refused, latest.len()) == (2, 1, 2) {
            break;
        }
    }
    assert_eq!((calls, refused, latest.len()), (2, 1, 2), "{latest:?}");
    let cost: domain::Credits = called.header("x-polysystems-cost").parse().unwrap();
    let of_first = &latest[1];
    assert_eq!(of_first["request_id"], called.header("x-polysystems-charge"));
    assert_eq!((&of_first["user_id"], &of_first["status"]), (&json!(user.id), &json!(200)));
    assert_eq!((&of_first["model"], nanos(&of_first["cost"])), (&said["model"], cost.nanos()));
    assert_eq!(spent, nanos(&latest[0]["cost"]) + cost.nanos());
    let read = acts_of(&operator, "user.read").await;
    assert!(read.iter().any(|act| act["detail"] == "live calls of all users"), "{read:?}");
    // Nobody has to wait for the end.
    let mut short = Watched::begin(&server, ("authorization", &bearer), "?seconds=1").await;
    assert_eq!(short.reason().await, "time_over");
}

async fn a_watch_ends_with_its_session(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let other = server.operator(&database, "other").await;
    let bearer = format!("Bearer {}", operator.token);
    let mut watched = Watched::begin(&server, ("authorization", &bearer), "").await;
    let of_other = format!("Bearer {}", other.token);
    let mut others = Watched::begin(&server, ("authorization", &of_other), "").await;
    watched.next().await.unwrap();
    operator.post("/api/auth/logout", &json!({})).expect(200).await;
    assert_eq!(watched.reason().await, "session_ended");
    assert_eq!(others.next().await.unwrap().0, "second");
    // Watching is no use of a session: it ends when it would have.
    server.advance(86_400 * 60);
    assert_eq!(others.reason().await, "session_ended");
}

async fn a_watch_ends_with_the_role(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let bearer = format!("Bearer {}", operator.token);
    let mut watched = Watched::begin(&server, ("authorization", &bearer), "").await;
    watched.next().await.unwrap();
    database.execute("UPDATE users SET role = 1 WHERE username = 'operator'").await.unwrap();
    assert_eq!(watched.reason().await, "not_operator");
}

async fn a_watch_ends_with_the_server(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let bearer = format!("Bearer {}", operator.token);
    let mut watched = Watched::begin(&server, ("authorization", &bearer), "").await;
    watched.next().await.unwrap();
    let begun = std::time::Instant::now();
    let stopping = tokio::task::spawn_blocking(move || server.stop());
    assert_eq!(watched.reason().await, "server_stops");
    stopping.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

async fn so_many_may_watch(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let bearer = format!("Bearer {}", operator.token);
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(Watched::begin(&server, ("authorization", &bearer), "").await);
    }
    let refused = operator.get("/api/admin/events").expect(409).await;
    assert!(refused.body["message"].as_str().unwrap().contains("Close one"), "{}", refused.text);
    drop(all.pop());
    // Its place is free once the server has seen that it is gone.
    eventually("a place is free", async || {
        operator.get("/api/admin/events?seconds=1").send().await.status == 200
    })
    .await;
}
