//! Endpoints of all users that fail, or that the server has switched off.

use sea_orm::{DatabaseConnection, DbErr, QueryResult};
use uuid::Uuid;

use super::WebhookStore;
use crate::store::StoreError;
use crate::store::connections::query;
use domain::{EndpointId, Environment, Timestamp, UserId};

/// So many of the latest deliveries of an endpoint are looked at for its last error.
const DELIVERIES_LOOKED_AT: i64 = 200;

/// Which endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailingFilter {
    /// Only those that the server has switched off.
    pub only_switched_off: bool,
    /// Only those made before this one.
    pub before: Option<EndpointId>,
}

/// The last attempt at an endpoint that failed.
#[derive(Clone, Debug)]
pub struct LastFailure {
    /// When it was made.
    pub at: Timestamp,
    /// The HTTP status of the answer; `None` if there was none.
    pub status: Option<u16>,
    /// Why it failed, if it has no status.
    pub error: Option<String>,
}

/// An endpoint that fails, or that the server has switched off.
#[derive(Clone, Debug)]
pub struct FailingEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// Whose it is.
    pub user: UserId,
    /// Of which account.
    pub environment: Environment,
    /// Its URL.
    pub url: String,
    /// When the server has switched it off.
    pub switched_off_at: Option<Timestamp>,
    /// Since when it has not accepted anything.
    pub failing_since: Option<Timestamp>,
    /// The last attempt that failed, as far as it is kept.
    pub last_failure: Option<LastFailure>,
    /// When the oldest event happened that it has not accepted.
    pub oldest_event_at: Option<Timestamp>,
    /// Deliveries that wait for their next attempt.
    pub waiting: u64,
}

impl WebhookStore {
    /// The endpoints that fail or were switched off by the server, the newest first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list_failing(
        &self,
        filter: FailingFilter,
        limit: u64,
    ) -> Result<Vec<FailingEndpoint>, StoreError> {
        const SQL: &str = "SELECT w.id, account.user_id, account.environment, w.url,
                w.switched_off_at, w.failing_since,
                (SELECT e.at FROM webhook_delivery AS d
                    INNER JOIN webhook_event AS e ON e.id = d.event_id
                    WHERE d.endpoint_id = w.id AND d.status <> 2 ORDER BY d.id LIMIT 1),
                (SELECT CAST(COUNT(*) AS BIGINT) FROM webhook_delivery AS d
                    WHERE d.endpoint_id = w.id AND d.next_at IS NOT NULL)
            FROM webhook_endpoint AS w INNER JOIN account ON account.id = w.account_id
            WHERE w.deleted_at IS NULL AND w.id < $1 AND (w.switched_off_at IS NOT NULL
                OR ($2 AND w.is_enabled AND w.failing_since IS NOT NULL))
            ORDER BY w.id DESC LIMIT $3";
        self.database
            .run(move |database| async move {
                let before = filter.before.map_or(Uuid::max(), |id| id.0);
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let with_failing = !filter.only_switched_off;
                let values = vec![before.into(), with_failing.into(), limit.into()];
                let mut found = Vec::new();
                for row in query(&database.read, SQL, values).await? {
                    found.push(failing(&database.read, &row).await?);
                }
                Ok(found)
            })
            .await
    }
}

async fn failing(
    connection: &DatabaseConnection,
    row: &QueryResult,
) -> Result<FailingEndpoint, StoreError> {
    const FAILURE: &str = "SELECT a.at, a.status, a.error FROM webhook_attempt AS a
        INNER JOIN (SELECT id FROM webhook_delivery WHERE endpoint_id = $1
            ORDER BY id DESC LIMIT $2) AS d ON d.id = a.delivery_id
        WHERE a.error IS NOT NULL OR a.status IS NULL OR a.status NOT BETWEEN 200 AND 299
        ORDER BY a.at DESC LIMIT 1";
    let at = |place: usize| {
        Ok::<_, DbErr>(row.try_get_by_index::<Option<i64>>(place)?.map(Timestamp::from_micros))
    };
    let id: Uuid = row.try_get_by_index(0)?;
    let failures = query(connection, FAILURE, vec![id.into(), DELIVERIES_LOOKED_AT.into()]).await?;
    let last_failure = failures.first().map(|row| {
        let status: Option<i16> = row.try_get_by_index(1)?;
        Ok::<_, DbErr>(LastFailure {
            at: Timestamp::from_micros(row.try_get_by_index(0)?),
            status: status.and_then(|status| u16::try_from(status).ok()),
            error: row.try_get_by_index(2)?,
        })
    });
    let environment = Environment::from_code(row.try_get_by_index(2)?);
    Ok(FailingEndpoint {
        id: EndpointId(id),
        user: UserId(row.try_get_by_index(1)?),
        environment: environment
            .ok_or_else(|| StoreError::Corrupt("an account has an unknown environment".into()))?,
        url: row.try_get_by_index(3)?,
        switched_off_at: at(4)?,
        failing_since: at(5)?,
        last_failure: last_failure.transpose()?,
        oldest_event_at: at(6)?,
        waiting: u64::try_from(row.try_get_by_index::<i64>(7)?).unwrap_or_default(),
    })
}
