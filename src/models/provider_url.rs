//! Which URLs a provider may have. Its secret is sent there, and what it answers goes to customers.

use std::net::IpAddr;

use crate::config::url;
use domain::address::{is_public, is_public_name};
use domain::catalogue::{CatalogueDocument, CatalogueFault, ModelProvider};

/// Is the host of the URL on the public internet, as far as its name tells?
fn is_public_host(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    literal.map_or_else(|_| is_public_name(host), is_public)
}

/// Where the secret of a provider is sent: scheme, host and port of its URL, or its protocol if it
/// has none of its own.
pub(crate) fn address(provider: &ModelProvider) -> String {
    let url = provider.url.as_ref().map(|url| reqwest::Url::parse(url));
    match url {
        None => provider.dialect.name().to_owned(),
        Some(Ok(url)) => url.origin().ascii_serialization(),
        Some(Err(_)) => String::new(),
    }
}

/// Checks the URL of a provider.
///
/// # Errors
/// What is wrong with it.
fn check(text: &str, allows_private: bool) -> Result<(), &'static str> {
    url::check(text, None)?;
    let url = reqwest::Url::parse(text).map_err(|_| "is not a URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a name or a password: the secret belongs to the credential");
    }
    match (is_public_host(&url), url.scheme()) {
        (true, "https") => Ok(()),
        (true, _) => Err("must begin with https: the secret would be sent in the clear"),
        (false, _) if allows_private => Ok(()),
        (false, _) => Err("is a private address; if it is meant, set allow_private = true"),
    }
}

/// What is wrong with the URLs of a document.
pub(super) fn faults(document: &CatalogueDocument) -> Vec<CatalogueFault> {
    let providers = document.providers.iter().enumerate();
    let faults = providers.filter_map(|(place, provider)| {
        let problem = check(provider.url.as_ref()?, provider.allows_private).err()?;
        let path = format!("providers[{place}].url");
        Some(CatalogueFault { path, problem: problem.to_owned() })
    });
    faults.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_to_the_public_internet_by_tls_or_where_an_operator_allows_it() {
        for (url, public, private) in [
            ("https://api.example.com/v1", true, true),
            ("http://api.example.com/v1", false, false),
            ("https://8.8.8.8", true, true),
            ("http://8.8.8.8", false, false),
            ("http://10.0.0.7:8000/v1", false, true),
            ("https://10.0.0.7", false, true),
            ("http://localhost:8000", false, true),
            ("http://0x7f.1/", false, true),
            ("http://[::1]:80", false, true),
            ("http://169.254.169.254/latest", false, true),
            ("https://gpu", false, true),
            ("https://user:password@api.example.com", false, false),
            ("https://api.example.com/?key=x", false, false),
            ("ftp://api.example.com", false, false),
            ("nothing", false, false),
        ] {
            assert_eq!(check(url, false).is_ok(), public, "{url}");
            assert_eq!(check(url, true).is_ok(), private, "{url}");
        }
    }
}
