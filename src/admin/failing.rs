//! Webhook endpoints of all users that do not accept what is sent to them.

use std::collections::BTreeSet;

use super::{Admin, AdminError};
use crate::store::webhooks::{FailingEndpoint, FailingFilter};
use domain::{Origin, UserId};

impl Admin {
    /// The endpoints, the newest first. The audit log says that the operator has read of each
    /// user.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn failing_webhooks(
        &self,
        filter: FailingFilter,
        limit: u64,
        origin: Origin,
    ) -> Result<Vec<FailingEndpoint>, AdminError> {
        let found = self.store.webhooks.list_failing(filter, limit).await?;
        let users: BTreeSet<UserId> = found.iter().map(|endpoint| endpoint.user).collect();
        self.record_reads(users.into_iter(), "webhooks that fail", &origin).await?;
        Ok(found)
    }
}
