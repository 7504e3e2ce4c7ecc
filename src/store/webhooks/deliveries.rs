//! Deliveries of events to endpoints, and the attempts of each.

use std::fmt::Write as _;

use sea_orm::{DatabaseConnection, QueryResult, Value};
use uuid::Uuid;

use super::WebhookStore;
use super::record::{
    Attempt, DeliveryFilter, DeliveryLog, Destination, DueDelivery, DueEndpoint, EventToSend,
    Verdict,
};
use crate::store::StoreError;
use crate::store::connections::{CHUNK, execute, query};
use crate::store::outbox::insert_delivery;
use crate::store::sql::begin_write;
use domain::delivery::DeliveryStatus;
use domain::event::test_data;
use domain::{AccountId, DeliveryId, EndpointId, EventId, EventKind, Timestamp};

const ATTEMPT: &str = "INSERT INTO webhook_attempt
        (delivery_id, number, at, status, error, answer, latency_micros)
    SELECT $1, COALESCE(MAX(number), 0) + 1, $2, $3, $4, $5, $6 FROM webhook_attempt
    WHERE delivery_id = $1";
const DELIVERY: &str = "UPDATE webhook_delivery SET attempts = attempts + 1, status = $1,
        next_at = $2, ended_at = $3
    WHERE id = $4";
const WELL: &str = "UPDATE webhook_endpoint SET failing_since = NULL WHERE id = $1
    AND failing_since IS NOT NULL";
const FAILING: &str = "UPDATE webhook_endpoint SET failing_since = COALESCE(failing_since, $1)
    WHERE id = $2";
const SWITCH_OFF: &str = "UPDATE webhook_endpoint SET is_enabled = FALSE, switched_off_at = $1
    WHERE id = $2 AND is_enabled AND (failing_since <= $3 OR $4)";
pub(super) const GIVE_UP: &str =
    "UPDATE webhook_delivery SET status = 3, next_at = NULL, ended_at = $1
    WHERE endpoint_id = $2 AND status = 1";

/// Test events of one endpoint that are on their way. They cost nothing.
const TESTS_PENDING_MAX: i64 = 5;

/// The columns of [`logged`].
const DELIVERY_COLUMNS: &str = "d.id, d.event_id, e.kind, d.status, d.next_at, d.created_at";

/// A delivery of a row, with its attempts.
async fn logged(
    connection: &DatabaseConnection,
    row: &QueryResult,
) -> Result<DeliveryLog, StoreError> {
    const ATTEMPTS: &str = "SELECT at, status, error, answer, latency_micros FROM webhook_attempt
        WHERE delivery_id = $1 ORDER BY number";
    let id: Uuid = row.try_get_by_index(0)?;
    let attempts = query(connection, ATTEMPTS, vec![id.into()]).await?;
    let attempts = attempts.iter().map(attempt).collect::<Result<_, _>>()?;
    let status = DeliveryStatus::from_code(row.try_get_by_index(3)?);
    let next_at: Option<i64> = row.try_get_by_index(4)?;
    Ok(DeliveryLog {
        id: DeliveryId(id),
        event: EventId(row.try_get_by_index(1)?),
        kind: row.try_get_by_index(2)?,
        status: status
            .ok_or_else(|| StoreError::Corrupt("a delivery has an unknown status".into()))?,
        next_at: next_at.map(Timestamp::from_micros),
        created_at: Timestamp::from_micros(row.try_get_by_index(5)?),
        attempts,
    })
}

impl WebhookStore {
    /// Writes a test event for one endpoint. Returns the id of its delivery. If as many as may are
    /// on their way, writes none and returns the last one.
    pub async fn insert_test_event(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        at: Timestamp,
    ) -> Result<DeliveryId, StoreError> {
        const SQL: &str = "INSERT INTO webhook_event (id, account_id, kind, once, at, data)
            VALUES ($1, $2, $3, $4, $5, $6)";
        const PENDING: &str = "SELECT d.id FROM webhook_delivery AS d
            INNER JOIN webhook_event AS e ON e.id = d.event_id
            WHERE d.endpoint_id = $1 AND d.next_at IS NOT NULL AND e.kind = $2
            ORDER BY d.id DESC LIMIT $3";
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let (id, kind) = (Uuid::now_v7(), EventKind::Test.name());
                let values = vec![endpoint.0.into(), kind.into(), TESTS_PENDING_MAX.into()];
                let pending = query(&transaction, PENDING, values).await?;
                if i64::try_from(pending.len()).is_ok_and(|count| count >= TESTS_PENDING_MAX)
                    && let Some(last) = pending.first()
                {
                    return Ok(DeliveryId(last.try_get_by_index(0)?));
                }
                let values = vec![
                    id.into(),
                    account.0.into(),
                    kind.into(),
                    format!("{kind}:{id}").into(),
                    at.micros().into(),
                    test_data(endpoint).into(),
                ];
                execute(&transaction, SQL, values).await?;
                let delivery = insert_delivery(&transaction, id, endpoint.0, at.micros()).await?;
                transaction.commit().await?;
                database.outbox.ring(true);
                Ok(DeliveryId(delivery))
            })
            .await
    }

    /// Deliveries of an endpoint with their attempts, latest first; only those before `before`, if
    /// it is given.
    pub async fn list_deliveries(
        &self,
        endpoint: EndpointId,
        before: Option<DeliveryId>,
        limit: u64,
        filter: DeliveryFilter,
    ) -> Result<Vec<DeliveryLog>, StoreError> {
        self.database
            .run(move |database| async move {
                let before = before.map_or(Uuid::max(), |id| id.0);
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let mut values = vec![endpoint.0.into(), before.into(), limit.into()];
                let mut conditions = String::new();
                let status: Option<Value> = filter.status.map(|status| status.code().into());
                let kind: Option<Value> = filter.kind.map(|kind| kind.name().into());
                for (column, value) in [("d.status", status), ("e.kind", kind)] {
                    if let Some(value) = value {
                        values.push(value);
                        let _ = write!(conditions, " AND {column} = ${}", values.len());
                    }
                }
                let sql = format!(
                    "SELECT {DELIVERY_COLUMNS}
                    FROM webhook_delivery AS d INNER JOIN webhook_event AS e ON e.id = d.event_id
                    WHERE d.endpoint_id = $1 AND d.id < $2{conditions}
                    ORDER BY d.id DESC LIMIT $3"
                );
                let mut log = Vec::new();
                for row in query(&database.read, &sql, values).await? {
                    log.push(logged(&database.read, &row).await?);
                }
                Ok(log)
            })
            .await
    }

    /// One delivery of an endpoint, with what is sent and with what it is signed now.
    pub async fn find_delivery(
        &self,
        endpoint: EndpointId,
        delivery: DeliveryId,
        now: Timestamp,
    ) -> Result<Option<(DeliveryLog, EventToSend, Destination)>, StoreError> {
        self.database
            .run(move |database| async move {
                let sql = format!(
                    "SELECT {DELIVERY_COLUMNS}, e.at, e.data, w.secret, w.former_secret,
                        w.former_until, w.url
                    FROM webhook_delivery AS d INNER JOIN webhook_event AS e ON e.id = d.event_id
                    INNER JOIN webhook_endpoint AS w ON w.id = d.endpoint_id
                    WHERE d.endpoint_id = $1 AND d.id = $2"
                );
                let values = vec![endpoint.0.into(), delivery.0.into()];
                let rows = query(&database.read, &sql, values).await?;
                let Some(row) = rows.first() else { return Ok(None) };
                let event = EventToSend {
                    at: Timestamp::from_micros(row.try_get_by_index(6)?),
                    data: row.try_get_by_index(7)?,
                };
                let former: Option<Vec<u8>> = row.try_get_by_index(9)?;
                let until: Option<i64> = row.try_get_by_index(10)?;
                let destination = Destination {
                    url: row.try_get_by_index(11)?,
                    secret: row.try_get_by_index(8)?,
                    former: former.filter(|_| until.is_some_and(|until| until > now.micros())),
                };
                Ok(Some((logged(&database.read, row).await?, event, destination)))
            })
            .await
    }

    /// Makes a delivery of an endpoint due again, in any state. Returns whether it exists.
    pub async fn redeliver(
        &self,
        endpoint: EndpointId,
        delivery: DeliveryId,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE webhook_delivery SET status = 1, next_at = $1, ended_at = NULL
            WHERE id = $2 AND endpoint_id = $3";
        self.database
            .run_write(move |database| async move {
                let values = vec![at.micros().into(), delivery.0.into(), endpoint.0.into()];
                let is_there = execute(&database.write, SQL, values).await? == 1;
                database.outbox.ring(true);
                Ok(is_there)
            })
            .await
    }

    /// Endpoints with a due delivery, except those in `but`. Those that have waited longest come
    /// first.
    pub async fn list_due_endpoints(
        &self,
        now: Timestamp,
        but: Vec<EndpointId>,
    ) -> Result<Vec<DueEndpoint>, StoreError> {
        // One index lookup for each endpoint, no matter how many deliveries are due.
        const SQL: &str = "SELECT id, account_id, is_failing FROM (
                SELECT id, account_id, failing_since IS NOT NULL AS is_failing, (SELECT MIN(next_at) FROM webhook_delivery
                    WHERE endpoint_id = webhook_endpoint.id AND next_at IS NOT NULL) AS first
                FROM webhook_endpoint WHERE is_enabled) AS waiting
            WHERE first <= $1 ORDER BY first";
        self.database
            .run(move |database| async move {
                let due = |row: &QueryResult| {
                    Ok::<_, StoreError>(DueEndpoint {
                        id: EndpointId(row.try_get_by_index(0)?),
                        account: AccountId(row.try_get_by_index(1)?),
                        is_failing: row.try_get_by_index(2)?,
                    })
                };
                let mut found = Vec::new();
                for row in &query(&database.read, SQL, vec![now.micros().into()]).await? {
                    found.push(due(row)?);
                }
                found.retain(|endpoint| !but.contains(&endpoint.id));
                Ok(found)
            })
            .await
    }

    /// Due deliveries of an endpoint. Those that have waited longest come first.
    pub async fn list_due_deliveries(
        &self,
        endpoint: DueEndpoint,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DueDelivery>, StoreError> {
        const SQL: &str = "SELECT d.id, d.attempts, d.event_id, e.kind
            FROM webhook_delivery AS d INNER JOIN webhook_event AS e ON e.id = d.event_id
            WHERE d.endpoint_id = $1 AND d.next_at <= $2
            ORDER BY d.next_at, d.id LIMIT $3";
        self.database
            .run(move |database| async move {
                let due = |row: &QueryResult| {
                    Ok(DueDelivery {
                        id: DeliveryId(row.try_get_by_index(0)?),
                        endpoint: endpoint.id,
                        account: endpoint.account,
                        attempts: row.try_get_by_index(1)?,
                        event: EventId(row.try_get_by_index(2)?),
                        kind: row.try_get_by_index(3)?,
                    })
                };
                let values =
                    vec![endpoint.id.0.into(), now.micros().into(), i64::from(limit).into()];
                query(&database.read, SQL, values).await?.iter().map(due).collect()
            })
            .await
    }

    /// The content and the destination of a delivery; `None` if the event or the endpoint is gone.
    /// From now on a newer event does not replace the content.
    pub async fn claim_event(
        &self,
        event: EventId,
        endpoint: EndpointId,
        now: Timestamp,
    ) -> Result<Option<(EventToSend, Destination)>, StoreError> {
        const CLAIM: &str = "UPDATE webhook_event SET once = once || $1
            WHERE id = $2 AND kind = 'balance.updated' AND once = 'balance.updated:' || account_id";
        const EVENT: &str = "SELECT at, data FROM webhook_event WHERE id = $1";
        const ENDPOINT: &str = "SELECT secret, former_secret, former_until, url
            FROM webhook_endpoint WHERE id = $1 AND is_enabled";
        self.database
            .run_job(move |database| async move {
                execute(&database.write, CLAIM, vec![format!(":{event}").into(), event.0.into()])
                    .await?;
                let events = query(&database.write, EVENT, vec![event.0.into()]).await?;
                let endpoints = query(&database.write, ENDPOINT, vec![endpoint.0.into()]).await?;
                let (Some(event), Some(endpoint)) = (events.first(), endpoints.first()) else {
                    return Ok(None);
                };
                let until: Option<i64> = endpoint.try_get_by_index(2)?;
                let former: Option<Vec<u8>> = endpoint.try_get_by_index(1)?;
                let event = EventToSend {
                    at: Timestamp::from_micros(event.try_get_by_index(0)?),
                    data: event.try_get_by_index(1)?,
                };
                let destination = Destination {
                    url: endpoint.try_get_by_index(3)?,
                    secret: endpoint.try_get_by_index(0)?,
                    former: former.filter(|_| until.is_some_and(|until| until > now.micros())),
                };
                Ok(Some((event, destination)))
            })
            .await
    }

    /// Records an attempt and the delivery's new state. An endpoint is switched off if a delivery
    /// was given up and the endpoint has failed since before `dead_since`, or answered 410. Then
    /// all its deliveries are given up. Returns whether it was switched off.
    pub async fn record_attempt(
        &self,
        delivery: DueDelivery,
        attempt: Attempt,
        verdict: Verdict,
        dead_since: Timestamp,
    ) -> Result<bool, StoreError> {
        let account = delivery.account;
        let is_switched_off = self
            .database
            .run_job(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let (at, endpoint) = (attempt.at.micros(), delivery.endpoint.0);
                let is_gone = attempt.status == Some(410);
                let status = attempt.status.and_then(|status| i16::try_from(status).ok());
                let values = vec![
                    delivery.id.0.into(),
                    at.into(),
                    status.into(),
                    attempt.error.into(),
                    attempt.answer.into(),
                    attempt.latency_micros.into(),
                ];
                execute(&transaction, ATTEMPT, values).await?;
                let (status, next_at) = match verdict {
                    Verdict::Delivered => (DeliveryStatus::Delivered, None),
                    Verdict::Again(at) => (DeliveryStatus::Pending, Some(at.micros())),
                    Verdict::GivenUp => (DeliveryStatus::Failed, None),
                };
                let ended_at = next_at.is_none().then_some(at);
                let values = vec![
                    status.code().into(),
                    next_at.into(),
                    ended_at.into(),
                    delivery.id.0.into(),
                ];
                execute(&transaction, DELIVERY, values).await?;
                let mut is_switched_off = false;
                if verdict == Verdict::Delivered {
                    execute(&transaction, WELL, vec![endpoint.into()]).await?;
                } else {
                    execute(&transaction, FAILING, vec![at.into(), endpoint.into()]).await?;
                    if verdict == Verdict::GivenUp {
                        let values = vec![
                            at.into(),
                            endpoint.into(),
                            dead_since.micros().into(),
                            is_gone.into(),
                        ];
                        is_switched_off = execute(&transaction, SWITCH_OFF, values).await? == 1;
                    }
                    if is_switched_off {
                        execute(&transaction, GIVE_UP, vec![at.into(), endpoint.into()]).await?;
                    }
                }
                transaction.commit().await?;
                Ok(is_switched_off)
            })
            .await?;
        if is_switched_off {
            self.refresh_subscriber(account).await;
        }
        Ok(is_switched_off)
    }

    /// Deletes a chunk of the events from before `before` that have no pending delivery. Returns
    /// whether there may be more.
    pub async fn delete_old_events(&self, before: Timestamp) -> Result<bool, StoreError> {
        self.database
            .run_job(move |database| async move {
                let sql = format!(
                    "DELETE FROM webhook_event WHERE id IN (
                    SELECT id FROM webhook_event WHERE at < $1 AND NOT EXISTS (
                        SELECT 1 FROM webhook_delivery
                        WHERE event_id = webhook_event.id AND status = 1) LIMIT {CHUNK})"
                );
                Ok(execute(&database.write, &sql, vec![before.micros().into()]).await? == CHUNK)
            })
            .await
    }
}

fn attempt(row: &QueryResult) -> Result<Attempt, StoreError> {
    let status: Option<i16> = row.try_get_by_index(1)?;
    Ok(Attempt {
        at: Timestamp::from_micros(row.try_get_by_index(0)?),
        status: status.and_then(|status| u16::try_from(status).ok()),
        error: row.try_get_by_index(2)?,
        answer: row.try_get_by_index(3)?,
        latency_micros: row.try_get_by_index(4)?,
    })
}
