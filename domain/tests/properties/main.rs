//! Properties of prices, bills, usage and routing: what holds of every call, whatever it is.
//!
//! `PROPERTY_CASES` is how many cases each property is tried with, 10,000 by default.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that fails by a panic has done its work"
)]

mod prices;
mod routing;
mod some;
mod usage;

use proptest::test_runner::Config;

/// How each property is tried.
fn config() -> Config {
    let cases = std::env::var("PROPERTY_CASES").map_or(10_000, |value| value.parse().unwrap());
    Config { cases, failure_persistence: None, ..Config::default() }
}
