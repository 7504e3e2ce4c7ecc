//! Every end-to-end test, in one binary: the real server, real databases, real HTTP on 127.0.0.1.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that fails by a panic has done its work"
)]

use test_support as support;

mod address;
mod auth;
mod authorization;
mod bills;
mod canaries;
mod catalogue;
mod characters;
mod charging;
mod checkpoints;
mod client_errors;
mod clients;
mod commands;
mod concurrency;
mod conformance;
#[cfg(feature = "console")]
mod console;
mod console_data;
mod demo;
mod durability;
mod email;
mod fallbacks;
mod faults;
mod gemini;
mod hardening;
mod harness;
mod keys;
mod limits;
mod manners;
mod margins;
mod messages;
mod model_prices;
mod models;
mod monitoring;
mod observed;
mod oddities;
mod operator_acts;
mod operators;
mod payments;
mod pepper;
mod personal;
mod price_imports;
mod price_lists;
mod price_preview;
mod quotes;
mod rate_limits;
mod refusals;
mod reloads;
mod repeats;
mod revenue;
mod router;
mod runtime_facts;
mod session_cookie;
mod sold;
mod stalled;
mod stolen;
mod strangers;
mod streams;
mod stripe;
mod takeover;
mod tampering;
mod ten_of_64;
mod thief;
mod tricks;
mod two_factor;
mod usage;
mod watched;
mod webhooks;
mod x402;
