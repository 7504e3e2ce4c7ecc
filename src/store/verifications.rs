//! Verifications of the ledger that have ended, and whose accounts are looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use sea_orm::QueryResult;
use uuid::Uuid;

use super::StoreError;
use super::connections::{Connections, execute, query};
use super::sql::begin_write;
use domain::{AccountId, Actor, Environment, Timestamp, UserId};

/// So many verifications are kept.
const KEPT: i64 = 100;
/// So many accounts are looked up in one statement.
const ACCOUNTS_MAX: usize = 500;

/// A verification that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedVerification {
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Who had it run: the server by its schedule, a command, or an operator.
    pub actor: Actor,
    /// Why it could not run to its end; `None` if it did.
    pub failure: Option<String>,
    /// Number of accounts, entries, bills, usage records and findings.
    pub counts: [u64; 5],
    /// JSON: the first findings.
    pub found: String,
}

/// The verifications of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct VerificationStore {
    database: Arc<Connections>,
}

impl VerificationStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        VerificationStore { database }
    }

    /// Keeps a verification that has ended, and forgets all but the last ones.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn insert(&self, ended: EndedVerification) -> Result<(), StoreError> {
        const INSERT: &str =
            "INSERT INTO verification (began_at, ended_at, actor, actor_id, failure,
                accounts, entries, bills, usage_records, findings, found)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        const FORGET: &str = "DELETE FROM verification WHERE number <=
            (SELECT MAX(number) FROM verification) - $1";
        self.database
            .run_job(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let mut values = vec![
                    ended.began_at.micros().into(),
                    ended.ended_at.micros().into(),
                    ended.actor.code().into(),
                    ended.actor.person().map(|person| person.0).into(),
                    ended.failure.into(),
                ];
                let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
                values.extend(ended.counts.map(|one| count(one).into()));
                values.push(ended.found.into());
                execute(&transaction, INSERT, values).await?;
                execute(&transaction, FORGET, vec![KEPT.into()]).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)
            })
            .await
    }

    /// The verification that was kept last.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn last(&self) -> Result<Option<EndedVerification>, StoreError> {
        const SQL: &str = "SELECT began_at, ended_at, actor, actor_id, failure,
                accounts, entries, bills, usage_records, findings, found
            FROM verification ORDER BY number DESC LIMIT 1";
        self.database
            .run(move |database| async move {
                let rows = query(&database.read, SQL, vec![]).await?;
                rows.first().map(ended).transpose()
            })
            .await
    }

    /// Whose these accounts are.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn owners(
        &self,
        accounts: Vec<AccountId>,
    ) -> Result<BTreeMap<AccountId, (UserId, Environment)>, StoreError> {
        self.database
            .run(move |database| async move {
                let mut owners = BTreeMap::new();
                for piece in accounts.chunks(ACCOUNTS_MAX) {
                    let places: Vec<String> =
                        (1..=piece.len()).map(|place| format!("${place}")).collect();
                    let sql = format!(
                        "SELECT id, user_id, environment FROM account WHERE id IN ({})",
                        places.join(", ")
                    );
                    let values = piece.iter().map(|account| account.0.into()).collect();
                    for row in query(&database.read, &sql, values).await? {
                        let account = AccountId(row.try_get_by_index(0)?);
                        let environment = Environment::from_code(row.try_get_by_index(2)?);
                        let unknown =
                            || StoreError::Corrupt(format!("account {account} has no environment"));
                        let environment = environment.ok_or_else(unknown)?;
                        let user = UserId(row.try_get_by_index(1)?);
                        owners.insert(account, (user, environment));
                    }
                }
                Ok(owners)
            })
            .await
    }

    /// The accounts of whose entries in the journal the tables refuse some; at most a thousand.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn refused_accounts(&self) -> Result<Vec<AccountId>, StoreError> {
        const SQL: &str =
            "SELECT DISTINCT account_id FROM journal_refused ORDER BY account_id LIMIT 1000";
        self.database
            .run(move |database| async move {
                let rows = query(&database.read, SQL, vec![]).await?;
                rows.iter().map(|row| Ok(AccountId(row.try_get_by_index(0)?))).collect()
            })
            .await
    }
}

fn ended(row: &QueryResult) -> Result<EndedVerification, StoreError> {
    let person: Option<Uuid> = row.try_get_by_index(3)?;
    let actor = Actor::from_code(row.try_get_by_index(2)?, person.map(UserId));
    let mut counts = [0; 5];
    for (place, count) in counts.iter_mut().enumerate() {
        let stored: i64 = row.try_get_by_index(place.saturating_add(5))?;
        *count = u64::try_from(stored).unwrap_or_default();
    }
    Ok(EndedVerification {
        began_at: Timestamp::from_micros(row.try_get_by_index(0)?),
        ended_at: Timestamp::from_micros(row.try_get_by_index(1)?),
        actor: actor.ok_or_else(|| StoreError::Corrupt("a verification has no actor".into()))?,
        failure: row.try_get_by_index(4)?,
        counts,
        found: row.try_get_by_index(10)?,
    })
}
