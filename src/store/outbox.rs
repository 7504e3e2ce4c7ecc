//! The outbox. An event is written in the transaction of its cause, with a delivery for each
//! endpoint that subscribes to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dashmap::DashMap;
use sea_orm::{ConnectionTrait, DbErr, Statement, Value};
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

use super::Store;
use super::sql::{Sql, column, is_postgres, json, statement};
use domain::event::{Event, EventKind, selects};
use domain::event_rules;
use domain::{AccountId, Batch, Credits, KeyId, SpendingLimits};

/// Default of the balance below which an account counts as low: 10 USD.
pub const BALANCE_LOW: Credits = Credits::from_nanos(10_000_000_000);

/// How long a changed balance waits for further changes before it is delivered, in microseconds.
const COALESCE_MICROS: i64 = 5_000_000;

/// The accounts with subscriptions, and the signal that wakes the webhook dispatcher. Accounts
/// without a subscription cost nothing.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Accounts with an endpoint, and the balance below which they count as low.
    pub(in crate::store) listeners: DashMap<AccountId, Credits>,
    /// Held while subscriptions are read and stored in `listeners`, so that an older read does not
    /// replace a newer one.
    pub(in crate::store) noting: Mutex<()>,
    pub(in crate::store) bell: Notify,
}

impl Outbox {
    /// Wakes the webhook dispatcher if something was written for it.
    pub(in crate::store) fn ring(&self, is_anything: bool) {
        if is_anything {
            self.bell.notify_one();
        }
    }

    /// Does the account's holder have a subscription?
    #[must_use]
    pub fn has_subscribers(&self, account: AccountId) -> bool {
        self.listeners.contains_key(&account)
    }

    pub(in crate::store) fn low(&self, account: AccountId) -> Option<Credits> {
        self.listeners.get(&account).map(|low| *low)
    }
}

impl Store {
    /// The outbox of this store.
    #[must_use]
    pub fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }
}

/// Writes the events of a batch. Returns whether there were any.
pub(in crate::store) async fn write_batch(
    outbox: &Outbox,
    transaction: &impl ConnectionTrait,
    batch: &Batch,
) -> Result<bool, DbErr> {
    if outbox.listeners.is_empty() {
        return Ok(false);
    }
    let limits = limits_of(outbox, transaction, batch).await?;
    let events = event_rules::of_batch(batch, &|account| outbox.low(account), &limits);
    let (balances, others): (Vec<&Event>, Vec<&Event>) =
        events.iter().partition(|event| event.kind == EventKind::BalanceUpdated);
    for event in others {
        write(transaction, event).await?;
    }
    write_balances(transaction, &balances).await?;
    Ok(!events.is_empty())
}

const ENDPOINTS: Sql = (
    "SELECT account_id, id, events FROM webhook_endpoint
    WHERE is_enabled AND account_id = ANY($1::BIGINT[])",
    "SELECT account_id, id, events FROM webhook_endpoint
    WHERE is_enabled AND account_id IN (SELECT value FROM json_each($1))",
);
const EVENTS: Sql = (
    "INSERT INTO webhook_event (id, account_id, kind, once, at, data)
    SELECT id, account_id, kind, once, at, data
    FROM UNNEST($1::UUID[], $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::BIGINT[], $6::TEXT[])
        AS row (id, account_id, kind, once, at, data)
    ON CONFLICT (once) DO UPDATE SET at = excluded.at, data = excluded.data
    RETURNING account_id, id, at",
    "INSERT INTO webhook_event (id, account_id, kind, once, at, data)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
    FROM json_each($1) WHERE TRUE
    ON CONFLICT (once) DO UPDATE SET at = excluded.at, data = excluded.data
    RETURNING account_id, id, at",
);
const DELIVERIES: Sql = (
    "INSERT INTO webhook_delivery (id, event_id, endpoint_id, status, attempts, next_at, created_at)
    SELECT id, event_id, endpoint_id, 1, 0, next_at, at
    FROM UNNEST($1::UUID[], $2::UUID[], $3::UUID[], $4::BIGINT[], $5::BIGINT[])
        AS row (id, event_id, endpoint_id, next_at, at)
    ON CONFLICT (event_id, endpoint_id) DO UPDATE
        SET status = 1, attempts = 0, next_at = excluded.next_at, ended_at = NULL
        WHERE webhook_delivery.status <> 1",
    "INSERT INTO webhook_delivery (id, event_id, endpoint_id, status, attempts, next_at, created_at)
    SELECT unhex(value ->> 0), unhex(value ->> 1), unhex(value ->> 2), 1, 0, value ->> 3, value ->> 4
    FROM json_each($1) WHERE TRUE
    ON CONFLICT (event_id, endpoint_id) DO UPDATE
        SET status = 1, attempts = 0, next_at = excluded.next_at, ended_at = NULL
        WHERE webhook_delivery.status <> 1",
);

/// The endpoints that subscribe to this kind of event, by account, for the accounts of these
/// events.
async fn endpoints_of(
    transaction: &impl ConnectionTrait,
    events: &[&Event],
    kind: EventKind,
) -> Result<BTreeMap<i64, Vec<Uuid>>, DbErr> {
    let accounts: Vec<i64> = events.iter().map(|event| event.account.0).collect();
    let values =
        if is_postgres(transaction) { accounts.into() } else { json(accounts.into_iter())? };
    let mut endpoints = BTreeMap::<i64, Vec<Uuid>>::new();
    for row in transaction.query_all_raw(statement(transaction, ENDPOINTS, vec![values])).await? {
        let selections: Option<String> = row.try_get_by_index(2)?;
        if is_selected(selections.as_deref(), kind) {
            endpoints.entry(row.try_get_by_index(0)?).or_default().push(row.try_get_by_index(1)?);
        }
    }
    Ok(endpoints)
}

/// Writes the changed balances, one for each account. Each replaces the one that was not sent yet.
/// All are written at once, because a batch may have many accounts with subscriptions.
async fn write_balances(
    transaction: &impl ConnectionTrait,
    events: &[&Event],
) -> Result<(), DbErr> {
    if events.is_empty() {
        return Ok(());
    }
    let endpoints = endpoints_of(transaction, events, EventKind::BalanceUpdated).await?;
    let told: Vec<(Uuid, &Event)> = events
        .iter()
        .filter(|event| endpoints.contains_key(&event.account.0))
        .map(|event| (Uuid::now_v7(), *event))
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    let values = if is_postgres(transaction) {
        vec![
            column(&told, |(id, _)| *id),
            column(&told, |(_, event)| event.account.0),
            column(&told, |(_, event)| event.kind.name().to_owned()),
            column(&told, |(_, event)| event.once.clone()),
            column(&told, |(_, event)| event.at.micros()),
            column(&told, |(_, event)| event.data.clone()),
        ]
    } else {
        vec![json(told.iter().map(|(id, event)| {
            let (account, kind, at) = (event.account.0, event.kind.name(), event.at.micros());
            (id.simple(), account, kind, &event.once, at, &event.data)
        }))?]
    };
    let mut deliveries = Vec::new();
    // Deliveries go to the endpoints that subscribe now, which may differ from those at the time of
    // the replaced balance.
    for row in transaction.query_all_raw(statement(transaction, EVENTS, values)).await? {
        let (account, event): (i64, Uuid) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        let at: i64 = row.try_get_by_index(2)?;
        for endpoint in endpoints.get(&account).into_iter().flatten() {
            let next_at = at.saturating_add(COALESCE_MICROS);
            deliveries.push((Uuid::now_v7(), event, *endpoint, next_at, at));
        }
    }
    write_deliveries(transaction, &deliveries).await
}

/// A delivery: its id, event, endpoint, time of the next attempt, and time of creation.
type Delivery = (Uuid, Uuid, Uuid, i64, i64);

async fn write_deliveries(
    transaction: &impl ConnectionTrait,
    deliveries: &[Delivery],
) -> Result<(), DbErr> {
    let values = if is_postgres(transaction) {
        vec![
            column(deliveries, |row| row.0),
            column(deliveries, |row| row.1),
            column(deliveries, |row| row.2),
            column(deliveries, |row| row.3),
            column(deliveries, |row| row.4),
        ]
    } else {
        vec![json(deliveries.iter().map(|(id, event, endpoint, next_at, at)| {
            (id.simple(), event.simple(), endpoint.simple(), *next_at, *at)
        }))?]
    };
    transaction.execute_raw(statement(transaction, DELIVERIES, values)).await?;
    Ok(())
}

/// The daily and monthly limits of the keys in a batch whose account holders have a subscription.
async fn limits_of(
    outbox: &Outbox,
    transaction: &impl ConnectionTrait,
    batch: &Batch,
) -> Result<BTreeMap<KeyId, SpendingLimits>, DbErr> {
    const SQL: Sql = (
        "SELECT id, daily_limit, monthly_limit FROM api_key WHERE id = ANY($1::UUID[])
            AND (daily_limit IS NOT NULL OR monthly_limit IS NOT NULL)",
        "SELECT id, daily_limit, monthly_limit FROM api_key
        WHERE id IN (SELECT unhex(value) FROM json_each($1))
            AND (daily_limit IS NOT NULL OR monthly_limit IS NOT NULL)",
    );
    let told = batch.entries.iter().filter(|entry| outbox.listeners.contains_key(&entry.account));
    let keys: BTreeSet<KeyId> = told.filter_map(|entry| entry.key).collect();
    let mut limits = BTreeMap::new();
    if keys.is_empty() {
        return Ok(limits);
    }
    let keys = if is_postgres(transaction) {
        keys.into_iter().map(|key| key.0).collect::<Vec<_>>().into()
    } else {
        json(keys.into_iter().map(|key| key.0.simple()))?
    };
    for row in transaction.query_all_raw(statement(transaction, SQL, vec![keys])).await? {
        let limit = |place| {
            Ok::<_, DbErr>(row.try_get_by_index::<Option<i64>>(place)?.map(Credits::from_nanos))
        };
        let (daily, monthly) = (limit(1)?, limit(2)?);
        let key = KeyId(row.try_get_by_index(0)?);
        limits.insert(key, SpendingLimits { daily, monthly, ..SpendingLimits::default() });
    }
    Ok(limits)
}

/// The endpoints that subscribe to an event.
pub(in crate::store) async fn listening(
    connection: &impl ConnectionTrait,
    event: &Event,
) -> Result<Vec<Uuid>, DbErr> {
    let mut endpoints = endpoints_of(connection, &[event], event.kind).await?;
    Ok(endpoints.remove(&event.account.0).unwrap_or_default())
}

/// Writes an event, and a delivery for each endpoint that subscribes to it. An event that was
/// written before is not written again.
pub(in crate::store) async fn write(
    transaction: &impl ConnectionTrait,
    event: &Event,
) -> Result<(), DbErr> {
    const INSERT: &str = "INSERT INTO webhook_event (id, account_id, kind, once, at, data)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (once) DO NOTHING";
    let listening = listening(transaction, event).await?;
    if listening.is_empty() {
        return Ok(());
    }
    let id = Uuid::now_v7();
    let values: Vec<Value> = vec![
        id.into(),
        event.account.0.into(),
        event.kind.name().into(),
        event.once.clone().into(),
        event.at.micros().into(),
        event.data.clone().into(),
    ];
    let backend = transaction.get_database_backend();
    let insert = Statement::from_sql_and_values(backend, INSERT, values);
    if transaction.execute_raw(insert).await?.rows_affected() == 1 {
        for endpoint in listening {
            insert_delivery(transaction, id, endpoint, event.at.micros()).await?;
        }
    }
    Ok(())
}

/// Writes a delivery that is attempted at once, unless one is pending already.
pub(in crate::store) async fn insert_delivery(
    transaction: &impl ConnectionTrait,
    event: Uuid,
    endpoint: Uuid,
    at: i64,
) -> Result<Uuid, DbErr> {
    let id = Uuid::now_v7();
    write_deliveries(transaction, &[(id, event, endpoint, at, at)]).await?;
    Ok(id)
}

/// Does an endpoint with these selections subscribe to this kind? Without selections it subscribes
/// to all.
fn is_selected(selections: Option<&str>, kind: EventKind) -> bool {
    let Some(selections) = selections else { return true };
    let selections: Vec<String> = serde_json::from_str(selections).unwrap_or_default();
    selections.iter().any(|selection| selects(selection, kind))
}
