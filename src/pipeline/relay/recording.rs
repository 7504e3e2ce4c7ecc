//! The recording of a stream that may be repeated.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use bytes::BytesMut;

use crate::idempotency::Claim;

/// A stream as it is recorded for repeats, up to a size.
pub(super) struct Recording {
    pub(super) claim: Arc<Claim>,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) money: Vec<(&'static str, String)>,
    pub(super) bytes: BytesMut,
    pub(super) bytes_max: usize,
    pub(super) is_too_large: bool,
}

impl Recording {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.is_too_large |= self.bytes.len().saturating_add(bytes.len()) > self.bytes_max;
        if self.is_too_large {
            self.bytes = BytesMut::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }
}
