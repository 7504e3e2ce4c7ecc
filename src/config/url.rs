//! The URL of an upstream: its address and our credential there.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::Uri;
use hyper::header::HeaderValue;
use percent_encoding::percent_decode_str;

use super::Secret;

/// The address of an upstream, and our credential there.
pub(crate) struct Address {
    pub(crate) origin: UpstreamOrigin,
    pub(crate) host: HeaderValue,
    /// The URL's path, without a trailing slash.
    pub(crate) base: String,
    pub(crate) authorization: Option<HeaderValue>,
}

impl Address {
    pub(crate) fn new(url: &str, api_key: Option<&Secret>) -> Result<Self, &'static str> {
        let url = reqwest::Url::parse(url).map_err(|_| "is not a URL")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must begin with http: or https:");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must not have a query or a fragment");
        }
        let host = url.host_str().ok_or("has no host")?;
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let origin =
            UpstreamOrigin::new(&format!("{}://{host}", url.scheme())).ok_or("is not a URL")?;
        let of_url = || {
            let part = |text| percent_decode_str(text).collect::<Vec<u8>>();
            let parts = [part(url.username()), part(url.password().unwrap_or_default())];
            let pair = parts.join(&b':');
            (pair != b":").then(|| format!("Basic {}", BASE64_STANDARD.encode(pair)))
        };
        let bearer = api_key.map(|key| format!("Bearer {}", key.expose()));
        let authorization = bearer.or_else(of_url).map(HeaderValue::try_from).transpose();
        let mut authorization =
            authorization.map_err(|_| "has a key that cannot be sent in a header")?;
        if let Some(authorization) = &mut authorization {
            authorization.set_sensitive(true);
        }
        Ok(Address {
            origin,
            host: HeaderValue::try_from(host).map_err(|_| "is not a URL")?,
            base: url.path().trim_end_matches('/').to_owned(),
            authorization,
        })
    }
}

/// Checks the URL of an upstream and its key. The error continues the name of the setting.
pub(crate) fn check(url: &str, api_key: Option<&Secret>) -> Result<(), &'static str> {
    Address::new(url, api_key).map(drop)
}

/// Scheme, host and port of an upstream.
pub struct UpstreamOrigin {
    /// What connections to it are kept by.
    pub(crate) name: Arc<str>,
    pub(crate) uri: Uri,
    /// Must its address be one of the public internet?
    pub(crate) is_public_only: bool,
}

impl UpstreamOrigin {
    /// Parses a URL without a path, such as `https://api.example.com:8443`. `None` if it is
    /// invalid.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let uri = name.parse().ok()?;
        Some(UpstreamOrigin { uri, name: name.into(), is_public_only: false })
    }

    /// The same, if its address is one of the public internet. It shares no connection with others.
    pub(crate) fn public_only(self) -> Self {
        let name = format!("{} (public)", self.name).into();
        UpstreamOrigin { name, is_public_only: true, ..self }
    }
}
