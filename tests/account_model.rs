//! A million random commands against the account and against a model that is too simple to be wrong: it keeps
//! the list of what happened and adds it up again for every question.
//!
//! `ACCOUNT_MODEL_SEED` and `ACCOUNT_MODEL_COMMANDS` repeat or lengthen a run; a failure prints its seed.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::as_conversions,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    reason = "a test that fails by a panic has done its work"
)]

use polysystems::domain::limits::LimitsChange;
use polysystems::domain::{
    AccountId, AccountState, AccountStatus, Charge, ChargeId, Credits, Decline, EntryKind,
    Environment, KeyChange, KeyId, KeyState, LedgerEntry, Outcome, Price, SpendingLimits,
    Timestamp,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

const DAY_MICROS: i64 = 86_400_000_000;
const COMMANDS_PER_ACCOUNT: usize = 250;

fn credits(nanos: i64) -> Credits {
    Credits::from_nanos(nanos)
}

/// A charge as the model remembers it.
#[derive(Clone)]
struct Remembered {
    id: ChargeId,
    key: usize,
    /// The UTC day and the month it was made in, as text: no arithmetic in common with the code under test.
    day: String,
    month: String,
    most: i64,
    is_fixed: bool,
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
}

#[derive(Default)]
struct Model {
    /// Amount, and the number of its entry.
    top_ups: Vec<(i64, i64)>,
    charges: Vec<Remembered>,
    keys: Vec<ModelKey>,
    suspended: bool,
    entries: i64,
    durable: i64,
    /// The latest day the key was seen in; windows never go back.
    latest: Vec<(String, String)>,
}

impl Model {
    fn balance(&self) -> i64 {
        let added: i64 = self.top_ups.iter().map(|(amount, _)| amount).sum();
        let taken: i64 = self
            .charges
            .iter()
            .map(|charge| match charge.cost {
                Some(cost) => cost,
                None if charge.is_fixed => charge.most,
                None => 0,
            })
            .sum();
        added - taken
    }

    fn held(&self) -> i64 {
        let open = self.charges.iter().filter(|charge| charge.cost.is_none() && !charge.is_fixed);
        open.map(|charge| charge.most).sum()
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
        counted.map(|charge| charge.cost.unwrap_or(charge.most)).sum()
    }
}

/// The day and month of an instant, as a calendar prints them.
fn calendar(now: Timestamp) -> (String, String) {
    let text = now.to_rfc3339();
    (text[..10].to_owned(), text[..7].to_owned())
}

struct Run {
    random: StdRng,
    account: AccountState,
    model: Model,
    now: i64,
    ledger: Vec<LedgerEntry>,
    next: u128,
    counts: [u64; 8],
}

impl Run {
    fn new(seed: u64) -> Self {
        let account = AccountState::load(
            AccountId(1),
            Environment::Live,
            AccountStatus::Open,
            Credits::ZERO,
            0,
            Vec::new(),
        );
        Run {
            random: StdRng::seed_from_u64(seed),
            account,
            model: Model::default(),
            now: 1_705_320_000_000_000,
            ledger: Vec::new(),
            next: 1,
            counts: [0; 8],
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
            40..70 => self.charge(),
            70..98 => self.settle(),
            _ => self.reload(),
        }
        self.check();
    }

    fn top_up(&mut self) {
        let (amount, reference) = (self.random.random_range(0..40), self.id());
        let result = self.account.top_up(EntryKind::TopUp, reference, credits(amount), self.now());
        if self.model.suspended {
            assert_eq!(result, Err(Decline::AccountClosed));
        } else if amount == 0 {
            assert_eq!(result, Err(Decline::AmountTooLarge));
        } else {
            self.record(result.unwrap());
            self.model.top_ups.push((amount, self.model.entries));
        }
    }

    fn add_key(&mut self) {
        if self.model.keys.len() < 4 {
            let id = key_id(self.model.keys.len());
            self.account.add_key(KeyState::new(id, SpendingLimits::default()));
            self.model.keys.push(ModelKey { exists: true, ..ModelKey::default() });
            self.model.latest.push((String::new(), String::new()));
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
        let of = |limit: Option<Option<i64>>| limit.map(|limit| limit.map(credits));
        let change = match self.random.random_range(0..20) {
            0 => KeyChange::Revoke,
            1 => KeyChange::Delete,
            _ => KeyChange::Limits(LimitsChange {
                per_request: of(per_request),
                daily: of(daily),
                monthly: of(monthly),
            }),
        };
        let result = self.account.change_key(key_id(place), change);
        let known = self.model.keys.get_mut(place).filter(|key| key.exists);
        assert_eq!(result.is_ok(), known.is_some());
        let Some(key) = known else { return };
        match change {
            KeyChange::Revoke => key.revoked = true,
            KeyChange::Delete => key.exists = false,
            KeyChange::Limits(_) => {
                key.per_request = per_request.unwrap_or(key.per_request);
                key.daily = daily.unwrap_or(key.daily);
                key.monthly = monthly.unwrap_or(key.monthly);
            }
        }
    }

    fn change_status(&mut self) {
        self.model.suspended = self.random.random_range(0..3) == 0;
        let status =
            if self.model.suspended { AccountStatus::Suspended } else { AccountStatus::Open };
        self.account.set_status(status);
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
        self.account.confirm(durable);
    }

    fn charge(&mut self) {
        let place = self.random.random_range(0..5);
        let most = self.amount();
        let least = self.random.random_range(0..=most);
        let is_fixed = self.random.random_bool(0.4);
        let open = self.model.charges.iter().filter(|charge| charge.cost.is_none());
        let replayed = open.map(|charge| charge.id).next_back();
        let id = match replayed {
            Some(id) if self.random.random_range(0..20) == 0 => id,
            _ => ChargeId(self.id()),
        };
        let price = if is_fixed {
            Price::Fixed(credits(most))
        } else {
            Price::UpTo { least: credits(least), most: credits(most) }
        };
        let expires_at = self.now().plus_micros(DAY_MICROS);
        let order = Charge { id, key: key_id(place), price, expires_at };
        let expected = self.expected(&order, place, least, most, is_fixed);
        let result = self.account.charge(&order, self.now());
        assert_eq!(result.map(|_| ()), expected, "{order:?}");
        self.counts[match &expected {
            Ok(()) => 0,
            Err(Decline::PerRequestLimit) => 1,
            Err(Decline::InsufficientCredits { .. }) => 2,
            Err(Decline::DailyLimit) => 3,
            Err(Decline::MonthlyLimit) => 4,
            Err(Decline::AlreadyOpen) => 5,
            Err(_) => 6,
        }] += 1;
        let Ok(charged) = result else { return };
        let (day, month) = self.window(place);
        self.model.latest[place] = (day.clone(), month.clone());
        assert_eq!(charged.entry.is_some(), is_fixed && most > 0);
        if let Some(entry) = charged.entry {
            assert_eq!(entry.amount, credits(-most));
            self.record(entry);
        }
        let charge =
            Remembered { id, key: place, day, month, most, is_fixed, cost: None, gave_back: None };
        self.model.charges.push(charge);
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
        most: i64,
        is_fixed: bool,
    ) -> Result<(), Decline> {
        let model = &self.model;
        if model.charges.iter().any(|charge| charge.cost.is_none() && charge.id == order.id) {
            return Err(Decline::AlreadyOpen);
        }
        if model.suspended {
            return Err(Decline::AccountClosed);
        }
        let key = model.keys.get(place).filter(|key| key.exists && !key.revoked);
        let key = key.ok_or(Decline::KeyInactive)?;
        if key.per_request.is_some_and(|limit| most > limit) {
            return Err(Decline::PerRequestLimit);
        }
        let available = model.available();
        if most > available {
            let named = if !is_fixed && least > available { least } else { most };
            let (price, available) = (credits(named), credits(available));
            return Err(Decline::InsufficientCredits { price, available });
        }
        let (day, month) = self.window(place);
        let spent = model.spent(place, |charge| charge.day == day);
        if key.daily.is_some_and(|limit| spent + most > limit) {
            return Err(Decline::DailyLimit);
        }
        let spent = model.spent(place, |charge| charge.month == month);
        if key.monthly.is_some_and(|limit| spent + most > limit) {
            return Err(Decline::MonthlyLimit);
        }
        Ok(())
    }

    fn settle(&mut self) {
        let open: Vec<usize> = (0..self.model.charges.len())
            .filter(|place| self.model.charges[*place].cost.is_none())
            .collect();
        if open.is_empty() || self.random.random_range(0..20) == 0 {
            let nobodys = ChargeId(self.id());
            assert!(self.account.settle(nobodys, Outcome::Failed, self.now()).is_err());
            return;
        }
        let place = open[self.random.random_range(0..open.len())];
        let charge = self.model.charges[place].clone();
        let cost = self.amount();
        let failed = self.random.random_range(0..4) == 0;
        let outcome =
            if failed { Outcome::Failed } else { Outcome::Delivered { cost: credits(cost) } };
        let settled = self.account.settle(charge.id, outcome, self.now()).unwrap();
        let cost = match (failed, charge.is_fixed) {
            (true, _) => 0,
            (false, true) => charge.most,
            (false, false) => cost.min(charge.most),
        };
        assert_eq!(settled.cost, credits(cost));
        let moved = if charge.is_fixed { charge.most - cost } else { -cost };
        assert_eq!(settled.entry.map_or(0, |entry| entry.amount.nanos()), moved);
        if let Some(entry) = settled.entry {
            assert_eq!(entry.reference, charge.id.0);
            self.record(entry);
            let back = charge.most - cost;
            if back > 0 {
                self.model.charges[place].gave_back = Some((self.model.entries, back));
            }
        }
        self.model.charges[place].cost = Some(cost);
        self.counts[7] += 1;
        // One end only.
        assert!(self.account.settle(charge.id, outcome, self.now()).is_err());
    }

    /// Writes the account down and loads it again, as after a passivation: nothing open, all durable.
    fn reload(&mut self) {
        if self.model.charges.iter().any(|charge| charge.cost.is_none()) {
            return;
        }
        self.model.durable = self.model.entries;
        let status = self.account.status();
        let keys = self.account.keys().to_vec();
        let (balance, seq) = (self.account.balance(), self.account.seq());
        self.account =
            AccountState::load(AccountId(1), Environment::Live, status, balance, seq, keys);
    }

    fn record(&mut self, entry: LedgerEntry) {
        self.model.entries += 1;
        self.ledger.push(entry);
        assert_eq!(entry.seq, self.model.entries);
        assert_eq!(entry.seq, self.ledger.len() as i64);
    }

    /// What must hold after every command.
    fn check(&self) {
        let model = &self.model;
        assert_eq!(self.account.balance(), credits(model.balance()), "balance");
        assert_eq!(self.account.held(), credits(model.held()), "held");
        assert_eq!(self.account.available(), credits(model.available()), "available");
        assert!(model.available() >= 0 && model.balance() >= 0);
        let folded: i64 = self.ledger.iter().map(|entry| entry.amount.nanos()).sum();
        assert_eq!(self.account.balance(), credits(folded), "the fold of the ledger");
        if let Some(last) = self.ledger.last() {
            assert_eq!(last.balance_after, self.account.balance());
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
    let mut counts = [0; 8];
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
