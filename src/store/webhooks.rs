//! Webhook endpoints, and what became of each delivery.

use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, Value};
use uuid::Uuid;

use super::outbox::insert_delivery;
use super::sql::begin_write;
use super::{Store, StoreError, audit_log};
use domain::delivery::DeliveryStatus;
use domain::{
    AccountId, Act, Credits, DeliveryId, EndpointId, Environment, EventId, EventKind, Timestamp,
};

/// Rows deleted at once.
const PIECE: u64 = 500;

/// An endpoint as stored.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Whose events it is told.
    pub account: AccountId,
    /// Live or test.
    pub environment: Environment,
    /// Where it is.
    pub url: String,
    /// What its owner says of it.
    pub description: String,
    /// Which events it is told; `None` is all.
    pub events: Option<Vec<String>>,
    /// Is it told anything?
    pub is_enabled: bool,
    /// When the server switched it off, since it did not answer.
    pub switched_off_at: Option<Timestamp>,
    /// Since when it has failed.
    pub failing_since: Option<Timestamp>,
    /// Until when its former secret signs as well.
    pub former_until: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Where an endpoint is, and what signs its deliveries, sealed.
#[derive(Clone)]
pub struct Destination {
    /// Where.
    pub url: String,
    /// The secret.
    pub secret: Vec<u8>,
    /// The one before, while it is good.
    pub former: Option<Vec<u8>>,
}

/// An endpoint to be stored.
pub struct NewEndpoint {
    /// As it will be seen.
    pub endpoint: Endpoint,
    /// Its secret, sealed.
    pub secret: Vec<u8>,
}

/// A change of an endpoint; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct EndpointChange {
    /// Where it is.
    pub url: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Which events it is told; `None` inside is all.
    pub events: Option<Option<Vec<String>>>,
    /// Is it told anything?
    pub is_enabled: Option<bool>,
}

/// An endpoint for which something is due.
#[derive(Clone, Copy, Debug)]
pub struct DueEndpoint {
    /// Which.
    pub id: EndpointId,
    /// Whose.
    pub account: AccountId,
}

/// A delivery that is due.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// To whom.
    pub endpoint: EndpointId,
    /// Whose.
    pub account: AccountId,
    /// Tries so far.
    pub attempts: i32,
    /// Of which event.
    pub event: EventId,
    /// Its kind.
    pub kind: String,
}

/// What a delivery tells, as it is now.
#[derive(Clone, Debug)]
pub struct EventToSend {
    /// When it happened.
    pub at: Timestamp,
    /// The rest, as JSON.
    pub data: String,
}

/// One try of a delivery.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// The status answered, if there was an answer.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// How the answer began.
    pub answer: String,
    /// How long it took, in microseconds.
    pub latency_micros: i64,
}

/// What becomes of a delivery after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken.
    Delivered,
    /// It is tried again then.
    Again(Timestamp),
    /// It is given up.
    GivenUp,
}

/// A delivery with its tries.
#[derive(Clone, Debug)]
pub struct DeliveryLog {
    /// Its id.
    pub id: DeliveryId,
    /// Of which event.
    pub event: EventId,
    /// The event's kind.
    pub kind: String,
    /// How far it has come.
    pub status: DeliveryStatus,
    /// When it is tried next.
    pub next_at: Option<Timestamp>,
    /// When it was written.
    pub created_at: Timestamp,
    /// Its tries, in order.
    pub attempts: Vec<Attempt>,
}

const ENDPOINT: &str =
    "SELECT w.id, w.account_id, account.environment, w.url, w.description, w.events,
    w.is_enabled, w.switched_off_at, w.failing_since, w.former_until, w.created_at
    FROM webhook_endpoint AS w INNER JOIN account ON account.id = w.account_id";

impl Store {
    /// Writes an endpoint, unless its account has as many as it may have.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn add_endpoint(
        &self,
        new: NewEndpoint,
        endpoints_max: u64,
        act: Act,
    ) -> Result<bool, StoreError> {
        const COUNT: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM webhook_endpoint
            WHERE account_id = $1 AND deleted_at IS NULL";
        const INSERT: &str = "INSERT INTO webhook_endpoint
                (id, account_id, url, description, events, secret, is_enabled, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, TRUE, $7)";
        let account = new.endpoint.account;
        let is_added = self
            .run_write(move |store| async move {
                let transaction = begin_write(&store.write).await?;
                let rows = query(&transaction, COUNT, vec![account.0.into()]).await?;
                let count: i64 =
                    rows.first().map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(0);
                if u64::try_from(count).unwrap_or(u64::MAX) >= endpoints_max {
                    return Ok(false);
                }
                let NewEndpoint { endpoint, secret } = new;
                let values = vec![
                    endpoint.id.0.into(),
                    account.0.into(),
                    endpoint.url.into(),
                    endpoint.description.into(),
                    selections(endpoint.events).into(),
                    secret.into(),
                    endpoint.created_at.micros().into(),
                ];
                run(&transaction, INSERT, values).await?;
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await?;
                Ok(true)
            })
            .await?;
        self.note_listener(account).await;
        Ok(is_added)
    }

    /// The endpoints of these accounts, oldest first, or one of them.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list_endpoints(
        &self,
        accounts: [AccountId; 2],
        only: Option<EndpointId>,
    ) -> Result<Vec<Endpoint>, StoreError> {
        let sql = format!(
            "{ENDPOINT} WHERE w.account_id IN ($1, $2) AND w.deleted_at IS NULL AND (w.id = $3 OR $4)
            ORDER BY w.created_at, w.id"
        );
        self.run(move |store| async move {
            let [live, test] = accounts;
            let id = only.map_or(Uuid::nil(), |id| id.0);
            let values = vec![live.0.into(), test.0.into(), id.into(), only.is_none().into()];
            query(&store.read, &sql, values).await?.iter().map(endpoint).collect()
        })
        .await
    }

    /// Changes an endpoint of an account; is there one? Switched on, it begins anew; switched off, what waited for it is
    /// given up.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn change_endpoint(
        &self,
        account: AccountId,
        id: EndpointId,
        change: EndpointChange,
        act: Act,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE webhook_endpoint SET url = COALESCE($1, url),
                description = COALESCE($2, description),
                events = CASE WHEN $3 THEN $4 ELSE events END,
                switched_off_at = CASE WHEN $5 THEN NULL ELSE switched_off_at END,
                failing_since = CASE WHEN $5 THEN NULL ELSE failing_since END,
                is_enabled = CASE WHEN $5 THEN TRUE WHEN $6 THEN FALSE ELSE is_enabled END
            WHERE id = $7 AND account_id = $8 AND deleted_at IS NULL";
        let is_there = self
            .run_write(move |store| async move {
                let transaction = begin_write(&store.write).await?;
                let EndpointChange { url, description, events, is_enabled } = change;
                let values = vec![
                    url.into(),
                    description.into(),
                    events.is_some().into(),
                    events.and_then(selections).into(),
                    (is_enabled == Some(true)).into(),
                    (is_enabled == Some(false)).into(),
                    id.0.into(),
                    account.0.into(),
                ];
                let is_there = run(&transaction, SQL, values).await? == 1;
                if is_there {
                    if is_enabled == Some(false) {
                        let values = vec![act.at.micros().into(), id.0.into()];
                        run(&transaction, GIVE_UP, values).await?;
                    }
                    audit_log::insert(&transaction, &act).await?;
                }
                transaction.commit().await?;
                Ok(is_there)
            })
            .await?;
        self.note_listener(account).await;
        Ok(is_there)
    }

    /// Deletes an endpoint of an account; was there one? Nothing is delivered to it from now on. Its rows go later, a
    /// piece at a time: there may be very many.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn delete_endpoint(
        &self,
        account: AccountId,
        id: EndpointId,
        act: Act,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE webhook_endpoint SET is_enabled = FALSE, deleted_at = $1
            WHERE id = $2 AND account_id = $3 AND deleted_at IS NULL";
        let was_there = self
            .run_write(move |store| async move {
                let transaction = begin_write(&store.write).await?;
                let values = vec![act.at.micros().into(), id.0.into(), account.0.into()];
                let was_there = run(&transaction, SQL, values).await? == 1;
                if was_there {
                    audit_log::insert(&transaction, &act).await?;
                }
                transaction.commit().await?;
                Ok(was_there)
            })
            .await?;
        self.note_listener(account).await;
        Ok(was_there)
    }

    /// Deletes the rows of endpoints that were deleted before `before`, a piece at a time; may there be more? By then
    /// nobody writes a delivery for them any more, who saw them before they were deleted.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget_endpoints(&self, before: Timestamp) -> Result<bool, StoreError> {
        const GONE: &str = "SELECT id FROM webhook_endpoint WHERE deleted_at < $1 LIMIT 1";
        const ENDPOINT: &str = "DELETE FROM webhook_endpoint WHERE id = $1";
        self.run(move |store| async move {
            let gone = query(&store.read, GONE, vec![before.micros().into()]).await?;
            let Some(row) = gone.first() else { return Ok(false) };
            let id: Uuid = row.try_get_by_index(0)?;
            let sql = format!(
                "DELETE FROM webhook_delivery WHERE id IN (
                    SELECT id FROM webhook_delivery WHERE endpoint_id = $1 LIMIT {PIECE})"
            );
            if run(&store.write, &sql, vec![id.into()]).await? == 0 {
                run(&store.write, ENDPOINT, vec![id.into()]).await?;
            }
            Ok(true)
        })
        .await
    }

    /// Gives an endpoint another secret; the one before signs as well until `former_until`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn rotate_endpoint_secret(
        &self,
        account: AccountId,
        id: EndpointId,
        secret: Vec<u8>,
        former_until: Timestamp,
        act: Act,
    ) -> Result<bool, StoreError> {
        const SQL: &str =
            "UPDATE webhook_endpoint SET former_secret = secret, former_until = $1, secret = $2
            WHERE id = $3 AND account_id = $4";
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let values =
                vec![former_until.micros().into(), secret.into(), id.0.into(), account.0.into()];
            let is_there = run(&transaction, SQL, values).await? == 1;
            if is_there {
                audit_log::insert(&transaction, &act).await?;
            }
            transaction.commit().await?;
            Ok(is_there)
        })
        .await
    }

    /// Writes a test event for one endpoint; answers its delivery.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn add_test_event(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        at: Timestamp,
    ) -> Result<DeliveryId, StoreError> {
        const SQL: &str = "INSERT INTO webhook_event (id, account_id, kind, once, at, data)
            VALUES ($1, $2, $3, $4, $5, $6)";
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let (id, kind) = (Uuid::now_v7(), EventKind::Test.name());
            let values = vec![
                id.into(),
                account.0.into(),
                kind.into(),
                format!("{kind}:{id}").into(),
                at.micros().into(),
                format!("{{\"endpoint_id\":\"{endpoint}\"}}").into(),
            ];
            run(&transaction, SQL, values).await?;
            let delivery = insert_delivery(&transaction, id, endpoint.0, at.micros()).await?;
            transaction.commit().await?;
            store.ring_for_events();
            Ok(DeliveryId(delivery))
        })
        .await
    }

    /// Deliveries of an endpoint with their tries, latest first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list_deliveries(
        &self,
        endpoint: EndpointId,
        before: Option<DeliveryId>,
        limit: u64,
    ) -> Result<Vec<DeliveryLog>, StoreError> {
        const SQL: &str = "SELECT d.id, d.event_id, e.kind, d.status, d.next_at, d.created_at
            FROM webhook_delivery AS d INNER JOIN webhook_event AS e ON e.id = d.event_id
            WHERE d.endpoint_id = $1 AND d.id < $2 ORDER BY d.id DESC LIMIT $3";
        const ATTEMPTS: &str =
            "SELECT at, status, error, answer, latency_micros FROM webhook_attempt
            WHERE delivery_id = $1 ORDER BY number";
        self.run(move |store| async move {
            let before = before.map_or(Uuid::max(), |id| id.0);
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let values = vec![endpoint.0.into(), before.into(), limit.into()];
            let mut log = Vec::new();
            for row in query(&store.read, SQL, values).await? {
                let id: Uuid = row.try_get_by_index(0)?;
                let attempts = query(&store.read, ATTEMPTS, vec![id.into()]).await?;
                let attempts = attempts.iter().map(attempt).collect::<Result<_, _>>()?;
                let status = DeliveryStatus::from_code(row.try_get_by_index(3)?);
                let next_at: Option<i64> = row.try_get_by_index(4)?;
                log.push(DeliveryLog {
                    id: DeliveryId(id),
                    event: EventId(row.try_get_by_index(1)?),
                    kind: row.try_get_by_index(2)?,
                    status: status
                        .ok_or_else(|| StoreError::Corrupt("a delivery of no status".into()))?,
                    next_at: next_at.map(Timestamp::from_micros),
                    created_at: Timestamp::from_micros(row.try_get_by_index(5)?),
                    attempts,
                });
            }
            Ok(log)
        })
        .await
    }

    /// Has a delivery of an endpoint tried again, whatever became of it; is there one?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn redeliver(
        &self,
        endpoint: EndpointId,
        delivery: DeliveryId,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE webhook_delivery SET status = 1, next_at = $1, ended_at = NULL
            WHERE id = $2 AND endpoint_id = $3";
        self.run_write(move |store| async move {
            let values = vec![at.micros().into(), delivery.0.into(), endpoint.0.into()];
            let is_there = run(&store.write, SQL, values).await? == 1;
            store.ring_for_events();
            Ok(is_there)
        })
        .await
    }

    /// Endpoints for which something is due, those first for which something waits longest, but for these.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn due_endpoints(
        &self,
        now: Timestamp,
        but: Vec<EndpointId>,
    ) -> Result<Vec<DueEndpoint>, StoreError> {
        // One look into an index for each endpoint, however much waits for it.
        const SQL: &str = "SELECT id, account_id, first FROM (
                SELECT id, account_id, (SELECT MIN(next_at) FROM webhook_delivery
                    WHERE endpoint_id = webhook_endpoint.id AND next_at IS NOT NULL) AS first
                FROM webhook_endpoint WHERE is_enabled) AS waiting
            WHERE first <= $1 ORDER BY first";
        self.run(move |store| async move {
            let due = |row: &QueryResult| {
                Ok::<_, StoreError>(DueEndpoint {
                    id: EndpointId(row.try_get_by_index(0)?),
                    account: AccountId(row.try_get_by_index(1)?),
                })
            };
            let mut found = Vec::new();
            for row in &query(&store.read, SQL, vec![now.micros().into()]).await? {
                found.push(due(row)?);
            }
            found.retain(|endpoint| !but.contains(&endpoint.id));
            Ok(found)
        })
        .await
    }

    /// Deliveries of an endpoint that are due, the longest waiting first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn due_deliveries(
        &self,
        endpoint: DueEndpoint,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DueDelivery>, StoreError> {
        const SQL: &str = "SELECT d.id, d.attempts, d.event_id, e.kind
            FROM webhook_delivery AS d INNER JOIN webhook_event AS e ON e.id = d.event_id
            WHERE d.endpoint_id = $1 AND d.next_at <= $2
            ORDER BY d.next_at, d.id LIMIT $3";
        self.run(move |store| async move {
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
            let values = vec![endpoint.id.0.into(), now.micros().into(), i64::from(limit).into()];
            query(&store.read, SQL, values).await?.iter().map(due).collect()
        })
        .await
    }

    /// What an event tells, which from now on is not replaced any more, and where to, as it is now; `None` where one of
    /// them is gone.
    ///
    /// # Errors
    /// [`StoreError`]
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
        self.run_write(move |store| async move {
            run(&store.write, CLAIM, vec![format!(":{event}").into(), event.0.into()]).await?;
            let events = query(&store.write, EVENT, vec![event.0.into()]).await?;
            let endpoints = query(&store.write, ENDPOINT, vec![endpoint.0.into()]).await?;
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

    /// Writes a try and what becomes of the delivery. Of an endpoint that has failed since before `dead_since`, or is
    /// gone for good, everything is given up, and it is switched off: was it?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn note_attempt(
        &self,
        delivery: DueDelivery,
        attempt: Attempt,
        verdict: Verdict,
        dead_since: Timestamp,
    ) -> Result<bool, StoreError> {
        let account = delivery.account;
        let is_switched_off = self
            .run_write(move |store| async move {
                let transaction = begin_write(&store.write).await?;
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
                run(&transaction, ATTEMPT, values).await?;
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
                run(&transaction, DELIVERY, values).await?;
                let mut is_switched_off = false;
                if verdict == Verdict::Delivered {
                    run(&transaction, WELL, vec![endpoint.into()]).await?;
                } else {
                    run(&transaction, FAILING, vec![at.into(), endpoint.into()]).await?;
                    if verdict == Verdict::GivenUp {
                        let values = vec![
                            at.into(),
                            endpoint.into(),
                            dead_since.micros().into(),
                            is_gone.into(),
                        ];
                        is_switched_off = run(&transaction, SWITCH_OFF, values).await? == 1;
                    }
                    if is_switched_off {
                        run(&transaction, GIVE_UP, vec![at.into(), endpoint.into()]).await?;
                    }
                }
                transaction.commit().await?;
                Ok(is_switched_off)
            })
            .await?;
        if is_switched_off {
            self.note_listener(account).await;
        }
        Ok(is_switched_off)
    }

    /// Deletes events from before `before` with all their deliveries, where none is still to be tried, a piece at a time;
    /// may there be more?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget_events(&self, before: Timestamp) -> Result<bool, StoreError> {
        self.run(move |store| async move {
            let sql = format!(
                "DELETE FROM webhook_event WHERE id IN (
                    SELECT id FROM webhook_event WHERE at < $1 AND NOT EXISTS (
                        SELECT 1 FROM webhook_delivery
                        WHERE event_id = webhook_event.id AND status = 1) LIMIT {PIECE})"
            );
            Ok(run(&store.write, &sql, vec![before.micros().into()]).await? == PIECE)
        })
        .await
    }

    /// Below which balance an account counts as low.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn balance_low(&self, account: AccountId) -> Result<Credits, StoreError> {
        const SQL: &str = "SELECT balance_low FROM notice WHERE account_id = $1";
        self.run(move |store| async move {
            let rows = query(&store.read, SQL, vec![account.0.into()]).await?;
            let low: Option<i64> = rows.first().map(|row| row.try_get_by_index(0)).transpose()?;
            Ok(low.map_or(super::outbox::BALANCE_LOW, Credits::from_nanos))
        })
        .await
    }

    /// Sets below which balance an account counts as low.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn set_balance_low(
        &self,
        account: AccountId,
        low: Credits,
        act: Act,
    ) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO notice (account_id, balance_low) VALUES ($1, $2)
            ON CONFLICT (account_id) DO UPDATE SET balance_low = excluded.balance_low";
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            run(&transaction, SQL, vec![account.0.into(), low.nanos().into()]).await?;
            audit_log::insert(&transaction, &act).await?;
            Ok(transaction.commit().await?)
        })
        .await?;
        self.note_listener(account).await;
        Ok(())
    }

    /// Keys that ended between these times, with their accounts and their ends, where somebody listened by then.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn keys_ended(
        &self,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<(AccountId, domain::KeyId, Timestamp)>, StoreError> {
        const SQL: &str = "SELECT account_id, id, expires_at FROM api_key
            WHERE expires_at > $1 AND expires_at <= $2 AND NOT is_revoked AND NOT is_deleted
                AND EXISTS (SELECT 1 FROM webhook_endpoint WHERE is_enabled
                    AND account_id = api_key.account_id AND created_at <= api_key.expires_at)";
        self.run(move |store| async move {
            let values = vec![from.micros().into(), until.micros().into()];
            let key = |row: &QueryResult| {
                Ok((
                    AccountId(row.try_get_by_index(0)?),
                    domain::KeyId(row.try_get_by_index(1)?),
                    Timestamp::from_micros(row.try_get_by_index(2)?),
                ))
            };
            query(&store.read, SQL, values).await?.iter().map(key).collect()
        })
        .await
    }
}

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
const GIVE_UP: &str = "UPDATE webhook_delivery SET status = 3, next_at = NULL, ended_at = $1
    WHERE endpoint_id = $2 AND status = 1";

fn selections(events: Option<Vec<String>>) -> Option<String> {
    events.and_then(|events| serde_json::to_string(&events).ok())
}

fn endpoint(row: &QueryResult) -> Result<Endpoint, StoreError> {
    let at = |place: usize| {
        Ok::<_, DbErr>(row.try_get_by_index::<Option<i64>>(place)?.map(Timestamp::from_micros))
    };
    let events: Option<String> = row.try_get_by_index(5)?;
    let environment = Environment::from_code(row.try_get_by_index(2)?);
    Ok(Endpoint {
        id: EndpointId(row.try_get_by_index(0)?),
        account: AccountId(row.try_get_by_index(1)?),
        environment: environment
            .ok_or_else(|| StoreError::Corrupt("an account of no environment".into()))?,
        url: row.try_get_by_index(3)?,
        description: row.try_get_by_index(4)?,
        events: events.and_then(|events| serde_json::from_str(&events).ok()),
        is_enabled: row.try_get_by_index(6)?,
        switched_off_at: at(7)?,
        failing_since: at(8)?,
        former_until: at(9)?,
        created_at: Timestamp::from_micros(row.try_get_by_index(10)?),
    })
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
    values: Vec<Value>,
) -> Result<Vec<QueryResult>, DbErr> {
    let backend = connection.get_database_backend();
    connection.query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await
}
