//! Pages of lists. A cursor is the id of the last item of the previous page; for the ledger, its
//! sequence number.

use std::fmt;
use std::str::FromStr;

use actix_web::HttpRequest;
use actix_web::web::Query;
use serde::de::DeserializeOwned;

use super::error::{ApiError, FieldError};
use crate::json::printable;

const PAGE_DEFAULT: u64 = 50;
const PAGE_MAX: u64 = 100;

/// The size of a page.
pub(super) fn page_limit(asked: Option<u64>) -> Result<u64, ApiError> {
    let limit = asked.unwrap_or(PAGE_DEFAULT);
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::field("limit", format!("must be from 1 to {PAGE_MAX}")))
}

/// The item after which a page begins.
pub(super) fn read_cursor<T: FromStr>(cursor: Option<&str>) -> Result<Option<T>, ApiError> {
    let read = cursor.map(str::parse).transpose();
    read.map_err(|_| ApiError::field("cursor", "must be the next_cursor of an earlier page"))
}

/// Reads the query of a request.
pub(super) fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    let text = request.query_string();
    // Texts of a query go to the database as well.
    if let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::from_query(text) {
        let is_bad = |text: &String| text.chars().any(char::is_control);
        if let Some((name, _)) = pairs.iter().find(|(name, value)| is_bad(name) || is_bad(value)) {
            let name: String = name.chars().filter(|c| !c.is_control()).collect();
            return Err(ApiError::field(&name, printable::MESSAGE));
        }
    }
    let read = Query::<T>::from_query(text);
    read.map(Query::into_inner).map_err(|error| {
        let message = error.to_string();
        let message = message.trim_start_matches("Query deserialize error: ").to_owned();
        ApiError::Validation(vec![FieldError { field: "query".into(), message }])
    })
}

/// Cuts a list that was read with one item more than `limit`. If there was more, returns the last
/// item that stays.
pub(super) fn cut<T: Clone>(list: &mut Vec<T>, limit: u64) -> Option<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let is_more = list.len() > limit;
    list.truncate(limit);
    list.last().filter(|_| is_more).cloned()
}

/// The cursor of the ledger: the sequence number of the last entry of the previous page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryCursor(pub i64);

/// The text is no sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the number of a ledger entry")]
pub struct NoEntry;

impl fmt::Display for EntryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EntryCursor {
    type Err = NoEntry;

    /// Accepts only what a page has returned: a number from 1 on, without a sign or leading zeros.
    fn from_str(text: &str) -> Result<Self, NoEntry> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        let number = text.parse().ok().filter(|_| is_plain);
        number.map(EntryCursor).ok_or(NoEntry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_page_has_told_is_a_cursor() {
        assert_eq!("70".parse(), Ok(EntryCursor(70)));
        for text in ["", "0", "-1", "+1", "01", "1 ", "x", "9223372036854775808"] {
            assert_eq!(text.parse::<EntryCursor>(), Err(NoEntry), "{text}");
        }
    }
}
