//! What is sold, read from the database: the catalogue, the price lists, and the secrets.
//!
//! It is read one at a time, so that what was read earlier never takes the place of what was read
//! later. A revision that cannot be read never takes the place of what is sold.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::vault::GivenSecret;
use super::{ModelRegistry, Selling, document, provider_url};
use crate::config::Secret;
use crate::store::catalogue::{CatalogueRevision, SealedCredential, SellingMark, StoredCatalogue};
use crate::store::{Store, StoreError};
use domain::catalogue::{Catalogue, Deployed, DeploymentId};

/// What was read last. Locked while it is read again.
pub(super) type Loaded = tokio::sync::Mutex<Option<SellingMark>>;

/// Reads it again, after a change. Calls that arrive from now on see it.
pub async fn refresh(models: &ModelRegistry, store: &Store) -> Result<(), StoreError> {
    let mut loaded = models.loaded.lock().await;
    // Before the rest: what changes meanwhile is read the next time.
    let mark = store.catalogue.mark().await?;
    models.replace(read(models, store, loaded.is_none()).await?);
    *loaded = Some(mark);
    Ok(())
}

/// Reads it again if anything has changed, here or by another process. Has it?
pub async fn follow(models: &ModelRegistry, store: &Store) -> Result<bool, StoreError> {
    let mut loaded = models.loaded.lock().await;
    let mark = store.catalogue.mark().await?;
    if *loaded == Some(mark) {
        return Ok(false);
    }
    models.replace(read(models, store, loaded.is_none()).await?);
    *loaded = Some(mark);
    Ok(true)
}

async fn read(
    models: &ModelRegistry,
    store: &Store,
    is_first: bool,
) -> Result<Selling, StoreError> {
    let prices = store.price_book().await?;
    for fault in &prices.faults {
        tracing::error!(alert = "prices", %fault, "a price list does not agree");
    }
    let StoredCatalogue { revision, ids, credentials } = store.catalogue.load().await?;
    let read = revision.as_ref().map(|revision| catalogue(revision, &ids));
    let catalogue = match read.transpose() {
        Ok(catalogue) => catalogue.unwrap_or_default(),
        // Nothing was sold before: without its models the server would sell by its routes.
        Err(fault) if is_first => {
            return Err(StoreError::Corrupt(format!(
                "the catalogue cannot be sold: {fault}. Restore the database from a backup; or write \
                 the catalogue anew, by a start with a file: catalogue.source = \"file\""
            )));
        }
        Err(fault) => {
            tracing::error!(
                alert = "catalogue",
                fault,
                "a stored revision of the catalogue cannot be sold; what was sold before goes on"
            );
            models.selling().catalogue.clone()
        }
    };
    let mut secrets: BTreeMap<Arc<str>, GivenSecret> = BTreeMap::new();
    for credential in credentials.into_iter().filter(|credential| credential.is_enabled) {
        let name = Arc::clone(&credential.name);
        let Some(secret) = models.vault.open(&name, &credential.sealed) else {
            tracing::error!(
                alert = "catalogue",
                credential = &*name,
                "the secret of a credential cannot be decrypted: the key pepper is not the one that it was \
                 encrypted with; set the secret again"
            );
            continue;
        };
        let SealedCredential { provider, address, .. } = credential;
        secrets.insert(name, GivenSecret { provider, address, secret });
    }
    for (name, given) in &*models.vault.given() {
        secrets.insert(Arc::clone(name), given.clone());
    }
    let (catalogue, secrets) = with_secrets(catalogue, &secrets);
    Ok(Selling::new(catalogue, prices.book, secrets))
}

/// The catalogue of a stored revision, or what is wrong with it.
pub fn catalogue(
    revision: &CatalogueRevision,
    ids: &BTreeMap<Arc<str>, DeploymentId>,
) -> Result<Catalogue, String> {
    let of = |problem: String| format!("revision {}: {problem}", revision.number);
    if !revision.is_intact {
        return Err(of("it is not the document that was written".into()));
    }
    let value = serde_json::from_str(&revision.document);
    let value = value.map_err(|_| of("it is no JSON".into()))?;
    let first = |faults: Vec<_>| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        of(faults.join("; "))
    };
    let document = document::read(value).map_err(first)?;
    Catalogue::new(revision.number, document, ids).map_err(first)
}

/// Leaves out what is for another provider or another address than the credential's, and disables
/// the deployments whose credential has no secret. A private provider may need none.
fn with_secrets(
    catalogue: Catalogue,
    secrets: &BTreeMap<Arc<str>, GivenSecret>,
) -> (Catalogue, BTreeMap<Arc<str>, Secret>) {
    let secret_of = |by: &Deployed| {
        let given = secrets.get(&by.credential.name)?;
        let is_for_it = given.provider == by.credential.provider
            && given.address == provider_url::address(&by.provider);
        is_for_it.then(|| given.secret.clone())
    };
    let named = catalogue
        .deployments()
        .filter_map(|by| Some((Arc::clone(&by.credential.name), secret_of(by)?)));
    let usable: BTreeMap<Arc<str>, Secret> = named.collect();
    let catalogue = catalogue
        .without(|by| by.provider.allows_private || usable.contains_key(&by.credential.name));
    (catalogue, usable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue_of(allows_private: bool) -> Catalogue {
        let document = serde_json::json!({
            "providers": [
                { "name": "one", "dialect": "openai", "allow_private": allows_private },
                { "name": "two", "dialect": "openai" },
            ],
            "credentials": [{ "name": "main", "provider": "one" }],
            "models": [{
                "name": "m", "max_input": 1, "max_output": 1, "targets": [{ "credential": "main" }],
            }],
        });
        let document = document::read(document).unwrap();
        let ids = document.deployment_names().into_iter().zip((1..).map(DeploymentId)).collect();
        Catalogue::new(1, document, &ids).unwrap()
    }

    fn is_disabled(allows_private: bool, given: Option<(&str, &str)>) -> (bool, usize) {
        let given = given.map(|(provider, address)| {
            let (secret, address) = (Secret::from("sk-secret".to_owned()), address.to_owned());
            (Arc::from("main"), GivenSecret { provider: provider.into(), address, secret })
        });
        let (catalogue, secrets) =
            with_secrets(catalogue_of(allows_private), &given.into_iter().collect());
        let found = catalogue.find("m").unwrap();
        (found.served[0].by.deployment.is_disabled, secrets.len())
    }

    #[test]
    fn a_secret_goes_to_its_own_provider_alone() {
        assert_eq!(is_disabled(false, Some(("one", "openai"))), (false, 1));
        assert_eq!(is_disabled(false, Some(("two", "openai"))), (true, 0));
        assert_eq!(is_disabled(false, Some(("one", "https://example.com"))), (true, 0));
        assert_eq!(is_disabled(false, None), (true, 0));
        // One at home may need none.
        assert_eq!(is_disabled(true, None), (false, 0));
        assert_eq!(is_disabled(true, Some(("two", "openai"))), (false, 0));
    }

    #[test]
    fn a_revision_that_was_tampered_with_is_not_sold() {
        let revision = CatalogueRevision {
            number: 7,
            document: "{}".into(),
            is_intact: true,
            author: None,
            note: String::new(),
            at: domain::Timestamp::from_micros(0),
        };
        assert!(catalogue(&revision, &BTreeMap::new()).unwrap().is_empty());
        let other = CatalogueRevision { is_intact: false, ..revision.clone() };
        assert!(catalogue(&other, &BTreeMap::new()).is_err());
        for document in ["x", "[]", r#"{"models":[{"name":"m"}]}"#] {
            let other = CatalogueRevision { document: document.into(), ..revision.clone() };
            assert!(catalogue(&other, &BTreeMap::new()).is_err(), "{document}");
        }
    }
}
