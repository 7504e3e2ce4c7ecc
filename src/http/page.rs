//! The cursors of lists: where a page goes on. That of payments is the id of the last payment of the page before.

use std::fmt;
use std::str::FromStr;

/// The cursor of the ledger: the sequence number of the last entry of the page before.
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

    /// Reads what a page has told, in that one spelling: from 1 on, no sign, no zeros before it.
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
