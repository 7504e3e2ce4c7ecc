//! The secrets of the providers' credentials: sealed in the database, or given by a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Secret;
use crate::seal::Seal;

/// What the secrets of credentials are sealed for.
pub const PURPOSE: &str = "secrets of credentials of providers";
/// How many characters of a secret are shown, so that people can tell two of them apart.
const HINT_CHARS: usize = 4;
/// Of a shorter secret nothing is shown.
const HINTED_MIN: usize = 16;

/// A secret, and the provider that it is for. It is never sent to another one, nor to another
/// address: somebody who may change the catalogue could read it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenSecret {
    /// The name of the provider.
    pub provider: Arc<str>,
    /// The address of the provider, when the secret was set.
    pub address: String,
    /// The secret.
    pub secret: Secret,
}

/// See the module. Without a seal it opens nothing.
#[derive(Default)]
pub struct Vault {
    seal: Option<Seal>,
    given: ArcSwap<BTreeMap<Arc<str>, GivenSecret>>,
}

impl Vault {
    /// A vault with this seal.
    #[must_use]
    pub fn new(seal: Seal) -> Self {
        Vault { seal: Some(seal), given: ArcSwap::default() }
    }

    /// Seals the secret of the credential with this name. `None` if that fails.
    #[must_use]
    pub fn seal(&self, name: &str, secret: &str) -> Option<Vec<u8>> {
        self.seal.as_ref()?.seal(secret.as_bytes().to_vec(), name.as_bytes())
    }

    /// Opens what was sealed for this credential. `None` if it was not, or by a pepper that is not
    /// known.
    #[must_use]
    pub fn open(&self, name: &str, sealed: &[u8]) -> Option<Secret> {
        let opened = self.seal.as_ref()?.open(sealed, name.as_bytes())?;
        String::from_utf8(opened).ok().map(Secret::from)
    }

    /// The value sealed anew, if it was sealed by the previous pepper.
    #[must_use]
    pub fn renewed(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        self.seal.as_ref()?.renewed(sealed, name.as_bytes())
    }

    /// Is there a previous pepper?
    #[must_use]
    pub fn has_previous(&self) -> bool {
        self.seal.as_ref().is_some_and(Seal::has_previous)
    }

    /// The secrets that a file has given.
    #[must_use]
    pub fn given(&self) -> Arc<BTreeMap<Arc<str>, GivenSecret>> {
        self.given.load_full()
    }

    /// These are the secrets that a file has given, from now on.
    pub fn give(&self, secrets: BTreeMap<Arc<str>, GivenSecret>) {
        self.given.store(Arc::new(secrets));
    }
}

/// The last characters of a secret. Empty if it is short.
#[must_use]
pub fn hint(secret: &str) -> String {
    let count = secret.chars().count();
    if count < HINTED_MIN {
        return String::new();
    }
    secret.chars().skip(count.saturating_sub(HINT_CHARS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Secrets;

    #[test]
    fn a_sealed_secret_opens_for_its_own_credential_alone() {
        let secrets = Secrets { current: b"a pepper".to_vec(), previous: None };
        let vault = Vault::new(Seal::new(&secrets, PURPOSE).unwrap());
        let sealed = vault.seal("main", "sk-secret-of-provider").unwrap();
        assert_eq!(vault.open("main", &sealed).unwrap().expose(), "sk-secret-of-provider");
        assert_eq!(vault.open("other", &sealed), None);
        assert_eq!(Vault::default().open("main", &sealed), None);
        assert_eq!(Vault::default().seal("main", "x"), None);
    }

    #[test]
    fn a_hint_shows_the_end_of_a_long_secret_alone() {
        assert_eq!(hint("sk-0123456789abcd"), "abcd");
        assert_eq!(hint("sk-123456789012"), "");
        assert_eq!(hint(""), "");
    }
}
