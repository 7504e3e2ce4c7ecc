//! `polysystems catalogue` and `polysystems credentials`: the models that are sold by their names,
//! and the secrets of their providers. All of them ask the running server.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use polysystems::auth::Users;
use polysystems::cli::{self, Console, ServerAnswer};
use polysystems::config::Settings;
use polysystems::models::document;
use polysystems::models::document::file::{CatalogueFile, is_secret};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Operator, print, with_users};

const CATALOGUE: &str = "/api/admin/catalogue";

#[derive(Subcommand)]
pub(crate) enum CatalogueCommand {
    /// Prints the catalogue, in JSON (asks the running server)
    Show {
        #[command(flatten)]
        operator: Operator,
        /// In TOML, as `apply` reads it
        #[arg(long)]
        toml: bool,
        /// An earlier revision
        #[arg(long)]
        revision: Option<u64>,
    },
    /// Replaces the catalogue by a file (TOML, or JSON if its name ends in .json), sets the secrets
    /// that it names (env:NAME, file:/path), and publishes its [[cards]] (asks the running server)
    Apply {
        #[command(flatten)]
        operator: Operator,
        /// The file
        file: PathBuf,
        /// Models that may be sold below their cost; `*` is all of them
        #[arg(long, value_delimiter = ',', value_name = "NAMES")]
        allow_loss: Vec<String>,
        /// Only say what is wrong and what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Says what differs between a revision and another one, or the one in force (asks the running
    /// server)
    Diff {
        #[command(flatten)]
        operator: Operator,
        /// A revision; 0 is the empty catalogue
        from: u64,
        /// Another one
        to: Option<u64>,
    },
    /// Makes a new revision with the content of an earlier one (asks the running server)
    Restore {
        #[command(flatten)]
        operator: Operator,
        /// The earlier one
        revision: u64,
    },
}

#[derive(Subcommand)]
pub(crate) enum CredentialsCommand {
    /// Sets the secret of a credential, which is made if it is not there. The secret is read from
    /// standard input (asks the running server)
    Set {
        #[command(flatten)]
        operator: Operator,
        /// The name of the credential
        #[arg(value_name = "NAME")]
        credential: String,
        /// The name of its provider
        #[arg(long)]
        provider: String,
        /// Credentials of one group share the limits of their provider
        #[arg(long)]
        quota_group: Option<String>,
    },
    /// Gives a credential another secret, which is read from standard input (asks the running
    /// server)
    Rotate {
        #[command(flatten)]
        operator: Operator,
        /// The name of the credential
        #[arg(value_name = "NAME")]
        credential: String,
    },
    /// Lists credentials, without their secrets (asks the running server)
    List {
        #[command(flatten)]
        operator: Operator,
    },
}

/// Opens a session with the running server, runs `work` in it, and ends the session.
fn with_console(
    settings: &Settings,
    Operator { name, url }: Operator,
    work: impl AsyncFnOnce(&Console<'_>) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    with_users(settings, async |users: &Users| {
        let url = url.map_or_else(|| cli::url_of(settings), Ok)?;
        let console = Console::open(users, &name, url).await?;
        let done = work(&console).await;
        console.close().await?;
        print(&done?)
    })
}

pub(crate) fn run(settings: &Settings, command: CatalogueCommand) -> anyhow::Result<()> {
    match command {
        CatalogueCommand::Show { operator, toml, revision } => {
            with_console(settings, operator, async |console| {
                let revision = revision.map(|revision| revision.to_string());
                let query: Vec<(&str, &str)> =
                    revision.iter().map(|revision| ("revision", revision.as_str())).collect();
                let text = console.ask(Method::GET, CATALOGUE, &query, None).await?;
                let value: Value = serde_json::from_str(&text)?;
                if toml {
                    return toml::to_string(&value).context("cannot write it in TOML");
                }
                Ok(serde_json::to_string_pretty(&value)?)
            })
        }
        CatalogueCommand::Apply { operator, file, allow_loss, dry_run } => {
            let read = read(&file)?;
            with_console(settings, operator, async |console| {
                apply(console, read, allow_loss, dry_run).await
            })
        }
        CatalogueCommand::Diff { operator, from, to } => {
            with_console(settings, operator, async |console| {
                let to = to.map(|to| to.to_string());
                let query: Vec<(&str, &str)> = to.iter().map(|to| ("to", to.as_str())).collect();
                let path = format!("{CATALOGUE}/revisions/{from}/diff");
                let answer = console.ask(Method::GET, &path, &query, None).await?;
                let answer: Value = serde_json::from_str(&answer)?;
                Ok(in_words(&answer, "The two revisions have the same content."))
            })
        }
        CatalogueCommand::Restore { operator, revision } => {
            with_console(settings, operator, async |console| {
                let seen = seen(console).await?;
                let path = format!("{CATALOGUE}/revisions/{revision}/restore");
                let answer = change(console, Method::POST, &path, false, &seen, None).await?;
                let head = format!("Revision {} is in force.", number(&answer));
                Ok(format!("{head}\n{}", in_words(&answer, "Nothing was different.")))
            })
        }
    }
}

/// The ETag of the revision in force.
async fn seen(console: &Console<'_>) -> anyhow::Result<String> {
    let answered = console.request(Method::GET, CATALOGUE, &[], None, &[]).await?;
    answered.etag.context("the server does not say which revision is in force")
}

async fn change(
    console: &Console<'_>,
    method: Method,
    path: &str,
    is_dry_run: bool,
    seen: &str,
    body: Option<String>,
) -> anyhow::Result<Value> {
    let query: &[(&str, &str)] = if is_dry_run { &[("dry_run", "true")] } else { &[] };
    let headers = [("If-Match", seen)];
    let ServerAnswer { text, .. } = console.request(method, path, query, body, &headers).await?;
    Ok(serde_json::from_str(&text)?)
}

fn number(answer: &Value) -> u64 {
    answer.get("revision").and_then(Value::as_u64).unwrap_or_default()
}

/// What differs, a line each.
fn in_words(answer: &Value, none: &str) -> String {
    let text = |value: &Value, field: &str| {
        value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let list = |value: &Value, field: &str| {
        value.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut words = String::new();
    for part in list(answer, "changes") {
        let what = text(&part, "change");
        let _ = writeln!(words, "{} {}: {what}", text(&part, "list"), text(&part, "name"));
        let fields = if what == "changed" { list(&part, "fields") } else { Vec::new() };
        for field in fields {
            let value = |name: &str| field.get(name).unwrap_or(&Value::Null).to_string();
            let name = text(&field, "field");
            let _ = writeln!(words, "  {name}: {} -> {}", value("before"), value("after"));
        }
    }
    if words.is_empty() { none.to_owned() } else { words }
}

/// A file that was read, with the secrets that it names.
struct ReadFile {
    document: Value,
    /// Name, provider and secret of credentials.
    secrets: Vec<(String, String, String)>,
    cards: Vec<Value>,
}

/// Reads the file, and all secrets that it names, before anything is changed.
fn read(path: &Path) -> anyhow::Result<ReadFile> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let CatalogueFile { document, secrets, cards } =
        CatalogueFile::read(&text, is_json).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{name} has faults: {}", faults.join("; "))
        })?;
    let mut found = Vec::new();
    for (credential, place) in secrets {
        let secret = place.read().map_err(|problem| {
            anyhow::anyhow!("{name}: the secret of the credential {credential}: {problem}")
        })?;
        let of = document.credentials.iter().find(|one| one.name == credential);
        let provider = of.map(|one| one.provider.to_string()).unwrap_or_default();
        found.push((credential.to_string(), provider, secret));
    }
    Ok(ReadFile { document: document::write(&document), secrets: found, cards })
}

async fn apply(
    console: &Console<'_>,
    file: ReadFile,
    allow_loss: Vec<String>,
    is_dry_run: bool,
) -> anyhow::Result<String> {
    let ReadFile { document, secrets, cards } = file;
    let seen = seen(console).await?;
    let body = Some(document.to_string());
    let answer = change(console, Method::PUT, CATALOGUE, is_dry_run, &seen, body).await?;
    let mut words = in_words(&answer, "The catalogue has this content already.");
    let faults = answer.get("faults").and_then(Value::as_array).cloned().unwrap_or_default();
    if !faults.is_empty() {
        let text = |fault: &Value, field: &str| {
            fault.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let faults: Vec<String> = faults
            .iter()
            .map(|fault| format!("{}: {}", text(fault, "path"), text(fault, "message")))
            .collect();
        bail!("the catalogue would have faults: {}", faults.join("; "));
    }
    if is_dry_run {
        let _ = write!(
            words,
            "\nNothing was written. Without --dry-run {} secrets would be set and {} cards published.",
            secrets.len(),
            cards.len()
        );
        return Ok(words);
    }
    let _ = write!(words, "\nRevision {} is in force.", number(&answer));
    for (name, provider, secret) in &secrets {
        set(console, name, provider, None, secret).await.with_context(|| {
            format!(
                "the catalogue is in force, but the secret of {name} is not set; apply it again"
            )
        })?;
        let _ = write!(words, "\nThe secret of {name} is set.");
    }
    if !cards.is_empty() {
        let path = "/api/admin/price-lists/default/versions";
        let body = json!({ "cards": cards, "publish": true, "allow_loss": allow_loss }).to_string();
        console.ask(Method::POST, path, &[], Some(body)).await.context(
            "the catalogue is in force, but the prices are not published; models without a price are not sold",
        )?;
        let count = cards.len();
        let _ = write!(words, "\n{count} cards are published in the price list default.");
    }
    Ok(words)
}

/// A name in a path.
fn in_path(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

async fn set(
    console: &Console<'_>,
    name: &str,
    provider: &str,
    quota_group: Option<&str>,
    secret: &str,
) -> anyhow::Result<()> {
    let body = json!({ "provider": provider, "secret": secret, "quota_group": quota_group });
    let path = format!("/api/admin/credentials/{}", in_path(name));
    console.ask(Method::PUT, &path, &[], Some(body.to_string())).await.map(drop)
}

/// The secret on standard input.
fn secret() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the secret")?;
    let secret = text.trim();
    if !is_secret(secret) {
        bail!(
            "the secret is read from standard input: 1 to 4096 visible characters of ASCII, without spaces"
        );
    }
    Ok(secret.to_owned())
}

pub(crate) fn run_credentials(
    settings: &Settings,
    command: CredentialsCommand,
) -> anyhow::Result<()> {
    match command {
        CredentialsCommand::Set { operator, credential: name, provider, quota_group } => {
            let secret = secret()?;
            with_console(settings, operator, async |console| {
                set(console, &name, &provider, quota_group.as_deref(), &secret).await?;
                Ok(format!("The secret of {name} is set."))
            })
        }
        CredentialsCommand::Rotate { operator, credential: name } => {
            let body = json!({ "secret": secret()? }).to_string();
            with_console(settings, operator, async |console| {
                let path = format!("/api/admin/credentials/{}/rotate", in_path(&name));
                console.ask(Method::POST, &path, &[], Some(body)).await?;
                Ok(format!("{name} has a new secret. Calls that run keep the one before."))
            })
        }
        CredentialsCommand::List { operator } => {
            with_console(settings, operator, async |console| {
                let text = console.ask(Method::GET, "/api/admin/credentials", &[], None).await?;
                Ok(serde_json::to_string_pretty(&serde_json::from_str::<Value>(&text)?)?)
            })
        }
    }
}
