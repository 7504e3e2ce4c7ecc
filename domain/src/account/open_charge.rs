//! A charge between its acceptance and its end.

use crate::ids::KeyId;
use crate::money::Credits;
use crate::window::{Day, Month, Timestamp};

/// A charge between its acceptance and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenCharge {
    pub(super) key: KeyId,
    /// The windows it counts in until its end, also if midnight passes in between.
    pub(super) day: Day,
    pub(super) month: Month,
    pub(super) stake: Stake,
    pub(super) opened_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

/// What a charge has taken before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stake {
    /// A fixed price, debited by this entry; no entry if the call is free.
    Debited(Credits, Option<i64>),
    Held {
        amount: Credits,
        /// The cost of what was delivered when the hold was last extended.
        earned: Credits,
        is_durable: bool,
    },
}
