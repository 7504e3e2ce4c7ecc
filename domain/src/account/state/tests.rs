use super::*;
use crate::account::{Charge, ChargeTerms, NotOpen, Outcome, Price, PriceBounds};
use crate::hold::HoldEndKind;
use crate::limits::SpendingLimits;
use crate::{Bill, Convention, Dim, Flags, Quantities, VersionId};

const KEY: KeyId = KeyId(Uuid::from_u128(1));
const NOON: Timestamp = Timestamp::from_micros(1_705_320_000_000_000); // 2024-01-15T12:00:00Z
const DAY_MICROS: i64 = 86_400_000_000;

fn cents(n: i64) -> Credits {
    Credits::from_nanos(n * 10_000_000)
}

fn account(balance: Credits, limits: SpendingLimits) -> State {
    State::load(loaded(balance, vec![KeyState::new(KEY, limits)], &[]))
}

fn loaded(balance: Credits, keys: Vec<KeyState>, holds: &[Hold]) -> LoadedAccount {
    let stored = StoredAccount {
        id: AccountId(1),
        environment: Environment::Live,
        status: AccountStatus::Open,
        balance,
        seq: 5,
        link: Link([5; 32]),
    };
    LoadedAccount { stored, epoch: 1, keys, holds: holds.to_vec() }
}

fn fixed(id: u128, price: Credits) -> Charge {
    Charge {
        id: ChargeId(Uuid::from_u128(id)),
        key: KEY,
        price: Price::Fixed(price),
        bill: None,
        expires_at: NOON.plus_micros(DAY_MICROS),
        is_durable: false,
    }
}

fn hold(id: u128, least: Credits, most: Credits) -> Charge {
    Charge { price: Price::UpTo(PriceBounds::whole(least, most)), ..fixed(id, most) }
}

#[test]
fn an_account_in_memory_takes_no_spare_room() {
    let mut keys = Vec::with_capacity(4);
    keys.push(KeyState::new(KEY, SpendingLimits::default()));
    let mut account = State::load(loaded(cents(100), keys, &[]));
    assert_eq!(account.keys.capacity(), 1);
    account.add_key(KeyState::new(KeyId(Uuid::from_u128(2)), SpendingLimits::default()));
    assert_eq!(account.keys.capacity(), 2);
}

#[test]
fn declines_come_in_the_order_of_their_precedence() {
    let limits = SpendingLimits {
        per_request: Some(cents(1)),
        daily: Some(cents(1)),
        monthly: Some(cents(1)),
        total: Some(cents(1)),
    };
    let mut account = account(cents(2), limits);
    account.charge(&fixed(1, cents(1)), NOON).unwrap();
    account.set_status(AccountStatus::Suspended);
    account.change_key(KEY, &KeyChange::Revoke).unwrap();

    // Every check fails for this charge. Remove one reason after the other.
    let dear = fixed(1, cents(3));
    assert_eq!(account.charge(&dear, NOON), Err(Decline::AlreadyOpen));
    let dear = fixed(2, cents(3));
    assert_eq!(account.charge(&dear, NOON), Err(Decline::AccountSuspended));
    account.set_status(AccountStatus::Open);
    assert_eq!(account.charge(&dear, NOON), Err(Decline::KeyInactive));
    account.keys[0].is_revoked = false;
    assert_eq!(account.charge(&dear, NOON), Err(Decline::PerRequestLimit));
    account.keys[0].limits.per_request = None;
    assert_eq!(
        account.charge(&dear, NOON),
        Err(Decline::InsufficientCredits { price: cents(3), available: cents(1) })
    );
    assert_eq!(account.charge(&fixed(2, cents(1)), NOON), Err(Decline::DailyLimit));
    account.keys[0].limits.daily = None;
    assert_eq!(account.charge(&fixed(2, cents(1)), NOON), Err(Decline::MonthlyLimit));
    account.keys[0].limits.monthly = None;
    assert_eq!(account.charge(&fixed(2, cents(1)), NOON), Err(Decline::TotalLimit));
    account.keys[0].limits.total = None;
    assert!(account.charge(&fixed(2, cents(1)), NOON).is_ok());
}

#[test]
fn a_fixed_price_is_debited_at_once_and_refunded_on_failure() {
    let mut account = account(cents(10), SpendingLimits::default());
    let entry = account.charge(&fixed(1, cents(4)), NOON).unwrap().entry.unwrap();
    assert_eq!((entry.seq, entry.kind, entry.amount), (6, EntryKind::Charge, negated(cents(4))));
    assert_eq!((entry.balance_after, account.available()), (cents(6), cents(6)));
    assert_eq!((entry.epoch, entry.link), (1, Link([5; 32]).next(&entry)));

    let settled = account.settle(ChargeId(Uuid::from_u128(1)), Outcome::Failed, NOON).unwrap();
    let refund = settled.entry.unwrap();
    assert_eq!((refund.seq, refund.kind, refund.amount), (7, EntryKind::Refund, cents(4)));
    assert_eq!(refund.link, entry.link.next(&refund));
    assert_eq!((account.balance(), account.available()), (cents(10), cents(6)));
    account.confirm(6);
    assert_eq!(account.available(), cents(6));
    account.confirm(7);
    assert_eq!(account.available(), cents(10));
    assert_eq!(account.keys()[0].day.captured, Credits::ZERO);
}

#[test]
fn a_hold_is_captured_at_its_cost_and_never_above() {
    let mut account = account(cents(10), SpendingLimits::default());
    let charged = account.charge(&hold(1, cents(1), cents(6)), NOON).unwrap();
    assert_eq!(
        (charged.entry, account.balance(), account.available()),
        (None, cents(10), cents(4))
    );

    let outcome = Outcome::Delivered { cost: cents(2), bill: None };
    let settled = account.settle(ChargeId(Uuid::from_u128(1)), outcome, NOON).unwrap();
    assert_eq!((settled.cost, settled.balance), (cents(2), cents(8)));
    assert_eq!(account.available(), cents(4), "the rest waits for the capture to be durable");
    account.confirm(6);
    assert_eq!(account.available(), cents(8));

    account.charge(&hold(2, cents(1), cents(6)), NOON).unwrap();
    let outcome = Outcome::Delivered { cost: cents(60), bill: None };
    let settled = account.settle(ChargeId(Uuid::from_u128(2)), outcome, NOON).unwrap();
    assert_eq!((settled.cost, settled.balance), (cents(6), cents(2)));
}

#[test]
fn a_failed_hold_leaves_no_trace() {
    let mut account =
        account(cents(10), SpendingLimits { daily: Some(cents(6)), ..Default::default() });
    account.charge(&hold(1, cents(1), cents(6)), NOON).unwrap();
    assert_eq!(account.charge(&hold(2, cents(1), cents(1)), NOON), Err(Decline::DailyLimit));
    let settled = account.settle(ChargeId(Uuid::from_u128(1)), Outcome::Failed, NOON).unwrap();
    assert_eq!((settled.entry, settled.cost, account.seq()), (None, Credits::ZERO, 5));
    assert_eq!((account.available(), account.held()), (cents(10), Credits::ZERO));
    assert!(account.charge(&hold(2, cents(1), cents(6)), NOON).is_ok());
}

#[test]
fn a_charge_has_one_end() {
    let mut account = account(cents(10), SpendingLimits::default());
    let id = ChargeId(Uuid::from_u128(1));
    account.charge(&fixed(1, cents(4)), NOON).unwrap();
    account.settle(id, Outcome::Failed, NOON).unwrap();
    for outcome in [Outcome::Failed, Outcome::Delivered { cost: cents(1), bill: None }] {
        assert_eq!(account.settle(id, outcome, NOON), Err(NotOpen));
    }
    assert_eq!(account.balance(), cents(10));
}

#[test]
fn a_call_counts_in_the_window_it_began_in() {
    let limits = SpendingLimits { daily: Some(cents(6)), ..Default::default() };
    let mut account = account(cents(100), limits);
    account.charge(&hold(1, cents(1), cents(6)), NOON).unwrap();
    let tomorrow = NOON.plus_micros(DAY_MICROS);
    // The new day has its full limit, although the old day's hold is still open.
    account.charge(&fixed(2, cents(6)), tomorrow).unwrap();
    let outcome = Outcome::Delivered { cost: cents(5), bill: None };
    let settled = account.settle(ChargeId(Uuid::from_u128(1)), outcome, tomorrow).unwrap();
    assert_eq!(settled.entry.unwrap().day, NOON.day());
    assert_eq!(account.keys()[0].day.captured, cents(6));
    assert_eq!(account.keys()[0].month.captured, cents(11));
    // A clock that goes back does not reopen yesterday.
    assert_eq!(account.charge(&fixed(3, cents(1)), NOON), Err(Decline::DailyLimit));
}

#[test]
fn a_decline_states_the_least_cost_if_that_is_not_covered() {
    let mut account = account(cents(3), SpendingLimits::default());
    let price = |least, most| Price::UpTo(PriceBounds::whole(cents(least), cents(most)));
    for (least, most, named) in [(4, 9, 4), (3, 9, 9), (1, 9, 9)] {
        let charge = Charge { price: price(least, most), ..fixed(1, cents(0)) };
        assert_eq!(
            account.charge(&charge, NOON),
            Err(Decline::InsufficientCredits { price: cents(named), available: cents(3) })
        );
    }
}

#[test]
fn a_free_call_is_checked_but_moves_nothing() {
    let mut account = account(Credits::ZERO, SpendingLimits::default());
    assert_eq!(account.charge(&fixed(1, Credits::ZERO), NOON).unwrap().entry, None);
    account.change_key(KEY, &KeyChange::Delete).unwrap();
    assert_eq!(account.charge(&fixed(2, Credits::ZERO), NOON), Err(Decline::KeyInactive));
}

#[test]
fn expired_charges_are_told() {
    let mut account = account(cents(10), SpendingLimits::default());
    let charge = hold(1, cents(1), cents(6));
    account.charge(&charge, NOON).unwrap();
    assert!(account.expired(charge.expires_at.plus_micros(-1)).is_empty());
    assert_eq!(account.expired(charge.expires_at), vec![charge.id]);
}

#[test]
fn credits_that_do_not_fit_are_refused() {
    let mut account = account(cents(10), SpendingLimits::default());
    for (amount, decline) in [
        (Credits::ZERO, Decline::AmountNotPositive),
        (negated(cents(1)), Decline::AmountNotPositive),
        (Credits::MAX, Decline::AmountTooLarge),
    ] {
        let refused = account.top_up(EntryKind::TopUp, Uuid::nil(), amount, NOON);
        assert_eq!(refused, Err(decline));
    }
    assert_eq!((account.balance(), account.seq()), (cents(10), 5));
}

#[test]
fn an_account_is_closed_once_nothing_runs_and_nothing_is_on_it() {
    let mut account = account(cents(10), SpendingLimits::default());
    let charge = hold(1, cents(1), cents(6));
    account.charge(&charge, NOON).unwrap();
    assert_eq!(account.close(Uuid::nil(), true, NOON), Err(NotErasable::Busy));
    account.settle(charge.id, Outcome::Delivered { cost: cents(2), bill: None }, NOON).unwrap();
    account.confirm(i64::MAX);
    let refused = account.close(Uuid::nil(), false, NOON);
    assert_eq!(refused, Err(NotErasable::Balance(cents(8))));
    assert_eq!(account.status(), AccountStatus::Open);
    // What is not durable yet could be undone.
    account.top_up(EntryKind::TopUp, Uuid::nil(), cents(1), NOON).unwrap();
    assert_eq!(account.close(Uuid::nil(), true, NOON), Err(NotErasable::Busy));
    account.confirm(i64::MAX);
    let (entry, given_up) = account.close(Uuid::nil(), true, NOON).unwrap();
    assert_eq!((entry.unwrap().amount, given_up), (negated(cents(9)), cents(9)));
    assert_eq!((account.balance(), account.status()), (Credits::ZERO, AccountStatus::Suspended));
    assert!(account.keys().iter().all(|key| key.is_revoked));
    assert_eq!(account.charge(&fixed(2, cents(1)), NOON).err(), Some(Decline::AccountSuspended));
    // A suspended user stays, so that the case can be looked into.
    let refused = account.close(Uuid::nil(), true, NOON);
    assert_eq!(refused, Err(NotErasable::Suspended));
    // Nothing is left to take.
    account.set_status(AccountStatus::Open);
    assert_eq!(account.close(Uuid::nil(), false, NOON).unwrap(), (None, Credits::ZERO));
}

#[test]
fn what_is_granted_leaves_room_for_payments() {
    let mut account = account(Credits::ZERO, SpendingLimits::default());
    let most = GRANTED_BALANCE_MAX;
    let above = most.checked_add(Credits::from_nanos(1)).unwrap();
    for (amount, decline) in
        [(above, Decline::AmountTooLarge), (Credits::ZERO, Decline::AmountNotPositive)]
    {
        assert_eq!(account.grant(Uuid::nil(), amount, NOON), Err(decline));
    }
    account.grant(Uuid::nil(), most, NOON).unwrap();
    assert_eq!(account.grant(Uuid::nil(), cents(1), NOON), Err(Decline::AmountTooLarge));
    account.credit(EntryKind::TopUp, Uuid::nil(), most, NOON).unwrap();
    account.set_status(AccountStatus::Suspended);
    assert_eq!(account.grant(Uuid::nil(), cents(1), NOON), Err(Decline::AccountSuspended));
}

fn stream(id: u128, start: i64, first: i64, most: i64) -> Charge {
    let (start, first, most) = (cents(start), cents(first), cents(most));
    let bounds = PriceBounds { least: cents(1), start, first, share: None, most };
    Charge { price: Price::UpTo(bounds), is_durable: true, ..fixed(id, most) }
}

#[test]
fn a_call_holds_at_most_what_balance_and_limits_leave() {
    for (balance, per_request, daily, terms) in [
        (100, None, None, Some((8, 50))),
        (20, None, None, Some((8, 20))),
        (6, None, None, Some((6, 6))),
        (4, None, None, None),
        (100, Some(12), None, Some((8, 12))),
        (100, Some(4), None, None),
        (100, None, Some(7), Some((7, 7))),
        (100, None, Some(4), None),
    ] {
        let limits = SpendingLimits {
            per_request: per_request.map(cents),
            daily: daily.map(cents),
            monthly: None,
            total: None,
        };
        let mut account = account(cents(balance), limits);
        let order = stream(1, 5, 8, 50);
        let expected =
            terms.map(|(held, ceiling)| ChargeTerms { held: cents(held), ceiling: cents(ceiling) });
        assert_eq!(account.quote(&order, NOON).ok(), expected);
        assert_eq!(account.held(), Credits::ZERO, "a quote takes nothing");
        assert_eq!(account.charge(&order, NOON).ok().map(|charged| charged.terms), expected);
    }
}

#[test]
fn a_call_that_is_not_seen_holds_a_share_of_what_is_available() {
    for (balance, per_request, terms) in [
        // Neither less than is asked for, nor more than it can cost.
        (20, None, Some((8, 20))),
        (100, None, Some((25, 50))),
        (1_000, None, Some((50, 50))),
        (100, Some(12), Some((12, 12))),
        (4, None, None),
    ] {
        let limits =
            SpendingLimits { per_request: per_request.map(cents), ..SpendingLimits::default() };
        let mut account = account(cents(balance), limits);
        let mut order = stream(1, 5, 8, 50);
        if let Price::UpTo(bounds) = &mut order.price {
            bounds.share = std::num::NonZeroU32::new(4);
        }
        let expected =
            terms.map(|(held, ceiling)| ChargeTerms { held: cents(held), ceiling: cents(ceiling) });
        assert_eq!(account.quote(&order, NOON).ok(), expected);
        assert_eq!(account.charge(&order, NOON).ok().map(|charged| charged.terms), expected);
    }
}

#[test]
fn a_hold_is_extended_as_far_as_there_is_room() {
    let id = ChargeId(Uuid::from_u128(1));
    let mut account = account(cents(20), SpendingLimits::default());
    account.charge(&stream(1, 5, 8, 50), NOON).unwrap();
    let extended = account.extend(id, cents(9), cents(12), (cents(7), None)).unwrap();
    assert_eq!((extended.held, account.available()), (cents(12), cents(8)));
    let hold = extended.hold.unwrap();
    assert_eq!((hold.amount, hold.earned), (cents(12), cents(7)));
    // Less is available than wanted, but as much as needed.
    assert_eq!(
        account.extend(id, cents(13), cents(40), (cents(12), None)).unwrap().held,
        cents(20)
    );
    let short = Decline::InsufficientCredits { price: cents(21), available: cents(0) };
    assert_eq!(account.extend(id, cents(21), cents(40), (cents(20), None)), Err(short));
    // A hold never shrinks.
    assert_eq!(account.extend(id, cents(2), cents(3), (cents(1), None)).unwrap().held, cents(20));
    account.change_key(KEY, &KeyChange::Revoke).unwrap();
    assert_eq!(account.extend(id, cents(1), cents(1), (cents(1), None)), Err(Decline::KeyInactive));
    let owed = account.extend_owed(id, cents(99)).unwrap();
    assert_eq!((owed.held, owed.hold.unwrap().earned), (cents(20), cents(1)));
    let delivered = Outcome::Delivered { cost: cents(15), bill: None };
    let end = account.settle(id, delivered, NOON).unwrap().hold_end.unwrap();
    assert_eq!((end.kind, end.held, end.captured), (HoldEndKind::Captured, cents(20), cents(15)));
    assert_eq!(account.extend(id, cents(1), cents(1), (cents(1), None)), Err(Decline::NotOpen));
    assert_eq!(account.held(), Credits::ZERO);
}

#[test]
fn what_is_owed_is_held_whatever_the_limits_say() {
    let id = ChargeId(Uuid::from_u128(1));
    let limit = Some(cents(9));
    for limits in [
        SpendingLimits::default(),
        SpendingLimits { per_request: limit, ..Default::default() },
        SpendingLimits { daily: limit, ..Default::default() },
        SpendingLimits { monthly: limit, ..Default::default() },
        SpendingLimits { total: limit, ..Default::default() },
    ] {
        let mut account = account(cents(20), limits);
        account.charge(&stream(1, 5, 8, 50), NOON).unwrap();
        account.change_key(KEY, &KeyChange::Revoke).unwrap();
        account.set_status(AccountStatus::Suspended);
        assert_eq!(account.extend_owed(id, cents(15)).unwrap().held, cents(15));
        // As far as the balance goes.
        assert_eq!(account.extend_owed(id, cents(99)).unwrap().held, cents(20));
        account.set_status(AccountStatus::Open);
        account.keys[0].is_revoked = false;
        let delivered = Outcome::Delivered { cost: cents(15), bill: None };
        let settled = account.settle(id, delivered, NOON).unwrap();
        assert_eq!((settled.cost, account.keys()[0].day.captured), (cents(15), cents(15)));
        account.confirm(settled.seq.unwrap());
        // The limits stop the next call.
        let next = account.charge(&fixed(2, cents(1)), NOON);
        let is_not_limited = limits.per_request.is_some() || limits == SpendingLimits::default();
        assert_eq!(next.is_ok(), is_not_limited, "{limits:?}");
    }
    let mut account = account(cents(20), SpendingLimits::default());
    assert_eq!(account.extend_owed(id, cents(9)), Err(Decline::NotOpen));
}

#[test]
fn a_hold_is_extended_in_the_window_it_began_in() {
    let limits = SpendingLimits { daily: Some(cents(10)), ..Default::default() };
    let mut account = account(cents(100), limits);
    let id = ChargeId(Uuid::from_u128(1));
    account.charge(&stream(1, 5, 8, 50), NOON).unwrap();
    let tomorrow = NOON.plus_micros(DAY_MICROS);
    account.charge(&fixed(2, cents(10)), tomorrow).unwrap();
    assert_eq!(account.extend(id, cents(9), cents(50), (cents(8), None)).unwrap().held, cents(10));
    assert_eq!(
        account.extend(id, cents(11), cents(50), (cents(8), None)),
        Err(Decline::DailyLimit)
    );
    // A window that ended two windows ago is not counted any more, so its hold cannot be extended.
    account.charge(&fixed(3, cents(1)), tomorrow.plus_micros(DAY_MICROS)).unwrap();
    assert_eq!(
        account.extend(id, cents(11), cents(50), (cents(8), None)),
        Err(Decline::DailyLimit)
    );
}

#[test]
fn what_a_crash_left_open_ends_at_what_was_earned() {
    let id = ChargeId(Uuid::from_u128(1));
    let mut before = account(cents(20), SpendingLimits::default());
    let hold = before.charge(&stream(1, 5, 8, 50), NOON).unwrap().hold.unwrap();
    let extended = before.extend(id, cents(9), cents(12), (cents(7), None)).unwrap().hold.unwrap();
    for (hold, captured) in [(hold, 0), (extended, 7)] {
        let keys = vec![KeyState::new(KEY, SpendingLimits::default())];
        let mut after = State::load(loaded(cents(20), keys, &[hold]));
        assert_eq!((after.held(), after.open_charges()), (hold.amount, 1));
        let settled = after.settle(id, Outcome::Expired, NOON).unwrap();
        let end = settled.hold_end.unwrap();
        assert_eq!((end.kind, end.captured), (HoldEndKind::Expired, cents(captured)));
        assert_eq!(after.balance(), cents(20 - captured));
        assert_eq!(after.settle(id, Outcome::Expired, NOON), Err(NotOpen));
    }
}

/// The bill of a call of so many pieces.
fn bill(pieces: u64) -> Bill {
    Bill {
        version: VersionId::FIRST,
        card: 0,
        row: 0,
        convention: Convention::default(),
        flags: Flags::NONE,
        quantities: Quantities::NONE.with(Dim::Request, pieces),
    }
}

#[test]
fn each_entry_of_a_call_has_the_bill_of_what_was_taken() {
    let clamped = |pieces| Bill { flags: Flags::CLAMPED, ..bill(pieces) };
    let stored = |pieces| StoredBill::of(&bill(pieces));
    let read = |entry: Option<LedgerEntry>| entry.unwrap().bill.and_then(|bill| bill.bill());
    let mut account = account(cents(99), SpendingLimits::default());
    // A fixed price has its bill at once; what gives it back has none.
    let order = Charge { bill: stored(1), ..fixed(1, cents(3)) };
    assert_eq!(read(account.charge(&order, NOON).unwrap().entry), Some(bill(1)));
    let refund = account.settle(order.id, Outcome::Failed, NOON).unwrap().entry.unwrap();
    assert_eq!((refund.kind, refund.bill), (EntryKind::Refund, None));
    account.confirm(i64::MAX);
    // A hold has it at its end, which says if less was taken.
    for (number, cost, expected) in [(2, 10, bill(7)), (3, 11, clamped(7))] {
        let order = hold(number, cents(1), cents(10));
        account.charge(&order, NOON).unwrap();
        let outcome = Outcome::Delivered { cost: cents(cost), bill: stored(7) };
        assert_eq!(read(account.settle(order.id, outcome, NOON).unwrap().entry), Some(expected));
        account.confirm(i64::MAX);
    }
    // What a stream has earned has its bill on record with it.
    for (number, earned, expected) in [(4, 7, bill(7)), (5, 99, clamped(7))] {
        let id = ChargeId(Uuid::from_u128(number));
        account.charge(&stream(number, 5, 8, 50), NOON).unwrap();
        let earned = (cents(earned), stored(7));
        let hold = account.extend(id, cents(9), cents(12), earned).unwrap().hold.unwrap();
        assert_eq!(hold.bill.and_then(|bill| bill.bill()), Some(expected));
        // Another extension for what is owed leaves it.
        let owed = account.extend_owed(id, cents(13)).unwrap().hold.unwrap();
        assert_eq!((owed.earned, owed.bill), (hold.earned, hold.bill));
        let keys = vec![KeyState::new(KEY, SpendingLimits::default())];
        let mut next = State::load(loaded(cents(50), keys, &[owed]));
        let ended = next.settle(id, Outcome::Expired, NOON).unwrap();
        assert_eq!((ended.cost, read(ended.entry)), (hold.earned, Some(expected)));
        account.settle(id, Outcome::Failed, NOON).unwrap();
    }
}

#[test]
fn a_refill_brings_the_balance_up_and_never_down() {
    let mut account = account(cents(30), SpendingLimits::default());
    let entry = account.refill(Uuid::nil(), cents(100), NOON).unwrap().unwrap();
    assert_eq!((entry.kind, entry.amount), (EntryKind::Grant, cents(70)));
    assert_eq!(account.refill(Uuid::nil(), cents(100), NOON), Ok(None));
    assert_eq!(account.refill(Uuid::nil(), cents(1), NOON), Ok(None));
    assert_eq!(account.balance(), cents(100));
}
