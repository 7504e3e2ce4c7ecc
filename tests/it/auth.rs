//! Registration, login, sessions.

use argon2::PasswordHasher as _;
use serde_json::json;

use crate::support::{Database, PASSWORD, Server, on_both};

on_both!(
    a_login_that_overlaps_a_new_password_begins_nothing,
    a_user_registers_logs_in_and_sees_themselves,
    emails_and_usernames_are_unique_whatever_their_case,
    a_login_does_not_tell_which_part_was_wrong,
    bad_fields_are_named,
    a_new_password_ends_every_older_session,
    a_session_ends_after_a_day,
    a_session_is_renewed_by_its_refresh_token,
    a_session_ends_however_often_it_is_renewed,
    a_refresh_token_that_comes_twice_ends_its_session,
    a_session_is_renewed_so_often_and_leaves_nothing_behind,
    of_a_thousand_uses_of_a_refresh_token_one_wins,
    a_session_that_is_ended_is_over_at_once,
    the_oldest_sessions_end_where_there_are_too_many,
    a_key_is_no_session,
    only_operators_do_what_operators_do,
    who_guesses_is_stopped_and_the_owner_is_not,
    a_hash_of_yesterday_is_renewed_at_login,
    common_passwords_are_refused,
);

async fn a_user_registers_logs_in_and_sees_themselves(database: Database) {
    let server = Server::start(&database).await;
    let body =
        json!({ "email": "user@example.com", "password": PASSWORD, "username": "myusername" });
    let registered = server.post("/api/auth/register", &body).expect(201).await.body;
    let id = registered["id"].as_str().unwrap();
    assert_eq!(id.len(), "user-550e8400-e29b-41d4-a716-446655440000".len());
    assert!(id.starts_with("user-"));
    let expected = json!({
        "id": id, "email": "user@example.com", "username": "myusername", "role": "user",
        "is_email_verified": false, "created_at": "2024-01-15T12:00:00Z",
    });
    assert_eq!(registered, expected);

    let body = json!({ "email": "user@example.com", "password": PASSWORD });
    let session = server.post("/api/auth/login", &body).expect(200).await.body;
    assert_eq!(
        session["user"],
        json!({ "id": id, "email": "user@example.com", "username": "myusername", "role": "user" })
    );
    let token = session["token"].as_str().unwrap();
    let me = server.get("/api/auth/me").bearer(token).expect(200).await.body;
    assert_eq!(me, expected);
}

async fn emails_and_usernames_are_unique_whatever_their_case(database: Database) {
    let server = Server::start(&database).await;
    server.user("first").await;
    let register = |email: &str, username: &str| {
        let body = json!({ "email": email, "password": PASSWORD, "username": username });
        server.post("/api/auth/register", &body)
    };
    let refused = register("FIRST@Example.com", "other").expect(409).await;
    refused.assert_error("Conflict", "A user with this email already exists");
    let refused = register("other@example.com", "First").expect(409).await;
    refused.assert_error("Conflict", "This username is taken");
    // What looks like a name that is taken, in Cyrillic, in digits, and in letters of mathematics.
    for username in ["f\u{456}rst", "f\u{456}r\u{455}t", "FIR\u{405}T", "\u{1d41f}irst"] {
        let refused = register("other@example.com", username).expect(409).await;
        refused.assert_error("Conflict", "This username is taken");
    }
    register("other@example.com", "other").expect(201).await;
    let body = json!({ "email": "OTHER@example.com", "password": PASSWORD });
    server.post("/api/auth/login", &body).expect(200).await;
}

async fn a_login_does_not_tell_which_part_was_wrong(database: Database) {
    let server = Server::start(&database).await;
    server.user("someone").await;
    for email in ["someone@example.com", "nobody@example.com", "some one@example.com", ""] {
        let body = json!({ "email": email, "password": "Not their password" });
        let refused = server.post("/api/auth/login", &body).expect(401).await;
        refused.assert_error("Invalid credentials", "The email or the password is not correct");
    }
}

async fn bad_fields_are_named(database: Database) {
    let server = Server::start(&database).await;
    for (body, fields) in [
        (
            json!({ "email": "no address", "password": PASSWORD, "username": "a b" }),
            vec!["email", "username"],
        ),
        (
            json!({ "email": "a@example.com", "password": "short", "username": "a" }),
            vec!["password"],
        ),
        (json!({ "email": "a@example.com", "password": PASSWORD }), vec!["username"]),
        (json!({ "email": 7, "password": PASSWORD, "username": "a" }), vec!["email"]),
        (
            json!({ "email": "a@example.com", "password": PASSWORD, "username": "a", "role": "admin" }),
            vec!["role"],
        ),
    ] {
        let refused = server.post("/api/auth/register", &body).expect(400).await;
        assert_eq!(refused.body["error"], "Validation Error");
        let named: Vec<_> =
            refused.body["details"].as_array().unwrap().iter().map(|d| &d["field"]).collect();
        assert_eq!(named, fields, "{}", refused.text);
    }
    let refused = server.get("/api/auth/register").expect(405).await;
    assert_eq!(refused.header("allow"), "POST");
    for body in ["", "{", "[]", "\"text\"", "{\"email\":\"a@example.com\"} trailing"] {
        let request = server.post("/api/auth/login", &json!(null)).body(body);
        assert_eq!(
            request.expect(400).await.header("content-type"),
            "application/json",
            "{body:?}"
        );
    }
}

async fn a_new_password_ends_every_older_session(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let change = |current: &str, new: &str| {
        let body = json!({ "current_password": current, "new_password": new });
        user.post("/api/auth/change-password", &body)
    };
    change("Not their password", "Another password 1").expect(401).await;
    change(PASSWORD, "short").expect(400).await;
    user.get("/api/auth/me").expect(200).await;
    let changed = change(PASSWORD, "Another password 1").expect(200).await.body;
    let refused = user.get("/api/auth/me").expect(401).await;
    refused.assert_error(
        "Invalid token",
        "The provided JWT is not valid. Please log in again; API keys are not accepted here.",
    );
    server.get("/api/auth/me").bearer(changed["token"].as_str().unwrap()).expect(200).await;
    for (password, status) in [(PASSWORD, 401), ("Another password 1", 200)] {
        let body = json!({ "email": "someone@example.com", "password": password });
        server.post("/api/auth/login", &body).expect(status).await;
    }
}

async fn a_session_ends_after_a_day(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    server.advance(86_399);
    user.get("/api/auth/me").expect(200).await;
    server.advance(1);
    let refused = user.get("/api/auth/me").expect(401).await;
    refused.assert_error("Token expired", "The JWT has expired. Please log in again.");
}

async fn log_in(server: &Server) -> serde_json::Value {
    let body = json!({ "email": "someone@example.com", "password": PASSWORD });
    server.post("/api/auth/login", &body).expect(200).await.body
}

fn text<'a>(body: &'a serde_json::Value, name: &str) -> &'a str {
    body[name].as_str().unwrap()
}

const NOT_RENEWED: &str = "The refresh token is not valid, was used before, or its session has ended. Please log in again.";

async fn a_session_is_renewed_by_its_refresh_token(database: Database) {
    let server = Server::start(&database).await;
    server.user("someone").await;
    let mut session = log_in(&server).await;
    assert_eq!(text(&session, "expires_at"), "2024-01-16T12:00:00Z");
    assert_eq!(text(&session, "refresh_expires_at"), "2024-02-14T12:00:00Z");
    let old = session.clone();
    // Far beyond what either token lasts by itself.
    for _ in 0..3 {
        server.advance(29 * 86_400);
        server.get("/api/auth/me").bearer(text(&session, "token")).expect(401).await;
        let body = json!({ "refresh_token": session["refresh_token"] });
        let renewed = server.post("/api/auth/refresh", &body).expect(200).await.body;
        assert_eq!(renewed["user"], session["user"]);
        assert_ne!(renewed["refresh_token"], session["refresh_token"]);
        session = renewed;
        server.get("/api/auth/me").bearer(text(&session, "token")).expect(200).await;
    }
    // Stored is a digest, which is of no use.
    let stored = "SELECT COUNT(*) || '' FROM session WHERE LENGTH(refresh_digest) = 32";
    assert_eq!(database.query(stored).await, "2");
    for wrong in ["", "psr_", "psr_x", text(&session, "token"), &text(&old, "refresh_token")[1..]] {
        let body = json!({ "refresh_token": wrong });
        let refused = server.post("/api/auth/refresh", &body).expect(401).await;
        refused.assert_error("Invalid refresh token", NOT_RENEWED);
    }
    server.post("/api/auth/refresh", &json!({ "refresh_token": 1 })).expect(400).await;
    // Not renewed in time, it is over.
    server.advance(30 * 86_400);
    let body = json!({ "refresh_token": session["refresh_token"] });
    server.post("/api/auth/refresh", &body).expect(401).await;
}

async fn a_session_ends_however_often_it_is_renewed(database: Database) {
    let server = Server::start(&database).await;
    server.user("someone").await;
    let mut session = log_in(&server).await;
    let renew = async |session: &serde_json::Value, status| {
        let body = json!({ "refresh_token": session["refresh_token"] });
        server.post("/api/auth/refresh", &body).expect(status).await.body
    };
    for _ in 0..3 {
        server.advance(29 * 86_400);
        session = renew(&session, 200).await;
    }
    // Neither token outlives its session: 90 days are over at noon.
    server.advance(5 * 43_200);
    session = renew(&session, 200).await;
    for name in ["expires_at", "refresh_expires_at"] {
        assert_eq!(text(&session, name), "2024-04-14T12:00:00Z", "{name}");
    }
    server.advance(43_199);
    server.get("/api/auth/me").bearer(text(&session, "token")).expect(200).await;
    server.advance(1);
    server.get("/api/auth/me").bearer(text(&session, "token")).expect(401).await;
    renew(&session, 401).await;
    // Another login begins another session.
    let session = log_in(&server).await;
    server.advance(29 * 86_400);
    renew(&session, 200).await;
}

async fn a_refresh_token_that_comes_twice_ends_its_session(database: Database) {
    let server = Server::start(&database).await;
    server.user("someone").await;
    let (stolen, other) = (log_in(&server).await, log_in(&server).await);
    let body = json!({ "refresh_token": stolen["refresh_token"] });
    let renewed = server.post("/api/auth/refresh", &body).expect(200).await.body;
    server.get("/api/auth/me").bearer(text(&renewed, "token")).expect(200).await;
    let refused = server.post("/api/auth/refresh", &body).expect(401).await;
    refused.assert_error("Invalid refresh token", NOT_RENEWED);
    // Either of the two may be the thief, so both sessions have ended. Other sessions go on.
    for token in [text(&stolen, "token"), text(&renewed, "token")] {
        server.get("/api/auth/me").bearer(token).expect(401).await;
    }
    let body = json!({ "refresh_token": renewed["refresh_token"] });
    server.post("/api/auth/refresh", &body).expect(401).await;
    server.get("/api/auth/me").bearer(text(&other, "token")).expect(200).await;
}

/// A renewal adds no row, or one connection fills the database and its clean-up halts the server.
async fn a_session_is_renewed_so_often_and_leaves_nothing_behind(database: Database) {
    let server = Server::start_with(&database, |settings| settings.rate_limit.enabled = true).await;
    server.user("someone").await;
    let first = log_in(&server).await;
    let rows = async || {
        let of_all =
            "SELECT CAST((SELECT COUNT(*) FROM session) + (SELECT COUNT(*) FROM users) AS TEXT)";
        database.query(of_all).await
    };
    let before = rows().await;
    let mut session = first.clone();
    let (mut renewals, mut refused) = (0, 0);
    for _ in 0..40 {
        let body = json!({ "refresh_token": session["refresh_token"] });
        let answer = server.post("/api/auth/refresh", &body).send().await;
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"));
            refused += 1;
            continue;
        }
        assert_eq!(answer.status, 200);
        session = answer.body;
        renewals += 1;
    }
    // Another comes back every six seconds.
    assert!(renewals >= 10 && refused >= 10, "{renewals} {refused}");
    assert_eq!(rows().await, before);
    // A token that was used before, and be it long ago, ends the session.
    server.get("/api/auth/me").bearer(text(&session, "token")).expect(200).await;
    let body = json!({ "refresh_token": first["refresh_token"] });
    server.post("/api/auth/refresh", &body).expect(401).await;
    server.get("/api/auth/me").bearer(text(&session, "token")).expect(401).await;
    let told = "SELECT COUNT(*) || '' FROM audit_log WHERE kind = 'session.refresh_token_reused'";
    let told = database.query(told).await;
    assert_eq!(told, "1");
}

async fn of_a_thousand_uses_of_a_refresh_token_one_wins(database: Database) {
    let server = Server::start(&database).await;
    server.user("someone").await;
    let session = log_in(&server).await;
    let body = json!({ "refresh_token": session["refresh_token"] });
    let mut won = 0;
    for _ in 0..10 {
        let uses = (0..100).map(|_| server.post("/api/auth/refresh", &body).send());
        let answers = futures_util::future::join_all(uses).await;
        won += answers.iter().filter(|answer| answer.status == 200).count();
        assert!(answers.iter().all(|answer| [200, 401].contains(&answer.status.as_u16())));
    }
    assert_eq!(won, 1);
}

async fn a_session_that_is_ended_is_over_at_once(database: Database) {
    let server = Server::start(&database).await;
    let other = server.user("other").await;
    let user = server.user("someone").await;
    let (one, two) = (log_in(&server).await, log_in(&server).await);
    let listed =
        server.get("/api/auth/sessions").bearer(text(&one, "token")).expect(200).await.body;
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 3);
    let current: Vec<_> = listed.iter().filter(|session| session["is_current"] == true).collect();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0]["address"], "127.0.0.1");
    let path = format!("/api/auth/sessions/{}", text(current[0], "id"));
    // Another user's session is as one that is not there.
    let absent = "/api/auth/sessions/session-00000000-0000-4000-8000-000000000000";
    for path in [&path, absent] {
        let refused = other.delete(path).expect(404).await;
        refused.assert_error("Not found", "There is no such session");
    }
    user.delete(&path).expect(204).await;
    user.delete(&path).expect(404).await;
    server.get("/api/auth/me").bearer(text(&one, "token")).expect(401).await;
    let body = json!({ "refresh_token": one["refresh_token"] });
    server.post("/api/auth/refresh", &body).expect(401).await;

    let ended = server.post("/api/auth/logout", &json!({})).bearer(text(&two, "token"));
    assert_eq!(ended.expect(200).await.body["sessions_ended"], 1);
    server.get("/api/auth/me").bearer(text(&two, "token")).expect(401).await;
    user.get("/api/auth/me").expect(200).await;

    let three = log_in(&server).await;
    let ended = user.post("/api/auth/logout-all", &json!({})).expect(200).await.body;
    assert_eq!(ended["sessions_ended"], 2);
    user.get("/api/auth/me").expect(401).await;
    server.get("/api/auth/me").bearer(text(&three, "token")).expect(401).await;
    other.get("/api/auth/me").expect(200).await;
}

async fn the_oldest_sessions_end_where_there_are_too_many(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.auth.sessions_per_user_max = 2).await;
    let oldest = server.user("someone").await;
    server.advance(1);
    let second = log_in(&server).await;
    oldest.get("/api/auth/me").expect(200).await;
    server.advance(1);
    log_in(&server).await;
    oldest.get("/api/auth/me").expect(401).await;
    server.get("/api/auth/me").bearer(text(&second, "token")).expect(200).await;
}

async fn a_key_is_no_session(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let invalid =
        "The provided JWT is not valid. Please log in again; API keys are not accepted here.";
    server
        .get("/api/keys")
        .bearer(&key.value)
        .expect(401)
        .await
        .assert_error("Invalid token", invalid);
    let missing = "Expected 'Authorization: Bearer' header with the JWT from POST /api/auth/login";
    server.get("/api/keys").expect(401).await.assert_error("Missing token", missing);
    server.get("/api/keys").key(&key).expect(401).await.assert_error("Missing token", missing);
    // A bad body does not overtake the missing session.
    server.post("/api/keys", &json!("x")).expect(401).await.assert_error("Missing token", missing);
    let refused = server.get("/api/hub/health").bearer(&user.token).expect(401).await;
    refused.assert_error("Invalid API key", "The provided access key is not valid");
}

async fn only_operators_do_what_operators_do(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.user("operator").await;
    let customer = server.user("customer").await;
    customer.pay("1.00").await;
    let key = customer.key().await;
    let path = |act: &str| format!("/api/admin/users/{}/{act}", customer.id);
    let refused = operator.post(&path("suspend"), &json!(null)).expect(403).await;
    refused.assert_error("Access denied", "You do not have permission to access this resource");

    operator.set_up_second_factor().await;
    database.promote("operator").await;
    operator.post(&path("suspend"), &json!(null)).expect(200).await;
    let refused = server.get("/api/hub/health").key(&key).expect(403).await;
    refused.assert_error("Access denied", "You do not have permission to access this resource");
    operator.post(&path("resume"), &json!(null)).expect(200).await;
    server.get("/api/hub/health").key(&key).expect(200).await;
    let nobody = "/api/admin/users/user-00000000-0000-4000-8000-000000000000/suspend";
    operator.post(nobody, &json!(null)).expect(404).await;
}

async fn who_guesses_is_stopped_and_the_owner_is_not(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        settings.auth.attempts_per_account_from_strangers = std::num::NonZeroU32::new(60).unwrap();
        // Few, so that a busy machine is stopped too: a third of one a second comes back.
        settings.auth.attempts_per_address = std::num::NonZeroU32::new(20).unwrap();
    })
    .await;
    server.user("owner").await;
    let login = |email: &str, password: &str, from: &str| {
        let body = json!({ "email": email, "password": password });
        server.post("/api/auth/login", &body).header("X-Forwarded-For", from)
    };
    // The owner has been here.
    login("owner@example.com", PASSWORD, "192.0.2.1").expect(200).await;
    // As many attempts as were made at the owner's account so far.
    for from in ["192.0.2.2", "192.0.2.3"] {
        login("nobody@example.com", PASSWORD, from).expect(401).await;
    }
    // Guessing from an address, at somebody who is there and at somebody who is not: the same
    // answers.
    let mut seen = Vec::new();
    for (email, from) in
        [("owner@example.com", "198.51.100.1"), ("nobody@example.com", "198.51.100.2")]
    {
        let mut statuses = Vec::new();
        for _ in 0..9 {
            let answer = login(email, "a wrong password", from).send().await;
            if answer.status == 429 {
                assert!(answer.headers.contains_key("retry-after"));
            }
            statuses.push(answer.status.as_u16());
        }
        seen.push(statuses);
    }
    assert_eq!(seen[0], seen[1]);
    // From everywhere: strangers are stopped, whatever they know.
    let answer = login("owner@example.com", PASSWORD, "203.0.113.9").send().await;
    assert_eq!(answer.status, 429);
    assert_eq!(login("nobody@example.com", "x", "203.0.113.9").send().await.status, 429);
    // The owner is not.
    for _ in 0..5 {
        login("owner@example.com", PASSWORD, "192.0.2.1").expect(200).await;
    }
    // One address and many accounts.
    let mut refused = 0;
    for place in 0..80 {
        let email = format!("person{place}@example.com");
        let answer = login(&email, "a wrong password", "198.51.100.77").send().await;
        refused += u32::from(answer.status == 429);
    }
    assert!(refused >= 15, "{refused}");
}

async fn a_hash_of_yesterday_is_renewed_at_login(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let stored = database.query("SELECT password_hash FROM users").await;
    let weaker = argon2::Argon2::new(
        argon2::Algorithm::Argon2id,
        argon2::Version::V0x13,
        argon2::Params::new(8 * 1024, 1, 1, None).unwrap(),
    );
    let weaker = weaker.hash_password(PASSWORD.as_bytes()).unwrap().to_string();
    database.execute(&format!("UPDATE users SET password_hash = '{weaker}'")).await.unwrap();
    let login = |password: &str| {
        let body = json!({ "email": "someone@example.com", "password": password });
        server.post("/api/auth/login", &body)
    };
    login("not their password").expect(401).await;
    assert!(database.query("SELECT password_hash FROM users").await.contains("m=8192,t=1"));
    login(PASSWORD).expect(200).await;
    let renewed = database.query("SELECT password_hash FROM users").await;
    assert!(renewed.contains("m=19456,t=2,p=1") && renewed != stored, "{renewed}");
    login(PASSWORD).expect(200).await;
    // It is the same password, so nothing has ended.
    user.get("/api/auth/me").expect(200).await;
}

async fn common_passwords_are_refused(database: Database) {
    let server = Server::start(&database).await;
    let (common, guessable) = (
        "is too common; choose another password",
        "is too easy to guess; use three or four words that do not go together",
    );
    let refused = [
        ("password1234", common),
        ("QWERTYUIOPasdf", common),
        ("Someone@Example.com", common),
        // Far down the list of common ones.
        ("scoobydoo2001", common),
        ("johnsmith1985", guessable),
        ("19901990-1990", guessable),
    ];
    for (password, why) in refused {
        let body =
            json!({ "email": "someone@example.com", "password": password, "username": "someone" });
        let refused = server.post("/api/auth/register", &body).expect(400).await;
        assert_eq!(refused.body["details"][0], json!({ "field": "password", "message": why }));
    }
    // A change and a reset are as strict, and the token of a refused reset stays good.
    let user = server.user("someone").await;
    crate::email::letters_of(&database, 1).await;
    let forgot = json!({ "email": "someone@example.com" });
    server.post("/api/auth/forgot-password", &forgot).expect(202).await;
    let token = crate::email::token(&crate::email::letters_of(&database, 2).await[1]);
    for (password, why) in refused {
        let change = json!({ "current_password": PASSWORD, "new_password": password });
        let reset = json!({ "token": token, "new_password": password });
        for answer in [
            user.post("/api/auth/change-password", &change).expect(400).await,
            server.post("/api/auth/reset-password", &reset).expect(400).await,
        ] {
            let expected = json!({ "field": "new_password", "message": why });
            assert_eq!(answer.body["details"][0], expected);
        }
    }
    let reset = json!({ "token": token, "new_password": PASSWORD });
    server.post("/api/auth/reset-password", &reset).expect(200).await;
}

/// A login takes a while, in which its password may be changed, or a second factor switched on.
async fn a_login_that_overlaps_a_new_password_begins_nothing(database: Database) {
    use domain::{ActKind, Actor, Origin, SessionId, Timestamp, UserId};
    use polysystems::store::Store;
    use polysystems::store::users::{NewSession, RefreshDigests, SessionCredential};
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let id: UserId = user.id.parse().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let settings = polysystems::config::DatabaseSettings::default();
    let store = Store::open(&settings, database.url(), runtime).await.unwrap();
    let version = store.users.find(id).await.unwrap().unwrap().token_version;
    let change = json!({ "current_password": PASSWORD, "new_password": "AnotherLongPassword456!" });
    user.post("/api/auth/change-password", &change).expect(200).await;
    let at = Timestamp::from_micros(server.seconds() * 1_000_000);
    let begin = async |number: u128, version: i64, has_given_code: bool| {
        let new = NewSession {
            id: SessionId(uuid::Uuid::from_u128(number)),
            user: id,
            at,
            expires_at: at.plus_micros(1_000_000),
            address: "127.0.0.1".into(),
            login_address: "127.0.0.1".into(),
            agent: String::new(),
            credential: {
                let digest = [u8::try_from(number).unwrap(); 32];
                SessionCredential::Refresh(RefreshDigests { token: digest, family: digest })
            },
            sessions_max: 100,
        };
        let origin = Origin::local(Actor::User(id));
        let act = origin.act(uuid::Uuid::from_u128(number), id, ActKind::LoggedIn, at);
        store.users.insert_session(new, version, has_given_code, act).await.unwrap()
    };
    assert!(!begin(1, version, false).await, "by the password before");
    assert!(begin(2, version + 1, false).await);
    database.execute("UPDATE users SET totp_enabled_at = 1").await.unwrap();
    assert!(!begin(3, version + 1, false).await, "without a second factor");
    assert!(begin(4, version + 1, true).await);
    store.close().await;
}
