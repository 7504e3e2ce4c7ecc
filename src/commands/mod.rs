//! The commands and their arguments.

use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use polysystems::auth::Users;
use polysystems::cli::{self, Console, find_user};
use polysystems::clock::Clock;
use polysystems::config::{Settings, TraceSettings};
use polysystems::exit::{Exit, ExitError};
use polysystems::store::Store;
use polysystems::{app, secrets, telemetry};
use reqwest::Method;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

mod catalogue;
mod demo;
mod imported_models;
mod price_import;
mod prices;
mod secret;
mod users;
mod verify;

use catalogue::{CatalogueCommand, CredentialsCommand};
use demo::Demo;
use prices::{MarginsArguments, PricesCommand};
use secret::SecretCommand;
use users::UserCommand;

/// How long the server waits for the last traces to be sent.
const TRACES_END_MAX: Duration = Duration::from_secs(5);

/// Sells API calls from a prepaid balance, and never gets the money wrong.
#[derive(Parser)]
#[command(version, about)]
pub(crate) struct Arguments {
    /// The settings file (TOML). Each setting can also be set by POLYSYSTEMS_<SECTION>__<NAME>.
    #[arg(long, env = "POLYSYSTEMS_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Brings the database up to date, then serves (the default)
    Serve {
        /// Serve a demo: three users and 30 days of made-up calls, in a new folder that is deleted
        /// at the end. Refuses real providers, payments, databases and addresses
        #[arg(long)]
        demo: bool,
    },
    /// Makes what is missing (database, secrets), and brings the database up to date
    Migrate,
    /// Recomputes every account from its ledger and checks every invariant. Exit code 1 if one does
    /// not hold, 2 if the check could not run
    Verify {
        /// Write JSON: one object per finding, then one with the totals
        #[arg(long)]
        json: bool,
    },
    /// Copies a SQLite database and its journal into a folder; the server may be running
    Backup {
        /// The folder; it must not contain such files yet
        folder: PathBuf,
    },
    /// Manages users
    #[command(subcommand)]
    User(UserCommand),
    /// Shows the audit log, latest first (asks the running server)
    AuditLog {
        #[command(flatten)]
        operator: Operator,
        /// Only acts that concern this user: their email or id
        #[arg(long)]
        user: Option<String>,
        /// How many acts, at most 100
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// `next_cursor` of the previous page
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Manages the models that are sold by their names
    #[command(subcommand)]
    Catalogue(CatalogueCommand),
    /// Manages the secrets that providers are called with
    #[command(subcommand)]
    Credentials(CredentialsCommand),
    /// Manages the price lists of models (asks the running server)
    #[command(subcommand)]
    Prices(PricesCommand),
    /// Shows the bill of a call with its arithmetic (asks the running server)
    Bill {
        #[command(flatten)]
        operator: Operator,
        /// The call: req-<uuid>
        charge: String,
        /// Who has paid, by their id; needed if the usage record of the call is gone
        #[arg(long)]
        user: Option<String>,
    },
    /// Shows what is left of what calls bring after what they cost us (asks the running server)
    Margins(MarginsArguments),
    /// Shows the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Manages the secrets that the server has generated
    #[command(subcommand)]
    Secret(SecretCommand),
}

/// The operator who asks the running server.
#[derive(clap::Args)]
struct Operator {
    /// The operator's email or id
    #[arg(long = "as", env = "POLYSYSTEMS_OPERATOR", value_name = "OPERATOR")]
    name: String,
    /// The server's address, if it is not the one in the settings
    #[arg(long, env = "POLYSYSTEMS_URL")]
    url: Option<reqwest::Url>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Prints all settings, without secrets, and where each comes from
    Show,
    /// Checks the settings, and the files that they name; touches no database
    Check,
}

/// Runs the command. Returns the exit code of the process.
#[expect(clippy::too_many_lines, reason = "one arm a command")]
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "failpoints")]
    polysystems::failpoint::listen();
    let (mut settings, sources) = Settings::read_with_sources(arguments.config.as_deref())
        .map_err(|error| ExitError::of(Exit::Settings, error))?;
    match arguments.command.unwrap_or(Command::Serve { demo: false }) {
        Command::Serve { demo } => {
            let demo = demo.then(|| Demo::begin(&mut settings)).transpose()?;
            if let Some(demo) = &demo {
                print("Making up 30 days of calls. This takes a few seconds.")?;
                print(&demo.fill(&settings)?)?;
            }
            let traces = telemetry::start(&settings.log, &settings.traces)?;
            let served = app::serve(settings, &sources, Clock::System, |_| (), stop_signal());
            traces.end(TRACES_END_MAX);
            served?;
        }
        Command::Migrate => {
            // The log says what the command waits for. It needs no traces.
            let _traces = telemetry::start(&settings.log, &TraceSettings::default())?;
            let database = app::database_runtime()?;
            let store = database.block_on(app::open_store(&settings, database.handle().clone()))?;
            database.block_on(store.close());
            secrets::generate(&settings).map_err(|error| ExitError::of(Exit::Settings, error))?;
            print("The database is up to date.")?;
        }
        Command::Verify { json } => return verify::run(&settings, json),
        Command::Backup { folder } => {
            let database = app::database_runtime()?;
            let opening = app::open_existing_store(&settings, database.handle().clone());
            let store = database.block_on(opening)?;
            let copies = database.block_on(store.back_up(&folder));
            database.block_on(store.close());
            for copy in copies? {
                print(&copy.display().to_string())?;
            }
        }
        Command::User(UserCommand::Create { email, username, admin }) => {
            users::create(&settings, email, username, admin)?;
        }
        Command::User(command) => {
            with_users(&settings, async |users| users::run(&settings, users, command).await)?;
        }
        Command::AuditLog { operator, user, limit, cursor } => {
            with_users(&settings, async |users| {
                let user = match user {
                    Some(user) => Some(find_user(users, &user).await?.id.to_string()),
                    None => None,
                };
                let limit = limit.to_string();
                let query = [("limit", Some(limit)), ("cursor", cursor), ("user_id", user)];
                ask(&settings, users, operator, Method::GET, "/api/admin/audit-log", &query, None)
                    .await
            })?;
        }
        Command::Catalogue(command) => catalogue::run(&settings, command)?,
        Command::Credentials(command) => catalogue::run_credentials(&settings, command)?,
        Command::Prices(command) => {
            with_users(&settings, async |users| prices::run(&settings, users, command).await)?;
        }
        Command::Bill { operator, charge, user } => {
            with_users(&settings, async |users| {
                prices::bill(&settings, users, operator, &charge, user).await
            })?;
        }
        Command::Margins(arguments) => {
            with_users(&settings, async |users| {
                prices::margins(&settings, users, arguments).await
            })?;
        }
        Command::Secret(command) => secret::run(&settings, command)?,
        Command::Config(ConfigCommand::Show) => print(&settings.shown(&sources)?)?,
        Command::Config(ConfigCommand::Check) => {
            app::certificate(&settings)?;
            print("The settings are valid.")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Resolves at the first SIGTERM or SIGINT. A second one ends the process at once, which is safe:
/// acknowledged calls are durable.
async fn stop_signal() {
    let signals = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals; stop the server with SIGKILL");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    actix::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("a second signal: ending at once");
        std::process::exit(130);
    });
}

/// Opens the database, runs `work` with its users, and closes the database.
fn with_users(
    settings: &Settings,
    work: impl AsyncFnOnce(&Users) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let database = app::database_runtime()?;
    let handle = database.handle().clone();
    block_on_store(settings, &database, async |store| {
        let users = app::users(settings, Clock::System, handle, store)?;
        work(&users).await
    })
}

fn with_store<T>(
    settings: &Settings,
    work: impl AsyncFnOnce(Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    block_on_store(settings, &app::database_runtime()?, work)
}

/// Opens a database that is there, and closes it after the work.
fn block_on_store<T>(
    settings: &Settings,
    database: &Runtime,
    work: impl AsyncFnOnce(Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    database.block_on(async {
        secrets::assert_there(settings)?;
        let store = app::open_existing_store(settings, database.handle().clone()).await?;
        let result = work(store.clone()).await;
        store.close().await;
        result
    })
}

/// Sends a request to the running server as an operator, and prints the answer.
async fn ask(
    settings: &Settings,
    users: &Users,
    Operator { name, url }: Operator,
    method: Method,
    path: &str,
    query: &[(&str, Option<String>)],
    body: Option<String>,
) -> anyhow::Result<()> {
    let url = url.map_or_else(|| cli::url_of(settings), Ok)?;
    let console = Console::open(users, &name, url).await?;
    let query: Vec<(&str, &str)> =
        query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let answer = console.ask(method, path, &query, body).await;
    console.close().await?;
    print(&answer?)
}

fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // The reader has closed its end. The work goes on, and the exit code is that of the work.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
