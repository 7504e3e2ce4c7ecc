//! The commands of `polysystems prices`, and `polysystems bill`.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use polysystems::auth::Users;
use polysystems::config::Settings;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::price_import::{self, ImportArguments};
use super::{Operator, ask};

#[derive(Subcommand)]
pub(crate) enum PricesCommand {
    /// Reads a public price file into a price list: prints what would change, and makes a draft
    Import(ImportArguments),
    /// Shows the price lists; of one list, its versions and drafts, or one version, or the prices
    /// of a model
    Show {
        #[command(flatten)]
        operator: Operator,
        /// The name of a list
        list: Option<String>,
        /// The number of a version, whose cards are shown
        #[arg(long, requires = "list", conflicts_with = "model")]
        version: Option<u32>,
        /// The name of a model
        #[arg(long, requires = "list")]
        model: Option<String>,
        /// The prices of the model at this time, such as 2026-12-01T00:00:00Z; now without it
        #[arg(long, requires = "model")]
        at: Option<String>,
    },
    /// Writes a draft from a TOML file with `[[cards]]`, or publishes it
    Apply {
        #[command(flatten)]
        operator: Operator,
        /// The file. Besides `[[cards]]` it may have `[[overrides]]`, `parent`, `multiplier` and
        /// `merge`
        file: PathBuf,
        /// The name of the list
        #[arg(long, default_value = "default")]
        list: String,
        /// Publish it
        #[arg(long)]
        publish: bool,
        /// From when on it is in force, such as 2026-12-01T00:00:00Z; without it, as soon as it can
        #[arg(long, requires = "publish")]
        effective: Option<String>,
        /// Models that may be sold below their cost; `*` is all of them
        #[arg(long, value_delimiter = ',', value_name = "NAMES", requires = "publish")]
        allow_loss: Vec<String>,
        /// Show what would come of it, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Publishes a draft
    Publish {
        #[command(flatten)]
        operator: Operator,
        /// The name of the list
        list: String,
        /// The draft, such as draft-7
        draft: String,
        /// From when on it is in force, such as 2026-12-01T00:00:00Z; without it, as soon as it can
        #[arg(long)]
        effective: Option<String>,
        /// Models that may be sold below their cost; `*` is all of them
        #[arg(long, value_delimiter = ',', value_name = "NAMES")]
        allow_loss: Vec<String>,
        /// Show what would come of it, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Withdraws a version that is not in force yet
    Withdraw {
        #[command(flatten)]
        operator: Operator,
        /// The name of the list
        list: String,
        /// The number of the version
        version: u32,
    },
    /// Says what a usage costs, with its arithmetic
    Quote {
        #[command(flatten)]
        operator: Operator,
        /// The name of a model
        model: String,
        /// What is used, such as input=1000 output=500
        #[arg(required = true, value_parser = quantity)]
        usage: Vec<(String, u64)>,
        /// The name of the list
        #[arg(long, default_value = "default")]
        list: String,
        /// The service tier
        #[arg(long)]
        service: Option<String>,
        /// By the prices of this time, such as 2026-12-01T00:00:00Z; now without it
        #[arg(long)]
        at: Option<String>,
    },
}

fn quantity(text: &str) -> Result<(String, u64), String> {
    let parts = text.split_once('=');
    let read = parts.and_then(|(name, number)| Some((name.to_owned(), number.parse().ok()?)));
    read.ok_or_else(|| "write a dimension and a whole number, such as input=1000".to_owned())
}

/// What a file of prices has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    cards: Option<Value>,
    overrides: Option<Value>,
    parent: Option<String>,
    multiplier: Option<String>,
    #[serde(default)]
    merge: bool,
}

/// A part of a path.
fn part(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn path_of(list: &str, rest: &str) -> String {
    format!("/api/admin/price-lists/{}{rest}", part(list))
}

fn dry_run(is_dry_run: bool) -> Vec<(&'static str, Option<String>)> {
    if is_dry_run { vec![("dry_run", Some("true".to_owned()))] } else { Vec::new() }
}

/// The request that a file of prices is.
fn request(
    text: &str,
    publish: bool,
    effective: Option<String>,
    allow_loss: &[String],
) -> anyhow::Result<String> {
    let PriceFile { cards, overrides, parent, multiplier, merge } = toml::from_str(text)?;
    if cards.is_none() && overrides.is_none() && parent.is_none() {
        bail!("it has no [[cards]], no [[overrides]] and no parent");
    }
    let mut body = Map::new();
    body.insert("publish".to_owned(), json!(publish));
    body.insert("merge".to_owned(), json!(merge));
    if !allow_loss.is_empty() {
        body.insert("allow_loss".to_owned(), json!(allow_loss));
    }
    let texts = [("parent", parent), ("multiplier", multiplier), ("effective_from", effective)];
    let texts = texts.into_iter().map(|(key, text)| (key, text.map(Value::from)));
    for (key, value) in [("cards", cards), ("overrides", overrides)].into_iter().chain(texts) {
        body.extend(value.map(|value| (key.to_owned(), value)));
    }
    Ok(Value::Object(body).to_string())
}

pub(crate) async fn run(
    settings: &Settings,
    users: &Users,
    command: PricesCommand,
) -> anyhow::Result<()> {
    let (operator, method, path, query, body) = match command {
        PricesCommand::Import(arguments) => {
            return price_import::run(settings, users, &arguments).await;
        }
        PricesCommand::Show { operator, list: None, .. } => {
            (operator, Method::GET, "/api/admin/price-lists".to_owned(), Vec::new(), None)
        }
        PricesCommand::Show { operator, list: Some(list), version, model, at } => {
            let rest = match (version, model) {
                (Some(version), _) => format!("/versions/{version}"),
                (None, Some(model)) => format!("/cards/{}", part(&model)),
                (None, None) => "/versions".to_owned(),
            };
            (operator, Method::GET, path_of(&list, &rest), vec![("at", at)], None)
        }
        PricesCommand::Apply {
            operator,
            file,
            list,
            publish,
            effective,
            allow_loss,
            dry_run: is_dry_run,
        } => {
            let text = std::fs::read_to_string(&file);
            let text = text.with_context(|| format!("cannot read {}", file.display()))?;
            let body = request(&text, publish, effective, &allow_loss);
            let body = body.with_context(|| format!("{} is no file of prices", file.display()))?;
            (operator, Method::POST, path_of(&list, "/versions"), dry_run(is_dry_run), Some(body))
        }
        PricesCommand::Publish {
            operator,
            list,
            draft,
            effective,
            allow_loss,
            dry_run: is_dry_run,
        } => {
            let path = path_of(&list, &format!("/versions/{}/publish", part(&draft)));
            let body = json!({ "effective_from": effective, "allow_loss": allow_loss }).to_string();
            (operator, Method::POST, path, dry_run(is_dry_run), Some(body))
        }
        PricesCommand::Withdraw { operator, list, version } => {
            let path = path_of(&list, &format!("/versions/{version}/withdraw"));
            (operator, Method::POST, path, Vec::new(), None)
        }
        PricesCommand::Quote { operator, model, usage, list, service, at } => {
            let usage: Map<String, Value> =
                usage.into_iter().map(|(name, number)| (name, number.into())).collect();
            let body = json!({
                "model": model, "usage": usage, "list": list, "service": service, "at": at,
            });
            let path = "/api/admin/prices/quote".to_owned();
            (operator, Method::POST, path, Vec::new(), Some(body.to_string()))
        }
    };
    ask(settings, users, operator, method, &path, &query, body).await
}

/// What `polysystems margins` shows.
#[derive(clap::Args)]
pub(crate) struct MarginsArguments {
    #[command(flatten)]
    operator: Operator,
    /// What the margins are of: model, deployment, provider, user or day
    #[arg(long, default_value = "model")]
    by: String,
    /// From this time on, such as 2026-12-01T00:00:00Z; 30 days before --to without it
    #[arg(long)]
    from: Option<String>,
    /// Before this time; now without it
    #[arg(long)]
    to: Option<String>,
    /// Write CSV in place of JSON
    #[arg(long)]
    csv: bool,
}

/// Shows the margins of a span of time.
pub(crate) async fn margins(
    settings: &Settings,
    users: &Users,
    arguments: MarginsArguments,
) -> anyhow::Result<()> {
    let MarginsArguments { operator, by, from, to, csv } = arguments;
    let format = csv.then(|| "csv".to_owned());
    let query = [("by", Some(by)), ("from", from), ("to", to), ("format", format)];
    ask(settings, users, operator, Method::GET, "/api/admin/margins", &query, None).await
}

/// Shows the bill of a call.
pub(crate) async fn bill(
    settings: &Settings,
    users: &Users,
    operator: Operator,
    charge: &str,
    user: Option<String>,
) -> anyhow::Result<()> {
    let path = format!("/api/admin/bills/{}", part(charge));
    ask(settings, users, operator, Method::GET, &path, &[("user_id", user)], None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_sent_as_it_is_written() {
        let text = "parent = \"default\"\nmultiplier = \"0.90\"\n[[cards]]\nmodel = \"m\"\ninput = \"10\"\n\
            [[cards]]\nmodel = \"n\"\n[[cards.rows]]\nover = 7\ninput = \"1\"\n";
        let body: Value = serde_json::from_str(&request(text, true, None, &[]).unwrap()).unwrap();
        assert_eq!(
            body,
            json!({
                "publish": true, "merge": false, "parent": "default", "multiplier": "0.90",
                "cards": [{ "model": "m", "input": "10" }, { "model": "n", "rows": [{ "over": 7, "input": "1" }] }],
            })
        );
        for wrong in ["", "card = 1", "cards = ", "[[cards]]\nmodel = \"m\"\n[more]\n"] {
            assert!(request(wrong, false, None, &[]).is_err(), "{wrong}");
        }
    }
}
