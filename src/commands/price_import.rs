//! The command `polysystems prices import`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use polysystems::auth::Users;
use polysystems::cli::{self, Console};
use polysystems::clock::Clock;
use polysystems::config::Settings;
use polysystems::price_import::{self, Choice, FILE_MAX};
use reqwest::Method;
use serde_json::Value;

use super::{Operator, imported_models, print};
use domain::Timestamp;

/// What is imported, and how.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct ImportArguments {
    #[command(flatten)]
    operator: Operator,
    /// LiteLLM's model_prices_and_context_window.json, or the data of genai-prices or of
    /// models.dev; also compressed by gzip, or in its wheel
    file: PathBuf,
    /// Only these providers, as the file calls them; `*` stands for anything. The models then have
    /// the names that their providers give them
    #[arg(long, value_delimiter = ',', value_name = "PROVIDERS")]
    only: Vec<String>,
    /// Only models of these names; `*` stands for anything
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    models: Vec<String>,
    /// What is added to each price, such as 15%
    #[arg(long, allow_hyphen_values = true, value_name = "PERCENT")]
    markup: Option<String>,
    /// The price list
    #[arg(long, default_value = "default")]
    list: String,
    /// From when on the prices are in force if they are published, such as 2026-12-15T00:00:00Z; of
    /// dated prices those of that instant are taken
    #[arg(long, value_name = "INSTANT")]
    effective: Option<String>,
    /// The largest change of a price
    #[arg(long, default_value = "30%", value_name = "PERCENT")]
    max_change: String,
    /// Take larger changes as well
    #[arg(long)]
    force: bool,
    /// Take models that cost nothing in the file as well
    #[arg(long)]
    free: bool,
    /// Publish the prices, in place of making a draft
    #[arg(long)]
    publish: bool,
    /// Models that may be sold below their cost; `*` is all of them
    #[arg(long, value_delimiter = ',', value_name = "NAMES", requires = "publish")]
    allow_loss: Vec<String>,
    /// Add the models to the catalogue too, if it does not have them: served by this credential
    #[arg(long, value_name = "CREDENTIAL", conflicts_with = "dry_run")]
    with_models: Option<String>,
    /// Only print what would change
    #[arg(long, conflicts_with = "publish")]
    dry_run: bool,
    /// Print every change, refusal and note, in place of the first ones
    #[arg(long)]
    all: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl ImportArguments {
    /// The query of the request.
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = vec![
            ("list", self.list.clone()),
            ("max_change", self.max_change.clone()),
            ("dry_run", self.dry_run.to_string()),
            ("publish", self.publish.to_string()),
        ];
        let optional = [
            ("only", Some(self.only.join(",")).filter(|only| !only.is_empty())),
            ("models", Some(self.models.join(",")).filter(|models| !models.is_empty())),
            ("allow_loss", Some(self.allow_loss.join(",")).filter(|names| !names.is_empty())),
            ("markup", self.markup.clone()),
            ("effective", self.effective.clone()),
            ("force", self.force.then(|| "true".to_owned())),
            ("free", self.free.then(|| "true".to_owned())),
        ];
        query.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        query
    }
}

/// The price file, out of the archive that it may be in.
fn read(path: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_MAX.saturating_add(1)).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).with_context(cannot)?;
    price_import::open(&bytes).with_context(cannot)
}

pub(super) async fn run(
    settings: &Settings,
    users: &Users,
    arguments: &ImportArguments,
) -> anyhow::Result<()> {
    let text = read(&arguments.file)?;
    let at = match arguments.effective.as_deref().map(Timestamp::parse_rfc3339) {
        None => Clock::System.now(),
        Some(at) => at.context("--effective must be an instant such as 2026-12-15T00:00:00Z")?,
    };
    let query = arguments.query();
    let query: Vec<(&str, &str)> =
        query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let Operator { name, url } = &arguments.operator;
    let url = url.clone().map_or_else(|| cli::url_of(settings), Ok)?;
    let console = Console::open(users, name, url).await?;
    let done = import(&console, arguments, &query, text, at).await;
    console.close().await?;
    done
}

/// Imports the prices, and then the models if they are asked for.
async fn import(
    console: &Console<'_>,
    arguments: &ImportArguments,
    query: &[(&str, &str)],
    text: String,
    at: Timestamp,
) -> anyhow::Result<()> {
    let ImportArguments { with_models, only, models, free, .. } = arguments;
    let sent = Some(text.clone());
    let report = console.ask(Method::POST, "/api/admin/prices/import", query, sent).await?;
    show(arguments, &report)?;
    let Some(credential) = with_models else { return Ok(()) };
    let choice = Choice {
        only: only.clone(),
        models: models.clone(),
        takes_free: *free,
        ..Choice::default()
    };
    imported_models::add(console, &text, choice, at, credential).await
}

fn show(
    ImportArguments { list, all, json, .. }: &ImportArguments,
    report: &str,
) -> anyhow::Result<()> {
    if *json {
        return print(report);
    }
    let report: Value = serde_json::from_str(report).context("the server's answer")?;
    print(&table(&report, if *all { usize::MAX } else { SHOWN_MAX }))?;
    let (draft, version) = (field(&report, "draft"), field(&report, "version"));
    if draft != "-" {
        print(&format!("\nTo publish it: polysystems prices publish {list} {draft}"))?;
    } else if version != "-" {
        let from = field(&report, "effective_from");
        print(&format!("\nPublished as version {version} of {list}, in force from {from} on."))?;
    }
    Ok(())
}

/// How many lines of a kind are printed unasked.
const SHOWN_MAX: usize = 40;

/// A text as it is, and anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn field(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(value) => plain(value),
    }
}

/// The report, for people.
fn table(report: &Value, shown: usize) -> String {
    let list = |key: &str| report.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let (changes, refused, notes, added) =
        (list("changes"), list("refused"), list("notes"), list("added"));
    let mut text = format!(
        "{} models of a file of the form {} for the price list {}: {} new, {} with {} changed prices, {} unchanged. \
         {} refused, {} not asked for. {} other models keep their prices.\n",
        field(report, "taken"),
        field(report, "format"),
        field(report, "list"),
        added.len(),
        models_of(&changes),
        changes.len(),
        field(report, "unchanged"),
        refused.len(),
        field(report, "passed_over"),
        field(report, "kept"),
    );
    let mut lines = vec![
        ["MODEL", "SERVICE", "OVER", "DIMENSION", "OLD", "NEW", "PERCENT", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    for change in changes.iter().take(shown) {
        let keys = ["model", "service", "over", "dimension", "old", "new", "percent"];
        let mut line: Vec<String> = keys.iter().map(|key| field(change, key)).collect();
        let is_beyond = change.get("is_beyond") == Some(&Value::Bool(true));
        line.push(if is_beyond { "!".to_owned() } else { String::new() });
        lines.push(line);
    }
    if !changes.is_empty() {
        text.push('\n');
        text.push_str(&aligned(&lines));
        text.push_str(&more(changes.len(), shown));
    }
    if !added.is_empty() {
        text.push_str("\nNEW\n");
        for name in added.iter().take(shown) {
            let _ = writeln!(text, "{}", plain(name));
        }
        text.push_str(&more(added.len(), shown));
    }
    if !refused.is_empty() {
        text.push_str("\nREFUSED\n");
        for model in refused.iter().take(shown) {
            let _ = writeln!(text, "{}: {}", field(model, "name"), field(model, "reason"));
        }
        text.push_str(&more(refused.len(), shown));
    }
    if !notes.is_empty() {
        text.push_str("\nNOTES\n");
        for model in notes.iter().take(shown) {
            let told = model.get("notes").and_then(Value::as_array).cloned().unwrap_or_default();
            let told: Vec<String> = told.iter().map(plain).collect();
            let _ = writeln!(text, "{}: {}", field(model, "model"), told.join("; "));
        }
        text.push_str(&more(notes.len(), shown));
    }
    text
}

/// How many models the changes are of.
fn models_of(changes: &[Value]) -> usize {
    let mut names: Vec<String> = changes.iter().map(|change| field(change, "model")).collect();
    names.dedup();
    names.len()
}

fn more(count: usize, shown: usize) -> String {
    match count.checked_sub(shown) {
        None | Some(0) => String::new(),
        Some(hidden) => format!("... and {hidden} more: print them with --all\n"),
    }
}

/// The lines in columns.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_read_by_people() {
        let change = |model: &str, old: Value, percent: Value, is_beyond: bool| {
            json!({ "model": model, "service": "standard", "over": 0, "dimension": "input", "old": old,
                "new": "12.0000", "percent": percent, "is_beyond": is_beyond })
        };
        let report = json!({
            "format": "litellm", "list": "default", "taken": 4, "passed_over": 7, "unchanged": 1, "kept": 2,
            "added": ["new-model"],
            "changes": [change("a", "10.0000".into(), "+20.00".into(), false),
                change("long-name", "1.0000".into(), "+1100.00".into(), true),
                change("c", Value::Null, Value::Null, false)],
            "refused": [{ "name": "x", "provider": "p", "reason": "has no price" }],
            "notes": [{ "model": "a", "notes": ["one", "two"] }],
        });
        assert_eq!(
            table(&report, 2),
            "4 models of a file of the form litellm for the price list default: 1 new, 3 with 3 changed prices, \
             1 unchanged. 1 refused, 7 not asked for. 2 other models keep their prices.\n\
             \n\
             MODEL      SERVICE   OVER  DIMENSION  OLD      NEW      PERCENT\n\
             a          standard  0     input      10.0000  12.0000  +20.00\n\
             long-name  standard  0     input      1.0000   12.0000  +1100.00  !\n\
             ... and 1 more: print them with --all\n\
             \n\
             NEW\n\
             new-model\n\
             \n\
             REFUSED\n\
             x: has no price\n\
             \n\
             NOTES\n\
             a: one; two\n"
        );
    }
}
