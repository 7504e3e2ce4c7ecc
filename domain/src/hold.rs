//! Durable holds: money reserved for a call whose answer is delivered before the call is settled,
//! as a stream is.
//!
//! A hold has an owner (the process that opened it, by the epoch of its lease), an expiry, and
//! exactly one end. It can be extended while it is open. A hold that a crash left open is ended by
//! the next owner, at what was earned when it was last extended.

use super::coded::coded_enum;
use super::ids::{AccountId, ChargeId, KeyId};
use super::money::Credits;
use super::window::{Day, Month, Timestamp};

/// An open hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The charge it belongs to.
    pub id: ChargeId,
    /// Whose money it is.
    pub account: AccountId,
    /// The key that spends it.
    pub key: KeyId,
    /// The UTC day it counts in, from beginning to end.
    pub day: Day,
    /// The UTC month it counts in.
    pub month: Month,
    /// Reserved.
    pub amount: Credits,
    /// The cost of what was delivered when this was last written. Captured if the call is never
    /// settled.
    pub earned: Credits,
    /// When it was placed.
    pub opened_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

coded_enum! {
    /// How a hold ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum HoldEndKind {
        /// Some of it was taken, the rest given back.
        Captured = 1,
        /// All of it was given back.
        Released = 2,
        /// Its time was over, or its process had ended: what was earned was taken, the rest given
        /// back.
        Expired = 3,
    }
}

/// The one end of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldEnd {
    /// The charge.
    pub id: ChargeId,
    /// Whose money it was.
    pub account: AccountId,
    /// How it ended.
    pub kind: HoldEndKind,
    /// What was held at the end.
    pub held: Credits,
    /// What was taken of it.
    pub captured: Credits,
    /// When.
    pub at: Timestamp,
}

/// A change of a hold, to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldChange {
    /// Placed.
    Opened(Hold),
    /// Made larger; the whole hold as it is now.
    Extended(Hold),
    /// Ended.
    Ended(HoldEnd),
}

impl HoldChange {
    /// Whose money it is.
    #[must_use]
    pub fn account(&self) -> AccountId {
        match self {
            HoldChange::Opened(hold) | HoldChange::Extended(hold) => hold.account,
            HoldChange::Ended(end) => end.account,
        }
    }
}
