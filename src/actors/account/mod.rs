//! Accounts in memory: a slot for each in the directory, a turn for each decision, and a handle for
//! each caller.

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
