//! Reversals: what providers take back of payments, by refund or dispute.

use sea_orm::{ConnectionTrait, QueryResult, Value};

use super::PaymentStore;
use crate::store::StoreError;
use crate::store::connections::{execute, query};
use crate::store::sql::begin_write;
use domain::{AccountId, Credits, PaymentId, Reversal, ReversalKind, Timestamp};

impl PaymentStore {
    /// Inserts or updates the reversals of a payment that its provider reports. Returns all
    /// reversals of the payment.
    pub async fn record_reversals(
        &self,
        payment: PaymentId,
        seen: Vec<Reversal>,
    ) -> Result<Vec<Reversal>, StoreError> {
        const SQL: &str = "INSERT INTO reversal
                (provider, provider_ref, payment_id, account_id, kind, wanted, taken, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, 0, $7)
            ON CONFLICT (provider, provider_ref) DO UPDATE SET wanted = excluded.wanted";
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
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
                    execute(&transaction, SQL, values).await?;
                }
                let found = reversals(&transaction, "payment_id = $1", payment.0.into()).await?;
                transaction.commit().await?;
                Ok(found)
            })
            .await
    }

    /// The reversals of a payment.
    pub async fn list_reversals(&self, payment: PaymentId) -> Result<Vec<Reversal>, StoreError> {
        self.database
            .run(move |database| async move {
                reversals(&database.read, "payment_id = $1", payment.0.into()).await
            })
            .await
    }

    /// Payments with a reversal of which something can be taken or given back now, sorted by id;
    /// only those above `after`.
    pub async fn list_to_reverse(&self, after: PaymentId) -> Result<Vec<PaymentId>, StoreError> {
        const SQL: &str = "SELECT DISTINCT payment_id FROM reversal
            INNER JOIN account ON account.id = reversal.account_id
            WHERE taken <> wanted AND (taken > wanted OR account.balance > 0) AND payment_id > $1
            ORDER BY payment_id LIMIT 1000";
        self.database
            .run(move |database| async move {
                let rows = query(&database.read, SQL, vec![after.0.into()]).await?;
                rows.iter().map(|row| Ok(PaymentId(row.try_get_by_index(0)?))).collect()
            })
            .await
    }
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
    let rows = query(connection, &sql, vec![value]).await?;
    let reversal = |row: &QueryResult| {
        let kind = ReversalKind::from_code(row.try_get_by_index(4)?);
        Ok(Reversal {
            provider: row.try_get_by_index(0)?,
            provider_ref: row.try_get_by_index(1)?,
            payment: PaymentId(row.try_get_by_index(2)?),
            account: AccountId(row.try_get_by_index(3)?),
            kind: kind
                .ok_or_else(|| StoreError::Corrupt("a reversal has an unknown kind".into()))?,
            wanted: Credits::from_nanos(row.try_get_by_index(5)?),
            taken: Credits::from_nanos(row.try_get_by_index(6)?),
            created_at: Timestamp::from_micros(row.try_get_by_index(7)?),
        })
    };
    rows.iter().map(reversal).collect()
}
