//! Holds that are written down: the money of a call that is delivered while it is still being worked on.
//!
//! A hold has an owner (the process that opened it, by the epoch of its lease), an expiry, and exactly one
//! end. It can be extended while it is open. What a crash left open is ended by the next owner, at what was
//! earned when the hold was last extended.

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
    /// The cost of what was delivered when this was last written down. Captured if nobody is left to say
    /// more.
    pub earned: Credits,
    /// When it was placed.
    pub opened_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEndKind {
    /// Some of it was taken, the rest given back.
    Captured,
    /// All of it was given back.
    Released,
    /// Its time was over, or its owner gone: what was earned was taken, the rest given back.
    Expired,
}

impl HoldEndKind {
    /// The number that stands for it in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            HoldEndKind::Captured => 1,
            HoldEndKind::Released => 2,
            HoldEndKind::Expired => 3,
        }
    }

    /// What a number of the database stands for.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(HoldEndKind::Captured),
            2 => Some(HoldEndKind::Released),
            3 => Some(HoldEndKind::Expired),
            _ => None,
        }
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

/// What happened to a hold, to be written down.
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
