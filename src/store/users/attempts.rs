//! Wrong proofs of who somebody is: in a session, and of a user in a day.

use sea_orm::Value;

use super::UserStore;
use crate::store::connections::{execute, query};
use crate::store::sql::begin_write;
use crate::store::{StoreError, audit_log};
use domain::window::Day;
use domain::{Act, SessionId, UserId};

impl UserStore {
    /// Counts a wrong proof in a session. Ends the session if it is the one of number `most`, and
    /// records the act. Has it ended?
    pub async fn count_wrong_proof(
        &self,
        id: SessionId,
        most: i64,
        act: Act,
    ) -> Result<bool, StoreError> {
        const COUNT: &str = "UPDATE session SET wrong_proofs = wrong_proofs + 1
            WHERE id = $1 AND ended_at IS NULL";
        const END: &str = "UPDATE session SET ended_at = $2
            WHERE id = $1 AND ended_at IS NULL AND wrong_proofs >= $3";
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                execute(&transaction, COUNT, vec![id.0.into()]).await?;
                let values = vec![id.0.into(), act.at.micros().into(), most.into()];
                let has_ended = execute(&transaction, END, values).await? > 0;
                if has_ended {
                    audit_log::insert(&transaction, &act).await?;
                }
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(has_ended)
            })
            .await
    }

    /// Counts a code before it is checked: its number of the day, or `None` if the day has had
    /// `most` wrong ones. The database decides, so that of two at once each counts for the other.
    pub async fn count_code(
        &self,
        user: UserId,
        day: Day,
        most: i64,
    ) -> Result<Option<i64>, StoreError> {
        const COUNT: &str = "UPDATE users SET wrong_codes_day = $2,
                wrong_codes = CASE WHEN wrong_codes_day = $2 THEN wrong_codes + 1 ELSE 1 END
            WHERE id = $1 AND (wrong_codes_day <> $2 OR wrong_codes < $3)
            RETURNING wrong_codes";
        self.database
            .run_write(move |database| async move {
                let values = vec![user.0.into(), day.0.into(), most.into()];
                let rows = query(&database.write, COUNT, values).await?;
                Ok(rows.first().map(|row| row.try_get_by_index(0)).transpose()?)
            })
            .await
    }

    /// Takes a code out of the count that was right.
    pub async fn uncount_code(&self, user: UserId, day: Day) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE users SET wrong_codes = wrong_codes - 1
            WHERE id = $1 AND wrong_codes_day = $2 AND wrong_codes > 0";
        self.database
            .run_write(move |database| async move {
                let values: Vec<Value> = vec![user.0.into(), day.0.into()];
                execute(&database.write, SQL, values).await?;
                Ok(())
            })
            .await
    }
}
