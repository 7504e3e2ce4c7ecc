//! The ledger and the payments as their owner reads them: newest first, by keyset.

use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::{
    AccountId, Credits, Day, EntryKind, KeyId, LedgerEntry, Link, Month, PaymentId, Timestamp,
};
use entity::{ledger_entry, payment};

/// How far a payment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentStatus {
    /// The credits are on the account.
    Confirmed,
}

impl PaymentStatus {
    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PaymentStatus::Confirmed => "confirmed",
        }
    }

    /// The number that stands for it in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            PaymentStatus::Confirmed => 3,
        }
    }

    fn from_code(code: i16) -> Option<Self> {
        (code == PaymentStatus::Confirmed.code()).then_some(PaymentStatus::Confirmed)
    }
}

/// A payment as stored.
#[derive(Clone, Debug)]
pub struct Payment {
    /// Its id.
    pub id: PaymentId,
    /// Who took the money.
    pub provider: String,
    /// How far it has come.
    pub status: PaymentStatus,
    /// How much.
    pub amount: Credits,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the credits were on the account.
    pub confirmed_at: Option<Timestamp>,
}

impl Store {
    /// A page of an account's ledger, newest first, from below entry number `before`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list_entries(
        &self,
        account: AccountId,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Vec<LedgerEntry>, StoreError> {
        self.run(move |store| async move {
            let rows = ledger_entry::Entity::find()
                .filter(ledger_entry::Column::AccountId.eq(account.0))
                .filter(ledger_entry::Column::Seq.lt(before.unwrap_or(i64::MAX)))
                .order_by_desc(ledger_entry::Column::Seq)
                .limit(limit)
                .all(&store.read)
                .await?;
            rows.iter().map(entry).collect()
        })
        .await
    }

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

    /// One payment of an account.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn find_payment(
        &self,
        account: AccountId,
        id: PaymentId,
    ) -> Result<Option<Payment>, StoreError> {
        self.run(move |store| async move {
            let row = payment::Entity::find_by_id(id.0)
                .filter(payment::Column::AccountId.eq(account.0))
                .one(&store.read)
                .await?;
            row.map(to_payment).transpose()
        })
        .await
    }
}

/// The row of an entry.
pub(super) fn row(entry: &LedgerEntry) -> ledger_entry::ActiveModel {
    ledger_entry::ActiveModel {
        account_id: Set(entry.account.0),
        seq: Set(entry.seq),
        epoch: Set(entry.epoch),
        kind: Set(entry.kind.code()),
        amount: Set(entry.amount.nanos()),
        balance_after: Set(entry.balance_after.nanos()),
        reference: Set(entry.reference),
        key_id: Set(entry.key.map(|key| key.0)),
        day: Set(entry.day.0),
        month: Set(entry.month.0),
        at: Set(entry.at.micros()),
        link: Set(entry.link.0.to_vec()),
    }
}

pub(super) fn entry(row: &ledger_entry::Model) -> Result<LedgerEntry, StoreError> {
    let kind = EntryKind::from_code(row.kind).ok_or_else(|| {
        StoreError::Corrupt(format!("entry {}/{} has an unknown kind", row.account_id, row.seq))
    })?;
    Ok(LedgerEntry {
        account: AccountId(row.account_id),
        seq: row.seq,
        epoch: row.epoch,
        kind,
        amount: Credits::from_nanos(row.amount),
        balance_after: Credits::from_nanos(row.balance_after),
        reference: row.reference,
        key: row.key_id.map(KeyId),
        day: Day(row.day),
        month: Month(row.month),
        at: Timestamp::from_micros(row.at),
        // A link of another length is no link, and breaks the chain.
        link: Link::from_slice(&row.link).unwrap_or_default(),
    })
}

fn to_payment(row: payment::Model) -> Result<Payment, StoreError> {
    let status = PaymentStatus::from_code(row.status)
        .ok_or_else(|| StoreError::Corrupt(format!("payment {} has an unknown status", row.id)))?;
    Ok(Payment {
        id: PaymentId(row.id),
        provider: row.provider,
        status,
        amount: Credits::from_nanos(row.amount),
        created_at: Timestamp::from_micros(row.created_at),
        confirmed_at: row.confirmed_at.map(Timestamp::from_micros),
    })
}
