//! A deployment as an upstream: where its provider is, and how it is asked there.

use std::borrow::Cow;

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::proxy::{OwnHeaders, Proxy};
use crate::config::url::Address;
use crate::config::{Secret, UpstreamSettings};
use domain::catalogue::{Deployed, ProviderDialect};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");
const X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// The version of Anthropic's protocol that is asked for if the caller names none.
const ANTHROPIC_VERSION_USUAL: HeaderValue = HeaderValue::from_static("2023-06-01");
/// Where Azure serves OpenAI's protocol, below the address of a resource.
const AZURE_PATH: &str = "/openai/v1";

/// The deployment as an upstream, with the secret of its credential. Its limits on time and size
/// are those of `settings`. If the address or the secret cannot be used, every call fails.
#[must_use]
pub fn at_deployment(by: &Deployed, secret: Option<&Secret>, settings: &UpstreamSettings) -> Proxy {
    let (provider, dialect) = (&by.provider, by.provider.dialect);
    let address = match base(dialect, provider.url.as_deref()) {
        Some(url) => Address::new(&url, None),
        None => Err("the provider has no url"),
    };
    let (address, own) = match address.and_then(|at| Ok((at, own_headers(dialect, secret)?))) {
        Ok((mut address, own)) => {
            if !provider.allows_private {
                address.origin = address.origin.public_only();
            }
            (Ok(address), own)
        }
        Err(reason) => (Err(reason), OwnHeaders::default()),
    };
    Proxy::at(by.deployment.name.clone(), address, own, settings)
}

/// The base URL: the provider's, or else the protocol's own.
fn base(dialect: ProviderDialect, url: Option<&str>) -> Option<Cow<'_, str>> {
    Some(match (dialect, url) {
        (ProviderDialect::Azure, Some(url)) => {
            let is_bare = reqwest::Url::parse(url).is_ok_and(|url| url.path() == "/");
            if is_bare {
                [url.trim_end_matches('/'), AZURE_PATH].concat().into()
            } else {
                url.into()
            }
        }
        (_, Some(url)) => url.into(),
        (ProviderDialect::OpenAi, None) => "https://api.openai.com/v1".into(),
        (ProviderDialect::Anthropic, None) => "https://api.anthropic.com/v1".into(),
        (ProviderDialect::Gemini, None) => {
            "https://generativelanguage.googleapis.com/v1beta".into()
        }
        (ProviderDialect::Azure, None) => return None,
    })
}

/// The header with our credential, and the version of the protocol.
fn own_headers(
    dialect: ProviderDialect,
    secret: Option<&Secret>,
) -> Result<OwnHeaders, &'static str> {
    let credential = secret.map(|secret| {
        let (name, text) = match dialect {
            ProviderDialect::OpenAi => {
                (AUTHORIZATION, Cow::Owned(format!("Bearer {}", secret.expose())))
            }
            ProviderDialect::Anthropic => (X_API_KEY, Cow::Borrowed(secret.expose())),
            ProviderDialect::Gemini => (X_GOOG_API_KEY, Cow::Borrowed(secret.expose())),
            ProviderDialect::Azure => (API_KEY, Cow::Borrowed(secret.expose())),
        };
        let mut value = HeaderValue::try_from(text.as_ref())
            .map_err(|_| "the credential has a secret that cannot be sent in a header")?;
        value.set_sensitive(true);
        Ok::<_, &'static str>((name, value))
    });
    let version = (dialect == ProviderDialect::Anthropic)
        .then_some((ANTHROPIC_VERSION, ANTHROPIC_VERSION_USUAL));
    Ok(OwnHeaders { credential: credential.transpose()?, version })
}

/// The path of a call below the base URL: what stands after the version in ours. Gemini's names the
/// model. `None` if that name would lead elsewhere.
#[must_use]
pub fn path_at<'p>(path: &'p str, upstream_model: &str) -> Option<Cow<'p, str>> {
    let below = |root: &str| path.strip_prefix(root).filter(|rest| rest.starts_with('/'));
    let rest = below("/v1beta").or_else(|| below("/v1")).unwrap_or(path);
    let Some((_, method)) = rest.strip_prefix("/models/").and_then(|model| model.rsplit_once(':'))
    else {
        return Some(rest.into());
    };
    let is_odd = |part: &str| matches!(part, "" | "." | "..") || part.contains(['?', '#', '%']);
    let leads_elsewhere = upstream_model.split('/').any(is_odd);
    (!leads_elsewhere).then(|| format!("/models/{upstream_model}:{method}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_knows_its_address() {
        use ProviderDialect::{Anthropic, Azure, Gemini, OpenAi};
        for (dialect, url, expected) in [
            (OpenAi, None, Some("https://api.openai.com/v1")),
            (OpenAi, Some("http://10.0.0.7:8000/v1"), Some("http://10.0.0.7:8000/v1")),
            (Anthropic, None, Some("https://api.anthropic.com/v1")),
            (Gemini, None, Some("https://generativelanguage.googleapis.com/v1beta")),
            (Azure, None, None),
            (
                Azure,
                Some("https://x.openai.azure.com"),
                Some("https://x.openai.azure.com/openai/v1"),
            ),
            (
                Azure,
                Some("https://x.openai.azure.com/"),
                Some("https://x.openai.azure.com/openai/v1"),
            ),
            (Azure, Some("https://gateway/own"), Some("https://gateway/own")),
        ] {
            assert_eq!(base(dialect, url).as_deref(), expected, "{dialect:?} {url:?}");
        }
    }

    #[test]
    fn each_provider_gets_our_credential_in_its_own_header() {
        let secret: Secret = serde_json::from_value("s3cret".into()).unwrap();
        for (dialect, name, value) in [
            (ProviderDialect::OpenAi, "authorization", "Bearer s3cret"),
            (ProviderDialect::Anthropic, "x-api-key", "s3cret"),
            (ProviderDialect::Gemini, "x-goog-api-key", "s3cret"),
            (ProviderDialect::Azure, "api-key", "s3cret"),
        ] {
            let own = own_headers(dialect, Some(&secret)).unwrap();
            let (own_name, own_value) = own.credential.unwrap();
            assert_eq!((own_name.as_str(), own_value.to_str().unwrap()), (name, value));
            assert!(own_value.is_sensitive());
            assert_eq!(own.version.is_some(), dialect == ProviderDialect::Anthropic);
            assert!(own_headers(dialect, None).unwrap().credential.is_none());
        }
        let broken: Secret = serde_json::from_value("a\nb".into()).unwrap();
        assert!(own_headers(ProviderDialect::OpenAi, Some(&broken)).is_err());
    }

    #[test]
    fn what_follows_the_version_is_asked_below_the_base() {
        for (path, expected) in [
            ("/v1/chat/completions", "/chat/completions"),
            ("/v1/messages/count_tokens", "/messages/count_tokens"),
            ("/v1beta/models/public:generateContent", "/models/theirs:generateContent"),
            ("/v1/models/public/x:countTokens", "/models/theirs:countTokens"),
            ("/v1", "/v1"),
            ("/v12/x", "/v12/x"),
        ] {
            assert_eq!(path_at(path, "theirs").as_deref(), Some(expected), "{path}");
        }
        for model in ["../files", "a/../../b", "a?key=1", "%2e%2e/b", "", "a//b"] {
            assert_eq!(path_at("/v1beta/models/x:countTokens", model), None, "{model}");
            assert!(path_at("/v1/messages", model).is_some(), "it is not in the path");
        }
    }
}
