//! Polysystems sells API calls from a prepaid balance, and never gets the money wrong.
//!
//! # The picture
//!
//! ```text
//!  client --> http --> pipeline -----------> upstream (sandbox, or a URL)
//!              |          |  charge, settle
//!              |          v
//!              +--> actors::account -------> one account in memory, one owner
//!              |                               |  entries, usage
//!              v                               v
//!            store <-- one transaction -- actors::ledger -- one record for many calls --> journal
//!              |        for many calls         ^                                            |
//!              v                               +----- checkpointed into the tables later ---+
//!        SQLite or PostgreSQL
//! ```
//!
//! # The life of a paid request
//!
//! [`pipeline::identify`] and [`pipeline::serve`] are the contract: `Arrival -> Admitted -> Caller
//! -> Received -> Quoted -> ChargedCall -> Answered -> Departure`. Rate limit by address;
//! authenticate the key; rate limit by key and account; only then the body and a place; price;
//! balance, spending limits and debit in ONE request to the account's owner; the upstream;
//! settlement. The answer leaves when its money is on record: a fixed price commits while the
//! upstream works, a token price is held first and captured at its actual cost. What it leaves is
//! on record when it is in the journal: a batch of many calls as one record, checkpointed into the
//! tables in the background ([`store::journal`]); a reader of the tables waits for the checkpoint.
//! A stream's hold is on record before its first byte, is extended while it runs ([`pipeline`],
//! `relay`), and captured before the frames that tell its cost. A request with an `Idempotency-Key`
//! ([`idempotency`]) is answered from what is recorded, where it was answered before.
//!
//! # Where to find things
//!
//! | a rule of money | [`domain`], pure: no I/O, no clock, no randomness |
//! |---|---|
//! | the order of checks | [`pipeline`] |
//! | an upstream's protocol | [`upstream::dialect`] |
//! | a status code | `http/error/`, and nowhere else |
//! | SQL | [`store`], and nowhere else |
//! | who owns what in memory | [`actors`] |
//! | what can be set, and every limit | [`config`] |
//! | how it starts and stops | [`app`] |
//! | when a write may be acknowledged | [`domain::writer`], carried out by [`actors::ledger`] |
//! | what must hold in the database | [`domain::audit`], folded by [`verify`] |
//! | every bound on what runs at once | [`config`], counted in [`pipeline`]'s admission, shown by `http/metrics.rs` |
//! | who somebody is, and what proves it | [`auth`] |
//! | who did what | [`domain::act`], written by `store/audit_log.rs` |
//! | what goes by email | [`mail`], [`auth`] |
//! | how payments come in, and what is taken back | [`payments`], by [`payments::provider`]; the rules in [`domain::payment`] |
//! | what account holders are told | [`domain::event`], written by `store/outbox.rs`, delivered by [`webhooks::deliver`] |
//! | what account holders read | [`reports`]; `http` encodes it |
//! | what calls come to | [`domain::rollup`], written by `store/ledger/rollups.rs` |
//! | metrics and traces | [`metrics`], `http/metrics.rs`, [`telemetry`] |
//! | what operators may do | [`admin`], and from the command line [`cli`] |
//! | where a test can make it fail | [`failpoint`] |
//!
//! # Invariants
//!
//! - *One owner for each account.* Within a process it decides one request at a time, and never
//!   awaits; who finds it at work waits in the mailbox of the account's actor ([`actors`]). Across
//!   processes it is whoever holds the lease ([`store::lease`]): each batch checks it inside its
//!   own transaction, so a process that was taken over can acknowledge nothing more.
//! - *Nothing is acknowledged from memory.* There is no such mode.
//! - *Debits bind at once; what comes back is spendable when it is durable.*
//! - *An outcome that is not known is neither acknowledged nor given up* ([`domain::writer`]).
//! - *Nothing repairs by itself.* An account that does not agree with its ledger takes no calls.
//! - *From the charge on, nothing depends on the client's connection.*
//! - *A payment is credited in the transaction that makes it confirmed*, and only by what its
//!   provider says when asked.
//! - *What is told is on record with what it tells of*: an event is in the transaction of its
//!   cause.
//! - *The ledger is append-only*, and the balance is its fold. The database refuses changes by
//!   trigger, and a negative balance by constraint.
//!
//! # Absent on purpose
//!
//! No row lock and no database read on the way of a charge whose account is in memory. No float
//! near an amount. No retry of a call to an upstream that nobody has asked for, and none after its
//! first byte. No batching timer.

// First, since the others use its macro.
#[macro_use]
pub mod failpoint;
pub mod metrics;

pub mod actors;
pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod health;
pub mod http;
pub mod idempotency;
pub mod json;
pub mod key_cache;
pub mod keys;
pub mod mail;
pub mod payments;
pub mod pipeline;
pub mod rate_limits;
pub mod reports;
pub mod seal;
pub mod secrets;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod tokens;
pub mod upstream;
pub mod verify;
pub mod webhooks;
