//! Models that think: they generate tokens that their answers do not show.

/// Patterns of the names of models that think. `*` stands for any text; case does not matter. A
/// pattern is compared with the whole name, and with what follows each `/` and `:` in it, because
/// names may begin with that of a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThinkingModels(Vec<Pattern>);

/// A pattern, taken apart at its `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    first: String,
    middle: Vec<String>,
    /// None if there is no `*`.
    last: Option<String>,
}

impl Pattern {
    fn new(pattern: &str) -> Self {
        let pattern = pattern.to_lowercase();
        let mut parts = pattern.split('*').map(str::to_owned);
        let first = parts.next().unwrap_or_default();
        let last = parts.next_back();
        Pattern { first, middle: parts.collect(), last }
    }

    fn fits(&self, name: &str) -> bool {
        let Some(mut rest) = name.strip_prefix(self.first.as_str()) else { return false };
        let Some(last) = &self.last else { return rest.is_empty() };
        for part in &self.middle {
            let Some(place) = rest.find(part.as_str()) else { return false };
            rest = rest.get(place.saturating_add(part.len())..).unwrap_or_default();
        }
        rest.ends_with(last.as_str())
    }
}

impl ThinkingModels {
    /// Of these patterns.
    #[must_use]
    pub fn new(patterns: &[String]) -> Self {
        ThinkingModels(patterns.iter().map(|pattern| Pattern::new(pattern)).collect())
    }

    /// Is this a model that thinks? A request that names none asks for the empty name.
    #[must_use]
    pub fn has(&self, model: Option<&str>) -> bool {
        let model = model.unwrap_or_default().to_lowercase();
        let tails = model
            .match_indices(['/', ':'])
            .filter_map(|(place, _)| model.get(place.saturating_add(1)..));
        let mut names = std::iter::once(model.as_str()).chain(tails);
        names.any(|name| self.0.iter().any(|pattern| pattern.fits(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_a_name_and_its_ends() {
        let patterns = ["o3*", "*thinking*", "*-r1", "exact", "A*b*c"].map(str::to_owned);
        let models = ThinkingModels::new(&patterns);
        for (name, expected) in [
            ("o3", true),
            ("O3-mini", true),
            ("openai/o3-mini:free", true),
            ("ft:o3-mini:someone", true),
            ("gpt-4o3", false),
            ("claude-thinking-1", true),
            ("qwen/qwen3-Thinking", true),
            ("deepseek-r1", true),
            ("deepseek-r1-large", false),
            ("exact", true),
            ("exactly", false),
            ("a-b-c", true),
            ("abc", true),
            ("acb", false),
            ("", false),
        ] {
            assert_eq!(models.has(Some(name)), expected, "{name:?}");
        }
        assert!(!models.has(None));
        assert!(ThinkingModels::new(&["*".to_owned()]).has(None));
        assert!(!ThinkingModels::default().has(Some("o3")));
    }
}
