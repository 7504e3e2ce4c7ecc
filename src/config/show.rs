//! Prints the settings in force as TOML, each with its source. The text can be read again as a
//! settings file, except for the secrets.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{SandboxPayments, Settings, Sources};

impl Settings {
    /// Prints all settings with their sources, without secrets. A setting that is not set is a
    /// comment. Fails only by a defect: if a value has no TOML form.
    pub fn shown(&self, sources: &Sources) -> anyhow::Result<String> {
        let tree = serde_json::to_value(self)?;
        let mut page = Page { text: String::new(), settings: self, sources };
        if let Value::Object(table) = &tree {
            page.section("", table)?;
        }
        page.prices()?;
        Ok(page.text)
    }
}

struct Page<'s> {
    text: String,
    settings: &'s Settings,
    sources: &'s Sources,
}

impl Page<'_> {
    fn section(&mut self, path: &str, table: &Map<String, Value>) -> anyhow::Result<()> {
        let inner = |name: &str| {
            if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
        };
        if !path.is_empty() {
            writeln!(self.text, "\n[{path}]")?;
        }
        for (name, value) in table {
            if !value.is_object() && name != "prices" {
                self.setting(&inner(name), name, value)?;
            }
        }
        for (name, value) in table {
            if let Value::Object(table) = value {
                self.section(&inner(&key(name)), table)?;
            }
        }
        Ok(())
    }

    fn setting(&mut self, path: &str, name: &str, value: &Value) -> anyhow::Result<()> {
        if value.is_null() {
            writeln!(self.text, "# {name} is not set{}", self.consequence(path))?;
            return Ok(());
        }
        let source = self.sources.get(path).map_or("default".to_owned(), ToString::to_string);
        writeln!(self.text, "{} = {} # {source}", key(name), toml(value)?)?;
        Ok(())
    }

    /// Says what follows if a setting is not set and that is not obvious.
    fn consequence(&self, path: &str) -> String {
        match path {
            "database.url" => format!(": {}", self.settings.database_url()),
            "payments.sandbox" => match self.settings.sandbox_payments() {
                SandboxPayments::Direct => ": on for requests of this machine".to_owned(),
                SandboxPayments::On | SandboxPayments::Off => ": off".to_owned(),
            },
            _ => String::new(),
        }
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
