//! Who owns what, and who may speak to whom.
//!
//! ```text
//! pipeline, http --> Directory --> AccountActor --> LedgerWriter --> database
//!        ^               (one for each active account)      |
//!        +---------------- acknowledgement after COMMIT ----+
//! ```
//!
//! The graph has no circle: nobody whom an actor speaks to speaks back through a mailbox.
//! Acknowledgements travel in one-shot channels that ride on the writes.
//!
//! *Invariant: no account actor awaits.* Its handlers are synchronous, its state is loaded before it
//! starts. There is no lock on a balance because there is one owner; if you look for the mutex, it is the
//! mailbox.
//!
//! What the code relies on in actix, each pinned by a test in `tests/it/runtime_facts.rs`:
//! - `do_send` never waits and its queue is unbounded, so what bounds it is ours: a permit for each call in
//!   flight on an account (`accounts.in_flight_max`), and the writer's queue (`ledger.queue_max`), both
//!   checked before anything is decided.
//! - `do_send` to a dead actor drops the message, and with it the reply channel inside. So the asker
//!   hears of it, and a message cannot be lost silently.
//! - A handler that panics ends its actor for good, and no other. The directory notices a dead actor and
//!   loads its account again, from what is committed.

pub mod account;
pub mod directory;
pub mod ledger_writer;

pub use account::{AccountError, AccountLease, Receipt};
pub use directory::Directory;
pub use ledger_writer::{LedgerHandle, LedgerWriter, WriteError};
