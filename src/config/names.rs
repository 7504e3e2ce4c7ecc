//! The names of all settings, and the nearest right name of a wrong one.

use serde_json::Value;

use super::read::PREFIX;

/// Tables whose names the operator chooses, and the name of an entry that is always there.
const OPEN: (&str, &str) = ("rate_limit.tiers", "pro");

/// The variable of a setting.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// The names of all settings.
pub(super) struct Known {
    /// Sections, by their dotted names.
    sections: Vec<String>,
    /// Settings, by their dotted names.
    settings: Vec<String>,
}

impl Known {
    /// Those of this tree, which has every setting.
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

    /// The name with that of an entry which is there, for one that the operator has chosen.
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

    /// The part of the name that is not known, if there is one.
    pub(super) fn unknown(&self, path: &str) -> Option<String> {
        let closed = Self::closed(path);
        if self.settings.contains(&closed) || self.sections.contains(&closed) {
            return None;
        }
        // The first part that leads nowhere says more than the whole.
        let mut begin = String::new();
        for name in path.split('.') {
            begin = if begin.is_empty() { name.to_owned() } else { format!("{begin}.{name}") };
            if !self.is_section(&begin) {
                break;
            }
        }
        Some(begin)
    }

    /// The known setting whose name differs least, unless it differs a lot.
    pub(super) fn nearest(&self, path: &str) -> Option<String> {
        // `SERVER_BIND` is near to `SERVER__BIND`.
        let flat = |name: &str| name.replace('.', "_");
        let closed = Self::closed(path);
        let wrong = flat(&closed);
        let distances =
            self.settings.iter().map(|known| (strsim::levenshtein(&wrong, &flat(known)), known));
        let (distance, known) = distances.min_by_key(|(distance, _)| *distance)?;
        if distance.saturating_mul(3) > wrong.chars().count() {
            return None;
        }
        // With the name that the operator has chosen.
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
