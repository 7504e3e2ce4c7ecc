//! Odd usage: what providers have reported and does not agree with itself, or with what is sold.
//!
//! It is written in the background. If more comes than can be written, some is lost and counted.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sea_orm::{QueryResult, Value};
use tokio::sync::mpsc;

use super::StoreError;
use super::connections::{CHUNK, Connections, execute, query};
use super::sql::begin_write;
use domain::oddity::{Oddities, Oddity};
use domain::{ChargeId, Timestamp};

/// Calls that wait to be written.
const QUEUE: usize = 1_024;
/// Calls that are written in one transaction.
const BATCH: usize = 64;

/// The odd usage of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OddUsage {
    /// The call.
    pub charge: ChargeId,
    /// The deployment that was asked last, or the upstream.
    pub deployment: String,
    /// Its provider, or the upstream.
    pub provider: String,
    /// The model that was asked for.
    pub model: String,
    /// What is odd.
    pub kinds: Oddities,
    /// JSON: the numbers that were reported.
    pub reported: String,
    /// JSON: what was billed, by dimension.
    pub billed: String,
    /// When.
    pub at: Timestamp,
}

/// Which of it.
#[derive(Clone, Debug, Default)]
pub struct OddityFilter {
    /// That of this deployment.
    pub deployment: Option<String>,
    /// That of this provider.
    pub provider: Option<String>,
    /// That in which this is odd.
    pub kind: Option<Oddity>,
    /// From this instant on.
    pub from: Option<Timestamp>,
    /// Before this instant.
    pub to: Option<Timestamp>,
    /// What was written before the one with this number.
    pub before: Option<i64>,
}

/// The odd usage of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OddityStore {
    database: Arc<Connections>,
}

impl OddityStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        OddityStore { database }
    }

    async fn insert(&self, rows: Vec<OddUsage>) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO usage_oddity
            (charge_id, deployment, provider, model, kinds, reported, billed, at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        self.database
            .run_job(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                for row in rows {
                    let values = vec![
                        row.charge.0.into(),
                        row.deployment.into(),
                        row.provider.into(),
                        row.model.into(),
                        row.kinds.code().into(),
                        row.reported.into(),
                        row.billed.into(),
                        row.at.micros().into(),
                    ];
                    execute(&transaction, SQL, values).await?;
                }
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)
            })
            .await
    }

    /// Odd usage with its numbers, the last written first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list(
        &self,
        filter: OddityFilter,
        limit: u64,
    ) -> Result<Vec<(i64, OddUsage)>, StoreError> {
        self.database
            .run(move |database| async move {
                let mut values: Vec<Value> = Vec::new();
                let mut sql = "SELECT number, charge_id, deployment, provider, model, kinds,
                    reported, billed, at FROM usage_oddity WHERE 1 = 1"
                    .to_owned();
                for (condition, value) in [
                    ("deployment =", filter.deployment.map(Into::into)),
                    ("provider =", filter.provider.map(Into::into)),
                    ("at >=", filter.from.map(|from| from.micros().into())),
                    ("at <", filter.to.map(|to| to.micros().into())),
                    ("number <", filter.before.map(Into::into)),
                ] {
                    if let Some(value) = value {
                        values.push(value);
                        let _ = write!(sql, " AND {condition} ${}", values.len());
                    }
                }
                if let Some(kind) = filter.kind {
                    let _ = write!(sql, " AND (kinds & {}) <> 0", kind.code());
                }
                values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
                let _ = write!(sql, " ORDER BY number DESC LIMIT ${}", values.len());
                query(&database.read, &sql, values).await?.iter().map(odd_usage).collect()
            })
            .await
    }

    /// Deletes some of what is from before this instant. Returns how much.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn delete(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.database
            .run_job(move |database| async move {
                let sql = format!(
                    "DELETE FROM usage_oddity WHERE at < $1 AND number <= (
                    SELECT MAX(number) FROM (
                        SELECT number FROM usage_oddity ORDER BY number LIMIT {CHUNK}
                    ) AS oldest)"
                );
                Ok(execute(&database.write, &sql, vec![before.micros().into()]).await?)
            })
            .await
    }
}

fn odd_usage(row: &QueryResult) -> Result<(i64, OddUsage), StoreError> {
    let number: i64 = row.try_get_by_index(0)?;
    let kinds = Oddities::from_code(row.try_get_by_index(5)?);
    let corrupt = || StoreError::Corrupt(format!("the odd usage {number} cannot be read"));
    Ok((
        number,
        OddUsage {
            charge: ChargeId(row.try_get_by_index(1)?),
            deployment: row.try_get_by_index(2)?,
            provider: row.try_get_by_index(3)?,
            model: row.try_get_by_index(4)?,
            kinds: kinds.ok_or_else(corrupt)?,
            reported: row.try_get_by_index(6)?,
            billed: row.try_get_by_index(7)?,
            at: Timestamp::from_micros(row.try_get_by_index(8)?),
        },
    ))
}

/// Takes odd usage to be written.
#[derive(Clone, Debug)]
pub struct OddityLog {
    sender: mpsc::Sender<OddUsage>,
    lost: Arc<AtomicU64>,
}

impl OddityLog {
    /// Begins to write what is recorded, on the runtime of the database.
    #[must_use]
    pub fn start(store: OddityStore) -> Self {
        let (sender, mut receiver) = mpsc::channel::<OddUsage>(QUEUE);
        let lost = Arc::<AtomicU64>::default();
        let runtime = store.database.runtime.clone();
        let counted = Arc::clone(&lost);
        runtime.spawn(async move {
            let mut rows = Vec::new();
            while receiver.recv_many(&mut rows, BATCH).await > 0 {
                let batch = std::mem::take(&mut rows);
                let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
                if let Err(error) = store.insert(batch).await {
                    counted.fetch_add(count, Ordering::Relaxed);
                    tracing::warn!(%error, count, "odd usage was not recorded");
                }
            }
        });
        OddityLog { sender, lost }
    }

    /// Records it, if there is room.
    pub fn record(&self, usage: OddUsage) {
        if self.sender.try_send(usage).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How much was not recorded.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
