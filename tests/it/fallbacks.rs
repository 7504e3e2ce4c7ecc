//! Another model answers than the one that was asked for: what is held for it, whose price counts,
//! and which models may not.

use std::sync::Arc;

use futures_util::future::join_all;
use polysystems::config::Settings;
use serde_json::{Value, json};

use crate::models::{row, sell};
use crate::streams::rich_user;
use crate::support::process::verify;
use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Answer, Database, Key, Request, Server, User, nanos, on_both};
use domain::catalogue::{
    Catalogue, CatalogueDocument, Credential, Deployment, DeploymentId, FallbackPrice, Modality,
    ModelProvider, ModelTarget, ProviderDialect, SoldModel, TargetAt,
};
use domain::pricing::Extra;
use domain::{Card, Dim, Service};

on_both!(
    a_prompt_that_costs_more_there_is_held_for_before_it_is_asked,
    sixty_four_that_fall_back_to_more_expensive_prompts_pay_exactly,
    the_price_of_the_model_that_answers_counts_if_the_operator_says_so,
    a_stream_of_another_model_is_held_for_and_billed_by_its_price,
);

macro_rules! on_sqlite {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test] fn $name() { super::run(super::$name(super::Database::sqlite())); })*
        }
    };
}

use crate::support::run;

on_sqlite!(
    a_model_that_thinks_unseen_is_not_asked_if_that_is_not_held_for,
    another_model_is_told_how_long_its_answer_may_be,
    what_a_model_does_not_sell_or_take_does_not_go_to_it,
);

/// Nano-dollars of a token of the prompt and of the answer, and of the call itself, of the model
/// that is asked for.
pub(crate) const INPUT: i64 = 1_000_000;
pub(crate) const OUTPUT: i64 = 10_000;
pub(crate) const REQUEST: i64 = 1_000_000;

pub(crate) fn card(times: i64) -> Arc<Card> {
    let dollars = |nanos: i64| domain::Credits::from_nanos(nanos).to_string();
    let (input, output) = (dollars(1_000_000 * INPUT * times), dollars(1_000_000 * OUTPUT * times));
    let request = dollars(REQUEST * times);
    let prices = [(Dim::Input, &*input), (Dim::Output, &*output), (Dim::Request, &*request)];
    Arc::new(Card::new(vec![row(Service::Standard, 0, &prices)]).unwrap())
}

/// A model that takes 1,000 tokens and answers 500.
pub(crate) fn model(name: &str) -> SoldModel {
    SoldModel {
        name: name.into(),
        max_input: 1_000,
        max_output: 500,
        tokenizer_permille: 1_000,
        ..SoldModel::default()
    }
}

/// A catalogue of models, each at its own upstream, which calls it `theirs-NAME`.
pub(crate) fn document(models: &[(SoldModel, &Upstream, i64)]) -> CatalogueDocument {
    let mut document = CatalogueDocument::default();
    for (model, upstream, _) in models {
        let name = &model.name;
        document.providers.push(ModelProvider {
            name: Arc::clone(name),
            dialect: ProviderDialect::OpenAi,
            url: Some(format!("{}/v1", upstream.url()).into()),
            allows_private: true,
            ..ModelProvider::default()
        });
        document.credentials.push(Credential {
            name: Arc::clone(name),
            provider: Arc::clone(name),
            quota_group: None,
        });
        document.deployments.push(Deployment {
            name: format!("at-{name}").into(),
            credential: Arc::clone(name),
            upstream_model: Some(format!("theirs-{name}").into()),
            ..Deployment::default()
        });
        let at = TargetAt::Deployment(format!("at-{name}").into());
        document.models.push(SoldModel {
            targets: vec![ModelTarget { at, weight: 1, priority: 0 }],
            ..model.clone()
        });
    }
    document
}

/// A server that sells these models, and these others by their cards.
pub(crate) async fn sell_document(
    database: &Database,
    document: CatalogueDocument,
    mut cards: Vec<(Arc<str>, Arc<Card>)>,
    change: impl FnOnce(&mut Settings),
) -> Server {
    cards.sort_by(|one, other| one.0.cmp(&other.0));
    let ids = document.deployment_names().into_iter().zip((1..).map(DeploymentId)).collect();
    sell(database, cards, Catalogue::new(1, document, &ids).unwrap(), change).await
}

/// The same of [`document`], at so many times the price.
pub(crate) async fn selling(
    database: &Database,
    models: &[(SoldModel, &Upstream, i64)],
    change: impl FnOnce(&mut Settings),
) -> Server {
    let cards = models.iter().map(|(model, _, times)| (Arc::clone(&model.name), card(*times)));
    sell_document(database, document(models), cards.collect(), change).await
}

fn too_long() -> Script {
    let error = json!({ "message": "too long", "code": "context_length_exceeded" });
    Script::Answer(400, json!({ "error": error }).to_string())
}

/// Answers with all tokens that it was told, after this many of the prompt.
pub(crate) fn full(body: &Value, prompt: u64) -> Script {
    let told = body["max_tokens"].as_u64().unwrap_or(500);
    let usage = json!({ "prompt_tokens": prompt, "completion_tokens": told });
    let answer = json!({ "id": "x", "model": "theirs", "usage": usage,
        "choices": [{ "message": { "content": " word" } }] });
    Script::Answer(200, answer.to_string())
}

/// What the upstream was sent last.
pub(crate) fn last_body(upstream: &Upstream) -> Value {
    serde_json::from_str(upstream.texts.lock().unwrap().last().unwrap()).unwrap()
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

pub(crate) fn cost(answer: &Answer) -> i64 {
    answer.header("x-polysystems-cost").parse::<domain::Credits>().unwrap().nanos()
}

pub(crate) async fn payer<'s>(server: &'s Server, name: &str, amount: &str) -> (User<'s>, Key) {
    let user = server.user(name).await;
    user.pay(amount).await;
    let key = user.key().await;
    (user, key)
}

async fn a_prompt_that_costs_more_there_is_held_for_before_it_is_asked(database: Database) {
    let small = Upstream::start(too_long()).await;
    let large = Upstream::start(Script::Asked(|body| full(body, 18))).await;
    // It has two tokens for each of ours.
    let long = SoldModel { tokenizer_permille: 2_000, ..model("long") };
    let m = SoldModel { on_context: vec!["long".into()], ..model("m") };
    let server = selling(&database, &[(m, &small, 1), (long, &large, 1)], |_| ()).await;
    let whole = REQUEST + 18 * INPUT + 50 * OUTPUT;
    // 0.0105 is what the first model comes to.
    for (name, amount, told, taken) in [
        ("all", "0.0195", 50, whole),
        ("less", "0.0194", 40, whole - 10 * OUTPUT),
        ("least", "0.01916", 16, whole - 34 * OUTPUT),
    ] {
        let (user, key) = payer(&server, name, amount).await;
        let answer = ask(&server, &key, &json!({})).expect(200).await;
        assert_eq!((cost(&answer), user.folded().await), (taken, 0), "{name}");
        assert_eq!(last_body(&large)["max_tokens"], told, "{name}");
        let header = answer.headers.get("x-polysystems-max-tokens");
        let header = header.map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header, (told != 50).then(|| told.to_string()), "{name}");
        assert_eq!(answer.body["model"], "m");
        assert!(!answer.headers.contains_key("x-polysystems-billed-model"));
    }
    let calls = large.calls();
    // One nano-dollar less than it needs; or the key may not spend so much on one call.
    let (poor, key) = payer(&server, "poor", "0.019159").await;
    let refused = ask(&server, &key, &json!({})).expect(400).await;
    assert_eq!(refused.body["error"]["code"], "context_length_exceeded");
    let (rich, limited) = rich_user(&server, "rich").await;
    let before = rich.folded().await;
    rich.limit(&limited, &json!({ "per_request_limit": 0.0191 })).await;
    ask(&server, &limited, &json!({})).expect(400).await;
    assert_eq!((large.calls(), rich.folded().await), (calls, before));
    assert_eq!(poor.folded().await, 19_159_000);
    // The dry run tells of it.
    let quoted = ask(&server, &key, &json!({})).header("x-dry-run", "true").expect(200).await;
    assert_eq!(nanos(&quoted.body["hold"]), REQUEST + 9 * INPUT + 50 * OUTPUT);
    assert_eq!(nanos(&quoted.body["cost"]["most"]), whole);
    server.stop();
    verify(&database);
}

async fn sixty_four_that_fall_back_to_more_expensive_prompts_pay_exactly(database: Database) {
    for (round, price) in [FallbackPrice::Requested, FallbackPrice::Served].into_iter().enumerate()
    {
        let database = if round == 0 { &database } else { &another(&database) };
        let small = Upstream::start(too_long()).await;
        let large = Upstream::start(Script::Asked(|body| full(body, 18))).await;
        let long = SoldModel { tokenizer_permille: 2_000, ..model("long") };
        let on_context = vec!["long".into()];
        let m = SoldModel { on_context, price_on_fallback: price, ..model("m") };
        let times = if price == FallbackPrice::Served { 3 } else { 1 };
        let models = [(m, &small, 1), (long, &large, 3)];
        let change = |settings: &mut Settings| settings.holds.lower_token_limit = false;
        let server = selling(database, &models, change).await;
        let each = times * (REQUEST + 18 * INPUT + 50 * OUTPUT);
        let amount = domain::Credits::from_nanos(10 * each).to_string();
        let (user, key) = payer(&server, "someone", &amount).await;
        let calls = (0..64).map(|_| ask(&server, &key, &json!({})).send());
        let answers = join_all(calls).await;
        let served: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
        // The others were not covered: at their beginning, or when the other model was to be asked.
        assert!(answers.iter().all(|one| [200, 400, 402].contains(&one.status.as_u16())));
        assert!(served.iter().all(|answer| cost(answer) == each));
        let mut count = i64::try_from(served.len()).unwrap();
        assert_eq!(user.folded().await, (10 - count) * each);
        // One after the other they get all the rest, and no more.
        while count < 10 {
            let answer = ask(&server, &key, &json!({})).expect(200).await;
            assert_eq!(cost(&answer), each);
            count += 1;
        }
        ask(&server, &key, &json!({})).expect(402).await;
        assert_eq!((user.folded().await, large.calls()), (0, 10));
        server.stop();
        verify(database);
    }
}

/// Another database of the same kind.
fn another(database: &Database) -> Database {
    if database.is_postgres() { Database::postgres() } else { Database::sqlite() }
}

async fn the_price_of_the_model_that_answers_counts_if_the_operator_says_so(database: Database) {
    let small = Upstream::start(too_long()).await;
    let large = Upstream::start(Script::Asked(|body| full(body, 9))).await;
    let cheap = Upstream::start(Script::Asked(|body| full(body, 9))).await;
    let asked = |name: &str, other: &str, price_on_fallback| SoldModel {
        on_context: vec![other.into()],
        aliases: vec![format!("{name}-alias").into()],
        price_on_fallback,
        ..model(name)
    };
    let models = [
        (asked("m", "long", FallbackPrice::Served), &small, 2),
        (asked("same", "long", FallbackPrice::Requested), &small, 2),
        (asked("down", "low", FallbackPrice::Served), &small, 2),
        (model("long"), &large, 3),
        (model("low"), &cheap, 1),
    ];
    let server = selling(&database, &models, |_| ()).await;
    let at = |times: i64| times * (REQUEST + 9 * INPUT + 50 * OUTPUT);
    let (user, key) = rich_user(&server, "someone").await;
    let mut left = user.folded().await;
    for (name, times, billed) in [("m", 3, "long"), ("same", 2, ""), ("down", 1, "low")] {
        let answer = ask(&server, &key, &json!({ "model": name })).expect(200).await;
        left -= at(times);
        assert_eq!((cost(&answer), user.folded().await), (at(times), left), "{name}");
        assert_eq!(answer.header("x-polysystems-model"), name);
        let header = answer.headers.get("x-polysystems-billed-model");
        assert_eq!(header.map_or("", |value| value.to_str().unwrap()), billed);
        // The bill names both.
        let charge = answer.header("x-polysystems-charge");
        let path = format!("/api/payments/transactions/{charge}/bill");
        let bill = user.get(&path).expect(200).await.body;
        let card = if billed.is_empty() { name } else { billed };
        assert_eq!((&bill["model"], &bill["card"]), (&json!(name), &json!(card)));
        assert_eq!((nanos(&bill["cost"]), nanos(&bill["amount"])), (at(times), -at(times)));
        let said = "Another model answered than was asked for, and its price counts.";
        let notes = if billed.is_empty() { json!([]) } else { json!([said]) };
        assert_eq!(bill["notes"], notes);
        let table = user.get(&path).header("accept", "text/plain").expect(200).await.text;
        assert!(table.contains(&format!("Model     {name}\nCard      {card}\n")), "{table}");
    }
    // A customer sees before what may count.
    let shown = server.get("/api/models/m").key(&key).expect(200).await.body;
    assert_eq!(shown["may_be_billed_as"], json!(["long"]));
    let shown = server.get("/api/models/same").key(&key).expect(200).await.body;
    assert_eq!(shown["may_be_billed_as"], json!([]));
    let quoted = ask(&server, &key, &json!({})).header("x-dry-run", "true").expect(200).await;
    assert_eq!((nanos(&quoted.body["hold"]), nanos(&quoted.body["cost"]["most"])), (at(2), at(3)));
    // Just enough, and less than the least that it needs.
    let (enough, its_key) = payer(&server, "enough", "0.0315").await;
    ask(&server, &its_key, &json!({})).expect(200).await;
    assert_eq!(enough.folded().await, 0);
    let calls = large.calls();
    let (poor, its_key) = payer(&server, "poor", "0.030479").await;
    ask(&server, &its_key, &json!({})).expect(400).await;
    assert_eq!((large.calls(), poor.folded().await), (calls, 30_479_000));
    // A key that may not call the other model is not billed for it.
    let narrow = user.key_of(&json!({ "name": "n", "allowed_models": ["m", "same"] })).await;
    ask(&server, &narrow, &json!({})).expect(400).await;
    assert_eq!(large.calls(), calls);
    ask(&server, &narrow, &json!({ "model": "same" })).expect(200).await;
    left -= at(2);
    let wide = user.key_of(&json!({ "name": "w", "allowed_models": ["m", "long"] })).await;
    ask(&server, &wide, &json!({ "model": "m-alias" })).expect(200).await;
    left -= at(3);
    assert_eq!(user.folded().await, left);
    server.stop();
    verify(&database);
}

async fn a_stream_of_another_model_is_held_for_and_billed_by_its_price(database: Database) {
    let small = Upstream::start(too_long()).await;
    let words = std::iter::repeat_n(word(" word"), 20);
    let usage = usage_and_done(&json!({ "prompt_tokens": 18, "completion_tokens": 20 }));
    let large = Upstream::start(Script::Events(words.clone().chain([usage]).collect())).await;
    let long = SoldModel { tokenizer_permille: 2_000, ..model("long") };
    let m = SoldModel {
        on_context: vec!["long".into()],
        price_on_fallback: FallbackPrice::Served,
        ..model("m")
    };
    let change = |settings: &mut Settings| settings.holds.step_tokens = 4.try_into().unwrap();
    let server = selling(&database, &[(m, &small, 1), (long, &large, 3)], change).await;
    let at = |tokens: i64| 3 * (REQUEST + 18 * INPUT + tokens * OUTPUT);
    let (user, key) = payer(&server, "someone", "0.2").await;
    let stream = json!({ "stream": true });
    let mut events = ask(&server, &key, &stream).stream().await;
    assert_eq!(events.header("x-polysystems-billed-model"), "long");
    // The start, which is more than one part in 16 of what there is.
    assert_eq!(events.header("x-polysystems-hold"), "0.05748");
    events.rest().await;
    assert_eq!(nanos(&events.bill()["cost"]), at(20));
    assert_eq!(user.folded().await, 200_000_000 - at(20));
    // A client that leaves, and an upstream that breaks off, cost what was delivered.
    let broken = words.chain([Step::Cut]).collect();
    large.script(Script::Events(broken));
    let mut events = ask(&server, &key, &stream).stream().await;
    events.rest().await;
    // Of the prompt nobody has told more than was counted here.
    let counted = 3 * (REQUEST + 9 * INPUT + 20 * OUTPUT);
    assert_eq!(user.folded().await, 200_000_000 - at(20) - counted);
    server.stop();
    verify(&database);
}

async fn a_model_that_thinks_unseen_is_not_asked_if_that_is_not_held_for(database: Database) {
    let small = Upstream::start(too_long()).await;
    let large = Upstream::start(Script::Asked(|body| full(body, 9))).await;
    let with =
        |name: &str, other: &str| SoldModel { on_context: vec![other.into()], ..model(name) };
    let models = [
        (with("shows", "hides"), &small, 1),
        // Its name says so, and not the catalogue.
        (with("shows-too", "o3-hides"), &small, 1),
        (SoldModel { hides_thoughts: true, ..with("thinks", "hides") }, &small, 1),
        (with("o3-thinks", "o3-hides"), &small, 1),
        (with("plain", "visible"), &small, 1),
        (SoldModel { hides_thoughts: true, ..model("hides") }, &large, 1),
        (model("o3-hides"), &large, 1),
        (model("visible"), &large, 1),
    ];
    let server = selling(&database, &models, |_| ()).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut left = user.folded().await;
    for (name, status) in
        [("shows", 400), ("shows-too", 400), ("thinks", 200), ("o3-thinks", 200), ("plain", 200)]
    {
        ask(&server, &key, &json!({ "model": name })).expect(status).await;
        left -= if status == 200 { REQUEST + 9 * INPUT + 50 * OUTPUT } else { 0 };
        assert_eq!(user.folded().await, left, "{name}");
    }
    assert_eq!(large.calls(), 3);
    // It is told what is held, and that is a quarter of what there is.
    let (poor, key) = payer(&server, "poor", "0.048").await;
    let unlimited = json!({ "model": "o3-thinks", "max_tokens": null });
    ask(&server, &key, &unlimited).expect(200).await;
    assert_eq!(last_body(&large)["max_tokens"], 200);
    assert_eq!(poor.folded().await, 48_000_000 - 12_000_000);
    server.stop();
    verify(&database);
}

async fn another_model_is_told_how_long_its_answer_may_be(database: Database) {
    let small = Upstream::start(too_long()).await;
    let large = Upstream::start(Script::Asked(|body| full(body, 9))).await;
    let with =
        |name: &str, other: &str| SoldModel { on_context: vec![other.into()], ..model(name) };
    let models = [
        (with("m", "longer"), &small, 1),
        (with("n", "shorter"), &small, 1),
        (SoldModel { max_output: 100_000, ..model("longer") }, &large, 1),
        (SoldModel { max_output: 30, ..model("shorter") }, &large, 1),
    ];
    let server = selling(&database, &models, |_| ()).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut left = user.folded().await;
    for (name, own, told) in [
        ("m", Value::Null, 500),
        ("m", json!(50), 50),
        ("n", Value::Null, 30),
        ("n", json!(50), 30),
    ] {
        let change = json!({ "model": name, "max_tokens": own });
        let answer = ask(&server, &key, &change).expect(200).await;
        assert_eq!(last_body(&large)["max_tokens"], told, "{change}");
        let taken = REQUEST + 9 * INPUT + told * OUTPUT;
        left -= taken;
        assert_eq!((cost(&answer), user.folded().await), (taken, left), "{change}");
    }
    server.stop();
    verify(&database);
}

async fn what_a_model_does_not_sell_or_take_does_not_go_to_it(database: Database) {
    let small = Upstream::start(too_long()).await;
    let large = Upstream::start(Script::Asked(|body| full(body, 9))).await;
    let with = |name: &str, other: &str| SoldModel {
        on_context: vec![other.into()],
        sells: vec![Extra::HostedTools],
        modalities: vec![Modality::Text, Modality::Image],
        image_tokens_max: Some(100),
        ..model(name)
    };
    let models = [
        (with("m", "plain"), &small, 1),
        (with("n", "able"), &small, 1),
        (model("plain"), &large, 1),
        (with("able", "plain"), &large, 1),
    ];
    let prices = [(Dim::Input, "1"), (Dim::Output, "2"), (Dim::WebSearch, "0.01")];
    let card = Card::new(vec![row(Service::Standard, 0, &prices)]).unwrap();
    let card = Arc::new(card);
    let cards = models.iter().map(|(model, ..)| (Arc::clone(&model.name), Arc::clone(&card)));
    let server = sell_document(&database, document(&models), cards.collect(), |_| ()).await;
    let (_, key) = rich_user(&server, "someone").await;
    let tools = json!({ "tools": [{ "type": "web_search" }] });
    let image = json!({ "messages": [{ "role": "user", "content": [
        { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } },
    ] }] });
    for (name, status) in [("m", 400), ("n", 200), ("plain", 400), ("able", 200)] {
        for body in [&tools, &image] {
            let mut body = body.clone();
            body["model"] = json!(name);
            let answer = ask(&server, &key, &body).expect(status).await;
            let (message, text) = (answer.body["error"]["message"].as_str(), &answer.text);
            if name == "plain" {
                let said =
                    ["hosted_tools is not available", "does not take content of the kind image"];
                assert!(said.iter().any(|said| message.unwrap().contains(said)), "{text}");
            }
        }
    }
    assert_eq!((small.calls(), large.calls()), (4, 4));
}
