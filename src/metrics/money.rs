//! Money and tokens of paid calls, and credits, since the process started. The ledger is the truth;
//! these are for graphs and alerts.

use std::sync::atomic::{AtomicU64, Ordering};

use domain::{Credits, Environment, TokenUsage};

/// What adds credits, as the label names it.
const PROVIDERS: [&str; 3] = ["sandbox", "stripe", "x402"];

/// The sums. Each update is an atomic addition.
#[derive(Debug, Default)]
pub struct Sums {
    /// Of the live accounts, then of the test accounts.
    spent: [Spent; 2],
    credited: [AtomicU64; PROVIDERS.len()],
}

#[derive(Debug, Default)]
struct Spent {
    /// In nano-dollars.
    nanos: AtomicU64,
    prompt: AtomicU64,
    completion: AtomicU64,
}

/// What calls have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpentSoFar {
    /// Whose account: `live` or `test`.
    pub environment: &'static str,
    /// What was charged, in nano-dollars.
    pub nanos: u64,
    /// Tokens of prompts.
    pub prompt: u64,
    /// Tokens of what was generated.
    pub completion: u64,
}

/// An amount as a count, which does not go down.
fn nanos(amount: Credits) -> u64 {
    u64::try_from(amount.nanos()).unwrap_or_default()
}

impl Sums {
    /// Counts what a call has cost.
    pub fn spend(&self, environment: Environment, cost: Credits, tokens: TokenUsage) {
        let [live, test] = &self.spent;
        let spent = if environment == Environment::Live { live } else { test };
        spent.nanos.fetch_add(nanos(cost), Ordering::Relaxed);
        spent.prompt.fetch_add(tokens.prompt, Ordering::Relaxed);
        spent.completion.fetch_add(tokens.completion, Ordering::Relaxed);
    }

    /// Counts a payment that was credited.
    pub fn credit(&self, provider: &str, amount: Credits) {
        let index = PROVIDERS.iter().position(|other| *other == provider);
        if let Some(sum) = index.and_then(|index| self.credited.get(index)) {
            sum.fetch_add(nanos(amount), Ordering::Relaxed);
        }
    }

    /// What calls have come to, by environment.
    pub fn spent(&self) -> impl Iterator<Item = SpentSoFar> {
        let names = [Environment::Live, Environment::Test].map(Environment::name);
        names.into_iter().zip(&self.spent).map(|(environment, spent)| SpentSoFar {
            environment,
            nanos: spent.nanos.load(Ordering::Relaxed),
            prompt: spent.prompt.load(Ordering::Relaxed),
            completion: spent.completion.load(Ordering::Relaxed),
        })
    }

    /// What was credited, in nano-dollars, by provider.
    pub fn credited(&self) -> impl Iterator<Item = (&'static str, u64)> {
        PROVIDERS.into_iter().zip(self.credited.iter().map(|sum| sum.load(Ordering::Relaxed)))
    }
}

/// Prints nano-dollars as dollars, exactly.
#[must_use]
pub fn dollars(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_summed_exactly() {
        let sums = Sums::default();
        let tokens = TokenUsage::new(7, 9);
        sums.spend(Environment::Live, "0.00216".parse().unwrap(), tokens);
        sums.spend(Environment::Live, "0.000000001".parse().unwrap(), tokens);
        sums.spend(Environment::Test, "5".parse().unwrap(), TokenUsage::new(1, 0));
        sums.credit("stripe", "25".parse().unwrap());
        sums.credit("nobody", "25".parse().unwrap());
        let of = |environment, nanos, prompt, completion| SpentSoFar {
            environment,
            nanos,
            prompt,
            completion,
        };
        let spent: Vec<_> = sums.spent().collect();
        assert_eq!(spent, [of("live", 2_160_001, 14, 18), of("test", 5_000_000_000, 1, 0)]);
        let credited: Vec<_> = sums.credited().collect();
        assert_eq!(credited, [("sandbox", 0), ("stripe", 25_000_000_000), ("x402", 0)]);
        for (nanos, text) in [(0, "0"), (2_160_001, "0.002160001"), (25_000_000_000, "25")] {
            assert_eq!(dollars(nanos), text);
        }
    }
}
