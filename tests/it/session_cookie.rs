//! Sessions of browsers, by cookie.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use domain::route_group::RouteGroup;
use domain::{ActKind, Actor, Origin, UserId};
use polysystems::store::Store;
use polysystems::store::users::Role;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Database, PASSWORD, Request, Server, on_both, small_body, totp_code};

on_both!(
    a_browser_logs_in_and_sees_no_token,
    a_session_of_a_browser_ends_like_any_other,
    a_session_of_a_browser_ends_if_it_is_not_used,
    an_operators_browser_is_logged_out_after_half_a_day,
    a_second_factor_brings_another_cookie,
    a_new_password_brings_another_cookie,
    another_role_ends_the_cookie,
    a_browser_confirms_who_it_is,
    requests_of_other_pages_are_refused,
    a_page_of_somebody_else_logs_nobody_in,
    the_cookie_opens_no_paid_route,
);

const NAME: &str = "__Host-polysystems";
const DAY: i64 = 86_400;

/// A browser with the cookie of a session, on a page of the server.
struct Browser<'s> {
    server: &'s Server,
    cookie: String,
}

/// As a page of the server asks.
fn from_own_page(request: Request) -> Request {
    let request = request.header("Sec-Fetch-Site", "same-origin");
    request.header("Content-Type", "application/json")
}

/// The cookie that an answer sets.
fn set_cookie(answer: &Answer) -> String {
    let all: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(all.len(), 1, "{all:?}");
    let (cookie, rest) = all[0].to_str().unwrap().split_once("; ").unwrap();
    assert_eq!(rest, "Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=7776000");
    let value = cookie.strip_prefix(&format!("{NAME}=")).unwrap();
    assert_eq!(value.len(), 64, "{value}");
    cookie.to_owned()
}

impl<'s> Browser<'s> {
    /// Registers a user, and logs a browser in.
    async fn of_new(server: &'s Server, name: &str) -> Self {
        server.user(name).await;
        Browser::log_in(server, name).await
    }

    async fn log_in(server: &'s Server, name: &str) -> Self {
        let answer = Browser::asks_to_log_in(server, name).await;
        Browser { server, cookie: set_cookie(&answer) }
    }

    async fn asks_to_log_in(server: &Server, name: &str) -> Answer {
        let email = format!("{name}@example.com");
        let login = json!({ "email": email, "password": PASSWORD, "session": "cookie" });
        from_own_page(server.post("/api/auth/login", &login)).expect(200).await
    }

    fn request(&self, method: Method, path: &str) -> Request {
        let request = self.server.request(method, path).header("Cookie", &self.cookie);
        from_own_page(request)
    }

    fn get(&self, path: &str) -> Request {
        self.server.get(path).header("Cookie", &self.cookie)
    }

    fn post(&self, path: &str, body: &Value) -> Request {
        self.request(Method::POST, path).body(body.to_string())
    }

    async fn sessions(&self) -> Vec<Value> {
        let sessions = self.get("/api/auth/sessions").expect(200).await.body;
        sessions.as_array().unwrap().clone()
    }

    async fn is_out(&self) {
        let refused = self.get("/api/auth/me").expect(401).await;
        assert_eq!(refused.body["error"], "Invalid token");
    }
}

async fn a_browser_logs_in_and_sees_no_token(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let answer = Browser::asks_to_log_in(&server, "someone").await;
    let browser = Browser { server: &server, cookie: set_cookie(&answer) };
    let id = answer.body["session_id"].as_str().unwrap().to_owned();
    let expected = json!({
        "session_id": id, "expires_at": "2024-02-14T12:00:00Z",
        "user": {
            "id": user.id, "email": "someone@example.com", "username": "someone", "role": "user",
        },
    });
    assert_eq!(answer.body, expected);
    let me = browser.get("/api/auth/me").expect(200).await.body;
    assert_eq!(me["id"], user.id.as_str());
    browser.post("/api/keys", &json!({ "name": "a" })).expect(201).await;
    // What is stored does not open anything.
    let value = browser.cookie.split_once('=').unwrap().1;
    let stored = "SELECT COUNT(*) || '' FROM session WHERE LENGTH(cookie_digest) = 32
        AND refresh_digest IS NULL AND refresh_family IS NULL";
    assert_eq!(database.query(stored).await, "1");
    let refresh = json!({ "refresh_token": value });
    server.post("/api/auth/refresh", &refresh).expect(401).await;
    server.get("/api/auth/me").bearer(value).expect(401).await;
    let of_browser: Vec<Value> =
        browser.sessions().await.into_iter().filter(|one| one["kind"] == "cookie").collect();
    assert_eq!(of_browser.len(), 1);
    assert_eq!((&of_browser[0]["id"], &of_browser[0]["is_current"]), (&json!(id), &json!(true)));

    let out = browser.post("/api/auth/logout", &json!({})).expect(200).await;
    assert_eq!(out.header("clear-site-data"), "\"cache\", \"storage\"");
    let cleared = format!("{NAME}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    assert_eq!(out.header("set-cookie"), cleared);
    browser.is_out().await;
    // A program's session goes on, and its logout sets nothing.
    let out = user.post("/api/auth/logout", &json!({})).expect(200).await;
    assert!(!out.headers.contains_key("set-cookie"));
}

async fn a_session_of_a_browser_ends_like_any_other(database: Database) {
    let server = Server::start(&database).await;
    let (one, two) =
        (Browser::of_new(&server, "someone").await, Browser::log_in(&server, "someone").await);
    let sessions = one.sessions().await;
    let others: Vec<&Value> = sessions.iter().filter(|one| one["is_current"] == false).collect();
    assert_eq!(others.len(), 2, "the one of the registration, and the other browser's");
    let of_two = others.iter().find(|one| one["kind"] == "cookie").unwrap();
    let path = format!("/api/auth/sessions/{}", of_two["id"].as_str().unwrap());
    let ended = one.request(Method::DELETE, &path).expect(204).await;
    assert!(!ended.headers.contains_key("set-cookie"));
    two.is_out().await;
    let own = sessions.iter().find(|one| one["is_current"] == true).unwrap();
    let path = format!("/api/auth/sessions/{}", own["id"].as_str().unwrap());
    let ended = one.request(Method::DELETE, &path).expect(204).await;
    assert!(ended.header("set-cookie").contains("Max-Age=0"));
    one.is_out().await;
    let (one, two) =
        (Browser::log_in(&server, "someone").await, Browser::log_in(&server, "someone").await);
    let ended = one.post("/api/auth/logout-all", &json!({})).expect(200).await;
    assert_eq!(ended.body["sessions_ended"], 3);
    assert!(ended.headers.contains_key("clear-site-data"));
    two.is_out().await;
    // Neither a guess nor a changed cookie opens anything.
    let three = Browser::log_in(&server, "someone").await;
    three.get("/api/auth/me").expect(200).await;
    for wrong in [format!("{NAME}="), format!("{NAME}=x"), format!("{}A", three.cookie)] {
        let guess = Browser { server: &server, cookie: wrong };
        guess.is_out().await;
    }
    let name = three.cookie.replace("__Host-", "");
    let refused = server.get("/api/auth/me").header("Cookie", &name).expect(401).await;
    assert_eq!(refused.body["error"], "Missing token");
    // One of two may be somebody else's.
    let twice = format!("{}; {}", three.cookie, three.cookie);
    server.get("/api/auth/me").header("Cookie", &twice).expect(401).await;
    let both = three.get("/api/auth/me").bearer("x").expect(400).await;
    assert_eq!(both.body["error"], "Two credentials");
}

async fn a_session_of_a_browser_ends_if_it_is_not_used(database: Database) {
    let server = Server::start(&database).await;
    let idle = Browser::of_new(&server, "someone").await;
    let used = Browser::log_in(&server, "someone").await;
    for days in [29, 58, 87] {
        server.advance(29 * DAY);
        used.get("/api/auth/me").expect(200).await;
        let own = used.sessions().await;
        let own = own.iter().find(|one| one["is_current"] == true).unwrap();
        let last = days - 29;
        assert!(
            own["last_used_at"].as_str().unwrap() > own["created_at"].as_str().unwrap(),
            "{last}"
        );
    }
    idle.is_out().await;
    server.advance(3 * DAY - 1);
    used.get("/api/auth/me").expect(200).await;
    server.advance(1);
    used.is_out().await;
    // To the second.
    let idle = Browser::log_in(&server, "someone").await;
    server.advance(30 * DAY - 1);
    idle.get("/api/auth/me").expect(200).await;
    server.advance(30 * DAY);
    idle.is_out().await;
}

async fn an_operators_browser_is_logged_out_after_half_a_day(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("operator").await;
    let secret = user.set_up_second_factor().await;
    database.promote("operator").await;
    let log_in = async || {
        // A code is good once.
        server.advance(60);
        let asked = Browser::asks_to_log_in(&server, "operator").await;
        assert_eq!(asked.body["two_factor_required"], true);
        assert!(!asked.headers.contains_key("set-cookie"));
        let code = totp_code(&secret, server.seconds());
        let second = json!({
            "challenge": asked.body["challenge"], "code": code, "session": "cookie",
        });
        let answer = from_own_page(server.post("/api/auth/login/2fa", &second)).expect(200).await;
        assert!(answer.body.get("token").is_none());
        Browser { server: &server, cookie: set_cookie(&answer) }
    };
    let used = log_in().await;
    for _ in 0..3 {
        server.advance(11 * 3_600);
        used.get("/api/admin/users").expect(200).await;
    }
    server.advance(12 * 3_600);
    used.is_out().await;
}

async fn a_second_factor_brings_another_cookie(database: Database) {
    let server = Server::start(&database).await;
    let before = Browser::of_new(&server, "someone").await;
    let other = Browser::log_in(&server, "someone").await;
    let asked = before.post("/api/auth/2fa/enroll", &json!({ "password": PASSWORD }));
    let secret = asked.expect(200).await.body["secret"].as_str().unwrap().to_owned();
    let code = json!({ "code": totp_code(&secret, server.seconds()) });
    let enabled = before.post("/api/auth/2fa/confirm", &code).expect(200).await;
    assert_eq!(enabled.body["recovery_codes"].as_array().unwrap().len(), 10);
    let after = Browser { server: &server, cookie: set_cookie(&enabled) };
    before.is_out().await;
    other.is_out().await;
    after.get("/api/auth/me").expect(200).await;
    assert_eq!(after.sessions().await.len(), 1);
}

async fn a_new_password_brings_another_cookie(database: Database) {
    let server = Server::start(&database).await;
    let before = Browser::of_new(&server, "someone").await;
    let other = Browser::log_in(&server, "someone").await;
    let change = json!({ "current_password": PASSWORD, "new_password": "AnotherLongPassword456!" });
    let changed = before.post("/api/auth/change-password", &change).expect(200).await;
    let message = "The password was changed; every other session has ended";
    assert_eq!(changed.body, json!({ "message": message }));
    let after = Browser { server: &server, cookie: set_cookie(&changed) };
    before.is_out().await;
    other.is_out().await;
    assert_eq!(after.sessions().await.len(), 1);
}

async fn another_role_ends_the_cookie(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let browser = Browser::log_in(&server, "someone").await;
    let runtime = tokio::runtime::Handle::current();
    let settings = polysystems::config::DatabaseSettings::default();
    let store = Store::open(&settings, database.url(), runtime).await.unwrap();
    let id: UserId = user.id.parse().unwrap();
    let at = domain::Timestamp::from_micros(server.seconds() * 1_000_000);
    let origin = Origin::local(Actor::CommandLine);
    let act = origin.act(uuid::Uuid::now_v7(), id, ActKind::RoleSet, at);
    assert!(store.users.set_role(id, Role::Admin, act).await.unwrap());
    store.close().await;
    browser.is_out().await;
    // The role counts for programs at once, as before.
    let me = user.get("/api/auth/me").expect(200).await.body;
    assert_eq!(me["role"], "admin");
}

async fn a_browser_confirms_who_it_is(database: Database) {
    let server = Server::start(&database).await;
    let browser = Browser::of_new(&server, "someone").await;
    server.advance(601);
    let refused = browser.post("/api/auth/logout-all", &json!({})).expect(403).await;
    assert_eq!(refused.body["error"], "Confirmation required");
    let wrong = json!({ "password": "Not their password" });
    browser.post("/api/auth/confirm", &wrong).expect(401).await;
    browser.post("/api/auth/confirm", &json!({ "password": PASSWORD })).expect(200).await;
    browser.post("/api/auth/logout-all", &json!({})).expect(200).await;
}

/// What a browser sends for a page: its headers.
type Page<'a> = (&'static str, &'a [(&'static str, &'a str)]);

async fn requests_of_other_pages_are_refused(database: Database) {
    let public_url = "https://api.example.com";
    let server = Server::start_with(&database, |settings| {
        settings.server.public_url = Some(public_url.into());
    })
    .await;
    let browser = Browser::of_new(&server, "someone").await;
    let (site, kind, origin) = ("Sec-Fetch-Site", "Content-Type", "Origin");
    let json_type = (kind, "application/json");
    let own = format!("http://{}", server.address);
    let (longer, shorter) = (format!("{own}.evil.example"), own[..own.len() - 1].to_owned());
    let form = "application/x-www-form-urlencoded";
    let parts = "multipart/form-data; boundary=x";
    let refused: [Page<'_>; 19] = [
        (
            "a form of another port",
            &[(site, "same-site"), (kind, form), (origin, "http://127.0.0.1:1")],
        ),
        ("a fetch of another port", &[(site, "same-site"), json_type]),
        ("a form of another site", &[(site, "cross-site"), (kind, form)]),
        ("a fetch of another site", &[(site, "cross-site"), json_type]),
        ("another site without CORS", &[(site, "cross-site"), (kind, "text/plain")]),
        ("a file from another port", &[(site, "same-site"), (kind, parts)]),
        ("an address that was typed in", &[(site, "none"), json_type]),
        ("a form of an own page", &[(site, "same-origin"), (kind, form)]),
        ("JSON as text", &[(site, "same-origin"), (kind, "text/plain")]),
        ("JSON in the name of a type", &[(site, "same-origin"), (kind, "application/jsonx")]),
        ("nothing of its type", &[(site, "same-origin")]),
        ("two types", &[(site, "same-origin"), (kind, "text/plain"), json_type]),
        ("two sites", &[(site, "same-origin"), (site, "cross-site"), json_type]),
        ("an old browser, another site", &[(origin, "http://evil.example"), json_type]),
        ("an old browser, another port", &[(origin, "http://127.0.0.1:1"), json_type]),
        ("an old browser, a name that begins so", &[(origin, &longer), json_type]),
        ("an old browser, a name that ends so", &[(origin, &shorter), json_type]),
        ("an old browser, a frame without origin", &[(origin, "null"), json_type]),
        ("an old browser that says nothing", &[json_type]),
    ];
    let with = |method: Method, path: &str, headers: &[(&str, &str)]| {
        let request = server.request(method, path).header("Cookie", &browser.cookie);
        headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    };
    let body = json!({ "name": "a" }).to_string();
    for (page, headers) in refused {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let path = if method == Method::POST { "/api/keys" } else { "/api/keys/key-x/limits" };
            let path = match method {
                Method::PATCH | Method::DELETE => "/api/keys/key-x",
                _ => path,
            };
            let answer = with(method, path, headers).body(body.clone()).send().await;
            let error = answer.body["error"].as_str();
            assert_eq!(
                (answer.status.as_u16(), error),
                (403, Some("Cross-origin request")),
                "{page}"
            );
        }
    }
    assert_eq!(browser.get("/api/keys").expect(200).await.body, json!([]));
    // A web socket has no CORS, and is sent the cookie.
    let socket = [("Connection", "Upgrade"), ("Upgrade", "websocket"), (site, "same-site")];
    with(Method::GET, "/api/keys", &socket).expect(400).await;
    // Another origin may not even ask whether it may send the cookie.
    let asked = [(origin, "http://evil.example"), ("Access-Control-Request-Method", "POST")];
    let answer = with(Method::OPTIONS, "/api/keys", &asked).send().await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    // Nor read what its page is shown.
    let read = with(Method::GET, "/api/keys", &[(origin, "http://evil.example")]).send().await;
    assert!(!read.headers.contains_key("access-control-allow-origin"));
    assert_eq!(read.header("cross-origin-resource-policy"), "same-origin");

    let utf8 = (kind, "application/json; charset=utf-8");
    let taken: [Page<'_>; 4] = [
        ("a page of the server", &[(site, "same-origin"), json_type]),
        ("with a character set", &[(site, "same-origin"), utf8]),
        ("an old browser, the host", &[(origin, &own), json_type]),
        ("an old browser, the public URL", &[(origin, public_url), json_type]),
    ];
    for (page, headers) in taken {
        let answer = with(Method::POST, "/api/keys", headers).body(body.clone()).send().await;
        assert_eq!(answer.status, 201, "{page}: {}", answer.text);
    }
}

async fn a_page_of_somebody_else_logs_nobody_in(database: Database) {
    let server = Server::start(&database).await;
    server.user("someone").await;
    let login =
        json!({ "email": "someone@example.com", "password": PASSWORD, "session": "cookie" });
    for site in ["same-site", "cross-site", "none"] {
        let request = server.post("/api/auth/login", &login).header("Sec-Fetch-Site", site);
        let refused = request.header("Content-Type", "application/json").expect(403).await;
        assert_eq!(refused.body["error"], "Cross-origin request");
        assert!(!refused.headers.contains_key("set-cookie"));
    }
    let request = server.post("/api/auth/login", &login).header("Sec-Fetch-Site", "same-origin");
    request.header("Content-Type", "text/plain").expect(403).await;
    let both = from_own_page(server.post("/api/auth/login", &login)).bearer("x");
    assert_eq!(both.expect(400).await.body["error"], "Two credentials");
    let unknown = json!({ "email": "a@example.com", "password": PASSWORD, "session": "ticket" });
    from_own_page(server.post("/api/auth/login", &unknown)).expect(400).await;
    // A program needs none of it.
    let token = json!({ "email": "someone@example.com", "password": PASSWORD, "session": "token" });
    let answer = server.post("/api/auth/login", &token).expect(200).await;
    assert!(answer.body["token"].is_string());
    assert!(!answer.headers.contains_key("set-cookie"));
}

async fn the_cookie_opens_no_paid_route(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let browser = Browser::log_in(&server, "someone").await;
    let document = server.get("/api/openapi.json").expect(200).await.body;
    let mut paid: Vec<(Method, String)> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        if RouteGroup::of(path).is_some() {
            let methods = item.as_object().unwrap().keys();
            let methods = methods.map(|method| method.to_uppercase().parse().unwrap());
            paid.extend(methods.map(|method| (method, path.clone())));
        }
    }
    assert!(paid.len() > 20, "{paid:?}");
    let mut random = StdRng::seed_from_u64(27);
    for number in 0..1_000 {
        let (method, path) = paid[random.random_range(0..paid.len())].clone();
        let mut asked = path.clone();
        while let Some((before, rest)) = asked.split_once('{') {
            let rest = rest.split_once('}').unwrap().1;
            asked = format!("{before}{:x}{rest}", random.random::<u32>());
        }
        if random.random_bool(0.3) {
            asked = format!("{asked}?a={:x}", random.random::<u32>());
        }
        let request = browser.request(method.clone(), &asked);
        let request = match random.random_range(0..3) {
            0 if method != Method::GET => request.body(small_body(&path).to_string()),
            1 if method != Method::GET => request.body("{"),
            _ => request,
        };
        let answer = request.send().await;
        assert_eq!(answer.status, 401, "{number}: {method} {asked}: {}", answer.text);
    }
    let balance = browser.get("/api/payments/credits/balance").expect(200).await;
    assert_eq!(balance.number("balance"), "10.0000");
    // With a key beside it, the key counts.
    let key = user.key().await;
    let called = browser.request(Method::POST, "/api/hub/rag/index").key(&key).body("{}");
    called.expect(200).await;
}

#[test]
fn without_tls_a_browser_is_told_so() {
    let database = Database::sqlite();
    crate::support::run(async move {
        let server = Server::start_with(&database, |settings| {
            settings.console.insecure_cookie = true;
        })
        .await;
        server.user("someone").await;
        let answer = Browser::asks_to_log_in(&server, "someone").await;
        let (cookie, rest) = answer.header("set-cookie").split_once("; ").unwrap();
        assert_eq!(rest, "Path=/; HttpOnly; SameSite=Strict; Max-Age=7776000");
        assert!(cookie.starts_with("polysystems="), "{cookie}");
        let browser = Browser { server: &server, cookie: cookie.to_owned() };
        browser.get("/api/auth/me").expect(200).await;
        let settings = server.get("/api/console/settings").expect(200).await.body;
        assert_eq!(settings["cookie_is_secure"], false);
    });
}
