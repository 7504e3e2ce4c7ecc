//! The HTTP servers: the API, and the metrics on a separate address.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpService;
use actix_http::error::DispatchError;
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::HttpServer;
use actix_web::dev::{AppConfig, Extensions, Server};
use actix_web::middleware::{Condition, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::web::Data;
use anyhow::Context as _;
use tokio_rustls::TlsAcceptor;

use super::accept::{Transport, accept};
use super::least_rate;
use crate::actors::ActorThreads;
use crate::config::{EmailTransport, SandboxPayments, ServerSettings, Settings};
use crate::http::{self, App, Connection, ConnectionLimits, Connections};
use crate::payments::SANDBOX;
use crate::tls::Certificate;
use crate::upstream;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 4_096;
/// Timeout of the close of a connection.
const DISCONNECT_MAX: Duration = Duration::from_secs(1);

pub(super) fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)?.into_std()
    };
    bind().with_context(|| format!("cannot listen on {address}"))
}

/// Logs five lines at the start: version and process, the database, where calls go, how payments
/// and mail work, and the address. What is not fit for real customers is logged as a warning.
/// Further lines warn of a demo, and of a session cookie that is not safe.
pub(super) fn announce(app: &App, settings: &Settings, address: SocketAddr) {
    let (version, process) = (env!("CARGO_PKG_VERSION"), std::process::id());
    tracing::info!("polysystems {version}, process {process}");
    tracing::info!("database: {}", settings.database_name());
    if app.is_demo {
        tracing::warn!("this is a demo: users, calls and payments are made up, and no money moves");
    }
    let upstreams = upstreams(settings);
    if app.gateway.upstreams.on_sandbox().is_empty() {
        tracing::info!("calls go to {upstreams}");
    } else {
        tracing::warn!("calls go to {upstreams}; the built-in sandbox makes its answers up");
    }
    if let (Some(_), []) = (&settings.upstreams.v1.url, &*settings.upstreams.v1.models) {
        tracing::warn!(
            "upstreams.v1.models is empty: every model that the upstream's key reaches is sold at \
             the price of its route"
        );
    }
    let mail = match settings.email.transport() {
        EmailTransport::Smtp => "mail by SMTP",
        EmailTransport::Folder => "no mail server is set: mail goes into a folder",
        EmailTransport::Log => "no mail server is set: mail goes into the log",
    };
    let payments = payments(app);
    if app.users.mailer.is_real() && app.payments.given_away() == SandboxPayments::Off {
        tracing::info!("payments by {payments}; {mail}");
    } else {
        tracing::warn!("payments by {payments}; {mail}");
    }
    if !app.cookies.is_secure {
        tracing::warn!(
            "console.insecure_cookie is true: browsers send the session cookie without TLS, and somebody who reads \
             the network can take it; set up TLS (server.tls_certificate) and switch it off"
        );
    }
    let scheme = if app.is_tls { "https" } else { "http" };
    let here = format!("{scheme}://{address}, documentation on {scheme}://{address}/docs/");
    if settings.rate_limit.enabled {
        tracing::info!("listening on {here}");
    } else {
        tracing::warn!(
            "listening on {here}; rate limits are off, also those on guesses of passwords and codes"
        );
    }
}

/// Warns if the sandbox gave away credits that can be spent now that calls are sold.
pub(super) async fn warn_of_given_credits(app: Data<App>) {
    if app.payments.given_away() != SandboxPayments::Off {
        return;
    }
    match app.payments.store.has_credited(SANDBOX).await {
        Ok(false) => {}
        Ok(true) => tracing::warn!(
            "accounts of this database have credits that the sandbox payment provider gave away; if customers \
             are to pay, begin with a new database, or take them back with `polysystems user credit` and a negative amount"
        ),
        Err(error) => tracing::warn!(%error, "cannot look for payments by the sandbox"),
    }
}

/// Names where the calls of each group go, without credentials.
fn upstreams(settings: &Settings) -> String {
    let place = |url: &str| {
        let origin = reqwest::Url::parse(url).map(|url| url.origin().ascii_serialization());
        origin.unwrap_or_default()
    };
    let mut texts = Vec::new();
    let mut sandbox = Vec::new();
    for (group, upstream) in settings.upstreams.groups() {
        match &upstream.url {
            Some(url) => texts.push(format!("{} ({group})", place(url))),
            None => sandbox.push(group),
        }
    }
    if !sandbox.is_empty() {
        texts.push(format!("the built-in sandbox ({})", sandbox.join(", ")));
    }
    texts.join(", ")
}

/// Names the providers by which users can pay.
fn payments(app: &App) -> String {
    let sandbox = match app.payments.given_away() {
        SandboxPayments::Off => None,
        SandboxPayments::Direct => Some("the sandbox (gives credits away to this machine)"),
        SandboxPayments::On => Some("the sandbox (gives credits away to everybody)"),
    };
    let stripe = app.payments.stripe.as_ref().map(|_| "Stripe");
    let x402 = app.payments.x402.as_ref().map(|_| "x402");
    let all: Vec<&str> = [sandbox, stripe, x402].into_iter().flatten().collect();
    if all.is_empty() { "no provider".to_owned() } else { all.join(", ") }
}

fn tls_acceptor(certificate: &Arc<Certificate>) -> anyhow::Result<TlsAcceptor> {
    let mut config = certificate.server_config()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(super) fn http_server(
    listener: TcpListener,
    settings: &Settings,
    app: &Data<App>,
    cores: usize,
    threads: ActorThreads,
    certificate: Option<&Arc<Certificate>>,
) -> anyhow::Result<actix_web::dev::Server> {
    let ServerSettings {
        workers, keep_alive_seconds, head_timeout_seconds, connections_max, ..
    } = settings.server;
    let workers = if workers == 0 { cores } else { workers };
    let connections_of_thread = connections_max.get().div_ceil(workers);
    let connector =
        upstream::Connector::new(&settings.upstreams).context("cannot set up the HTTP client")?;
    let origins = settings.server.cors_origins.clone();
    let has_metrics =
        settings.server.metrics_bind.is_none() && settings.server.metrics_token.is_some();
    let routes = Arc::new(http::Routes::new(app, has_metrics));
    let limits = Arc::new(ConnectionLimits {
        head: Duration::from_secs(head_timeout_seconds),
        least_rate: least_rate(&settings.server),
        per_address: Arc::clone(&app.connections),
        per_account: Arc::clone(&app.paid_connections),
        trusted_proxies: settings.server.trusted_proxies.clone(),
        clock: app.clock.clone(),
        hsts: app.is_tls.then(|| app.hsts.clone()),
    });
    let tls = certificate.map(tls_acceptor).transpose()?;
    let tls = tls.map(|acceptor| (acceptor, Arc::clone(&app.gateway)));
    let app = app.clone();
    let new_app = move || {
        threads.add_this();
        let client = upstream::Client::new(connector.clone());
        actix_web::App::new()
            .app_data(app.clone())
            .app_data(Data::new(client))
            .configure(|config| routes.configure(config))
            .wrap(Condition::new(!origins.is_empty(), http::security::cors(&origins)))
            .wrap(from_fn(http::edge::edge))
    };
    let server = Server::build()
        .workers(workers)
        .max_concurrent_connections(connections_of_thread)
        // For large answers of the sandbox. If both threads are busy, more answers wait.
        .worker_max_blocking_threads(2)
        .shutdown_timeout(5)
        .disable_signals();
    let address = listener.local_addr().context("cannot listen")?;
    let stopping = server.graceful_shutdown_signal();
    let is_tls = tls.is_some();
    // Does what `actix_web::HttpServer` does, with our own layer below HTTP.
    let server = server.listen("api", listener, move || {
        let stopping = stopping.clone();
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(Duration::from_secs(keep_alive_seconds))
            .client_request_timeout(Duration::from_secs(head_timeout_seconds))
            .client_disconnect_timeout(DISCONNECT_MAX)
            // A client that has closed its side is gone, even if its stream is silent.
            .h1_allow_half_closed(false)
            .local_addr(address)
            .on_connect_ext(|connection: &Connection<Transport>, extensions: &mut Extensions| {
                extensions.insert(connection.state());
            });
        let app = new_app().into_factory().map_err(|error| error.error_response());
        let app = map_config(app, move |()| {
            AppConfig::__priv_test_new(is_tls, address.to_string(), address)
        });
        let (limits, tls) = (Arc::clone(&limits), tls.clone());
        let connections = Connections::new(connections_of_thread);
        connections.watch();
        let accept = fn_service(move |stream: TcpStream| {
            accept(stream, Arc::clone(&limits), Rc::clone(&connections), tls.clone())
        });
        accept.map_err(DispatchError::Io).and_then(http.finish(app))
    });
    Ok(server.context("cannot listen")?.run())
}

/// Serves the metrics on a separate address.
pub(super) fn serve_metrics(listener: TcpListener, app: &Data<App>) -> anyhow::Result<()> {
    let bind = listener.local_addr()?;
    if !bind.ip().is_loopback() && app.metrics_token.is_none() {
        tracing::warn!(%bind, "anyone who reaches this address can read the metrics; set server.metrics_token to require a token");
    }
    let app = app.clone();
    let server = HttpServer::new(move || {
        let metrics = actix_web::web::get().to(http::metrics::metrics);
        actix_web::App::new().app_data(app.clone()).route("/metrics", metrics)
    })
    .workers(1)
    .disable_signals()
    .listen(listener)
    .with_context(|| format!("cannot listen on {bind}, server.metrics_bind"))?;
    // Runs until the process ends, so that a drain can be watched.
    actix::spawn(server.run());
    Ok(())
}
