//! The SeaORM entities of Polysystems. Each file is one table that is read or written through
//! SeaORM. `migration` creates the tables. Tables that only SQL uses have no entity.
//!
//! Amounts are nano-dollars and instants are microseconds since the epoch. Both are BIGINT, so both
//! databases store them exactly. Only `polysystems::store` uses this crate. It contains no rules.

#![expect(missing_docs, reason = "the columns are explained where the domain has them")]

pub mod account;
pub mod api_key;
pub mod audit_log;
pub mod email_token;
pub mod former_key_value;
pub mod hold;
pub mod hold_end;
pub mod key_policy;
pub mod key_spend;
pub mod ledger_entry;
pub mod payment;
pub mod recorded_answer;
pub mod recovery_code;
pub mod session;
pub mod shard_lease;
pub mod usage_record;
pub mod user;
