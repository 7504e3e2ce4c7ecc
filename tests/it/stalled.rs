//! What waits for a checkpoint that does not come to its end, and what does not.

use std::num::NonZeroU64;

use polysystems::config::Settings;
use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::{Value, json};

use crate::support::process::{Process, verify};
use crate::support::{Database, Key, Server, on_both};

on_both!(a_key_is_changed_while_a_checkpoint_stalls, a_changed_key_stays_changed_after_a_kill);

/// In milliseconds: a checkpoint is not given up while a test runs.
const PATIENCE: u64 = 600_000;

fn patient(settings: &mut Settings) {
    settings.ledger.attempt_max_ms = NonZeroU64::new(PATIENCE).unwrap();
    settings.ledger.age_max_ms = NonZeroU64::new(PATIENCE).unwrap();
}

/// What the tables say now, whatever is in the journal.
async fn in_tables(database: &Database, sql: &str) -> String {
    let connection = database.connect().await;
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one_raw(statement).await.unwrap().unwrap();
    let text = row.try_get_by_index(0).unwrap();
    connection.close().await.unwrap();
    text
}

async fn a_key_is_changed_while_a_checkpoint_stalls(database: Database) {
    let server = Server::start_with(&database, patient).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let keys = [user.key().await, user.key().await, user.key().await, user.key().await];
    let [revoked, deleted, edited, limited] = &keys;
    let untouched = user.key().await;
    let call = |key: &Key| server.post("/api/hub/rag/index", &json!({})).key(key);
    // What they do before is in the tables: from here on nothing gets there.
    user.get("/api/keys").expect(200).await;
    let stall = database.stall_checkpoints().await;
    for key in &keys {
        call(key).expect(200).await;
    }
    // It waits for the checkpoint, and what its account does later waits behind it.
    let creation = user.post("/api/keys", &json!({ "name": "late" }));
    let creation = tokio::spawn(creation.expect(201));
    let once = call(&untouched).header("Idempotency-Key", "once");
    let once = tokio::spawn(once.expect(200));

    let path = |key: &Key, tail: &str| format!("/api/keys/{}{tail}", key.id);
    for _ in 0..2 {
        let answer = user.post(&path(revoked, "/revoke"), &json!(null)).expect(200).await.body;
        assert_eq!(answer["is_active"], false);
        call(revoked).expect(401).await;
    }
    user.delete(&path(deleted, "")).expect(204).await;
    call(deleted).expect(401).await;
    user.delete(&path(deleted, "")).expect(404).await;
    user.patch(&path(deleted, ""), &json!({ "name": "none" })).expect(404).await;
    for (models, status) in [(json!(["m"]), 200), (json!([]), 200), (Value::Null, 200)] {
        let edit = json!({ "name": "other", "allowed_models": models, "scopes": [] });
        let answer = user.patch(&path(edited, ""), &edit).expect(status).await.body;
        assert_eq!((&answer["name"], &answer["allowed_models"]), (&json!("other"), &models));
        call(edited).expect(403).await;
    }
    let renamed = user.patch(&path(revoked, ""), &json!({ "name": "was" })).expect(200).await.body;
    assert_eq!((&renamed["name"], &renamed["is_active"]), (&json!("was"), &json!(false)));
    user.limit(limited, &json!({ "per_request_limit": 0.0001 })).await;
    call(limited).expect(402).await;
    // A key gets another value in the tables: on SQLite nobody else writes there at the same time.
    if database.is_postgres() {
        let rotated = user.post(&path(limited, "/rotate"), &json!({})).expect(200).await.body;
        let value = rotated["key_value"].as_str().unwrap().to_owned();
        call(&Key { id: String::new(), value }).expect(402).await;
        user.post(&path(revoked, "/rotate"), &json!({})).expect(409).await;
    }

    // All that was while the checkpoint stood.
    let changed = "SELECT CAST(COUNT(*) AS TEXT) FROM api_key
        WHERE is_revoked OR is_deleted OR name <> 'a key' OR per_request_limit IS NOT NULL";
    assert_eq!(in_tables(&database, changed).await, "0");
    assert!(!creation.is_finished() && !once.is_finished());
    stall.release().await;
    creation.await.unwrap();
    once.await.unwrap();
    let listed = user.get("/api/keys").expect(200).await.body;
    let listed = listed.as_array().unwrap();
    let find = |key: &Key| listed.iter().find(|listed| listed["id"] == key.id.as_str());
    assert_eq!(find(revoked).unwrap()["is_active"], false);
    assert_eq!(find(revoked).unwrap()["name"], "was");
    assert!(find(deleted).is_none() && listed.len() == 5);
    let of_edited = find(edited).unwrap();
    assert_eq!((&of_edited["name"], &of_edited["scopes"]), (&json!("other"), &json!([])));
    assert!(!find(limited).unwrap()["last_used_at"].is_null());
    let acts = user.get("/api/auth/audit-log?limit=100").expect(200).await.body;
    let count = |kind: &str| {
        acts["acts"].as_array().unwrap().iter().filter(|act| act["action"] == kind).count()
    };
    let kinds = ["key.revoked", "key.deleted", "key.changed", "key.limits_set"];
    assert_eq!(kinds.map(count), [2, 1, 4, 1]);
    // Those four, and the one that is called otherwise.
    assert_eq!(database.query(changed).await, "5");
    server.stop();
    assert_eq!(database.sums_agree().await, 0, "calls without a record");
}

async fn a_changed_key_stays_changed_after_a_kill(database: Database) {
    let start = || {
        Process::start_with(&database, |command| {
            command
                .env("POLYSYSTEMS_LEDGER__ATTEMPT_MAX_MS", PATIENCE.to_string())
                .env("POLYSYSTEMS_LEDGER__AGE_MAX_MS", PATIENCE.to_string());
        })
    };
    let mut process = start().await;
    let customer = process.customer("someone", 10).await;
    let (token, name) = (&customer.token, json!({ "name": "a key" }));
    let mut keys = Vec::new();
    for _ in 0..4 {
        let made = process.call("POST", "/api/keys", token, &name).await.1;
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        keys.push(Key { id: text("id"), value: text("key_value") });
    }
    let paths: Vec<String> = keys.iter().map(|key| format!("/api/keys/{}", key.id)).collect();
    assert_eq!(process.call("GET", "/api/keys", token, &json!(null)).await.0, 200);
    let stall = database.stall_checkpoints().await;
    let call = async |process: &Process, key: &Key| {
        process.call("POST", "/api/hub/rag/index", &key.value, &json!({})).await.0
    };
    for key in &keys {
        assert_eq!(call(&process, key).await, 200);
    }
    let edit = json!({ "name": "other", "scopes": [] });
    let limits = json!({ "per_request_limit": 0.0001 });
    for (method, path, body, status) in [
        ("POST", format!("{}/revoke", paths[0]), &json!(null), 200),
        ("DELETE", paths[1].clone(), &json!(null), 204),
        ("PATCH", paths[2].clone(), &edit, 200),
        ("PUT", format!("{}/limits", paths[3]), &limits, 200),
    ] {
        let (answered, answer) = process.call(method, &path, token, body).await;
        assert_eq!(answered, status, "{method} {path}: {answer}");
    }
    process.kill();
    stall.release().await;
    let process = start().await;
    for (key, status) in keys.iter().zip([401, 401, 403, 402]) {
        assert_eq!(call(&process, key).await, status, "{}", key.id);
    }
    let got = async |path: String| process.call("GET", &path, token, &json!(null)).await;
    assert_eq!(got(paths[0].clone()).await.1["is_active"], false);
    assert_eq!(got(paths[1].clone()).await.0, 404);
    assert_eq!(got(paths[2].clone()).await.1["name"], "other");
    // What the calls before the changes spent is counted.
    let limits = got(format!("{}/limits", paths[3])).await.1;
    assert_eq!(limits["per_request_limit"], 0.0001);
    assert!(limits["monthly"]["spent"].as_f64().unwrap() > 0.0);
    let acts = got("/api/auth/audit-log?limit=100".to_owned()).await.1.to_string();
    for kind in ["key.revoked", "key.deleted", "key.changed", "key.limits_set"] {
        assert!(acts.contains(kind), "{kind}: {acts}");
    }
    verify(&database);
}
