//! The outbox: events are written in the transaction of what they tell of, with a delivery for each endpoint that
//! listens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, Value};
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::event::{self, Event, EventKind, selects};
use crate::domain::{AccountId, Batch, Credits, KeyId, SpendingLimits};

/// Below which balance an account counts as low, unless its holder has said otherwise: 10 USD.
pub const BALANCE_LOW: Credits = Credits::from_nanos(10_000_000_000);
/// Between two tries to read who listens.
const AGAIN: Duration = Duration::from_millis(500);
const LISTENERS: &str = "SELECT webhook_endpoint.account_id, notice.balance_low
    FROM webhook_endpoint LEFT JOIN notice ON notice.account_id = webhook_endpoint.account_id
    WHERE webhook_endpoint.is_enabled";

fn listener(row: &QueryResult) -> Result<(AccountId, Credits), DbErr> {
    let low: Option<i64> = row.try_get_by_index(1)?;
    Ok((AccountId(row.try_get_by_index(0)?), low.map_or(BALANCE_LOW, Credits::from_nanos)))
}

/// How long a changed balance waits for further changes before it is told, in microseconds.
const COALESCE_MICROS: i64 = 5_000_000;

/// Who listens, so that those who do not cost nothing, and what wakes the deliveries.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Accounts with an endpoint, and below which balance they count as low.
    listeners: DashMap<AccountId, Credits>,
    /// Who listens is read and noted by one at a time: what was read first must not be noted last.
    noting: Mutex<()>,
    bell: Notify,
}

impl Outbox {
    /// Wakes the deliveries, if anything was written for them.
    pub(super) fn ring(&self, is_anything: bool) {
        if is_anything {
            self.bell.notify_one();
        }
    }

    /// Does this account's holder listen?
    #[must_use]
    pub fn is_told(&self, account: AccountId) -> bool {
        self.listeners.contains_key(&account)
    }

    fn low(&self, account: AccountId) -> Option<Credits> {
        self.listeners.get(&account).map(|low| *low)
    }
}

impl Store {
    /// Waits until something was written for delivery.
    pub async fn events_written(&self) {
        self.outbox.bell.notified().await;
    }

    /// Wakes the deliveries.
    pub fn ring_for_events(&self) {
        self.outbox.ring(true);
    }

    /// Reads anew who listens.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn load_listeners(&self) -> Result<(), StoreError> {
        let sql = format!("{LISTENERS} GROUP BY webhook_endpoint.account_id, notice.balance_low");
        self.run(move |store| async move {
            let _one_at_a_time = store.outbox.noting.lock().await;
            let backend = store.read.get_database_backend();
            let rows = store.read.query_all_raw(Statement::from_string(backend, sql)).await?;
            let listening = rows.iter().map(listener).collect::<Result<BTreeMap<_, _>, _>>()?;
            store.outbox.listeners.retain(|account, _| listening.contains_key(account));
            for (account, low) in listening {
                store.outbox.listeners.insert(account, low);
            }
            Ok(())
        })
        .await
    }

    /// Notes whether this account's holder listens, after that was changed. Where it cannot be read now, it is tried
    /// again until it can: what was changed is on record, and must not be taken for undone.
    pub(super) async fn note_listener(&self, account: AccountId) {
        if let Err(error) = self.load_listener(account).await {
            tracing::warn!(%account, %error, "who listens is not known yet");
            let store = self.clone();
            self.runtime().spawn(async move {
                while store.load_listener(account).await.is_err() {
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
    }

    async fn load_listener(&self, account: AccountId) -> Result<(), StoreError> {
        let sql = format!("{LISTENERS} AND webhook_endpoint.account_id = $1 LIMIT 1");
        self.run(move |store| async move {
            let _one_at_a_time = store.outbox.noting.lock().await;
            let backend = store.read.get_database_backend();
            let statement = Statement::from_sql_and_values(backend, sql, [account.0.into()]);
            match store.read.query_one_raw(statement).await? {
                Some(row) => {
                    let (account, low) = listener(&row)?;
                    store.outbox.listeners.insert(account, low);
                }
                None => drop(store.outbox.listeners.remove(&account)),
            }
            Ok(())
        })
        .await
    }

    /// Writes an event that tells of nothing else that is written.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn tell(&self, event: Event) -> Result<(), StoreError> {
        const KNOWN: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM webhook_event WHERE once = $1";
        if self.outbox.low(event.account).is_none() {
            return Ok(());
        }
        self.run_write(move |store| async move {
            // What is looked for again and again is mostly told already.
            let backend = store.read.get_database_backend();
            let known = Statement::from_sql_and_values(backend, KNOWN, [event.once.clone().into()]);
            let known = store.read.query_one_raw(known).await?;
            if known.is_some_and(|row| row.try_get_by_index::<i64>(0).is_ok_and(|count| count > 0))
                || listening(&store.read, &event).await?.is_empty()
            {
                return Ok(());
            }
            let transaction = super::lease::begin_write(&store.write).await?;
            write(&transaction, &event).await?;
            transaction.commit().await?;
            store.outbox.ring(true);
            Ok(())
        })
        .await
    }

    /// Who listens.
    #[must_use]
    pub fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// The accounts whose holders listen.
    #[must_use]
    pub fn listeners(&self) -> Vec<AccountId> {
        self.outbox.listeners.iter().map(|listener| *listener.key()).collect()
    }
}

/// Writes what is told of a batch; was there anything?
pub(super) async fn write_batch(
    outbox: &Outbox,
    transaction: &impl ConnectionTrait,
    batch: &Batch,
) -> Result<bool, DbErr> {
    if outbox.listeners.is_empty() {
        return Ok(false);
    }
    let limits = limits_of(outbox, transaction, batch).await?;
    let events = event::of_batch(batch, &|account| outbox.low(account), &limits);
    for event in &events {
        write(transaction, event).await?;
    }
    Ok(!events.is_empty())
}

/// The ceilings of the keys of a batch whose account holders listen.
async fn limits_of(
    outbox: &Outbox,
    transaction: &impl ConnectionTrait,
    batch: &Batch,
) -> Result<BTreeMap<KeyId, SpendingLimits>, DbErr> {
    const SQL: &str = "SELECT daily_limit, monthly_limit FROM api_key WHERE id = $1
        AND (daily_limit IS NOT NULL OR monthly_limit IS NOT NULL)";
    let told = batch.entries.iter().filter(|entry| outbox.listeners.contains_key(&entry.account));
    let keys: std::collections::BTreeSet<KeyId> = told.filter_map(|entry| entry.key).collect();
    let mut limits = BTreeMap::new();
    let backend = transaction.get_database_backend();
    for key in keys {
        let statement = Statement::from_sql_and_values(backend, SQL, [key.0.into()]);
        if let Some(row) = transaction.query_one_raw(statement).await? {
            let limit = |place| {
                Ok::<_, DbErr>(row.try_get_by_index::<Option<i64>>(place)?.map(Credits::from_nanos))
            };
            let (daily, monthly) = (limit(0)?, limit(1)?);
            limits.insert(key, SpendingLimits { daily, monthly, ..SpendingLimits::default() });
        }
    }
    Ok(limits)
}

/// The endpoints that listen for an event.
async fn listening(connection: &impl ConnectionTrait, event: &Event) -> Result<Vec<Uuid>, DbErr> {
    const SQL: &str = "SELECT id, events FROM webhook_endpoint
        WHERE account_id = $1 AND is_enabled";
    let backend = connection.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, SQL, [event.account.0.into()]);
    let mut listening = Vec::new();
    for row in connection.query_all_raw(statement).await? {
        let selections: Option<String> = row.try_get_by_index(1)?;
        if is_selected(selections.as_deref(), event.kind) {
            listening.push(row.try_get_by_index::<Uuid>(0)?);
        }
    }
    Ok(listening)
}

/// Writes an event, and a delivery to each endpoint that listens for it. What was told already is not told again; a
/// changed balance takes the place of the one that was not sent yet.
pub(super) async fn write(transaction: &impl ConnectionTrait, event: &Event) -> Result<(), DbErr> {
    const INSERT: &str = "INSERT INTO webhook_event (id, account_id, kind, once, at, data)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (once) DO NOTHING";
    const REPLACE: &str =
        "UPDATE webhook_event SET at = $1, data = $2 WHERE once = $3 RETURNING id";
    let backend = transaction.get_database_backend();
    let statement = |sql: &str, values| Statement::from_sql_and_values(backend, sql, values);
    let listening = listening(transaction, event).await?;
    if listening.is_empty() {
        return Ok(());
    }
    let is_coalesced = event.kind == EventKind::BalanceUpdated;
    let wait = if is_coalesced { COALESCE_MICROS } else { 0 };
    // Twice at most: the balance before may be sent between the two.
    for _ in 0..2 {
        let id = Uuid::now_v7();
        let values: Vec<Value> = vec![
            id.into(),
            event.account.0.into(),
            event.kind.name().into(),
            event.once.clone().into(),
            event.at.micros().into(),
            event.data.clone().into(),
        ];
        if transaction.execute_raw(statement(INSERT, values)).await?.rows_affected() == 1 {
            for endpoint in listening {
                insert_delivery(transaction, id, endpoint, event.at.micros(), wait).await?;
            }
            return Ok(());
        }
        if !is_coalesced {
            return Ok(());
        }
        let values: Vec<Value> =
            vec![event.at.micros().into(), event.data.clone().into(), event.once.clone().into()];
        if let Some(row) = transaction.query_one_raw(statement(REPLACE, values)).await? {
            // To those who listen now: they need not be those of then.
            let id: Uuid = row.try_get_by_index(0)?;
            for endpoint in listening {
                insert_delivery(transaction, id, endpoint, event.at.micros(), wait).await?;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// A delivery that is to be tried `wait` microseconds later, where none waits already.
pub(super) async fn insert_delivery(
    transaction: &impl ConnectionTrait,
    event: Uuid,
    endpoint: Uuid,
    at: i64,
    wait: i64,
) -> Result<Uuid, DbErr> {
    const SQL: &str = "INSERT INTO webhook_delivery
            (id, event_id, endpoint_id, status, attempts, next_at, created_at)
        VALUES ($1, $2, $3, 1, 0, $4, $5)
        ON CONFLICT (event_id, endpoint_id) DO UPDATE
            SET status = 1, attempts = 0, next_at = excluded.next_at, ended_at = NULL
            WHERE webhook_delivery.status <> 1";
    let id = Uuid::now_v7();
    let next_at = at.saturating_add(wait);
    let values = [id.into(), event.into(), endpoint.into(), next_at.into(), at.into()];
    let backend = transaction.get_database_backend();
    transaction.execute_raw(Statement::from_sql_and_values(backend, SQL, values)).await?;
    Ok(id)
}

/// Does an endpoint with these selections listen for this kind?
fn is_selected(selections: Option<&str>, kind: EventKind) -> bool {
    let Some(selections) = selections else { return true };
    let selections: Vec<String> = serde_json::from_str(selections).unwrap_or_default();
    selections.iter().any(|selection| selects(selection, kind))
}
