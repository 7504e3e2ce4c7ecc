//! How services reach an account past a paid call: its owner, what the owner has decided, and the
//! tables.

use crate::actors::account::directory::DirectoryError;
use crate::actors::account::{wait, wait_within};
use crate::actors::{AccountError, AccountHandle, LedgerHandle, Receipt, WriteError};
use crate::pipeline::Gateway;
use crate::store::StoreError;
use domain::AccountId;

/// Why an account was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The account is suspended.
    #[error("the account is suspended")]
    Suspended,
    /// The session that asked has ended meanwhile.
    #[error("the session has ended")]
    SessionEnded,
    /// Too many calls of the account run.
    #[error("too many calls of this account are in flight")]
    Busy,
    /// The account's records do not agree with one another.
    #[error("the account is quarantined")]
    Quarantined,
    /// It did not happen; it may later.
    #[error("the change could not be written")]
    NotWritten,
    /// It is not known whether it happened.
    #[error("it is not known whether the change was written")]
    Unknown,
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DirectoryError> for AccessError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Busy => AccessError::Busy,
            DirectoryError::Load(error) => AccessError::Store(error),
            DirectoryError::Quarantined => AccessError::Quarantined,
            DirectoryError::Unwritable => AccessError::NotWritten,
        }
    }
}

impl From<WriteError> for AccessError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Fenced | WriteError::Refused => AccessError::NotWritten,
            WriteError::Lost => AccessError::Unknown,
        }
    }
}

impl From<AccountError<std::convert::Infallible>> for AccessError {
    fn from(error: AccountError<std::convert::Infallible>) -> Self {
        match error {
            AccountError::Refused(never) => match never {},
            AccountError::Gone => AccessError::Unknown,
        }
    }
}

/// Fails unless this process owns the accounts and can write. The owning process keeps in memory
/// what its customers have changed, so only that process may change it.
pub fn assert_in_charge(ledger: &LedgerHandle) -> Result<(), AccessError> {
    // A ledger that is behind still writes. One that cannot write would keep the caller waiting,
    // and what another process owns may have changed there.
    if ledger.state().is_in_charge() { Ok(()) } else { Err(AccessError::NotWritten) }
}

impl Gateway {
    /// The owner of an account, for a change or a look by its customer or by an operator.
    pub async fn account(&self, account: AccountId) -> Result<AccountHandle, AccessError> {
        assert_in_charge(&self.ledger)?;
        Ok(self.directory.owners_lease(account).await?)
    }

    /// Waits until a decision is durable, for as long as a caller waits. `kept` is held until that
    /// is known, however long it takes.
    pub async fn recorded<T, K: 'static>(
        &self,
        receipt: Receipt<T>,
        kept: K,
    ) -> Result<T, AccessError> {
        let Receipt { decided, durable } = receipt;
        let outcome = wait_within(self.commit_timeout, wait(durable), kept).await;
        outcome.ok_or(AccessError::Unknown)??;
        Ok(decided)
    }

    /// Waits until the tables have everything that was acknowledged, before a service reads them.
    pub async fn tables_up_to_date(&self) -> Result<(), AccessError> {
        self.ledger.checkpointed().await.map_err(|_| AccessError::NotWritten)
    }
}
