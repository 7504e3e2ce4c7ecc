//! What the key pepper protects, for its replacement: encrypted values, and digests of API keys.

use sea_orm::QueryResult;
use uuid::Uuid;

use super::connections::{execute, query};
use super::{Store, StoreError};
use domain::Timestamp;
use domain::api_key::SecretId;

/// Values read by one statement.
const CHUNK: u32 = 500;

/// The columns with encrypted values. A value is bound to the id of its row.
const COLUMNS: [SealedColumn; 3] = [
    SealedColumn { table: "users", column: "totp_secret" },
    SealedColumn { table: "webhook_endpoint", column: "secret" },
    SealedColumn { table: "webhook_endpoint", column: "former_secret" },
];

/// A column with encrypted values.
#[derive(Clone, Copy, Debug)]
pub struct SealedColumn {
    table: &'static str,
    column: &'static str,
}

impl SealedColumn {
    /// All of them.
    #[must_use]
    pub fn all() -> [SealedColumn; 3] {
        COLUMNS
    }

    /// Is it the secret of a second factor, or else of a webhook?
    #[must_use]
    pub fn is_second_factor(self) -> bool {
        self.column == "totp_secret"
    }
}

/// How many valid API keys have a digest that the current pepper has not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestCounts {
    /// By the current pepper.
    pub current: u64,
    /// By another one.
    pub other: u64,
}

/// What else the current pepper does not protect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherPeppered {
    /// Encrypted secrets of webhooks, second factors and credentials of providers.
    pub sealed: u64,
    /// Recovery codes that are not used.
    pub codes: u64,
}

impl Store {
    /// Encrypted values of a column with ids above `after`, ascending: at most 500.
    pub async fn list_sealed(
        &self,
        of: SealedColumn,
        after: Uuid,
    ) -> Result<Vec<(Uuid, Vec<u8>)>, StoreError> {
        self.run(move |store| async move {
            let SealedColumn { table, column } = of;
            let sql = format!(
                "SELECT id, {column} FROM {table} WHERE id > $1 AND {column} IS NOT NULL
                ORDER BY id LIMIT {CHUNK}"
            );
            let rows = query(&store.read, &sql, vec![after.into()]).await?;
            let values = rows.iter().map(|row| {
                Ok::<_, StoreError>((row.try_get_by_index(0)?, row.try_get_by_index(1)?))
            });
            values.collect()
        })
        .await
    }

    /// Replaces an encrypted value, unless it has changed meanwhile.
    pub async fn replace_sealed(
        &self,
        of: SealedColumn,
        id: Uuid,
        sealed: Vec<u8>,
        renewed: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.run_write(move |store| async move {
            let SealedColumn { table, column } = of;
            let sql = format!("UPDATE {table} SET {column} = $1 WHERE id = $2 AND {column} = $3");
            execute(&store.write, &sql, vec![renewed.into(), id.into(), sealed.into()]).await?;
            Ok(())
        })
        .await
    }

    /// Counts encrypted secrets and unused recovery codes of another pepper than `current`.
    pub async fn count_other_peppered(
        &self,
        current: SecretId,
    ) -> Result<OtherPeppered, StoreError> {
        const CODES: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM recovery_code
            WHERE used_at IS NULL AND pepper <> $1";
        self.run(move |store| async move {
            let mut counts = OtherPeppered { sealed: 0, codes: 0 };
            let of_credentials = SealedColumn { table: "credential", column: "sealed" };
            for SealedColumn { table, column } in COLUMNS.into_iter().chain([of_credentials]) {
                // The first byte is the format.
                let sql = format!(
                    "SELECT CAST(COUNT(*) AS BIGINT) FROM {table}
                    WHERE {column} IS NOT NULL AND substr({column}, 2, 4) <> $1"
                );
                let rows = query(&store.read, &sql, vec![current.to_vec().into()]).await?;
                counts.sealed = counts.sealed.saturating_add(count_of(&rows, 0)?);
            }
            let rows = query(&store.read, CODES, vec![current.to_vec().into()]).await?;
            Ok(OtherPeppered { codes: count_of(&rows, 0)?, ..counts })
        })
        .await
    }

    /// Counts the values of API keys that are valid at `now`, former ones with them, by the pepper
    /// of their digests.
    pub async fn count_digests(
        &self,
        current: SecretId,
        now: Timestamp,
    ) -> Result<DigestCounts, StoreError> {
        const SQL: &str = "SELECT CAST(COUNT(*) AS BIGINT),
                CAST(COALESCE(SUM(CASE WHEN substr(digest, 1, 4) = $1 THEN 1 ELSE 0 END), 0) AS BIGINT)
            FROM (
                SELECT digest FROM api_key WHERE NOT is_revoked AND NOT is_deleted
                    AND (expires_at IS NULL OR expires_at > $2)
                UNION ALL
                SELECT f.digest FROM former_key_value AS f
                    INNER JOIN api_key AS k ON k.id = f.key_id
                    WHERE NOT k.is_revoked AND NOT k.is_deleted AND f.valid_until > $2
            ) AS valid";
        self.run(move |store| async move {
            let values = vec![current.to_vec().into(), now.micros().into()];
            let rows = query(&store.read, SQL, values).await?;
            let (all, current) = (count_of(&rows, 0)?, count_of(&rows, 1)?);
            Ok(DigestCounts { current, other: all.saturating_sub(current) })
        })
        .await
    }
}

fn count_of(rows: &[QueryResult], index: usize) -> Result<u64, StoreError> {
    let count: Option<i64> = rows.first().map(|row| row.try_get_by_index(index)).transpose()?;
    Ok(u64::try_from(count.unwrap_or(0)).unwrap_or(0))
}
