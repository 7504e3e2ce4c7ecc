//! Attempts at deployments: of calls that took more than one, or that failed.
//!
//! They are written in the background. If more come than can be written, some are lost and counted:
//! no call waits for them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sea_orm::{QueryResult, Value};
use tokio::sync::mpsc;

use super::StoreError;
use super::connections::{CHUNK, Connections, execute, query};
use super::sql::begin_write;
use domain::catalogue::DeploymentId;
use domain::routing::AttemptOutcome;
use domain::{ChargeId, Timestamp};

/// Calls whose attempts wait to be written.
const QUEUE: usize = 1_024;
/// Calls whose attempts are written in one transaction.
const BATCH: usize = 64;

/// An attempt at a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// The charge of its call.
    pub charge: ChargeId,
    /// Its place among the attempts of the call, from 1 on.
    pub n: i16,
    /// Who was asked.
    pub deployment: DeploymentId,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took until the answer or its first byte, in microseconds.
    pub latency_micros: i64,
    /// The provider's status, if it answered.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: AttemptOutcome,
}

/// Which attempts.
#[derive(Clone, Debug, Default)]
pub struct AttemptFilter {
    /// Those at this deployment.
    pub deployment: Option<DeploymentId>,
    /// Those that ended so.
    pub outcome: Option<AttemptOutcome>,
    /// Those of this call.
    pub charge: Option<ChargeId>,
    /// Those that began at this instant or later.
    pub from: Option<Timestamp>,
    /// Those that began before this instant.
    pub to: Option<Timestamp>,
    /// Those that were written before the one with this number.
    pub before: Option<i64>,
}

/// How many attempts at a deployment ended so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptCount {
    /// Who was asked.
    pub deployment: DeploymentId,
    /// How they ended.
    pub outcome: AttemptOutcome,
    /// Did the provider answer with an error?
    pub is_refused: bool,
    /// How many.
    pub count: u64,
}

/// The attempts of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AttemptStore {
    database: Arc<Connections>,
}

impl AttemptStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        AttemptStore { database }
    }

    /// Writes attempts.
    pub async fn insert(&self, rows: Vec<AttemptRow>) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO attempt
            (charge_id, n, deployment_id, started_at, latency_micros, status, outcome)
            VALUES ($1, $2, $3, $4, $5, $6, $7)";
        self.database
            .run_job(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                for row in rows {
                    let status = row.status.and_then(|status| i16::try_from(status).ok());
                    let values = vec![
                        row.charge.0.into(),
                        row.n.into(),
                        i64::from(row.deployment.0).into(),
                        row.started_at.micros().into(),
                        row.latency_micros.into(),
                        status.into(),
                        row.outcome.code().into(),
                    ];
                    execute(&transaction, SQL, values).await?;
                }
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)
            })
            .await
    }

    /// Attempts with their numbers, the last written first.
    pub async fn list(
        &self,
        filter: AttemptFilter,
        limit: u64,
    ) -> Result<Vec<(i64, AttemptRow)>, StoreError> {
        self.database
            .run(move |database| async move {
                let mut values: Vec<Value> = Vec::new();
                let mut sql = "SELECT number, charge_id, n, deployment_id, started_at,
                    latency_micros, status, outcome FROM attempt WHERE 1 = 1"
                    .to_owned();
                let deployment = filter.deployment.map(|id| i64::from(id.0).into());
                let outcome = filter.outcome.map(|outcome| outcome.code().into());
                for (condition, value) in [
                    ("deployment_id =", deployment),
                    ("outcome =", outcome),
                    ("charge_id =", filter.charge.map(|charge| charge.0.into())),
                    ("started_at >=", filter.from.map(|from| from.micros().into())),
                    ("started_at <", filter.to.map(|to| to.micros().into())),
                    ("number <", filter.before.map(Into::into)),
                ] {
                    if let Some(value) = value {
                        values.push(value);
                        let _ = write!(sql, " AND {condition} ${}", values.len());
                    }
                }
                values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
                let _ = write!(sql, " ORDER BY number DESC LIMIT ${}", values.len());
                query(&database.read, &sql, values).await?.iter().map(attempt).collect()
            })
            .await
    }

    /// How many attempts of this span of time ended in each way, by deployment.
    pub async fn counts(
        &self,
        (from, until): (Timestamp, Timestamp),
    ) -> Result<Vec<AttemptCount>, StoreError> {
        const SQL: &str = "SELECT deployment_id, outcome,
                CAST(CASE WHEN status >= 400 THEN 1 ELSE 0 END AS BIGINT), COUNT(*) FROM attempt
            WHERE started_at >= $1 AND started_at < $2
            GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
        self.database
            .run(move |database| async move {
                let values = vec![from.micros().into(), until.micros().into()];
                query(&database.read, SQL, values).await?.iter().map(attempt_count).collect()
            })
            .await
    }

    /// Deletes some of the attempts that began before this instant. Returns how many.
    pub async fn delete(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.database
            .run_job(move |database| async move {
                let sql = format!(
                    "DELETE FROM attempt WHERE started_at < $1 AND number <= (
                    SELECT MAX(number) FROM (
                        SELECT number FROM attempt ORDER BY number LIMIT {CHUNK}
                    ) AS oldest)"
                );
                Ok(execute(&database.write, &sql, vec![before.micros().into()]).await?)
            })
            .await
    }
}

fn attempt_count(row: &QueryResult) -> Result<AttemptCount, StoreError> {
    let corrupt = || StoreError::Corrupt("an attempt cannot be read".into());
    let deployment: i64 = row.try_get_by_index(0)?;
    let outcome = AttemptOutcome::from_code(row.try_get_by_index(1)?);
    let (refused, count): (i64, i64) = (row.try_get_by_index(2)?, row.try_get_by_index(3)?);
    Ok(AttemptCount {
        deployment: DeploymentId(u32::try_from(deployment).map_err(|_| corrupt())?),
        outcome: outcome.ok_or_else(corrupt)?,
        is_refused: refused != 0,
        count: u64::try_from(count).unwrap_or(0),
    })
}

fn attempt(row: &QueryResult) -> Result<(i64, AttemptRow), StoreError> {
    let number: i64 = row.try_get_by_index(0)?;
    let corrupt = || StoreError::Corrupt(format!("the attempt {number} cannot be read"));
    let deployment: i64 = row.try_get_by_index(3)?;
    let status: Option<i16> = row.try_get_by_index(6)?;
    let outcome = AttemptOutcome::from_code(row.try_get_by_index(7)?);
    Ok((
        number,
        AttemptRow {
            charge: ChargeId(row.try_get_by_index(1)?),
            n: row.try_get_by_index(2)?,
            deployment: DeploymentId(u32::try_from(deployment).map_err(|_| corrupt())?),
            started_at: Timestamp::from_micros(row.try_get_by_index(4)?),
            latency_micros: row.try_get_by_index(5)?,
            status: status.and_then(|status| u16::try_from(status).ok()),
            outcome: outcome.ok_or_else(corrupt)?,
        },
    ))
}

/// Takes attempts to be written.
#[derive(Clone, Debug)]
pub struct AttemptLog {
    sender: mpsc::Sender<Vec<AttemptRow>>,
    lost: Arc<AtomicU64>,
}

impl AttemptLog {
    /// Begins to write what is recorded, on the runtime of the database.
    #[must_use]
    pub fn start(store: AttemptStore) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Vec<AttemptRow>>(QUEUE);
        let lost = Arc::<AtomicU64>::default();
        let runtime = store.database.runtime.clone();
        let counted = Arc::clone(&lost);
        runtime.spawn(async move {
            let mut calls = Vec::new();
            while receiver.recv_many(&mut calls, BATCH).await > 0 {
                let rows: Vec<AttemptRow> = calls.drain(..).flatten().collect();
                let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
                if let Err(error) = store.insert(rows).await {
                    counted.fetch_add(count, Ordering::Relaxed);
                    tracing::warn!(%error, count, "attempts at deployments were not recorded");
                }
            }
        });
        AttemptLog { sender, lost }
    }

    /// Records the attempts of a call, if there is room.
    pub fn record(&self, rows: Vec<AttemptRow>) {
        if rows.is_empty() {
            return;
        }
        let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        if self.sender.try_send(rows).is_err() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// How many were not recorded.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
