//! `/console/*`: the pages of the console, which are a part of the program. They are the same for
//! everybody; what a user sees comes from the API.

use std::io::Write as _;
use std::sync::LazyLock;

use actix_web::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, HeaderValue, IF_NONE_MATCH, VARY,
};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::error::ApiError;

// `FILES`: each file's path below `console/dist`, and its bytes.
include!(concat!(env!("OUT_DIR"), "/console_files.rs"));

/// What answers every path of the console's own pages.
const INDEX: &str = "index.html";
/// The fewest characters of a hash in a name.
const HASH_LEN: usize = 8;

/// A file, ready to be sent.
struct File {
    path: &'static str,
    kind: &'static str,
    /// Does its name change with its content?
    is_hashed: bool,
    etag: String,
    plain: Bytes,
    /// Absent if it would not be smaller.
    gzip: Option<Bytes>,
}

static READY: LazyLock<Vec<File>> = LazyLock::new(|| {
    let files = FILES.iter();
    files.map(|(path, content)| File::new(path, content)).collect()
});

/// Compresses the files before the first one is asked for.
pub fn warm_up() {
    LazyLock::force(&READY);
}

impl File {
    fn new(path: &'static str, content: &'static [u8]) -> Self {
        let digest = hex::encode(Sha256::digest(content));
        let gzip = is_text(path).then(|| gzip(content)).flatten();
        File {
            path,
            kind: kind(path),
            is_hashed: is_hashed(path),
            etag: digest.chars().take(32).collect(),
            plain: Bytes::from_static(content),
            gzip: gzip.filter(|gzip| gzip.len() < content.len()).map(Bytes::from),
        }
    }

    fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let gzip = self.gzip.as_ref().filter(|_| takes_gzip(request));
        // The two forms are two things to a cache.
        let etag = match gzip {
            Some(_) => format!("\"{}-gzip\"", self.etag),
            None => format!("\"{}\"", self.etag),
        };
        let is_known = is_known(request, &etag);
        let mut answer = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        answer.insert_header((ETAG, etag)).insert_header((VARY, "Accept-Encoding"));
        answer.insert_header((CACHE_CONTROL, if self.is_hashed { FOREVER } else { ASK }));
        if is_known {
            return answer.finish();
        }
        answer.content_type(self.kind);
        match gzip {
            Some(gzip) => answer.insert_header((CONTENT_ENCODING, "gzip")).body(gzip.clone()),
            None => answer.body(self.plain.clone()),
        }
    }
}

/// A year: so long as a cache may keep anything.
const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// A browser asks each time whether it has changed.
const ASK: HeaderValue = HeaderValue::from_static("no-cache");

/// A file of the console, or for a path of its own pages `index.html`.
pub(super) async fn file(
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let find = |path: &str| READY.iter().find(|file| file.path == path);
    let is_page = || path.rsplit('/').next().is_some_and(|last| !last.contains('.'));
    let found = find(&path).or_else(|| find(INDEX).filter(|_| is_page()));
    found.map(|file| file.answer(&request)).ok_or(ApiError::NoRoute)
}

/// Does the client take `gzip`? One that weighs it with 0 does not.
fn takes_gzip(request: &HttpRequest) -> bool {
    let values = request.headers().get_all(ACCEPT_ENCODING);
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = |part: &str| {
            let weight = part.strip_prefix("q=");
            weight.is_some_and(|weight| weight.chars().all(|c| matches!(c, '0' | '.')))
        };
        is_named && !parts.any(refused)
    })
}

/// Does the client have what has this tag?
fn is_known(request: &HttpRequest, etag: &str) -> bool {
    let values = request.headers().get_all(IF_NONE_MATCH);
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag)
}

fn gzip(content: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).ok()?;
    encoder.finish().ok()
}

fn extension(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// The media type of a file.
fn kind(path: &str) -> &'static str {
    match extension(path) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        "webmanifest" => "application/manifest+json",
        _ => "application/octet-stream",
    }
}

fn is_text(path: &str) -> bool {
    let texts = ["html", "css", "js", "mjs", "json", "map", "svg", "txt", "webmanifest"];
    texts.contains(&extension(path))
}

/// Has the name a hash of the content before its extension, as in `app-1A2B3C4D.js`?
fn is_hashed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let Some((stem, _)) = name.rsplit_once('.') else { return false };
    let Some((_, hash)) = stem.rsplit_once(['-', '.']) else { return false };
    hash.len() >= HASH_LEN
        && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && hash.bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_hash_is_told_from_one_without() {
        for (path, expected) in [
            ("assets/app-1A2B3C4D.js", true),
            ("app.0a1b2c3d4e5f.css", true),
            ("index.html", false),
            ("assets/app.js", false),
            ("assets/app-settings.js", false),
            ("assets/chart-overview.js", false),
            ("app-1A2B.js", false),
            ("app-1A2B3C4D", false),
        ] {
            assert_eq!(is_hashed(path), expected, "{path}");
        }
    }

    #[test]
    fn every_file_has_a_type_and_a_tag_of_its_own() {
        assert!(READY.iter().any(|file| file.path == INDEX));
        for file in READY.iter() {
            assert_ne!(file.kind, "application/octet-stream", "{}: name its type", file.path);
            assert_eq!(file.etag.len(), 32);
        }
    }
}
