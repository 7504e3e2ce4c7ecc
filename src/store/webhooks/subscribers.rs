//! The accounts with an enabled endpoint, cached in memory, and events that no other write causes.

use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement};

use super::WebhookStore;
use crate::store::StoreError;
use crate::store::connections::query;
use crate::store::outbox::{self, BALANCE_LOW};
use crate::store::sql::begin_write;
use domain::event::Event;
use domain::{AccountId, Credits, KeyId, Timestamp};

/// Pause between two attempts to read an account's endpoints.
const AGAIN: Duration = Duration::from_millis(500);
const LISTENERS: &str = "SELECT webhook_endpoint.account_id, notice.balance_low
    FROM webhook_endpoint LEFT JOIN notice ON notice.account_id = webhook_endpoint.account_id
    WHERE webhook_endpoint.is_enabled";

fn listener(row: &QueryResult) -> Result<(AccountId, Credits), DbErr> {
    let low: Option<i64> = row.try_get_by_index(1)?;
    Ok((AccountId(row.try_get_by_index(0)?), low.map_or(BALANCE_LOW, Credits::from_nanos)))
}

impl WebhookStore {
    /// Waits until something is written for delivery.
    pub async fn wait_for_events(&self) {
        self.database.outbox.bell.notified().await;
    }

    /// Wakes the dispatcher.
    pub fn wake_dispatcher(&self) {
        self.database.outbox.ring(true);
    }

    /// Reloads the accounts with an enabled endpoint.
    pub async fn load_subscribers(&self) -> Result<(), StoreError> {
        let sql = format!("{LISTENERS} GROUP BY webhook_endpoint.account_id, notice.balance_low");
        self.database
            .run(move |database| async move {
                let _one_at_a_time = database.outbox.noting.lock().await;
                let backend = database.read.get_database_backend();
                let rows =
                    database.read.query_all_raw(Statement::from_string(backend, sql)).await?;
                let listening = rows.iter().map(listener).collect::<Result<BTreeMap<_, _>, _>>()?;
                database.outbox.listeners.retain(|account, _| listening.contains_key(account));
                for (account, low) in listening {
                    database.outbox.listeners.insert(account, low);
                }
                Ok(())
            })
            .await
    }

    /// Reloads whether this account has an enabled endpoint, after a change. The change is on
    /// record, so the cache must follow: a failure is retried until it succeeds.
    pub(super) async fn refresh_subscriber(&self, account: AccountId) {
        if let Err(error) = self.load_subscriber(account).await {
            tracing::warn!(%account, %error, "cannot read whether the account has webhooks; trying again");
            let store = self.clone();
            self.database.runtime.spawn(async move {
                while store.load_subscriber(account).await.is_err() {
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
    }

    async fn load_subscriber(&self, account: AccountId) -> Result<(), StoreError> {
        let sql = format!("{LISTENERS} AND webhook_endpoint.account_id = $1 LIMIT 1");
        self.database
            .run(move |database| async move {
                let _one_at_a_time = database.outbox.noting.lock().await;
                let backend = database.read.get_database_backend();
                let statement = Statement::from_sql_and_values(backend, sql, [account.0.into()]);
                match database.read.query_one_raw(statement).await? {
                    Some(row) => {
                        let (account, low) = listener(&row)?;
                        database.outbox.listeners.insert(account, low);
                    }
                    None => drop(database.outbox.listeners.remove(&account)),
                }
                Ok(())
            })
            .await
    }

    /// Writes an event that belongs to no other write.
    pub async fn publish(&self, event: Event) -> Result<(), StoreError> {
        const KNOWN: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM webhook_event WHERE once = $1";
        if self.database.outbox.low(event.account).is_none() {
            return Ok(());
        }
        self.database
            .run_job(move |database| async move {
                // Most of these events were written before.
                let backend = database.read.get_database_backend();
                let known =
                    Statement::from_sql_and_values(backend, KNOWN, [event.once.clone().into()]);
                let known = database.read.query_one_raw(known).await?;
                if known
                    .is_some_and(|row| row.try_get_by_index::<i64>(0).is_ok_and(|count| count > 0))
                    || outbox::listening(&database.read, &event).await?.is_empty()
                {
                    return Ok(());
                }
                let transaction = begin_write(&database.write).await?;
                outbox::write(&transaction, &event).await?;
                transaction.commit().await?;
                database.outbox.ring(true);
                Ok(())
            })
            .await
    }

    /// The accounts with an enabled endpoint.
    #[must_use]
    pub fn subscribers(&self) -> Vec<AccountId> {
        self.database.outbox.listeners.iter().map(|listener| *listener.key()).collect()
    }

    /// Keys that expired between these times, with their accounts and expiries, if the account had
    /// an enabled endpoint by then.
    pub async fn list_expired_keys(
        &self,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<(AccountId, KeyId, Timestamp)>, StoreError> {
        const SQL: &str = "SELECT account_id, id, expires_at FROM api_key
            WHERE expires_at > $1 AND expires_at <= $2 AND NOT is_revoked AND NOT is_deleted
                AND EXISTS (SELECT 1 FROM webhook_endpoint WHERE is_enabled
                    AND account_id = api_key.account_id AND created_at <= api_key.expires_at)";
        self.database
            .run(move |database| async move {
                let values = vec![from.micros().into(), until.micros().into()];
                let key = |row: &QueryResult| {
                    Ok((
                        AccountId(row.try_get_by_index(0)?),
                        KeyId(row.try_get_by_index(1)?),
                        Timestamp::from_micros(row.try_get_by_index(2)?),
                    ))
                };
                query(&database.read, SQL, values).await?.iter().map(key).collect()
            })
            .await
    }
}
