//! The composition root: the only place that connects the parts, and that starts and stops them in
//! order.
//!
//! There are three kinds of threads. The HTTP threads have a runtime each; the account actors run
//! there. The ledger writer has one thread, which also writes SQLite's journal. A small runtime
//! serves the database and the password hashes.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use actix::{Arbiter, System};
use actix_web::web::Data;
use anyhow::Context as _;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::actors::ActorThreads;
use crate::actors::{Directory, LedgerHandle, LedgerWriter};
use crate::admin::{Admin, GrantCaps};
use crate::bills::Bills;
use crate::catalogue::{CatalogueAdmin, FileSource};
use crate::clock::Clock;
use crate::config::{ListedSetting, ServerSettings, Settings, Sources, UpstreamSettings};
use crate::deployments::Deployments;
use crate::exit::{Exit, ExitError};
use crate::health::Health;
use crate::http::{
    ACCOUNT_BODY_MAX, App, Bodies, CookieRules, LeastRate, PerAccount, PerAddress, PricePages,
    refusal_answer, security,
};
use crate::idempotency::Idempotency;
use crate::imports::PriceImports;
use crate::key_cache::KeyCache;
use crate::keys::Keys;
use crate::live::Live;
use crate::mail::unlinked;
use crate::models::ModelRegistry;
use crate::models::vault::{self, Vault};
use crate::payments::stripe::Stripe;
use crate::payments::x402::X402;
use crate::payments::{Locks, Payments};
use crate::pipeline::{
    Admission, AdmissionLimits, Counting, Gateway, OddUsages, account_bytes_max,
};
use crate::price_lists::PriceLists;
use crate::rate_limits::RateLimits;
use crate::reports::Reports;
use crate::seal::Seal;
use crate::secrets::peppers;
use crate::store::attempts::AttemptLog;
use crate::store::oddities::OddityLog;
use crate::store::{Store, StoreError};
use crate::tls::Certificate;
use crate::tokens;
use crate::upstream::Upstreams;
use crate::verify::quarantine::Quarantine;
use crate::verify::runs::Verifier;
use crate::webhooks::deliver::{Dispatcher, EndpointDisabled, system_lookup};
use crate::webhooks::{self, Webhooks, watch};
use domain::price_book::PriceVersion;
use domain::thinking::ThinkingModels;
use domain::{MICROS_PER_DAY, Timestamp};

mod accept;
mod drain;
mod jobs;
mod people;
mod renew;
mod selling;
mod serve;

pub use people::users;

use drain::{STOP_MAX, drain, finish, give_up, within};
use selling::load_catalogue;
use serve::{announce, http_server, listen, serve_metrics, warn_of_given_credits};

const MICROS_PER_HOUR: i64 = 3_600_000_000;
/// Makes the runtime for the database and the password hashes.
pub fn database_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("database")
        .enable_all()
        .build()
        .context("cannot start the database runtime")
}

/// Runs the server until `stop` resolves, then drains it. Calls `listening` with its address as
/// soon as it serves. An error is one line that says why the server did not start or had to end.
pub fn serve(
    settings: Settings,
    sources: &Sources,
    clock: Clock,
    listening: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    serve_prepared(settings, sources, clock, |_| (), listening, stop)
}

/// The same. `prepare` gets what serves paid calls before the first of them.
pub fn serve_prepared(
    settings: Settings,
    sources: &Sources,
    clock: Clock,
    prepare: impl FnOnce(&Arc<Gateway>),
    listening: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let database = database_runtime()?;
    let handle = database.handle().clone();
    let listed = settings.listed(sources)?;
    let run = run((settings, listed), clock, handle, prepare, listening, stop);
    let result = System::new().block_on(run);
    database.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Watches what webhooks are told of, as long as this process is in charge.
fn start_watch(settings: &Settings, app: &App, ledger: LedgerHandle) -> JoinHandle<()> {
    let keep_days = i64::from(settings.webhooks.keep_days.get());
    watch::start(Arc::clone(&app.webhooks), keep_days, move || ledger.state().is_in_charge())
}

#[expect(clippy::too_many_lines, reason = "the order of the start reads best in one piece")]
async fn run(
    (settings, listed): (Settings, Vec<ListedSetting>),
    clock: Clock,
    database: Handle,
    prepare: impl FnOnce(&Arc<Gateway>),
    listening: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    // First, so that a second start by mistake ends here and takes nothing over.
    let listener = listen(settings.server.bind)?;
    let address = listener.local_addr()?;
    let metrics_listener = settings.server.metrics_bind.map(listen).transpose()?;
    // The certificate is checked before the database is made or migrated.
    let certificate = certificate(&settings)?;
    let store = open_store(&settings, database.clone()).await?;
    let lease = store.take_lease(Uuid::new_v4()).await.context("cannot take the accounts over")?;
    undo_erasures(&store).await?;
    // On another thread, because it takes a while and is first needed by a call.
    std::thread::spawn(tokens::warm_up);
    #[cfg(feature = "console")]
    std::thread::spawn(crate::http::warm_up_console);

    let cores = available_parallelism().map_or(1, usize::from);
    let writer = Arbiter::new();
    let ledger = LedgerWriter::start(&writer, store.clone(), lease, &settings.ledger);
    let threads = ActorThreads::default();
    let prices = publish_prices(&settings, &clock, &store).await?;
    let gateway = gateway(&settings, &clock, &store, &ledger, &threads, &prices)?;
    let file = load_catalogue(&settings, &store, &gateway).await?;
    prepare(&gateway);
    let mut app = app(&settings, clock, database, store.clone(), gateway, file.clone())?;
    app.settings = listed;
    let app = Data::new(app);
    announce(&app, &settings, address);

    let server = http_server(listener, &settings, &app, cores, threads, certificate.as_ref())?;
    let following = certificate.map(|certificate| actix::spawn(certificate.follow()));
    let server_handle = server.handle();
    let running = actix::spawn(server);
    // After the HTTP threads, because a sweep ends holds of accounts that run there.
    let sweeping = actix::spawn(jobs::sweep(app.clone().into_inner(), lease));
    let delivering = webhook_dispatcher(&settings, &app)?.start();
    let watching = start_watch(&settings, &app, ledger.clone());
    let measuring =
        actix::spawn(jobs::watch_disk(app.clone().into_inner(), settings.data_dir.clone()));
    let verifying = settings
        .ledger
        .verify_hours
        .map(|hours| actix::spawn(jobs::verify_every(app.clone().into_inner(), hours)));
    let payment_jobs = jobs::start_payment_jobs(&app.clone().into_inner());
    let selling = actix::spawn(jobs::follow_catalogue(app.clone().into_inner()));
    let reading = file.map(|file| actix::spawn(jobs::follow_file(app.clone().into_inner(), file)));
    let forgetting = settings
        .usage
        .keep_days
        .map(|days| actix::spawn(jobs::forget_usage(app.clone().into_inner(), days)));
    if let Some(listener) = metrics_listener {
        serve_metrics(listener, &app)?;
    }
    actix::spawn(warn_of_given_credits(app.clone()));
    actix::spawn(renew::renew_sealed(app.clone().into_inner()));
    listening(address);
    let is_fenced = tokio::select! {
        () = stop => false,
        () = jobs::fenced(&ledger) => true,
    };
    if is_fenced {
        give_up(&app).await;
        System::current().stop();
        return Err(taken_over());
    }

    drain(&app, &ledger, &settings.server).await;
    // The account actors end with the HTTP threads, so their charges must end first.
    let directory = &app.gateway.directory;
    if !within(STOP_MAX, || directory.is_quiet()).await {
        tracing::error!("some charges were not ended");
    }
    server_handle.stop(true).await;
    for task in [sweeping, delivering, watching, measuring, selling].into_iter().chain(payment_jobs)
    {
        task.abort();
    }
    for task in [forgetting, following, verifying, reading].into_iter().flatten() {
        task.abort();
    }
    running.await.context("the HTTP server broke off")??;
    finish(&store, &ledger, lease).await;
    System::current().stop();
    Ok(())
}

/// Takes back the erasures that an earlier process has begun and not committed.
async fn undo_erasures(store: &Store) -> anyhow::Result<()> {
    let all = Timestamp::from_micros(i64::MAX);
    let undone = store.users.undo_erasures(all).await.context("cannot take back what was begun")?;
    if undone > 0 {
        tracing::warn!(undone, "erasures of users were begun before and did not happen");
    }
    Ok(())
}

fn taken_over() -> anyhow::Error {
    ExitError::error(
        Exit::Fenced,
        "another process has taken the accounts of this database over; run one server on a database",
    )
}

/// Opens the database of the settings. Makes it and migrates it if needed. An error is one line
/// that names the database, without its password.
pub async fn open_store(settings: &Settings, database: Handle) -> anyhow::Result<Store> {
    let opened = Store::open(&settings.database, &settings.database_url(), database).await;
    opened.map_err(|error| fault_of(settings, &error))
}

/// Opens a database that must exist and have the schema of this program. An error is one line that
/// names the database, without its password.
pub async fn open_existing_store(settings: &Settings, database: Handle) -> anyhow::Result<Store> {
    let url = settings.database_url();
    let opened = Store::open_existing(&settings.database, &url, database).await;
    opened.map_err(|error| fault_of(settings, &error))
}

fn fault_of(settings: &Settings, error: &StoreError) -> anyhow::Error {
    let message = format!("cannot use the database {}: {error}", settings.database_name());
    match error {
        StoreError::Unsafe(_) => ExitError::error(Exit::Settings, message),
        StoreError::Unreachable(_) => ExitError::error(Exit::NoAnswer, message),
        _ => anyhow::Error::msg(message),
    }
}

/// Reads the server's certificate. `None` if none is set. An error is one line that names the file
/// that cannot be used.
pub fn certificate(settings: &Settings) -> anyhow::Result<Option<Arc<Certificate>>> {
    let (Some(chain), Some(key)) = (&settings.server.tls_certificate, &settings.server.tls_key)
    else {
        return Ok(None);
    };
    let opened = Certificate::open(chain.clone(), key.clone())
        .context("server.tls_certificate, server.tls_key");
    opened.map(Some).map_err(|error| ExitError::of(Exit::Settings, error))
}

/// Publishes the prices of the settings as a version of the price list, if they are not those that
/// are in force.
pub async fn publish_prices(
    settings: &Settings,
    clock: &Clock,
    store: &Store,
) -> anyhow::Result<Arc<PriceVersion>> {
    let cards = settings.price_list()?.cards();
    let cards = cards.context("prices: a base price is negative")?;
    let before = store.publish_prices(cards, clock.now()).await;
    before.context("the prices cannot be published")
}

/// Makes what paid calls need, with this ledger writer, these threads of account actors, and this
/// version of the price list, which has the cards of the settings.
pub fn gateway(
    settings: &Settings,
    clock: &Clock,
    store: &Store,
    ledger: &LedgerHandle,
    threads: &ActorThreads,
    published: &PriceVersion,
) -> anyhow::Result<Arc<Gateway>> {
    let auth = &settings.auth;
    let peppers = peppers(settings)?;
    let idempotency =
        Idempotency::new(store.clone(), clock.clone(), &settings.idempotency, &peppers)
            .context("the key pepper cannot be used")?;
    let keys = KeyCache::new(store.clone(), &peppers, auth.key_cache_max)
        .context("the key pepper cannot be used")?;
    let vault = Seal::new(&peppers, vault::PURPOSE).context("the key pepper cannot be used")?;
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
        keys,
        prices: settings.price_list()?.numbered(published),
        price_version: published.id(),
        directory,
        ledger: ledger.clone(),
        models: ModelRegistry::default()
            .with_vault(Vault::new(vault))
            .with_upstreams(&settings.upstreams.v1)
            .with_shown_deployments(settings.catalogue.shows_deployment)
            .with_shed_tiers(&settings.catalogue.shed_tiers, &settings.rate_limit.default_tier),
        attempts: AttemptLog::start(store.attempts.clone()),
        odd_usages: OddUsages::new(OddityLog::start(store.oddities.clone())),
        upstreams: Upstreams::new(&settings.upstreams),
        clock: clock.clone(),
        commit_timeout: Duration::from_secs(settings.ledger.commit_timeout_seconds.get()),
        hold_lifetime_micros: hold_lifetime_micros(settings),
        thinking: ThinkingModels::new(
            &settings.holds.thinking_models,
            &settings.holds.visible_models,
        ),
        holds: settings.holds.clone(),
        idempotency,
        expiry_warning_micros: expiry_warning_micros(settings),
        metrics: Arc::default(),
        refused: refusal_answer,
        readiness: Arc::new(Admission::new(AdmissionLimits {
            requests: settings.server.requests_max.get(),
            strangers: settings.server.strangers_max.get(),
            calls: settings.server.calls_max.get(),
            test_calls: settings.server.test_calls_max.get(),
            body_bytes: settings.server.bodies_max_bytes.get(),
        })),
        counting: Counting::new(workers(&settings.server)),
    }))
}

/// The number of threads that serve requests.
fn workers(settings: &ServerSettings) -> usize {
    match settings.workers {
        0 => available_parallelism().map_or(1, usize::from),
        set => set,
    }
}

fn expiry_warning_micros(settings: &Settings) -> i64 {
    i64::from(settings.auth.key_expiry_warning_days).saturating_mul(MICROS_PER_DAY)
}

/// Returns the lifetime of a hold in microseconds. It is longer than any call: all attempts at the
/// slowest upstream, the longest stream, the wait for its reader, the commits, and one minute more.
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

/// Returns how many bytes of slow bodies one address may have: a quarter of all, but at least one
/// body.
fn bodies_of_address_max(server: &ServerSettings) -> usize {
    (server.bodies_max_bytes.get() / 4).max(server.body_max_bytes)
}

/// The same of one account, of whatever addresses: an eighth of all, but at least one body.
fn bodies_of_account_max(server: &ServerSettings) -> usize {
    (server.bodies_max_bytes.get() / 8).max(server.body_max_bytes)
}

/// The same of requests that are no calls: so little that more than a hundred addresses are
/// needed to take the room of all.
fn account_bodies_of_address_max(server: &ServerSettings) -> usize {
    (account_bytes_max(server.bodies_max_bytes.get()) / 128).max(ACCOUNT_BODY_MAX)
}

/// How fast clients must send bodies and read answers.
fn least_rate(server: &ServerSettings) -> LeastRate {
    let seconds = server.transfer_window_seconds.get();
    let factor = usize::try_from(seconds).unwrap_or(usize::MAX);
    LeastRate {
        bytes: server.transfer_rate_min.saturating_mul(factor),
        window: Duration::from_secs(seconds),
    }
}

#[expect(clippy::too_many_lines, reason = "it makes one value")]
fn app(
    settings: &Settings,
    clock: Clock,
    database: Handle,
    store: Store,
    gateway: Arc<Gateway>,
    file: Option<Arc<FileSource>>,
) -> anyhow::Result<App> {
    let users = Arc::new(users(settings, clock.clone(), database, store.clone())?);
    let people = Arc::clone(&users);
    let server = &settings.server;
    Ok(App {
        users: Arc::clone(&users),
        keys: Keys::new(store.clone(), Arc::clone(&gateway), expiry_warning_micros(settings)),
        payments: Payments {
            store: store.payments.clone(),
            users: store.users.clone(),
            audit_log: store.audit_log.clone(),
            gateway: Arc::clone(&gateway),
            sandbox: settings.sandbox_payments(),
            test_money: settings.payments.test_money(),
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
        reports: Reports { store: store.clone(), gateway: Arc::clone(&gateway) },
        health: Health {
            store: store.clone(),
            ledger: gateway.ledger.clone(),
            readiness: Arc::clone(&gateway.readiness),
            pinged: tokio::sync::Mutex::default(),
        },
        webhooks: webhooks(settings, &clock, &store, &gateway)?,
        catalogue: CatalogueAdmin::new(store.clone(), Arc::clone(&gateway), file),
        deployments: Deployments {
            gateway: Arc::clone(&gateway),
            attempts: store.attempts.clone(),
            users: store.users.clone(),
            audit_log: store.audit_log.clone(),
        },
        admin: Admin {
            users: store.users.clone(),
            people,
            keys: store.keys.clone(),
            audit_log: store.audit_log.clone(),
            store: store.clone(),
            gateway: Arc::clone(&gateway),
            tiers: settings.rate_limit.tiers.keys().cloned().collect(),
            grant_caps: {
                let (each, day) = settings.grant_caps()?;
                GrantCaps { each, day }
            },
            corrections: tokio::sync::Mutex::default(),
        },
        price_lists: price_lists(settings, &store, &gateway),
        price_pages: PricePages::default(),
        bills: Bills { store: store.clone(), gateway: Arc::clone(&gateway) },
        verifier: Arc::new(Verifier::new(
            store.clone(),
            clock.clone(),
            Arc::clone(&gateway.metrics),
        )),
        verify_hours: settings.ledger.verify_hours.map(NonZeroU32::get),
        settings: Vec::new(),
        live: Live {
            gateway: Arc::clone(&gateway),
            users: Arc::clone(&users),
            audit_log: store.audit_log.clone(),
        },
        quarantine: Quarantine::new(store.clone(), Arc::clone(&gateway)),
        price_imports: PriceImports::new(Arc::clone(&gateway), clock.clone()),
        readiness: Arc::clone(&gateway.readiness),
        bodies: Bodies {
            max: server.body_max_bytes,
            timeout: Duration::from_secs(server.body_timeout_seconds),
            least_rate: least_rate(server),
            open_per_address: PerAddress::new(server.bodies_per_address_max.get()),
            call_bytes_per_address: PerAddress::strict(bodies_of_address_max(server)),
            call_bytes_per_account: PerAccount::new(bodies_of_account_max(server)),
            account_bytes_per_address: PerAddress::strict(account_bodies_of_address_max(server)),
            admission: Arc::clone(&gateway.readiness),
        },
        connections: PerAddress::new(server.connections_per_address_max.get()),
        paid_connections: PerAccount::new(server.connections_max.get().div_ceil(8)),
        gateway,
        store,
        clock,
        cookies: CookieRules {
            public_url: server.public_url.clone(),
            is_secure: !settings.console.insecure_cookie,
        },
        trusted_proxies: server.trusted_proxies.clone(),
        metrics_token: server.metrics_token.clone(),
        continues_traces: settings.traces.continue_callers,
        is_tls: server.tls_certificate.is_some(),
        is_demo: settings.is_demo,
        hsts: security::hsts(server.hsts_subdomains),
    })
}

fn price_lists(settings: &Settings, store: &Store, gateway: &Arc<Gateway>) -> PriceLists {
    let notice = i64::from(settings.pricing.notice_seconds);
    PriceLists {
        store: store.clone(),
        gateway: Arc::clone(gateway),
        notice_micros: notice.saturating_mul(1_000_000),
    }
}

fn webhooks(
    settings: &Settings,
    clock: &Clock,
    store: &Store,
    gateway: &Gateway,
) -> anyhow::Result<Arc<Webhooks>> {
    let peppers = peppers(settings)?;
    let hours = i64::from(settings.webhooks.former_secret_hours);
    Ok(Arc::new(Webhooks {
        store: store.webhooks.clone(),
        users: store.users.clone(),
        reports: store.reports.clone(),
        runtime: store.runtime().clone(),
        clock: clock.clone(),
        seal: Seal::new(&peppers, webhooks::PURPOSE).context("the key pepper cannot be used")?,
        is_private_allowed: settings.webhooks.allow_private_addresses,
        endpoints_max: settings.webhooks.endpoints_per_account_max,
        former_micros: hours.saturating_mul(MICROS_PER_HOUR),
        metrics: Arc::clone(&gateway.metrics),
        ledger: gateway.ledger.clone(),
    }))
}

fn webhook_dispatcher(settings: &Settings, app: &Data<App>) -> anyhow::Result<Dispatcher> {
    let (ledger, users) = (app.gateway.ledger.clone(), Arc::clone(&app.users));
    let runtime = app.store.runtime().clone();
    let tell = move |off: EndpointDisabled| {
        let users = Arc::clone(&users);
        runtime.spawn(async move {
            let EndpointDisabled { user, endpoint, url } = off;
            let url = unlinked(&url);
            let what = format!(
                "your webhook {url} ({endpoint}) was switched off, because it has accepted nothing for three days or \
                 answered that it is gone. GET /api/webhooks/{endpoint}/deliveries lists what was not delivered. To \
                 switch it on again: PATCH /api/webhooks/{endpoint} with {{\"enabled\": true}}."
            );
            users.write_to(user, "A webhook was switched off", &what).await;
        });
    };
    Dispatcher::new(
        Arc::clone(&app.webhooks),
        system_lookup(),
        Duration::from_secs(settings.webhooks.timeout_seconds.get()),
        settings.webhooks.at_once_max.get(),
        move || ledger.state().is_in_charge(),
        tell,
    )
}
