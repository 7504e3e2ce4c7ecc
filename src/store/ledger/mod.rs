//! The ledger in the database: how the ledger writer writes it, and how users read it.
//!
//! - A batch of decisions is one record in the journal ([`journal`]) or one transaction in the
//!   tables (`commit`).
//! - `rows`, `holds` and [`rollups`] write the rows of a batch.
//! - Only the process that holds the lease ([`lease`]) writes. Each write checks the lease
//!   (fencing).

mod bills;
mod calls;
mod commit;
pub(in crate::store) mod connection;
mod entries;
pub(in crate::store) mod holds;
pub mod journal;
pub mod lease;
mod revenue;
pub mod rollups;
mod rows;
mod usage_sums;

pub use bills::ChargeEntries;
pub use calls::{BilledCall, EntryOfServed, ServedCall};
pub(in crate::store) use entries::entry;
pub use entries::{DaySum, EntriesPage, EntryFilter, EntryOfCall, StatementSums};
pub use revenue::{DayEntries, RevenuePage, SpanOfAccount};
pub(in crate::store) use rows::insert_entry;
