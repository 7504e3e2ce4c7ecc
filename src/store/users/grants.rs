//! What operators have granted, by day.

use sea_orm::Value;

use super::UserStore;
use crate::store::StoreError;
use crate::store::connections::{execute, query};
use domain::window::Day;
use domain::{Credits, UserId};

/// What came of the wish to grant more in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaysGrant {
    /// It is counted.
    Counted,
    /// It would be too much. Nothing is counted.
    TooMuch {
        /// What is counted already.
        granted: Credits,
    },
}

impl UserStore {
    /// Counts a grant of an operator, if the grants of the day stay within `most`. The database
    /// decides, so that of two at once each counts for the other.
    pub async fn count_grant(
        &self,
        operator: UserId,
        day: Day,
        amount: Credits,
        most: Credits,
    ) -> Result<DaysGrant, StoreError> {
        const COUNT: &str = "INSERT INTO operator_grant (operator_id, day, granted)
            VALUES ($1, $2, $3)
            ON CONFLICT (operator_id, day) DO UPDATE
                SET granted = operator_grant.granted + excluded.granted
                WHERE operator_grant.granted <= $4";
        const GRANTED: &str =
            "SELECT granted FROM operator_grant WHERE operator_id = $1 AND day = $2";
        let of_day = move || -> [Value; 2] { [operator.0.into(), day.0.into()] };
        self.database
            .run_write(move |database| async move {
                // What may be granted already, if this one is to fit.
                if let Some(before) =
                    most.checked_sub(amount).filter(|before| !before.is_negative())
                {
                    let [id, day] = of_day();
                    let values = vec![id, day, amount.nanos().into(), before.nanos().into()];
                    if execute(&database.write, COUNT, values).await? > 0 {
                        return Ok(DaysGrant::Counted);
                    }
                }
                let rows = query(&database.write, GRANTED, of_day().into()).await?;
                let granted = rows.first().map(|row| row.try_get_by_index(0)).transpose()?;
                Ok(DaysGrant::TooMuch { granted: Credits::from_nanos(granted.unwrap_or(0)) })
            })
            .await
    }

    /// Takes a grant out of the count that was not made.
    pub async fn uncount_grant(
        &self,
        operator: UserId,
        day: Day,
        amount: Credits,
    ) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE operator_grant SET granted = granted - $3
            WHERE operator_id = $1 AND day = $2 AND granted >= $3";
        self.database
            .run_write(move |database| async move {
                let values = vec![operator.0.into(), day.0.into(), amount.nanos().into()];
                execute(&database.write, SQL, values).await?;
                Ok(())
            })
            .await
    }
}
