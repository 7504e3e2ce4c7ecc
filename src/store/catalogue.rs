//! The catalogue: its revisions, the head, the sealed secrets of credentials, and the numbers of
//! deployments.
//!
//! A change is one transaction. It moves the head first, and only if the head is where the writer
//! has seen it; so of two writers one waits for the other, and then is told that it is stale.

use std::collections::BTreeMap;
use std::sync::Arc;

use sea_orm::{DatabaseTransaction, DbErr, QueryResult, Value};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::audit_log;
use super::connections::{Connections, begin_snapshot};
use super::error::StoreError;
use super::sql::{begin_write, count, execute, query};
use domain::catalogue::DeploymentId;
use domain::{Act, Timestamp, UserId};

/// What tells whether something else is sold than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SellingMark {
    /// The revision of the catalogue.
    pub revision: u64,
    /// How often secrets of credentials were changed.
    pub credentials: u64,
    /// The last version of a price list, and how many were withdrawn.
    pub versions: (i64, i64),
}

/// A revision of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueRevision {
    /// Its number.
    pub number: u64,
    /// The document, in JSON.
    pub document: String,
    /// Is the document the one that was written?
    pub is_intact: bool,
    /// The operator who wrote it; `None`: the server, from a file.
    pub author: Option<UserId>,
    /// What was done.
    pub note: String,
    /// When it was written.
    pub at: Timestamp,
}

/// A secret of a credential, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedCredential {
    /// The name of the credential.
    pub name: Arc<str>,
    /// The provider that the secret is for.
    pub provider: Arc<str>,
    /// The address of the provider, when the secret was set.
    pub address: String,
    /// The secret, encrypted.
    pub sealed: Vec<u8>,
    /// The end of the secret, for people.
    pub hint: String,
    /// May it be used?
    pub is_enabled: bool,
    /// When the secret was set.
    pub rotated_at: Timestamp,
}

/// All that is stored of the catalogue at one moment.
#[derive(Clone, Debug, Default)]
pub struct StoredCatalogue {
    /// The revision in force; `None` before the first one.
    pub revision: Option<CatalogueRevision>,
    /// The numbers of all deployments there ever were.
    pub ids: BTreeMap<Arc<str>, DeploymentId>,
    /// The secrets.
    pub credentials: Vec<SealedCredential>,
}

/// A revision that is to be written.
#[derive(Clone, Debug)]
pub struct NewRevision {
    /// The document, in JSON.
    pub document: String,
    /// The names of all its deployments.
    pub deployments: Vec<Arc<str>>,
    /// The operator who writes it; `None`: the server, from a file.
    pub author: Option<UserId>,
    /// What is done.
    pub note: String,
}

/// A change of a secret.
#[derive(Clone, Debug)]
pub enum CredentialWrite {
    /// Sets it. One that is new is enabled, one that is there stays as it is.
    Put {
        /// The name of the credential.
        name: Arc<str>,
        /// The provider that the secret is for.
        provider: Arc<str>,
        /// The address of the provider.
        address: String,
        /// The secret, encrypted.
        sealed: Vec<u8>,
        /// See [`SealedCredential::hint`].
        hint: String,
    },
    /// Lets it be used, or not.
    Enable(Arc<str>, bool),
    /// Deletes it.
    Delete(Arc<str>),
}

/// A change, which happens whole or not at all.
#[derive(Clone, Debug)]
pub struct CatalogueWrite {
    /// The revision that the writer has seen.
    pub expected: u64,
    /// The next one, if the document changes.
    pub revision: Option<NewRevision>,
    /// The change of a secret, if there is one.
    pub credential: Option<CredentialWrite>,
    /// Who does it; `None`: the server.
    pub act: Option<Act>,
    /// When.
    pub at: Timestamp,
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogueWritten {
    /// This revision is in force now.
    Done(u64),
    /// Another revision is in force than the writer has seen. Nothing was written.
    Stale(u64),
}

/// The catalogue in the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CatalogueStore {
    database: Arc<Connections>,
}

const REVISION: &str = "number, document, digest, author, note, at";

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn revision(row: &QueryResult) -> Result<CatalogueRevision, DbErr> {
    let document: String = row.try_get_by_index(1)?;
    let digest: Vec<u8> = row.try_get_by_index(2)?;
    Ok(CatalogueRevision {
        number: number(row.try_get_by_index(0)?),
        is_intact: digest == Sha256::digest(&document).to_vec(),
        document,
        author: row.try_get_by_index::<Option<Uuid>>(3)?.map(UserId),
        note: row.try_get_by_index(4)?,
        at: Timestamp::from_micros(row.try_get_by_index(5)?),
    })
}

fn credential(row: &QueryResult) -> Result<SealedCredential, DbErr> {
    Ok(SealedCredential {
        name: row.try_get_by_index::<String>(0)?.into(),
        provider: row.try_get_by_index::<String>(1)?.into(),
        address: row.try_get_by_index(2)?,
        sealed: row.try_get_by_index(3)?,
        hint: row.try_get_by_index(4)?,
        is_enabled: row.try_get_by_index(5)?,
        rotated_at: Timestamp::from_micros(row.try_get_by_index(6)?),
    })
}

const CREDENTIALS: &str = "SELECT name, provider, address, sealed, hint, is_enabled, rotated_at
    FROM credential ORDER BY name";

impl CatalogueStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        CatalogueStore { database }
    }

    /// What tells whether something has changed. Cheap.
    pub async fn mark(&self) -> Result<SellingMark, StoreError> {
        const SQL: &str = "SELECT revision, credentials,
                (SELECT CAST(COALESCE(MAX(id), 0) AS BIGINT) FROM price_version),
                (SELECT CAST(COUNT(*) AS BIGINT) FROM price_version WHERE withdrawn_at IS NOT NULL)
            FROM catalogue_head";
        self.database
            .run(|database| async move {
                let rows = query(&database.read, SQL, []).await?;
                let row = rows.first().ok_or_else(no_head)?;
                Ok(SellingMark {
                    revision: number(row.try_get_by_index(0)?),
                    credentials: number(row.try_get_by_index(1)?),
                    versions: (row.try_get_by_index(2)?, row.try_get_by_index(3)?),
                })
            })
            .await
    }

    /// All that is stored of it at one moment.
    pub async fn load(&self) -> Result<StoredCatalogue, StoreError> {
        self.database
            .run(|database| async move {
                let snapshot = begin_snapshot(&database.read).await?;
                let sql = format!(
                    "SELECT {REVISION} FROM catalogue_revision
                    WHERE number = (SELECT revision FROM catalogue_head)"
                );
                let revisions = query(&snapshot, &sql, []).await?;
                let ids = query(&snapshot, "SELECT name, id FROM deployment_name", []).await?;
                let credentials = query(&snapshot, CREDENTIALS, []).await?;
                snapshot.commit().await?;
                Ok(StoredCatalogue {
                    revision: revisions.first().map(revision).transpose()?,
                    ids: ids.iter().map(named_id).collect::<Result<_, StoreError>>()?,
                    credentials: credentials.iter().map(credential).collect::<Result<_, _>>()?,
                })
            })
            .await
    }

    /// The revision with this number.
    pub async fn revision(&self, number: u64) -> Result<Option<CatalogueRevision>, StoreError> {
        self.database
            .run(move |database| async move {
                let sql = format!("SELECT {REVISION} FROM catalogue_revision WHERE number = $1");
                let rows = query(&database.read, &sql, [signed(number).into()]).await?;
                Ok(rows.first().map(revision).transpose()?)
            })
            .await
    }

    /// Revisions without their documents, the latest first: those below `before`.
    pub async fn revisions(
        &self,
        before: Option<u64>,
        limit: u64,
    ) -> Result<Vec<CatalogueRevision>, StoreError> {
        const SQL: &str = "SELECT number, '', digest, author, note, at FROM catalogue_revision
            WHERE number < $1 ORDER BY number DESC LIMIT $2";
        self.database
            .run(move |database| async move {
                let values = [before.map_or(i64::MAX, signed).into(), signed(limit).into()];
                let rows = query(&database.read, SQL, values).await?;
                Ok(rows.iter().map(revision).collect::<Result<_, _>>()?)
            })
            .await
    }

    /// The secrets, by the name of the credential.
    pub async fn credentials(&self) -> Result<Vec<SealedCredential>, StoreError> {
        self.database
            .run(|database| async move {
                let rows = query(&database.read, CREDENTIALS, []).await?;
                Ok(rows.iter().map(credential).collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Replaces a sealed secret, unless it has changed meanwhile.
    pub async fn reseal(
        &self,
        name: Arc<str>,
        sealed: Vec<u8>,
        renewed: Vec<u8>,
    ) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE credential SET sealed = $1 WHERE name = $2 AND sealed = $3";
        self.database
            .run_job(move |database| async move {
                let values = [renewed.into(), name.to_string().into(), sealed.into()];
                execute(&database.write, SQL, values).await?;
                Ok(())
            })
            .await
    }

    /// Changes the document, a secret, or both.
    pub async fn write(&self, write: CatalogueWrite) -> Result<CatalogueWritten, StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                match write.apply(&transaction).await? {
                    CatalogueWritten::Done(revision) => {
                        failpoint!("catalogue-written");
                        transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                        Ok(CatalogueWritten::Done(revision))
                    }
                    stale @ CatalogueWritten::Stale(_) => {
                        transaction.rollback().await?;
                        Ok(stale)
                    }
                }
            })
            .await
    }
}

fn no_head() -> StoreError {
    StoreError::Corrupt("catalogue_head has no row".into())
}

fn named_id(row: &QueryResult) -> Result<(Arc<str>, DeploymentId), StoreError> {
    let id: i32 = row.try_get_by_index(1)?;
    let id = u32::try_from(id).map_err(|_| StoreError::Corrupt(format!("deployment {id}")))?;
    Ok((row.try_get_by_index::<String>(0)?.into(), DeploymentId(id)))
}

impl CatalogueWrite {
    async fn apply(
        self,
        transaction: &DatabaseTransaction,
    ) -> Result<CatalogueWritten, StoreError> {
        const HEAD: &str = "UPDATE catalogue_head SET revision = $1, credentials = credentials + $2
            WHERE revision = $3";
        let expected = signed(self.expected);
        let next = if self.revision.is_some() { expected.saturating_add(1) } else { expected };
        let changed = i64::from(self.credential.is_some());
        let values = [next.into(), changed.into(), expected.into()];
        if execute(transaction, HEAD, values).await? == 0 {
            let current = count(transaction, "SELECT revision FROM catalogue_head", []).await?;
            return Ok(CatalogueWritten::Stale(number(current)));
        }
        if let Some(revision) = self.revision {
            revision.insert(transaction, next, self.at).await?;
        }
        if let Some(credential) = self.credential {
            credential.apply(transaction, self.at).await?;
        }
        if let Some(act) = &self.act {
            audit_log::insert(transaction, act).await?;
        }
        Ok(CatalogueWritten::Done(number(next)))
    }
}

impl NewRevision {
    async fn insert(
        self,
        transaction: &DatabaseTransaction,
        number: i64,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        const SQL: &str =
            "INSERT INTO catalogue_revision (number, document, digest, author, note, at)
            VALUES ($1, $2, $3, $4, $5, $6)";
        let digest = Sha256::digest(&self.document).to_vec();
        let values: [Value; 6] = [
            number.into(),
            self.document.into(),
            digest.into(),
            self.author.map(|UserId(id)| id).into(),
            self.note.into(),
            at.micros().into(),
        ];
        execute(transaction, SQL, values).await.map_err(StoreError::of_write)?;
        number_deployments(transaction, self.deployments, number).await
    }
}

/// Gives numbers to the names that have none.
async fn number_deployments(
    transaction: &DatabaseTransaction,
    names: Vec<Arc<str>>,
    revision: i64,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO deployment_name (id, name, first_revision)
        VALUES (CAST($1 AS INTEGER), $2, $3)";
    let rows = query(transaction, "SELECT name, id FROM deployment_name", []).await?;
    let known: BTreeMap<Arc<str>, DeploymentId> =
        rows.iter().map(named_id).collect::<Result<_, _>>()?;
    let last = known.values().map(|id| i64::from(id.0)).max().unwrap_or(0);
    let new = names.into_iter().filter(|name| !known.contains_key(name));
    for (id, name) in (last.saturating_add(1)..).zip(new) {
        let values = [id.into(), name.to_string().into(), revision.into()];
        execute(transaction, SQL, values).await.map_err(StoreError::of_write)?;
    }
    Ok(())
}

impl CredentialWrite {
    async fn apply(
        self,
        transaction: &DatabaseTransaction,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        const PUT: &str = "INSERT INTO credential
                (name, provider, address, sealed, hint, is_enabled, rotated_at)
            VALUES ($1, $2, $3, $4, $5, TRUE, $6)
            ON CONFLICT (name) DO UPDATE SET provider = excluded.provider,
                address = excluded.address, sealed = excluded.sealed, hint = excluded.hint,
                rotated_at = excluded.rotated_at";
        match self {
            CredentialWrite::Put { name, provider, address, sealed, hint } => {
                let values: [Value; 6] = [
                    name.to_string().into(),
                    provider.to_string().into(),
                    address.into(),
                    sealed.into(),
                    hint.into(),
                    at.micros().into(),
                ];
                execute(transaction, PUT, values).await?;
            }
            CredentialWrite::Enable(name, is_enabled) => {
                let sql = "UPDATE credential SET is_enabled = $1 WHERE name = $2";
                execute(transaction, sql, [is_enabled.into(), name.to_string().into()]).await?;
            }
            CredentialWrite::Delete(name) => {
                let sql = "DELETE FROM credential WHERE name = $1";
                execute(transaction, sql, [name.to_string().into()]).await?;
            }
        }
        Ok(())
    }
}
