//! The command line. Settings first, then one command.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use domain::Credits;
use polysystems::app;
use polysystems::auth::Users;
use polysystems::auth::users::{Registration, UsersError};
use polysystems::cli::{self, Console, find_user};
use polysystems::clock::Clock;
use polysystems::config::Settings;
use polysystems::http::amount::Amount;
use polysystems::store::users::Role;
use polysystems::verify::{Finding, Report};
use polysystems::{secrets, telemetry, verify};
use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sells API calls from a prepaid balance, and never gets the money wrong.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The settings file (TOML). Each setting can also be set by POLYSYSTEMS_<SECTION>__<NAME>.
    #[arg(long, env = "POLYSYSTEMS_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Brings the database up to date, then serves (the default)
    Serve,
    /// Brings the database up to date
    Migrate,
    /// Folds every account's ledger and checks every invariant; exit code 1 where one does not hold
    Verify {
        /// Write JSON: one object a finding, and one last that counts
        #[arg(long)]
        json: bool,
    },
    /// Copies a SQLite database and its journal into a folder, also while a server runs on it
    Backup {
        /// The folder; it must not have such files yet
        folder: PathBuf,
    },
    /// Users
    #[command(subcommand)]
    User(UserCommand),
    /// Shows the audit log, latest first; asks the running server
    AuditLog {
        #[command(flatten)]
        operator: Operator,
        /// Only what concerns this user: their email or id
        #[arg(long)]
        user: Option<String>,
        /// At most so many, up to 100
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// `next_cursor` of the page before
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Secrets that the server has made by itself
    #[command(subcommand)]
    Secret(SecretCommand),
}

#[derive(Subcommand)]
enum SecretCommand {
    /// Makes another secret for session tokens, from the next start on; what the old one signed is read until it
    /// expires
    RotateJwt,
}

#[derive(Subcommand)]
enum UserCommand {
    /// Makes a user; the password is read from standard input
    Create {
        /// Their email
        #[arg(long)]
        email: String,
        /// Their username
        #[arg(long)]
        username: String,
        /// Make them an operator
        #[arg(long)]
        admin: bool,
    },
    /// Makes a user an operator, or one no longer
    SetRole {
        /// Their email or id
        user: String,
        /// What they may do
        role: RoleName,
    },
    /// Switches two-factor authentication off, for whoever has lost it and every recovery code
    Disable2fa {
        /// Their email or id
        user: String,
    },
    /// Lists users, the last registered one first; asks the running server
    List {
        #[command(flatten)]
        operator: Operator,
        /// Only those whose email or username has this in it
        #[arg(long)]
        search: Option<String>,
        /// At most so many, up to 100
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// `next_cursor` of the page before
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Shows a user with their accounts and keys; asks the running server
    Show {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
    },
    /// Gives a user credits, or takes them where the amount is negative; asks the running server
    Credit {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// USD
        #[arg(allow_negative_numbers = true)]
        amount: Credits,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
        /// Of the test account
        #[arg(long)]
        test: bool,
    },
    /// Sets a user's rate limit tier; asks the running server
    Tier {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// One of the settings' tiers; left out, the default one
        tier: Option<String>,
    },
    /// Suspends a user's accounts; asks the running server
    Suspend {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// Why, for the audit log
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Ends every session of a user; asks the running server
    EndSessions {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// Why, for the audit log
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Opens a user's accounts again; asks the running server
    Resume {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// Why, for the audit log
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Who asks the running server.
#[derive(clap::Args)]
struct Operator {
    /// The operator's email or id
    #[arg(long = "as", env = "POLYSYSTEMS_OPERATOR", value_name = "OPERATOR")]
    name: String,
    /// Where the server is, if not where the settings say
    #[arg(long, env = "POLYSYSTEMS_URL")]
    url: Option<reqwest::Url>,
}

/// Credits to be given or taken, the amount as its own text.
#[derive(Serialize)]
struct CreditsBody {
    amount: Amount,
    reason: String,
    environment: &'static str,
}

/// What a user may do.
#[derive(Clone, Copy, clap::ValueEnum)]
enum RoleName {
    User,
    Admin,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Prints the settings in force, without secrets
    Show,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // One line: the whole chain of causes.
            let _ = writeln!(std::io::stderr(), "polysystems: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "failpoints")]
    polysystems::failpoint::listen();
    let settings = Settings::read(arguments.config.as_deref())?;
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => {
            let traces = telemetry::start(&settings.log, &settings.traces)?;
            let served = app::serve(settings, Clock::System, |_| (), stop_signal());
            traces.end(TRACES_END_MAX);
            served?;
        }
        Command::Migrate => {
            let database = app::database_runtime()?;
            let store = database.block_on(app::open_store(&settings, database.handle().clone()))?;
            database.block_on(store.close());
            print("The database is up to date.")?;
        }
        Command::Verify { json } => return verify_ledgers(&settings, json),
        Command::Backup { folder } => {
            polysystems::store::backup::assert_there(&settings.database_url())?;
            let database = app::database_runtime()?;
            let store = database.block_on(app::open_store(&settings, database.handle().clone()))?;
            let copies = database.block_on(store.back_up(&folder));
            database.block_on(store.close());
            for copy in copies? {
                print(&copy.display().to_string())?;
            }
        }
        Command::User(UserCommand::Create { email, username, admin }) => {
            create_user(&settings, email, username, admin)?;
        }
        Command::User(command) => {
            with_users(&settings, async |users| user_command(&settings, users, command).await)?;
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
        Command::Secret(SecretCommand::RotateJwt) => {
            if settings.auth.jwt_secret.is_some() {
                bail!(
                    "auth.jwt_secret is set: put it in auth.jwt_previous_secret, and another one in its place"
                );
            }
            secrets::rotate(&settings.data_dir, "jwt_secret")?;
            print("Session tokens have another secret from the next start on.")?;
        }
        Command::Config(ConfigCommand::Show) => print(&toml::to_string_pretty(&settings)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The first SIGTERM or SIGINT. A second one ends the process at once; what was acknowledged is on record.
async fn stop_signal() {
    let signals = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be heard; stop the server by SIGKILL");
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

/// Tells findings on standard output, and on a terminal how far it is.
struct Printed {
    is_json: bool,
    /// When progress was last told; none where nobody watches.
    told: Option<Instant>,
}

/// How long the last traces may take to be sent.
const TRACES_END_MAX: Duration = Duration::from_secs(5);
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

impl Printed {
    fn clear(&self) {
        if self.told.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl verify::Audience for Printed {
    fn find(&mut self, finding: &Finding) -> anyhow::Result<()> {
        self.clear();
        if self.is_json {
            print(&serde_json::to_string(finding)?)
        } else {
            print(&finding.to_string())
        }
    }

    fn progress(&mut self, so_far: &Report, accounts: u64) {
        let Some(told) = &mut self.told else { return };
        if told.elapsed() >= PROGRESS_PERIOD {
            *told = Instant::now();
            let Report { accounts: done, entries, usage, findings } = so_far;
            let _ = write!(
                std::io::stderr(),
                "\r\x1b[K{done} of {accounts} accounts, {entries} entries, {usage} usage records, {findings} findings"
            );
        }
    }
}

fn verify_ledgers(settings: &Settings, is_json: bool) -> anyhow::Result<ExitCode> {
    let database = app::database_runtime()?;
    let store = database.block_on(app::open_store(settings, database.handle().clone()))?;
    let told = std::io::stderr().is_terminal().then(Instant::now);
    let mut printed = Printed { is_json, told };
    let report = database.block_on(verify::verify(&store, &mut printed))?;
    printed.clear();
    if is_json {
        print(&serde_json::to_string(&report)?)?;
    } else {
        print(&format!(
            "{} accounts, {} ledger entries, {} usage records: {} findings",
            report.accounts, report.entries, report.usage, report.findings
        ))?;
    }
    Ok(if report.findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Does something with the people of the database.
fn with_users(
    settings: &Settings,
    work: impl AsyncFnOnce(&Users) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let database = app::database_runtime()?;
    database.block_on(async {
        let store = app::open_store(settings, database.handle().clone()).await?;
        let handle = database.handle().clone();
        let users = app::users(settings, Clock::System, handle, store.clone())?;
        let result = work(&users).await;
        store.close().await;
        result
    })
}

/// Asks the running server as an operator, and prints its answer.
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

async fn user_command(
    settings: &Settings,
    users: &Users,
    command: UserCommand,
) -> anyhow::Result<()> {
    let path = async |user: &str, act: &str| -> anyhow::Result<String> {
        Ok(format!("/api/admin/users/{}{act}", find_user(users, user).await?.id))
    };
    let (operator, method, path, query, body) = match command {
        // Has its own way, since it reads a password.
        UserCommand::Create { .. } => return Ok(()),
        UserCommand::SetRole { user, role } => {
            let role = match role {
                RoleName::User => Role::User,
                RoleName::Admin => Role::Admin,
            };
            let user = find_user(users, &user).await?;
            users.set_role(&user, role).await?;
            return print(&format!("{} {}", user.id, role.name()));
        }
        UserCommand::Disable2fa { user } => {
            let user = find_user(users, &user).await?;
            users.disable_second_factor_of(&user).await?;
            return print(&format!("{} has no second factor any more", user.id));
        }
        UserCommand::List { operator, search, limit, cursor } => {
            let limit = Some(limit.to_string());
            let query = vec![("limit", limit), ("search", search), ("cursor", cursor)];
            (operator, Method::GET, "/api/admin/users".to_owned(), query, None)
        }
        UserCommand::Show { operator, user } => {
            (operator, Method::GET, path(&user, "").await?, Vec::new(), None)
        }
        UserCommand::Credit { operator, user, amount, reason, test } => {
            let environment = if test { "test" } else { "live" };
            let body = CreditsBody { amount: Amount(amount), reason, environment };
            let body = serde_json::to_string(&body)?;
            (operator, Method::POST, path(&user, "/credits").await?, Vec::new(), Some(body))
        }
        UserCommand::Tier { operator, user, tier } => {
            let body = json!({ "tier": tier }).to_string();
            (operator, Method::PUT, path(&user, "/tier").await?, Vec::new(), Some(body))
        }
        UserCommand::Suspend { operator, user, reason } => {
            let body = json!({ "reason": reason }).to_string();
            (operator, Method::POST, path(&user, "/suspend").await?, Vec::new(), Some(body))
        }
        UserCommand::EndSessions { operator, user, reason } => {
            let body = json!({ "reason": reason }).to_string();
            (operator, Method::POST, path(&user, "/end-sessions").await?, Vec::new(), Some(body))
        }
        UserCommand::Resume { operator, user, reason } => {
            let body = json!({ "reason": reason }).to_string();
            (operator, Method::POST, path(&user, "/resume").await?, Vec::new(), Some(body))
        }
    };
    ask(settings, users, operator, method, &path, &query, body).await
}

fn create_user(
    settings: &Settings,
    email: String,
    username: String,
    is_admin: bool,
) -> anyhow::Result<()> {
    let mut password = String::new();
    std::io::stdin().read_to_string(&mut password).context("cannot read the password")?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        bail!("the password is read from standard input, which is empty");
    }
    let database = app::database_runtime()?;
    let role = if is_admin { Role::Admin } else { Role::User };
    let user = database.block_on(async {
        let store = app::open_store(settings, database.handle().clone()).await?;
        let users = app::users(settings, Clock::System, database.handle().clone(), store.clone())?;
        let user = users.register(Registration { email, username, password }, role, None).await;
        store.close().await;
        user.map_err(|error| match error {
            UsersError::Store(error) => anyhow::anyhow!("cannot store the user: {error}"),
            other => anyhow::Error::new(other),
        })
    })?;
    print(&format!("{} {}", user.id, user.role.name()))
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", text.trim_end()).context("cannot write to standard output")
}
