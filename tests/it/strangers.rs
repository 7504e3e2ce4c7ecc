//! What callers without a credential, and callers who pay nothing, cannot take from those who pay.

use std::net::Ipv4Addr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use polysystems::config::Secret;
use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::process::Process;
use crate::support::stripe::{SECRET_KEY, Stripe, WEBHOOK_SECRET, sign};
use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Database, Key, Server, on_both};

on_both!(
    sockets_without_a_key_keep_no_customer_out,
    half_bodies_keep_nobody_out,
    networks_of_one_owner_have_no_more_bodies_than_they_may,
    an_address_has_no_more_connections_than_it_may,
    a_paying_customer_is_no_stranger_while_a_call_runs,
    who_pays_nothing_stays_a_stranger,
    who_paid_once_is_a_stranger_again,
    a_crowd_of_strangers_keeps_no_customer_out,
    a_look_up_of_a_key_is_waited_for_once,
    an_account_has_no_more_slow_bytes_than_it_may,
    bodies_on_their_way_stay_within_their_limit,
    test_keys_take_no_place_of_a_paying_customer,
    readiness_says_when_the_server_is_full,
    refusals_below_the_handlers_have_the_body_of_an_error,
    slow_senders_and_slow_readers_are_cut,
    a_free_read_keeps_no_answer,
);

/// Nothing that a test waits for takes so long.
const LONG: Duration = Duration::from_mins(1);
/// An answer that no buffer of the system holds.
const LARGE: usize = 16_000_000;
const CHAT: &str = "/v1/chat/completions";

fn some(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

/// A connection from this address of loopback.
async fn connect(server: &str, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // As small as it gets: what the server writes must not vanish in buffers.
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(server.parse().unwrap()).await.unwrap()
}

fn stranger(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}

/// All that the server says until it closes the connection.
async fn all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after an answer is an end as well.
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("no end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status and the body of an answer, whose head must fit.
fn answer(text: &str) -> (u16, Value) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{text:?}"));
    assert!(head.contains("content-type: application/json"), "{text}");
    let id = body["request_id"].as_str().unwrap();
    assert!(head.contains(&format!("x-request-id: {id}")), "{text}");
    assert!(head.contains("frame-ancestors 'none'") && head.contains("no-store"), "{text}");
    (text.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

async fn ask(server: &str, from: Ipv4Addr, request: &str) -> (u16, Value) {
    let mut stream = connect(server, from).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(&all(&mut stream).await)
}

async fn customer(server: &Server) -> Key {
    let user = server.user("customer").await;
    user.pay("10").await;
    user.key().await
}

async fn chat(server: &Server, key: &Key, status: u16) -> crate::support::Answer {
    let body = json!({ "messages": [{ "role": "user", "content": "Hello!" }] });
    server.post("/api/hub/agents/chat", &body).key(key).expect(status).await
}

async fn sockets_without_a_key_keep_no_customer_out(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.requests_max = some(4);
        settings.server.strangers_max = some(8);
        settings.server.calls_max = some(4);
    })
    .await;
    let key = customer(&server).await;
    let address = server.address.to_string();
    let upgrade =
        "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (status, body) = ask(&address, stranger(1), upgrade).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("upgrade_not_supported")));
    // A stranger's call is answered before its body is there.
    let half =
        |path: &str| format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{{");
    let (status, body) = ask(&address, stranger(1), &half(CHAT)).await;
    assert_eq!((status, &body["error"]["code"]), (401, &json!("invalid_api_key")));
    let mut open = Vec::new();
    for number in 0..200_u8 {
        let from = stranger(number % 8);
        let mut stream = connect(&address, from).await;
        let request = match number % 4 {
            0 => upgrade.to_owned(),
            1 => half(CHAT),
            2 => half("/api/auth/login"),
            _ => "GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Half: ".to_owned(),
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        open.push(stream);
    }
    for _ in 0..10 {
        chat(&server, &key, 200).await;
    }
    server.get("/health/ready").expect(200).await;
    drop(open);
}

const METRICS_TOKEN: &str = "a token of the metrics";

fn metrics_token() -> Option<Secret> {
    serde_json::from_value(json!(METRICS_TOKEN)).ok()
}

/// Waits until the metrics have this line.
async fn until(server: &Server, line: &str) {
    let mut text = String::new();
    let is_there = async {
        while !text.lines().any(|other| other == line) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            text = server.get("/metrics").bearer(METRICS_TOKEN).expect(200).await.text;
        }
    };
    assert!(timeout(LONG, is_there).await.is_ok(), "no {line:?}: {text}");
}

async fn half_bodies_keep_nobody_out(database: Database) {
    let stripe = Stripe::start();
    let url = stripe.url.clone();
    let server = Server::start_with(&database, |settings| {
        settings.server.strangers_max = some(8);
        settings.server.bodies_per_address_max = some(16);
        settings.server.metrics_token = metrics_token();
        let secret = |text: &str| serde_json::from_value(json!(text)).ok();
        settings.payments.stripe.url = url;
        settings.payments.stripe.secret_key = secret(SECRET_KEY);
        settings.payments.stripe.webhook_secret = secret(WEBHOOK_SECRET);
    })
    .await;
    let user = server.user("customer").await;
    let body = json!({ "amount": 25, "provider": "stripe" });
    let begun = user.post("/api/payments/payments", &body).expect(201).await;
    let payment = begun.body["id"].as_str().unwrap().to_owned();
    stripe.submit(&payment, "succeeded");
    let address = server.address.to_string();
    let mut open = Vec::new();
    for number in 0..64_u8 {
        let path = match number % 4 {
            0 => "/api/payments/stripe/webhook",
            1 => "/api/auth/register",
            2 => "/api/keys",
            _ => "/api/auth/login",
        };
        let session = if number % 4 == 2 { &user.token } else { "none" };
        let mut stream = connect(&address, stranger(number % 4)).await;
        // More than is small, so that it counts in the bytes too.
        let half = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {session}\r\n\
             Content-Length: 9000\r\n\r\n{}",
            " ".repeat(8_000)
        );
        stream.write_all(half.as_bytes()).await.unwrap();
        open.push(stream);
    }
    until(&server, "polysystems_open_bodies 64").await;
    let login = json!({ "email": "customer@example.com", "password": "wrong" });
    server.post("/api/auth/login", &login).expect(401).await;
    // From an address that has as many bodies on their way as it may: one that comes whole is none.
    let login = login.to_string();
    let whole = format!(
        "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{login}",
        login.len()
    );
    assert_eq!(ask(&address, stranger(1), &whole).await.0, 401);
    user.post("/api/keys", &json!({ "name": "one" })).expect(201).await;
    let event = stripe.event("checkout.session.completed", &payment);
    let told = server.post("/api/payments/stripe/webhook", &json!(null)).body(event.clone());
    told.header("Stripe-Signature", &sign(&event, server.seconds())).expect(204).await;
    assert_eq!(user.balance().await, "25.0000");
    // What comes after all is served: its place is taken again.
    let (status, body) = {
        let stream = open.last_mut().unwrap();
        stream.write_all(" ".repeat(1_000).as_bytes()).await.unwrap();
        let mut said = vec![0; 2_000];
        let read = timeout(LONG, stream.read(&mut said)).await.expect("no answer").unwrap();
        answer(&String::from_utf8_lossy(&said[..read]))
    };
    assert_eq!((status, &body["error"]), (400, &json!("Bad request")));
    drop(open);
}

async fn networks_of_one_owner_have_no_more_bodies_than_they_may(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        settings.server.bodies_per_address_max = some(2);
        settings.server.metrics_token = metrics_token();
    })
    .await;
    let address = server.address.to_string();
    let mut open = Vec::new();
    // Each from a /64 of its own.
    for number in 0..40_u8 {
        let client = format!("2001:db8:0:{number:x}::1");
        let mut stream = connect(&address, Ipv4Addr::LOCALHOST).await;
        let half = format!(
            "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\
             Content-Length: 9000\r\n\r\n{{"
        );
        stream.write_all(half.as_bytes()).await.unwrap();
        open.push(stream);
    }
    until(&server, "polysystems_bodies_refused_total 32").await;
    until(&server, "polysystems_open_bodies 8").await;
    drop(open);
}

async fn an_address_has_no_more_connections_than_it_may(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.connections_per_address_max = some(10);
        settings.server.metrics_token = metrics_token();
    })
    .await;
    let key = customer(&server).await;
    let address = server.address.to_string();
    let request = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..40 {
        let mut stream = connect(&address, stranger(1)).await;
        let _ = stream.write_all(request.as_bytes()).await;
        let mut first = [0; 12];
        let read = timeout(LONG, stream.read(&mut first)).await.expect("no answer");
        let is_answered = read.is_ok_and(|read| read > 0);
        open.push((is_answered, stream));
    }
    assert_eq!(open.iter().filter(|(is_answered, _)| *is_answered).count(), 10);
    let refused = "polysystems_connections_refused_total 30";
    until(&server, refused).await;
    chat(&server, &key, 200).await;
    // A connection that a paid call has come on counts no more.
    let body = json!({ "messages": [{ "role": "user", "content": "Hello!" }] }).to_string();
    let paid = format!(
        "POST /api/hub/agents/chat HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{body}",
        key.value,
        body.len()
    );
    let mut customers = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(&address, stranger(2)).await;
        stream.write_all(paid.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        timeout(LONG, stream.read_exact(&mut first)).await.expect("no answer").unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        customers.push(stream);
    }
    drop((open, customers));
}

async fn a_paying_customer_is_no_stranger_while_a_call_runs(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.server.connections_per_address_max = some(2);
        settings.upstreams.hub.url = Some(url);
    })
    .await;
    let key = customer(&server).await;
    let address = server.address.to_string();
    let body = json!({ "messages": [{ "role": "user", "content": "Hello!" }] }).to_string();
    let call = format!(
        "POST /api/hub/agents/chat HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{body}",
        key.value,
        body.len()
    );
    let mut open = Vec::new();
    for number in 1..=8 {
        let mut stream = connect(&address, stranger(2)).await;
        stream.write_all(call.as_bytes()).await.unwrap();
        open.push(stream);
        let arrives = async {
            while upstream.calls() < number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), arrives).await.expect("it is taken for a stranger");
    }
    drop(open);
}

async fn who_pays_nothing_stays_a_stranger(database: Database) {
    let upstream = Upstream::start(Script::Answer(400, "{\"error\":{}}".into())).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.server.connections_per_address_max = some(2);
        settings.upstreams.v1.url = Some(url);
    })
    .await;
    let key = customer(&server).await;
    let address = server.address.to_string();
    let call = |is_stream: bool| {
        let body = json!({ "messages": [{ "role": "user", "content": "Hello!" }],
            "stream": is_stream, "max_tokens": 10 });
        let body = body.to_string();
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{body}",
            key.value,
            body.len()
        )
    };
    // The answer to a call, up to this end; nothing if the connection is closed.
    let say = async |stream: &mut TcpStream, is_stream: bool, end: &str| {
        let mut said = String::new();
        if stream.write_all(call(is_stream).as_bytes()).await.is_err() {
            return said;
        }
        while !said.ends_with(end) {
            let mut bytes = [0; 4_096];
            match timeout(LONG, stream.read(&mut bytes)).await.expect("no answer") {
                Ok(0) | Err(_) => return String::new(),
                Ok(read) => said.push_str(std::str::from_utf8(&bytes[..read]).unwrap()),
            }
        }
        said
    };
    let mut one = connect(&address, stranger(3)).await;
    let mut two = connect(&address, stranger(3)).await;
    for stream in [&mut one, &mut two] {
        assert!(say(stream, false, "}").await.starts_with("HTTP/1.1 400"));
    }
    let mut three = connect(&address, stranger(3)).await;
    assert_eq!(say(&mut three, false, "}").await, "", "a refusal that is free makes no customer");
    // A stream is paid for at its end.
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 1 });
    let steps = vec![word(" word"), usage_and_done(&usage)];
    upstream.script(Script::Events(steps));
    assert!(say(&mut one, true, "0\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    let mut four = connect(&address, stranger(3)).await;
    assert!(say(&mut four, true, "0\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    drop((one, two, three, four));
}

/// A call that costs something, on a connection that stays open.
fn paid_call(key: &Key) -> String {
    let body = json!({ "messages": [{ "role": "user", "content": "Hello!" }] }).to_string();
    format!(
        "POST /api/hub/agents/chat HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{body}",
        key.value,
        body.len()
    )
}

/// Is a request on this connection answered with 200?
async fn is_served(stream: &mut TcpStream, request: &str) -> bool {
    let _ = stream.write_all(request.as_bytes()).await;
    let mut first = [0; 12];
    let read = timeout(LONG, stream.read_exact(&mut first)).await.expect("no answer");
    read.is_ok() && &first == b"HTTP/1.1 200"
}

const FREE: &str = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";

async fn who_paid_once_is_a_stranger_again(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.connections_per_address_max = some(2);
    })
    .await;
    let key = customer(&server).await;
    let address = server.address.to_string();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&address, stranger(4)).await;
        assert!(is_served(&mut stream, &paid_call(&key)).await);
        open.push(stream);
    }
    let mut third = connect(&address, stranger(4)).await;
    assert!(is_served(&mut third, FREE).await, "who pays is no stranger");
    drop(third);
    let is_refused = async {
        loop {
            // They go on to send what is free, which changes nothing.
            for stream in &mut open {
                let _ = stream.write_all(FREE.as_bytes()).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut third = connect(&address, stranger(4)).await;
            if !is_served(&mut third, FREE).await {
                return;
            }
        }
    };
    timeout(Duration::from_secs(20), is_refused).await.expect("one payment keeps a connection");
    drop(open);
}

async fn a_crowd_of_strangers_keeps_no_customer_out(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.workers = 1;
        settings.server.connections_max = some(40);
    })
    .await;
    let key = customer(&server).await;
    let address = server.address.to_string();
    // More than may be open, from many addresses. They stay open, and send what is free.
    let mut crowd = Vec::new();
    for number in 0..60 {
        let mut stream = connect(&address, stranger(number)).await;
        stream.write_all(FREE.as_bytes()).await.unwrap();
        crowd.push(stream);
    }
    let mut stream = connect(&address, stranger(200)).await;
    let served = timeout(Duration::from_secs(30), is_served(&mut stream, &paid_call(&key))).await;
    assert!(served.expect("a customer is kept out"));
    drop(crowd);
}

async fn a_look_up_of_a_key_is_waited_for_once(database: Database) {
    // Nobody keeps readers out of SQLite.
    if !database.is_postgres() {
        return;
    }
    let server = Server::start(&database).await;
    let key = customer(&server).await;
    let connection = database.connect().await;
    let transaction = connection.begin().await.unwrap();
    let lock = "LOCK TABLE api_key IN ACCESS EXCLUSIVE MODE";
    transaction.execute_unprepared(lock).await.unwrap();
    let begun = std::time::Instant::now();
    // Each waits for the ten seconds that anybody waits for the database, but not one after the
    // other.
    let calls = (0..5).map(|_| chat(&server, &key, 503));
    for refused in futures_util::future::join_all(calls).await {
        assert_eq!(refused.body["error"], "Service unavailable");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    transaction.rollback().await.unwrap();
    connection.close().await.unwrap();
    chat(&server, &key, 200).await;
}

async fn an_account_has_no_more_slow_bytes_than_it_may(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.bodies_max_bytes = some(8_000_000);
        settings.server.body_max_bytes = 1_000_000;
        settings.server.metrics_token = metrics_token();
    })
    .await;
    let key = customer(&server).await;
    let address = server.address.to_string();
    let mut open = Vec::new();
    // Each from an address of its own.
    for number in 0..6_u8 {
        let mut stream = connect(&address, stranger(number)).await;
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: 900000\r\n\r\n",
            key.value
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // What comes with the head counts for nobody.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = stream.write_all(" ".repeat(400_000).as_bytes()).await;
        open.push(stream);
    }
    until(&server, "polysystems_bodies_refused_total 4").await;
    drop(open);
}

/// Memory of a process, in bytes.
fn resident(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
}

async fn bodies_on_their_way_stay_within_their_limit(database: Database) {
    const MIB: usize = 1 << 20;
    let limit = 64 * MIB;
    let process = Process::start_with(&database, |command| {
        command
            .env("POLYSYSTEMS_SERVER__BODIES_MAX_BYTES", limit.to_string())
            .env("POLYSYSTEMS_SERVER__BODY_TIMEOUT_SECONDS", "120")
            .env("POLYSYSTEMS_SERVER__TRANSFER_WINDOW_SECONDS", "120");
    })
    .await;
    let customer = process.customer("customer", 10).await;
    let before = resident(&process);
    let address = process.address().to_owned();
    let mut senders = Vec::new();
    for number in 0..40_u8 {
        let (address, key) = (address.clone(), customer.key.clone());
        senders.push(tokio::spawn(async move {
            let mut stream = connect(&address, stranger(number % 20)).await;
            let framing = if number % 2 == 0 {
                "Content-Length: 10000000\r\n\r\n"
            } else {
                "Transfer-Encoding: chunked\r\n\r\n989680\r\n"
            };
            let head = format!("POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n{framing}");
            let mut body = head.into_bytes();
            body.resize(body.len() + 9_500_000, b' ');
            // The server refuses it half-way, or takes all of it and waits for more.
            let sent = timeout(LONG, stream.write_all(&body)).await.expect("it is not taken");
            let mut status = [0; 12];
            let said = timeout(Duration::from_secs(2), stream.read_exact(&mut status)).await;
            let is_refused = sent.is_err() || said.is_ok();
            (is_refused, stream)
        }));
    }
    let mut open = Vec::new();
    for sender in senders {
        open.push(sender.await.unwrap());
    }
    let waiting = open.iter().filter(|(is_refused, _)| !is_refused).count();
    assert!(waiting * 9_500_000 <= limit, "{waiting}");
    let grown = resident(&process).saturating_sub(before);
    assert!(grown <= limit + 64 * MIB, "{grown}");
    // Small bodies need no room.
    let body = json!({ "messages": [{ "role": "user", "content": "Hello!" }] });
    let (status, answer) = process.call("POST", "/api/hub/agents/chat", &customer.key, &body).await;
    assert_eq!(status, 200, "{answer}");
    assert!(process.is_ready().await);
}

async fn test_keys_take_no_place_of_a_paying_customer(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.requests_max = some(3);
        settings.server.calls_max = some(3);
        settings.server.test_calls_max = some(3);
    })
    .await;
    let key = customer(&server).await;
    let free = server.user("free").await;
    let free = free.key_of(&json!({ "name": "test", "environment": "test" })).await;
    let stream = json!({
        "model": "sandbox-slow", "stream": true, "max_tokens": 1_000,
        "messages": [{ "role": "user", "content": "Hello!" }],
    });
    let mut running = Vec::new();
    loop {
        let sent = server.post(CHAT, &stream).key(&free).0.send().await.unwrap();
        match sent.status().as_u16() {
            200 => running.push(sent),
            // All places of tests are taken, or the account's fair share of them.
            status => {
                assert!([429, 503].contains(&status), "{status}");
                break;
            }
        }
    }
    assert!(!running.is_empty() && running.len() <= 3);
    for _ in 0..5 {
        chat(&server, &key, 200).await;
    }
    server.get("/health/ready").expect(200).await;
    drop(running);
}

async fn readiness_says_when_the_server_is_full(database: Database) {
    let upstream = Upstream::start(Script::Events(vec![word("Hello"), Step::Stall])).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.server.calls_max = some(1);
        settings.upstreams.v1.url = Some(serde_json::from_value(json!(url)).unwrap());
    })
    .await;
    let key = customer(&server).await;
    server.get("/health/ready").expect(200).await;
    let stream = json!({
        "model": "m", "stream": true, "max_tokens": 10,
        "messages": [{ "role": "user", "content": "Hello!" }],
    });
    let running = server.post(CHAT, &stream).key(&key).stream().await;
    server.get("/health/ready").expect(503).await;
    server.get("/health/live").expect(200).await;
    let refused = server.post(CHAT, &stream).key(&key).expect(503).await;
    assert_eq!(refused.body["error"]["code"], "server_overloaded");
    drop(running);
    let again = async {
        while server.get("/health/ready").send().await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, again).await.expect("it stays full");
}

async fn refusals_below_the_handlers_have_the_body_of_an_error(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.head_timeout_seconds = 1;
    })
    .await;
    let key = customer(&server).await;
    let address = server.address.to_string();
    let from = stranger(1);
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Many: a\r\n".repeat(200));
    let half = "GET / HTTP/1.1\r\nHost: x\r\n";
    for (request, status, error) in [
        ("GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400, "Bad request"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "Bad request"),
        (many.as_str(), 431, "Headers too large"),
        (half, 408, "Request timeout"),
    ] {
        let (got, body) = ask(&address, from, request).await;
        assert_eq!((got, &body["error"]), (status, &json!(error)), "{request:?}");
    }
    // Chunks that are none. The library hangs up as soon as it finds them, so that only answers
    // that need no look-up come through.
    chat(&server, &key, 200).await;
    let chunks = "Transfer-Encoding: chunked\r\n\r\nxyz\r\n";
    for (head, place, error) in [
        (
            format!("POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\n", key.value),
            "/error/code",
            "malformed_body",
        ),
        ("POST /api/auth/login HTTP/1.1\r\nHost: x\r\n".to_owned(), "/error", "Bad request"),
    ] {
        let (status, body) = ask(&address, from, &format!("{head}{chunks}")).await;
        assert_eq!((status, body.pointer(place)), (400, Some(&json!(error))), "{head}");
    }
    // A refused call whose body is there leaves its connection open.
    let mut stream = connect(&address, from).await;
    let call = format!("POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}");
    stream.write_all(call.as_bytes()).await.unwrap();
    let mut said = String::new();
    while !said.ends_with('}') {
        let mut bytes = [0; 1_024];
        let read = timeout(LONG, stream.read(&mut bytes)).await.expect("no answer").unwrap();
        assert_ne!(read, 0, "{said}");
        said.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    assert!(said.starts_with("HTTP/1.1 401") && !said.contains("connection: close"), "{said}");
    // The second head of a connection must end as well.
    let live = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(live.as_bytes()).await.unwrap();
    let mut first = [0; 15];
    timeout(LONG, stream.read_exact(&mut first)).await.expect("no answer").unwrap();
    stream.write_all(half.as_bytes()).await.unwrap();
    all(&mut stream).await;
}

async fn slow_senders_and_slow_readers_are_cut(database: Database) {
    let large = json!({ "text": "a".repeat(LARGE) }).to_string();
    let upstream = Upstream::start(Script::Answer(200, large)).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.hub.url = Some(serde_json::from_value(json!(url)).unwrap());
        settings.server.transfer_rate_min = 10_000;
        settings.server.transfer_window_seconds = NonZeroU64::MIN;
    })
    .await;
    let address = server.address.to_string();
    let mut slow = connect(&address, stranger(1)).await;
    let head = "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    // A byte now and then does not help.
    let (mut reader, mut writer) = slow.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut said = Vec::new();
    let _ = timeout(LONG, reader.read_to_end(&mut said)).await.expect("it is not cut");
    let (status, _) = answer(&String::from_utf8_lossy(&said));
    assert_eq!(status, 408);
    trickle.await.unwrap();

    let key = customer(&server).await;
    let mut reader = connect(&address, stranger(2)).await;
    let call = format!(
        "POST /api/hub/rag/query HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: 2\r\n\r\n{{}}",
        key.value
    );
    reader.write_all(call.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    timeout(LONG, reader.read_exact(&mut first)).await.expect("no answer").unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // It reads nothing more for longer than the server waits.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut rest = Vec::new();
    let _ = timeout(LONG, reader.read_to_end(&mut rest)).await.expect("it is not cut");
    assert!(rest.len() < LARGE, "{}", rest.len());
}

async fn a_free_read_keeps_no_answer(database: Database) {
    let server = Server::start(&database).await;
    let key = server.user("free").await.key().await;
    let list = || server.get("/v1/models").key(&key).header("Idempotency-Key", "once");
    for _ in 0..2 {
        let answer = list().expect(200).await;
        assert!(!answer.headers.contains_key("idempotent-replayed"));
    }
    let kept = database.query("SELECT CAST(COUNT(*) AS TEXT) FROM recorded_answer").await;
    assert_eq!(kept, "0");
}
