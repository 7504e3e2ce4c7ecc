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
//! -> Received -> Quoted -> ChargedCall -> Answered -> Departure`. The stages are:
//!
//! 1. rate limit by address;
//! 2. authenticate the key, then rate limit by key and account; only then the body is read and the
//!    call gets a place;
//! 3. price;
//! 4. balance, spending limits and debit, in ONE request to the account's owner;
//! 5. the upstream;
//! 6. settlement.
//!
//! The answer leaves when its money is on record, which means: in the journal. A batch of many
//! calls is one record there, and is checkpointed into the tables in the background
//! ([`store::journal`]). A reader of the tables waits for the checkpoint.
//!
//! - A fixed price commits while the upstream works.
//! - A token price is held first, and captured at its actual cost.
//! - A stream's hold is on record before its first byte. It is extended while the stream runs
//!   ([`pipeline`], `relay`), and captured before the frames that show its cost.
//! - A repeat with the same `Idempotency-Key` ([`idempotency`]) is answered from what is recorded.
//!
//! # Where to find things
//!
//! | a rule of money | [`domain`], pure: no I/O, no clock, no randomness |
//! |---|---|
//! | the order of checks | [`pipeline`] |
//! | which models are sold, who serves them, what they cost | [`models`]; the rules in [`domain::catalogue`], [`domain::price_book`], [`domain::routing`] |
//! | who pays by which prices, and when they change | [`price_lists`], written by `store/price_lists.rs`; the rule in [`domain::price_book`] |
//! | how the cost of a call comes about | [`bills`]; the arithmetic in [`domain::price_book`] |
//! | an upstream's protocol | [`upstream::dialect`] |
//! | a status code | `http/error/`, and nowhere else |
//! | SQL | [`store`], and nowhere else |
//! | who owns what in memory | [`actors`] |
//! | what can be set, and every limit | [`config`] |
//! | how it starts and stops | [`app`] |
//! | exit codes | [`exit`] |
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
//! | what public price files say | [`price_import`], pure; compared with a list by [`imports`] |
//! | metrics and traces | [`metrics`], `http/metrics.rs`, [`telemetry`] |
//! | what is left of somebody who is erased | [`erasure`]; the rule in [`domain::erasure`] |
//! | how the catalogue is changed | [`catalogue`], written by `store/catalogue.rs`; its document in [`models::document`] |
//! | what operators may do | [`admin`], and from the command line [`cli`] |
//! | what operators watch | [`live`], [`verify::runs`], [`verify::quarantine`] |
//! | what operators see of deployments, and do to them | [`deployments`] |
//! | where a test can make it fail | [`failpoint`] |
//!
//! # Invariants
//!
//! - *One owner for each account.* It decides one request at a time, and never awaits. A caller
//!   that finds it at work waits in the mailbox of the account's actor ([`actors`]). The owner is
//!   in the process that holds the lease ([`store::lease`]). Each batch checks the lease inside its
//!   own transaction, so a process that was taken over acknowledges nothing more.
//! - *Nothing is acknowledged from memory.* There is no such mode.
//! - *A debit binds at once. What comes back can be spent when it is durable.*
//! - *A commit whose outcome is unknown is neither acknowledged nor given up* ([`domain::writer`]).
//! - *Nothing repairs itself.* An account that disagrees with its ledger takes no calls.
//! - *From the charge on, nothing depends on the client's connection.*
//! - *A payment is credited in the transaction that confirms it*, and only by what its provider
//!   answers when asked.
//! - *An event is written in the transaction of its cause.*
//! - *The ledger is append-only*, and the balance is its sum. The database refuses changes by
//!   trigger, and a negative balance by constraint.
//!
//! # Absent on purpose
//!
//! No row lock and no database read for a charge whose account is in memory. No float near an
//! amount. No retry of an upstream call unless a setting asks for it, and none after the first byte
//! of an answer. No batching timer.

// First, since the others use its macro.
#[macro_use]
pub mod failpoint;
pub mod metrics;

pub mod access;
pub mod actors;
pub mod admin;
pub mod app;
pub mod auth;
pub mod bills;
pub mod catalogue;
pub mod cli;
pub mod clock;
pub mod config;
pub mod deployments;
pub mod erasure;
pub mod exit;
pub mod health;
pub mod http;
pub mod idempotency;
pub mod imports;
pub mod json;
pub mod key_cache;
pub mod keys;
pub mod live;
pub mod mail;
pub mod models;
pub mod payments;
pub mod pipeline;
pub mod price_import;
pub mod price_lists;
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
