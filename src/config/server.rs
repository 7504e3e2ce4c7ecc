//! `[server]`, `[database]`, `[log]` and `[traces]`.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::lenient::{address, optional_address};
use super::{Secret, non_zero};

/// `[server]`: the HTTP server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port to listen on. `localhost` is 127.0.0.1. If it is unset, the variable `PORT`
    /// counts: that port, on every address.
    #[serde(deserialize_with = "address")]
    pub bind: SocketAddr,
    /// Where customers reach this server: scheme, name and port, such as
    /// `https://api.example.com`. Messages to users link to the console there, and the console
    /// shows it in its examples.
    pub public_url: Option<String>,
    /// HTTP worker threads. 0 means one for each core.
    pub workers: usize,
    /// Largest body of a call, in bytes. A larger one is refused with 413. The body of any other
    /// request may have 256 KiB, and no more than this.
    pub body_max_bytes: usize,
    /// How long a connection without a request is kept open, in seconds.
    pub keep_alive_seconds: u64,
    /// How long a client may take to send a request's head, in seconds.
    pub head_timeout_seconds: u64,
    /// How long a client may take to send a request's body, in seconds.
    pub body_timeout_seconds: u64,
    /// Least rate at which a client must send a body and read an answer, in bytes per second. A
    /// slower body is refused with 408, and the connection of a slower reader is closed. 0 switches
    /// it off.
    pub transfer_rate_min: usize,
    /// The rate is measured over this many seconds.
    pub transfer_window_seconds: NonZeroU64,
    /// On shutdown, how long running calls may go on, in seconds. After that they are ended and
    /// settled.
    pub drain_seconds: u64,
    /// On shutdown, how long the server reports that it is not ready but still takes calls, in
    /// seconds. Set it to the time that a load balancer needs to notice.
    pub drain_delay_seconds: u64,
    /// Open connections at the same time. Further ones wait to be accepted. When four fifths are
    /// open, those of strangers are closed on which the last paid call is longest ago.
    pub connections_max: NonZeroUsize,
    /// Connections of one address at the same time that no paid call has come on for five seconds.
    /// Further ones are closed at once. IPv6 addresses count by /64; a /56 may have four times as
    /// many, and a /48 eight times. Trusted proxies are not counted.
    pub connections_per_address_max: NonZeroUsize,
    /// Requests with live keys that are handled at the same time, and as many of users with a
    /// session. Further ones are refused with 503.
    pub requests_max: NonZeroUsize,
    /// Requests without a credential at the same time. Further ones are refused with 503. A request
    /// whose body is on its way does not count. As many events of Stripe may be taken in, and as
    /// many keys may be looked up.
    pub strangers_max: NonZeroUsize,
    /// Calls with live keys at the same time, streams included. Further ones are refused with 503.
    pub calls_max: NonZeroUsize,
    /// Calls with test keys at the same time, streams included. Further ones are refused with 503.
    pub test_calls_max: NonZeroUsize,
    /// Bytes of request bodies in memory at the same time, from the first byte that arrives. Above
    /// it requests are refused with 503. A sixteenth of it, 1 MiB at least, is kept for requests
    /// that are no calls, and as much for events of Stripe. Calls with test keys may fill half of
    /// the rest, slow bodies of one address a quarter of the whole, and of one account an eighth.
    pub bodies_max_bytes: NonZeroUsize,
    /// Bodies of one address that may be on their way at the same time. Further ones are refused
    /// with 429. IPv6 addresses count by /64; a /56 may have four times as many, and a /48 eight
    /// times.
    pub bodies_per_address_max: NonZeroUsize,
    /// Address and port of a separate listener for `/metrics`. If it is unset, `/metrics` is served
    /// with the API if `metrics_token` is set, and otherwise nowhere.
    #[serde(deserialize_with = "optional_address")]
    pub metrics_bind: Option<SocketAddr>,
    /// Token that `/metrics` requires as `Authorization: Bearer`; at least 16 characters.
    pub metrics_token: Option<Secret>,
    /// IP addresses of reverse proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` headers are
    /// trusted.
    pub trusted_proxies: Vec<IpAddr>,
    /// File with the TLS certificate chain (PEM). With `tls_key` set as well, the server speaks
    /// HTTPS only. The file is read again when it changes.
    pub tls_certificate: Option<PathBuf>,
    /// File with the private key (PEM) of `tls_certificate`.
    pub tls_key: Option<PathBuf>,
    /// If true, browsers are told to use only TLS for every subdomain of the server's host name too
    /// (`Strict-Transport-Security`). Set it if all of them have TLS.
    pub hsts_subdomains: bool,
    /// Origins of web pages that may call the API from a browser, such as
    /// `https://app.example.com`. `*` allows every origin; an empty list allows none.
    pub cors_origins: Vec<String>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            workers: 0,
            body_max_bytes: 10 * 1024 * 1024,
            keep_alive_seconds: 75,
            head_timeout_seconds: 5,
            body_timeout_seconds: 60,
            transfer_rate_min: 1_024,
            transfer_window_seconds: non_zero::u64(30),
            drain_seconds: 30,
            drain_delay_seconds: 0,
            connections_max: non_zero::usize(50_000),
            connections_per_address_max: non_zero::usize(1_024),
            requests_max: non_zero::usize(8_192),
            strangers_max: non_zero::usize(1_024),
            calls_max: non_zero::usize(16_384),
            test_calls_max: non_zero::usize(1_024),
            bodies_max_bytes: non_zero::usize(512 * 1024 * 1024),
            bodies_per_address_max: non_zero::usize(256),
            metrics_bind: None,
            metrics_token: None,
            trusted_proxies: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            hsts_subdomains: false,
            cors_origins: Vec::new(),
        }
    }
}

/// `[database]`: where the data is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `sqlite://...` or `postgres://...`. If it is unset, the variable `DATABASE_URL` counts, and
    /// without that one a SQLite file in the data directory is used.
    pub url: Option<Secret>,
    /// Largest number of connections in the pool. The ledger writer has its own besides.
    pub connections_max: NonZeroU32,
    /// How long `serve` and `migrate` wait for PostgreSQL if it does not answer yet, in seconds.
    pub wait_seconds: u64,
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        DatabaseSettings { url: None, connections_max: non_zero::u32(8), wait_seconds: 60 }
    }
}

/// `[log]`: the server's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`: the lines of the server itself; its
    /// libraries log warnings and errors. Or a filter such as `info,hyper=debug`, which is used as
    /// it is. If it is unset, the variable `RUST_LOG` counts.
    pub level: String,
    /// Format of a log line: `human` or `json`.
    pub format: LogFormat,
}

/// `[traces]`: OpenTelemetry traces, exported by OTLP over HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceSettings {
    /// The collector's base URL, such as `http://127.0.0.1:4318`; `/v1/traces` is appended. If it
    /// is unset, the variable `OTEL_EXPORTER_OTLP_ENDPOINT` counts; without both nothing is traced.
    pub otlp_url: Option<String>,
    /// How many of 1,000 calls are traced.
    pub per_mille: u16,
    /// If true, a trace that a caller began is continued, and the caller decides whether it is
    /// recorded. Enable it for trusted callers only.
    pub continue_callers: bool,
    /// Name of the service in the traces (`service.name`). If it is unset, the variable
    /// `OTEL_SERVICE_NAME` counts. `OTEL_RESOURCE_ATTRIBUTES` adds attributes.
    pub service: String,
}

impl Default for TraceSettings {
    fn default() -> Self {
        TraceSettings {
            otlp_url: None,
            per_mille: 10,
            continue_callers: false,
            service: "polysystems".into(),
        }
    }
}

/// Format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// For programs: one JSON object per line.
    Json,
}

impl LogSettings {
    /// Returns the level as a filter of `tracing-subscriber`. A level without a filter applies to
    /// the server's own lines.
    ///
    /// Fails with one line if the text is neither a level nor a filter.
    pub fn filter(&self) -> anyhow::Result<String> {
        let level = self.level.trim();
        let is_level = |text: &str| {
            let names = ["off", "error", "warn", "info", "debug", "trace"];
            names.iter().any(|name| name.eq_ignore_ascii_case(text))
        };
        if is_level(level) {
            let level = level.to_ascii_lowercase();
            return Ok(match level.as_str() {
                "off" | "error" | "warn" => level,
                // The HTTP library logs an error for each malformed head, and strangers can send
                // many.
                _ => format!("warn,actix_http::h1::dispatcher=off,polysystems={level}"),
            });
        }
        // A single unknown word would be taken for the name of a module, and all other lines would
        // be silent.
        let is_wrong = |part: &str| !part.contains(['=', '[']) && !is_level(part.trim());
        if level.split(',').any(is_wrong) || tracing_subscriber::EnvFilter::try_new(level).is_err()
        {
            bail!(
                "log.level {level:?} is not a level; use off, error, warn, info, debug or trace, or a filter \
                 such as info,hyper=debug"
            );
        }
        Ok(level.to_owned())
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { level: "info".into(), format: LogFormat::Human }
    }
}
