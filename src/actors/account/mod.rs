//! Accounts in memory. The directory has a slot for each. A decision has a turn, and a caller has a
//! handle.

mod actor;
pub mod directory;
mod handle;
mod receipt;
mod slot;
mod threads;
mod turn;

pub use domain::account::RecordAnswer;
pub use handle::AccountHandle;
pub use receipt::{AccountError, Receipt, wait, wait_within};
pub use threads::ActorThreads;
