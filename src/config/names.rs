//! The names of all settings. Finds the right name that is nearest to a wrong one.

use serde_json::Value;

use super::read::PREFIX;

/// The table whose entries the operator names, and an entry that is always there.
const OPEN: (&str, &str) = ("rate_limit.tiers", "pro");

/// The environment variable of a setting.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// The names of all settings.
pub(super) struct Known {
    /// The dotted names of the sections.
    sections: Vec<String>,
    /// The dotted names of the settings.
    settings: Vec<String>,
}

impl Known {
    /// Collects the names in `tree`, which must have every setting.
    pub(super) fn of(tree: &Value) -> Self {
        let mut known = Known { sections: Vec::new(), settings: Vec::new() };
        known.add(tree, "");
        known
    }

    fn add(&mut self, tree: &Value, path: &str) {
        let Value::Object(table) = tree else {
            self.settings.push(path.to_owned());
            return;
        };
        if !path.is_empty() {
            self.sections.push(path.to_owned());
        }
        for (name, value) in table {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            self.add(value, &path);
        }
    }

    /// Replaces the name of an entry that the operator chose by that of the entry that is always
    /// there.
    fn closed(path: &str) -> String {
        let (table, entry) = OPEN;
        let inner = path.strip_prefix(table).and_then(|rest| rest.strip_prefix('.'));
        match inner {
            Some(inner) => match inner.split_once('.') {
                Some((_, rest)) => format!("{table}.{entry}.{rest}"),
                None => format!("{table}.{entry}"),
            },
            None => path.to_owned(),
        }
    }

    pub(super) fn is_section(&self, path: &str) -> bool {
        self.sections.contains(&Self::closed(path))
    }

    /// Returns the part of the name that is unknown. `None` if the whole name is known.
    pub(super) fn unknown(&self, path: &str) -> Option<String> {
        let closed = Self::closed(path);
        if self.settings.contains(&closed) || self.sections.contains(&closed) {
            return None;
        }
        // Stops at the first unknown part, which says more than the whole name.
        let mut begin = String::new();
        for name in path.split('.') {
            begin = if begin.is_empty() { name.to_owned() } else { format!("{begin}.{name}") };
            if !self.is_section(&begin) {
                break;
            }
        }
        Some(begin)
    }

    /// Returns the known setting with the most similar name. `None` if none is similar.
    pub(super) fn nearest(&self, path: &str) -> Option<String> {
        // Compares without section marks, so that `SERVER_BIND` is near to `SERVER__BIND`.
        let flat = |name: &str| name.replace('.', "_");
        let closed = Self::closed(path);
        let wrong = flat(&closed);
        let distances =
            self.settings.iter().map(|known| (strsim::levenshtein(&wrong, &flat(known)), known));
        let (distance, known) = distances.min_by_key(|(distance, _)| *distance)?;
        if distance.saturating_mul(3) > wrong.chars().count() {
            return None;
        }
        // Puts the operator's name of the entry back.
        let (table, entry) = OPEN;
        let own = path.strip_prefix(table).and_then(|rest| rest.split('.').nth(1));
        let inner = known.strip_prefix(&format!("{table}.{entry}."));
        Some(match (own, inner) {
            (Some(own), Some(inner)) => format!("{table}.{own}.{inner}"),
            _ => known.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn a_wrong_name_has_a_nearest_right_one() {
        let known = Known::of(&serde_json::to_value(Settings::default()).unwrap());
        for (wrong, right) in [
            ("server.bnid", Some("server.bind")),
            ("server_bind", Some("server.bind")),
            ("sever.bind", Some("server.bind")),
            ("payments.stripe.secretkey", Some("payments.stripe.secret_key")),
            ("databse.url", Some("database.url")),
            ("rate_limit.tiers.gold.secnd", Some("rate_limit.tiers.gold.second")),
            ("xyz", None),
        ] {
            assert!(known.unknown(wrong).is_some(), "{wrong}");
            assert_eq!(known.nearest(wrong).as_deref(), right, "{wrong}");
        }
        for right in ["server.bind", "rate_limit.tiers.gold.second", "email.smtp_url", "prices"] {
            assert_eq!(known.unknown(right), None, "{right}");
        }
        assert!(known.is_section("rate_limit.tiers.gold") && !known.is_section("prices"));
    }
}
