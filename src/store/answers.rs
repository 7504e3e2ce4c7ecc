//! Recorded answers: what a request with an Idempotency-Key was answered, for its repeats.

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, Statement};

use super::Store;
use super::error::{CommitError, StoreError};
use super::sql::DELETED_MAX;
use domain::{AccountId, RecordedAnswer, Timestamp};
use entity::recorded_answer;

impl Store {
    /// The answer recorded for a key of an account, unless its time is over.
    pub async fn find_answer(
        &self,
        account: AccountId,
        key_digest: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<RecordedAnswer>, StoreError> {
        self.run(move |store| async move {
            let row = recorded_answer::Entity::find_by_id((account.0, key_digest.to_vec()))
                .filter(recorded_answer::Column::ExpiresAt.gt(now.micros()))
                .one(&store.read)
                .await?;
            let Some(row) = row else { return Ok(None) };
            let corrupt = |_| StoreError::Corrupt("a recorded answer has no fingerprint".into());
            Ok(Some(RecordedAnswer {
                account,
                key_digest,
                fingerprint: row.fingerprint.try_into().map_err(corrupt)?,
                reference: row.reference,
                answer: row.answer,
                created_at: Timestamp::from_micros(row.created_at),
                expires_at: Timestamp::from_micros(row.expires_at),
            }))
        })
        .await
    }

    /// Deletes answers whose time is over, a piece at a time; says whether there may be more.
    pub async fn forget_answers(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.run(move |store| async move {
            let sql = format!(
                "DELETE FROM recorded_answer WHERE (account_id, key_digest) IN (
                    SELECT account_id, key_digest FROM recorded_answer WHERE expires_at <= $1
                    LIMIT {DELETED_MAX})
                AND expires_at <= $1"
            );
            store.delete_some(&sql, [now.micros().into()]).await
        })
        .await
    }
}

/// Writes an answer down. What was recorded under the key before must have expired, or be this very
/// charge, since a batch is written again after an unknown outcome: so the database itself has one
/// charge a key.
pub(super) async fn record(
    connection: &impl ConnectionTrait,
    answer: &RecordedAnswer,
) -> Result<(), CommitError> {
    const SQL: &str = "INSERT INTO recorded_answer
            (account_id, key_digest, fingerprint, reference, answer, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (account_id, key_digest) DO UPDATE SET fingerprint = excluded.fingerprint,
            reference = excluded.reference, answer = excluded.answer,
            created_at = excluded.created_at, expires_at = excluded.expires_at
        WHERE recorded_answer.expires_at <= excluded.created_at
            OR recorded_answer.reference = excluded.reference";
    let values = [
        answer.account.0.into(),
        answer.key_digest.to_vec().into(),
        answer.fingerprint.to_vec().into(),
        answer.reference.into(),
        answer.answer.clone().into(),
        answer.created_at.micros().into(),
        answer.expires_at.micros().into(),
    ];
    let backend = connection.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, SQL, values);
    match connection.execute_raw(statement).await?.rows_affected() {
        1 => Ok(()),
        _ => Err(CommitError::Refused("an idempotency key is recorded for another charge".into())),
    }
}
