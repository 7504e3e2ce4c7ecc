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
mod canaries;
mod characters;
mod charging;
mod checkpoints;
mod clients;
mod commands;
mod concurrency;
mod conformance;
mod durability;
mod email;
mod hardening;
mod harness;
mod keys;
mod limits;
mod monitoring;
mod observed;
mod operators;
mod payments;
mod pepper;
mod personal;
mod quotes;
mod rate_limits;
mod refusals;
mod repeats;
mod runtime_facts;
mod stalled;
mod strangers;
mod streams;
mod stripe;
mod takeover;
mod thief;
mod two_factor;
mod usage;
mod webhooks;
mod x402;
