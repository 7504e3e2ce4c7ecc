//! The ledger writer: the actor that writes what this process decides.
//!
//! Accounts decide and hand each write to [`LedgerHandle::write`]. The writer commits many writes
//! as one batch (group commit), and answers their callers after the commit.

mod handle;
mod inbox;
mod status;
mod tasks;
mod writer;

pub use domain::writer::{WriteError, WriterState};
pub use handle::{Acknowledgement, LedgerHandle};
pub use status::{Histograms, WriterStatus};
pub use writer::LedgerWriter;
