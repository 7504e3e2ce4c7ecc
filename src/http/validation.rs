//! Checks and readings of fields that several bodies share.

use serde::{Deserialize, Deserializer};

use super::amount::Amount;
use super::error::ApiError;
use domain::Credits;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that garde calls")]
pub(super) fn is_printable(text: &str, (): &()) -> garde::Result {
    if text.chars().any(char::is_control) {
        return Err(garde::Error::new("must not have control characters"));
    }
    Ok(())
}

pub(super) fn not_negative(field: &str, Amount(amount): Amount) -> Result<Credits, ApiError> {
    if amount.is_negative() {
        return Err(ApiError::field(field, "must not be negative"));
    }
    Ok(amount)
}

/// Reads a field that may be absent but not null.
pub(super) fn not_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// Reads a field that may be absent or null, which are two things.
pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}
