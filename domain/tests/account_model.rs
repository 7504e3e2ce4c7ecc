//! A million random commands against the account and against a model that is too simple to be
//! wrong: it keeps the list of what happened and adds it up again for every question.
//!
//! `ACCOUNT_MODEL_SEED` and `ACCOUNT_MODEL_COMMANDS` repeat or lengthen a run; a failure prints its
//! seed.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::as_conversions,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    reason = "a test that fails by a panic has done its work"
)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use domain::audit::check_bill;
use domain::limits::{LimitsChange, SpendingLimits, WindowCounter};
use domain::{
    Account, AccountId, AccountStatus, Adjustment, Bill, Charge, ChargeId, Convention, Credits,
    Decline, Dim, EntryKind, Environment, Extension, Flags, Hold, HoldChange, HoldEndKind,
    KeyChange, KeyId, KeyState, LedgerEntry, Link, LoadedAccount, NewKey, NewPayment, Outcome,
    PaymentId, Price, PriceBounds, Quantities, StoredAccount, StoredBill, Timestamp, VersionId,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

const DAY_MICROS: i64 = 86_400_000_000;
const COMMANDS_PER_ACCOUNT: usize = 250;

fn credits(nanos: i64) -> Credits {
    Credits::from_nanos(nanos)
}

/// The bill of what costs so much: each call is priced by the piece, at a nano-dollar.
fn bill_of(cost: i64) -> Option<StoredBill> {
    StoredBill::of(&Bill {
        version: VersionId::FIRST,
        card: 0,
        row: 0,
        convention: Convention::default(),
        flags: Flags::NONE,
        quantities: Quantities::NONE.with(Dim::Request, cost.unsigned_abs()),
    })
}

fn cost_of(bill: &Bill) -> Option<Credits> {
    i64::try_from(bill.quantities.of(Dim::Request)).ok().map(credits)
}

/// A charge as the model remembers it.
#[derive(Clone, Debug)]
struct Remembered {
    id: ChargeId,
    key: usize,
    /// The UTC day and the month it was made in, as text: no arithmetic in common with the code
    /// under test.
    day: String,
    month: String,
    /// Debited, or held by now.
    held: i64,
    is_fixed: bool,
    is_durable: bool,
    /// The hold as it was last written down.
    written: Option<Hold>,
    /// What it cost, once it has ended.
    cost: Option<i64>,
    /// The entry that gave the rest back, and how much.
    gave_back: Option<(i64, i64)>,
}

#[derive(Clone, Default)]
struct ModelKey {
    exists: bool,
    revoked: bool,
    per_request: Option<i64>,
    daily: Option<i64>,
    monthly: Option<i64>,
    total: Option<i64>,
}

#[derive(Default)]
struct Model {
    /// Amount, and the number of its entry.
    top_ups: Vec<(i64, i64)>,
    /// Taken by an operator.
    deducted: i64,
    charges: Vec<Remembered>,
    keys: Vec<ModelKey>,
    suspended: bool,
    entries: i64,
    durable: i64,
    /// The latest day the key was seen in; windows never go back.
    latest: Vec<(String, String)>,
    /// The days and months of each key that are still counted: the latest and the one before.
    counted: Vec<(Vec<String>, Vec<String>)>,
}

impl Model {
    fn balance(&self) -> i64 {
        let added: i64 = self.top_ups.iter().map(|(amount, _)| amount).sum();
        let taken: i64 = self
            .charges
            .iter()
            .map(|charge| match charge.cost {
                Some(cost) => cost,
                None if charge.is_fixed => charge.held,
                None => 0,
            })
            .sum();
        added - taken - self.deducted
    }

    fn held(&self) -> i64 {
        let open = self.charges.iter().filter(|charge| charge.cost.is_none() && !charge.is_fixed);
        open.map(|charge| charge.held).sum()
    }

    fn unconfirmed(&self) -> i64 {
        let late = |entry: i64| entry > self.durable;
        let top_ups =
            self.top_ups.iter().filter(|(_, entry)| late(*entry)).map(|(amount, _)| amount);
        let given = self.charges.iter().filter_map(|charge| charge.gave_back);
        top_ups.sum::<i64>()
            + given.filter(|(entry, _)| late(*entry)).map(|(_, amount)| amount).sum::<i64>()
    }

    fn available(&self) -> i64 {
        self.balance() - self.held() - self.unconfirmed()
    }

    /// Charged, captured and held by a key in a window.
    fn spent(&self, key: usize, in_window: impl Fn(&Remembered) -> bool) -> i64 {
        let counted = self.charges.iter().filter(|charge| charge.key == key && in_window(charge));
        counted.map(|charge| charge.cost.unwrap_or(charge.held)).sum()
    }
}

/// The day and month of an instant, as a calendar prints them.
fn calendar(now: Timestamp) -> (String, String) {
    let text = now.to_rfc3339();
    (text[..10].to_owned(), text[..7].to_owned())
}

struct Run {
    random: StdRng,
    account: Account,
    model: Model,
    now: i64,
    ledger: Vec<LedgerEntry>,
    next: u128,
    counts: [u64; 14],
}

impl Run {
    fn new(seed: u64) -> Self {
        let stored = StoredAccount {
            id: AccountId(1),
            environment: Environment::Live,
            status: AccountStatus::Open,
            balance: Credits::ZERO,
            seq: 0,
            link: Link::START,
        };
        let loaded = LoadedAccount { stored, epoch: 1, keys: Vec::new(), holds: Vec::new() };
        let account = Account::load(loaded, Arc::default());
        Run {
            random: StdRng::seed_from_u64(seed),
            account,
            model: Model::default(),
            now: 1_705_320_000_000_000,
            ledger: Vec::new(),
            next: 1,
            counts: [0; 14],
        }
    }

    fn id(&mut self) -> Uuid {
        self.next += 1;
        Uuid::from_u128(self.next)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    fn amount(&mut self) -> i64 {
        self.random.random_range(0..=12)
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..8 => self.top_up(),
            8..12 => self.add_key(),
            12..20 => self.change_key(),
            20..22 => self.change_status(),
            22..30 => self.pass_time(),
            30..40 => self.become_durable(),
            40..65 => self.charge(),
            65..75 => self.extend(),
            75..97 => self.settle(),
            97 => self.take(),
            _ => self.crash(),
        }
        self.check();
    }

    fn top_up(&mut self) {
        let (amount, id) = (self.random.random_range(0..40), PaymentId(self.id()));
        let payment = NewPayment {
            id,
            account: AccountId(1),
            provider: "model",
            amount: credits(amount),
            at: self.now(),
        };
        let result = self.account.top_up(payment, None, self.now());
        let result = result.map(|decision| decision.write.unwrap().entry.unwrap());
        if self.model.suspended {
            assert_eq!(result, Err(Decline::AccountSuspended));
        } else if amount == 0 {
            assert_eq!(result, Err(Decline::AmountNotPositive));
        } else {
            self.record(result.unwrap());
            self.model.top_ups.push((amount, self.model.entries));
        }
    }

    fn take(&mut self) {
        let (amount, reference) = (self.random.random_range(0..8), self.id());
        let available = self.model.available();
        let adjustment = Adjustment::Take(credits(amount));
        let result = self.account.adjust(reference, adjustment, None, self.now());
        let result = result.map(|decision| decision.write.unwrap().entry.unwrap());
        if amount == 0 {
            assert_eq!(result, Err(Decline::AmountNotPositive));
        } else if amount > available {
            assert!(matches!(result, Err(Decline::InsufficientCredits { .. })), "{result:?}");
        } else {
            let entry = result.unwrap();
            assert_eq!((entry.kind, entry.key), (EntryKind::Deduction, None));
            self.record(entry);
            self.model.deducted += amount;
        }
    }

    fn add_key(&mut self) {
        if self.model.keys.len() < 4 {
            let id = key_id(self.model.keys.len());
            let key = NewKey {
                id,
                account: AccountId(1),
                name: String::new(),
                digest: [0; 32],
                preview: String::new(),
                created_at: self.now(),
                expires_at: None,
                limits: SpendingLimits::default(),
            };
            assert!(self.account.add_key(key, None, usize::MAX).is_ok());
            self.model.keys.push(ModelKey { exists: true, ..ModelKey::default() });
            self.model.latest.push((String::new(), String::new()));
            self.model.counted.push((Vec::new(), Vec::new()));
        }
    }

    fn limit(&mut self) -> Option<Option<i64>> {
        match self.random.random_range(0..4) {
            0 => None,
            1 => Some(None),
            _ => Some(Some(self.random.random_range(0..30))),
        }
    }

    fn change_key(&mut self) {
        let place = self.random.random_range(0..5);
        let (per_request, daily, monthly) = (self.limit(), self.limit(), self.limit());
        // What counts for ever needs more room.
        let total = self.limit().map(|limit| limit.map(|limit| limit * 10));
        let of = |limit: Option<Option<i64>>| limit.map(|limit| limit.map(credits));
        let change = match self.random.random_range(0..20) {
            0 => KeyChange::Revoke,
            1 => KeyChange::Delete,
            _ => KeyChange::Limits(LimitsChange {
                per_request: of(per_request),
                daily: of(daily),
                monthly: of(monthly),
                total: of(total),
            }),
        };
        let result = self.account.change_key(key_id(place), change.clone(), self.now());
        let known = self.model.keys.get_mut(place).filter(|key| key.exists);
        assert_eq!(result.is_ok(), known.is_some());
        let Some(key) = known else { return };
        match change {
            KeyChange::Revoke => key.revoked = true,
            KeyChange::Delete => key.exists = false,
            KeyChange::Edit(_) => {}
            KeyChange::Limits(_) => {
                key.per_request = per_request.unwrap_or(key.per_request);
                key.daily = daily.unwrap_or(key.daily);
                key.monthly = monthly.unwrap_or(key.monthly);
                key.total = total.unwrap_or(key.total);
            }
        }
    }

    fn change_status(&mut self) {
        self.model.suspended = self.random.random_range(0..3) == 0;
        let status =
            if self.model.suspended { AccountStatus::Suspended } else { AccountStatus::Open };
        let _ = self.account.set_status(status);
    }

    fn pass_time(&mut self) {
        self.now += match self.random.random_range(0..10) {
            0..4 => self.random.random_range(0..DAY_MICROS / 4),
            // To just before midnight, and just on it.
            4..6 => DAY_MICROS - self.now % DAY_MICROS - 1,
            6 => DAY_MICROS - self.now % DAY_MICROS,
            7 => DAY_MICROS * self.random.random_range(1..40),
            // A clock that goes back.
            8 => -self.random.random_range(0..2 * DAY_MICROS),
            _ => 1,
        };
    }

    fn become_durable(&mut self) {
        let durable = self.random.random_range(self.model.durable..=self.model.entries);
        self.model.durable = durable;
        self.account.flags().durable_seq.store(durable, Ordering::Release);
    }

    #[expect(clippy::too_many_lines, reason = "all that a charge does is compared")]
    fn charge(&mut self) {
        let place = self.random.random_range(0..5);
        let mut bounds = [0; 4].map(|_: i64| self.amount());
        bounds.sort_unstable();
        let [least, start, first, most] = bounds;
        let is_fixed = self.random.random_bool(0.4);
        let share = self.random.random_range(0..4_u32);
        let start = if is_fixed { most } else { start };
        let open = self.model.charges.iter().filter(|charge| charge.cost.is_none());
        let replayed = open.map(|charge| charge.id).next_back();
        let id = match replayed {
            Some(id) if self.random.random_range(0..20) == 0 => id,
            _ => ChargeId(self.id()),
        };
        let price = if is_fixed {
            Price::Fixed(credits(most))
        } else {
            Price::UpTo(PriceBounds {
                least: credits(least),
                start: credits(start),
                first: credits(first),
                share: NonZeroU32::new(share),
                most: credits(most),
            })
        };
        let expires_at = self.now().plus_micros(DAY_MICROS);
        let is_durable = !is_fixed && self.random.random_bool(0.5);
        let bill = bill_of(price.most().nanos());
        let order = Charge { id, key: key_id(place), price, bill, expires_at, is_durable };
        let room = self.room(place);
        let available = self.model.available();
        let expected = self.expected(&order, place, least, start, is_fixed);
        let quoted = self.account.quote(&order, self.now()).decided.terms;
        self.account.publish();
        let unasked = self.account.flags().declines(price);
        let result = self.account.charge(&order, self.now());
        let result = result.map(|decision| (decision.decided, decision.write));
        let result = result.as_ref().map_err(|decline| *decline);
        if let Some(decline) = unasked
            && expected != Err(Decline::KeyInactive)
        {
            assert_eq!(result.err(), Some(decline), "{order:?} was declined without asking");
            self.counts[12] += 1;
        }
        assert_eq!(result.map(|_| ()), expected, "{order:?}");
        assert_eq!(result.map(|(terms, _)| *terms), quoted, "a quote is what a charge does");
        self.counts[match &expected {
            Ok(()) => 0,
            Err(Decline::PerRequestLimit) => 1,
            Err(Decline::InsufficientCredits { .. }) => 2,
            Err(Decline::DailyLimit) => 3,
            Err(Decline::MonthlyLimit) => 4,
            Err(Decline::AlreadyOpen) => 5,
            Err(Decline::TotalLimit) => 13,
            Err(_) => 6,
        }] += 1;
        let Ok((terms, write)) = result else { return };
        let part = if share == 0 { 0 } else { available / i64::from(share) };
        let held = if is_fixed { most } else { first.max(part.min(most)).min(room) };
        let ceiling = if is_fixed { most } else { most.min(room) };
        assert_eq!((terms.held, terms.ceiling), (credits(held), credits(ceiling)));
        let (day, month) = self.window(place);
        self.model.latest[place] = (day.clone(), month.clone());
        let (days, months) = &mut self.model.counted[place];
        for (counted, new) in [(days, &day), (months, &month)] {
            if counted.last() != Some(new) {
                counted.push(new.clone());
            }
            counted.drain(..counted.len().saturating_sub(2));
        }
        let entry = write.as_ref().and_then(|write| write.entry);
        assert_eq!(entry.is_some(), is_fixed && most > 0);
        if let Some(entry) = entry {
            assert_eq!(entry.amount, credits(-most));
            self.record(entry);
        }
        let written = write.as_ref().and_then(|write| match write.hold {
            Some(HoldChange::Opened(hold)) => Some(hold),
            _ => None,
        });
        assert_eq!(written.is_some(), is_durable);
        if let Some(hold) = written {
            assert_eq!((hold.amount, hold.earned), (credits(held), Credits::ZERO));
        }
        let charge = Remembered {
            id,
            key: place,
            day,
            month,
            held,
            is_fixed,
            is_durable,
            written,
            cost: None,
            gave_back: None,
        };
        self.model.charges.push(charge);
    }

    /// What a call of this key could hold now.
    fn room(&self, place: usize) -> i64 {
        let model = &self.model;
        let Some(key) = model.keys.get(place) else { return 0 };
        let (day, month) = self.window(place);
        let left = |limit: Option<i64>, spent: i64| limit.map_or(i64::MAX, |limit| limit - spent);
        let of_day = left(key.daily, model.spent(place, |charge| charge.day == day));
        let of_month = left(key.monthly, model.spent(place, |charge| charge.month == month));
        let of_all = left(key.total, model.spent(place, |_| true));
        let of_request = key.per_request.unwrap_or(i64::MAX);
        model.available().min(of_request).min(of_day).min(of_month).min(of_all)
    }

    fn extend(&mut self) {
        let open: Vec<usize> = (0..self.model.charges.len())
            .filter(|place| self.model.charges[*place].cost.is_none())
            .collect();
        let Some(place) = open.get(self.random.random_range(0..open.len().max(1))) else { return };
        let charge = self.model.charges[*place].clone();
        let (need, more, earned) = (self.amount(), self.amount(), self.amount());
        let (need, want) = (need + self.amount(), need + more);
        let extension = Extension::Ahead {
            need: credits(need),
            want: credits(want),
            earned: credits(earned),
            bill: bill_of(earned),
        };
        let result = self.account.extend(charge.id, extension);
        let result = result.map(|decision| (decision.decided, decision.write));
        let model = &self.model;
        let key = model.keys.get(charge.key).filter(|key| key.exists && !key.revoked);
        let missing = (need - charge.held).max(0);
        let (days, months) = &model.counted[charge.key];
        // What has begun in a window that is not counted any more gets nothing more where there is
        // a limit.
        let spent = |counted: &[String], own: &String, of: &dyn Fn(&Remembered) -> bool| {
            if counted.contains(own) { model.spent(charge.key, of) } else { i64::MAX / 2 }
        };
        let of_day = spent(days, &charge.day, &|other| other.day == charge.day);
        let of_month = spent(months, &charge.month, &|other| other.month == charge.month);
        let of_all = model.spent(charge.key, |_| true);
        let breaks =
            |limit: Option<i64>, spent: i64| limit.is_some_and(|limit| spent + missing > limit);
        let expected = match key {
            _ if charge.is_fixed => Err(Decline::NotOpen),
            _ if model.suspended => Err(Decline::AccountSuspended),
            None => Err(Decline::KeyInactive),
            Some(key) if key.per_request.is_some_and(|limit| need > limit) => {
                Err(Decline::PerRequestLimit)
            }
            Some(_) if missing > model.available() => Err(Decline::InsufficientCredits {
                price: credits(need),
                available: credits(model.available()),
            }),
            Some(key) if breaks(key.daily, of_day) => Err(Decline::DailyLimit),
            Some(key) if breaks(key.monthly, of_month) => Err(Decline::MonthlyLimit),
            Some(key) if breaks(key.total, of_all) => Err(Decline::TotalLimit),
            Some(key) => {
                let left = |limit: Option<i64>, spent: i64| {
                    limit.map_or(i64::MAX, |limit| (limit - spent).max(0))
                };
                let room = model
                    .available()
                    .min(left(key.per_request, charge.held))
                    .min(left(key.daily, of_day))
                    .min(left(key.monthly, of_month))
                    .min(left(key.total, of_all));
                Ok(charge.held + missing.max((want - charge.held).max(0).min(room)))
            }
        };
        let held = result.as_ref().map(|(held, _)| held.nanos());
        assert_eq!(held.map_err(|decline| *decline), expected, "{charge:?}");
        self.counts[if expected.is_ok() { 8 } else { 9 }] += 1;
        let Ok((held, write)) = result else { return };
        let hold = write.and_then(|write| match write.hold {
            Some(HoldChange::Extended(hold)) => Some(hold),
            _ => None,
        });
        assert_eq!(hold.is_some(), charge.is_durable);
        let charge = &mut self.model.charges[*place];
        charge.held = held.nanos();
        if let Some(hold) = hold {
            assert_eq!((hold.amount, hold.earned.nanos()), (held, earned.min(charge.held)));
            assert!(hold.bill.is_some());
            charge.written = Some(hold);
        }
    }

    /// The day and month a charge of this key counts in now.
    fn window(&self, place: usize) -> (String, String) {
        let (day, month) = calendar(self.now());
        match self.model.latest.get(place) {
            Some(latest) if latest.0 > day => latest.clone(),
            _ => (day, month),
        }
    }

    fn expected(
        &self,
        order: &Charge,
        place: usize,
        least: i64,
        start: i64,
        is_fixed: bool,
    ) -> Result<(), Decline> {
        let model = &self.model;
        if model.charges.iter().any(|charge| charge.cost.is_none() && charge.id == order.id) {
            return Err(Decline::AlreadyOpen);
        }
        if model.suspended {
            return Err(Decline::AccountSuspended);
        }
        let key = model.keys.get(place).filter(|key| key.exists && !key.revoked);
        let key = key.ok_or(Decline::KeyInactive)?;
        if key.per_request.is_some_and(|limit| start > limit) {
            return Err(Decline::PerRequestLimit);
        }
        let available = model.available();
        if start > available {
            let named = if !is_fixed && least > available { least } else { start };
            let (price, available) = (credits(named), credits(available));
            return Err(Decline::InsufficientCredits { price, available });
        }
        let (day, month) = self.window(place);
        let spent = model.spent(place, |charge| charge.day == day);
        if key.daily.is_some_and(|limit| spent + start > limit) {
            return Err(Decline::DailyLimit);
        }
        let spent = model.spent(place, |charge| charge.month == month);
        if key.monthly.is_some_and(|limit| spent + start > limit) {
            return Err(Decline::MonthlyLimit);
        }
        let spent = model.spent(place, |_| true);
        if key.total.is_some_and(|limit| spent + start > limit) {
            return Err(Decline::TotalLimit);
        }
        Ok(())
    }

    fn settle(&mut self) {
        let open: Vec<usize> = (0..self.model.charges.len())
            .filter(|place| self.model.charges[*place].cost.is_none())
            .collect();
        if open.is_empty() || self.random.random_range(0..20) == 0 {
            let nobodys = ChargeId(self.id());
            let settled = self.account.settle(nobodys, Outcome::Failed, self.now(), None, None);
            assert!(settled.is_err());
            return;
        }
        let place = open[self.random.random_range(0..open.len())];
        let charge = self.model.charges[place].clone();
        let cost = self.amount();
        let outcome = match self.random.random_range(0..8) {
            0 | 1 => Outcome::Failed,
            2 => Outcome::Expired,
            _ => Outcome::Delivered { cost: credits(cost), bill: bill_of(cost) },
        };
        let earned = charge.written.map_or(0, |hold| hold.earned.nanos());
        let settled = self.account.settle(charge.id, outcome, self.now(), None, None);
        let settled = settled.unwrap().decided;
        let cost = match (outcome, charge.is_fixed) {
            (Outcome::Delivered { .. }, true) => charge.held,
            (Outcome::Delivered { .. }, false) => cost.min(charge.held),
            (Outcome::Expired, false) if charge.is_durable => earned,
            (Outcome::Failed | Outcome::Expired, _) => 0,
        };
        assert_eq!(settled.cost, credits(cost));
        let moved = if charge.is_fixed { charge.held - cost } else { -cost };
        assert_eq!(settled.entry.map_or(0, |entry| entry.amount.nanos()), moved);
        if let Some(entry) = settled.entry {
            assert_eq!(entry.reference, charge.id.0);
            self.record(entry);
            let back = charge.held - cost;
            if back > 0 {
                self.model.charges[place].gave_back = Some((self.model.entries, back));
            }
        }
        assert_eq!(settled.hold_end.is_some(), charge.is_durable);
        if let Some(end) = settled.hold_end {
            assert_eq!((end.held, end.captured), (credits(charge.held), credits(cost)));
            let kind = match outcome {
                Outcome::Expired => HoldEndKind::Expired,
                _ if cost > 0 => HoldEndKind::Captured,
                _ => HoldEndKind::Released,
            };
            assert_eq!(end.kind, kind);
        }
        self.model.charges[place].cost = Some(cost);
        self.counts[if outcome == Outcome::Expired { 10 } else { 7 }] += 1;
        // One end only.
        assert!(self.account.settle(charge.id, outcome, self.now(), None, None).is_err());
    }

    /// Loses the account and loads it again from what is written down: durable holds are there
    /// again, other holds never were, fixed prices stay taken.
    fn crash(&mut self) {
        self.model.durable = self.model.entries;
        let mut holds = Vec::new();
        for charge in self.model.charges.iter_mut().filter(|charge| charge.cost.is_none()) {
            match charge.written {
                Some(hold) => holds.push(hold),
                None => charge.cost = Some(if charge.is_fixed { charge.held } else { 0 }),
            }
        }
        self.counts[11] += u64::from(!holds.is_empty());
        let keys = self.account.keys().iter().map(|key| {
            let mut loaded = KeyState::new(key.id, key.limits);
            loaded.is_revoked = key.is_revoked;
            loaded.day = WindowCounter::stored(key.day.window, key.day.captured);
            loaded.month = WindowCounter::stored(key.month.window, key.month.captured);
            loaded.total = WindowCounter::stored((), key.total.captured);
            loaded
        });
        for (days, months) in &mut self.model.counted {
            for counted in [days, months] {
                counted.drain(..counted.len().saturating_sub(1));
            }
        }
        let (stored, keys) = (self.account.stored(), keys.collect());
        let loaded = LoadedAccount { stored, epoch: 1, keys, holds };
        self.account = Account::load(loaded, Arc::default());
    }

    fn record(&mut self, entry: LedgerEntry) {
        let is_of_call = matches!(entry.kind, EntryKind::Charge | EntryKind::Capture);
        assert_eq!(entry.bill.is_some(), is_of_call, "{entry:?}");
        assert_eq!(check_bill(&entry, &cost_of), Ok(()), "{entry:?}");
        self.model.entries += 1;
        self.ledger.push(entry);
        assert_eq!(entry.seq, self.model.entries);
        assert_eq!(entry.seq, self.ledger.len() as i64);
    }

    /// What must hold after every command.
    fn check(&mut self) {
        let account = self.account.look(None, self.now()).decided;
        let model = &self.model;
        assert_eq!(account.balance, credits(model.balance()), "balance");
        assert_eq!(account.held, credits(model.held()), "held");
        assert_eq!(account.available, credits(model.available()), "available");
        assert!(model.available() >= 0 && model.balance() >= 0);
        let folded: i64 = self.ledger.iter().map(|entry| entry.amount.nanos()).sum();
        assert_eq!(account.balance, credits(folded), "the sum of the ledger");
        if let Some(last) = self.ledger.last() {
            assert_eq!(last.balance_after, account.balance);
            assert!(!last.balance_after.is_negative());
        }
    }
}

fn key_id(place: usize) -> KeyId {
    KeyId(Uuid::from_u128(place as u128 + 1))
}

#[test]
fn the_account_does_what_the_model_does() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().unwrap())
    };
    let commands = number("ACCOUNT_MODEL_COMMANDS", 1_000_000) as usize;
    let first = number("ACCOUNT_MODEL_SEED", 1);
    let mut counts = [0; 14];
    for seed in (first..).take(commands.div_ceil(COMMANDS_PER_ACCOUNT)) {
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..COMMANDS_PER_ACCOUNT {
                run.step();
            }
            run.counts
        });
        let Ok(found) = result else { panic!("failed with ACCOUNT_MODEL_SEED={seed}") };
        for (total, found) in counts.iter_mut().zip(found) {
            *total += found;
        }
    }
    // A workload that never gets anywhere proves nothing: every outcome must be common.
    let least = commands as u64 / 1_000;
    assert!(counts.iter().all(|count| *count >= least), "{counts:?}");
}
