//! Models by the patterns of their names, and models that think: they generate tokens that their
//! answers do not show.

/// Patterns of the names of models. `*` stands for any text; case does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelPatterns(Vec<Pattern>);

/// Which models think.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThinkingModels {
    thinking: ModelPatterns,
    visible: ModelPatterns,
}

/// A pattern, taken apart at its `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    first: String,
    middle: Vec<String>,
    /// None if there is no `*`.
    last: Option<String>,
    /// No shorter name fits, in bytes.
    len_min: usize,
}

impl Pattern {
    fn new(pattern: &str) -> Self {
        let pattern = pattern.to_lowercase();
        let mut parts = pattern.split('*').map(str::to_owned);
        let first = parts.next().unwrap_or_default();
        let last = parts.next_back();
        let len_min = pattern.split('*').map(str::len).sum();
        Pattern { first, middle: parts.collect(), last, len_min }
    }

    fn fits(&self, name: &str) -> bool {
        if name.len() < self.len_min {
            return false;
        }
        let Some(mut rest) = name.strip_prefix(self.first.as_str()) else { return false };
        let Some(last) = &self.last else { return rest.is_empty() };
        for part in &self.middle {
            let Some(place) = rest.find(part.as_str()) else { return false };
            rest = rest.get(place.saturating_add(part.len())..).unwrap_or_default();
        }
        rest.ends_with(last.as_str())
    }
}

impl ModelPatterns {
    /// Of these patterns.
    #[must_use]
    pub fn new(patterns: &[String]) -> Self {
        ModelPatterns(patterns.iter().map(|pattern| Pattern::new(pattern)).collect())
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does a pattern fit the whole name? A request that names no model asks for the empty name.
    #[must_use]
    pub fn has(&self, model: Option<&str>) -> bool {
        self.fit(&model.unwrap_or_default().to_lowercase())
    }

    fn fit(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.fits(name))
    }
}

impl ThinkingModels {
    /// Those of the first patterns think. Those of the second show all that they generate, unless
    /// they are among the first.
    #[must_use]
    pub fn new(thinking: &[String], visible: &[String]) -> Self {
        ThinkingModels {
            thinking: ModelPatterns::new(thinking),
            visible: ModelPatterns::new(visible),
        }
    }

    /// Is this a model that is known to think? A pattern is compared with the whole name, and with
    /// what follows each `/`, `:` and `.` in it, because names may begin with that of a provider.
    #[must_use]
    pub fn has(&self, model: Option<&str>) -> bool {
        let model = model.unwrap_or_default().trim().to_lowercase();
        let tails = model
            .match_indices(['/', ':', '.'])
            .filter_map(|(place, _)| model.get(place.saturating_add(1)..));
        let mut names = std::iter::once(model.as_str()).chain(tails);
        names.any(|name| self.thinking.fit(name))
    }

    /// May this model think? It may unless it is known to show all that it generates: new models
    /// think, and nobody knows their names before. A pattern is compared with the name behind its
    /// provider, and behind the mark of a fine-tuned model.
    #[must_use]
    pub fn may_have(&self, model: Option<&str>) -> bool {
        let name = model.unwrap_or_default().trim().to_lowercase();
        let name = name.rsplit('/').next().unwrap_or_default();
        let name = name.strip_prefix("ft:").unwrap_or(name);
        !self.visible.fit(name) || self.has(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_a_name_and_its_ends() {
        let patterns = ["o3*", "*thinking*", "*-r1", "exact", "A*b*c"].map(str::to_owned);
        let models = ThinkingModels::new(&patterns, &[]);
        for (name, expected) in [
            ("o3", true),
            ("O3-mini", true),
            ("openai/o3-mini:free", true),
            ("openai.o3-mini", true),
            (" o3-mini ", true),
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
        assert!(ThinkingModels::new(&["*".to_owned()], &[]).has(None));
        assert!(!ThinkingModels::default().has(Some("o3")));
    }

    #[test]
    fn a_model_may_think_unless_it_is_known_to_show_all() {
        let thinking = ["*thinking*".to_owned()];
        let models = ThinkingModels::new(&thinking, &["gpt-4o*".to_owned()]);
        for (name, expected) in [
            ("gpt-4o", false),
            ("openai/GPT-4o-mini", false),
            ("ft:gpt-4o:someone", false),
            ("gpt-4o-thinking", true),
            ("gpt-6", true),
            ("gpt-6:gpt-4o", true),
            ("gpt-4o/gpt-6", true),
            ("", true),
        ] {
            assert_eq!(models.may_have(Some(name)), expected, "{name:?}");
        }
        assert!(models.may_have(None));
        assert!(!ThinkingModels::new(&[], &["*".to_owned()]).may_have(None));
    }

    #[test]
    fn patterns_fit_whole_names() {
        let models = ModelPatterns::new(&["gpt-4o*".to_owned(), "o3".to_owned()]);
        for (name, expected) in [
            ("gpt-4o-mini", true),
            ("O3", true),
            ("x/o3", false),
            (" o3", false),
            ("o3-pro", false),
        ] {
            assert_eq!(models.has(Some(name)), expected, "{name:?}");
        }
        assert!(!models.has(None) && !models.is_empty());
        assert!(ModelPatterns::default().is_empty());
    }
}
