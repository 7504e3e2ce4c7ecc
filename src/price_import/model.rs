//! What an import gives.

use domain::Card;
use domain::catalogue::{Modality, SoldModel};

/// What was read from a price file.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// The models with prices that can be billed.
    pub models: Vec<ImportedModel>,
    /// The others.
    pub refused: Vec<RefusedModel>,
}

/// A model of a price file that cannot be billed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedModel {
    /// Its name in the file.
    pub name: String,
    /// Its provider, as the file calls it; empty if the file does not say it.
    pub provider: String,
    /// Why it is refused.
    pub reason: String,
}

impl Imported {
    /// Adds a model that was read, or why it was not.
    pub(super) fn add(&mut self, name: &str, provider: &str, read: Result<ImportedModel, String>) {
        match read {
            Ok(model) => self.models.push(model),
            Err(reason) => {
                let (name, provider) = (name.to_owned(), provider.to_owned());
                self.refused.push(RefusedModel { name, provider, reason });
            }
        }
    }
}

/// A model of a price file.
#[derive(Clone, Debug)]
pub struct ImportedModel {
    /// Its name in the file.
    pub name: String,
    /// Its provider, as the file calls it.
    pub provider: String,
    /// What the provider calls it.
    pub upstream: String,
    /// Its prices.
    pub card: Card,
    /// What it can do, under its name here. Numbers that the file does not say are 0. It has no
    /// target.
    pub model: SoldModel,
    /// Can it be called by a protocol that is sold here? Others have a price only.
    pub is_callable: bool,
    /// The dates that the file has of it, such as `price from 2026-10-14`.
    pub source_dates: Vec<String>,
    /// What was made of the file that is not just what it says.
    pub notes: Vec<String>,
}

impl ImportedModel {
    /// Does nothing of it cost anything?
    #[must_use]
    pub fn is_free(&self) -> bool {
        let rows = self.card.rows().iter();
        rows.flat_map(|row| row.rates.named()).all(|(_, price)| price.nanos() == 0)
    }
}

/// The name of a model here: in lowercase, with `-` for what no name may have. `None` if it is too
/// long, or if nothing is left.
pub(super) fn public_name(name: &str) -> Option<String> {
    let is_kept = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._:/-".contains(c);
    let lower = name.to_lowercase();
    let plain: String = lower.chars().map(|c| if is_kept(c) { c } else { '-' }).collect();
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let fits = (1..=domain::catalogue::NAME_MAX).contains(&plain.len());
    fits.then(|| plain.to_owned())
}

/// Tokens of the model's own tokenizer for 1,000 that are counted here. Guesses on the high side,
/// as the count only bounds what a call may cost.
pub(super) fn tokenizer_permille(name: &str) -> u32 {
    let name = name.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if has(&["claude"]) {
        1_350
    } else if has(&["gpt-", "o200k"]) {
        1_000
    } else {
        1_150
    }
}

/// The modality that a file calls so.
pub(super) fn modality(word: &str) -> Option<Modality> {
    match word {
        "text" => Some(Modality::Text),
        "image" => Some(Modality::Image),
        "audio" => Some(Modality::Audio),
        "video" => Some(Modality::Video),
        "pdf" | "file" => Some(Modality::File),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_becomes_one_of_ours() {
        for (name, public) in [
            ("gpt-6-astra", Some("gpt-6-astra")),
            ("cloudflare/@cf/meta/Llama-2", Some("cloudflare/-cf/meta/llama-2")),
            ("claude-opus-4@20250514", Some("claude-opus-4-20250514")),
            ("@cf/x", Some("cf/x")),
            ("a_b c", Some("a_b-c")),
            ("@@", None),
            ("", None),
        ] {
            assert_eq!(public_name(name).as_deref(), public, "{name}");
        }
        assert_eq!(public_name(&"x".repeat(129)), None);
    }
}
