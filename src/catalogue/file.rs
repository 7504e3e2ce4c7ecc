//! The catalogue as a file: read at start, and again when it changes or a file with a secret does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::credentials::address_of;
use super::{
    CatalogueWrite, CatalogueWritten, Checked, DOCUMENT_MAX, Store, StoreError, TRIES_MAX, checked,
    current,
};
use crate::config::Secret;
use crate::models::document;
use crate::models::document::file::{CatalogueFile, SecretPlace};
use crate::models::load;
use crate::models::vault::GivenSecret;
use crate::pipeline::Gateway;
use domain::catalogue::CatalogueFault;

/// What is known of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// Its path.
    pub path: PathBuf,
    /// What is wrong with it. Empty: it is what is sold.
    pub faults: Vec<CatalogueFault>,
}

/// Why the file is not what is sold.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// What is wrong with it.
    #[error("{}", in_words(.0))]
    Faulty(Vec<CatalogueFault>),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn in_words(faults: &[CatalogueFault]) -> String {
    let words = faults.iter().map(|fault| match fault.path.as_str() {
        "" => fault.problem.clone(),
        path => format!("{path} {}", fault.problem),
    });
    words.collect::<Vec<_>>().join("; ")
}

/// What tells that a file has changed.
type Seen = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

fn seen(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// See the module.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    state: Mutex<(Seen, Vec<CatalogueFault>)>,
}

/// What was read of it.
struct Read {
    checked: Checked,
    secrets: BTreeMap<Arc<str>, GivenSecret>,
}

impl FileSource {
    /// The catalogue in this file.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        FileSource { path, state: Mutex::default() }
    }

    /// What is known of it.
    #[must_use]
    pub fn state(&self) -> FileState {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        FileState { path: self.path.clone(), faults: state.1.clone() }
    }

    /// Has it changed since it was read, or one of the files with its secrets?
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.iter().any(|(path, before)| seen(path) != *before)
    }

    /// Reads it, and sells what it says. If anything is wrong with it, nothing changes.
    ///
    /// # Errors
    /// [`FileFault`]
    pub async fn load(&self, store: &Store, gateway: &Gateway) -> Result<(), FileFault> {
        let (files, read) = self.read();
        let loaded = match read {
            Ok(read) => self.sell(read, store, gateway).await.map_err(FileFault::from),
            Err(faults) => Err(FileFault::Faulty(faults)),
        };
        // What the database has refused is tried again.
        let files = if matches!(loaded, Err(FileFault::Store(_))) { Vec::new() } else { files };
        let faults = match &loaded {
            Err(FileFault::Faulty(faults)) => faults.clone(),
            _ => Vec::new(),
        };
        let is_faulty = u64::from(loaded.is_err());
        gateway.metrics.catalogue_file_faulty.store(is_faulty, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (or_again(files, &self.path), faults);
        loaded
    }

    /// Reads it, with its secrets. Returns what was seen of the files too.
    fn read(&self) -> (Seen, Result<Read, Vec<CatalogueFault>>) {
        let fault = |path: String, problem: String| CatalogueFault { path, problem };
        let mut files = vec![(self.path.clone(), seen(&self.path))];
        let name = self.path.display();
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) if text.len() <= DOCUMENT_MAX => text,
            Ok(_) => {
                let problem = format!("{name} is too large: at most {DOCUMENT_MAX} bytes");
                return (files, Err(vec![fault(String::new(), problem)]));
            }
            Err(error) => {
                let problem = format!("cannot read {name}: {}", error.kind());
                return (files, Err(vec![fault(String::new(), problem)]));
            }
        };
        let is_json = self.path.extension().is_some_and(|extension| extension == "json");
        let CatalogueFile { document, secrets: places, cards } =
            match CatalogueFile::read(&text, is_json) {
                Ok(read) => read,
                Err(faults) => return (files, Err(faults)),
            };
        if !cards.is_empty() {
            tracing::info!(
                file = %name,
                "prices are not read from the file of the catalogue; `polysystems prices apply` publishes them"
            );
        }
        let (mut secrets, mut faults) = (BTreeMap::new(), Vec::new());
        for (name, place) in places {
            if let SecretPlace::File(path) = &place {
                files.push((path.clone(), seen(path)));
            }
            let Some((provider, address)) = address_of(&document, &name) else { continue };
            match place.read() {
                Ok(secret) => {
                    let secret = Secret::from(secret);
                    secrets.insert(name, GivenSecret { provider, address, secret });
                }
                Err(problem) => {
                    faults.push(fault(format!("credentials.{name}.secret"), problem));
                }
            }
        }
        if !faults.is_empty() {
            return (files, Err(faults));
        }
        let checked = checked(document::write(&document));
        (files, checked.map(|checked| Read { checked, secrets }))
    }

    async fn sell(&self, read: Read, store: &Store, gateway: &Gateway) -> Result<(), StoreError> {
        let Read { checked, secrets } = read;
        // A secret is for one provider, so those of the new document do no harm to the old one.
        gateway.models.vault.give(secrets);
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let new = checked.revision(None, name.unwrap_or_default());
        for _ in 0..TRIES_MAX {
            let before = current(store).await?;
            let written = before.value.to_string();
            if written == new.document {
                return load::refresh(&gateway.models, store).await;
            }
            let write = CatalogueWrite {
                expected: before.revision,
                revision: Some(new.clone()),
                credential: None,
                act: None,
                at: gateway.clock.now(),
            };
            if let CatalogueWritten::Done(revision) = store.catalogue.write(write).await? {
                tracing::info!(revision, "the file of the catalogue has changed");
                return load::refresh(&gateway.models, store).await;
            }
        }
        Err(StoreError::Busy)
    }
}

/// Without anything seen it would never be looked at again.
fn or_again(files: Seen, path: &Path) -> Seen {
    if files.is_empty() { vec![(path.to_owned(), None)] } else { files }
}
