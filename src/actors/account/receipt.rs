//! What an account answers, and how a caller waits until that is durable.

use std::time::Duration;

use crate::actors::ledger::{Acknowledgement, WriteError};

/// Why an account did not do what was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError<E> {
    /// The account declined the request.
    #[error("{0}")]
    Refused(E),
    /// The account in memory is gone: a decision panicked, or the ledger refused a write. A
    /// decision that was made is not acknowledged.
    #[error("the account's owner is gone")]
    Gone,
}

/// A decision, and what to wait for before the caller is answered.
#[derive(Debug)]
pub struct Receipt<T> {
    /// What was decided.
    pub decided: T,
    /// Resolves when the decision is durable; `None` if there is nothing to wait for.
    pub durable: Option<Acknowledgement>,
}

impl<T> Receipt<T> {
    /// Waits until the decision is durable.
    pub async fn wait(self) -> Result<T, WriteError> {
        wait(self.durable).await?;
        Ok(self.decided)
    }
}

/// Waits until a write is durable, if there is one.
pub async fn wait(durable: Option<Acknowledgement>) -> Result<(), WriteError> {
    match durable {
        Some(acknowledgement) => acknowledgement.await.unwrap_or(Err(WriteError::Lost)),
        None => Ok(()),
    }
}

/// Waits for an outcome, at most for `patience`; `None` if it is not known by then. `kept` is
/// dropped only when the outcome is known.
pub async fn wait_within<K: 'static>(
    patience: Duration,
    outcome: impl Future<Output = Result<(), WriteError>> + 'static,
    kept: K,
) -> Option<Result<(), WriteError>> {
    let mut waiting = Box::pin(async move {
        let result = outcome.await;
        drop(kept);
        result
    });
    let result = tokio::time::timeout(patience, &mut waiting).await.ok();
    if result.is_none() {
        actix::spawn(waiting);
    }
    result
}
