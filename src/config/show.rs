//! The settings in force, each with its source, without secrets: as a list, and as TOML. The text
//! can be read again as a settings file, except for what is left out.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{SandboxPayments, Settings, Source, Sources};

/// What stands for a secret.
const REDACTED: &str = "[redacted]";
/// Settings that name a file which the running server reads again when it changes.
const FOLLOWED: [&str; 3] = ["catalogue.file", "server.tls_certificate", "server.tls_key"];

/// A setting in force.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedSetting {
    /// Its section, as in TOML; empty for the first ones.
    pub section: String,
    /// Its name in the section.
    pub name: String,
    /// Its value, without secrets; null if it is not set.
    pub value: Value,
    /// Where the value comes from; `None` is the default.
    pub source: Option<Source>,
    /// What follows from that it is not set, if that is not obvious.
    pub consequence: Option<String>,
}

impl ListedSetting {
    /// Section and name.
    #[must_use]
    pub fn path(&self) -> String {
        if self.section.is_empty() {
            self.name.clone()
        } else {
            format!("{}.{}", self.section, self.name)
        }
    }

    /// Does the running server follow changes of the file that the setting names? The setting
    /// itself counts from the next start on, as all do.
    #[must_use]
    pub fn names_followed_file(&self) -> bool {
        FOLLOWED.contains(&self.path().as_str())
    }
}

impl Settings {
    /// All settings but prices, with their sources, without secrets. Fails only by a defect: if
    /// the settings have no JSON form.
    pub fn listed(&self, sources: &Sources) -> anyhow::Result<Vec<ListedSetting>> {
        let tree = serde_json::to_value(self)?;
        let mut list = Vec::new();
        if let Value::Object(table) = &tree {
            self.list("", table, sources, &mut list);
        }
        Ok(list)
    }

    fn list(
        &self,
        section: &str,
        table: &Map<String, Value>,
        sources: &Sources,
        list: &mut Vec<ListedSetting>,
    ) {
        let inner = |name: &str| {
            if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
        };
        for (name, value) in table {
            if value.is_object() || name == "prices" {
                continue;
            }
            let path = inner(name);
            list.push(ListedSetting {
                section: section.to_owned(),
                name: name.clone(),
                value: without_credentials(value),
                source: sources.get(&path).cloned(),
                consequence: value.is_null().then(|| self.consequence(&path)).flatten(),
            });
        }
        for (name, value) in table {
            if let Value::Object(table) = value {
                self.list(&inner(&key(name)), table, sources, list);
            }
        }
    }

    /// Says what follows if a setting is not set and that is not obvious.
    fn consequence(&self, path: &str) -> Option<String> {
        match path {
            "database.url" => Some(self.database_url()),
            "payments.sandbox" => Some(match self.sandbox_payments() {
                SandboxPayments::Direct => "on for requests of this machine".to_owned(),
                SandboxPayments::On | SandboxPayments::Off => "off".to_owned(),
            }),
            _ => None,
        }
    }

    /// Prints all settings with their sources, without secrets. A setting that is not set is a
    /// comment. Fails only by a defect: if a value has no TOML form.
    pub fn shown(&self, sources: &Sources) -> anyhow::Result<String> {
        let mut page = Page { text: String::new(), settings: self, sources };
        let mut section = String::new();
        for setting in self.listed(sources)? {
            if setting.section != section {
                writeln!(page.text, "\n[{}]", setting.section)?;
                section.clone_from(&setting.section);
            }
            page.setting(&setting)?;
        }
        page.prices()?;
        Ok(page.text)
    }
}

/// A value without what a URL in it has of credentials: user, password, and the values of its
/// query, one of which may be a key. What a setting asks to be filled in (`{token}`) stays.
fn without_credentials(value: &Value) -> Value {
    match value {
        Value::String(text) if text.contains("://") => Value::String(public_url(text)),
        Value::Array(all) => all.iter().map(without_credentials).collect(),
        other => other.clone(),
    }
}

fn public_url(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    // A password may contain anything by mistake; what is before the last @ is no host.
    let url = match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{REDACTED}@{host}"),
        None => text.to_owned(),
    };
    let Some((shown, query)) = url.split_once('?') else { return url };
    let is_template = |value: &str| value.starts_with('{') && value.ends_with('}');
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if value.is_empty() || is_template(value) => format!("{name}={value}"),
        Some((name, _)) => format!("{name}={REDACTED}"),
        None if pair.is_empty() => String::new(),
        None => REDACTED.to_owned(),
    };
    let pairs: Vec<String> = query.split('&').map(pair).collect();
    format!("{shown}?{}", pairs.join("&"))
}

struct Page<'s> {
    text: String,
    settings: &'s Settings,
    sources: &'s Sources,
}

impl Page<'_> {
    fn setting(&mut self, setting: &ListedSetting) -> anyhow::Result<()> {
        let ListedSetting { name, value, source, consequence, .. } = setting;
        if value.is_null() {
            let consequence = consequence.iter().map(|text| format!(": {text}"));
            writeln!(self.text, "# {name} is not set{}", consequence.collect::<String>())?;
            return Ok(());
        }
        let source = source.as_ref().map_or("default".to_owned(), ToString::to_string);
        writeln!(self.text, "{} = {} # {source}", key(name), toml(value)?)?;
        Ok(())
    }

    fn prices(&mut self) -> anyhow::Result<()> {
        let own = self.sources.get("prices").map_or("default".to_owned(), ToString::to_string);
        let defaults = Settings::default_price_settings().into_iter();
        let defaults = defaults.filter(|_| self.settings.default_prices);
        let all = defaults.map(|price| (price, "default".to_owned()));
        let all = all.chain(self.settings.prices.iter().map(|price| (price.clone(), own.clone())));
        for (price, source) in all {
            writeln!(self.text, "\n[[prices]] # {source}")?;
            let Value::Object(table) = serde_json::to_value(&price)? else { continue };
            for (name, value) in &table {
                if !value.is_null() && !value.is_object() {
                    writeln!(self.text, "{name} = {}", toml(value)?)?;
                }
            }
            if !price.default_max_tokens_of.is_empty() {
                writeln!(self.text, "[prices.default_max_tokens_of]")?;
            }
            for (model, tokens) in &price.default_max_tokens_of {
                writeln!(self.text, "{} = {tokens}", key(model))?;
            }
        }
        Ok(())
    }
}

fn toml(value: &Value) -> anyhow::Result<String> {
    Ok(toml::Value::try_from(value)?.to_string())
}

/// Writes a name as TOML does: in quotes if it needs them.
fn key(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if !name.is_empty() && name.chars().all(is_plain) {
        name.to_owned()
    } else {
        toml::Value::from(name).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    #[test]
    fn a_url_is_shown_without_credentials() {
        for (url, shown) in [
            ("https://api.example.com/v1", "https://api.example.com/v1"),
            ("https://user:pass@example.com:8/v1", "https://[redacted]@example.com:8/v1"),
            ("https://token@example.com", "https://[redacted]@example.com"),
            ("https://user:pa/ss@example.com/x", "https://[redacted]@example.com/x"),
            ("https://user:p@ss@example.com/x", "https://[redacted]@example.com/x"),
            (
                "https://example.com/x?key=hush&session={ID}&hush&a=",
                "https://example.com/x?key=[redacted]&session={ID}&[redacted]&a=",
            ),
            ("https://user:pa?ss@example.com/x", "https://[redacted]@example.com/x"),
        ] {
            let list = without_credentials(&serde_json::json!([url, 7, null]));
            assert_eq!(list, serde_json::json!([shown, 7, null]), "{url}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let mut settings = Settings::default();
        settings
            .rate_limit
            .tiers
            .insert("very gold".into(), crate::config::TierSettings::default());
        let mut price = Settings::default_price_settings().remove(1);
        price.default_max_tokens_of.insert("gpt-4.1".into(), 7);
        settings.prices = vec![price];
        let variable = Source::Variable("POLYSYSTEMS_SERVER__WORKERS".into());
        let sources = Sources::from([("server.workers".to_owned(), variable)]);
        let shown = settings.shown(&sources).unwrap();
        assert!(shown.contains("workers = 0 # POLYSYSTEMS_SERVER__WORKERS\n"), "{shown}");
        assert!(shown.contains("bind = \"127.0.0.1:8080\" # default\n"), "{shown}");
        assert!(shown.contains("\n# smtp_url is not set\n"), "{shown}");
        assert!(shown.contains("# sandbox is not set: on for requests of this machine"), "{shown}");
        let read: Settings = toml::from_str(&shown).unwrap();
        // The default prices are read a second time, which changes nothing.
        assert_eq!(read.prices.len(), Settings::default_price_settings().len() + 1);
        let prices = |settings: &Settings| {
            format!("{:?}", settings.price_list().unwrap().find("POST", "/api/hub/agents/chat"))
        };
        assert_eq!(prices(&read), prices(&settings));
        assert_eq!(read.rate_limit.tiers, settings.rate_limit.tiers);
    }
}
