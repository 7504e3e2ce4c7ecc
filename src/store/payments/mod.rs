//! Payments on record, their reversals, and automatic top-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};
use uuid::Uuid;

use super::connections::{Connections, execute, query};
use super::error::StoreError;
use super::sql::{begin_write, is_postgres};
use super::{answers, audit_log, outbox};
use domain::event::{self, Event};
use domain::{AccountId, Act, PaymentId, PaymentStatus, RecordedAnswer, Timestamp, UserId};
use entity::{account, payment};

mod auto_top_up;
mod customers;
mod ledger;
mod record;
mod reversals;

pub use auto_top_up::AutoTopUp;
pub use record::{OpenPayment, Payment, ProviderFacts};

use auto_top_up::{AUTO_FAILED, AUTO_FAILURES_MAX, AUTO_PAUSE_MICROS, auto_due, auto_top_ups};
pub(in crate::store) use ledger::{confirm, insert_confirmed, reverse};

/// Time from the creation of a payment to the first check at its provider, in microseconds.
const FIRST_LOOK_MICROS: i64 = 30_000_000;
/// Most payments that are checked at once.
const LOOKS_MAX: u64 = 100;
const FORGET_REQUEST: &str = "UPDATE payment SET request_digest = NULL
    WHERE account_id = $1 AND request_digest = $2 AND created_at < $3";

/// The payments of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PaymentStore {
    database: Arc<Connections>,
}

/// Which payments of a list. Each field that is set leaves fewer.
#[derive(Clone, Debug, Default)]
pub struct PaymentFilter {
    /// Of this account.
    pub account: Option<AccountId>,
    /// Of this status.
    pub status: Option<PaymentStatus>,
    /// By this provider.
    pub provider: Option<String>,
    /// Begun at this time or later.
    pub from: Option<Timestamp>,
    /// Begun before this time.
    pub until: Option<Timestamp>,
}

impl PaymentStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        PaymentStore { database }
    }

    /// A page of an account's payments, newest first; only those older than `before`, if it is
    /// given.
    pub async fn list(
        &self,
        account: AccountId,
        before: Option<PaymentId>,
        limit: u64,
        filter: PaymentFilter,
    ) -> Result<Vec<Payment>, StoreError> {
        let filter = PaymentFilter { account: Some(account), ..filter };
        let payments = self.list_of_all(before, limit, filter).await?;
        Ok(payments.into_iter().map(|(payment, _)| payment).collect())
    }

    /// A page of the payments of all accounts with their users, newest first; only those older than
    /// `before`, if it is given.
    pub async fn list_of_all(
        &self,
        before: Option<PaymentId>,
        limit: u64,
        filter: PaymentFilter,
    ) -> Result<Vec<(Payment, UserId)>, StoreError> {
        use payment::Column;
        self.database
            .run(move |database| async move {
                let PaymentFilter { account, status, provider, from, until } = filter;
                let mut found = payment::Entity::find()
                    .filter(Column::Id.lt(before.map_or(Uuid::max(), |id| id.0)));
                if let Some(account) = account {
                    found = found.filter(Column::AccountId.eq(account.0));
                }
                if let Some(status) = status {
                    found = found.filter(Column::Status.eq(status.code()));
                }
                if let Some(provider) = provider {
                    found = found.filter(Column::Provider.eq(provider));
                }
                if let Some(from) = from {
                    found = found.filter(Column::CreatedAt.gte(from.micros()));
                }
                if let Some(until) = until {
                    found = found.filter(Column::CreatedAt.lt(until.micros()));
                }
                let rows = found.order_by_desc(Column::Id).limit(limit).all(&database.read).await?;
                let accounts: BTreeSet<i64> = rows.iter().map(|row| row.account_id).collect();
                let owners = account::Entity::find()
                    .filter(account::Column::Id.is_in(accounts))
                    .all(&database.read)
                    .await?;
                let owners: BTreeMap<i64, Uuid> =
                    owners.into_iter().map(|row| (row.id, row.user_id)).collect();
                let of_user = |row: payment::Model| {
                    let gone = || StoreError::Corrupt(format!("payment {} has no user", row.id));
                    let owner = owners.get(&row.account_id).copied().ok_or_else(gone)?;
                    Ok((record::payment(row)?, UserId(owner)))
                };
                rows.into_iter().map(of_user).collect()
            })
            .await
    }

    /// Was any payment of this provider credited? Reads the whole table if none was.
    pub async fn has_credited(&self, provider: &'static str) -> Result<bool, StoreError> {
        self.database
            .run(move |database| async move {
                let row = payment::Entity::find()
                    .filter(payment::Column::Provider.eq(provider))
                    .filter(payment::Column::Status.eq(PaymentStatus::Confirmed.code()))
                    .one(&database.read)
                    .await?;
                Ok(row.is_some())
            })
            .await
    }

    /// One payment.
    pub async fn find(&self, id: PaymentId) -> Result<Option<Payment>, StoreError> {
        self.database
            .run(move |database| async move {
                let row = payment::Entity::find_by_id(id.0).one(&database.read).await?;
                row.map(record::payment).transpose()
            })
            .await
    }

    /// The payment with this id at its provider.
    pub async fn find_by_provider_ref(
        &self,
        provider: &'static str,
        provider_ref: String,
    ) -> Result<Option<Payment>, StoreError> {
        self.database
            .run(move |database| async move {
                let row = payment::Entity::find()
                    .filter(payment::Column::Provider.eq(provider))
                    .filter(payment::Column::ProviderRef.eq(provider_ref))
                    .one(&database.read)
                    .await?;
                row.map(record::payment).transpose()
            })
            .await
    }

    /// Inserts a payment before its provider is called. Returns the earlier payment if the same
    /// request already began one. `None` if the account is suspended, or an automatic top-up is not
    /// due any more.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if an automatic top-up of the account is already open, or another
    /// payment has this provider id.
    pub async fn insert(
        &self,
        payment: OpenPayment,
        act: Act,
    ) -> Result<Option<Payment>, StoreError> {
        let look_at = payment.at.plus_micros(FIRST_LOOK_MICROS);
        self.database
            .run_write(move |database| async move {
                let before = begun_by(&database.write, &payment).await?;
                if before.is_some() {
                    return Ok(before);
                }
                let transaction = begin_write(&database.write).await?;
                if !may_open(&transaction, &payment).await? {
                    return Ok(None);
                }
                if let Some(digest) = payment.request_digest {
                    // After its record is deleted, an idempotency key may be used again.
                    let (account, from) = (payment.account.0, payment.once_from.micros());
                    let values = vec![account.into(), digest.to_vec().into(), from.into()];
                    execute(&transaction, FORGET_REQUEST, values).await?;
                }
                let row = payment::ActiveModel {
                    id: Set(payment.id.0),
                    account_id: Set(payment.account.0),
                    provider: Set(payment.provider.to_owned()),
                    status: Set(PaymentStatus::Created.code()),
                    amount: Set(payment.amount.nanos()),
                    created_at: Set(payment.at.micros()),
                    confirmed_at: Set(None),
                    provider_ref: Set(payment.provider_ref.clone()),
                    checkout_url: Set(None),
                    method: Set(payment.method.clone()),
                    is_auto: Set(payment.is_auto),
                    confirming_at: Set(None),
                    ended_at: Set(None),
                    expires_at: Set(Some(payment.expires_at.micros())),
                    failure: Set(None),
                    request_digest: Set(payment.request_digest.map(|digest| digest.to_vec())),
                    look_at: Set(Some(look_at.micros())),
                    looks: Set(0),
                };
                let inserted =
                    payment::Entity::insert(row).exec_without_returning(&transaction).await;
                if let Err(error) = inserted.map_err(StoreError::of_write) {
                    transaction.rollback().await?;
                    // The same request may have inserted it concurrently.
                    let before = begun_by(&database.write, &payment).await?;
                    return before.map(Some).ok_or(error);
                }
                audit_log::insert(&transaction, &act).await?;
                let OpenPayment { id, account, amount, at, .. } = payment;
                let event = event::of_payment(account, id, amount, PaymentStatus::Created, at);
                tell(&database, &transaction, &event).await?;
                let made = payment::Entity::find_by_id(id.0).one(&transaction).await?;
                transaction.commit().await?;
                database.outbox.ring(true);
                made.map(record::payment).transpose()
            })
            .await
    }

    /// Records a payment's id at its provider, and the answer to its request.
    pub async fn record_provider_facts(
        &self,
        id: PaymentId,
        facts: ProviderFacts,
        answer: Option<RecordedAnswer>,
    ) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE payment SET provider_ref = COALESCE($1, provider_ref),
                checkout_url = COALESCE($2, checkout_url)
            WHERE id = $3";
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let values =
                    vec![facts.provider_ref.into(), facts.checkout_url.into(), id.0.into()];
                execute(&transaction, SQL, values).await.map_err(StoreError::of_write)?;
                if let Some(answer) = answer {
                    let recorded = answers::record(&transaction, &answer).await;
                    recorded
                        .map_err(|error| StoreError::Database(DbErr::Custom(error.to_string())))?;
                }
                Ok(transaction.commit().await?)
            })
            .await
    }

    /// Sets a status other than confirmed on an open payment. Returns whether it changed.
    pub async fn set_status(
        &self,
        payment: &Payment,
        to: PaymentStatus,
        failure: Option<String>,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        // A payment that was confirmed in the meantime stays confirmed.
        const SQL: &str = "UPDATE payment SET status = $1,
                confirming_at = CASE WHEN $1 = 2 THEN COALESCE(confirming_at, $2) ELSE confirming_at END,
                ended_at = CASE WHEN $1 IN (4, 5) THEN $2 ELSE NULL END,
                failure = $3,
                look_at = CASE WHEN $1 IN (4, 5) THEN NULL ELSE $4 END
            WHERE id = $5 AND status = $6";
        let (account, id, amount, from) =
            (payment.account, payment.id, payment.amount, payment.status);
        if !from.may_become(to) {
            return Ok(false);
        }
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let values = vec![
                    to.code().into(),
                    at.micros().into(),
                    failure.into(),
                    at.plus_micros(FIRST_LOOK_MICROS).micros().into(),
                    id.0.into(),
                    from.code().into(),
                ];
                let is_news = execute(&transaction, SQL, values).await? == 1;
                if is_news && matches!(to, PaymentStatus::Failed | PaymentStatus::Expired) {
                    let pause = AUTO_PAUSE_MICROS.into();
                    let values =
                        vec![at.micros().into(), pause, AUTO_FAILURES_MAX.into(), id.0.into()];
                    execute(&transaction, AUTO_FAILED, values).await?;
                }
                if is_news {
                    let event = event::of_payment(account, id, amount, to, at);
                    tell(&database, &transaction, &event).await?;
                }
                transaction.commit().await?;
                database.outbox.ring(true);
                Ok(is_news)
            })
            .await
    }

    /// Payments whose check is due.
    pub async fn list_due_for_check(&self, now: Timestamp) -> Result<Vec<Payment>, StoreError> {
        self.database
            .run(move |database| async move {
                let rows = payment::Entity::find()
                    .filter(payment::Column::LookAt.lte(now.micros()))
                    .order_by_asc(payment::Column::LookAt)
                    .limit(LOOKS_MAX)
                    .all(&database.read)
                    .await?;
                rows.into_iter().map(record::payment).collect()
            })
            .await
    }

    /// Schedules the next check of an open payment.
    pub async fn schedule_check(&self, id: PaymentId, at: Timestamp) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE payment SET look_at = $1, looks = looks + 1
            WHERE id = $2 AND status IN (1, 2)";
        self.database
            .run_write(move |database| async move {
                let values = vec![at.micros().into(), id.0.into()];
                execute(&database.write, SQL, values).await?;
                Ok(())
            })
            .await
    }
}

/// May this payment begin? The account must be open, and its user not about to be erased. An
/// automatic top-up must also be due by its rule.
async fn may_open(
    transaction: &impl ConnectionTrait,
    payment: &OpenPayment,
) -> Result<bool, StoreError> {
    const OPEN: &str = "SELECT id FROM account WHERE id = $1 AND status = 1";
    // An erasure locks the user's row first, and then looks for payments.
    const PRESENT: &str = "SELECT id FROM users
        WHERE id = (SELECT user_id FROM account WHERE id = $1) AND erasing_at IS NULL";
    let OpenPayment { account, amount, method, at, .. } = payment;
    let lock = if is_postgres(transaction) { " FOR SHARE" } else { "" };
    let present = format!("{PRESENT}{lock}");
    if query(transaction, &present, vec![account.0.into()]).await?.is_empty() {
        return Ok(false);
    }
    if query(transaction, OPEN, vec![account.0.into()]).await?.is_empty() {
        return Ok(false);
    }
    if !payment.is_auto {
        return Ok(true);
    }
    if is_postgres(transaction) {
        // Serializes this payment with changes of the rule.
        const LOCK: &str = "SELECT 1 FROM auto_top_up WHERE account_id = $1 FOR UPDATE";
        query(transaction, LOCK, vec![account.0.into()]).await?;
    }
    let condition = auto_due(at.day().month().starts_at());
    let due = format!("account_id = {} AND {condition}", account.0);
    let rules = auto_top_ups(transaction, &due, at.micros().into()).await?;
    Ok(rules.iter().any(|rule| rule.amount == *amount && Some(&rule.method) == method.as_ref()))
}

/// The payment that the same request began earlier.
async fn begun_by(
    connection: &impl ConnectionTrait,
    payment: &OpenPayment,
) -> Result<Option<Payment>, StoreError> {
    let Some(digest) = payment.request_digest else { return Ok(None) };
    let before = payment::Entity::find()
        .filter(payment::Column::AccountId.eq(payment.account.0))
        .filter(payment::Column::RequestDigest.eq(digest.to_vec()))
        .filter(payment::Column::CreatedAt.gte(payment.once_from.micros()))
        .one(connection)
        .await?;
    before.map(record::payment).transpose()
}

async fn tell(
    database: &Connections,
    transaction: &impl ConnectionTrait,
    event: &Event,
) -> Result<(), DbErr> {
    if database.outbox.has_subscribers(event.account) {
        outbox::write(transaction, event).await?;
    }
    Ok(())
}
