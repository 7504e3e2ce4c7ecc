//! What operators see: figures in Prometheus' format, and traces by OTLP.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AttributeValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use polysystems::config::Secret;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::clients::installed;
use crate::support::process::Process;
use crate::support::upstream::{Script, Upstream};
use crate::support::{Database, Server, hex, on_both};

on_both!(
    the_figures_are_what_prometheus_reads,
    the_figures_ask_for_their_token,
    a_call_is_one_trace_from_the_caller_to_the_upstream,
);

const TOKEN: &str = "metrics-0123456789abcdef";

async fn the_figures_are_what_prometheus_reads(database: Database) {
    let bind = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start_with(&database, |settings| {
        settings.server.metrics_bind = Some(bind);
        settings.ledger.verify_hours = Some(std::num::NonZeroU32::MIN);
    })
    .await;
    let user = server.user("someone").await;
    let key = user.key().await;
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(402).await;
    server.get("/v1/models").header("X-API-Key", "ps_live_nonsense").expect(401).await;
    user.pay("1.00").await;
    for _ in 0..3 {
        server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    }
    let metrics = async || {
        let answer = server.client.get(format!("http://{bind}/metrics")).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        answer.text().await.unwrap()
    };
    // Measured and verified beside the calls.
    let mut text = metrics().await;
    for _ in 0..200 {
        if text.contains("polysystems_fsync_seconds ")
            && text.contains("polysystems_verify_findings ")
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        text = metrics().await;
    }
    for line in [
        "polysystems_calls_answered_total 3",
        "polysystems_calls_refused_total{reason=\"insufficient_credits\"} 1",
        "polysystems_calls_refused_total{reason=\"invalid_key\"} 1",
        "polysystems_upstream_seconds_count{group=\"hub\"} 3",
        "polysystems_upstream_seconds_count{group=\"v1\"} 0",
        "polysystems_verify_findings 0",
        "polysystems_charges_open 0",
        "polysystems_credited_usd_total{provider=\"stripe\"} 0",
        "polysystems_http_request_duration_seconds_count{route=\"/api/hub/*\",method=\"POST\",status=\"200\"} 3",
        "polysystems_http_request_duration_seconds_count{route=\"/api/payments/payments\",method=\"POST\",status=\"201\"} 1",
        "polysystems_ready 1",
    ] {
        assert!(text.lines().any(|own| own == line), "no {line} in\n{text}");
    }
    // Nobody's ids and secrets are in it.
    for word in [key.id.as_str(), &key.value, &user.id, "someone"] {
        assert!(!text.contains(word), "{word}");
    }
    // The official parser takes it, and what alerts and dashboard ask for is there.
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut child = tokio::process::Command::new(installed().join("venv/bin/python"))
        .arg(root.join("tests/clients/metrics.py"))
        .arg(root.join("ops"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run tests/run, which installs it");
    child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read["unknown"], json!([]), "{read}");
    let labels = [
        "commit",
        "environment",
        "group",
        "kind",
        "lane",
        "le",
        "method",
        "outcome",
        "provider",
        "reason",
        "route",
        "schema",
        "status",
        "version",
    ];
    assert_eq!(read["labels"], json!(labels));
    assert!(
        read["families"].as_u64().unwrap() >= 25 && read["rules"].as_u64().unwrap() >= 10,
        "{read}"
    );
}

async fn the_figures_ask_for_their_token(database: Database) {
    let server = Server::start_with(&database, |settings| {
        let token: Secret = serde_json::from_value(json!(TOKEN)).unwrap();
        settings.server.metrics_token = Some(token);
    })
    .await;
    server.get("/metrics").expect(401).await;
    server.get("/metrics").bearer("metrics-0123456789abcdeg").expect(403).await;
    let text = server.get("/metrics").bearer(TOKEN).expect(200).await.text;
    assert!(text.contains("polysystems_ready 1"), "{text}");
    // Durations in seconds, sizes as they are.
    for line in [
        "polysystems_ledger_commit_seconds_bucket{lane=\"journal\",le=\"0.0001\"}",
        "polysystems_ledger_merge_seconds_bucket{le=\"120\"}",
        "polysystems_ledger_batch_entries_bucket{le=\"32768\"}",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    // Without a token they are not there at all.
    drop(server);
    let server = Server::start(&database).await;
    server.get("/metrics").bearer(TOKEN).expect(404).await;
}

/// A collector that keeps what it is sent.
async fn collector() -> (String, Arc<Mutex<Vec<Span>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spans = Arc::<Mutex<Vec<Span>>>::default();
    let kept = Arc::clone(&spans);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                loop {
                    let mut piece = [0; 16 * 1024];
                    let count = connection.read(&mut piece).await.unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    bytes.extend_from_slice(&piece[..count]);
                    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                        continue;
                    };
                    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
                    let length =
                        text.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let end = head + 4 + length.unwrap().parse::<usize>().unwrap();
                    if bytes.len() < end {
                        continue;
                    }
                    assert!(text.starts_with("post /v1/traces "), "{text}");
                    assert!(text.contains("content-type: application/x-protobuf"), "{text}");
                    let request = ExportTraceServiceRequest::decode(&bytes[head + 4..end]).unwrap();
                    for of_resource in request.resource_spans {
                        let attributes = of_resource.resource.unwrap().attributes;
                        let service = attributes.iter().find(|one| one.key == "service.name");
                        let service = service.unwrap().value.clone().unwrap().value;
                        assert_eq!(
                            service,
                            Some(AttributeValue::StringValue("polysystems".into()))
                        );
                        for of_scope in of_resource.scope_spans {
                            kept.lock().unwrap().extend(of_scope.spans);
                        }
                    }
                    bytes.drain(..end);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    connection.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (url, spans)
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn a_call_is_one_trace_from_the_caller_to_the_upstream(database: Database) {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";
    let (url, spans) = collector().await;
    let answer = json!({ "choices": [{ "message": { "content": "Hi" } }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 1 } });
    let upstream = Upstream::start(Script::Answer(200, answer.to_string())).await;
    let upstream_url = upstream.url();
    let start = async |traces: &'static [(&str, &str)]| {
        let (url, upstream_url) = (url.clone(), upstream_url.clone());
        Process::start_with(&database, move |command| {
            command
                .env("POLYSYSTEMS_TRACES__OTLP_URL", url)
                .env("POLYSYSTEMS_UPSTREAMS__V1__URL", upstream_url);
            for (name, value) in traces {
                command.env(format!("POLYSYSTEMS_TRACES__{name}"), value);
            }
        })
        .await
    };
    let mut process = start(&[("PER_MILLE", "0"), ("CONTINUE_CALLERS", "true")]).await;
    let customer = process.customer("someone", 1).await;
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hello!" }] });
    let call = |process: &Process, traceparent: Option<String>| {
        let request = process.client.post(format!("{}/v1/chat/completions", process.url));
        let request = request.header("X-API-Key", &customer.key).body(body.to_string());
        match traceparent {
            Some(text) => request.header("traceparent", text).header("tracestate", "vendor=value"),
            None => request,
        }
    };
    // One that is not traced, and one that its caller traces.
    assert_eq!(call(&process, None).send().await.unwrap().status(), 200);
    let traced = call(&process, Some(format!("00-{TRACE}-{PARENT}-01"))).send().await.unwrap();
    assert_eq!(traced.status(), 200);
    let request_id = traced.headers()["x-request-id"].to_str().unwrap().to_owned();
    // What waits is sent at the end.
    assert_eq!(process.terminate(), Some(0));
    let sent = Arc::clone(&spans);
    let spans = spans.lock().unwrap().clone();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(spans.len(), 7, "{names:?}");
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{names:?}");
    let root = spans.iter().find(|span| hex(&span.parent_span_id) == PARENT).unwrap();
    assert!(root.name.starts_with("POST "), "{names:?}");
    let attribute = |name: &str| {
        let found = root.attributes.iter().find(|one| one.key == name).unwrap();
        found.value.clone().unwrap().value.unwrap()
    };
    assert_eq!(attribute("request_id"), AttributeValue::StringValue(request_id));
    assert_eq!(attribute("http.response.status_code"), AttributeValue::IntValue(200));
    let address = process.url.strip_prefix("http://").unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/v1/chat/completions"),
        ("url.scheme", "http"),
        ("server.address", host),
        ("network.protocol.version", "1.1"),
        ("polysystems.cost", "0.0021"),
    ] {
        assert_eq!(attribute(name), AttributeValue::StringValue(value.into()), "{name}");
    }
    assert_eq!(attribute("server.port"), AttributeValue::IntValue(port.parse().unwrap()));
    for stage in ["authenticate", "repeat", "price", "charge", "upstream", "settle"] {
        let span = spans.iter().find(|span| span.name == stage);
        let span = span.unwrap_or_else(|| panic!("no {stage} in {names:?}"));
        assert_eq!(span.parent_span_id, root.span_id, "{stage}");
    }
    // The upstream's parent is our own span of it.
    let own = spans.iter().find(|span| span.name == "upstream").unwrap();
    let of_model: Vec<_> =
        own.attributes.iter().filter(|one| one.key.starts_with("gen_ai.")).collect();
    let value = |name: &str| {
        let found = of_model.iter().find(|one| one.key == name).unwrap();
        found.value.clone().unwrap().value.unwrap()
    };
    for (name, expected) in [("gen_ai.operation.name", "chat"), ("gen_ai.provider.name", "openai")]
    {
        assert_eq!(value(name), AttributeValue::StringValue(expected.into()), "{name}");
    }
    for (name, tokens) in [("gen_ai.usage.input_tokens", 9), ("gen_ai.usage.output_tokens", 1)] {
        assert_eq!(value(name), AttributeValue::IntValue(tokens), "{name}");
    }
    let heads = upstream.heads.lock().unwrap().clone();
    let told = format!("traceparent: 00-{TRACE}-{}-01", hex(&own.span_id));
    assert!(heads[1].contains(&told), "{told} is not in {}", heads[1]);
    assert_eq!(heads[1].matches("traceparent").count(), 1);
    assert!(heads[1].contains("tracestate: vendor=value"), "{}", heads[1]);
    // And no secret is in any of it.
    assert!(!format!("{spans:?}").contains(&customer.key));
    // Unless it is said that they may, callers do not choose what is traced.
    let mut process = start(&[("PER_MILLE", "0")]).await;
    let untraced = call(&process, Some(format!("00-{TRACE}-{PARENT}-01"))).send().await.unwrap();
    assert_eq!(untraced.status(), 200);
    assert_eq!(process.terminate(), Some(0));
    assert_eq!(sent.lock().unwrap().len(), spans.len());
    let mut process = start(&[("PER_MILLE", "1000")]).await;
    let traced = call(&process, Some(format!("00-{TRACE}-{PARENT}-00"))).send().await.unwrap();
    assert_eq!(traced.status(), 200);
    assert_eq!(process.terminate(), Some(0));
    let sent = sent.lock().unwrap().clone();
    let own = sent.iter().skip(spans.len()).find(|span| span.name == "settle").unwrap();
    assert_ne!(hex(&own.trace_id), TRACE);
}
