//! Rate limits as clients meet them.

use serde_json::json;

use crate::support::{Database, Server, on_both};

on_both!(
    a_tier_has_its_figures,
    the_headers_of_the_draft_are_truthful_to_the_unit,
    an_address_is_limited_before_anyone_is_asked,
    an_account_has_the_tier_it_was_given,
    a_trusted_proxy_tells_whose_address_it_is,
    bytes_that_are_no_text_make_nobody_the_proxy,
);

async fn a_tier_has_its_figures(database: Database) {
    let server = Server::start_with(&database, |settings| settings.rate_limit.enabled = true).await;
    let user = server.user("someone").await;
    let (key, other) = (user.key().await, user.key().await);
    // Pro, a read: 20 a second. Free of charge, so that nothing else refuses.
    let call = || server.get("/v1/models").key(&key).send();
    let first = call().await;
    for (header, value) in
        [("x-ratelimit-limit", "20"), ("x-ratelimit-remaining", "19"), ("x-ratelimit-window", "1")]
    {
        assert_eq!(first.header(header), value);
    }
    assert!(
        first.header("x-ratelimit-reset").parse::<i64>().unwrap()
            >= crate::support::NOON / 1_000_000
    );
    let answers = futures_util::future::join_all((0..60).map(|_| call())).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(refused.len() >= 30, "{}", refused.len());
    for refused in &refused {
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.header("x-ratelimit-remaining"), "0");
        refused.assert_code(
            "rate_limit_exceeded",
            "Too many requests. Please try again in 1 seconds.",
        );
    }
    // Another key of the account shares the account's limit; health has none.
    let others = futures_util::future::join_all(
        (0..10).map(|_| server.get("/v1/models").key(&other).send()),
    );
    assert!(others.await.iter().any(|answer| answer.status == 429));
    let health = futures_util::future::join_all(
        (0..60).map(|_| server.get("/api/hub/health").key(&key).send()),
    );
    assert!(
        health
            .await
            .iter()
            .all(|answer| answer.status == 200 && answer.headers.contains_key("x-ratelimit-limit"))
    );
    // Every answer of the gateway has them, refusals included.
    let unknown = server.get("/v1/models").expect(401).await;
    assert_eq!(
        (unknown.header("x-ratelimit-limit"), unknown.header("x-ratelimit-window")),
        ("1000", "1")
    );
    let crooked = server.get("/v1//models").expect(404).await;
    assert!(crooked.headers.contains_key("x-ratelimit-remaining"));
    let unpriced = server.get("/v1/nothing").key(&key).send().await;
    assert!(unpriced.headers.contains_key("x-ratelimit-remaining"));
}

async fn an_address_is_limited_before_anyone_is_asked(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.address_per_second = 5.try_into().unwrap();
    })
    .await;
    let calls = (0..30).map(|_| server.get("/api/hub/health").send());
    let answers = futures_util::future::join_all(calls).await;
    let count =
        |status: u16| answers.iter().filter(|answer| answer.status.as_u16() == status).count();
    assert!(count(401) >= 5 && count(429) >= 10, "{} {}", count(401), count(429));
    let login = json!({ "email": "a@example.com", "password": "x" });
    let logins = futures_util::future::join_all(
        (0..20).map(|_| server.post("/api/auth/login", &login).send()),
    );
    assert!(logins.await.iter().any(|answer| answer.status == 429));
    // What is open to everyone and takes work is limited as well.
    for path in ["/api/openapi.json", "/api/pricing"] {
        let answers = futures_util::future::join_all((0..30).map(|_| server.get(path).send()));
        assert!(answers.await.iter().any(|answer| answer.status == 429), "{path}");
    }
}

async fn an_account_has_the_tier_it_was_given(database: Database) {
    let server = Server::start_with(&database, |settings| settings.rate_limit.enabled = true).await;
    let unlimited = server.user("unlimited").await;
    let free = server.user("free").await;
    for tier in ["unlimited", "free"] {
        let sql = format!("UPDATE users SET tier = '{tier}' WHERE username = '{tier}'");
        database.execute(&sql).await.unwrap();
    }
    let (unlimited, free) = (unlimited.key().await, free.key().await);
    let calls = (0..100).map(|_| server.get("/v1/models").key(&unlimited).send());
    assert!(futures_util::future::join_all(calls).await.iter().all(|answer| answer.status == 200));
    server.get("/v1/models").key(&free).expect(200).await;
    server.get("/v1/models").key(&free).expect(429).await;
}

async fn a_trusted_proxy_tells_whose_address_it_is(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.address_per_second = 1.try_into().unwrap();
        settings.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let from =
        |addresses: &str| server.get("/api/hub/health").header("X-Forwarded-For", addresses).send();
    for number in 1..5 {
        // What stands left of the last foreign address is the client's own word.
        let answer = from(&format!("9.9.9.9, 10.0.0.{number}, 127.0.0.1")).await;
        assert_eq!(answer.status, 401);
    }
    assert_eq!(from("8.8.8.8, 10.0.0.1").await.status, 429);
}

/// A client can put any bytes into the header, and a proxy adds the client's address to them.
async fn bytes_that_are_no_text_make_nobody_the_proxy(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.address_per_second = 1.try_into().unwrap();
        settings.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let from = async |lines: &[&[u8]]| {
        let mut request = server.get("/api/hub/health");
        for line in lines {
            let value = reqwest::header::HeaderValue::from_bytes(line).unwrap();
            request.0 = request.0.header("X-Forwarded-For", value);
        }
        request.send().await.status.as_u16()
    };
    // Each is the client that the proxy has named, however often it sends such bytes.
    let sent: [&[&[u8]]; 4] = [
        &[b"\xff, 10.0.0.1"],
        &[b"\xff", b"10.0.0.2"],
        &[b"10.9.9.9", b"\xff, 10.0.0.3"],
        &[b"10.9.9.9, \xff, 10.0.0.4 , 127.0.0.1"],
    ];
    for (number, lines) in sent.into_iter().enumerate() {
        assert_eq!(from(lines).await, 401, "{number}");
        let named = format!("10.0.0.{}", number + 1);
        assert_eq!(from(&[named.as_bytes()]).await, 429, "{number}");
    }
    // And one whom it has not named is not the proxy itself.
    assert_eq!(from(&[b"127.0.0.1"]).await, 401);
    assert_eq!(from(&[b"\xff"]).await, 401);
    assert_eq!(from(&[b"unknown, 127.0.0.1"]).await, 429, "they are all one");
}

async fn the_headers_of_the_draft_are_truthful_to_the_unit(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        let tier = settings.rate_limit.tiers.get_mut("pro").unwrap();
        *tier = polysystems::config::TierSettings {
            minute: std::num::NonZeroU32::new(3),
            ..Default::default()
        };
        // What comes to less than one a minute has a longer window.
        settings.rate_limit.write_percent = std::num::NonZeroU32::new(10).unwrap();
    })
    .await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let models = || server.get("/v1/models").key(&key);
    // As many as `r` says are admitted, and the one after them is not.
    for (left, until) in [(2, 20), (1, 40), (0, 60)] {
        let answer = models().expect(200).await;
        assert_eq!(answer.header("ratelimit-policy"), "\"minute\";q=3;w=60");
        assert_eq!(answer.header("ratelimit"), format!("\"minute\";r={left};t={until}"));
        assert_eq!(answer.header("x-ratelimit-remaining"), left.to_string());
    }
    let refused = models().expect(429).await;
    let wait = refused.header("retry-after");
    assert_eq!(refused.header("ratelimit"), format!("\"minute\";r=0;t={wait}"));
    assert!((15..=20).contains(&wait.parse::<u32>().unwrap()), "{wait}");
    let index = || server.post("/api/hub/rag/index", &json!({})).key(&key);
    let answer = index().expect(402).await;
    assert_eq!(answer.header("ratelimit-policy"), "\"minute\";q=1;w=200");
    let refused = index().expect(429).await;
    assert!(refused.header("retry-after").parse::<u32>().unwrap() > 180);
}
