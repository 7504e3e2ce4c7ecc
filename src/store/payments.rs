//! Payments on record, what providers take back of them, and accounts that top themselves up.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QueryResult, QuerySelect, Statement, Value,
};
use uuid::Uuid;

use super::error::CommitError;
use super::sql::begin_write;
use super::{Store, StoreError, answers, audit_log, outbox};
use domain::event::{self, Event};
use domain::{
    AccountId, Act, Credits, NewPayment, PaymentId, PaymentStatus, RecordedAnswer, Reversal,
    ReversalKind, ReversalStep, Timestamp, UserId,
};
use entity::payment;

/// A payment as stored.
#[derive(Clone, Debug)]
pub struct Payment {
    /// Its id.
    pub id: PaymentId,
    /// Whose account it tops up.
    pub account: AccountId,
    /// Who takes the money.
    pub provider: String,
    /// How far it has come.
    pub status: PaymentStatus,
    /// How much.
    pub amount: Credits,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the provider had the payer's word.
    pub confirming_at: Option<Timestamp>,
    /// When the credits were on the account.
    pub confirmed_at: Option<Timestamp>,
    /// When it failed or expired.
    pub ended_at: Option<Timestamp>,
    /// Until when its payer may pay.
    pub expires_at: Option<Timestamp>,
    /// What the provider calls it.
    pub provider_ref: Option<String>,
    /// Where its payer pays.
    pub checkout_url: Option<String>,
    /// The saved payment method that is charged.
    pub method: Option<String>,
    /// Did the server begin it?
    pub is_auto: bool,
    /// Why it failed.
    pub failure: Option<String>,
    /// How often the provider was asked.
    pub looks: i32,
}

impl Payment {
    /// One that was made and confirmed at once.
    #[must_use]
    pub fn confirmed(payment: &NewPayment) -> Self {
        Payment {
            id: payment.id,
            account: payment.account,
            provider: payment.provider.to_owned(),
            status: PaymentStatus::Confirmed,
            amount: payment.amount,
            created_at: payment.at,
            confirming_at: None,
            confirmed_at: Some(payment.at),
            ended_at: None,
            expires_at: None,
            provider_ref: None,
            checkout_url: None,
            method: None,
            is_auto: false,
            failure: None,
            looks: 0,
        }
    }
}

/// A payment to be begun.
#[derive(Clone, Debug)]
pub struct OpenPayment {
    /// Its id.
    pub id: PaymentId,
    /// Whose account it tops up.
    pub account: AccountId,
    /// Who takes the money.
    pub provider: &'static str,
    /// What the provider will call it, where that is known.
    pub provider_ref: Option<String>,
    /// How much.
    pub amount: Credits,
    /// The saved payment method to be charged.
    pub method: Option<String>,
    /// Does the server begin it?
    pub is_auto: bool,
    /// What names the request that begins it, if it happens once.
    pub request_digest: Option<[u8; 32]>,
    /// The same request begins the same payment, if it has done so since.
    pub once_from: Timestamp,
    /// When.
    pub at: Timestamp,
    /// Until when its payer may pay.
    pub expires_at: Timestamp,
}

/// What an open payment is called and where it is paid.
#[derive(Clone, Debug, Default)]
pub struct ProviderFacts {
    /// What the provider calls it.
    pub provider_ref: Option<String>,
    /// Where its payer pays.
    pub checkout_url: Option<String>,
}

/// A rule after which an account tops itself up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoTopUp {
    /// Whose account.
    pub account: AccountId,
    /// Whose it is.
    pub user: UserId,
    /// Is it in force?
    pub is_enabled: bool,
    /// Below which balance.
    pub threshold: Credits,
    /// By how much.
    pub amount: Credits,
    /// How much at most in a UTC month.
    pub monthly_cap: Credits,
    /// What is charged.
    pub method: String,
    /// Failures in a row.
    pub failures: i32,
    /// No new try before.
    pub not_before: Timestamp,
}

impl Store {
    /// A page of an account's payments, newest first, from below payment `before`; their ids rise with time.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list_payments(
        &self,
        account: AccountId,
        before: Option<PaymentId>,
        limit: u64,
    ) -> Result<Vec<Payment>, StoreError> {
        self.run(move |store| async move {
            let rows = payment::Entity::find()
                .filter(payment::Column::AccountId.eq(account.0))
                .filter(payment::Column::Id.lt(before.map_or(Uuid::max(), |id| id.0)))
                .order_by_desc(payment::Column::Id)
                .limit(limit)
                .all(&store.read)
                .await?;
            rows.into_iter().map(to_payment).collect()
        })
        .await
    }

    /// One payment.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn find_payment(&self, id: PaymentId) -> Result<Option<Payment>, StoreError> {
        self.run(move |store| async move {
            let row = payment::Entity::find_by_id(id.0).one(&store.read).await?;
            row.map(to_payment).transpose()
        })
        .await
    }

    /// The payment that a provider calls so.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn find_payment_of(
        &self,
        provider: &'static str,
        provider_ref: String,
    ) -> Result<Option<Payment>, StoreError> {
        self.run(move |store| async move {
            let row = payment::Entity::find()
                .filter(payment::Column::Provider.eq(provider))
                .filter(payment::Column::ProviderRef.eq(provider_ref))
                .one(&store.read)
                .await?;
            row.map(to_payment).transpose()
        })
        .await
    }

    /// Writes a payment that begins, before its provider hears of it; answers the one on record, where the same
    /// request has begun one before. `None` where the account is closed, or is not to be topped up by itself any more.
    ///
    /// # Errors
    /// [`StoreError::Taken`] where an account that tops itself up does so already, or another payment is called so.
    pub async fn open_payment(
        &self,
        payment: OpenPayment,
        act: Act,
    ) -> Result<Option<Payment>, StoreError> {
        let look_at = payment.at.plus_micros(FIRST_LOOK_MICROS);
        self.run_write(move |store| async move {
            let before = begun_by(&store.write, &payment).await?;
            if before.is_some() {
                return Ok(before);
            }
            let transaction = begin_write(&store.write).await?;
            if !may_open(&transaction, &payment).await? {
                return Ok(None);
            }
            if let Some(digest) = payment.request_digest {
                // A key may be used again when what it did is forgotten.
                let (account, from) = (payment.account.0, payment.once_from.micros());
                let values = vec![account.into(), digest.to_vec().into(), from.into()];
                run(&transaction, FORGET_REQUEST, values).await?;
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
            let inserted = payment::Entity::insert(row).exec_without_returning(&transaction).await;
            if let Err(error) = inserted.map_err(StoreError::of_write) {
                transaction.rollback().await?;
                // The same request may have begun it meanwhile.
                let before = begun_by(&store.write, &payment).await?;
                return before.map(Some).ok_or(error);
            }
            audit_log::insert(&transaction, &act).await?;
            let OpenPayment { id, account, amount, at, .. } = payment;
            let event = event::of_payment(account, id, amount, PaymentStatus::Created, at);
            tell(&store, &transaction, &event).await?;
            let made = payment::Entity::find_by_id(id.0).one(&transaction).await?;
            transaction.commit().await?;
            store.ring_for_events();
            made.map(to_payment).transpose()
        })
        .await
    }

    /// Writes what a provider calls a payment, and what its request was answered.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn note_payment(
        &self,
        id: PaymentId,
        facts: ProviderFacts,
        answer: Option<RecordedAnswer>,
    ) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE payment SET provider_ref = COALESCE($1, provider_ref),
                checkout_url = COALESCE($2, checkout_url)
            WHERE id = $3";
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let values = vec![facts.provider_ref.into(), facts.checkout_url.into(), id.0.into()];
            run(&transaction, SQL, values).await.map_err(StoreError::of_write)?;
            if let Some(answer) = answer {
                let recorded = answers::record(&transaction, &answer).await;
                recorded.map_err(|error| StoreError::Database(DbErr::Custom(error.to_string())))?;
            }
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Writes how far an open payment has come, short of being confirmed; was it news?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn move_payment(
        &self,
        payment: &Payment,
        to: PaymentStatus,
        failure: Option<String>,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        // What is confirmed meanwhile is confirmed.
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
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let values = vec![
                to.code().into(),
                at.micros().into(),
                failure.into(),
                at.plus_micros(FIRST_LOOK_MICROS).micros().into(),
                id.0.into(),
                from.code().into(),
            ];
            let is_news = run(&transaction, SQL, values).await? == 1;
            if is_news && matches!(to, PaymentStatus::Failed | PaymentStatus::Expired) {
                let pause = AUTO_PAUSE_MICROS.into();
                let values = vec![at.micros().into(), pause, AUTO_FAILURES_MAX.into(), id.0.into()];
                run(&transaction, AUTO_FAILED, values).await?;
            }
            if is_news {
                let event = event::of_payment(account, id, amount, to, at);
                tell(&store, &transaction, &event).await?;
            }
            transaction.commit().await?;
            store.ring_for_events();
            Ok(is_news)
        })
        .await
    }

    /// Payments whose provider is to be asked by now; each is asked again later, and ever more seldom.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn payments_to_look_at(&self, now: Timestamp) -> Result<Vec<Payment>, StoreError> {
        self.run(move |store| async move {
            let rows = payment::Entity::find()
                .filter(payment::Column::LookAt.lte(now.micros()))
                .order_by_asc(payment::Column::LookAt)
                .limit(LOOKS_MAX)
                .all(&store.read)
                .await?;
            rows.into_iter().map(to_payment).collect()
        })
        .await
    }

    /// Says when a provider is to be asked next about a payment that has not ended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn look_again(&self, id: PaymentId, at: Timestamp) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE payment SET look_at = $1, looks = looks + 1
            WHERE id = $2 AND status IN (1, 2)";
        self.run_write(move |store| async move {
            let values = vec![at.micros().into(), id.0.into()];
            run(&store.write, SQL, values).await?;
            Ok(())
        })
        .await
    }

    /// Writes what a provider takes back of a payment, by its last word; answers every reversal of the payment.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn note_reversals(
        &self,
        payment: PaymentId,
        seen: Vec<Reversal>,
    ) -> Result<Vec<Reversal>, StoreError> {
        const SQL: &str = "INSERT INTO reversal
                (provider, provider_ref, payment_id, account_id, kind, wanted, taken, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, 0, $7)
            ON CONFLICT (provider, provider_ref) DO UPDATE SET wanted = excluded.wanted";
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            for reversal in seen {
                let values = vec![
                    reversal.provider.into(),
                    reversal.provider_ref.into(),
                    payment.0.into(),
                    reversal.account.0.into(),
                    reversal.kind.code().into(),
                    reversal.wanted.nanos().into(),
                    reversal.created_at.micros().into(),
                ];
                run(&transaction, SQL, values).await?;
            }
            let found = reversals(&transaction, "payment_id = $1", payment.0.into()).await?;
            transaction.commit().await?;
            Ok(found)
        })
        .await
    }

    /// What providers have taken back of a payment.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn reversals_of(&self, payment: PaymentId) -> Result<Vec<Reversal>, StoreError> {
        self.run(move |store| async move {
            reversals(&store.read, "payment_id = $1", payment.0.into()).await
        })
        .await
    }

    /// Payments of which something can be taken back or given again now, in the order of their ids, from above `after`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn payments_to_reverse(
        &self,
        after: PaymentId,
    ) -> Result<Vec<PaymentId>, StoreError> {
        const SQL: &str = "SELECT DISTINCT payment_id FROM reversal
            INNER JOIN account ON account.id = reversal.account_id
            WHERE taken <> wanted AND (taken > wanted OR account.balance > 0) AND payment_id > $1
            ORDER BY payment_id LIMIT 1000";
        self.run(move |store| async move {
            let rows = query(&store.read, SQL, after.0.into()).await?;
            rows.iter().map(|row| Ok(PaymentId(row.try_get_by_index(0)?))).collect()
        })
        .await
    }

    /// What a provider calls a user, if it knows them.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn find_customer(
        &self,
        user: UserId,
        provider: &'static str,
    ) -> Result<Option<String>, StoreError> {
        const SQL: &str = "SELECT provider_ref FROM customer WHERE user_id = $1 AND provider = $2";
        self.run(move |store| async move {
            let backend = store.read.get_database_backend();
            let values = [user.0.into(), provider.into()];
            let row = Statement::from_sql_and_values(backend, SQL, values);
            let row = store.read.query_one_raw(row).await?;
            Ok(row.map(|row| row.try_get_by_index(0)).transpose()?)
        })
        .await
    }

    /// Writes what a provider calls a user; answers what it is called, where two come at once.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn note_customer(
        &self,
        user: UserId,
        provider: &'static str,
        provider_ref: String,
    ) -> Result<String, StoreError> {
        const SQL: &str = "INSERT INTO customer (user_id, provider, provider_ref)
            VALUES ($1, $2, $3) ON CONFLICT (user_id, provider) DO NOTHING";
        let values: Vec<Value> = vec![user.0.into(), provider.into(), provider_ref.clone().into()];
        self.run_write(move |store| async move {
            run(&store.write, SQL, values).await?;
            Ok(())
        })
        .await?;
        Ok(self.find_customer(user, provider).await?.unwrap_or(provider_ref))
    }

    /// The rule after which an account tops itself up, if it has one.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn find_auto_top_up(
        &self,
        account: AccountId,
    ) -> Result<Option<AutoTopUp>, StoreError> {
        self.run(move |store| async move {
            let found = auto_top_ups(&store.read, "account_id = $1", account.0.into()).await?;
            Ok(found.into_iter().next())
        })
        .await
    }

    /// Writes the rule after which an account tops itself up; its failures so far are forgotten.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn set_auto_top_up(
        &self,
        rule: AutoTopUp,
        act: Act,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        const SQL: &str =
            "INSERT INTO auto_top_up (account_id, user_id, is_enabled, threshold, amount,
                monthly_cap, method, failures, not_before, is_told, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, TRUE, $8)
            ON CONFLICT (account_id) DO UPDATE SET is_enabled = excluded.is_enabled,
                threshold = excluded.threshold, amount = excluded.amount,
                monthly_cap = excluded.monthly_cap, method = excluded.method, failures = 0,
                not_before = 0, is_told = TRUE, updated_at = excluded.updated_at";
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let values = vec![
                rule.account.0.into(),
                rule.user.0.into(),
                rule.is_enabled.into(),
                rule.threshold.nanos().into(),
                rule.amount.nanos().into(),
                rule.monthly_cap.nanos().into(),
                rule.method.into(),
                at.micros().into(),
            ];
            run(&transaction, SQL, values).await?;
            audit_log::insert(&transaction, &act).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// The rules whose accounts are below their threshold, with nothing of theirs under way, and with room left below
    /// their cap in the UTC month that began at `month_start`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn auto_top_ups_due(
        &self,
        now: Timestamp,
        month_start: Timestamp,
    ) -> Result<Vec<AutoTopUp>, StoreError> {
        let condition = format!("{} LIMIT 100", auto_due(month_start));
        self.run(move |store| async move {
            auto_top_ups(&store.read, &condition, now.micros().into()).await
        })
        .await
    }

    /// The rules that were switched off for their failures, and whose owners are not told yet, with the last failure.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn auto_top_ups_given_up(
        &self,
    ) -> Result<Vec<(AccountId, UserId, String)>, StoreError> {
        const SQL: &str = "SELECT account_id, user_id, (
                SELECT failure FROM payment WHERE payment.account_id = auto_top_up.account_id
                    AND is_auto AND failure IS NOT NULL ORDER BY id DESC LIMIT 1)
            FROM auto_top_up WHERE NOT is_told LIMIT $1";
        self.run(move |store| async move {
            let rows = query(&store.read, SQL, 100_i64.into()).await?;
            let rule = |row: &QueryResult| {
                let why: Option<String> = row.try_get_by_index(2)?;
                let account = AccountId(row.try_get_by_index(0)?);
                Ok((account, UserId(row.try_get_by_index(1)?), why.unwrap_or_default()))
            };
            rows.iter().map(rule).collect()
        })
        .await
    }

    /// Writes that the owner of a rule was told that it is switched off.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn note_auto_top_up_told(&self, account: AccountId) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE auto_top_up SET is_told = TRUE WHERE account_id = $1";
        self.run_write(move |store| async move {
            run(&store.write, SQL, vec![account.0.into()]).await?;
            Ok(())
        })
        .await
    }

    /// The user whose account it is.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn user_of(&self, account: AccountId) -> Result<UserId, StoreError> {
        self.run(move |store| async move {
            let row = entity::account::Entity::find_by_id(account.0).one(&store.read).await?;
            let gone = || StoreError::Corrupt(format!("there is no account {account}"));
            Ok(UserId(row.ok_or_else(gone)?.user_id))
        })
        .await
    }
}

const FORGET_REQUEST: &str = "UPDATE payment SET request_digest = NULL
    WHERE account_id = $1 AND request_digest = $2 AND created_at < $3";
/// Failures in a row after which an account tops itself up no longer, and how long it waits after each.
const AUTO_FAILURES_MAX: i32 = 3;
const AUTO_PAUSE_MICROS: i64 = 3_600 * 1_000_000;
const AUTO_FAILED: &str = "UPDATE auto_top_up SET failures = failures + 1,
        not_before = $1 + $2 * (failures + 1), is_enabled = failures + 1 < $3,
        is_told = failures + 1 < $3
    WHERE is_enabled AND account_id = (SELECT account_id FROM payment WHERE id = $4 AND is_auto)";
const AUTO_WELL: &str = "UPDATE auto_top_up SET failures = 0
    WHERE is_enabled AND failures > 0
        AND account_id = (SELECT account_id FROM payment WHERE id = $1 AND is_auto)";

/// When an account is due to be topped up by itself, as a condition whose $1 is now.
fn auto_due(month_start: Timestamp) -> String {
    let month_start = month_start.micros();
    format!(
        "is_enabled AND not_before <= $1
        AND threshold > (SELECT balance FROM account
            WHERE account.id = account_id AND account.status = 1)
        AND NOT EXISTS (SELECT 1 FROM payment WHERE payment.account_id = auto_top_up.account_id
            AND payment.is_auto AND payment.status IN (1, 2))
        AND amount + (SELECT CAST(COALESCE(SUM(payment.amount), 0) AS BIGINT) FROM payment
            WHERE payment.account_id = auto_top_up.account_id AND payment.is_auto
            AND payment.status = 3 AND payment.created_at >= {month_start}) <= monthly_cap"
    )
}

/// May this payment begin? The account must be open; and where the server begins it, its owner's rule must say so now.
async fn may_open(
    transaction: &impl ConnectionTrait,
    payment: &OpenPayment,
) -> Result<bool, StoreError> {
    const OPEN: &str = "SELECT id FROM account WHERE id = $1 AND status = 1";
    let OpenPayment { account, amount, method, at, .. } = payment;
    if query(transaction, OPEN, account.0.into()).await?.is_empty() {
        return Ok(false);
    }
    if !payment.is_auto {
        return Ok(true);
    }
    if super::sql::is_postgres(transaction) {
        // Whoever changes the rule waits until this is on record, or this for them.
        const LOCK: &str = "SELECT 1 FROM auto_top_up WHERE account_id = $1 FOR UPDATE";
        query(transaction, LOCK, account.0.into()).await?;
    }
    let condition = auto_due(at.day().month().starts_at());
    let due = format!("account_id = {} AND {condition}", account.0);
    let rules = auto_top_ups(transaction, &due, at.micros().into()).await?;
    Ok(rules.iter().any(|rule| rule.amount == *amount && Some(&rule.method) == method.as_ref()))
}

/// The payment that the same request has begun before.
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
    before.map(to_payment).transpose()
}

/// When a provider that has said nothing is asked for the first time.
const FIRST_LOOK_MICROS: i64 = 30_000_000;
/// Payments that are looked at in one go.
const LOOKS_MAX: u64 = 100;

async fn tell(
    store: &Store,
    transaction: &impl ConnectionTrait,
    event: &Event,
) -> Result<(), DbErr> {
    if store.outbox.is_told(event.account) {
        outbox::write(transaction, event).await?;
    }
    Ok(())
}

async fn run(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<u64, DbErr> {
    let backend = connection.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, sql, values);
    Ok(connection.execute_raw(statement).await?.rows_affected())
}

async fn query(
    connection: &impl ConnectionTrait,
    sql: &str,
    value: Value,
) -> Result<Vec<QueryResult>, DbErr> {
    let backend = connection.get_database_backend();
    connection.query_all_raw(Statement::from_sql_and_values(backend, sql, [value])).await
}

async fn reversals(
    connection: &impl ConnectionTrait,
    condition: &str,
    value: Value,
) -> Result<Vec<Reversal>, StoreError> {
    let sql = format!(
        "SELECT provider, provider_ref, payment_id, account_id, kind, wanted, taken, created_at
        FROM reversal WHERE {condition}"
    );
    let rows = query(connection, &sql, value).await?;
    let reversal = |row: &QueryResult| {
        let kind = ReversalKind::from_code(row.try_get_by_index(4)?);
        Ok(Reversal {
            provider: row.try_get_by_index(0)?,
            provider_ref: row.try_get_by_index(1)?,
            payment: PaymentId(row.try_get_by_index(2)?),
            account: AccountId(row.try_get_by_index(3)?),
            kind: kind.ok_or_else(|| StoreError::Corrupt("a reversal of no known kind".into()))?,
            wanted: Credits::from_nanos(row.try_get_by_index(5)?),
            taken: Credits::from_nanos(row.try_get_by_index(6)?),
            created_at: Timestamp::from_micros(row.try_get_by_index(7)?),
        })
    };
    rows.iter().map(reversal).collect()
}

async fn auto_top_ups(
    connection: &impl ConnectionTrait,
    condition: &str,
    value: Value,
) -> Result<Vec<AutoTopUp>, StoreError> {
    let sql = format!(
        "SELECT account_id, user_id, is_enabled, threshold, amount, monthly_cap, method, failures, not_before
        FROM auto_top_up WHERE {condition}"
    );
    let rows = query(connection, &sql, value).await?;
    let rule = |row: &QueryResult| {
        Ok(AutoTopUp {
            account: AccountId(row.try_get_by_index(0)?),
            user: UserId(row.try_get_by_index(1)?),
            is_enabled: row.try_get_by_index(2)?,
            threshold: Credits::from_nanos(row.try_get_by_index(3)?),
            amount: Credits::from_nanos(row.try_get_by_index(4)?),
            monthly_cap: Credits::from_nanos(row.try_get_by_index(5)?),
            method: row.try_get_by_index(6)?,
            failures: row.try_get_by_index(7)?,
            not_before: Timestamp::from_micros(row.try_get_by_index(8)?),
        })
    };
    rows.iter().map(rule).collect()
}

/// Writes a payment that was made and confirmed at once.
pub(super) async fn insert_confirmed(
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

/// Writes that a payment is confirmed. Once: a second time is refused, and with it the credit beside it.
pub(super) async fn confirm(
    transaction: &impl ConnectionTrait,
    payment: PaymentId,
    at: Timestamp,
) -> Result<(), CommitError> {
    const SQL: &str = "UPDATE payment SET status = 3, confirmed_at = $1, ended_at = NULL,
            failure = NULL, look_at = NULL
        WHERE id = $2 AND status <> 3";
    if run(transaction, SQL, vec![at.micros().into(), payment.0.into()]).await? != 1 {
        return Err(CommitError::Refused(format!("{payment} is confirmed already")));
    }
    run(transaction, AUTO_WELL, vec![payment.0.into()]).await?;
    Ok(())
}

/// Writes what the ledger has taken of a reversal. It must stand where it stood when that was decided.
pub(super) async fn reverse(
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
    match run(transaction, SQL, values).await? {
        1 => Ok(()),
        _ => Err(CommitError::Refused("a reversal has moved on elsewhere".into())),
    }
}

fn to_payment(row: payment::Model) -> Result<Payment, StoreError> {
    let status = PaymentStatus::from_code(row.status)
        .ok_or_else(|| StoreError::Corrupt(format!("payment {} has an unknown status", row.id)))?;
    let at = |micros: Option<i64>| micros.map(Timestamp::from_micros);
    Ok(Payment {
        id: PaymentId(row.id),
        account: AccountId(row.account_id),
        provider: row.provider,
        status,
        amount: Credits::from_nanos(row.amount),
        created_at: Timestamp::from_micros(row.created_at),
        confirming_at: at(row.confirming_at),
        confirmed_at: at(row.confirmed_at),
        ended_at: at(row.ended_at),
        expires_at: at(row.expires_at),
        provider_ref: row.provider_ref,
        checkout_url: row.checkout_url,
        method: row.method,
        is_auto: row.is_auto,
        failure: row.failure,
        looks: row.looks,
    })
}
