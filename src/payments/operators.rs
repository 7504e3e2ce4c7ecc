//! What operators do with the payments of all users. Each is recorded in the audit log.

use uuid::Uuid;

use super::{Payments, PaymentsError, SANDBOX};
use crate::store::payments::{Payment, PaymentFilter};
use domain::{Act, ActKind, Origin, PaymentId, Reversal, UserId};

/// A payment as operators see it.
#[derive(Clone, Debug)]
pub struct PaymentView {
    /// The payment.
    pub payment: Payment,
    /// Whose it is.
    pub user: UserId,
    /// What its provider has taken back of it.
    pub reversals: Vec<Reversal>,
}

impl Payments {
    fn read(&self, origin: &Origin, user: UserId) -> Act {
        origin.clone().act(Uuid::now_v7(), user, ActKind::UserRead, self.gateway.clock.now())
    }

    /// A page of all payments with their users, newest first; those of one user alone if `user` is
    /// given. The audit log says of each of these users that the operator has read it.
    pub async fn list_of_all(
        &self,
        user: Option<UserId>,
        before: Option<PaymentId>,
        limit: u64,
        filter: PaymentFilter,
        origin: Origin,
    ) -> Result<Vec<(Payment, UserId)>, PaymentsError> {
        let account = match user {
            None => None,
            Some(user) => {
                let found = self.users.find(user).await?;
                let user = found.ok_or(PaymentsError::NoUser)?.id;
                Some(self.users.accounts_of(user).await?.live)
            }
        };
        let filter = PaymentFilter { account, ..filter };
        let payments = self.store.list_of_all(before, limit, filter).await?;
        let mut users: Vec<UserId> = payments.iter().map(|(_, user)| *user).collect();
        users.sort_unstable();
        users.dedup();
        users.retain(|user| origin.actor.person() != Some(*user));
        let acts: Vec<Act> = users
            .iter()
            .map(|user| self.read(&origin, *user).with("in a list of payments"))
            .collect();
        // What is not on record is not shown.
        if !acts.is_empty() {
            self.audit_log.record_all(acts).await?;
        }
        Ok(payments)
    }

    /// Any payment.
    ///
    /// # Errors
    /// [`PaymentsError::NotFound`]
    pub async fn view(&self, id: PaymentId, origin: Origin) -> Result<PaymentView, PaymentsError> {
        let payment = self.store.find(id).await?.ok_or(PaymentsError::NotFound)?;
        let view = self.view_of(payment).await?;
        let read = self.read(&origin, view.user).to(id.to_string()).with("payment");
        self.audit_log.record(read).await?;
        Ok(view)
    }

    async fn view_of(&self, payment: Payment) -> Result<PaymentView, PaymentsError> {
        let user = self.users.owner_of(payment.account).await?;
        let reversals = self.store.list_reversals(payment.id).await?;
        Ok(PaymentView { payment, user, reversals })
    }

    /// Asks the provider about a payment now, and records what it says, as it is done of itself
    /// after a while.
    ///
    /// # Errors
    /// [`PaymentsError::NotFound`], [`PaymentsError::NotAsked`] or why the provider was not asked.
    pub async fn recheck(
        &self,
        id: PaymentId,
        origin: Origin,
    ) -> Result<PaymentView, PaymentsError> {
        let payment = self.store.find(id).await?.ok_or(PaymentsError::NotFound)?;
        if self.provider(&payment.provider).is_none() {
            let is_off = payment.provider != SANDBOX;
            return Err(PaymentsError::NotAsked { provider: payment.provider, is_off });
        }
        let user = self.users.owner_of(payment.account).await?;
        let at = self.gateway.clock.now();
        let act = origin.act(Uuid::now_v7(), user, ActKind::PaymentRechecked, at);
        let act = act.to(id.to_string()).with(format!("{} before", payment.status.name()));
        self.audit_log.record(act).await?;
        let payment = self.reconcile(id, None).await?;
        self.view_of(payment).await
    }
}
