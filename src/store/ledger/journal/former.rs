//! Format 4 of a batch, which is read and no longer written: without the bills of entries and
//! holds. A server that is brought up to date may find it in its journal.

use serde::Deserialize;
use uuid::Uuid;

use super::format::{Field, List, Written, WrittenChange, WrittenHold};
use domain::{AccountId, Act, HoldEnd, KeySpend, UsageRecord};

/// The first byte of a batch of this format.
pub(super) const FORMAT: u8 = 4;

type Id = <Uuid as Field>::Written<'static>;
/// An entry: account, number, epoch, kind, amount, balance after it, reference, key, day, month,
/// time, link.
type Entry = (i64, i64, i64, i16, i64, i64, Id, Option<Id>, i32, i32, i64, [u8; 32]);
/// A hold: its id, account, key, day, month, amount, what it has earned, when it was opened and
/// expires.
type Hold = (Id, i64, Id, i32, i32, i64, i64, i64, i64);

#[derive(Deserialize)]
enum HoldChange<'b> {
    Opened(Hold),
    Extended(Hold),
    #[serde(borrow)]
    Ended(<HoldEnd as Field>::Written<'b>),
}

type Batch<'b> = (
    Vec<Entry>,
    List<'b, KeySpend>,
    List<'b, UsageRecord>,
    Vec<HoldChange<'b>>,
    Vec<WrittenChange<'b>>,
    Vec<(<AccountId as Field>::Written<'b>, <Act as Field>::Written<'b>)>,
);

/// Reads a batch after its first byte, as if it were of the format of today.
pub(super) fn read(bytes: &[u8]) -> Option<Written<'_>> {
    let (entries, spends, usage, holds, changes, acts): Batch<'_> =
        postcard::from_bytes(bytes).ok()?;
    let holds = holds.into_iter().map(|change| match change {
        HoldChange::Opened(hold) => WrittenHold::Opened(held(hold)),
        HoldChange::Extended(hold) => WrittenHold::Extended(held(hold)),
        HoldChange::Ended(end) => WrittenHold::Ended(end),
    });
    let entries = entries.into_iter().map(entered);
    Some((entries.collect(), spends, usage, holds.collect(), changes, acts))
}

fn entered<'b>(entry: Entry) -> <domain::LedgerEntry as Field>::Written<'b> {
    let (account, seq, epoch, kind, amount, after, reference, key, day, month, at, link) = entry;
    (account, seq, epoch, kind, amount, after, reference, key, day, month, at, link, None)
}

fn held<'b>(hold: Hold) -> <domain::Hold as Field>::Written<'b> {
    let (id, account, key, day, month, amount, earned, opened_at, expires_at) = hold;
    (id, account, key, day, month, amount, earned, opened_at, expires_at, None)
}
