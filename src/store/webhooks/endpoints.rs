//! Webhook endpoints, and the balance below which an account counts as low.

use sea_orm::{DbErr, QueryResult};
use uuid::Uuid;

use super::WebhookStore;
use super::deliveries::GIVE_UP;
use super::record::{Endpoint, EndpointChange, NewEndpoint};
use crate::store::connections::{CHUNK, execute, query};
use crate::store::outbox::BALANCE_LOW;
use crate::store::sql::begin_write;
use crate::store::{StoreError, audit_log};
use domain::{AccountId, Act, Credits, EndpointId, Environment, Timestamp};

const ENDPOINT: &str =
    "SELECT w.id, w.account_id, account.environment, w.url, w.description, w.events,
    w.is_enabled, w.switched_off_at, w.failing_since, w.former_until, w.created_at
    FROM webhook_endpoint AS w INNER JOIN account ON account.id = w.account_id";

impl WebhookStore {
    /// Inserts an endpoint; false if its account already has `endpoints_max`.
    pub async fn insert_endpoint(
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
            .database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
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
                execute(&transaction, INSERT, values).await?;
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await?;
                Ok(true)
            })
            .await?;
        self.refresh_subscriber(account).await;
        Ok(is_added)
    }

    /// The endpoints of these accounts, oldest first; only the endpoint `only`, if it is given.
    pub async fn list_endpoints(
        &self,
        accounts: [AccountId; 2],
        only: Option<EndpointId>,
    ) -> Result<Vec<Endpoint>, StoreError> {
        let sql = format!(
            "{ENDPOINT} WHERE w.account_id IN ($1, $2) AND w.deleted_at IS NULL AND (w.id = $3 OR $4)
            ORDER BY w.created_at, w.id"
        );
        self.database
            .run(move |database| async move {
                let [live, test] = accounts;
                let id = only.map_or(Uuid::nil(), |id| id.0);
                let values = vec![live.0.into(), test.0.into(), id.into(), only.is_none().into()];
                query(&database.read, &sql, values).await?.iter().map(endpoint).collect()
            })
            .await
    }

    /// Changes an endpoint of an account; false if it does not exist. Switching it on resets its
    /// failures. Switching it off gives up its deliveries.
    pub async fn update_endpoint(
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
            .database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
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
                let is_there = execute(&transaction, SQL, values).await? == 1;
                if is_there {
                    if is_enabled == Some(false) {
                        let values = vec![act.at.micros().into(), id.0.into()];
                        execute(&transaction, GIVE_UP, values).await?;
                    }
                    audit_log::insert(&transaction, &act).await?;
                }
                transaction.commit().await?;
                Ok(is_there)
            })
            .await?;
        self.refresh_subscriber(account).await;
        Ok(is_there)
    }

    /// Marks an endpoint of an account as deleted; false if it does not exist. Its rows are deleted
    /// later in chunks, because there may be very many.
    pub async fn delete_endpoint(
        &self,
        account: AccountId,
        id: EndpointId,
        act: Act,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE webhook_endpoint SET is_enabled = FALSE, deleted_at = $1
            WHERE id = $2 AND account_id = $3 AND deleted_at IS NULL";
        let was_there = self
            .database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let values = vec![act.at.micros().into(), id.0.into(), account.0.into()];
                let was_there = execute(&transaction, SQL, values).await? == 1;
                if was_there {
                    audit_log::insert(&transaction, &act).await?;
                }
                transaction.commit().await?;
                Ok(was_there)
            })
            .await?;
        self.refresh_subscriber(account).await;
        Ok(was_there)
    }

    /// Deletes a chunk of the rows of endpoints that were deleted before `before`. Returns whether
    /// there may be more. The delay is needed because a transaction that still sees the endpoint
    /// may write a delivery for it.
    pub async fn purge_deleted_endpoints(&self, before: Timestamp) -> Result<bool, StoreError> {
        const GONE: &str = "SELECT id FROM webhook_endpoint WHERE deleted_at < $1 LIMIT 1";
        const ENDPOINT: &str = "DELETE FROM webhook_endpoint WHERE id = $1";
        self.database
            .run_job(move |database| async move {
                let gone = query(&database.read, GONE, vec![before.micros().into()]).await?;
                let Some(row) = gone.first() else { return Ok(false) };
                let id: Uuid = row.try_get_by_index(0)?;
                let sql = format!(
                    "DELETE FROM webhook_delivery WHERE id IN (
                    SELECT id FROM webhook_delivery WHERE endpoint_id = $1 LIMIT {CHUNK})"
                );
                if execute(&database.write, &sql, vec![id.into()]).await? == 0 {
                    execute(&database.write, ENDPOINT, vec![id.into()]).await?;
                }
                Ok(true)
            })
            .await
    }

    /// Replaces the secret of an endpoint. Deliveries are also signed with the former one until
    /// `former_until`.
    pub async fn rotate_secret(
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
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let values = vec![
                    former_until.micros().into(),
                    secret.into(),
                    id.0.into(),
                    account.0.into(),
                ];
                let is_there = execute(&transaction, SQL, values).await? == 1;
                if is_there {
                    audit_log::insert(&transaction, &act).await?;
                }
                transaction.commit().await?;
                Ok(is_there)
            })
            .await
    }

    /// The balance below which an account counts as low.
    pub async fn find_low_balance(&self, account: AccountId) -> Result<Credits, StoreError> {
        const SQL: &str = "SELECT balance_low FROM notice WHERE account_id = $1";
        self.database
            .run(move |database| async move {
                let rows = query(&database.read, SQL, vec![account.0.into()]).await?;
                let low: Option<i64> =
                    rows.first().map(|row| row.try_get_by_index(0)).transpose()?;
                Ok(low.map_or(BALANCE_LOW, Credits::from_nanos))
            })
            .await
    }

    /// Sets the balance below which an account counts as low.
    pub async fn set_low_balance(
        &self,
        account: AccountId,
        low: Credits,
        act: Act,
    ) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO notice (account_id, balance_low) VALUES ($1, $2)
            ON CONFLICT (account_id) DO UPDATE SET balance_low = excluded.balance_low";
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                execute(&transaction, SQL, vec![account.0.into(), low.nanos().into()]).await?;
                audit_log::insert(&transaction, &act).await?;
                Ok(transaction.commit().await?)
            })
            .await?;
        self.refresh_subscriber(account).await;
        Ok(())
    }
}

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
            .ok_or_else(|| StoreError::Corrupt("an account has an unknown environment".into()))?,
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
