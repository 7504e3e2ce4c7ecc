//! What is sold by the name of a model: to whom, for which requests, and who is asked for it.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use std::sync::Arc;

use polysystems::config::Settings;
use serde_json::{Value, json};

use crate::fallbacks::{
    INPUT, OUTPUT, REQUEST, card, cost, document, full, last_body, model, payer, sell_document,
    selling,
};
use crate::models::row;
use crate::streams::rich_user;
use crate::support::process::{Process, command, finished, verify};
use crate::support::upstream::{Script, Step, Upstream, word};
use crate::support::{Answer, Database, Key, Server, nanos, on_both, run};
use crate::thief::RICH;
use domain::catalogue::{BilledService, Modality, ProviderDialect, SoldModel, Wildcard};
use domain::pricing::Extra;
use domain::rates::UnitPrice;
use domain::{Card, Dim, Service};

on_both!(
    what_a_model_sells_is_held_for_and_charged_and_nothing_else_is_sold,
    a_catalogue_that_cannot_be_read_stops_the_start,
);

macro_rules! on_sqlite {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test] fn $name() { super::run(super::$name(super::Database::sqlite())); })*
        }
    };
}

on_sqlite!(
    a_caller_cannot_switch_a_pattern_off,
    counts_go_to_the_deployments_of_the_model,
    a_model_that_is_known_to_think_is_held_for_as_one_that_does,
    a_key_is_for_models_and_not_for_what_they_are_called_by,
    images_and_files_go_to_models_that_take_them,
    the_tier_that_is_billed_is_the_one_that_the_deployment_says,
    tiers_that_are_shed_leave_room_to_others,
    what_callers_bring_about_stops_nobody,
);

/// Nano-dollars of a search of the web.
const SEARCH: i64 = 10_000_000;

/// The card of one, and a price for searches.
fn card_with_searches() -> Arc<Card> {
    let plain = card(1);
    let rates = plain.rows()[0].rates.with(Dim::WebSearch, UnitPrice::from_nanos(SEARCH).unwrap());
    Arc::new(Card::flat(rates).unwrap())
}

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

fn hello(model: &str) -> Value {
    json!({ "model": model, "max_tokens": 50,
        "messages": [{ "role": "user", "content": "Hello!" }] })
}

async fn call(server: &Server, key: &Key, body: &Value, status: u16) -> Answer {
    server.post(CHAT, body).key(key).expect(status).await
}

async fn a_caller_cannot_switch_a_pattern_off(database: Database) {
    let upstream = Upstream::start(Script::Asked(|body| {
        if body["model"] == "good" {
            return full(body, 9);
        }
        let error = json!({ "message": "no such model", "code": "model_not_found" });
        Script::Answer(404, json!({ "error": error }).to_string())
    }))
    .await;
    let mut document = document(&[(model("own"), &upstream, 1)]);
    document.wildcards.push(Wildcard {
        pattern: "open/*".into(),
        credential: "own".into(),
        upstream_model: None,
        model: SoldModel { name: "".into(), ..model("") },
    });
    let cards = ["own", "open/*"].map(|name| (name.into(), card(1))).into();
    let server = sell_document(&database, document, cards, |_| ()).await;
    let (user, key) = rich_user(&server, "someone").await;
    call(&server, &key, &hello("open/good"), 200).await;
    for _ in 0..3 {
        call(&server, &key, &hello("open/made-up"), 502).await;
    }
    let answer = call(&server, &key, &hello("open/good"), 200).await;
    let each = REQUEST + 9 * INPUT + 50 * OUTPUT;
    assert_eq!((cost(&answer), user.folded().await), (each, RICH - 2 * each));
    // The operator has named this one, so it is not asked again.
    call(&server, &key, &hello("own"), 502).await;
    let calls = upstream.calls();
    call(&server, &key, &hello("own"), 503).await;
    assert_eq!(upstream.calls(), calls);
}

async fn counts_go_to_the_deployments_of_the_model(database: Database) {
    let elsewhere = Upstream::start(Script::Answer(200, "{}".into())).await;
    let theirs = Upstream::start(Script::Answer(200, json!({ "input_tokens": 14 }).to_string()));
    let theirs = theirs.await;
    let google = Upstream::start(Script::Answer(200, json!({ "totalTokens": 15 }).to_string()));
    let google = google.await;
    let models = [(model("claude"), &theirs, 1), (model("gem"), &google, 1)];
    let mut document = document(&models);
    document.providers[0].dialect = ProviderDialect::Anthropic;
    document.providers[1].dialect = ProviderDialect::Gemini;
    let cards = ["claude", "gem"].map(|name| (name.into(), card(1))).into();
    let url = elsewhere.url();
    let change = |settings: &mut Settings| settings.upstreams.v1.url = Some(url);
    let server = sell_document(&database, document, cards, change).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let messages = json!([{ "role": "user", "content": "Hello!" }]);
    let body = json!({ "model": "claude", "messages": messages });
    let counted = server.post("/v1/messages/count_tokens", &body).key(&key).expect(200).await;
    assert_eq!(counted.body, json!({ "input_tokens": 14 }));
    assert_eq!(counted.header("x-polysystems-cost"), "0.0000");
    assert_eq!(theirs.last_body()["model"], "theirs-claude");
    let body = json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hello!" }] }] });
    let counted = server.post("/v1beta/models/gem:countTokens", &body).key(&key).expect(200).await;
    assert_eq!(counted.body, json!({ "totalTokens": 15 }));
    let asked = google.heads.lock().unwrap().last().unwrap().clone();
    assert!(asked.starts_with("post /v1/models/theirs-gem:counttokens "), "{asked}");
    assert_eq!((theirs.calls(), google.calls(), elsewhere.calls()), (1, 1, 0));
    assert_eq!(user.ledger().await.len(), 0);
}

async fn a_model_that_is_known_to_think_is_held_for_as_one_that_does(database: Database) {
    let upstream = Upstream::start(Script::Asked(|body| full(body, 9))).await;
    // The catalogue says of neither that it thinks.
    let models = [(model("o3-x"), &upstream, 1), (model("plain"), &upstream, 1)];
    let server = selling(&database, &models, |_| ()).await;
    for (name, hold, told, taken) in [
        ("plain", REQUEST + 9 * INPUT + 500 * OUTPUT, None, REQUEST + 9 * INPUT + 500 * OUTPUT),
        // A quarter of what there is, and 200 tokens are what that pays for.
        ("o3-x", 12_000_000, Some(200), 12_000_000),
    ] {
        let (user, key) = payer(&server, name, "0.048").await;
        let mut body = hello(name);
        body.as_object_mut().unwrap().remove("max_tokens");
        let run = server.post(CHAT, &body).header("x-dry-run", "true").key(&key);
        assert_eq!(nanos(&run.expect(200).await.body["hold"]), hold, "{name}");
        call(&server, &key, &body, 200).await;
        assert_eq!(last_body(&upstream)["max_tokens"].as_u64(), told, "{name}");
        assert_eq!(user.folded().await, 48_000_000 - taken, "{name}");
    }
    server.stop();
    verify(&database);
}

async fn what_a_model_sells_is_held_for_and_charged_and_nothing_else_is_sold(database: Database) {
    // What it has found is part of the prompt, and is not seen here.
    let upstream = Upstream::start(Script::Asked(|body| full(body, 700))).await;
    let searches = SoldModel { sells: vec![Extra::HostedTools], ..model("searches") };
    let models = [(searches, &upstream, 1), (model("plain"), &upstream, 1)];
    // What the route sells does not count if models are sold by their names.
    let change = |settings: &mut Settings| {
        let price = json!({ "method": "POST", "path": CHAT, "class": "generation",
            "base": "0.0020", "per_token": "0.00001", "sells": ["hosted_tools"] });
        settings.prices.push(serde_json::from_value(price).unwrap());
    };
    let cards = [("searches", card_with_searches()), ("plain", card(1))];
    let cards = cards.map(|(name, card)| (Arc::from(name), card));
    let server = sell_document(&database, document(&models), cards.into(), change).await;
    let (user, key) = rich_user(&server, "someone").await;
    let with = |model: &str, tool: &str| {
        let mut body = hello(model);
        body["tools"] = json!([{ "type": tool }]);
        body
    };
    let refused = call(&server, &key, &with("plain", "web_search"), 400).await;
    let message = refused.body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("tools: hosted_tools is not available here"), "{message}");
    let mut background = hello("searches");
    background["background"] = json!(true);
    call(&server, &key, &background, 400).await;
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
    // The prompt may fill the context window of 1,000 tokens, after ten searches.
    let body = with("searches", "web_search");
    let run = server.post(CHAT, &body).header("x-dry-run", "true").key(&key).expect(200).await;
    let whole = REQUEST + 1_000 * INPUT + 50 * OUTPUT + 10 * SEARCH;
    assert_eq!((nanos(&run.body["hold"]), nanos(&run.body["cost"]["most"])), (whole, whole));
    let answer = call(&server, &key, &body, 200).await;
    // Nobody says how often it has searched.
    let taken = REQUEST + 700 * INPUT + 50 * OUTPUT + SEARCH;
    assert_eq!((cost(&answer), user.folded().await), (taken, RICH - taken));
    // Less than for the shortest answer.
    let (poor, its_key) = payer(&server, "poor", "1.101159").await;
    call(&server, &its_key, &body, 402).await;
    assert_eq!((upstream.calls(), poor.folded().await), (1, 1_101_159_000));
    server.stop();
    verify(&database);
}

async fn a_catalogue_that_cannot_be_read_stops_the_start(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let provider = json!({ "providers": [{ "name": "openai", "dialect": "openai" }] });
    let put = operator.put("/api/admin/catalogue", &provider).header("If-Match", "\"rev-0\"");
    put.expect(200).await;
    server.stop();
    let start = async || Process::try_start_with(&database, |_| ()).await.is_some();
    assert!(start().await);
    // The database itself forbids it.
    let open = if database.is_postgres() {
        "ALTER TABLE catalogue_revision DISABLE TRIGGER ALL"
    } else {
        "DROP TRIGGER catalogue_revision_no_update"
    };
    database.execute(open).await.unwrap();
    let change = "UPDATE catalogue_revision SET document = REPLACE(document, 'openai', 'azure')";
    database.execute(change).await.unwrap();
    // Without its models it would sell by its routes, at other prices.
    assert!(!start().await, "it sells without its catalogue");
    let ended = finished(command(&database).env("POLYSYSTEMS_SERVER__BIND", "127.0.0.1:0"));
    assert_ne!(ended.0, Some(0));
    let said = "the catalogue cannot be sold: revision 1: it is not the document that was written";
    assert!(ended.2.contains(said) && ended.2.contains("catalogue.source"), "{}", ended.2);
    // A sound file takes its place.
    let path = database.folder().join("models.toml");
    std::fs::write(&path, "").unwrap();
    let mended = Process::try_start_with(&database, |command| {
        command
            .env("POLYSYSTEMS_CATALOGUE__SOURCE", "file")
            .env("POLYSYSTEMS_CATALOGUE__FILE", &path);
    });
    assert!(mended.await.is_some());
    assert!(start().await);
}

async fn a_key_is_for_models_and_not_for_what_they_are_called_by(database: Database) {
    let upstream = Upstream::start(Script::Asked(|body| full(body, 9))).await;
    let with = |name: &str, alias: &str| SoldModel { aliases: vec![alias.into()], ..model(name) };
    let models = [(with("m", "one"), &upstream, 1), (with("n", "other"), &upstream, 1)];
    let server = selling(&database, &models, |_| ()).await;
    let (user, _) = rich_user(&server, "someone").await;
    for (allowed, permitted) in [
        (json!(["m"]), ["m", "one"].as_slice()),
        // Who names an alias means its model.
        (json!(["one"]), &["m", "one"]),
        (json!(["n*"]), &["n", "other"]),
        // A beginning is one of names of models: no alias begins to be one.
        (json!(["o*"]), &[]),
        (json!([]), &[]),
    ] {
        let key = user.key_of(&json!({ "name": "k", "allowed_models": allowed })).await;
        for name in ["m", "one", "n", "other"] {
            let status = if permitted.contains(&name) { 200 } else { 403 };
            call(&server, &key, &hello(name), status).await;
            let body = json!({ "model": name, "messages": hello(name)["messages"] });
            let count = server.post("/v1/messages/count_tokens", &body).key(&key).send().await;
            assert_eq!(count.status == 403, status == 403, "{allowed} {name}: {}", count.text);
        }
        let listed = server.get("/v1/models").key(&key).expect(200).await.body;
        let listed = listed["data"].as_array().unwrap();
        let listed: Vec<&str> = listed.iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert_eq!(listed, permitted, "{allowed}");
    }
    // A repeat is for whom the call would be.
    let key = user.key_of(&json!({ "name": "k", "allowed_models": ["m"] })).await;
    let repeat = async |status| {
        let again = server.post(CHAT, &hello("one")).key(&key).header("idempotency-key", "1");
        again.expect(status).await
    };
    let first = repeat(200).await;
    assert_eq!(repeat(200).await.header("idempotent-replayed"), "true");
    let path = format!("/api/keys/{}", key.id);
    user.patch(&path, &json!({ "allowed_models": ["n"] })).expect(200).await;
    repeat(403).await;
    user.patch(&path, &json!({ "allowed_models": ["one"] })).expect(200).await;
    assert_eq!(repeat(200).await.body, first.body);
}

async fn images_and_files_go_to_models_that_take_them(database: Database) {
    let upstream = Upstream::start(Script::Asked(|body| {
        let usage = json!({ "prompt_tokens": 9, "input_tokens": 9, "output_tokens": 1,
            "completion_tokens": 1 });
        let gemini = json!({ "promptTokenCount": 9, "candidatesTokenCount": 1 });
        let answer = json!({ "model": body["model"], "usage": usage, "usageMetadata": gemini,
            "content": [{ "type": "text", "text": "x" }], "choices": [], "output": [],
            "candidates": [] });
        Script::Answer(200, answer.to_string())
    }))
    .await;
    let able =
        |name: &str, kinds: &[Modality]| SoldModel { modalities: kinds.to_vec(), ..model(name) };
    let every = [Modality::Image, Modality::Audio, Modality::Video, Modality::File];
    let names = ["text", "image", "audio", "video", "file"];
    let mut document = document(&[]);
    let mut cards = Vec::new();
    for (dialect, of) in [
        (ProviderDialect::OpenAi, "gpt"),
        (ProviderDialect::Anthropic, "claude"),
        (ProviderDialect::Gemini, "gem"),
    ] {
        let named = |name: &str| format!("{of}-{name}");
        let mut models = vec![(able(&named("text"), &[]), &upstream, 1)];
        models.extend(every.map(|kind| (able(&named(kind.name()), &[kind]), &upstream, 1)));
        let mut more = crate::fallbacks::document(&models);
        more.providers.iter_mut().for_each(|provider| provider.dialect = dialect);
        document.providers.extend(more.providers);
        document.credentials.extend(more.credentials);
        document.deployments.extend(more.deployments);
        document.models.extend(more.models);
        cards.extend(names.map(|name| (named(name).into(), card(1))));
    }
    let server = sell_document(&database, document, cards, |_| ()).await;
    let (_, key) = rich_user(&server, "someone").await;
    let chat = |part: Value| json!({ "messages": [{ "role": "user", "content": [part] }] });
    let input = |part: Value| json!({ "input": [{ "role": "user", "content": [part] }] });
    let gemini = |kind: &str| {
        let data = json!({ "inlineData": { "mimeType": kind, "data": "AAAA" } });
        json!({ "contents": [{ "role": "user", "parts": [data] }] })
    };
    let source = |kind: &str| json!({ "type": "base64", "media_type": kind, "data": "AAAA" });
    let image = json!({ "url": "data:image/png;base64,AAAA" });
    let pdf = "data:application/pdf;base64,AAAA";
    for (path, of, body, kind) in [
        (CHAT, "gpt", chat(json!({ "type": "image_url", "image_url": image })), "image"),
        (
            CHAT,
            "gpt",
            chat(
                json!({ "type": "input_audio", "input_audio": { "data": "AAAA", "format": "wav" } }),
            ),
            "audio",
        ),
        (CHAT, "gpt", chat(json!({ "type": "file", "file": { "file_data": pdf } })), "file"),
        (CHAT, "gpt", chat(json!({ "type": "text", "text": "an image" })), "text"),
        (
            "/v1/responses",
            "gpt",
            input(json!({ "type": "input_image", "image_url": image["url"] })),
            "image",
        ),
        (
            MESSAGES,
            "claude",
            chat(json!({ "type": "image", "source": source("image/png") })),
            "image",
        ),
        (
            MESSAGES,
            "claude",
            chat(json!({ "type": "document", "source": source("application/pdf") })),
            "file",
        ),
        ("", "gem", gemini("image/png"), "image"),
        ("", "gem", gemini("audio/wav"), "audio"),
        ("", "gem", gemini("video/mp4"), "video"),
        ("", "gem", gemini("application/pdf"), "file"),
    ] {
        for name in names {
            let (mut body, model) = (body.clone(), format!("{of}-{name}"));
            let path = match path {
                "" => format!("/v1beta/models/{model}:generateContent"),
                path => {
                    body["model"] = json!(model);
                    path.to_owned()
                }
            };
            if path == MESSAGES {
                body["max_tokens"] = json!(50);
            }
            let calls = upstream.calls();
            let answer = server.post(&path, &body).key(&key).send().await;
            let is_taken = kind == "text" || name == kind;
            assert_eq!(answer.status == 200, is_taken, "{path} {body}: {}", answer.text);
            assert_eq!(upstream.calls() - calls, usize::from(is_taken), "{path} {body}");
            if !is_taken {
                assert_eq!(answer.status, 400, "{}", answer.text);
                let said = format!("does not take content of the kind {kind}");
                assert!(answer.text.contains(&said), "{}", answer.text);
            }
        }
    }
}

async fn the_tier_that_is_billed_is_the_one_that_the_deployment_says(database: Database) {
    let upstream = Upstream::start(Script::Asked(|body| {
        let Script::Answer(status, text) = full(body, 9) else { return Script::Silent };
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        answer["service_tier"] = json!("default");
        Script::Answer(status, answer.to_string())
    }))
    .await;
    let models = [(model("honest"), &upstream, 1), (model("silent"), &upstream, 1)];
    let mut document = document(&models);
    document.deployments[1].service = BilledService::Requested;
    let rows = vec![
        row(Service::Standard, 0, &[(Dim::Input, "1000"), (Dim::Output, "10")]),
        row(Service::Priority, 0, &[(Dim::Input, "2000"), (Dim::Output, "20")]),
    ];
    let card = std::sync::Arc::new(Card::new(rows).unwrap());
    let cards = ["honest", "silent"].map(|name| (name.into(), card.clone())).into();
    let server = sell_document(&database, document, cards, |_| ()).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut left = RICH;
    for (name, tier, times) in
        [("honest", "priority", 1), ("silent", "priority", 2), ("silent", "default", 1)]
    {
        let mut body = hello(name);
        body["service_tier"] = json!(tier);
        let answer = call(&server, &key, &body, 200).await;
        let taken = times * (9 * INPUT + 50 * OUTPUT);
        left -= taken;
        assert_eq!((cost(&answer), user.folded().await), (taken, left), "{name} {tier}");
    }
    server.stop();
    verify(&database);
}

async fn tiers_that_are_shed_leave_room_to_others(database: Database) {
    let upstream = Upstream::start(Script::Events(vec![word("a"), Step::Stall])).await;
    let mut document = document(&[(model("m"), &upstream, 1)]);
    document.deployments[0].concurrency = Some(10);
    let change = |settings: &mut Settings| settings.catalogue.shed_tiers = vec!["free".into()];
    let cards = vec![("m".into(), card(1))];
    let server = sell_document(&database, document, cards, change).await;
    let operator = server.operator(&database, "operator").await;
    let (free, its_key) = rich_user(&server, "free").await;
    let path = format!("/api/admin/users/{}/tier", free.id);
    operator.put(&path, &json!({ "tier": "free" })).expect(200).await;
    let (_, key) = rich_user(&server, "paying").await;
    let mut body = hello("m");
    body["stream"] = json!(true);
    let stream = |key| server.post(CHAT, &body).key(key).stream();
    let mut running = vec![stream(&its_key).await];
    for _ in 0..8 {
        running.push(stream(&key).await);
    }
    let status = async |key| {
        let asked = server.post(CHAT, &body).key(key);
        asked.0.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(&its_key).await, 503);
    let refused = server.post(CHAT, &body).key(&its_key).expect(503).await;
    assert_eq!(refused.body["error"]["code"], "upstream_busy");
    assert_eq!(refused.header("retry-after"), "1");
    running.push(stream(&key).await);
    // There is no room at all now.
    assert_eq!((status(&key).await, status(&its_key).await), (429, 503));
    assert_eq!(upstream.calls(), 10);
    drop(running);
}

async fn what_callers_bring_about_stops_nobody(database: Database) {
    let upstream = Upstream::start(Script::Asked(|body| full(body, 9))).await;
    let mut document = document(&[(model("m"), &upstream, 1)]);
    document.deployments[0].rpm = Some(6);
    document.providers[0].dialect = ProviderDialect::Anthropic;
    let server = sell_document(&database, document, vec![("m".into(), card(1))], |_| ()).await;
    let (user, key) = rich_user(&server, "someone").await;
    let answer = json!({ "type": "message", "content": [{ "type": "text", "text": "a" }],
        "usage": { "input_tokens": 9, "output_tokens": 1 } });
    let answers = || upstream.script(Script::Answer(200, answer.to_string()));
    let message = || server.post(MESSAGES, &hello("m")).key(&key);
    answers();
    message().expect(200).await;
    let said = |kind: &str, text: &str| {
        json!({ "type": "error", "error": { "type": kind, "message": text } }).to_string()
    };
    for script in [
        Script::Answer(403, said("permission_error", "You may not use this model")),
        Script::Answer(429, said("rate_limit_error", "Request too large for this model")),
        Script::Answer(404, said("not_found_error", "model: theirs-m")),
    ] {
        upstream.script(script.clone());
        message().expect(502).await;
        answers();
        message().expect(200).await;
        // Six calls of a minute.
        server.advance(60);
        upstream.script(script);
        for _ in 0..3 {
            message().expect(502).await;
        }
        answers();
        message().expect(200).await;
        server.advance(60);
    }
    // Counts are free, and any number of them takes nothing from those who pay.
    let poor = server.user("poor").await;
    let poor = poor.key().await;
    let body = json!({ "model": "m", "messages": hello("m")["messages"] });
    let count = || server.post("/v1/messages/count_tokens", &body).key(&poor);
    upstream.script(Script::Headed(429, "retry-after: 60\r\n", "{}".into()));
    for _ in 0..8 {
        count().expect(429).await;
    }
    for status in [401, 500] {
        upstream.script(Script::Answer(status, said("x", "x")));
        for _ in 0..12 {
            count().send().await;
        }
    }
    answers();
    message().expect(200).await;
    assert_eq!(user.folded().await, RICH - 8 * (REQUEST + 9 * INPUT + OUTPUT));
}
