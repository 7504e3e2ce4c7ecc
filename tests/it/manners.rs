//! What HTTP and its clients expect of any server: names that are unique in the document, HEAD,
//! `Location`, `Link`, `WWW-Authenticate`, documents that are not sent twice, and amounts as texts.

use std::collections::BTreeSet;
use std::io::Read as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Database, Server, on_both};

on_both!(
    the_document_names_each_operation_once,
    a_document_that_is_known_is_not_sent_again,
    what_answers_get_answers_head,
    what_is_made_says_where_it_is,
    a_list_leads_to_its_next_page,
    a_refused_credential_is_asked_for,
    amounts_are_texts_too,
    the_server_says_which_it_is,
    errors_lead_to_their_page
);

/// The largest that the document may be: in bytes, and as it is sent to a client that takes gzip.
const DOCUMENT_MAX: [usize; 2] = [480_000, 60_000];

async fn the_document_names_each_operation_once(database: Database) {
    let server = Server::start(&database).await;
    let document = server.get("/api/openapi.json").expect(200).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let zipped = client.get(server.url("/api/openapi.json")).header("Accept-Encoding", "gzip");
    let zipped = zipped.send().await.unwrap().bytes().await.unwrap();
    let sizes = [document.text.len(), zipped.len()];
    assert!(sizes[0] <= DOCUMENT_MAX[0] && sizes[1] <= DOCUMENT_MAX[1], "{sizes:?} bytes");
    let mut names = BTreeSet::new();
    for (path, item) in document.body["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            let is_camel = |c: char| c.is_ascii_alphanumeric();
            assert!(name.starts_with(|c: char| c.is_ascii_lowercase()), "{name}");
            assert!(name.chars().all(is_camel), "{name}");
            assert!(names.insert(name.to_owned()), "{method} {path}: {name} is another's");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let is_error = status.starts_with(['4', '5']);
                assert!(
                    !is_error
                        || response["headers"].is_null()
                        || is_unique(&document.body, response)
                );
            }
        }
    }
    for known in ["keysList", "paymentsCreate", "postV1ChatCompletions"] {
        assert!(names.contains(known), "{known}");
    }
    assert_eq!(document.body["servers"][0]["url"], "/");
    for tag in document.body["tags"].as_array().unwrap() {
        assert!(tag["description"].is_string(), "{tag}");
    }
}

/// Is this response of its kind the only one? Otherwise it stands once, among the components.
fn is_unique(document: &Value, response: &Value) -> bool {
    let shape = |response: &Value| {
        let mut shape = response.clone();
        shape.as_object_mut().unwrap().remove("description");
        shape
    };
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|item| item.as_object().unwrap().values());
    let responses =
        operations.flat_map(|operation| operation["responses"].as_object().unwrap().values());
    responses.filter(|other| shape(other) == shape(response)).count() == 1
}

async fn a_document_that_is_known_is_not_sent_again(database: Database) {
    let server = Server::start(&database).await;
    for path in ["/api/openapi.json", "/api/pricing", "/docs/", "/docs/errors"] {
        let first = server.get(path).expect(200).await;
        let etag = first.header("etag").to_owned();
        let again = server.get(path).header("If-None-Match", &etag).expect(304).await;
        assert_eq!((again.text.as_str(), again.header("etag")), ("", etag.as_str()), "{path}");
        assert_eq!(again.header("cache-control"), first.header("cache-control"), "{path}");
        server.get(path).header("If-None-Match", "\"other\"").expect(200).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let zipped = client.get(server.url(path)).header("Accept-Encoding", "gzip").send().await;
        let zipped = zipped.unwrap();
        if first.text.len() < 1_024 {
            continue;
        }
        assert_eq!(zipped.headers()["content-encoding"], "gzip", "{path}");
        let bytes = zipped.bytes().await.unwrap();
        assert!(bytes.len() < first.text.len() / 2, "{path}: {}", bytes.len());
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, first.text, "{path}");
    }
}

async fn what_answers_get_answers_head(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    for path in ["/", "/api/hello", "/health/live", "/livez", "/readyz", "/healthz", "/docs/"] {
        let head = server.request(Method::HEAD, path).expect(200).await;
        let get = server.get(path).expect(200).await;
        assert_eq!(head.text, "", "{path}");
        assert_eq!(head.header("content-length"), get.text.len().to_string(), "{path}");
    }
    server.request(Method::HEAD, "/api/keys").bearer(&user.token).expect(200).await;
    server.request(Method::HEAD, "/api/keys").expect(401).await;
    let refused = server.request(Method::PATCH, "/api/keys").expect(405).await;
    let allow: BTreeSet<&str> = refused.header("allow").split(", ").collect();
    assert_eq!(allow, BTreeSet::from(["GET", "HEAD", "POST"]));
}

async fn what_is_made_says_where_it_is(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let once = |path: &str, body: Value| user.post(path, &body).header("Idempotency-Key", path);
    for (path, body) in
        [("/api/keys", json!({ "name": "a" })), ("/api/payments/payments", json!({ "amount": 5 }))]
    {
        let made = once(path, body.clone()).expect(201).await;
        let at = made.header("location").to_owned();
        assert_eq!(at, format!("{path}/{}", made.body["id"].as_str().unwrap()));
        let found = user.get(&at).expect(200).await;
        assert_eq!(found.body["id"], made.body["id"]);
        let again = once(path, body).expect(201).await;
        assert_eq!(again.header("idempotent-replayed"), "true");
        assert_eq!((again.header("location"), &again.text), (at.as_str(), &made.text));
    }
    let body =
        json!({ "email": "a@example.com", "password": "SecurePassword123!", "username": "a" });
    let made = server.post("/api/auth/register", &body).expect(201).await;
    assert_eq!(made.header("location"), "/api/auth/me");
}

async fn a_list_leads_to_its_next_page(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    for _ in 0..3 {
        user.pay("1.00").await;
    }
    let mut at = "/api/payments/payments?limit=2".to_owned();
    let mut seen = BTreeSet::new();
    for (pages, count) in [(1, 2), (2, 3)] {
        let page = user.get(&at).expect(200).await;
        for payment in page.body["payments"].as_array().unwrap() {
            seen.insert(payment["id"].as_str().unwrap().to_owned());
        }
        assert_eq!(seen.len(), count);
        let link = page.headers.get("link").map(|link| link.to_str().unwrap());
        let Some(link) = link else {
            assert_eq!((pages, &page.body["next_cursor"]), (2, &Value::Null));
            continue;
        };
        let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        next.unwrap().clone_into(&mut at);
        assert_eq!(
            at,
            format!(
                "/api/payments/payments?limit=2&cursor={}",
                page.body["next_cursor"].as_str().unwrap()
            )
        );
    }
    assert_eq!(seen.len(), 3);
}

async fn a_refused_credential_is_asked_for(database: Database) {
    let server = Server::start(&database).await;
    let invalid = "Bearer realm=\"polysystems\", error=\"invalid_token\"";
    let chat = || server.post("/v1/chat/completions", &json!({ "messages": [] }));
    let login = json!({ "email": "a@example.com", "password": "SecurePassword123!" });
    for (request, challenge) in [
        (server.get("/api/keys"), "Bearer realm=\"polysystems\""),
        (server.get("/api/keys").bearer("nonsense"), invalid),
        (chat(), "Bearer realm=\"polysystems\""),
        (chat().bearer("ps_live_nonsense"), invalid),
        (server.post("/api/auth/login", &login), "Bearer realm=\"polysystems\""),
    ] {
        let refused = request.expect(401).await;
        assert_eq!(refused.header("www-authenticate"), challenge, "{}", refused.text);
    }
    assert!(!server.get("/nowhere").expect(404).await.headers.contains_key("www-authenticate"));
}

async fn amounts_are_texts_too(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("25.00").await;
    let key = user.key().await;
    user.limit(&key, &json!({ "daily_limit": 0.1234 })).await;
    let balance = user.get("/api/payments/credits/balance").expect(200).await;
    assert!(balance.text.contains("\"balance\":25.0000,\"balance_decimal\":\"25.0000\""));
    let ledger = user.get("/api/payments/transactions").expect(200).await;
    assert_eq!(ledger.body["transactions"][0]["amount_decimal"], "25.0000");
    let limits = user.get(&format!("/api/keys/{}/limits", key.id)).expect(200).await.body;
    assert_eq!(limits["daily_limit_decimal"], "0.1234");
    assert_eq!(limits["daily"]["remaining_decimal"], "0.1234");
    // Of what is null there is none.
    assert!(limits["monthly_limit"].is_null() && limits.get("monthly_limit_decimal").is_none());
    let dry = server.post("/api/hub/agents/chat", &crate::support::hello()).key(&key);
    let quote = dry.header("X-Dry-Run", "true").expect(200).await.body;
    assert_eq!(quote["balance_decimal"], "25.0000");
    let pricing = server.get("/api/pricing").expect(200).await.body;
    let chat = pricing["prices"].as_array().unwrap().iter();
    let chat = chat.clone().find(|price| price["path"] == "/v1/chat/completions").unwrap();
    assert_eq!(
        (&chat["base_price_decimal"], &chat["price_per_token_decimal"]),
        (&json!("0.0020"), &json!("0.00001"))
    );
    // The document says so.
    let document = server.get("/api/openapi.json").expect(200).await.body;
    let schemas = &document["components"]["schemas"];
    let twin = json!({ "$ref": "#/components/schemas/DecimalAmount" });
    assert_eq!(schemas["BalanceAnswer"]["properties"]["balance_decimal"], twin);
    assert_eq!(schemas["PaymentBody"]["properties"].get("amount_decimal"), None);
}

async fn the_server_says_which_it_is(database: Database) {
    let server = Server::start(&database).await;
    let version = env!("CARGO_PKG_VERSION");
    let told = server.get("/api/version").expect(200).await;
    assert_eq!(told.body["version"], version);
    assert!(told.body["schema"].as_str().unwrap().starts_with("m20"), "{}", told.text);
    for answer in [told, server.get("/nowhere").expect(404).await] {
        assert_eq!(answer.header("polysystems-version"), version);
    }
}

async fn errors_lead_to_their_page(database: Database) {
    let server = Server::start(&database).await;
    let page = server.get("/docs/errors").expect(200).await.text;
    for request in [server.get("/nowhere"), server.get("/v1/models"), server.get("/api/keys")] {
        let refused = request.send().await;
        let (page_url, anchor) = refused.body["doc_url"].as_str().unwrap().split_once('#').unwrap();
        assert_eq!((page_url, anchor), ("/docs/errors", refused.body["code"].as_str().unwrap()));
        assert!(page.contains(&format!("id=\"{anchor}\"")), "{anchor}");
    }
}
