//! The bytes of a batch in the journal.
//!
//! One byte for the format comes first, then the batch in
//! [postcard](https://postcard.jamesmunns.com/wire-format): entries, counters of keys, usage
//! records, changes of holds, changes of keys and acts of the audit log. Each is a list of tuples.
//! The order and the types of the fields below are the format: if you change either, raise
//! [`FORMAT`]. Amounts are in nano-dollars, instants in microseconds since 1970, ids are 16 bytes,
//! enums are their codes, and bills their bytes. Kinds of acts are their names, and networks are
//! text.
//!
//! A batch that has anything else (recorded answers, new keys, payments) is committed to the tables
//! and never journaled.

use std::num::NonZeroU32;
use std::sync::Arc;

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::former;
use super::position::Position;
use crate::store::error::{CommitError, StoreError};
use domain::hold::HoldEndKind;
use domain::stored_bill::StoredBill;
use domain::{
    AccountId, Act, ActKind, Actor, Batch, Change, ChargeId, Credits, Day, Ending, EntryKind, Hold,
    HoldChange, HoldEnd, KeyEdit, KeyId, KeySpend, LedgerEntry, Link, Month, Network, Origin,
    PolicyChange, SpendingLimits, Tally, Timestamp, UsageRecord, UserId,
};

/// The first byte of a batch. Formats 1 to 3 were never released. [`former`] reads format 4, whose
/// entries and holds have no bill.
const FORMAT: u8 = 5;
/// About the bytes of a row.
const ROW_BYTES: usize = 192;

/// A value of the domain that is in a batch, and its form in the journal.
pub(super) trait Field: Sized {
    type Written<'b>: Serialize + Deserialize<'b>;

    fn written(&self) -> Self::Written<'_>;
    /// Returns `None` if the value is not valid.
    fn read(written: Self::Written<'_>) -> Option<Self>;
}

macro_rules! plain {
    ($($kind:ty)*) => {$(
        impl Field for $kind {
            type Written<'b> = $kind;

            fn written(&self) -> $kind {
                *self
            }

            fn read(written: $kind) -> Option<Self> {
                Some(written)
            }
        }
    )*};
}

/// Types that wrap a number or an id.
macro_rules! wrapped {
    ($($kind:ty: $inner:ty, $written:expr, $read:expr;)*) => {$(
        impl Field for $kind {
            type Written<'b> = $inner;

            fn written(&self) -> $inner {
                $written(*self)
            }

            fn read(written: $inner) -> Option<Self> {
                $read(written)
            }
        }
    )*};
}

/// Records are written as the tuple of their fields, in this order.
macro_rules! layout {
    ($($record:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        impl Field for $record {
            type Written<'b> = ($(<$kind as Field>::Written<'b>,)*);

            fn written(&self) -> Self::Written<'_> {
                ($(self.$field.written(),)*)
            }

            fn read(($($field,)*): Self::Written<'_>) -> Option<Self> {
                Some($record { $($field: Field::read($field)?,)* })
            }
        }
    )*};
}

plain! { i64 u64 u16 }

wrapped! {
    AccountId: i64, |id: AccountId| id.0, |id| Some(AccountId(id));
    Uuid: [u8; 16], Uuid::into_bytes, |id| Some(Uuid::from_bytes(id));
    ChargeId: [u8; 16], |id: ChargeId| id.0.into_bytes(), |id| Some(ChargeId(Uuid::from_bytes(id)));
    KeyId: [u8; 16], |id: KeyId| id.0.into_bytes(), |id| Some(KeyId(Uuid::from_bytes(id)));
    Credits: i64, Credits::nanos, |nanos| Some(Credits::from_nanos(nanos));
    Timestamp: i64, Timestamp::micros, |micros| Some(Timestamp::from_micros(micros));
    Day: i32, |day: Day| day.0, |day| Some(Day(day));
    Month: i32, |month: Month| month.0, |month| Some(Month(month));
    Link: [u8; 32], |link: Link| link.0, |link| Some(Link(link));
    EntryKind: i16, EntryKind::code, EntryKind::from_code;
    HoldEndKind: i16, HoldEndKind::code, HoldEndKind::from_code;
    Ending: i16, Ending::code, Ending::from_code;
    Tally: i16, Tally::code, Tally::from_code;
    UserId: [u8; 16], |id: UserId| id.0.into_bytes(), |id| Some(UserId(Uuid::from_bytes(id)));
    NonZeroU32: u32, NonZeroU32::get, NonZeroU32::new;
}

impl<F: Field> Field for Option<F> {
    type Written<'b> = Option<F::Written<'b>>;

    fn written(&self) -> Self::Written<'_> {
        self.as_ref().map(F::written)
    }

    fn read(written: Self::Written<'_>) -> Option<Self> {
        match written {
            Some(written) => F::read(written).map(Some),
            None => Some(None),
        }
    }
}

macro_rules! texts {
    ($($kind:ty)*) => {$(
        impl Field for $kind {
            type Written<'b> = &'b str;

            fn written(&self) -> &str {
                self
            }

            fn read(written: &str) -> Option<Self> {
                Some(written.into())
            }
        }
    )*};
}

texts! { Arc<str> String }

impl<F: Field> Field for Vec<F> {
    type Written<'b> = Vec<F::Written<'b>>;

    fn written(&self) -> Self::Written<'_> {
        self.iter().map(F::written).collect()
    }

    fn read(written: Self::Written<'_>) -> Option<Self> {
        written.into_iter().map(F::read).collect()
    }
}

impl Field for StoredBill {
    type Written<'b> = &'b [u8];

    fn written(&self) -> &[u8] {
        self.bytes()
    }

    fn read(written: &[u8]) -> Option<Self> {
        StoredBill::read(written)
    }
}

impl Field for Network {
    type Written<'b> = String;

    fn written(&self) -> String {
        self.to_string()
    }

    fn read(written: String) -> Option<Self> {
        written.parse().ok()
    }
}

impl Field for ActKind {
    type Written<'b> = &'b str;

    fn written(&self) -> &str {
        self.name()
    }

    fn read(written: &str) -> Option<Self> {
        ActKind::from_name(written)
    }
}

impl Field for Actor {
    type Written<'b> = (i16, Option<[u8; 16]>);

    fn written(&self) -> Self::Written<'_> {
        (self.code(), self.person().written())
    }

    fn read((code, person): Self::Written<'_>) -> Option<Self> {
        Actor::from_code(code, Field::read(person)?)
    }
}

layout! {
    LedgerEntry {
        account: AccountId,
        seq: i64,
        epoch: i64,
        kind: EntryKind,
        amount: Credits,
        balance_after: Credits,
        reference: Uuid,
        key: Option<KeyId>,
        day: Day,
        month: Month,
        at: Timestamp,
        link: Link,
        bill: Option<StoredBill>,
    }
    KeySpend {
        key: KeyId,
        day: Day,
        day_spent: Credits,
        month: Month,
        month_spent: Credits,
        last_used_at: Option<Timestamp>,
    }
    UsageRecord {
        id: ChargeId,
        account: AccountId,
        seq: Option<i64>,
        key: KeyId,
        method: Arc<str>,
        route: Arc<str>,
        upstream: Arc<str>,
        model: Arc<str>,
        status: u16,
        cost: Credits,
        prompt_tokens: u64,
        completion_tokens: u64,
        ending: Ending,
        tally: Tally,
        started_at: Timestamp,
        latency_micros: i64,
    }
    Hold {
        id: ChargeId,
        account: AccountId,
        key: KeyId,
        day: Day,
        month: Month,
        amount: Credits,
        earned: Credits,
        opened_at: Timestamp,
        expires_at: Timestamp,
        bill: Option<StoredBill>,
    }
    HoldEnd {
        id: ChargeId,
        account: AccountId,
        kind: HoldEndKind,
        held: Credits,
        captured: Credits,
        at: Timestamp,
    }
    SpendingLimits {
        per_request: Option<Credits>,
        daily: Option<Credits>,
        monthly: Option<Credits>,
        total: Option<Credits>,
    }
    PolicyChange {
        scopes: Option<Option<Vec<String>>>,
        models: Option<Option<Vec<String>>>,
        networks: Option<Option<Vec<Network>>>,
        calls_per_minute: Option<Option<NonZeroU32>>,
    }
    KeyEdit {
        name: Option<String>,
        expires_at: Option<Option<Timestamp>>,
        policy: PolicyChange,
    }
    Origin {
        actor: Actor,
        address: String,
        agent: String,
    }
    Act {
        id: Uuid,
        at: Timestamp,
        user: UserId,
        origin: Origin,
        kind: ActKind,
        subject: String,
        detail: String,
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum WrittenHold<'b> {
    #[serde(borrow)]
    Opened(<Hold as Field>::Written<'b>),
    Extended(<Hold as Field>::Written<'b>),
    Ended(<HoldEnd as Field>::Written<'b>),
}

impl Field for HoldChange {
    type Written<'b> = WrittenHold<'b>;

    fn written(&self) -> WrittenHold<'_> {
        match self {
            HoldChange::Opened(hold) => WrittenHold::Opened(hold.written()),
            HoldChange::Extended(hold) => WrittenHold::Extended(hold.written()),
            HoldChange::Ended(end) => WrittenHold::Ended(end.written()),
        }
    }

    fn read(written: WrittenHold<'_>) -> Option<Self> {
        Some(match written {
            WrittenHold::Opened(hold) => HoldChange::Opened(Field::read(hold)?),
            WrittenHold::Extended(hold) => HoldChange::Extended(Field::read(hold)?),
            WrittenHold::Ended(end) => HoldChange::Ended(Field::read(end)?),
        })
    }
}

/// A change of a key: the account, the key, and what changes.
#[derive(Serialize, Deserialize)]
pub(super) enum WrittenChange<'b> {
    Limits(i64, [u8; 16], <SpendingLimits as Field>::Written<'b>),
    Edited(i64, [u8; 16], #[serde(borrow)] <KeyEdit as Field>::Written<'b>),
    Revoked(i64, [u8; 16], i64),
    Deleted(i64, [u8; 16], i64),
}

impl WrittenChange<'_> {
    /// Returns `None` for a change that may not be journaled.
    fn of(change: &Change) -> Option<WrittenChange<'_>> {
        let (account, key) = change.changed_key()?;
        let (account, key) = (account.written(), key.written());
        Some(match change {
            Change::KeyLimits(_, _, limits) => {
                WrittenChange::Limits(account, key, limits.written())
            }
            Change::KeyEdited(_, _, edit) => WrittenChange::Edited(account, key, edit.written()),
            Change::KeyRevoked(_, _, at) => WrittenChange::Revoked(account, key, at.written()),
            Change::KeyDeleted(_, _, at) => WrittenChange::Deleted(account, key, at.written()),
            _ => return None,
        })
    }

    fn read(self) -> Option<Change> {
        let ids = |account, key| Some((Field::read(account)?, Field::read(key)?));
        Some(match self {
            WrittenChange::Limits(account, key, limits) => {
                let (account, key) = ids(account, key)?;
                Change::KeyLimits(account, key, Field::read(limits)?)
            }
            WrittenChange::Edited(account, key, edit) => {
                let (account, key) = ids(account, key)?;
                Change::KeyEdited(account, key, Box::new(Field::read(edit)?))
            }
            WrittenChange::Revoked(account, key, at) => {
                let (account, key) = ids(account, key)?;
                Change::KeyRevoked(account, key, Field::read(at)?)
            }
            WrittenChange::Deleted(account, key, at) => {
                let (account, key) = ids(account, key)?;
                Change::KeyDeleted(account, key, Field::read(at)?)
            }
        })
    }
}

pub(super) type List<'b, F> = Vec<<F as Field>::Written<'b>>;
/// A batch as it is written: entries, counters, usage records, holds, changes of keys, acts.
pub(super) type Written<'b> = (
    List<'b, LedgerEntry>,
    List<'b, KeySpend>,
    List<'b, UsageRecord>,
    List<'b, HoldChange>,
    Vec<WrittenChange<'b>>,
    Vec<(i64, <Act as Field>::Written<'b>)>,
);

pub(super) fn encode(batch: &Batch) -> Result<Vec<u8>, CommitError> {
    let changes: Option<_> = batch.changes.iter().map(WrittenChange::of).collect();
    let no_place = || CommitError::Refused("a change that does not belong into the journal".into());
    let written: Written<'_> = (
        batch.entries.iter().map(Field::written).collect(),
        batch.spends.values().map(Field::written).collect(),
        batch.usage.iter().map(Field::written).collect(),
        batch.holds.iter().map(Field::written).collect(),
        changes.ok_or_else(no_place)?,
        batch.acts.iter().map(|(account, act)| (account.written(), act.written())).collect(),
    );
    let mut bytes = Vec::with_capacity(batch.rows().saturating_mul(ROW_BYTES));
    bytes.push(FORMAT);
    postcard::serialize_with_flavor(&written, WrittenBytes(bytes))
        .map_err(|error| CommitError::Refused(error.to_string()))
}

/// Bytes that are written. Links and ids come byte by byte, so each must cost little.
struct WrittenBytes(Vec<u8>);

impl Flavor for WrittenBytes {
    type Output = Vec<u8>;

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

fn decode(bytes: &[u8]) -> Option<Batch> {
    match bytes.split_first()? {
        (&FORMAT, bytes) => read(postcard::from_bytes(bytes).ok()?),
        (&former::FORMAT, bytes) => read(former::read(bytes)?),
        _ => None,
    }
}

fn read((entries, spends, usage, holds, changes, acts): Written<'_>) -> Option<Batch> {
    let spends = spends.into_iter().map(KeySpend::read).map(|spend| Some((spend?.key, spend?)));
    let act = |(account, act)| Some((Field::read(account)?, Field::read(act)?));
    Some(Batch {
        entries: entries.into_iter().map(Field::read).collect::<Option<_>>()?,
        spends: spends.collect::<Option<_>>()?,
        usage: usage.into_iter().map(Field::read).collect::<Option<_>>()?,
        holds: holds.into_iter().map(Field::read).collect::<Option<_>>()?,
        changes: changes.into_iter().map(WrittenChange::read).collect::<Option<_>>()?,
        acts: acts.into_iter().map(act).collect::<Option<_>>()?,
        ..Batch::default()
    })
}

/// Reads the batch at this position. Fails with [`StoreError::Corrupt`] if its bytes are not valid.
pub(super) fn decoded((epoch, number): Position, writes: &[u8]) -> Result<Batch, StoreError> {
    decode(writes).ok_or_else(|| {
        StoreError::Corrupt(format!(
            "batch {number} of epoch {epoch} in the journal is not readable"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_usage(id: ChargeId, account: AccountId, key: KeyId, at: Timestamp) -> UsageRecord {
        UsageRecord {
            id,
            account,
            seq: Some(3),
            key,
            method: "POST".into(),
            route: "/v1".into(),
            upstream: "v1".into(),
            model: "m".into(),
            status: 200,
            cost: Credits::from_nanos(5),
            prompt_tokens: 1,
            completion_tokens: 2,
            ending: Ending::Completed,
            tally: Tally::Counted,
            started_at: at,
            latency_micros: 10,
        }
    }

    fn sample_changes(account: AccountId, key: KeyId, at: Timestamp) -> Vec<Change> {
        let limits = SpendingLimits { daily: Some(Credits::from_nanos(7)), ..Default::default() };
        let policy = PolicyChange {
            scopes: Some(None),
            models: Some(Some(vec!["o3*".into(), "m".into()])),
            networks: Some(Some(vec![
                "192.0.2.0/24".parse().unwrap(),
                "2001:db8::1".parse().unwrap(),
            ])),
            calls_per_minute: Some(NonZeroU32::new(5)),
        };
        let edit = KeyEdit { name: Some("n".into()), expires_at: Some(Some(at)), policy };
        vec![
            Change::KeyLimits(account, key, limits),
            Change::KeyEdited(account, key, Box::new(edit)),
            Change::KeyEdited(account, key, Box::default()),
            Change::KeyRevoked(account, key, at),
            Change::KeyDeleted(account, key, at),
        ]
    }

    fn sample() -> Batch {
        let (account, key) = (AccountId(7), KeyId(Uuid::from_u128(8)));
        let id = ChargeId(Uuid::from_u128(9));
        let at = Timestamp::from_micros(1_700_000_000_000_000);
        let (day, month) = (at.day(), at.day().month());
        let entry = LedgerEntry {
            account,
            seq: 3,
            epoch: 2,
            kind: EntryKind::Charge,
            amount: Credits::from_nanos(-5),
            balance_after: Credits::from_nanos(95),
            reference: id.0,
            key: Some(key),
            day,
            month,
            at,
            link: Link([4; 32]),
            bill: None,
        };
        let spend = KeySpend {
            key,
            day,
            day_spent: Credits::from_nanos(5),
            month,
            month_spent: Credits::from_nanos(6),
            last_used_at: Some(at),
        };
        let record = sample_usage(id, account, key, at);
        let user = UserId(Uuid::from_u128(11));
        let origin = |actor| Origin { actor, address: "192.0.2.1".into(), agent: "a".into() };
        let act = |actor| origin(actor).act(Uuid::from_u128(10), user, ActKind::KeyRevoked, at);
        let hold = Hold {
            id,
            account,
            key,
            day,
            month,
            amount: Credits::from_nanos(9),
            earned: Credits::from_nanos(1),
            opened_at: at,
            expires_at: at,
            bill: None,
        };
        let end = HoldEnd {
            id,
            account,
            kind: HoldEndKind::Captured,
            held: Credits::from_nanos(9),
            captured: Credits::from_nanos(5),
            at,
        };
        Batch {
            entries: vec![entry, LedgerEntry { key: None, ..entry }],
            spends: [(key, spend)].into(),
            usage: vec![record],
            holds: vec![
                HoldChange::Opened(hold),
                HoldChange::Extended(hold),
                HoldChange::Ended(end),
            ],
            changes: sample_changes(account, key, at),
            acts: vec![
                (account, act(Actor::User(user)).to("key").with("why")),
                (account, act(Actor::Server)),
            ],
            ..Batch::default()
        }
    }

    /// The sample, with a bill in each entry and hold.
    fn billed() -> Batch {
        let bill = StoredBill::read(&[0, 1, 20, 0, 0, 0x90, 3, 16, 0xd8, 4, 24, 1]);
        assert!(bill.is_some());
        let mut batch = sample();
        batch.entries.iter_mut().for_each(|entry| entry.bill = bill);
        for change in &mut batch.holds {
            if let HoldChange::Opened(hold) | HoldChange::Extended(hold) = change {
                hold.bill = bill;
            }
        }
        batch
    }

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        for batch in [sample(), billed()] {
            let bytes = encode(&batch).unwrap();
            assert_eq!(bytes.first(), Some(&FORMAT));
            assert_eq!(format!("{:?}", decode(&bytes).unwrap()), format!("{batch:?}"));
        }
    }

    /// What a paid call adds to the journal with its bill.
    #[test]
    fn a_bill_takes_few_bytes() {
        let (without, with) = (encode(&sample()).unwrap(), encode(&billed()).unwrap());
        let (entries, holds) = (sample().entries.len(), 2);
        assert!(with.len() - without.len() <= (entries + holds) * 13, "{}", with.len());
    }

    #[test]
    fn what_is_of_another_format_or_cut_off_is_not_read() {
        let bytes = encode(&billed()).unwrap();
        assert!((0..bytes.len()).all(|length| decode(&bytes[..length]).is_none()));
        for format in [FORMAT - 2, FORMAT - 1, FORMAT + 1] {
            assert!(decode(&[&[format], &bytes[1..]].concat()).is_none(), "{format}");
        }
    }

    /// [`sample`], as the last server that wrote format 4 wrote it.
    const FORMER: &str = "04020e06040409be01000000000000000000000000000000090100000000000000000000000000000008b6b3\
        02bcfb028080f281838985060404040404040404040404040404040404040404040404040404040404040404\
        0e06040409be010000000000000000000000000000000900b6b302bcfb028080f28183898506040404040404\
        04040404040404040404040404040404040404040404040404040100000000000000000000000000000008b6\
        b3020abcfb020c018080f2818389850601000000000000000000000000000000090e01060000000000000000\
        000000000000000804504f5354032f7631027631016dc8010a010202048080f2818389850614030000000000\
        0000000000000000000000090e00000000000000000000000000000008b6b302bcfb0212028080f281838985\
        068080f2818389850601000000000000000000000000000000090e00000000000000000000000000000008b6\
        b302bcfb0212028080f281838985068080f2818389850602000000000000000000000000000000090e02120a\
        8080f2818389850605000e0000000000000000000000000000000800010e0000010e00000000000000000000\
        00000000000801016e01018080f281838985060100010102036f332a016d0101020c3139322e302e322e302f\
        32340f323030313a6462383a3a312f313238010105010e000000000000000000000000000000080000000000\
        00020e000000000000000000000000000000088080f28183898506030e000000000000000000000000000000\
        088080f28183898506020e0000000000000000000000000000000a8080f28183898506000000000000000000\
        0000000000000b02010000000000000000000000000000000b093139322e302e322e3101610b6b65792e7265\
        766f6b6564036b6579037768790e0000000000000000000000000000000a8080f28183898506000000000000\
        0000000000000000000b0800093139322e302e322e3101610b6b65792e7265766f6b65640000";

    /// A server that is brought up to date finds the batches of the one before.
    #[test]
    fn a_batch_of_the_former_format_is_read() {
        let bytes = hex::decode(FORMER).unwrap();
        assert_eq!(bytes.first(), Some(&former::FORMAT));
        assert_eq!(format!("{:?}", decode(&bytes).unwrap()), format!("{:?}", sample()));
        assert!((0..bytes.len()).all(|length| decode(&bytes[..length]).is_none()));
    }
}
