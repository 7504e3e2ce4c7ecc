//! A charge that has begun and not ended.

use crate::ids::KeyId;
use crate::money::Credits;
use crate::stored_bill::StoredBill;
use crate::window::{Day, Month, Timestamp};

/// A charge that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenCharge {
    pub(super) key: KeyId,
    /// The day and month it counts in until it ends, even if midnight passes in between.
    pub(super) day: Day,
    pub(super) month: Month,
    pub(super) stake: Stake,
    pub(super) opened_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

/// What a charge has taken so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stake {
    /// A fixed price, and the number of the entry that debited it; no entry if the call is free.
    Debited(Credits, Option<i64>),
    Held {
        amount: Credits,
        /// The cost of what was delivered when the hold was last extended.
        earned: Credits,
        /// What that cost is for. In a box, because a map of open charges has room for eleven, and
        /// few are of streams.
        bill: Option<Box<StoredBill>>,
        is_durable: bool,
    },
}
