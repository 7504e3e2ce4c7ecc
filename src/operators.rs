//! What operators may do with other people's accounts.

use std::sync::Arc;

use crate::auth::keys::{KeysError, on_record, serving_lease};
use crate::domain::{AccountStatus, UserId};
use crate::pipeline::Gateway;
use crate::store::Store;

/// See the module.
pub struct Operators {
    /// The database.
    pub store: Store,
    /// The account actors.
    pub gateway: Arc<Gateway>,
}

impl Operators {
    /// Suspends or resumes both accounts of a user. Binds for the very next call.
    ///
    /// # Errors
    /// [`KeysError::NotFound`] where there is no such user.
    pub async fn set_status(&self, user: UserId, status: AccountStatus) -> Result<(), KeysError> {
        if self.store.find_user(user).await?.is_none() {
            return Err(KeysError::NotFound);
        }
        let accounts = self.store.accounts_of(user).await?;
        for account in [accounts.live, accounts.test] {
            let lease = serving_lease(&self.gateway, account).await?;
            on_record(&self.gateway, lease.set_status(status).await?, None).await?;
        }
        Ok(())
    }
}
