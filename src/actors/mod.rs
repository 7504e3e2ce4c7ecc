//! Who owns what, and who may speak to whom.
//!
//! ```text
//! pipeline, http --> Directory --> owner of the account ------> LedgerWriter --> database
//!        ^               |         (one for each in memory)          |
//!        |               +--> AccountActor, where the owner          |
//!        |                    has to be waited for                   |
//!        +---------------- acknowledgement after COMMIT -------------+
//! ```
//!
//! The graph has no circle: nobody whom an actor speaks to speaks back through a mailbox.
//! Acknowledgements travel in one-shot channels that ride on the writes.
//!
//! *Invariant: no owner awaits.* A request is decided in one go, in the owner's turn, and what it decides is handed to
//! the ledger writer before the turn is over. Nearly always the owner is at rest, and the request is decided on the
//! thread that makes it: a message would cost two changes of threads, more than the decision. Where the owner is at work
//! the request goes into the mailbox of its actor, whose thread alone waits for the turn.
//!
//! What the code relies on in actix, each pinned by a test in `tests/it/runtime_facts.rs`:
//! - `do_send` never waits and its queue is unbounded, so what bounds it is ours: a permit for each call in
//!   flight on an account (`accounts.in_flight_max`), and the writer's queue (`ledger.queue_max`), both
//!   checked before anything is decided.
//! - `do_send` to a dead actor drops the message, and with it the reply channel inside. So the asker
//!   hears of it, and a message cannot be lost silently.
//! - A handler that panics ends its actor for good, and no other: a ledger writer that is dead ends the process.
//!
//! A panic in an owner's turn ends that owner, and no other. The directory notices it and loads the account again, from
//! what is committed.

pub mod account;
pub mod ledger;

pub use account::actor::{AccountError, AccountLease, Receipt};
pub use account::directory::Directory;
pub use ledger::{LedgerHandle, LedgerWriter, WriteError};
