//! Durable holds: credits reserved for a call whose answer starts before its cost is known, such as
//! a stream.
//!
//! A hold has an owner (the process that opened it, known by the epoch of its lease), an expiry,
//! and exactly one end. It can be extended while it is open. If a process crashes with open holds,
//! the next owner ends them. It captures what was earned when the hold was last extended.

use super::coded::coded_enum;
use super::ids::{AccountId, ChargeId, KeyId};
use super::money::Credits;
use super::stored_bill::StoredBill;
use super::window::{Day, Month, Timestamp};

/// An open hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The id of its charge.
    pub id: ChargeId,
    /// The account whose credits are held.
    pub account: AccountId,
    /// The key that spends it.
    pub key: KeyId,
    /// The UTC day whose limit it counts against, until it ends.
    pub day: Day,
    /// The UTC month whose limit it counts against, until it ends.
    pub month: Month,
    /// How much is held.
    pub amount: Credits,
    /// The cost of what was delivered when this row was last written. It is captured if the call is
    /// never settled.
    pub earned: Credits,
    /// What that cost is for. `None` if nothing was delivered yet, or the row was written before
    /// holds had bills.
    pub bill: Option<StoredBill>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}

coded_enum! {
    /// How a hold ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum HoldEndKind {
        /// Some of it was captured, the rest released.
        Captured = 1,
        /// All of it was released.
        Released = 2,
        /// It expired, or its process ended. What was earned was captured, the rest released.
        Expired = 3,
    }
}

/// The end of a hold. Each hold has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldEnd {
    /// The id of its charge.
    pub id: ChargeId,
    /// The account whose credits were held.
    pub account: AccountId,
    /// How it ended.
    pub kind: HoldEndKind,
    /// How much was held at the end.
    pub held: Credits,
    /// How much of it was captured.
    pub captured: Credits,
    /// When it ended.
    pub at: Timestamp,
}

/// A change of a hold, to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldChange {
    /// It was opened.
    Opened(Hold),
    /// It was extended. Has the complete hold after the change.
    Extended(Hold),
    /// It ended.
    Ended(HoldEnd),
}

impl HoldChange {
    /// The account whose credits are held.
    #[must_use]
    pub fn account(&self) -> AccountId {
        match self {
            HoldChange::Opened(hold) | HoldChange::Extended(hold) => hold.account,
            HoldChange::Ended(end) => end.account,
        }
    }
}
