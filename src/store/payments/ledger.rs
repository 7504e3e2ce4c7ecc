//! Writes the part of a payment that belongs to the transaction of its ledger entry.

use sea_orm::{ActiveValue::Set, ConnectionTrait, DbErr, EntityTrait};

use super::auto_top_up::AUTO_WELL;
use crate::store::connections::execute;
use crate::store::error::CommitError;
use domain::{NewPayment, PaymentId, PaymentStatus, Reversal, ReversalStep, Timestamp};
use entity::payment;

/// Writes a payment that is created and confirmed at once.
pub(in crate::store) async fn insert_confirmed(
    transaction: &impl ConnectionTrait,
    payment: &NewPayment,
) -> Result<(), DbErr> {
    let row = payment::ActiveModel {
        id: Set(payment.id.0),
        account_id: Set(payment.account.0),
        provider: Set(payment.provider.to_owned()),
        status: Set(PaymentStatus::Confirmed.code()),
        amount: Set(payment.amount.nanos()),
        created_at: Set(payment.at.micros()),
        confirmed_at: Set(Some(payment.at.micros())),
        provider_ref: Set(None),
        checkout_url: Set(None),
        method: Set(None),
        is_auto: Set(false),
        confirming_at: Set(None),
        ended_at: Set(None),
        expires_at: Set(None),
        failure: Set(None),
        request_digest: Set(None),
        look_at: Set(None),
        looks: Set(0),
    };
    payment::Entity::insert(row).exec_without_returning(transaction).await.map(drop)
}

/// Confirms a recorded payment. A second confirmation is refused, and with it the credit in the
/// same transaction.
pub(in crate::store) async fn confirm(
    transaction: &impl ConnectionTrait,
    payment: PaymentId,
    at: Timestamp,
) -> Result<(), CommitError> {
    const SQL: &str = "UPDATE payment SET status = 3, confirmed_at = $1, ended_at = NULL,
            failure = NULL, look_at = NULL
        WHERE id = $2 AND status <> 3";
    if execute(transaction, SQL, vec![at.micros().into(), payment.0.into()]).await? != 1 {
        return Err(CommitError::Refused(format!("{payment} is already confirmed")));
    }
    execute(transaction, AUTO_WELL, vec![payment.0.into()]).await?;
    Ok(())
}

/// Records what the ledger took of a reversal. It is refused if the reversal has changed since the
/// account decided that.
pub(in crate::store) async fn reverse(
    transaction: &impl ConnectionTrait,
    reversal: &Reversal,
    step: ReversalStep,
) -> Result<(), CommitError> {
    const SQL: &str = "UPDATE reversal SET taken = $1
        WHERE provider = $2 AND provider_ref = $3 AND taken = $4";
    let values = vec![
        reversal.taken_after(step).nanos().into(),
        reversal.provider.clone().into(),
        reversal.provider_ref.clone().into(),
        reversal.taken.nanos().into(),
    ];
    match execute(transaction, SQL, values).await? {
        1 => Ok(()),
        _ => Err(CommitError::Refused("the reversal has changed in the meantime".into())),
    }
}
