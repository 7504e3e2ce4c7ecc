//! The composition root: the only place that wires the parts, starts them in order and stops them in order.
//!
//! Threads: the HTTP threads, each with a runtime of its own, on which accounts decide and their actors live; the ledger
//! writer's, which writes SQLite's journal as well; and a small runtime for the database and the passwords.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::available_parallelism;
use std::time::Duration;

use actix::{Arbiter, System};
use actix_web::HttpServer;
use actix_web::middleware::{Condition, from_fn};
use actix_web::web::Data;
use anyhow::Context as _;
use tokio::runtime::{Handle, Runtime};
use uuid::Uuid;

use crate::actors::account::ActorThreads;
use crate::actors::account::directory::SWEEP_PERIOD;
use crate::actors::ledger::WriterState;
use crate::actors::{Directory, LedgerHandle, LedgerWriter};
use crate::admin::Operators;
use crate::auth::people::{Letters, SessionBounds};
use crate::auth::throttle::Throttle;
use crate::auth::two_factor;
use crate::auth::{Passwords, People, Sessions};
use crate::clock::Clock;
use crate::config::{ServerSettings, Settings, UpstreamSettings};
use crate::http::{self, App};
use crate::idempotency::Idempotency;
use crate::keys::{KeyCache, Keys};
use crate::mail::Mailer;
use crate::payments::auto::SwitchedOff;
use crate::payments::stripe::Stripe;
use crate::payments::x402::X402;
use crate::payments::{Locks, Payments};
use crate::pipeline::{Bounds, Gateway, Readiness};
use crate::rate_limits::RateLimits;
use crate::seal::Seal;
use crate::secrets::{previous, secret};
use crate::store::{Store, StoreError};
use crate::tls::Certificate;
use crate::tokens;
use crate::upstream::{self, Upstreams};
use crate::verify::{Audience, Finding, Report, verify};
use crate::webhooks::deliver::{Courier, SwitchedOff as SwitchedOffEndpoint, system_lookup};
use crate::webhooks::{self, Webhooks, watch};
use domain::api_key::Pepper;
use domain::{Lease, MICROS_PER_DAY, Timestamp};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;
/// How often the rate limits forget callers who have been away.
const FORGET_SWEEPS: u64 = 60;
/// How long the former value of a key is known after it has ended.
const FORMER_VALUE_DAYS: i64 = 30;
const MICROS_PER_HOUR: i64 = 3_600_000_000;
/// How often payments are looked after.
const PAYMENTS_PERIOD: Duration = Duration::from_secs(2);
/// How often refunds and disputes are looked for, and over how many days. Stripe keeps its events for 30.
const REVERSALS_PERIOD: Duration = Duration::from_hours(1);
const REVERSALS_DAYS: i64 = 3;
const REVERSALS_DAYS_AT_START: i64 = 29;
/// How often it is measured how long a synced write takes.
const FSYNC_PERIOD: Duration = Duration::from_secs(15);
/// How often usage records are looked for that need not be kept any longer.
const FORGET_USAGE_PERIOD: Duration = Duration::from_mins(1);
/// Between two pieces of them, so that paid calls hardly notice.
const FORGET_USAGE_PAUSE: Duration = Duration::from_millis(20);
/// How often holds are looked for that nobody owns.
const ORPHAN_SWEEPS: u64 = 10;
/// How long a drain looks again whether calls still run.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// How long what was told to end may take for it.
const STOP_MAX: Duration = Duration::from_secs(10);

/// The runtime of the database and of password hashes.
///
/// # Errors
/// Where threads cannot be made.
pub fn database_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("database")
        .enable_all()
        .build()
        .context("cannot start the database runtime")
}

/// Runs the server until `stop` resolves, then drains it. Tells `listening` its address as soon as it serves.
///
/// # Errors
/// One line that says what kept it from starting.
pub fn serve(
    settings: Settings,
    clock: Clock,
    listening: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let database = database_runtime()?;
    let handle = database.handle().clone();
    let result = System::new().block_on(run(settings, clock, handle, listening, stop));
    database.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(
    settings: Settings,
    clock: Clock,
    database: Handle,
    listening: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    // First of all, so that a second start by mistake ends here and takes nothing over.
    let listener = listen(settings.server.bind)?;
    let address = listener.local_addr()?;
    let store = open_store(&settings, database.clone()).await?;
    let lease = store.take_lease(Uuid::new_v4()).await.context("cannot take the accounts over")?;
    // On a thread of its own: it takes a while, and nobody needs it before the first call.
    std::thread::spawn(tokens::warm_up);

    let cores = available_parallelism().map_or(1, usize::from);
    let writer = Arbiter::new();
    let ledger = LedgerWriter::start(&writer, store.clone(), lease, &settings.ledger);
    let threads = ActorThreads::default();
    let gateway = gateway(&settings, &clock, &store, &ledger, &threads)?;
    let app = Data::new(app(&settings, clock, database, store.clone(), gateway)?);
    announce(&app, address);

    let certificate = match (&settings.server.tls_certificate, &settings.server.tls_key) {
        (Some(chain), Some(key)) => Some(Certificate::open(chain.clone(), key.clone())?),
        _ => None,
    };
    let server = http_server(listener, &settings, &app, cores, threads, certificate.as_ref())?;
    let following = certificate.map(|certificate| actix::spawn(certificate.follow()));
    let server_handle = server.handle();
    let running = actix::spawn(server);
    // After the HTTP threads: the accounts whose holds it ends live there.
    let sweeper = actix::spawn(sweep(app.clone().into_inner(), lease));
    let courier = courier(&settings, &app)?.start();
    let watching = {
        let ledger = ledger.clone();
        let keep_days = i64::from(settings.webhooks.keep_days.get());
        watch::start(Arc::clone(&app.webhooks), keep_days, move || ledger.state().is_in_charge())
    };
    let watching_figures = [
        Some(actix::spawn(watch_disk(app.clone().into_inner(), settings.data_dir.clone()))),
        settings
            .ledger
            .verify_hours
            .map(|hours| actix::spawn(verify_now_and_then(app.clone().into_inner(), hours))),
    ];
    let bursars = start_bursars(&app);
    let keep_days = settings.usage.keep_days;
    let forgetting =
        keep_days.map(|days| actix::spawn(forget_usage(app.clone().into_inner(), days)));
    if let Some(bind) = settings.server.metrics_bind {
        serve_metrics(bind, &app)?;
    }
    listening(address);
    stop.await;

    drain(&app, &ledger, &settings.server).await;
    // The account actors end with the HTTP threads.
    let directory = &app.gateway.directory;
    if !within(STOP_MAX, || directory.is_quiet()).await {
        tracing::error!("some charges were not ended");
    }
    server_handle.stop(true).await;
    sweeper.abort();
    for bursar in bursars {
        bursar.abort();
    }
    courier.abort();
    watching.abort();
    for task in [forgetting, following].into_iter().chain(watching_figures).flatten() {
        task.abort();
    }
    running.await.context("the HTTP server broke off")??;
    finish(&store, &ledger, lease).await;
    System::current().stop();
    Ok(())
}

/// Opens the database of the settings.
///
/// # Errors
/// One line that names the database, without its password.
pub async fn open_store(settings: &Settings, database: Handle) -> anyhow::Result<Store> {
    let url = settings.database_url();
    let name = match reqwest::Url::parse(&url) {
        Ok(parsed) if parsed.has_host() => {
            format!(
                "{}://{}{}",
                parsed.scheme(),
                parsed.host_str().unwrap_or_default(),
                parsed.path()
            )
        }
        _ => url.split('?').next().unwrap_or_default().to_owned(),
    };
    Store::open(&settings.database, &url, database)
        .await
        .map_err(|error| anyhow::anyhow!("cannot use the database {name}: {error}"))
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
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

/// What the paid calls need, on the ledger and the threads of the account actors that are given.
///
/// # Errors
/// Where a secret or a setting cannot be used.
pub fn gateway(
    settings: &Settings,
    clock: &Clock,
    store: &Store,
    ledger: &LedgerHandle,
    threads: &ActorThreads,
) -> anyhow::Result<Arc<Gateway>> {
    let auth = &settings.auth;
    let pepper = secret(auth.key_pepper.as_ref(), &settings.data_dir, "key_pepper")?;
    let idempotency =
        Idempotency::new(store.clone(), clock.clone(), &settings.idempotency, &pepper)
            .context("the key pepper cannot be used")?;
    let pepper = Pepper::new(&pepper).context("the key pepper cannot be used")?;
    let directory = Directory::new(
        store.clone(),
        ledger.clone(),
        threads.clone(),
        clock.clone(),
        settings.accounts.clone(),
        auth.keys_per_account_max,
    );
    Ok(Arc::new(Gateway {
        rate_limits: RateLimits::new(&settings.rate_limit),
        keys: KeyCache::new(store.clone(), pepper, auth.key_cache_max),
        prices: settings.price_list()?,
        directory,
        ledger: ledger.clone(),
        upstreams: Upstreams::new(&settings.upstreams),
        clock: clock.clone(),
        commit_timeout: Duration::from_secs(settings.ledger.commit_timeout_seconds.get()),
        hold_lifetime_micros: hold_lifetime_micros(settings),
        holds: settings.holds.clone(),
        idempotency,
        expiry_warning_micros: expiry_warning_micros(settings),
        metrics: Arc::default(),
        readiness: Arc::new(Readiness::new(Bounds {
            requests: settings.server.requests_max.get(),
            calls: settings.server.calls_max.get(),
            body_bytes: settings.server.bodies_max_bytes.get(),
        })),
    }))
}

fn expiry_warning_micros(settings: &Settings) -> i64 {
    i64::from(settings.auth.key_expiry_warning_days).saturating_mul(MICROS_PER_DAY)
}

/// Longer than any call may run: all tries of the slowest upstream, the longest stream, its reader's patience,
/// the commits', and some more.
fn hold_lifetime_micros(settings: &Settings) -> i64 {
    let upstreams = &settings.upstreams;
    let groups = [&upstreams.hub, &upstreams.omm, &upstreams.yggdrasil, &upstreams.v1];
    let tries = |group: &UpstreamSettings| {
        let tries = u64::from(group.retries).saturating_add(2);
        group.timeout_seconds.get().saturating_add(2).saturating_mul(tries)
    };
    let slowest = groups.iter().map(|group| tries(group)).max().unwrap_or(0);
    let holds = &settings.holds;
    let commits = settings.ledger.commit_timeout_seconds.get().saturating_mul(3);
    let seconds =
        [slowest, holds.stream_seconds_max.get(), holds.reader_seconds.get(), commits, 60]
            .into_iter()
            .fold(0, u64::saturating_add);
    i64::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

/// Registration and login, for the server and for the command line.
///
/// # Errors
/// Where a secret or a setting cannot be used.
pub fn people(
    settings: &Settings,
    clock: Clock,
    database: Handle,
    store: Store,
) -> anyhow::Result<People> {
    let auth = &settings.auth;
    let jwt_secret = secret(auth.jwt_secret.as_ref(), &settings.data_dir, "jwt_secret")?;
    let previous = previous(auth.jwt_previous_secret.as_ref(), &settings.data_dir, "jwt_secret")?;
    let pepper = secret(auth.key_pepper.as_ref(), &settings.data_dir, "key_pepper")?;
    let hashes_max = match auth.password_hashes_max {
        0 => available_parallelism().map_or(1, usize::from).div_ceil(2),
        set => set,
    };
    Ok(People {
        store,
        passwords: Passwords::new(hashes_max, auth.password_queue_max)?,
        sessions: Sessions::new(&jwt_secret, previous.as_slice(), auth.jwt_lifetime_seconds.get()),
        session_bounds: SessionBounds {
            lifetime_micros: i64::from(auth.session_days.get()).saturating_mul(MICROS_PER_DAY),
            sessions_max: auth.sessions_per_user_max,
        },
        seal: Seal::new(&pepper, two_factor::PURPOSE).context("the key pepper cannot be used")?,
        throttle: Throttle::new(auth, &settings.rate_limit),
        mailer: Mailer::new(&settings.email, settings.data_dir.join("mail"), database)?,
        letters: Letters {
            verification_micros: i64::from(auth.verification_hours.get())
                .saturating_mul(MICROS_PER_HOUR),
            reset_micros: i64::from(auth.password_reset_minutes.get()).saturating_mul(60_000_000),
            verify_url: settings.email.verify_url.clone(),
            reset_url: settings.email.reset_url.clone(),
            is_verification_required: auth.require_verified_email,
        },
        clock,
        password_length_min: auth.password_length_min,
        test_credits: settings.test_credits()?,
    })
}

fn app(
    settings: &Settings,
    clock: Clock,
    database: Handle,
    store: Store,
    gateway: Arc<Gateway>,
) -> anyhow::Result<App> {
    let people = Arc::new(people(settings, clock.clone(), database, store.clone())?);
    let server = &settings.server;
    Ok(App {
        people,
        keys: Keys::new(store.clone(), Arc::clone(&gateway), expiry_warning_micros(settings)),
        payments: Payments {
            store: store.clone(),
            gateway: Arc::clone(&gateway),
            is_sandbox_on: settings.sandbox_payments(),
            amount_max: settings.payment_amount_max()?,
            test_credits: settings.test_credits()?,
            stripe: Stripe::new(&settings.payments.stripe, store.runtime().clone())?,
            stripe_amount_min: settings.payments.stripe_amount_min()?,
            x402: X402::new(
                &settings.payments.x402,
                settings.payments.x402_amount()?,
                store.runtime().clone(),
            )?,
            locks: Locks::default(),
        },
        webhooks: webhooks(settings, &clock, &store, &gateway)?,
        operators: Operators {
            store: store.clone(),
            gateway: Arc::clone(&gateway),
            tiers: settings.rate_limit.tiers.keys().cloned().collect(),
        },
        readiness: Arc::clone(&gateway.readiness),
        gateway,
        store,
        clock,
        body_max_bytes: server.body_max_bytes,
        body_timeout: Duration::from_secs(server.body_timeout_seconds),
        trusted_proxies: server.trusted_proxies.clone(),
        metrics_token: server.metrics_token.clone(),
        continues_traces: settings.traces.continue_callers,
        is_tls: server.tls_certificate.is_some(),
    })
}

fn webhooks(
    settings: &Settings,
    clock: &Clock,
    store: &Store,
    gateway: &Gateway,
) -> anyhow::Result<Arc<Webhooks>> {
    let pepper = secret(settings.auth.key_pepper.as_ref(), &settings.data_dir, "key_pepper")?;
    let hours = i64::from(settings.webhooks.former_secret_hours);
    Ok(Arc::new(Webhooks {
        store: store.clone(),
        clock: clock.clone(),
        seal: Seal::new(&pepper, webhooks::PURPOSE).context("the key pepper cannot be used")?,
        is_private_allowed: settings.webhooks.allow_private_addresses,
        endpoints_max: settings.webhooks.endpoints_per_account_max,
        former_micros: hours.saturating_mul(MICROS_PER_HOUR),
        metrics: Arc::clone(&gateway.metrics),
        ledger: gateway.ledger.clone(),
    }))
}

fn courier(settings: &Settings, app: &Data<App>) -> anyhow::Result<Courier> {
    let (ledger, people) = (app.gateway.ledger.clone(), Arc::clone(&app.people));
    let runtime = app.store.runtime().clone();
    let tell = move |off: SwitchedOffEndpoint| {
        let people = Arc::clone(&people);
        runtime.spawn(async move {
            let SwitchedOffEndpoint { user, endpoint, url } = off;
            let what = format!(
                "your webhook {url} ({endpoint}) has taken nothing for three days, or says that it is gone, and was \
                 switched off. What was not delivered is in GET /api/webhooks/{endpoint}/deliveries. To go on: PATCH \
                 /api/webhooks/{endpoint} with {{\"enabled\": true}}."
            );
            people.write_to(user, "A webhook was switched off", &what).await;
        });
    };
    Courier::new(
        Arc::clone(&app.webhooks),
        system_lookup(),
        Duration::from_secs(settings.webhooks.timeout_seconds.get()),
        settings.webhooks.at_once_max.get(),
        move || ledger.state().is_in_charge(),
        tell,
    )
}

fn announce(app: &App, address: SocketAddr) {
    let scheme = if app.is_tls { "https" } else { "http" };
    tracing::info!(
        "listening on {scheme}://{address}, documentation on {scheme}://{address}/docs/"
    );
    let on_sandbox = app.gateway.upstreams.on_sandbox();
    if !on_sandbox.is_empty() {
        let groups = on_sandbox.join(", ");
        tracing::warn!("the built-in sandbox answers the live calls of: {groups}");
    }
    if !app.people.mailer.is_real() {
        tracing::warn!("no mail server is set: messages to users go into a folder or into the log");
    }
    if app.payments.is_sandbox_on {
        tracing::warn!("the sandbox payment provider gives credits away; it is on");
    }
}

fn http_server(
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
    let document = Data::new(http::document(app));
    let connector =
        upstream::Connector::new(&settings.upstreams).context("cannot set up the HTTP client")?;
    let app = app.clone();
    let origins = settings.server.cors_origins.clone();
    let has_metrics =
        settings.server.metrics_bind.is_none() && settings.server.metrics_token.is_some();
    let server = HttpServer::new(move || {
        threads.add_this();
        let client = upstream::Client::new(connector.clone());
        actix_web::App::new()
            .app_data(app.clone())
            .app_data(Data::new(client))
            .configure(|config| http::routes(config, &document, has_metrics))
            .wrap(Condition::new(!origins.is_empty(), http::security::cors(&origins)))
            .wrap(from_fn(http::edge::edge))
    })
    .workers(workers)
    .max_connections(connections_max.get().div_ceil(workers))
    .keep_alive(Duration::from_secs(keep_alive_seconds))
    .client_request_timeout(Duration::from_secs(head_timeout_seconds))
    .tcp_nodelay(true)
    // A client that has closed its side is gone, also while a stream says nothing.
    .h1_allow_half_closed(false)
    // The sandbox's larger answers; whoever comes later waits.
    .worker_max_blocking_threads(2)
    .shutdown_timeout(5)
    .disable_signals();
    let server = match certificate {
        Some(certificate) => server.listen_rustls_0_23(listener, certificate.server_config()?),
        None => server.listen(listener),
    };
    Ok(server.context("cannot listen")?.run())
}

async fn sweep(app: Arc<App>, lease: Lease) {
    let mut period = tokio::time::interval(SWEEP_PERIOD);
    let mut sweeps: u64 = 0;
    let mut refused_before: u64 = 0;
    loop {
        period.tick().await;
        if !app.gateway.ledger.is_alive() {
            // It dies only by a defect, and without it nothing can be acknowledged. A new process begins from
            // what is committed.
            tracing::error!("the ledger writer is gone; ending the process");
            std::process::exit(70);
        }
        app.gateway.directory.sweep();
        let refused = app.readiness.refused();
        if refused > refused_before {
            tracing::warn!(
                refused = refused.saturating_sub(refused_before),
                "requests were refused, since as many run as may"
            );
            refused_before = refused;
        }
        // What a crash left behind first, then now and then.
        if sweeps.is_multiple_of(ORPHAN_SWEEPS)
            && let Err(error) = app.gateway.directory.end_orphaned_holds().await
        {
            tracing::warn!(%error, "holds without an owner were not ended");
        }
        if let Ok(Ok(false)) =
            tokio::time::timeout(SWEEP_PERIOD, app.store.holds_lease(lease)).await
            && app.gateway.ledger.state() != WriterState::Fenced
        {
            tracing::error!("another process has taken the database over; this one stops charging");
            app.gateway.ledger.fence();
        }
        sweeps = sweeps.wrapping_add(1);
        if sweeps % FORGET_SWEEPS == 1
            && app.gateway.ledger.state().is_in_charge()
            && let Err(error) = app.people.tell_of_expiring_keys(app.keys.soon()).await
        {
            tracing::warn!(%error, "owners of keys that end soon were not told");
        }
        if sweeps.is_multiple_of(FORGET_SWEEPS) {
            app.gateway.rate_limits.forget_idle();
            app.people.throttle.forget_idle();
            if let Err(error) = app.gateway.idempotency.forget().await {
                tracing::warn!(%error, "old recorded answers were not deleted");
            }
            if let Err(error) = forget_sessions(&app).await {
                tracing::warn!(%error, "sessions that are over were not deleted");
            }
        }
    }
}

/// Starts those who look after payments, each by itself: none waits for another one's provider.
fn start_bursars(app: &Data<App>) -> [tokio::task::JoinHandle<()>; 4] {
    [
        actix::spawn(now_and_then(app.clone().into_inner(), async |app| {
            logged(app.payments.look_after().await, "payments were not looked after");
        })),
        actix::spawn(now_and_then(app.clone().into_inner(), async |app| {
            logged(app.payments.take_back_all().await, "payments were not taken back");
        })),
        actix::spawn(now_and_then(app.clone().into_inner(), top_up_accounts)),
        actix::spawn(look_for_reversals(app.clone().into_inner())),
    ]
}

/// Does something about payments, while the accounts are this process's.
async fn now_and_then(app: Arc<App>, work: impl AsyncFn(&App)) {
    let mut period = tokio::time::interval(PAYMENTS_PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        if app.gateway.ledger.state().is_in_charge() {
            work(&app).await;
        }
    }
}

/// Tops up the accounts that top themselves up, and tells of those that do so no longer.
async fn top_up_accounts(app: &App) {
    logged(app.payments.top_up_accounts().await, "accounts were not topped up");
    let given_up = app.payments.auto_top_ups_given_up().await;
    for SwitchedOff { user, why } in
        logged(given_up, "who is topped up no longer was not told").unwrap_or_default()
    {
        app.people.tell_of_auto_top_up(user, &why).await;
    }
}

/// Looks for refunds and disputes that no webhook has told of: at first as far back as can be seen, then every hour.
async fn look_for_reversals(app: Arc<App>) {
    let mut days = REVERSALS_DAYS_AT_START;
    loop {
        let mut pause = PAYMENTS_PERIOD;
        if app.gateway.ledger.state().is_in_charge() {
            let now = app.gateway.clock.now();
            let since = now.plus_micros(MICROS_PER_DAY.saturating_mul(days).saturating_neg());
            let looked = app.payments.look_for_reversals(since).await;
            if logged(looked, "refunds and disputes were not looked for").is_some() {
                days = REVERSALS_DAYS;
            }
            pause = REVERSALS_PERIOD;
        }
        tokio::time::sleep(pause).await;
    }
}

fn logged<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> Option<T> {
    result.map_err(|error| tracing::warn!(%error, "{what}")).ok()
}

/// Measures now and then how long a small write takes that is synced, as commits are.
async fn watch_disk(app: Arc<App>, folder: std::path::PathBuf) {
    let mut period = tokio::time::interval(FSYNC_PERIOD);
    let path = folder.join(".fsync");
    loop {
        period.tick().await;
        let path = path.clone();
        let measured = tokio::task::spawn_blocking(move || -> std::io::Result<Duration> {
            let mut file = std::fs::File::create(path)?;
            std::io::Write::write_all(&mut file, &[0; 4_096])?;
            let begun = std::time::Instant::now();
            file.sync_data()?;
            Ok(begun.elapsed())
        });
        if let Ok(Ok(took)) = measured.await {
            let micros = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
            app.gateway.metrics.fsync_micros.store(micros, Ordering::Relaxed);
        }
    }
}

/// Counts what a verification finds, and has it in the log.
struct LogFindings;

impl Audience for LogFindings {
    fn find(&mut self, finding: &Finding) -> anyhow::Result<()> {
        tracing::error!(alert = "verify", %finding, "a ledger does not agree");
        Ok(())
    }

    fn progress(&mut self, _: &Report, _: u64) {}
}

/// Verifies every ledger, as long as the server runs.
async fn verify_now_and_then(app: Arc<App>, hours: NonZeroU32) {
    let mut period = tokio::time::interval(Duration::from_secs(u64::from(hours.get()) * 3_600));
    // So that it is seen where none comes about.
    app.gateway.metrics.verified_at.store(app.clock.now().seconds(), Ordering::Relaxed);
    loop {
        period.tick().await;
        let store = app.store.clone();
        let verifying =
            app.store.runtime().spawn(async move { verify(&store, &mut LogFindings).await });
        match verifying.await {
            Ok(Ok(report)) => {
                let findings = i64::try_from(report.findings).unwrap_or(i64::MAX);
                let metrics = &app.gateway.metrics;
                metrics.verified_at.store(app.clock.now().seconds(), Ordering::Relaxed);
                metrics.verify_findings.store(findings, Ordering::Relaxed);
                tracing::info!(?report, "verified");
            }
            Ok(Err(error)) => not_verified(&app, &format!("{error:#}")),
            Err(error) => not_verified(&app, &error.to_string()),
        }
    }
}

fn not_verified(app: &App, error: &str) {
    app.gateway.metrics.verify_failures.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(error, "not verified");
}

async fn forget_sessions(app: &App) -> Result<(), StoreError> {
    while app.store.forget_sessions(app.clock.now()).await? {}
    // Until then whoever comes with such a value is told that it has expired.
    let before = app.clock.now().plus_micros(MICROS_PER_DAY.saturating_mul(-FORMER_VALUE_DAYS));
    while app.store.forget_former_values(before).await? {}
    while app.store.forget_email_tokens(app.clock.now()).await? {}
    Ok(())
}

/// Deletes usage records that are older than they are to be kept, as long as the server runs.
async fn forget_usage(app: Arc<App>, keep_days: NonZeroU32) {
    let keep_micros = i64::from(keep_days.get()).saturating_mul(MICROS_PER_DAY);
    let mut period = tokio::time::interval(FORGET_USAGE_PERIOD);
    loop {
        period.tick().await;
        let before = app.clock.now().micros().saturating_sub(keep_micros);
        // Once for all of them.
        if let Err(error) = app.store.fold_usage().await {
            tracing::warn!(%error, "old usage records were not brought into the rollups");
        }
        let mut forgotten: u64 = 0;
        loop {
            match app.store.forget_usage(Timestamp::from_micros(before)).await {
                Ok(0) => break,
                Ok(deleted) => forgotten = forgotten.saturating_add(deleted),
                Err(error) => {
                    tracing::warn!(%error, "old usage records were not deleted");
                    break;
                }
            }
            tokio::time::sleep(FORGET_USAGE_PAUSE).await;
        }
        if forgotten > 0 {
            tracing::info!(forgotten, keep_days, "deleted old usage records");
        }
    }
}

/// Not ready; then no new calls; then waits for those that run, up to the limit; then has them ended in good
/// order.
async fn drain(app: &App, ledger: &LedgerHandle, settings: &ServerSettings) {
    let readiness = &app.readiness;
    readiness.announce_drain();
    tokio::time::sleep(Duration::from_secs(settings.drain_delay_seconds)).await;
    tracing::info!("draining: no new calls are taken");
    readiness.drain();
    let is_done = || readiness.running() == 0 && readiness.requests() == 0;
    if !within(Duration::from_secs(settings.drain_seconds), is_done).await {
        tracing::warn!(running = readiness.running(), "the drain limit is over; ending what runs");
        readiness.stop();
        if !within(STOP_MAX, is_done).await {
            tracing::error!(running = readiness.running(), "some calls did not end");
        }
    }
    // Whoever left without waiting may still have something to be written.
    if tokio::time::timeout(STOP_MAX, ledger.barrier()).await.is_err() {
        tracing::warn!("the ledger is still being written");
    }
}

/// Waits until it is so, up to the limit; says whether it is.
async fn within(limit: Duration, is_so: impl Fn() -> bool) -> bool {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    tokio::time::timeout(limit, waiting).await.is_ok()
}

/// Serves the figures for monitoring on an address of their own.
fn serve_metrics(bind: SocketAddr, app: &Data<App>) -> anyhow::Result<()> {
    if !bind.ip().is_loopback() && app.metrics_token.is_none() {
        tracing::warn!(%bind, "whoever reaches this address reads the metrics; server.metrics_token asks for a token");
    }
    let app = app.clone();
    let server = HttpServer::new(move || {
        let metrics = actix_web::web::get().to(http::metrics::metrics);
        actix_web::App::new().app_data(app.clone()).route("/metrics", metrics)
    })
    .workers(1)
    .disable_signals()
    .bind(bind)
    .with_context(|| format!("cannot listen on {bind}, server.metrics_bind"))?;
    // Until the process ends: a drain is worth watching.
    actix::spawn(server.run());
    Ok(())
}

/// Writes what is left and lets the accounts go.
async fn finish(store: &Store, ledger: &LedgerHandle, lease: Lease) {
    match tokio::time::timeout(Duration::from_secs(5), ledger.barrier()).await {
        Ok(Ok(())) => {
            if let Err(error) = store.fold_usage().await {
                tracing::warn!(%error, "the last calls are not in the rollups yet");
            }
            if let Err(error) = store.release_lease(lease).await {
                tracing::warn!(%error, "the accounts were not given back; the next start takes them all the same");
            }
        }
        // Not given back: so the next start knows that calls may be in the journal alone.
        unfinished => tracing::error!(?unfinished, "the ledger writer did not finish"),
    }
    store.close().await;
    tracing::info!("stopped");
}
