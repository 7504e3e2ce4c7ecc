//! What keeps the server whole among clients and browsers that mean it ill.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::support::process::{Process, command, finished, free_port};
use crate::support::upstream::{Script, Upstream};
use crate::support::{Database, Server, on_both};

on_both!(
    every_answer_has_the_headers_that_bind_browsers,
    behind_a_trusted_proxy_browsers_are_bound_to_tls,
    other_origins_read_nothing_unless_it_is_set,
    giant_and_slow_requests_are_cut_and_touch_nobody_else,
    who_may_not_ask_is_refused_before_the_body_is_there,
    secrets_are_read_from_files,
    what_is_stored_is_for_the_servers_user_alone,
    a_login_reads_so_often,
    guesses_of_sessions_count_by_address,
    a_session_that_has_ended_asks_the_database_so_often,
    a_login_changes_and_pays_so_often,
    tls_takes_another_certificate_without_a_restart,
);

/// The database, its journal, secrets and letters.
async fn what_is_stored_is_for_the_servers_user_alone(database: Database) {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start(&database).await;
    server.user("someone").await;
    crate::email::letters_of(&database, 1).await;
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut folders = vec![database.folder().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                assert_eq!(mode(&path), 0o700, "{}", path.display());
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files >= 1, "{files}");
}

/// Cards are not tried out by the thousand, and no row of the audit log is written without end.
async fn a_login_changes_and_pays_so_often(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.changes_per_minute = 20.try_into().unwrap();
        settings.rate_limit.payments_per_hour = 3.try_into().unwrap();
    })
    .await;
    let user = server.user("someone").await;
    let key = user.key().await;
    for _ in 0..3 {
        user.pay("1").await;
    }
    let pay = || user.post("/api/payments/payments", &json!({ "amount": 1 }));
    let refused = pay().expect(429).await;
    assert!(refused.headers.contains_key("retry-after"), "{}", refused.text);
    let path = format!("/api/keys/{}", key.id);
    let edit = || server.request(Method::PATCH, &path).body("{\"name\":\"b\"}").bearer(&user.token);
    let answers = futures_util::future::join_all((0..60).map(|_| edit().send())).await;
    let of = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!(of(200) + of(429), 60);
    assert!(of(429) > 20, "{}", of(429));
    // Reading is not counted, nor is another user.
    user.get(&path).expect(200).await;
    server.user("other").await.pay("1").await;
    assert_eq!(user.balance().await, "3.0000");
}

async fn a_login_reads_so_often(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.reads_per_minute = 20.try_into().unwrap();
        settings.rate_limit.address_reads_per_minute = 150.try_into().unwrap();
    })
    .await;
    let (one, two) = (server.user("one").await, server.user("two").await);
    let three = server.user("three").await;
    let read = async |user: &crate::support::User<'_>, times: usize| {
        let reads = (0..times).map(|_| user.get("/api/auth/me").send());
        let answers = futures_util::future::join_all(reads).await;
        let refused = answers.iter().filter(|answer| answer.status == 429).count();
        let served = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(served + refused, times);
        served
    };
    let served = read(&one, 100).await;
    assert!((20..80).contains(&served), "{served}");
    // Another session has its own limit.
    assert_eq!(read(&two, 10).await, 10);
    // The address has read so often, whoever it is.
    read(&one, 300).await;
    let served = read(&three, 18).await;
    assert!(served < 18, "{served}");
}

/// A token that is signed is not yet a session: the database has to be asked.
async fn a_session_that_has_ended_asks_the_database_so_often(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.changes_per_minute = 10.try_into().unwrap();
        settings.rate_limit.reads_per_minute = 10.try_into().unwrap();
    })
    .await;
    let ended = server.user("someone").await;
    ended.post("/api/auth/logout", &json!({})).expect(200).await;
    for is_read in [true, false] {
        let ask = || {
            if is_read {
                ended.get("/api/auth/me").send()
            } else {
                ended.post("/api/keys", &json!({ "name": "a" })).send()
            }
        };
        let answers = futures_util::future::join_all((0..40).map(|_| ask())).await;
        let of = |status| answers.iter().filter(|answer| answer.status == status).count();
        assert_eq!(of(401) + of(429), 40);
        assert!(of(429) > 20, "{is_read}: {}", of(429));
    }
    // Nothing of it counts for the user's other sessions.
    let user = server.log_in_again("someone").await;
    for number in 0..9 {
        let path = format!("/api/keys/key-{number}/revoke");
        user.post(&path, &json!({})).expect(404).await;
    }
    user.get("/api/auth/me").expect(200).await;
}

async fn guesses_of_sessions_count_by_address(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.address_per_second = std::num::NonZeroU32::new(5).unwrap();
    })
    .await;
    let guesses = (0..200).map(|_| server.get("/api/auth/me").bearer("guess").send());
    let answers = futures_util::future::join_all(guesses).await;
    let of = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!(of(401) + of(429), 200);
    assert!(of(429) > 0, "{}", of(429));
}

async fn every_answer_has_the_headers_that_bind_browsers(database: Database) {
    let upstream = Upstream::start(Script::Answer(200, "{}".into())).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(upstream.url());
        // A check of the settings refuses these names; if they came through, they would not count.
        settings.upstreams.v1.answer_headers =
            ["Cache-Control", "Content-Security-Policy", "X-Frame-Options", "X-Upstream-Header"]
                .map(str::to_owned)
                .to_vec();
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let passed = server.get("/v1/models").key(&key).expect(200).await;
    assert_eq!(passed.header("x-upstream-header"), "kept");
    let answers = [
        passed,
        user.get("/api/auth/me").expect(200).await,
        server.get("/nowhere").expect(404).await,
        server.get("/api/auth/me").expect(401).await,
        server.get("/health/live").expect(200).await,
        server.get("/api/pricing?limit=1").expect(400).await,
    ];
    // Documents say themselves how they may be kept.
    let documents = [
        (server.get("/api/openapi.json").expect(200).await, "no-cache"),
        (server.get("/api/pricing").expect(200).await, "private, no-cache"),
    ];
    let answers = answers.into_iter().map(|answer| (answer, "no-store")).chain(documents);
    for (answer, kept) in answers {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", kept),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
            ),
        ] {
            let all: Vec<_> = answer.headers.get_all(name).iter().collect();
            assert_eq!(all, [value], "{name}");
        }
        assert!(!answer.headers.contains_key("strict-transport-security"));
        assert!(!answer.headers.contains_key("server"));
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
    let page = server.get("/docs/").expect(200).await;
    assert!(page.header("content-security-policy").starts_with("default-src 'self';"));
    // What the policy forbids, the page does not have.
    assert!(!page.text.contains("<script>"), "{}", page.text);
}

async fn behind_a_trusted_proxy_browsers_are_bound_to_tls(database: Database) {
    let of = async |server: &Server, scheme: &str| {
        let answer = server.get("/health/live").header("X-Forwarded-Proto", scheme).expect(200);
        let value = answer.await.headers.get("strict-transport-security").cloned();
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let server = Server::start(&database).await;
    assert_eq!(of(&server, "https").await, None);
    server.stop();
    for (is_set, value) in
        [(false, "max-age=63072000"), (true, "max-age=63072000; includeSubDomains")]
    {
        let server = Server::start_with(&database, |settings| {
            settings.server.trusted_proxies = vec![[127, 0, 0, 1].into()];
            settings.server.hsts_subdomains = is_set;
        })
        .await;
        assert_eq!(of(&server, "https").await.as_deref(), Some(value));
        assert_eq!(of(&server, "http").await, None);
        server.stop();
    }
}

async fn other_origins_read_nothing_unless_it_is_set(database: Database) {
    let ask = async |server: &Server, origin: &str| {
        let preflight = server
            .request(Method::OPTIONS, "/api/keys")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,content-type")
            .send()
            .await;
        let plain = server.get("/api/keys").header("Origin", origin).send().await;
        let allowed = |answer: &crate::support::Answer| {
            answer
                .headers
                .get("access-control-allow-origin")
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert!(!plain.headers.contains_key("access-control-allow-credentials"));
        (allowed(&preflight), allowed(&plain), plain.status.as_u16())
    };
    let server = Server::start(&database).await;
    assert_eq!(ask(&server, "https://app.example.com").await, (None, None, 401));
    server.stop();
    let server = Server::start_with(&database, |settings| {
        settings.server.cors_origins = vec!["https://app.example.com".into()];
    })
    .await;
    let own = Some("https://app.example.com".to_owned());
    assert_eq!(ask(&server, "https://app.example.com").await, (own.clone(), own, 401));
    for origin in ["https://evil.example.com", "http://app.example.com", "null"] {
        let (preflight, plain, _) = ask(&server, origin).await;
        assert_eq!((preflight, plain), (None, None), "{origin}");
    }
}

/// What the server says to these bytes, until it closes the connection or says nothing more.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    // It may close while this is being sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

async fn giant_and_slow_requests_are_cut_and_touch_nobody_else(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.head_timeout_seconds = 1;
        settings.server.body_timeout_seconds = 1;
        settings.server.body_max_bytes = 10_000;
    })
    .await;
    let user = server.user("someone").await;
    let status = |answer: &str| answer.split(' ').nth(1).unwrap_or("closed").to_owned();
    let head = "GET /api/auth/me HTTP/1.1\r\nHost: x\r\n";
    tokio::task::block_in_place(|| {
        let long = format!("{head}X-Long: {}\r\n\r\n", "a".repeat(300_000));
        assert!(
            ["400", "431", "closed"].contains(&status(&raw(&server, long.as_bytes())).as_str())
        );
        let many = format!("{head}{}\r\n", "X-Many: a\r\n".repeat(5_000));
        assert!(
            ["400", "431", "closed"].contains(&status(&raw(&server, many.as_bytes())).as_str())
        );
        // A head that never ends.
        assert!(["408", "closed"].contains(&status(&raw(&server, head.as_bytes())).as_str()));
        // A body that never comes.
        let login = "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
        assert_eq!(status(&raw(&server, login.as_bytes())), "408");
        // A body that is announced too large, and one that is not announced at all.
        let login = "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 10001\r\n\r\n";
        assert_eq!(status(&raw(&server, login.as_bytes())), "413");
        let chunk = format!("2710\r\n{}\r\n", "a".repeat(10_000));
        let chunks = format!(
            "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
        );
        assert_eq!(status(&raw(&server, chunks.as_bytes())), "413");
        // Two lengths, or a length and chunks: no request may be hidden in another.
        for smuggled in [
            "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   GET /",
            "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            let answer = raw(&server, smuggled.as_bytes());
            assert!(["400", "closed"].contains(&status(&answer).as_str()), "{answer}");
        }
        let deep = format!("{}{}", "[".repeat(4_000), "]".repeat(4_000));
        let deep = format!(
            "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{deep}",
            deep.len()
        );
        assert_eq!(status(&raw(&server, deep.as_bytes())), "400");
    });
    user.get("/api/auth/me").expect(200).await;
}

/// A body that does not come keeps nothing waiting that is refused whatever it says.
async fn who_may_not_ask_is_refused_before_the_body_is_there(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let operator = server.operator(&database, "operator").await;
    server.advance(600);
    let credits = format!("/api/admin/users/{}/credits", user.id);
    for (path, token, status) in [
        ("/api/keys", "no session", "401"),
        ("/api/auth/email", user.token.as_str(), "403"),
        (credits.as_str(), user.token.as_str(), "403"),
        (credits.as_str(), operator.token.as_str(), "403"),
    ] {
        let half = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{"
        );
        let answer = tokio::task::block_in_place(|| raw(&server, half.as_bytes()));
        assert_eq!(answer.split(' ').nth(1), Some(status), "{path} {answer}");
    }
}

async fn secrets_are_read_from_files(database: Database) {
    let file = database.folder().join("a secret");
    let secret = "a secret of more than thirty-two characters";
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    let mut process = Process::start_with(&database, |command| {
        command.env("POLYSYSTEMS_AUTH__JWT_SECRET_FILE", &file);
    })
    .await;
    let customer = process.customer("someone", 1).await;
    process.terminate();
    // The same secret by its own name reads what it has signed.
    let process = Process::start_with(&database, |command| {
        command.env("POLYSYSTEMS_AUTH__JWT_SECRET", secret);
    })
    .await;
    let (status, _) = process.call("GET", "/api/auth/me", &customer.token, &json!({})).await;
    assert_eq!(status, 200);
    drop(process);
    let show = |name: &str, value: &str| {
        finished(command(&database).args(["config", "show"]).env(name, value))
    };
    let (code, out, _) = show("POLYSYSTEMS_AUTH__JWT_SECRET_FILE", file.to_str().unwrap());
    assert!(code == Some(0) && !out.contains(secret), "{out}");
    let (code, _, error) = show("POLYSYSTEMS_AUTH__JWT_SECRET_FILE", "/nowhere/secret");
    assert_eq!(code, Some(78));
    assert!(error.contains("POLYSYSTEMS_AUTH__JWT_SECRET_FILE"), "{error}");
    let (code, _, error) = show("POLYSYSTEMS_AUTH__NO_SUCH_FILE", file.to_str().unwrap());
    assert!(code == Some(78) && error.contains("POLYSYSTEMS_AUTH__NO_SUCH_FILE"), "{error}");
}

async fn tls_takes_another_certificate_without_a_restart(database: Database) {
    let (chain, key) = (database.folder().join("chain.pem"), database.folder().join("key.pem"));
    let renew = || {
        let names = vec!["localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()
    };
    let first = renew();
    let port = free_port();
    let mut child = command(&database)
        .env("POLYSYSTEMS_SERVER__BIND", format!("127.0.0.1:{port}"))
        .env("POLYSYSTEMS_SERVER__TLS_CERTIFICATE", &chain)
        .env("POLYSYSTEMS_SERVER__TLS_KEY", &key)
        .env("POLYSYSTEMS_LOG__LEVEL", "error")
        .spawn()
        .unwrap();
    let ask = async |trusted: &reqwest::Certificate| {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([trusted.clone()]);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let client = client.resolve("localhost", address).build().unwrap();
        client.get(format!("https://localhost:{port}/health/live")).send().await
    };
    let until = async |trusted: &reqwest::Certificate| {
        for _ in 0..400 {
            if let Ok(answer) = ask(trusted).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", ask(trusted).await);
    };
    let answer = until(&first).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=63072000");
    // Without TLS nothing is said that a client could take for an answer.
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    let plain = plain.get(format!("http://127.0.0.1:{port}/health/live")).send().await;
    assert!(plain.is_err() || plain.unwrap().status() != 200);
    // What cannot be used changes nothing.
    std::fs::write(&chain, "no certificate").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(ask(&first).await.is_ok());
    let second = renew();
    until(&second).await;
    assert!(ask(&first).await.is_err());
    child.kill().unwrap();
    child.wait().unwrap();
}
