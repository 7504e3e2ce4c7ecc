//! What operators do with the catalogue of models, and with the secrets of credentials.
//!
//! A change is an edit of the document in JSON. It is checked whole, written as one revision, and
//! sold at once. Without `If-Match` an edit that comes too late is made again on what is there now.

mod changes;
mod credentials;
mod edit;
mod file;

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use crate::models::{document, load};
use crate::pipeline::Gateway;
use crate::store::catalogue::{
    CatalogueRevision, CatalogueWrite, CatalogueWritten, CredentialWrite, NewRevision,
};
use crate::store::{Store, StoreError};
use domain::catalogue::{CatalogueDocument, CatalogueFault};
use domain::{Act, ActKind, Origin, Timestamp, UserId};

pub use changes::{PartChange, PartFate, changes};
pub use credentials::{CredentialView, NewSecret};
pub use edit::{Edit, PartKind};
pub use file::{FileFault, FileSource, FileState};

/// The longest document, in bytes of its JSON.
const DOCUMENT_MAX: usize = 4 * 1024 * 1024;
/// How often an edit is made again if others change the catalogue at the same time.
const TRIES_MAX: u32 = 20;

/// Why an operator's request failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// What is wrong with the document.
    #[error("the catalogue has faults")]
    Faults(Vec<CatalogueFault>),
    /// Another revision is in force than the operator has seen.
    #[error("revision {current} is in force")]
    Stale {
        /// The revision in force.
        current: u64,
    },
    /// The catalogue is written in a file.
    #[error("the catalogue is a file")]
    IsAFile,
    /// There is no such thing; says what.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// There is one with this name; says what.
    #[error("there is such a {0}")]
    Exists(&'static str),
    /// The rest of the document uses it; says where.
    #[error("it is used")]
    Used(Vec<String>),
    /// The secret cannot be encrypted.
    #[error("a secret cannot be encrypted")]
    Unsealed,
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The document in force.
#[derive(Clone, Debug)]
pub struct CurrentDocument {
    /// The number of its revision; 0 is the empty one.
    pub revision: u64,
    /// The document, as it is written.
    pub value: Value,
}

/// What came of a change, or would come of it.
#[derive(Clone, Debug)]
pub struct CatalogueOutcome {
    /// The revision in force.
    pub revision: u64,
    /// What is wrong with the document; only without a write.
    pub faults: Vec<CatalogueFault>,
    /// What differs from before.
    pub changes: Vec<PartChange>,
}

/// A change that is asked for.
pub struct Request {
    /// The revision that the operator has seen, if they have said.
    pub expected: Option<u64>,
    /// Is nothing to be written?
    pub is_dry_run: bool,
    /// What is done, for the list of revisions.
    pub note: String,
    /// The operator.
    pub author: UserId,
    /// Where they are.
    pub origin: Origin,
}

/// What is sold by this process, and what is stored.
#[derive(Clone, Debug)]
pub struct CatalogueStatus {
    /// The revision that this process sells.
    pub selling: u64,
    /// The revision in the database.
    pub stored: u64,
    /// Models that are sold.
    pub models: usize,
    /// Deployments, and how many of them are disabled.
    pub deployments: (usize, usize),
    /// The file, if the catalogue is written in one.
    pub file: Option<FileState>,
}

/// See the module.
pub struct CatalogueAdmin {
    store: Store,
    gateway: Arc<Gateway>,
    file: Option<Arc<FileSource>>,
}

/// The document with nothing in it.
fn empty() -> Value {
    document::write(&CatalogueDocument::default())
}

/// The document of a stored revision.
fn value_of(revision: &CatalogueRevision) -> Result<Value, StoreError> {
    let read = serde_json::from_str(&revision.document);
    read.map_err(|_| StoreError::Corrupt(format!("revision {} is no JSON", revision.number)))
}

/// The document in force.
async fn current(store: &Store) -> Result<CurrentDocument, StoreError> {
    let revision = store.catalogue.mark().await?.revision;
    if revision == 0 {
        return Ok(CurrentDocument { revision, value: empty() });
    }
    let stored = store.catalogue.revision(revision).await?;
    let stored =
        stored.ok_or_else(|| StoreError::Corrupt(format!("there is no revision {revision}")))?;
    Ok(CurrentDocument { revision, value: value_of(&stored)? })
}

/// A document that was read and checked, with its JSON.
struct Checked {
    document: CatalogueDocument,
    value: Value,
    text: String,
}

fn checked(value: Value) -> Result<Checked, Vec<CatalogueFault>> {
    let document = document::read(value)?;
    document::check(&document)?;
    let value = document::write(&document);
    let text = value.to_string();
    if text.len() > DOCUMENT_MAX {
        let problem = format!("is too large: at most {DOCUMENT_MAX} bytes of JSON");
        return Err(vec![CatalogueFault { path: String::new(), problem }]);
    }
    Ok(Checked { document, value, text })
}

impl Checked {
    fn revision(self, author: Option<UserId>, note: String) -> NewRevision {
        let deployments = self.document.deployment_names();
        NewRevision { document: self.text, deployments, author, note }
    }
}

impl CatalogueAdmin {
    /// What operators do with this catalogue, which is written in `file` if there is one.
    #[must_use]
    pub fn new(store: Store, gateway: Arc<Gateway>, file: Option<Arc<FileSource>>) -> Self {
        CatalogueAdmin { store, gateway, file }
    }

    fn now(&self) -> Timestamp {
        self.gateway.clock.now()
    }

    fn assert_writable(&self) -> Result<(), CatalogueError> {
        if self.file.is_some() { Err(CatalogueError::IsAFile) } else { Ok(()) }
    }

    /// The document in force.
    pub async fn current(&self) -> Result<CurrentDocument, CatalogueError> {
        Ok(current(&self.store).await?)
    }

    /// The document of a revision; that of revision 0 is empty.
    pub async fn at(&self, revision: u64) -> Result<CurrentDocument, CatalogueError> {
        if revision == 0 {
            return Ok(CurrentDocument { revision, value: empty() });
        }
        let stored = self.store.catalogue.revision(revision).await?;
        let stored = stored.ok_or(CatalogueError::NotFound("revision"))?;
        Ok(CurrentDocument { revision, value: value_of(&stored)? })
    }

    /// The revision with this number.
    pub async fn revision(&self, number: u64) -> Result<CatalogueRevision, CatalogueError> {
        let stored = self.store.catalogue.revision(number).await?;
        stored.ok_or(CatalogueError::NotFound("revision"))
    }

    /// Revisions without their documents, the latest first.
    pub async fn revisions(
        &self,
        before: Option<u64>,
        limit: u64,
    ) -> Result<Vec<CatalogueRevision>, CatalogueError> {
        Ok(self.store.catalogue.revisions(before, limit).await?)
    }

    /// What this process sells, and what is stored.
    pub async fn status(&self) -> Result<CatalogueStatus, CatalogueError> {
        let stored = self.store.catalogue.mark().await?.revision;
        let selling = self.gateway.models.selling();
        let catalogue = &selling.catalogue;
        let disabled = catalogue.deployments().filter(|by| by.deployment.is_disabled).count();
        Ok(CatalogueStatus {
            selling: catalogue.revision(),
            stored,
            models: catalogue.models().count(),
            deployments: (catalogue.deployments().count(), disabled),
            file: self.file.as_ref().map(|file| file.state()),
        })
    }

    /// Changes the document, and writes a revision if it differs from the one in force.
    ///
    /// # Errors
    /// [`CatalogueError`]. With `is_dry_run` the faults of the document are no error.
    pub async fn change(
        &self,
        request: Request,
        edit: Edit,
    ) -> Result<CatalogueOutcome, CatalogueError> {
        self.assert_writable()?;
        for _ in 0..TRIES_MAX {
            let before = self.current().await?;
            let revision = before.revision;
            if request.expected.is_some_and(|expected| expected != revision) {
                return Err(CatalogueError::Stale { current: revision });
            }
            let after = match edit.apply(before.value.clone()).map(checked)? {
                Ok(after) => after,
                Err(faults) if request.is_dry_run => {
                    return Ok(CatalogueOutcome { revision, faults, changes: Vec::new() });
                }
                Err(faults) => return Err(edit.refusal(faults)),
            };
            let changes = changes(&before.value, &after.value);
            if request.is_dry_run || after.value == before.value {
                return Ok(CatalogueOutcome { revision, faults: Vec::new(), changes });
            }
            let next = format!("rev-{}", revision.saturating_add(1));
            let act = self.act(&request, ActKind::CatalogueChanged).to(next);
            let write = CatalogueWrite {
                expected: revision,
                act: Some(act.with(request.note.clone())),
                revision: Some(after.revision(Some(request.author), request.note.clone())),
                credential: None,
                at: self.now(),
            };
            match self.write(write).await? {
                CatalogueWritten::Done(revision) => {
                    return Ok(CatalogueOutcome { revision, faults: Vec::new(), changes });
                }
                CatalogueWritten::Stale(current) if request.expected.is_some() => {
                    return Err(CatalogueError::Stale { current });
                }
                CatalogueWritten::Stale(_) => {}
            }
        }
        Err(StoreError::Busy.into())
    }

    fn act(&self, request: &Request, kind: ActKind) -> Act {
        request.origin.clone().act(Uuid::now_v7(), request.author, kind, self.now())
    }

    /// Writes a change, and sells what it says.
    async fn write(&self, write: CatalogueWrite) -> Result<CatalogueWritten, CatalogueError> {
        let written = self.store.catalogue.write(write).await?;
        if let CatalogueWritten::Done(_) = written {
            failpoint!("catalogue-on-record");
            // It is on record. If it cannot be read now, the next look will.
            if let Err(error) = load::refresh(&self.gateway.models, &self.store).await {
                tracing::warn!(%error, "a change of the catalogue is sold a moment later");
            }
        }
        Ok(written)
    }
}

/// Sells what the database has, and follows it.
///
/// # Errors
/// As of the database.
pub async fn follow(store: &Store, gateway: &Gateway) -> Result<bool, StoreError> {
    load::follow(&gateway.models, store).await
}
