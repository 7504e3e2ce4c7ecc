//! The catalogue of models: changed by operators and by commands, in a file, by several at once.

use std::fs::File;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use polysystems::config::{CatalogueSource, DatabaseSettings};
use polysystems::store::Store;
use polysystems::store::catalogue::{CatalogueWrite, CatalogueWritten, NewRevision};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::process::{Process, command, finished};
use crate::support::{Database, NOON, Server, User, on_both};

on_both!(
    a_change_binds_at_once_and_a_stale_one_not_at_all,
    single_parts_are_changed_and_what_is_used_stays,
    of_ten_writers_one_wins_each_revision,
    a_secret_is_nowhere,
    secrets_are_set_rotated_disabled_and_deleted,
    a_change_by_another_process_is_sold_soon,
    a_faulty_file_changes_nothing,
    commands_change_the_catalogue,
    a_new_pepper_keeps_secrets,
    a_crash_changes_all_or_nothing,
    what_is_on_record_cannot_be_changed,
);

const CATALOGUE: &str = "/api/admin/catalogue";
const SECRET: &str = "sk-a-secret-of-a-provider-7f3a";

fn model(name: &str) -> Value {
    json!({ "name": name, "max_input": 200_000, "max_output": 64_000,
        "targets": [{ "credential": "main" }] })
}

fn document(models: &[&str]) -> Value {
    json!({
        "providers": [{ "name": "anthropic", "dialect": "anthropic" }],
        "credentials": [{ "name": "main", "provider": "anthropic" }],
        "deployments": [],
        "models": models.iter().map(|name| model(name)).collect::<Vec<_>>(),
        "wildcards": [],
    })
}

async fn status(operator: &User<'_>) -> Value {
    operator.get("/api/admin/catalogue/status").expect(200).await.body
}

/// Puts the whole document in the place of revision `seen`.
async fn put(operator: &User<'_>, seen: u64, document: &Value) -> Value {
    let request = operator.put(CATALOGUE, document).header("If-Match", &format!("\"rev-{seen}\""));
    request.expect(200).await.body
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn a_change_binds_at_once_and_a_stale_one_not_at_all(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let somebody = server.user("somebody").await;
    for path in [CATALOGUE, "/api/admin/credentials", "/api/admin/models"] {
        somebody.get(path).expect(403).await;
        server.get(path).expect(401).await;
    }
    let empty = operator.get(CATALOGUE).expect(200).await;
    assert_eq!(empty.header("etag"), "\"rev-0\"");
    assert_eq!(
        empty.body,
        json!({ "providers": [], "credentials": [], "deployments": [],
        "models": [], "wildcards": [] })
    );
    let first = document(&["one"]);
    somebody.put(CATALOGUE, &first).header("If-Match", "\"rev-0\"").expect(403).await;
    let missing = operator.put(CATALOGUE, &first).expect(428).await;
    assert_eq!(missing.body["error"], "Revision missing");
    let changed = put(&operator, 0, &first).await;
    assert_eq!(
        (&changed["revision"], changed["changes"].as_array().unwrap().len()),
        (&json!(1), 3)
    );
    let sold = status(&operator).await;
    assert_eq!(
        (&sold["selling"], &sold["stored"], &sold["models"]),
        (&json!(1), &json!(1), &json!(1))
    );
    // Without a secret the deployment is not asked.
    assert_eq!(sold["disabled_deployments"], 1);
    for seen in ["\"rev-0\"", "\"rev-2\"", "\"rev-1", "rev-1", "*", "W/\"rev-1\""] {
        let request = operator.put(CATALOGUE, &document(&["two"])).header("If-Match", seen);
        let stale = request.expect(412).await;
        assert_eq!(stale.body["error"], "Revision stale", "{seen}");
    }
    // The same again is no revision.
    assert_eq!(put(&operator, 1, &first).await["revision"], 1);

    let mut faulty = document(&["one"]);
    faulty["models"][0]["max_output"] = json!(0);
    faulty["credentials"][0]["provider"] = json!("nobody");
    faulty["providers"][0]["url"] = json!("http://169.254.169.254/");
    let asked = |path: &str| operator.put(path, &faulty).header("If-Match", "\"rev-1\"");
    let refused = asked(CATALOGUE).expect(400).await;
    let places: Vec<&str> = refused.body["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|detail| detail["field"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["providers[0].url", "credentials[0].provider", "models[0].max_output"]);
    let told = asked(&format!("{CATALOGUE}?dry_run=true")).expect(200).await.body;
    let places: Vec<&Value> =
        told["faults"].as_array().unwrap().iter().map(|fault| &fault["path"]).collect();
    assert_eq!(places.len(), 3);
    assert_eq!((&told["revision"], &told["dry_run"]), (&json!(1), &json!(true)));

    let patch = json!({ "models": [model("one"), model("two")] });
    let dry = format!("{CATALOGUE}?dry_run=true");
    let would = operator.patch(&dry, &patch).header("If-Match", "\"rev-1\"").expect(200).await;
    assert_eq!(would.body["changes"][0]["name"], "two");
    operator.patch(CATALOGUE, &patch).expect(428).await;
    let patched =
        operator.patch(CATALOGUE, &patch).header("If-Match", "\"rev-1\"").expect(200).await;
    assert_eq!((&patched.body["revision"], patched.header("etag")), (&json!(2), "\"rev-2\""));
    assert_eq!(status(&operator).await["models"], 2);

    earlier_revisions_are_compared_and_restored(&operator, &first).await;
    // A number of a deployment is given once.
    let ids = "SELECT name || '=' || id FROM deployment_name WHERE id = 1";
    assert_eq!(database.query(ids).await.trim(), "one/main=1");
    // It outlives the process, and so does the session.
    let (id, token) = (operator.id.clone(), operator.token.clone());
    server.stop();
    let server = Server::start(&database).await;
    let operator = User { server: &server, id, token };
    assert_eq!(status(&operator).await["selling"], 3);
}

async fn earlier_revisions_are_compared_and_restored(operator: &User<'_>, first: &Value) {
    let diff = operator.get("/api/admin/catalogue/revisions/1/diff").expect(200).await.body;
    assert_eq!((&diff["from"], &diff["to"]), (&json!(1), &json!(2)));
    assert_eq!(diff["changes"][0]["change"], "added");
    let restore = "/api/admin/catalogue/revisions/1/restore";
    operator.post(restore, &json!({})).expect(428).await;
    operator.post(restore, &json!({})).header("If-Match", "\"rev-1\"").expect(412).await;
    let restored =
        operator.post(restore, &json!({})).header("If-Match", "\"rev-2\"").expect(200).await;
    assert_eq!(restored.body["revision"], 3);
    assert_eq!(operator.get(CATALOGUE).expect(200).await.body, *first);
    let earlier = operator.get(&format!("{CATALOGUE}?revision=2")).expect(200).await;
    assert_eq!(earlier.body["models"].as_array().unwrap().len(), 2);
    let page = operator.get("/api/admin/catalogue/revisions?limit=2").expect(200).await.body;
    assert_eq!(page["revisions"][0]["note"], "revision 1 restored");
    assert_eq!(page["revisions"][0]["author_id"], operator.id.as_str());
    let next =
        format!("/api/admin/catalogue/revisions?cursor={}", page["next_cursor"].as_str().unwrap());
    let last = operator.get(&next).expect(200).await.body;
    assert_eq!((&last["revisions"][0]["number"], &last["next_cursor"]), (&json!(1), &Value::Null));
    for path in ["revisions/4", "revisions/x", "revisions/9/diff"] {
        operator.get(&format!("{CATALOGUE}/{path}")).expect(404).await;
    }
    let acts = operator.get("/api/admin/audit-log").expect(200).await.body;
    let of_catalogue: Vec<&Value> = acts["acts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|act| act["action"] == "catalogue.changed")
        .map(|act| &act["subject"])
        .collect();
    assert_eq!(of_catalogue, ["rev-3", "rev-2", "rev-1"]);
}

async fn single_parts_are_changed_and_what_is_used_stays(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    put(&operator, 0, &document(&["one"])).await;
    let deployment =
        json!({ "name": "one/eu", "credential": "main", "upstream_model": "one-2026" });
    let added = operator.post("/api/admin/deployments", &deployment).expect(200).await;
    assert_eq!(added.body["revision"], 2);
    let again = operator.post("/api/admin/deployments", &deployment).expect(409).await;
    assert!(again.text.contains("use PUT"), "{}", again.text);
    let read = operator.get("/api/admin/deployments/one%2Feu").expect(200).await;
    assert_eq!((&read.body, read.header("etag")), (&deployment, "\"rev-2\""));
    operator.get("/api/admin/deployments/other").expect(404).await;
    let set = json!({ "credential": "main", "rpm": 60 });
    operator.put("/api/admin/deployments/one%2Feu", &set).expect(200).await;
    let wrong = json!({ "name": "other", "credential": "main" });
    operator.put("/api/admin/deployments/one%2Feu", &wrong).expect(400).await;
    let all = operator.get("/api/admin/deployments").expect(200).await.body;
    assert_eq!((&all["revision"], &all["deployments"][0]["rpm"]), (&json!(3), &json!(60)));
    let model = json!({ "max_input": 9, "max_output": 9, "targets": [{ "deployment": "one/eu" }] });
    let stale = operator.put("/api/admin/models/two", &model).header("If-Match", "\"rev-2\"");
    stale.expect(412).await;
    operator.put("/api/admin/models/two", &model).expect(200).await;
    for path in ["providers/anthropic", "deployments/one%2Feu", "credentials/main"] {
        let used = operator.delete(&format!("/api/admin/{path}")).expect(409).await;
        assert!(used.text.contains("It is used: "), "{}", used.text);
    }
    operator.delete("/api/admin/models/two?dry_run=true").expect(200).await;
    operator.get("/api/admin/models/two").expect(200).await;
    operator.delete("/api/admin/models/two").expect(200).await;
    operator.delete("/api/admin/models/two").expect(404).await;
    operator.delete("/api/admin/deployments/one%2Feu").expect(200).await;
    for body in ["[]", "7", "{", r#"{"name":"a","name":"b"}"#, r#"{"name":"a\u0000"}"#, "null"] {
        let request = server.request(Method::POST, "/api/admin/models").body(body);
        request.bearer(&operator.token).expect(400).await;
    }
    let secret = json!({ "name": "other", "provider": "anthropic", "secret": SECRET });
    let mut whole = document(&["one"]);
    whole["credentials"][0] = secret;
    let refused = operator.put(CATALOGUE, &whole).header("If-Match", "\"rev-6\"").expect(400).await;
    assert_eq!(refused.body["details"][0]["field"], "credentials[0].secret");
    assert!(!refused.text.contains(SECRET));
}

async fn of_ten_writers_one_wins_each_revision(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    put(&operator, 0, &document(&["one"])).await;
    for seen in 1..=5_u64 {
        let writes = (0..10).map(|writer| {
            let patch = json!({ "models": [model("one"), model(&format!("w{seen}-{writer}"))] });
            let request = operator.patch(CATALOGUE, &patch);
            request.header("If-Match", &format!("\"rev-{seen}\"")).send()
        });
        let answers = join_all(writes).await;
        let won: Vec<&Value> = answers
            .iter()
            .filter(|answer| answer.status == 200)
            .map(|answer| &answer.body)
            .collect();
        assert_eq!(won.len(), 1, "revision {seen}");
        assert_eq!(won[0]["revision"], seen + 1);
        assert!(answers.iter().all(|answer| [200, 412].contains(&answer.status.as_u16())));
    }
    put(&operator, 6, &document(&["one"])).await;
    // Without If-Match each is made on what is there, so none is lost.
    let adds = (0..10).map(|writer| {
        operator.post("/api/admin/models", &model(&format!("m{writer}"))).expect(200)
    });
    join_all(adds).await;
    let all = operator.get("/api/admin/models").expect(200).await.body;
    assert_eq!((&all["revision"], all["models"].as_array().unwrap().len()), (&json!(17), 11));
    let numbers = "SELECT CAST(COUNT(DISTINCT id) AS TEXT) || ' ' || CAST(MAX(id) AS TEXT)
        FROM deployment_name";
    let numbers = database.query(numbers).await;
    let (count, last) = numbers.trim().split_once(' ').unwrap();
    assert_eq!(count, last, "numbers of deployments have no gap and no double");
    assert_eq!(status(&operator).await["selling"], 17);
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn a_secret_is_nowhere(database: Database) {
    let log = database.folder().join("log");
    let file = File::create(&log).unwrap();
    let process = Process::start_with(&database, |command| {
        command.env("POLYSYSTEMS_LOG__LEVEL", "debug").stderr(file);
    })
    .await;
    let token = process.operator(&database, "operator").await;
    let mut answers = String::new();
    let other = SECRET.replace("7f3a", "0000-9c1d");
    let set = json!({ "provider": "anthropic", "secret": SECRET });
    for (method, path, body, expected) in [
        (
            "POST",
            "/api/admin/providers",
            json!({ "name": "anthropic", "dialect": "anthropic" }),
            200,
        ),
        ("PUT", "/api/admin/credentials/main", set.clone(), 200),
        ("PUT", "/api/admin/credentials/main", set, 200),
        ("PUT", "/api/admin/credentials/x", json!({ "provider": "nobody", "secret": SECRET }), 400),
        ("PUT", "/api/admin/credentials/x", json!({ "provider": 7, "secret": [SECRET] }), 400),
        (
            "PUT",
            "/api/admin/credentials/X",
            json!({ "provider": "anthropic", "secret": SECRET }),
            400,
        ),
        ("PUT", "/api/admin/credentials/x", json!({ "provider": SECRET, "secret": "a b" }), 400),
        ("POST", "/api/admin/credentials/main/rotate", json!({ "secret": other }), 200),
        ("POST", "/api/admin/credentials/none/rotate", json!({ "secret": other }), 404),
        ("POST", "/api/admin/models", model("one"), 200),
        ("PUT", "/api/admin/models/one", json!({ "secret": SECRET }), 400),
        ("GET", "/api/admin/credentials", json!(null), 200),
        ("GET", "/api/admin/catalogue", json!(null), 200),
        ("GET", "/api/admin/catalogue/revisions/1", json!(null), 200),
        ("GET", "/api/admin/audit-log", json!(null), 200),
        ("GET", "/api/openapi.json", json!(null), 200),
    ] {
        let (status, answer) = process.call(method, path, &token, &body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        answers.push_str(&answer.to_string());
    }
    let shown = process.call("GET", "/api/admin/credentials", &token, &json!(null)).await.1;
    assert_eq!(shown["credentials"][0]["hint"], "9c1d");
    // It can be used: sealed, and opened by the server.
    let sold = process.call("GET", "/api/admin/catalogue/status", &token, &json!(null)).await.1;
    assert_eq!(sold["disabled_deployments"], 0);
    drop(process);
    let text = if database.is_postgres() { "ENCODE(sealed, 'hex')" } else { "HEX(sealed)" };
    let sealed = database.query(&format!("SELECT {text} FROM credential")).await.to_lowercase();
    let documents = "SELECT document || note FROM catalogue_revision WHERE number = 1";
    let documents = database.query(documents).await;
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("/api/admin/credentials"), "{log}");
    for secret in [SECRET, &other] {
        let hex = crate::support::hex(secret.as_bytes());
        for (place, text) in
            [("answers", &answers), ("log", &log), ("sealed", &sealed), ("documents", &documents)]
        {
            assert!(!text.contains(secret) && !text.contains(&hex), "{place}");
        }
    }
    if !database.is_postgres() {
        for entry in std::fs::read_dir(database.folder()).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap_or_default();
            let has = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!has, "{}", path.display());
        }
    }
}

async fn secrets_are_set_rotated_disabled_and_deleted(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    put(&operator, 0, &document(&["one"])).await;
    let disabled = async || status(&operator).await["disabled_deployments"].as_u64().unwrap();
    assert_eq!(disabled().await, 1);
    for act in ["rotate", "enable", "disable"] {
        let body = if act == "rotate" { json!({ "secret": SECRET }) } else { json!({}) };
        operator.post(&format!("/api/admin/credentials/main/{act}"), &body).expect(404).await;
    }
    let set = json!({ "provider": "anthropic", "secret": SECRET });
    let answer = operator.put("/api/admin/credentials/main", &set).expect(200).await;
    assert_eq!(answer.body, json!({ "name": "main", "revision": 1 }));
    assert_eq!(disabled().await, 0);
    operator.post("/api/admin/credentials/main/disable", &json!({})).expect(200).await;
    assert_eq!(disabled().await, 1);
    // To rotate it does not enable it.
    let other = json!({ "secret": "sk-another-secret-of-it-1b2c" });
    operator.post("/api/admin/credentials/main/rotate", &other).expect(200).await;
    assert_eq!(disabled().await, 1);
    operator.post("/api/admin/credentials/main/enable", &json!({})).expect(200).await;
    assert_eq!(disabled().await, 0);
    // The secret was for anthropic, so it does not go to another provider by a change of the rest.
    let mut moved = document(&["one"]);
    moved["providers"].as_array_mut().unwrap().push(json!({ "name": "b", "dialect": "openai" }));
    moved["credentials"][0]["provider"] = json!("b");
    put(&operator, 1, &moved).await;
    assert_eq!(disabled().await, 1);
    let set = json!({ "provider": "b", "secret": SECRET, "quota_group": "org-1" });
    operator.put("/api/admin/credentials/main", &set).expect(200).await;
    assert_eq!(disabled().await, 0);
    let list = operator.get("/api/admin/credentials").expect(200).await.body;
    let shown = &list["credentials"][0];
    assert_eq!(
        (&shown["provider"], &shown["quota_group"], &shown["hint"]),
        (&json!("b"), &json!("org-1"), &json!("7f3a"))
    );
    // Nor to another address.
    let address = json!({ "dialect": "openai", "url": "https://thief.example.com/v1" });
    operator.put("/api/admin/providers/b", &address).expect(200).await;
    assert_eq!(disabled().await, 1);
    operator.post("/api/admin/credentials/main/enable", &json!({})).expect(200).await;
    assert_eq!(disabled().await, 1);
    operator.put("/api/admin/providers/b", &json!({ "dialect": "openai" })).expect(200).await;
    assert_eq!(disabled().await, 0);
    operator.put("/api/admin/providers/b", &address).expect(200).await;
    operator.post("/api/admin/credentials/main/rotate", &other).expect(200).await;
    assert_eq!(disabled().await, 0);
    operator.delete("/api/admin/credentials/main").expect(409).await;
    operator.delete("/api/admin/models/one").expect(200).await;
    operator.delete("/api/admin/credentials/main").expect(200).await;
    operator.delete("/api/admin/credentials/main").expect(404).await;
    let list = operator.get("/api/admin/credentials").expect(200).await.body;
    assert_eq!(list["credentials"], json!([]));
    let acts = operator.get("/api/admin/audit-log").expect(200).await;
    for act in ["set", "rotated", "enabled", "disabled", "deleted"] {
        assert!(acts.text.contains(&format!("credential.{act}")), "{act}");
    }
}

/// Waits until `is_so`, for so many seconds at most.
async fn within(seconds: u64, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(seconds), "it takes too long");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn a_change_by_another_process_is_sold_soon(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let (settings, runtime) = (DatabaseSettings::default(), tokio::runtime::Handle::current());
    let store = Store::open_existing(&settings, database.url(), runtime).await.unwrap();
    let write = |expected: u64, names: &[&str]| {
        let document = document(names);
        let read = polysystems::models::document::read(document.clone()).unwrap();
        let deployments = read.deployment_names();
        let document = document.to_string();
        store.catalogue.write(CatalogueWrite {
            expected,
            revision: Some(NewRevision { document, deployments, author: None, note: "x".into() }),
            credential: None,
            act: None,
            at: domain::Timestamp::from_micros(NOON),
        })
    };
    assert_eq!(write(0, &["one", "two"]).await.unwrap(), CatalogueWritten::Done(1));
    within(2, async || status(&operator).await["models"] == 2).await;
    assert_eq!(write(0, &["one"]).await.unwrap(), CatalogueWritten::Stale(1));
    assert_eq!(write(1, &["one"]).await.unwrap(), CatalogueWritten::Done(2));
    within(2, async || status(&operator).await["selling"] == 2).await;
    // What cannot be read never takes the place of what is sold.
    let faulty = CatalogueWrite {
        expected: 2,
        revision: Some(NewRevision {
            document: r#"{"models":[{"name":"x"}]}"#.into(),
            deployments: Vec::new(),
            author: None,
            note: String::new(),
        }),
        credential: None,
        act: None,
        at: domain::Timestamp::from_micros(NOON),
    };
    assert_eq!(store.catalogue.write(faulty).await.unwrap(), CatalogueWritten::Done(3));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sold = status(&operator).await;
    assert_eq!(
        (&sold["stored"], &sold["selling"], &sold["models"]),
        (&json!(3), &json!(2), &json!(1))
    );
    put(&operator, 3, &document(&["one", "two", "three"])).await;
    assert_eq!(status(&operator).await["models"], 3);
    store.close().await;
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn a_faulty_file_changes_nothing(database: Database) {
    let path = database.folder().join("models.toml");
    let key = database.folder().join("key");
    std::fs::write(&key, SECRET).unwrap();
    let text = |name: &str| {
        format!(
            "[[providers]]\nname = \"anthropic\"\ndialect = \"anthropic\"\n\
             [[credentials]]\nname = \"main\"\nprovider = \"anthropic\"\nsecret = \"file:{}\"\n\
             [[models]]\nname = \"{name}\"\nmax_input = 9\nmax_output = 9\n\
             targets = [{{ credential = \"main\" }}]\n",
            key.display()
        )
    };
    std::fs::write(&path, text("one")).unwrap();
    let start = || {
        Server::start_with(&database, |settings| {
            settings.catalogue.source = CatalogueSource::File;
            settings.catalogue.file = Some(path.clone());
        })
    };
    let server = start().await;
    let operator = server.operator(&database, "operator").await;
    let sold = status(&operator).await;
    assert_eq!((&sold["selling"], &sold["disabled_deployments"]), (&json!(1), &json!(0)));
    assert_eq!(sold["file"]["faults"], json!([]));
    let refused = operator.put(CATALOGUE, &document(&["x"])).header("If-Match", "\"rev-1\"");
    assert_eq!(refused.expect(409).await.body["error"], "Catalogue is a file");
    let set = json!({ "provider": "anthropic", "secret": SECRET });
    operator.put("/api/admin/credentials/main", &set).expect(409).await;
    operator.delete("/api/admin/models/one").expect(409).await;

    std::fs::write(&path, text("One").replace("max_output = 9", "max_output = 0")).unwrap();
    within(5, async || status(&operator).await["file"]["faults"].as_array().unwrap().len() == 2)
        .await;
    let sold = status(&operator).await;
    assert_eq!(
        (&sold["selling"], &sold["stored"], &sold["models"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let metrics = server.get("/metrics").send().await;
    assert!(metrics.status == 404 || metrics.text.contains("polysystems_catalogue_file_faulty 1"));
    std::fs::remove_file(&path).unwrap();
    within(5, async || {
        let faults = &status(&operator).await["file"]["faults"];
        faults[0]["message"].as_str().unwrap().contains("cannot read")
    })
    .await;
    std::fs::write(&path, text("two")).unwrap();
    within(5, async || status(&operator).await["selling"] == 2).await;
    assert_eq!(status(&operator).await["file"]["faults"], json!([]));
    // A file with a secret counts too.
    std::fs::remove_file(&key).unwrap();
    within(5, async || !status(&operator).await["file"]["faults"].as_array().unwrap().is_empty())
        .await;
    assert_eq!(status(&operator).await["disabled_deployments"], 0);
    std::fs::write(&key, SECRET).unwrap();
    within(5, async || status(&operator).await["file"]["faults"] == json!([])).await;
    let revision = operator.get("/api/admin/catalogue/revisions/2").expect(200).await;
    assert_eq!(
        (&revision.body["note"], &revision.body["author_id"]),
        (&json!("models.toml"), &Value::Null)
    );
    assert!(!revision.text.contains(SECRET));
    let (token, id) = (operator.token.clone(), operator.id.clone());
    server.stop();
    // The same file is no new revision.
    let server = start().await;
    let operator = User { server: &server, id, token };
    assert_eq!(status(&operator).await["selling"], 2);
    server.stop();
    // A faulty one stops the start, and says all.
    std::fs::write(&path, text("One").replace("max_input = 9", "max_input = 0")).unwrap();
    let ended = finished(
        command(&database)
            .env("POLYSYSTEMS_CATALOGUE__SOURCE", "file")
            .env("POLYSYSTEMS_CATALOGUE__FILE", &path)
            .env("POLYSYSTEMS_SERVER__BIND", "127.0.0.1:0"),
    );
    assert_eq!(ended.0, Some(78), "{}", ended.2);
    assert!(
        ended.2.contains("models[0].name") && ended.2.contains("models[0].max_input"),
        "{}",
        ended.2
    );
}

async fn commands_change_the_catalogue(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let path = database.folder().join("models.toml");
    let text = "[[providers]]\nname = \"anthropic\"\ndialect = \"anthropic\"\n\
                [[credentials]]\nname = \"main\"\nprovider = \"anthropic\"\nsecret = \"env:THE_KEY\"\n\
                [[models]]\nname = \"one\"\nmax_input = 9\nmax_output = 9\n\
                targets = [{ credential = \"main\" }]\n";
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    let url = server.url("/");
    let run = |arguments: &[&str], key: Option<&str>, input: Option<&str>| {
        let mut command = command(&database);
        command.args(arguments).env("POLYSYSTEMS_OPERATOR", "operator@example.com");
        command.env("POLYSYSTEMS_URL", &url);
        if let Some(key) = key {
            command.env("THE_KEY", key);
        }
        if let Some(input) = input {
            let from = database.folder().join("input");
            std::fs::write(&from, input).unwrap();
            command.stdin(File::open(from).unwrap());
        }
        finished(&mut command)
    };
    // All secrets are read before anything is changed.
    let (code, _, error) = run(&["catalogue", "apply", file], None, None);
    assert_eq!(code, Some(1));
    assert!(error.contains("THE_KEY is not set"), "{error}");
    let (code, out, error) = run(&["catalogue", "apply", file, "--dry-run"], Some(SECRET), None);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("models one: added") && out.contains("Nothing was written"), "{out}");
    assert_eq!(status(&operator).await["stored"], 0);
    let (code, out, error) = run(&["catalogue", "apply", file], Some(SECRET), None);
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.contains("Revision 1 is in force") && out.contains("secret of main is set"),
        "{out}"
    );
    let sold = status(&operator).await;
    assert_eq!((&sold["selling"], &sold["disabled_deployments"]), (&json!(1), &json!(0)));
    let (_, out, _) = run(&["catalogue", "show", "--toml"], None, None);
    let again = database.folder().join("again.toml");
    std::fs::write(&again, &out).unwrap();
    let (_, out, _) = run(&["catalogue", "apply", again.to_str().unwrap()], None, None);
    assert!(out.contains("has this content already"), "{out}");
    std::fs::write(&path, text.replace("\"one\"", "\"two\"")).unwrap();
    run(&["catalogue", "apply", file], Some(SECRET), None);
    let (_, out, _) = run(&["catalogue", "diff", "1"], None, None);
    assert!(out.contains("models one: removed") && out.contains("models two: added"), "{out}");
    let (_, out, _) = run(&["catalogue", "restore", "1"], None, None);
    assert!(out.contains("Revision 3 is in force"), "{out}");
    std::fs::write(&path, text.replace("max_input = 9", "max_input = 0").replace("one", "One"))
        .unwrap();
    let (code, _, error) = run(&["catalogue", "apply", file], Some(SECRET), None);
    assert_eq!(code, Some(1));
    assert!(error.contains("models[0].name") && error.contains("models[0].max_input"), "{error}");
    let rotate = ["credentials", "rotate", "main"];
    let (code, out, error) = run(&rotate, None, Some("sk-another-secret-of-it-1b2c\n"));
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("main has a new secret"), "{out}");
    let set = ["credentials", "set", "second", "--provider", "anthropic"];
    assert_eq!(run(&set, None, Some(SECRET)).0, Some(0));
    assert_eq!(run(&set, None, Some("")).0, Some(1));
    let (_, out, _) = run(&["credentials", "list"], None, None);
    assert!(out.contains("1b2c") && out.contains("7f3a") && !out.contains(SECRET), "{out}");
}

/// A new pepper keeps the secrets of providers, and seals them anew.
async fn a_new_pepper_keeps_secrets(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    put(&operator, 0, &document(&["one"])).await;
    let set = json!({ "provider": "anthropic", "secret": SECRET });
    operator.put("/api/admin/credentials/main", &set).expect(200).await;
    let (id, token) = (operator.id.clone(), operator.token.clone());
    server.stop();
    let secret = |name: &str| finished(command(&database).args(["secret", name])).1;
    secret("rotate-pepper");
    let one = "With another one: 2 encrypted secrets";
    assert!(secret("status").contains(one), "the credential's, and the operator's second factor");
    let server = Server::start(&database).await;
    within(5, async || secret("status").contains("With another one: 0 encrypted secrets")).await;
    server.stop();
    std::fs::remove_file(database.folder().join("key_pepper.previous")).unwrap();
    let server = Server::start(&database).await;
    let operator = User { server: &server, id, token };
    assert_eq!(status(&operator).await["disabled_deployments"], 0);
    // Without the pepper it is lost, and that is all.
    let (id, token) = (operator.id.clone(), operator.token.clone());
    server.stop();
    std::fs::remove_file(database.folder().join("key_pepper")).unwrap();
    let server = Server::start(&database).await;
    let operator = User { server: &server, id, token };
    assert_eq!(status(&operator).await["disabled_deployments"], 1);
    assert_eq!(status(&operator).await["models"], 1);
}

async fn a_crash_changes_all_or_nothing(database: Database) {
    let process = Process::start(&database).await;
    let token = process.operator(&database, "operator").await;
    drop(process);
    let mut revision = 0;
    for (point, _) in polysystems::failpoint::OF_CATALOGUE {
        let mut process = Process::start_with(&database, |command| {
            command.env("FAILPOINTS", format!("{point}=return"));
        })
        .await;
        let request = process.client.put(format!("{}{CATALOGUE}", process.url)).bearer_auth(&token);
        let request = request.header("If-Match", format!("\"rev-{revision}\""));
        let sent = request.body(document(&["one"]).to_string()).send().await;
        assert!(sent.is_err(), "{point}: {sent:?}");
        process.wait().await;
        revision += u64::from(*point == "catalogue-on-record");
        let process = Process::start(&database).await;
        let path = "/api/admin/catalogue/status";
        let (status, sold) = process.call("GET", path, &token, &json!(null)).await;
        assert_eq!(status, 200, "{sold}");
        assert_eq!(
            (&sold["stored"], &sold["selling"]),
            (&json!(revision), &json!(revision)),
            "{point}"
        );
        let acts = "SELECT CAST(COUNT(*) AS TEXT) FROM audit_log WHERE kind = 'catalogue.changed'";
        assert_eq!(database.query(acts).await.trim(), revision.to_string(), "{point}");
        drop(process);
    }
}

async fn what_is_on_record_cannot_be_changed(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    put(&operator, 0, &document(&["one"])).await;
    for sql in [
        "UPDATE catalogue_revision SET document = '{}'",
        "DELETE FROM catalogue_revision",
        "UPDATE deployment_name SET id = 7",
        "DELETE FROM deployment_name",
    ] {
        assert!(database.execute(sql).await.is_err(), "{sql}");
    }
    assert!(database.execute("INSERT INTO catalogue_head VALUES (2, 0, 0)").await.is_err());
}
