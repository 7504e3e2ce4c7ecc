//! The actors of this server: one for each account in memory, and one that writes the ledger.
//!
//! ```text
//! pipeline, http --> Directory --> account (one owner each) ----> LedgerWriter --> database
//!        ^               |                                             |
//!        |               +--> AccountActor: the account's mailbox,     |
//!        |                    used while the account is busy           |
//!        +----------------- acknowledgement after COMMIT --------------+
//! ```
//!
//! An account has one owner: the process with the shard's lease holds it in one slot of the
//! [`Directory`], and its state changes only in *turns*. A turn is exclusive (a lock). It decides
//! one request, and hands what is to be written to the ledger writer before it ends. It never
//! awaits.
//!
//! If the account is idle, a request is decided in place, on the thread of its caller. A message to
//! another thread would cost two thread changes, and that is more than the decision. If the account
//! is busy, the request goes into the mailbox of the account's actor. The actor's thread waits for
//! the turn, so the caller's thread goes on with other calls. Either way decisions are serial, and
//! the ledger writer gets their writes in the order of the turns.
//!
//! Messages go one way: no actor sends to one that sends to it. An acknowledgement returns in a
//! one-shot channel that travels with the write.
//!
//! What the code relies on in actix, each pinned by a test in `tests/it/runtime_facts.rs`:
//! - `do_send` never waits, and its queue is unbounded. So the bounds are ours: a permit for each
//!   call in flight on an account (`accounts.in_flight_max`), and the writer's queue
//!   (`ledger.queue_max`). Both are checked before anything is decided.
//! - `do_send` to a dead actor drops the message, and with it the reply channel inside. So the
//!   caller gets an error, and no message is lost silently.
//! - A handler that panics ends its actor for good, and no other actor. If the ledger writer dies,
//!   the process ends.
//!
//! A panic in a turn ends that account in memory, and no other. The directory notices it and loads
//! the account again from what is committed.

pub mod account;
pub mod ledger;

pub use account::directory::Directory;
pub use account::{AccountError, AccountHandle, ActorThreads, Receipt};
pub use ledger::{LedgerHandle, LedgerWriter, WriteError};
