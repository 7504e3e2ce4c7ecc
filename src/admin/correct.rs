//! Corrections of charges. A charge never changes: a correction is an entry of its own that names
//! it, made once for each reason.

use uuid::Uuid;

use super::{Admin, AdminError};
use crate::access::AccessError;
use domain::{AccountId, Act, ActKind, Adjustment, ChargeId, Credits, Environment, Origin, UserId};

/// A charge that is to be corrected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Whose charge.
    pub user: UserId,
    /// The call.
    pub charge: ChargeId,
    /// What is given back; negative is taken.
    pub amount: Credits,
    /// Why. With the charge it says which correction it is.
    pub reason: String,
}

/// A correction that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrected {
    /// The correction.
    pub correction: Correction,
    /// Of which account.
    pub environment: Environment,
    /// Was it made before? Then nothing has moved now.
    pub is_repeat: bool,
}

/// What the audit log says of a correction.
fn detail(amount: Credits, reason: &str) -> String {
    format!("${amount}: {reason}")
}

impl Admin {
    /// Gives a part of a charge back, or takes more for it. It happens once for a charge and a
    /// reason, however often it is asked for.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn correct(
        &self,
        operator: UserId,
        correction: Correction,
        origin: Origin,
    ) -> Result<Corrected, AdminError> {
        let Correction { user, charge, amount, ref reason } = correction;
        // One at a time: what was done is looked up before it is done, and this process is the
        // only one that changes the account.
        let _turn = self.corrections.lock().await;
        self.find_present(user).await?;
        self.gateway.tables_up_to_date().await?;
        let accounts = self.users.accounts_of(user).await?;
        let mut found = None;
        for environment in [Environment::Live, Environment::Test] {
            let entries = self.store.charge_entries(accounts.of(environment), charge).await?;
            found = found.or(entries.map(|entries| (environment, entries)));
        }
        let (environment, entries) = found.ok_or(AdminError::NoCharge)?;
        for made in self.store.corrections(user, charge).await? {
            let Some((before, of)) = made.split_once(": ") else { continue };
            if of != reason {
                continue;
            }
            if made != detail(amount, reason) {
                return Err(AdminError::CorrectedOtherwise { before: before.to_owned() });
            }
            return Ok(Corrected { correction, environment, is_repeat: true });
        }
        // What it has taken in the end: no more can be given back.
        let mut all = entries.others.iter().chain([&entries.charge]);
        let sum = all.try_fold(Credits::ZERO, |sum, entry| sum.checked_sub(entry.amount));
        let left = sum.unwrap_or(Credits::ZERO);
        let adjustment = match Credits::ZERO.checked_sub(amount) {
            Some(taken) if amount.is_negative() => Adjustment::Take(taken),
            _ if amount > left => return Err(AdminError::AboveCharge { left }),
            _ => Adjustment::Grant(amount),
        };
        let now = self.gateway.clock.now();
        let act = origin.act(Uuid::now_v7(), user, ActKind::ChargeCorrected, now);
        let act = act.to(charge.to_string()).with(detail(amount, reason));
        let counted = self.count_given(operator, environment, adjustment).await?;
        let adjusted = self.adjust_by(accounts.of(environment), charge.0, adjustment, act).await;
        if let (Err(error), Some((day, amount))) = (&adjusted, counted)
            && !matches!(error, AdminError::Account(AccessError::Unknown))
        {
            self.uncount_given(operator, day, amount).await;
        }
        adjusted?;
        Ok(Corrected { correction, environment, is_repeat: false })
    }

    async fn adjust_by(
        &self,
        account: AccountId,
        reference: Uuid,
        adjustment: Adjustment,
        act: Act,
    ) -> Result<(), AdminError> {
        let lease = self.gateway.account(account).await?;
        let adjusted = lease.adjust(reference, adjustment, None, Some(act)).await;
        let receipt = adjusted.map_err(AdminError::of_adjustment)?;
        failpoint!("correction-decided");
        self.gateway.recorded(receipt, ()).await?;
        failpoint!("correction-on-record");
        Ok(())
    }
}
