//! The secrets of credentials: set, rotated, enabled, disabled, deleted. They are never read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    CatalogueAdmin, CatalogueError, CatalogueWrite, CatalogueWritten, CredentialWrite, Edit,
    PartKind, Request, StoreError, TRIES_MAX, checked,
};
use crate::config::Secret;
use crate::models::vault::hint;
use crate::models::{document, provider_url};
use crate::store::catalogue::SealedCredential;
use domain::catalogue::{CatalogueDocument, ProviderDialect};
use domain::{ActKind, Timestamp};

/// A credential, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialView {
    /// Its name.
    pub name: String,
    /// The name of its provider.
    pub provider: String,
    /// Its group, if it is not its own.
    pub quota_group: Option<String>,
    /// The end of the secret; empty if it is short.
    pub hint: String,
    /// May the secret be used?
    pub is_enabled: bool,
    /// When the secret was set. `None`: there is none, or it is in a file.
    pub rotated_at: Option<Timestamp>,
    /// Is there a secret, here or in a file?
    pub has_secret: bool,
}

/// A secret that is set.
pub struct NewSecret {
    /// The name of the credential.
    pub name: String,
    /// The provider that it is for.
    pub provider: String,
    /// The secret.
    pub secret: Secret,
    /// The group of the credential. `None`: as it is.
    pub quota_group: Option<String>,
}

/// The provider of a credential, and its address.
pub(super) fn address_of(document: &CatalogueDocument, name: &str) -> Option<(Arc<str>, String)> {
    let credential = document.credentials.iter().find(|one| &*one.name == name)?;
    let provider = document.providers.iter().find(|one| one.name == credential.provider)?;
    Some((Arc::clone(&provider.name), provider_url::address(provider)))
}

fn text(part: &Value, field: &str) -> Option<String> {
    part.get(field).and_then(Value::as_str).map(str::to_owned)
}

/// A provider that is not in the catalogue, if its name says all of it.
fn usual_provider(catalogue: &Value, name: &str) -> Option<Value> {
    let dialect = ProviderDialect::from_name(name)?;
    let is_complete = dialect != ProviderDialect::Azure;
    let is_new = PartKind::Provider.find(catalogue, name).is_none();
    (is_complete && is_new).then(|| json!({ "name": name, "dialect": name }))
}

impl CatalogueAdmin {
    /// The credentials, by name.
    pub async fn credentials(&self) -> Result<Vec<CredentialView>, CatalogueError> {
        let document = self.current().await?.value;
        let stored = self.store.catalogue.credentials().await?;
        let stored: BTreeMap<String, SealedCredential> =
            stored.into_iter().map(|one| (one.name.to_string(), one)).collect();
        let given = self.gateway.models.vault.given();
        let parts = PartKind::Credential.of(&document).iter();
        let parts: BTreeMap<String, &Value> =
            parts.filter_map(|part| Some((text(part, "name")?, part))).collect();
        let names: BTreeSet<&String> = stored.keys().chain(parts.keys()).collect();
        let view = |name: &String| {
            let (part, stored) = (parts.get(name).copied(), stored.get(name));
            let of_part = |field: &str| part.and_then(|part| text(part, field));
            let of_row = || stored.map(|one| one.provider.to_string());
            let given = given.get(name.as_str());
            CredentialView {
                name: name.clone(),
                provider: of_part("provider").or_else(of_row).unwrap_or_default(),
                quota_group: of_part("quota_group"),
                hint: match (given, stored) {
                    (Some(given), _) => hint(given.secret.expose()),
                    (None, Some(stored)) => stored.hint.clone(),
                    (None, None) => String::new(),
                },
                is_enabled: given.is_some() || stored.is_some_and(|one| one.is_enabled),
                rotated_at: stored.filter(|_| given.is_none()).map(|one| one.rotated_at),
                has_secret: given.is_some() || stored.is_some(),
            }
        };
        Ok(names.into_iter().map(view).collect())
    }

    async fn sealed(&self, name: &str) -> Result<Option<SealedCredential>, CatalogueError> {
        let stored = self.store.catalogue.credentials().await?;
        Ok(stored.into_iter().find(|one| &*one.name == name))
    }

    /// The change that sets this secret.
    fn put(
        &self,
        name: &str,
        (provider, address): (Arc<str>, String),
        secret: &Secret,
    ) -> Result<CredentialWrite, CatalogueError> {
        let vault = &self.gateway.models.vault;
        let sealed = vault.seal(name, secret.expose()).ok_or(CatalogueError::Unsealed)?;
        let hint = hint(secret.expose());
        Ok(CredentialWrite::Put { name: name.into(), provider, address, sealed, hint })
    }

    /// Sets the secret of a credential, and makes or changes the credential in the document. If its
    /// provider is not there, and has the name of a protocol with an address of its own, it is made
    /// too. Nothing is written if nothing is new. Returns the revision in force.
    ///
    /// # Errors
    /// [`CatalogueError::Faults`] if there is no such provider.
    pub async fn set_secret(
        &self,
        request: &Request,
        new: NewSecret,
    ) -> Result<u64, CatalogueError> {
        self.assert_writable()?;
        let NewSecret { name, provider, secret, quota_group } = new;
        let kind = PartKind::Credential;
        for _ in 0..TRIES_MAX {
            let before = self.current().await?;
            let known = kind.find(&before.value, &name);
            let of_known = || known.as_ref().and_then(|part| text(part, "quota_group"));
            let mut part = json!({ "name": name, "provider": provider });
            if let (Some(group), Some(fields)) =
                (quota_group.clone().or_else(of_known), part.as_object_mut())
            {
                fields.insert("quota_group".into(), group.into());
            }
            let mut value = before.value.clone();
            if let Some(usual) = usual_provider(&value, &provider) {
                value = Edit::Set(PartKind::Provider, provider.clone(), usual).apply(value)?;
            }
            let after = Edit::Set(kind, name.clone(), part).apply(value).map(checked)?;
            let after = after.map_err(CatalogueError::Faults)?;
            let is_changed = after.value != before.value;
            let of = address_of(&after.document, &name);
            let of = of.ok_or(CatalogueError::NotFound("provider"))?;
            let sealed = self.sealed(&name).await?;
            let is_same = sealed.is_some_and(|stored| {
                let opened = self.gateway.models.vault.open(&name, &stored.sealed);
                (stored.provider, stored.address) == of && opened.as_ref() == Some(&secret)
            });
            if is_same && !is_changed {
                return Ok(before.revision);
            }
            let note = format!("credential {name}");
            let revision = is_changed.then(|| after.revision(Some(request.author), note));
            let act = self.act(request, ActKind::CredentialSet).to(name.clone());
            let write = CatalogueWrite {
                expected: before.revision,
                revision,
                credential: Some(self.put(&name, of, &secret)?),
                act: Some(act.with(format!("for {provider}"))),
                at: self.now(),
            };
            if let CatalogueWritten::Done(revision) = self.write(write).await? {
                return Ok(revision);
            }
        }
        Err(StoreError::Busy.into())
    }

    /// Gives a credential another secret, for the address that its provider has now.
    ///
    /// # Errors
    /// [`CatalogueError::NotFound`] if it has none yet.
    pub async fn rotate_secret(
        &self,
        request: &Request,
        name: &str,
        secret: &Secret,
    ) -> Result<u64, CatalogueError> {
        let kind = ActKind::CredentialRotated;
        self.change_secret(request, name, kind, async |known: SealedCredential| {
            let document = document::read(self.current().await?.value);
            let of = document.ok().and_then(|document| address_of(&document, &known.name));
            self.put(&known.name, of.unwrap_or((known.provider, known.address)), secret)
        })
        .await
    }

    /// Lets the secret of a credential be used, or not.
    ///
    /// # Errors
    /// [`CatalogueError::NotFound`] if it has none.
    pub async fn enable_secret(
        &self,
        request: &Request,
        name: &str,
        is_enabled: bool,
    ) -> Result<u64, CatalogueError> {
        let kind =
            if is_enabled { ActKind::CredentialEnabled } else { ActKind::CredentialDisabled };
        self.change_secret(request, name, kind, async |known: SealedCredential| {
            Ok(CredentialWrite::Enable(known.name, is_enabled))
        })
        .await
    }

    async fn change_secret(
        &self,
        request: &Request,
        name: &str,
        kind: ActKind,
        change: impl AsyncFn(SealedCredential) -> Result<CredentialWrite, CatalogueError>,
    ) -> Result<u64, CatalogueError> {
        self.assert_writable()?;
        for _ in 0..TRIES_MAX {
            let expected = self.store.catalogue.mark().await?.revision;
            let known = self.sealed(name).await?;
            let known = known.ok_or(CatalogueError::NotFound("credential"))?;
            let write = CatalogueWrite {
                expected,
                revision: None,
                credential: Some(change(known).await?),
                act: Some(self.act(request, kind).to(name)),
                at: self.now(),
            };
            if let CatalogueWritten::Done(revision) = self.write(write).await? {
                return Ok(revision);
            }
        }
        Err(StoreError::Busy.into())
    }

    /// Deletes a credential: its secret, and what the document has of it.
    ///
    /// # Errors
    /// [`CatalogueError::Used`] if deployments or models use it.
    pub async fn delete_credential(
        &self,
        request: &Request,
        name: &str,
    ) -> Result<u64, CatalogueError> {
        self.assert_writable()?;
        let edit = Edit::Remove(PartKind::Credential, name.to_owned());
        for _ in 0..TRIES_MAX {
            let before = self.current().await?;
            let is_stored = self.sealed(name).await?.is_some();
            let revision = match edit.apply(before.value.clone()) {
                Ok(after) => {
                    let after = checked(after).map_err(|faults| edit.refusal(faults))?;
                    Some(after.revision(Some(request.author), format!("without credential {name}")))
                }
                Err(CatalogueError::NotFound(_)) if is_stored => None,
                Err(error) => return Err(error),
            };
            let write = CatalogueWrite {
                expected: before.revision,
                revision,
                credential: Some(CredentialWrite::Delete(Arc::from(name))),
                act: Some(self.act(request, ActKind::CredentialDeleted).to(name)),
                at: self.now(),
            };
            if let CatalogueWritten::Done(revision) = self.write(write).await? {
                return Ok(revision);
            }
        }
        Err(StoreError::Busy.into())
    }
}
