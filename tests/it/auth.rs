//! Registration, login, sessions.

use serde_json::json;

use crate::support::{Database, PASSWORD, Server, on_both};

on_both!(
    a_user_registers_logs_in_and_sees_themselves,
    emails_and_usernames_are_unique_whatever_their_case,
    a_login_does_not_tell_which_part_was_wrong,
    bad_fields_are_named,
    a_new_password_ends_every_older_session,
    a_session_ends_after_a_day,
    a_key_is_no_session,
    only_operators_do_what_operators_do,
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
    refused.assert_error("Conflict", "A user with this email exists already");
    let refused = register("other@example.com", "First").expect(409).await;
    refused.assert_error("Conflict", "This username is taken");
    register("other@example.com", "other").expect(201).await;
    let body = json!({ "email": "OTHER@example.com", "password": PASSWORD });
    server.post("/api/auth/login", &body).expect(200).await;
}

async fn a_login_does_not_tell_which_part_was_wrong(database: Database) {
    let server = Server::start(&database).await;
    server.user("someone").await;
    for email in ["someone@example.com", "nobody@example.com", "some\u{0}one@example.com", ""] {
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

    database.execute("UPDATE users SET role = 2 WHERE username = 'operator'").await.unwrap();
    operator.post(&path("suspend"), &json!(null)).expect(200).await;
    let refused = server.get("/api/hub/health").key(&key).expect(403).await;
    refused.assert_error("Access denied", "You do not have permission to access this resource");
    operator.post(&path("resume"), &json!(null)).expect(200).await;
    server.get("/api/hub/health").key(&key).expect(200).await;
    let nobody = "/api/admin/users/user-00000000-0000-4000-8000-000000000000/suspend";
    operator.post(nobody, &json!(null)).expect(404).await;
}
