//! Who may do what: every operation of the OpenAPI document, by everyone who might try.
//!
//! The document is the declaration: an operation asks for a JWT, for an API key, or is in the list
//! of those that are for strangers. One that is neither fails this test.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::stripe::Stripe;
use crate::support::{Answer, Database, Key, PASSWORD, Server, User, on_both, small_body};

on_both!(
    every_operation_answers_everyone_as_declared,
    what_is_not_ones_own_is_answered_like_what_is_not_there,
    privileged_fields_are_refused_by_name,
);

/// For everyone, without a credential.
const PUBLIC: [&str; 24] = [
    "POST /api/auth/register",
    "POST /api/auth/login",
    "POST /api/auth/login/2fa",
    // What they ask for is in the body.
    "POST /api/auth/refresh",
    "POST /api/auth/verify-email",
    "POST /api/auth/resend-verification",
    "POST /api/auth/forgot-password",
    "POST /api/auth/reset-password",
    // Signed by Stripe.
    "POST /api/payments/stripe/webhook",
    "GET /api/pricing",
    "GET /api/pricing/history",
    "POST /api/pricing/quote",
    "GET /api/console/settings",
    "GET /api/openapi.json",
    "GET /",
    "GET /api/hello",
    "GET /api/version",
    "GET /health/live",
    "GET /health/ready",
    "GET /livez",
    "GET /readyz",
    "GET /healthz",
    // Of the documentation's own pages.
    "GET /docs",
    "GET /docs/",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Public,
    Session,
    Operator,
    Key,
    /// A session or a key.
    Either,
}

#[derive(Clone, Debug)]
struct Operation {
    method: Method,
    path: String,
    policy: Policy,
    has_body: bool,
}

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// With something in the place of what varies.
    fn path_with(&self, id: &str) -> String {
        let mut path = self.path.clone();
        while let Some((before, rest)) = path.split_once('{') {
            path = format!("{before}{id}{}", rest.split_once('}').unwrap().1);
        }
        // It has no end by itself.
        if path == "/api/admin/events" {
            return path + "?seconds=1";
        }
        // Gemini's streams have one form.
        if path.ends_with(":streamGenerateContent") { path + "?alt=sse" } else { path }
    }

    fn request(&self, server: &Server, id: &str) -> crate::support::Request {
        let request = server.request(self.method.clone(), &self.path_with(id));
        if self.has_body { request.body("{}") } else { request }
    }
}

/// Every operation of the document with its policy.
async fn operations(server: &Server) -> Vec<Operation> {
    let document = server.get("/api/openapi.json").expect(200).await.body;
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let mut schemes: Vec<&String> = operation["security"]
                .as_array()
                .map(|all| all.iter().flat_map(|one| one.as_object().unwrap().keys()).collect())
                .unwrap_or_default();
            schemes.sort();
            let policy = match schemes.iter().map(|scheme| scheme.as_str()).collect::<Vec<_>>()[..]
            {
                ["jwt"] if path.starts_with("/api/admin/") => Policy::Operator,
                ["jwt"] => Policy::Session,
                ["api_key", "api_key_bearer"] => Policy::Key,
                ["api_key", "api_key_bearer", "jwt"] => Policy::Either,
                [] if PUBLIC.contains(&format!("{method} {path}").as_str()) => Policy::Public,
                _ => panic!("{method} {path} declares no policy: {schemes:?}"),
            };
            let has_body = operation.get("requestBody").is_some();
            operations.push(Operation { method, path: path.clone(), policy, has_body });
        }
    }
    // Whatever else, there must be some of each.
    for policy in [Policy::Public, Policy::Session, Policy::Operator, Policy::Key] {
        assert!(operations.iter().filter(|operation| operation.policy == policy).count() >= 5);
    }
    operations
}

const ABSENT: &str = "00000000-0000-4000-8000-000000000000";

const AUTHORIZATION: &str = "authorization";
const KEY: &str = "x-api-key";

/// Somebody who tries, and what they are to be told: `None` is anything but 401 and 403.
struct Attempt<'a> {
    who: &'static str,
    header: Option<(&'static str, &'a str)>,
    told: Option<(u16, &'static str)>,
}

fn attempt<'a>(
    who: &'static str,
    header: Option<(&'static str, &'a str)>,
    told: impl Into<Option<(u16, &'static str)>>,
) -> Attempt<'a> {
    Attempt { who, header, told: told.into() }
}

async fn try_all(server: &Server, operation: &Operation, attempts: &[Attempt<'_>]) -> usize {
    for Attempt { who, header, told } in attempts {
        let mut request = operation.request(server, ABSENT);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = request.send().await;
        let status = answer.status.as_u16();
        let name = operation.name();
        match told {
            Some((expected, text)) => {
                let error = &answer.body["error"];
                let (said, text) = match (&error["code"], &error["type"]) {
                    // The words of Google.
                    (Value::Number(_), _) if status == 401 => (&error["status"], "UNAUTHENTICATED"),
                    (Value::Number(_), _) => (&error["status"], "PERMISSION_DENIED"),
                    // The words of OpenAI and of Anthropic.
                    (code @ Value::String(_), _) if status == 401 => (code, "invalid_api_key"),
                    (code @ Value::String(_), _) => (code, "permission_denied"),
                    (_, kind @ Value::String(_)) if status == 401 => (kind, "authentication_error"),
                    (_, kind @ Value::String(_)) => (kind, "permission_error"),
                    _ => (error, *text),
                };
                let seen = (status, said.as_str());
                assert_eq!(seen, (*expected, Some(text)), "{who}: {name}: {}", answer.text);
            }
            None => assert!(
                status != 401 && status != 403 && status < 500,
                "{who}: {name}: {}",
                answer.text
            ),
        }
    }
    attempts.len()
}

#[expect(clippy::too_many_lines, reason = "the matrix is one table")]
async fn every_operation_answers_everyone_as_declared(database: Database) {
    let stripe = Stripe::start();
    let server = crate::stripe::start(&database, &stripe).await;
    let operations = operations(&server).await;
    let user = server.user("someone").await;
    let operator = server.operator(&database, "operator").await;
    let suspended = server.user("suspended").await;
    for customer in [&user, &suspended] {
        customer.pay("10.00").await;
    }
    let key = user.key().await;
    let revoked = user.key().await;
    user.post(&format!("/api/keys/{}/revoke", revoked.id), &json!({})).expect(200).await;
    let deleted = user.key().await;
    user.delete(&format!("/api/keys/{}", deleted.id)).expect(204).await;
    let expired = user.key_of(&json!({ "name": "a", "expires_at": "2024-01-15T11:00:00Z" })).await;
    let elsewhere = user.key_of(&json!({ "name": "a", "allowed_ips": ["192.0.2.0/24"] })).await;
    let nowhere = user.key_of(&json!({ "name": "a", "scopes": [] })).await;
    let suspendeds = suspended.key().await;
    let path = format!("/api/admin/users/{}/suspend", suspended.id);
    operator.post(&path, &json!({})).expect(200).await;
    // The suspension has ended the session of before.
    let suspended = server.log_in_again("suspended").await;
    let login = json!({ "email": "someone@example.com", "password": PASSWORD });
    let ended = server.post("/api/auth/login", &login).expect(200).await.body;
    let ended = ended["token"].as_str().unwrap().to_owned();
    server.post("/api/auth/logout", &json!({})).bearer(&ended).expect(200).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let (own, operators) = (bearer(&user.token), bearer(&operator.token));
    let (ended, of_suspended) = (bearer(&ended), bearer(&suspended.token));
    let as_bearer = bearer(&key.value);

    let (missing, invalid) = ((401, "Missing token"), (401, "Invalid token"));
    let (no_key, bad_key) = ((401, "Missing API key"), (401, "Invalid API key"));
    let denied = (403, "Access denied");
    let mut tried = 0;
    let log_in = async |name: &str| {
        let body = json!({ "email": format!("{name}@example.com"), "password": PASSWORD });
        let session = server.post("/api/auth/login", &body).expect(200).await.body;
        bearer(session["token"].as_str().unwrap())
    };
    // What ends the session that asks comes last of all.
    let mut sorted = operations.clone();
    sorted.sort_by_key(|operation| operation.path.starts_with("/api/auth/logout"));
    for operation in &sorted {
        let strangers = [
            attempt("a stranger", None, missing),
            attempt("somebody with Basic", Some((AUTHORIZATION, "Basic dTpw")), missing),
            attempt("somebody with a key", Some((AUTHORIZATION, &as_bearer)), invalid),
            attempt("somebody with a key", Some((KEY, &key.value)), missing),
            attempt("somebody with nonsense", Some((AUTHORIZATION, "Bearer a.b.c")), invalid),
            attempt("whose session has ended", Some((AUTHORIZATION, &ended)), invalid),
        ];
        tried += match operation.policy {
            Policy::Public => {
                let everyone = [
                    attempt("a stranger", None, None),
                    attempt("a user", Some((AUTHORIZATION, &own)), None),
                    attempt("a key", Some((KEY, &key.value)), None),
                ];
                try_all(&server, operation, &everyone).await
            }
            Policy::Session => {
                let is_end = operation.path.starts_with("/api/auth/logout");
                let fresh = [log_in("suspended").await, log_in("someone").await];
                let [of_suspended, own] =
                    if is_end { &fresh } else { &[of_suspended.clone(), own.clone()] };
                let rightful = [
                    attempt("a suspended user", Some((AUTHORIZATION, of_suspended)), None),
                    attempt("a user", Some((AUTHORIZATION, own)), None),
                ];
                // Test credits are refilled for open accounts alone.
                let is_for_open = operation.path == "/api/payments/test/reset";
                let rightful = &rightful[usize::from(is_for_open)..];
                try_all(&server, operation, &strangers).await
                    + try_all(&server, operation, rightful).await
            }
            Policy::Operator => {
                let rightful = [
                    attempt("a user", Some((AUTHORIZATION, &own)), denied),
                    attempt("an operator", Some((AUTHORIZATION, &operators)), None),
                ];
                try_all(&server, operation, &strangers).await
                    + try_all(&server, operation, &rightful).await
            }
            Policy::Either => {
                let all = [
                    attempt("a stranger", None, missing),
                    attempt("somebody with Basic", Some((AUTHORIZATION, "Basic dTpw")), missing),
                    attempt(
                        "somebody with nonsense",
                        Some((AUTHORIZATION, "Bearer a.b.c")),
                        invalid,
                    ),
                    attempt("whose session has ended", Some((AUTHORIZATION, &ended)), invalid),
                    attempt("a revoked key", Some((KEY, &revoked.value)), bad_key),
                    attempt("a session as key", Some((KEY, &operator.token)), bad_key),
                    attempt(
                        "an expired key",
                        Some((KEY, &expired.value)),
                        (401, "API key expired"),
                    ),
                    attempt("a key from elsewhere", Some((KEY, &elsewhere.value)), denied),
                    attempt("a key without this scope", Some((KEY, &nowhere.value)), denied),
                    attempt("a user", Some((AUTHORIZATION, &own)), None),
                    attempt("a key", Some((KEY, &key.value)), None),
                    attempt("a key as bearer", Some((AUTHORIZATION, &as_bearer)), None),
                ];
                try_all(&server, operation, &all).await
            }
            Policy::Key => {
                let all = [
                    attempt("a stranger", None, no_key),
                    attempt("somebody with Basic", Some((AUTHORIZATION, "Basic dTpw")), no_key),
                    attempt("a user", Some((AUTHORIZATION, &own)), bad_key),
                    attempt("an operator", Some((KEY, &operator.token)), bad_key),
                    attempt("a revoked key", Some((KEY, &revoked.value)), bad_key),
                    attempt("a deleted key", Some((KEY, &deleted.value)), bad_key),
                    attempt(
                        "an expired key",
                        Some((KEY, &expired.value)),
                        (401, "API key expired"),
                    ),
                    attempt("a key from elsewhere", Some((KEY, &elsewhere.value)), denied),
                    attempt("a key without this scope", Some((KEY, &nowhere.value)), denied),
                    attempt("a key", Some((KEY, &key.value)), None),
                    attempt("a key as bearer", Some((AUTHORIZATION, &as_bearer)), None),
                ];
                // The account's state is looked at when the call is charged, after its body.
                let request = operation.request(&server, ABSENT).key(&suspendeds);
                let request = request.body(small_body(&operation.path).to_string());
                let answer = request.send().await;
                assert_eq!(answer.status, 403, "{}: {}", operation.name(), answer.text);
                try_all(&server, operation, &all).await + 1
            }
        };
    }
    assert!(tried > 400, "{tried}");
    // After a day every session is over.
    let token = server.post("/api/auth/login", &login).expect(200).await.body;
    let late = bearer(token["token"].as_str().unwrap());
    server.advance(86_400);
    for operation in operations {
        if matches!(operation.policy, Policy::Session | Policy::Operator) {
            let late = [attempt("too late", Some((AUTHORIZATION, &late)), (401, "Token expired"))];
            try_all(&server, &operation, &late).await;
        }
    }
}

/// An answer without what differs from request to request.
fn bare(answer: Answer) -> (u16, Value) {
    let mut body = answer.body;
    if let Some(body) = body.as_object_mut() {
        body.remove("request_id");
        body.remove("timestamp");
    }
    (answer.status.as_u16(), body)
}

async fn what_is_not_ones_own_is_answered_like_what_is_not_there(database: Database) {
    let stripe = Stripe::start();
    let server = crate::stripe::start(&database, &stripe).await;
    let operations = operations(&server).await;
    let (owner, other) = (server.user("owner").await, server.user("other").await);
    owner.pay("1.00").await;
    let Key { id: key, value } = owner.key().await;
    let call = server.post("/api/hub/rag/index", &json!({})).header("X-API-Key", &value);
    call.expect(200).await;
    let charge = owner.ledger().await.last().unwrap()["reference"].as_str().unwrap().to_owned();
    let payments = owner.get("/api/payments/payments").expect(200).await.body;
    let payment = payments["payments"][0]["id"].as_str().unwrap().to_owned();
    let sessions = owner.get("/api/auth/sessions").expect(200).await.body;
    let session = sessions[0]["id"].as_str().unwrap().to_owned();
    let hook = json!({ "url": "https://example.com/hook" });
    let hook = owner.post("/api/webhooks", &hook).expect(201).await.body;
    let hook = hook["id"].as_str().unwrap().to_owned();
    let things = BTreeMap::from([
        ("/api/webhooks/", ("hook-", hook)),
        ("/api/keys/", ("key-", key)),
        ("/api/payments/payments/", ("pay-", payment)),
        ("/api/payments/transactions/", ("req-", charge.clone())),
        ("/api/monitoring/requests/", ("req-", charge)),
        ("/api/auth/sessions/", ("session-", session)),
    ]);
    let mut tried = 0;
    for operation in operations.iter().filter(|one| one.policy == Policy::Session) {
        if !operation.path.contains('{') {
            continue;
        }
        // A month is nobody's; saved payment methods are at Stripe, and tested with it.
        if ["/api/payments/statements/", "/api/payments/methods/"]
            .iter()
            .any(|path| operation.path.starts_with(path))
        {
            continue;
        }
        let thing = things.iter().find(|(path, _)| operation.path.starts_with(*path));
        let (_, (prefix, foreign)) = thing.unwrap_or_else(|| panic!("whose is {operation:?}?"));
        let absent = format!("{prefix}{ABSENT}");
        let ask =
            async |id: &str| bare(operation.request(&server, id).bearer(&other.token).send().await);
        let (of_foreign, of_absent) = (ask(foreign).await, ask(&absent).await);
        assert_eq!(of_foreign, of_absent, "{}", operation.name());
        assert_eq!(of_foreign.0, 404, "{}", operation.name());
        assert_eq!(ask("nonsense").await, of_absent, "{}", operation.name());
        tried += 1;
    }
    assert!(tried >= 8, "{tried}");
    // Nothing has happened to any of it.
    server.get("/v1/models").header("X-API-Key", &value).expect(200).await;
    owner.get("/api/auth/me").expect(200).await;
}

async fn privileged_fields_are_refused_by_name(database: Database) {
    let stripe = Stripe::start();
    let server = crate::stripe::start(&database, &stripe).await;
    let user = server.user("someone").await;
    let operator = server.operator(&database, "operator").await;
    let key = user.key().await;
    let mut tried = 0;
    for operation in operations(&server).await {
        // What Stripe signs is Stripe's.
        let is_stripes = operation.path == "/api/payments/stripe/webhook";
        // A price file has no fields of ours.
        let is_file = operation.path == "/api/admin/prices/import";
        if !operation.has_body || operation.policy == Policy::Key || is_stripes || is_file {
            continue;
        }
        let (who, id): (&User<'_>, &str) = match operation.policy {
            Policy::Operator => (&operator, &user.id),
            _ => (&user, &key.id),
        };
        for (field, value) in [
            ("role", json!("admin")),
            ("balance", json!(1_000_000)),
            ("is_email_verified", json!(true)),
            ("owner", json!(operator.id)),
            ("user_id", json!(operator.id)),
            ("account_id", json!(1)),
            ("is_revoked", json!(false)),
            ("totp_enabled_at", json!(null)),
            ("token_version", json!(0)),
            ("__proto__", json!({})),
        ] {
            if field == "role" && operation.path == "/api/admin/users/{id}/role" {
                // Here it is what is asked for, with a reason.
                continue;
            }
            if value.is_null() && operation.path == "/api/admin/catalogue" {
                // A merge patch takes away what is not there.
                continue;
            }
            let body = json!({ field: value }).to_string();
            let request = server.request(operation.method.clone(), &operation.path_with(id));
            let request = request.header("If-Match", "\"rev-0\"");
            let answer = request.bearer(&who.token).body(body).send().await;
            let name = operation.name();
            assert_eq!(answer.status, 400, "{name} {field}: {}", answer.text);
            // A part of the catalogue is named with its place.
            let told = answer.body["details"][0]["field"].as_str().unwrap_or_default();
            let is_named = told == field || told.ends_with(&format!(".{field}"));
            assert!(is_named, "{name}: {}", answer.text);
            tried += 1;
        }
    }
    assert!(tried >= 180, "{tried}");
    let me = user.get("/api/auth/me").expect(200).await.body;
    assert_eq!((&me["role"], &me["is_email_verified"]), (&json!("user"), &json!(false)));
    assert_eq!(user.balance().await, "0.0000");
}
