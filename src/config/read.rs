//! Reads settings from the defaults, the file and the environment. Each value is checked where it
//! is read, so that an error names the file or the variable.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use super::Settings;
use super::names::{Known, variable};

/// Prefix of the environment variables.
pub(super) const PREFIX: &str = "POLYSYSTEMS_";
/// Suffix of variables that name a file.
const FILE_SUFFIX: &str = "_FILE";
/// Variables of the command line. They are not settings.
const OF_COMMANDS: [&str; 3] = ["CONFIG", "OPERATOR", "URL"];
/// Variables that Kubernetes sets in every container beside a service named `polysystems`.
const OF_KUBERNETES: [&str; 3] = ["SERVICE_HOST", "SERVICE_PORT", "PORT"];

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The settings file, by its path.
    File(String),
    /// An environment variable, by its name.
    Variable(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(name) | Source::Variable(name) => f.write_str(name),
        }
    }
}

/// The source of each value that is not a default, by the dotted name of its setting.
pub type Sources = BTreeMap<String, Source>;

/// The environment: names and values.
pub(super) type Environment = Vec<(OsString, OsString)>;

impl Settings {
    /// Reads the file, if one is named, and the environment. An error is one line that names the
    /// invalid setting and where it is set.
    pub fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self::read_with_sources(file)?.0)
    }

    /// Reads settings as [`Settings::read`] does, and returns the source of each value too.
    pub fn read_with_sources(file: Option<&Path>) -> anyhow::Result<(Self, Sources)> {
        Self::from_sources(file, std::env::vars_os().collect())
    }

    pub(super) fn from_sources(
        file: Option<&Path>,
        environment: Environment,
    ) -> anyhow::Result<(Self, Sources)> {
        let mut reader = Reader::new()?;
        if let Some(file) = file {
            reader.file(file)?;
        }
        reader.environment(environment)?;
        let settings = deserialize(&reader.tree).map_err(|fault| anyhow::anyhow!("{fault}"))?;
        if let Err(error) = settings.check() {
            bail!("{}", with_sources(&format!("{error:#}"), &reader.sources));
        }
        Ok((settings, reader.sources))
    }
}

/// A value that its setting does not accept.
struct Misfit {
    /// The dotted name of the setting.
    path: String,
    message: String,
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.path, self.message)
    }
}

struct Reader {
    /// The defaults of all settings.
    defaults: Value,
    tree: Value,
    known: Known,
    sources: Sources,
}

impl Reader {
    fn new() -> anyhow::Result<Self> {
        let defaults = serde_json::to_value(Settings::default())?;
        let known = Known::of(&defaults);
        Ok(Reader { tree: defaults.clone(), defaults, known, sources: Sources::new() })
    }

    fn file(&mut self, file: &Path) -> anyhow::Result<()> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(|| {
            format!("cannot read the settings file {name} (--config, POLYSYSTEMS_CONFIG)")
        })?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count().saturating_add(1);
            anyhow::anyhow!("{name}, line {line}: {}", one_line(error.message()))
        })?;
        let read = serde_json::to_value(table)?;
        let mut leaves = Vec::new();
        flatten(&read, "", &mut leaves);
        for path in &leaves {
            if let Some(wrong) = self.known.unknown(path) {
                let hint = self.known.nearest(path).map(|near| format!("; did you mean {near}?"));
                bail!("{name}: there is no setting {wrong}{}", hint.unwrap_or_default());
            }
        }
        let mut alone = self.defaults.clone();
        merge(&mut alone, read.clone());
        deserialize(&alone).map_err(|misfit| anyhow::anyhow!("{name}: {misfit}"))?;
        merge(&mut self.tree, read);
        self.sources.extend(leaves.into_iter().map(|path| (path, Source::File(name.clone()))));
        Ok(())
    }

    fn environment(&mut self, environment: Environment) -> anyhow::Result<()> {
        let mut values = BTreeMap::new();
        for (name, value) in environment {
            let Some(name) = name.to_str().map(str::to_owned) else { continue };
            let is_ours = name.strip_prefix(PREFIX).is_some_and(|rest| !is_foreign(rest));
            if !is_ours && !FALLBACKS.iter().any(|(fallback, _)| *fallback == name) {
                continue;
            }
            match value.into_string() {
                Ok(value) => values.insert(name, value),
                Err(_) if is_ours => bail!("{name} is not valid UTF-8"),
                Err(_) => continue,
            };
        }
        for (name, value) in &values {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            // A section may have a setting `file`: that one names no file with a value.
            let of_file = rest.strip_suffix(FILE_SUFFIX).filter(|rest| !rest.ends_with('_'));
            let (rest, text) = match of_file {
                Some(rest) => {
                    if values.contains_key(&format!("{PREFIX}{rest}")) {
                        bail!("{name} and {PREFIX}{rest} are both set; remove one of them");
                    }
                    let text = std::fs::read_to_string(value)
                        .with_context(|| format!("{name}: cannot read {value}"))?;
                    (rest, text.trim_end_matches(['\r', '\n']).to_owned())
                }
                None => (rest, value.clone()),
            };
            let path = rest.to_ascii_lowercase().replace("__", ".");
            self.variable(name, &path, &text)?;
        }
        for (name, path) in FALLBACKS {
            if let Some(text) = values.get(name)
                && !self.sources.contains_key(path)
            {
                self.variable(name, path, &of_fallback(name, text)?)?;
            }
        }
        Ok(())
    }

    /// Sets one setting from a variable. Takes the first reading of the text that fits the
    /// setting's type.
    fn variable(&mut self, name: &str, path: &str, text: &str) -> anyhow::Result<()> {
        if self.known.unknown(path).is_some() {
            let near = self.known.nearest(path).map(|near| variable(&near));
            let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            bail!("{name} names no setting{hint}");
        }
        if self.known.is_section(path) {
            bail!("{name} names a section; set one of its settings: {name}__<NAME>");
        }
        let mut misfits = Vec::new();
        for value in readings(text) {
            let set = nested(path, value);
            let mut alone = self.defaults.clone();
            merge(&mut alone, set.clone());
            match deserialize(&alone) {
                Ok(_) => {
                    merge(&mut self.tree, set);
                    self.sources.insert(path.to_owned(), Source::Variable(name.to_owned()));
                    return Ok(());
                }
                Err(misfit) => misfits.push(misfit.message),
            }
        }
        // An error about the value says more than one about its type.
        let is_of_type = |message: &&String| !message.starts_with("must be ");
        let message = misfits.iter().find(is_of_type).or(misfits.first());
        bail!("{name} {}", message.map_or("is not valid", String::as_str))
    }
}

/// Variables that other programs set too. They count only if the setting is not set otherwise.
const FALLBACKS: [(&str, &str); 5] = [
    ("PORT", "server.bind"),
    ("DATABASE_URL", "database.url"),
    ("RUST_LOG", "log.level"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "traces.otlp_url"),
    ("OTEL_SERVICE_NAME", "traces.service"),
];

/// Converts the value of such a variable to that of its setting.
fn of_fallback(name: &str, text: &str) -> anyhow::Result<String> {
    if name != "PORT" {
        return Ok(text.to_owned());
    }
    match text.parse::<u16>() {
        // Platforms that set `PORT` reach the server from other machines.
        Ok(port) if port > 0 => Ok(format!("0.0.0.0:{port}")),
        _ => bail!(
            "PORT must be a port number from 1 to 65535; to ignore it, set POLYSYSTEMS_SERVER__BIND"
        ),
    }
}

/// Says whether a variable with our prefix is not a setting.
fn is_foreign(rest: &str) -> bool {
    OF_COMMANDS.contains(&rest)
        || OF_KUBERNETES.iter().any(|name| {
            rest.strip_prefix(name).is_some_and(|after| after.is_empty() || after.starts_with('_'))
        })
}

/// Returns what a text can mean, the likeliest meaning first: a quoted text, the text itself, a
/// value in TOML, a list.
fn readings(text: &str) -> Vec<Value> {
    let table = format!("x = {text}").parse::<toml::Table>();
    let parsed = table.ok().filter(|table| table.len() == 1);
    let parsed = parsed.and_then(|mut table| table.remove("x"));
    let parsed = parsed.and_then(|value| serde_json::to_value(value).ok());
    let (quoted, other) = match parsed {
        Some(value) if value.is_string() => (Some(value), None),
        value => (None, value),
    };
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parts = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
    let list = parts.map(|part| Value::from(part.trim_matches('"'))).collect();
    let itself = Value::String(text.to_owned());
    [quoted, Some(itself), other, Some(list)].into_iter().flatten().collect()
}

/// Returns a tree that has only this setting.
fn nested(path: &str, value: Value) -> Value {
    path.rsplit('.')
        .fold(value, |inner, name| Value::Object(Map::from_iter([(name.to_owned(), inner)])))
}

/// Merges `over` into `tree`, table by table. Values of `over` win.
fn merge(tree: &mut Value, over: Value) {
    match (tree, over) {
        (Value::Object(tree), Value::Object(over)) => {
            for (name, value) in over {
                merge(tree.entry(name).or_insert(Value::Null), value);
            }
        }
        (tree, over) => *tree = over,
    }
}

/// Collects the dotted names of all values.
fn flatten(tree: &Value, path: &str, leaves: &mut Vec<String>) {
    match tree {
        Value::Object(table) if !table.is_empty() => {
            for (name, value) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(value, &path, leaves);
            }
        }
        _ => leaves.push(path.to_owned()),
    }
}

fn deserialize(tree: &Value) -> Result<Settings, Misfit> {
    serde_path_to_error::deserialize(tree).map_err(|error| Misfit {
        path: error.path().to_string(),
        message: in_words(&error.inner().to_string()),
    })
}

/// Rewords serde's message for people. Leaves the value out, because it may be a secret in the
/// wrong place.
fn in_words(message: &str) -> String {
    let message = one_line(message);
    if let Some((start, expected)) = message.split_once(", expected ")
        && (start.starts_with("invalid ") || start.starts_with("unknown variant"))
    {
        let expected = match expected {
            "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
            "a nonzero u16" | "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => {
                "a whole number from 1"
            }
            "a boolean" => "true or false",
            "a sequence" => "a list, such as a,b",
            "a string" => "a text",
            other => other,
        };
        return format!("must be {}", expected.replace('`', ""));
    }
    message
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Appends to a message where the settings that it names are set.
fn with_sources(message: &str, sources: &Sources) -> String {
    let is_named = |name: &str| {
        message.match_indices(name).any(|(at, _)| {
            let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
            let before = message.get(..at).unwrap_or_default();
            let after = message.get(at.saturating_add(name.len())..).unwrap_or_default();
            !before.ends_with(|letter| is_part(letter) || letter == '.')
                && !after.starts_with(is_part)
        })
    };
    let mut named: Vec<String> = sources
        .iter()
        .filter(|(name, _)| is_named(name))
        .map(|(_, source)| source.to_string())
        .collect();
    named.dedup();
    if named.is_empty() {
        message.to_owned()
    } else {
        format!("{message} (set by {})", named.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> anyhow::Result<(Settings, Sources)> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Settings::from_sources(None, variables.collect())
    }

    fn of_text(text: &str) -> anyhow::Result<(Settings, Sources)> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("it.toml");
        std::fs::write(&file, text).unwrap();
        Settings::from_sources(Some(&file), Vec::new())
    }

    #[test]
    fn a_variable_is_read_as_its_setting_needs_it() {
        let (settings, sources) = read(&[
            ("POLYSYSTEMS_SERVER__BIND", "localhost:9000"),
            ("POLYSYSTEMS_SERVER__WORKERS", "3"),
            ("POLYSYSTEMS_SERVER__CORS_ORIGINS", "https://a.example, https://b.example"),
            ("POLYSYSTEMS_SERVER__TRUSTED_PROXIES", "10.0.0.1"),
            ("POLYSYSTEMS_PAYMENTS__AMOUNT_MAX", "100"),
            ("POLYSYSTEMS_PAYMENTS__TEST_CREDITS", "12345678.123456789"),
            ("POLYSYSTEMS_PAYMENTS__SANDBOX", "true"),
            ("POLYSYSTEMS_AUTH__JWT_SECRET", "12345678901234567890123456789012"),
            ("POLYSYSTEMS_LOG__FORMAT", "json"),
            ("POLYSYSTEMS_RATE_LIMIT__TIERS__GOLD__SECOND", "7"),
            ("POLYSYSTEMS_PRICES", "[{path = \"/api/hub/x\", class = \"read\", base = \"0.5\"}]"),
            // Kubernetes sets these for a service with this name.
            ("POLYSYSTEMS_PORT", "tcp://10.0.0.1:80"),
            ("POLYSYSTEMS_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("POLYSYSTEMS_SERVICE_HOST", "10.0.0.1"),
            ("PORT", "1"),
        ])
        .unwrap();
        assert_eq!(settings.server.bind.to_string(), "127.0.0.1:9000");
        assert_eq!(settings.server.workers, 3);
        assert_eq!(settings.server.cors_origins, ["https://a.example", "https://b.example"]);
        assert_eq!(settings.server.trusted_proxies.len(), 1);
        assert_eq!(settings.payment_amount_max().unwrap(), "100".parse().unwrap());
        assert_eq!(settings.test_credits().unwrap(), "12345678.123456789".parse().unwrap());
        assert_eq!(settings.payments.sandbox, Some(true));
        assert_eq!(settings.rate_limit.tiers["gold"].second.map(u32::from), Some(7));
        assert_eq!(settings.prices.len(), 1);
        let source = &sources["server.bind"];
        assert_eq!(source.to_string(), "POLYSYSTEMS_SERVER__BIND");
    }

    #[test]
    fn quotes_and_brackets_are_understood() {
        let (settings, _) = read(&[
            ("POLYSYSTEMS_PAYMENTS__AMOUNT_MAX", "\"100\""),
            ("POLYSYSTEMS_SERVER__CORS_ORIGINS", "[https://a.example, \"https://b.example\"]"),
            ("POLYSYSTEMS_SERVER__TRUSTED_PROXIES", "[\"10.0.0.1\", \"10.0.0.2\"]"),
        ])
        .unwrap();
        assert_eq!(settings.payment_amount_max().unwrap(), "100".parse().unwrap());
        assert_eq!(settings.server.cors_origins, ["https://a.example", "https://b.example"]);
        assert_eq!(settings.server.trusted_proxies.len(), 2);
    }

    #[test]
    fn other_programs_variables_count_if_nothing_else_is_set() {
        let (settings, sources) = read(&[
            ("PORT", "3000"),
            ("DATABASE_URL", "postgres://localhost/db"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
            ("OTEL_SERVICE_NAME", "payments-eu"),
            ("RUST_LOG", "debug"),
        ])
        .unwrap();
        assert_eq!(settings.server.bind.to_string(), "0.0.0.0:3000");
        assert_eq!(settings.database_url(), "postgres://localhost/db");
        assert_eq!(settings.traces.otlp_url.as_deref(), Some("http://127.0.0.1:4318"));
        assert_eq!(settings.traces.service, "payments-eu");
        assert_eq!(settings.log.level, "debug");
        assert_eq!(sources["log.level"].to_string(), "RUST_LOG");
        assert_eq!(settings.sandbox_payments(), super::super::SandboxPayments::Off);
    }

    #[test]
    fn money_needs_no_quotes_and_stays_exact() {
        let amount = |text: &str| {
            let (settings, _) = of_text(&format!("[payments]\ntest_credits = {text}\n"))?;
            settings.test_credits()
        };
        for (text, exact) in
            [("100", "100"), ("0.0000001", "0.0000001"), ("25.10", "25.1"), ("\"0.3\"", "0.3")]
        {
            assert_eq!(amount(text).unwrap(), exact.parse().unwrap(), "{text}");
        }
        let error = amount("12345678.123456789").unwrap_err().to_string();
        assert!(error.contains("payments.test_credits") && error.contains("quotes"), "{error}");
        assert!(amount("-1").is_err() && amount("nan").is_err() && amount("1e300").is_err());
    }

    #[test]
    fn an_error_of_the_file_is_one_line_that_says_where() {
        for (text, words) in [
            ("[server]\nbnid = \"x\"\n", &["it.toml", "server.bnid", "mean server.bind?"][..]),
            ("[server]\nbind = 8080\n", &["it.toml", "server.bind", "address"]),
            ("\n\nserver = [\n", &["it.toml, line"]),
            ("[log]\nlevel = \"verbose\"\n", &["it.toml", "log.level", "info"]),
            ("[[prices]]\npath = \"/x\"\n", &["it.toml", "prices"]),
        ] {
            let error = of_text(text).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
