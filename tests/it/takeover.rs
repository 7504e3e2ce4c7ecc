//! A stranger registers with somebody's address before its owner does. What they made ends with the
//! first proof of the address.

use serde_json::{Value, json};
use totp_rs::{Builder, Secret};

use crate::email::{letters_of, token};
use crate::support::{Database, Key, NOON, PASSWORD, Server, User, hello, on_both};

on_both!(
    a_reset_by_mail_ends_what_a_stranger_made,
    a_verified_address_ends_what_a_stranger_made,
    a_reset_of_a_proved_address_names_what_remains,
    letters_tell_of_what_a_thief_would_do,
    a_login_from_a_new_place_is_told,
    what_logins_leave_behind_is_bounded,
    a_renewal_makes_no_place_known,
    a_setting_demands_a_proof_before_webhooks_and_second_factors,
    what_a_proof_has_ended_stays_so_after_a_restart,
);

const HOOK: &str = "https://hooks.example.com/in";

/// A webhook that is never sent anything here.
fn hook() -> Value {
    json!({ "url": HOOK, "events": ["payment.confirmed"] })
}

/// What a stranger makes with somebody's address.
struct Stranger<'s> {
    user: User<'s>,
    keys: [Key; 2],
    refresh: String,
}

async fn stranger(server: &Server) -> Stranger<'_> {
    let user = server.user("victim").await;
    let login = json!({ "email": "victim@example.com", "password": PASSWORD });
    let session = server.post("/api/auth/login", &login).expect(200).await.body;
    let keys =
        [user.key().await, user.key_of(&json!({ "name": "t", "environment": "test" })).await];
    for environment in ["live", "test"] {
        let events = ["payment.confirmed"];
        let hook = json!({ "url": HOOK, "environment": environment, "events": events });
        user.post("/api/webhooks", &hook).expect(201).await;
    }
    let password = json!({ "password": PASSWORD });
    let enrolment = user.post("/api/auth/2fa/enroll", &password).expect(200).await.body;
    let secret = Secret::try_from_base32(enrolment["secret"].as_str().unwrap()).unwrap();
    let code = Builder::new().with_secret(secret).with_account_name("a").build().unwrap();
    let code = code.generate(u64::try_from(NOON / 1_000_000).unwrap()).to_string();
    user.post("/api/auth/2fa/confirm", &json!({ "code": code })).expect(200).await;
    // The keys are known to the server, as those of calls are.
    for key in &keys {
        server.get("/v1/models").key(key).expect(200).await;
    }
    Stranger { user, keys, refresh: session["refresh_token"].as_str().unwrap().to_owned() }
}

/// The session of the owner, who pays.
async fn owner<'s>(server: &'s Server, password: &str) -> User<'s> {
    let login = json!({ "email": "victim@example.com", "password": password });
    let session = server.post("/api/auth/login", &login).expect(200).await.body;
    let token = session["token"].as_str().expect("no second factor is asked for").to_owned();
    let id = session["user"]["id"].as_str().unwrap().to_owned();
    let owner = User { server, id, token };
    owner.pay("50").await;
    owner
}

/// Nothing of what the stranger made works, and the owner's money stays.
async fn is_ended(server: &Server, stranger: &Stranger<'_>, owner: &User<'_>) {
    for key in &stranger.keys {
        server.post("/api/hub/agents/chat", &hello()).key(key).expect(401).await;
        server.get("/v1/models").key(key).expect(401).await;
    }
    stranger.user.get("/api/auth/me").expect(401).await;
    let refresh = json!({ "refresh_token": stranger.refresh });
    server.post("/api/auth/refresh", &refresh).expect(401).await;
    let hooks = owner.get("/api/webhooks").expect(200).await.body;
    assert_eq!(hooks["webhooks"], json!([]));
    let off = json!({ "is_enabled": false, "recovery_codes_left": 0 });
    assert_eq!(owner.get("/api/auth/2fa").expect(200).await.body, off);
    let keys = owner.get("/api/keys").expect(200).await.body;
    assert!(keys.as_array().unwrap().iter().all(|key| key["is_active"] == false), "{keys}");
    assert_eq!(owner.balance().await, "50.0000");
    // The owner's own keys are good.
    let own = owner.key().await;
    server.post("/api/hub/agents/chat", &hello()).key(&own).expect(200).await;
}

async fn forgotten(server: &Server, database: &Database, name: &str, count: usize) -> String {
    let forgot = json!({ "email": format!("{name}@example.com") });
    server.post("/api/auth/forgot-password", &forgot).expect(202).await;
    token(letters_of(database, count).await.last().unwrap())
}

async fn a_reset_by_mail_ends_what_a_stranger_made(database: Database) {
    let server = Server::start(&database).await;
    let stranger = stranger(&server).await;
    letters_of(&database, 1).await;
    let token = forgotten(&server, &database, "victim", 2).await;
    let reset = json!({ "token": token, "new_password": "Another password 1" });
    server.post("/api/auth/reset-password", &reset).expect(200).await;
    let owner = owner(&server, "Another password 1").await;
    is_ended(&server, &stranger, &owner).await;
    let letter = letters_of(&database, 4).await.remove(2);
    assert!(letter.contains("ended 2 API keys, 2 webhooks and"), "{letter}");
    let acts = owner.get("/api/auth/audit-log").expect(200).await.text;
    assert_eq!(acts.matches("key.revoked").count(), 2, "{acts}");
}

async fn a_verified_address_ends_what_a_stranger_made(database: Database) {
    let server = Server::start(&database).await;
    let stranger = stranger(&server).await;
    let token = token(&letters_of(&database, 1).await[0]);
    server.post("/api/auth/verify-email", &json!({ "token": token })).expect(200).await;
    let owner = owner(&server, PASSWORD).await;
    is_ended(&server, &stranger, &owner).await;
}

async fn what_a_proof_has_ended_stays_so_after_a_restart(database: Database) {
    let server = Server::start(&database).await;
    let stranger = stranger(&server).await;
    let token = token(&letters_of(&database, 1).await[0]);
    server.post("/api/auth/verify-email", &json!({ "token": token })).expect(200).await;
    let Stranger { keys, .. } = stranger;
    server.stop();
    let server = Server::start(&database).await;
    owner(&server, PASSWORD).await;
    for key in &keys {
        server.post("/api/hub/agents/chat", &hello()).key(key).expect(401).await;
    }
}

/// A user whose address is proved.
pub(crate) async fn proved<'s>(
    server: &'s Server,
    database: &Database,
    name: &str,
    count: usize,
) -> User<'s> {
    server.user(name).await;
    let token = token(letters_of(database, count).await.last().unwrap());
    server.post("/api/auth/verify-email", &json!({ "token": token })).expect(200).await;
    let login = json!({ "email": format!("{name}@example.com"), "password": PASSWORD });
    let session = server.post("/api/auth/login", &login).expect(200).await.body;
    let token = session["token"].as_str().unwrap().to_owned();
    let id = session["user"]["id"].as_str().unwrap().to_owned();
    User { server, id, token }
}

async fn a_reset_of_a_proved_address_names_what_remains(database: Database) {
    let server = Server::start(&database).await;
    let user = proved(&server, &database, "someone", 1).await;
    user.pay("1").await;
    let key = user.key_of(&json!({ "name": "see https://evil.example/" })).await;
    let gone = user.key_of(&json!({ "name": "gone" })).await;
    user.post(&format!("/api/keys/{}/revoke", gone.id), &json!({})).expect(200).await;
    let hook = user.post("/api/webhooks", &hook()).expect(201).await.body;
    letters_of(&database, 4).await;
    let token = forgotten(&server, &database, "someone", 5).await;
    let reset = json!({ "token": token, "new_password": "Another password 1" });
    server.post("/api/auth/reset-password", &reset).expect(200).await;
    user.get("/api/auth/me").expect(401).await;
    let letter = letters_of(&database, 6).await.remove(5);
    let hook = hook["id"].as_str().unwrap();
    for named in [key.id.as_str(), hook, "evil(dot)example", "hooks(dot)example(dot)com"] {
        assert!(letter.contains(named), "{named}: {letter}");
    }
    for absent in [gone.id.as_str(), "evil.example", "hooks.example"] {
        assert!(!letter.contains(absent), "{absent}: {letter}");
    }
    server.post("/api/hub/agents/chat", &hello()).key(&key).expect(200).await;
}

async fn letters_tell_of_what_a_thief_would_do(database: Database) {
    let server = Server::start(&database).await;
    // Whose address is not proved gets none: anybody could have letters sent to it.
    let unproved = server.user("visit.evil-casino.example").await;
    unproved.key().await;
    let letter = letters_of(&database, 1).await.remove(0);
    assert!(letter.contains("Hello visit(dot)evil-casino(dot)example,"), "{letter}");
    let user = proved(&server, &database, "someone", 2).await;
    user.key_of(&json!({ "name": "mine" })).await;
    let letter = letters_of(&database, 3).await.remove(2);
    assert!(letter.contains("Subject: A new API key\n") && letter.contains("\"mine\""), "{letter}");
    user.post("/api/webhooks", &hook()).expect(201).await;
    let letter = letters_of(&database, 4).await.remove(3);
    assert!(letter.contains("Subject: A new webhook\n"), "{letter}");
    let password = json!({ "password": PASSWORD });
    let enrolment = user.post("/api/auth/2fa/enroll", &password).expect(200).await.body;
    let secret = Secret::try_from_base32(enrolment["secret"].as_str().unwrap()).unwrap();
    let totp = Builder::new().with_secret(secret).with_account_name("a").build().unwrap();
    let code = |late: u64| totp.generate(u64::try_from(NOON / 1_000_000).unwrap() + late);
    let confirm = json!({ "code": code(0).to_string() });
    user.post("/api/auth/2fa/confirm", &confirm).expect(200).await;
    let letter = letters_of(&database, 5).await.remove(4);
    assert!(letter.contains("Subject: Two-factor authentication is on\n"), "{letter}");
    server.advance(30);
    let renew = json!({ "password": PASSWORD, "code": code(30).to_string() });
    user.post("/api/auth/2fa/recovery-codes", &renew).expect(200).await;
    let letter = letters_of(&database, 6).await.remove(5);
    assert!(letter.contains("Subject: New recovery codes\n"), "{letter}");
    server.advance(30);
    let off = json!({ "password": PASSWORD, "code": code(60).to_string() });
    user.post("/api/auth/2fa/disable", &off).expect(200).await;
    let letter = letters_of(&database, 7).await.remove(6);
    assert!(letter.contains("Subject: Two-factor authentication is off\n"), "{letter}");
}

async fn a_setting_demands_a_proof_before_webhooks_and_second_factors(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.auth.require_verified_email = true;
    })
    .await;
    let user = server.user("someone").await;
    let hook = hook();
    user.post("/api/webhooks", &hook).expect(403).await;
    let password = json!({ "password": PASSWORD });
    user.post("/api/auth/2fa/enroll", &password).expect(403).await;
    let user = proved(&server, &database, "other", 2).await;
    user.post("/api/webhooks", &hook).expect(201).await;
    user.post("/api/auth/2fa/enroll", &password).expect(200).await;
}

/// The place of a login is a network and a program.
async fn a_login_from_a_new_place_is_told(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let log_in = async |address: &str, agent: &str| {
        let login = json!({ "email": "someone@example.com", "password": PASSWORD });
        let login = server.post("/api/auth/login", &login);
        let login = login.header("X-Forwarded-For", address).header("User-Agent", agent);
        login.expect(200).await.body
    };
    // Who is not proved gets none. The proof itself makes a place known.
    server.user("someone").await;
    log_in("192.0.2.1", "curl/8.5.0").await;
    let proof = json!({ "token": token(&letters_of(&database, 1).await[0]) });
    let proof = server.post("/api/auth/verify-email", &proof);
    let proof = proof.header("X-Forwarded-For", "198.51.100.1").header("User-Agent", "curl/8.5.0");
    proof.expect(200).await;
    log_in("198.51.100.254", "curl/8.6.0").await;
    // Where somebody was before the proof may have been anybody's place.
    log_in("192.0.2.1", "curl/8.5.0").await;
    let letter = letters_of(&database, 2).await.remove(1);
    assert!(letter.contains("Subject: A login from a new place\n"), "{letter}");
    assert!(letter.contains("To: someone@example.com\n"), "{letter}");
    assert!(letter.contains("from 192.0.2.1, with curl."), "{letter}");
    // Known: the same network, and another version.
    log_in("192.0.2.77", "curl/9.0").await;
    // A wrong password is no login.
    let wrong = json!({ "email": "someone@example.com", "password": "not their password" });
    let wrong = server.post("/api/auth/login", &wrong).header("X-Forwarded-For", "203.0.113.1");
    wrong.expect(401).await;
    // Another program, or another network.
    log_in("192.0.2.1", "python-requests/2.32").await;
    assert!(letters_of(&database, 3).await[2].contains("from 192.0.2.1, with python-requests."));
    log_in("2001:db8:1:2::1", "curl/8.5.0").await;
    letters_of(&database, 4).await;
    let session = log_in("2001:db8:1:3::1", "curl/8.5.0").await;
    // A place is known for as long as its last session is kept, ended or not.
    let end = server.post("/api/auth/logout", &json!({}));
    end.bearer(session["token"].as_str().unwrap()).expect(200).await;
    log_in("2001:db8:1:4::1", "curl/8.5.0").await;
    server.advance(30 * 86_400);
    log_in("2001:db8:1:4::1", "curl/8.5.0").await;
    letters_of(&database, 5).await;
}

/// The user agent is the caller's, so each login may leave another place.
async fn what_logins_leave_behind_is_bounded(database: Database) {
    let server = Server::start(&database).await;
    server.user("someone").await;
    let id = if database.is_postgres() { "gen_random_uuid()" } else { "randomblob(16)" };
    let many = format!(
        "INSERT INTO session (id, user_id, created_at, confirmed_at, last_used_at, expires_at,
            ended_at, address, login_address, agent)
        WITH RECURSIVE numbers(number) AS
            (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 600)
        SELECT {id}, user_id, created_at, confirmed_at, last_used_at - number, expires_at,
            created_at, '192.0.2.1', '192.0.2.1', 'agent ' || number
        FROM numbers CROSS JOIN (SELECT * FROM session LIMIT 1) AS one"
    );
    database.execute(&many).await.unwrap();
    let again = server.log_in_again("someone").await;
    let left = "SELECT CAST(COUNT(*) AS TEXT) FROM session";
    assert_eq!(database.query(left).await, "202", "two that go on, and 200 that have ended");
    again.get("/api/auth/me").expect(200).await;
    let sessions = again.get("/api/auth/sessions").expect(200).await.text;
    assert_eq!(sessions.matches("\"id\"").count(), 2, "{sessions}");
}

/// A stolen refresh token proves nothing about its place.
async fn a_renewal_makes_no_place_known(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    proved(&server, &database, "someone", 1).await;
    let log_in = async |address: &str| {
        let login = json!({ "email": "someone@example.com", "password": PASSWORD });
        let login = server.post("/api/auth/login", &login).header("X-Forwarded-For", address);
        login.expect(200).await.body
    };
    let mut session = log_in("192.0.2.1").await;
    letters_of(&database, 2).await;
    // Told once: at home again, and there again, it is the place of the last renewal or of a login.
    for (address, letters) in
        [("192.0.2.99", 2), ("198.51.100.1", 3), ("198.51.100.2", 3), ("192.0.2.1", 3)]
    {
        let renew = json!({ "refresh_token": session["refresh_token"] });
        let renew = server.post("/api/auth/refresh", &renew).header("X-Forwarded-For", address);
        session = renew.expect(200).await.body;
        letters_of(&database, letters).await;
    }
    let letter = letters_of(&database, 3).await.remove(2);
    let subject = "Subject: A session was renewed from a new place\n";
    assert!(letter.contains(subject) && letter.contains("from 198.51.100.1,"), "{letter}");
    // A login from there is one from a new place.
    log_in("198.51.100.1").await;
    let letter = letters_of(&database, 4).await.remove(3);
    assert!(letter.contains("Subject: A login from a new place\n"), "{letter}");
    let listed = server.get("/api/auth/sessions").bearer(session["token"].as_str().unwrap());
    assert!(listed.expect(200).await.text.contains("192.0.2.1"));
}
