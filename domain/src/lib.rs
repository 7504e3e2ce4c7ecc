//! The rules: money, limits, windows, keys, prices, the account.
//!
//! Pure by construction: nothing here does I/O, reads a clock, draws a random number, logs or
//! awaits. Time, ids and random bytes are arguments. So plain values test every rule, and the same
//! code runs in production, in the model test, in the simulation and in the benchmarks.
//! `tests/tidy.rs` fails if this folder names a runtime, an actor, the ORM or a clock.
//!
//! | files | what they hold |
//! |---|---|
//! | [`money`], [`window`], [`ids`], [`environment`] | amounts, days and months, identifiers |
//! | [`dim`], [`quantities`], [`rates`], [`card`], [`card_document`], [`bill`], [`stored_bill`], [`metering`], [`price_book`], [`price_preview`] | prices by dimension |
//! | [`pricing`], [`limits`], [`key_policy`], [`api_key`] | what a call costs and a key may do |
//! | [`tally`], [`thinking`], [`oddity`] | which tokens a call is billed for, and what is odd about a report |
//! | [`catalogue`], [`routing`] | which models are sold, and who is asked for one |
//! | [`cost`], [`margin`] | what calls cost us, and what is left of what they bring |
//! | [`account`], [`residency`] | an account in memory: its operations, and when it leaves memory |
//! | [`ledger`], [`hold`], [`usage`], [`payment`], [`act`], [`event`] | what is on record |
//! | [`batch`], [`writer`], [`event_rules`], [`rollup`] | how it becomes durable |
//! | [`audit`] | whether the records agree |

pub mod account;
pub mod act;
pub mod address;
pub mod api_key;
pub mod audit;
pub mod batch;
pub mod bill;
pub mod bill_audit;
pub mod card;
pub mod card_document;
pub mod catalogue;
mod coded;
pub mod cost;
pub mod delivery;
pub mod dim;
pub mod environment;
pub mod erasure;
pub mod event;
pub mod event_rules;
pub mod event_sample;
pub mod forecast;
pub mod hold;
pub mod ids;
pub mod key_policy;
pub mod lease;
mod leb128;
pub mod ledger;
pub mod limits;
pub mod margin;
pub mod metering;
pub mod money;
pub mod oddity;
pub mod payment;
pub mod price_book;
pub mod price_preview;
pub mod pricing;
pub mod quantities;
pub mod rates;
pub mod refusal;
pub mod residency;
pub mod revenue;
pub mod rollup;
pub mod route_group;
pub mod routing;
pub mod spike;
pub mod stored_bill;
pub mod tally;
pub mod thinking;
pub mod usage;
pub mod window;
pub mod writer;

pub use account::{
    Account, AccountFlags, Adjustment, Charge, ChargeQuote, Decline, Extension,
    GRANTED_BALANCE_MAX, KeyChange, KeyState, LoadedAccount, Outcome, Price, PriceBounds, Settled,
    Snapshot, StoredAccount,
};
pub use act::{Act, ActKind, Actor, Origin};
pub use batch::{Batch, Change, NewKey, NewPayment, RecordedAnswer, Write};
pub use bill::{Bill, Flags, VersionId};
pub use card::{Card, CardError, CardRow, Envelope, Service, ServiceSet};
pub use dim::{Dim, DimSet, Side};
pub use environment::{AccountStatus, Environment};
pub use erasure::{Erasure, NotErasable};
pub use event::{Event, EventKind};
pub use hold::{Hold, HoldChange, HoldEnd, HoldEndKind};
pub use ids::{
    AccountId, ActId, ChargeId, DeliveryId, EndpointId, EventId, KeyId, PaymentId, SessionId,
    UserId,
};
pub use key_policy::{KeyEdit, KeyPolicy, Network, PolicyChange};
pub use lease::Lease;
pub use ledger::{EntryKind, LedgerEntry, Link};
pub use limits::{KeySpend, LimitsChange, LimitsLeft, SpendingLimits};
pub use metering::{Convention, Counted, ProviderUsage, SeenAnswer};
pub use money::{Credits, TokenPrice};
pub use payment::{PaymentStatus, Reversal, ReversalKind, ReversalStep};
pub use price_book::{BookError, ListId, PriceBook, PriceVersion, Priced, VersionTerms};
pub use quantities::Quantities;
pub use rates::{Multiplier, Rates, UnitPrice};
pub use refusal::Refusal;
pub use stored_bill::StoredBill;
pub use tally::{Evidence, Heard, Reported, TokenUsage};
pub use usage::{Ending, Tally, UsageRecord};
pub use window::{Day, MICROS_PER_DAY, Month, Timestamp};
