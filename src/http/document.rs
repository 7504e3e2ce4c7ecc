//! Documents that a client may keep: with an `ETag`, so that one that has it is answered 304, and
//! compressed if the client takes that.

use std::io::Write as _;

use actix_web::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue,
    IF_NONE_MATCH, VARY,
};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

/// Kept by anybody, and asked for again each time.
const ANYBODY: HeaderValue = HeaderValue::from_static("no-cache");
/// Kept by who has asked alone.
const CALLER: HeaderValue = HeaderValue::from_static("private, no-cache");
/// Smaller documents are not compressed.
const ZIPPED_MIN: usize = 1_024;

/// A document. The same bytes for everybody who gets it.
pub(super) struct Document {
    kind: HeaderValue,
    /// Of the plain text; weak, since the compressed one has it too.
    etag: HeaderValue,
    plain: Bytes,
    zipped: Option<Bytes>,
    kept_by: HeaderValue,
}

impl Document {
    /// A document for everybody. `kind` is its `Content-Type`.
    pub(super) fn new(kind: &str, plain: impl Into<Bytes>) -> Self {
        Self::made(kind, plain.into(), Compression::best(), ANYBODY)
    }

    /// A document for who has asked, made at this moment.
    pub(super) fn of_caller(kind: &str, plain: impl Into<Bytes>) -> Self {
        Self::made(kind, plain.into(), Compression::fast(), CALLER)
    }

    fn made(kind: &str, plain: Bytes, how: Compression, kept_by: HeaderValue) -> Self {
        let etag =
            format!("W/\"{}\"", hex::encode(Sha256::digest(&plain).get(..12).unwrap_or(&[])));
        let zipped = (plain.len() >= ZIPPED_MIN).then(|| zipped(&plain, how)).flatten();
        Document {
            kind: HeaderValue::from_str(kind)
                .unwrap_or(HeaderValue::from_static("application/octet-stream")),
            etag: HeaderValue::from_str(&etag).unwrap_or(HeaderValue::from_static("W/\"\"")),
            plain,
            zipped,
            kept_by,
        }
    }

    /// The answer to a request for it.
    pub(super) fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let is_known = self.is_known(request);
        let mut answer = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        answer.insert_header((ETAG, self.etag.clone()));
        answer.insert_header((CACHE_CONTROL, self.kept_by.clone()));
        answer.insert_header((VARY, HeaderValue::from_static("accept-encoding")));
        if is_known {
            return answer.finish();
        }
        answer.insert_header((CONTENT_TYPE, self.kind.clone()));
        match self.zipped.as_ref().filter(|_| takes_gzip(request)) {
            Some(zipped) => {
                answer.insert_header((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
                answer.body(zipped.clone())
            }
            None => answer.body(self.plain.clone()),
        }
    }

    fn is_known(&self, request: &HttpRequest) -> bool {
        let own = self.etag.to_str().unwrap_or_default().trim_start_matches("W/");
        let known =
            request.headers().get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
        let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
        known.any(|known| known == "*" || known.trim_start_matches("W/") == own)
    }
}

fn zipped(plain: &[u8], how: Compression) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), how);
    encoder.write_all(plain).ok()?;
    let zipped = encoder.finish().ok()?;
    (zipped.len() < plain.len()).then(|| zipped.into())
}

/// Does the client take gzip?
fn takes_gzip(request: &HttpRequest) -> bool {
    let values = request.headers().get_all(ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(is_gzip)
}

/// Is this part of an `Accept-Encoding` a word for gzip? With a quality of zero it is one against.
fn is_gzip(part: &str) -> bool {
    let mut words = part.split(';').map(str::trim);
    let is_it = words.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
    let is_zero = |word: &str| {
        let quality = word.strip_prefix("q=").or_else(|| word.strip_prefix("Q="));
        quality.is_some_and(|quality| quality.chars().all(|c| matches!(c, '0' | '.')))
    };
    is_it && !words.any(is_zero)
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_client_that_has_it_is_told_so() {
        let document = Document::new("text/plain", "a".repeat(2_000));
        let etag = document.etag.to_str().unwrap().to_owned();
        let status = |value: &str| {
            let request = TestRequest::default().insert_header((IF_NONE_MATCH, value));
            document.answer(&request.to_http_request()).status()
        };
        let strong = etag.trim_start_matches("W/");
        for known in [etag.as_str(), strong, "*", &format!("\"a\", {etag}")] {
            assert_eq!(status(known), StatusCode::NOT_MODIFIED, "{known}");
        }
        for other in ["\"a\"", "", "W/\"\""] {
            assert_eq!(status(other), StatusCode::OK, "{other}");
        }
    }

    #[test]
    fn it_is_compressed_for_who_takes_that() {
        let document = Document::new("text/plain", "a".repeat(2_000));
        let encoding = |value: &str| {
            let request = TestRequest::default().insert_header((ACCEPT_ENCODING, value));
            let answer = document.answer(&request.to_http_request());
            answer.headers().get(CONTENT_ENCODING).cloned()
        };
        for value in ["gzip", "br, gzip;q=0.5", "GZIP"] {
            assert_eq!(encoding(value).unwrap(), "gzip", "{value}");
        }
        for value in ["", "br", "gzip;q=0", "gzip; q=0.000", "xgzip"] {
            assert_eq!(encoding(value), None, "{value}");
        }
        assert!(Document::new("text/plain", "a").zipped.is_none());
    }
}
