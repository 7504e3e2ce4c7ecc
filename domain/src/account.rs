//! The account: a balance, the holds on it, and the limits and counters of its keys.
//!
//! A sequential machine. One owner calls it (the account actor), so no rule here thinks about
//! concurrency. Every command is *refuse first, write last*: all that can say no stands above the first
//! change, and after the line `Decided` nothing fails.
//!
//! `available = balance - held - unconfirmed`. A debit binds at once. What comes back (a top-up, a refund,
//! the rest of a captured hold) is *unconfirmed* until the ledger entry that gives it back is durable:
//! money that a crash could still take away cannot be spent.

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;

use super::chain::Link;
use super::hold::{Hold, HoldEnd, HoldEndKind};
use super::ids::{AccountId, ChargeId, KeyId};
use super::ledger::{EntryKind, LedgerEntry};
use super::limits::{Always, KeySpend, LimitsChange, LimitsLeft, SpendingLimits, WindowCounter};
use super::money::Credits;
use super::window::{Day, Month, Timestamp};

/// Which of a user's two accounts: real credits or play money. The two never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Environment {
    /// Real credits, `ps_live_` keys, the configured upstreams.
    Live,
    /// Test credits, `ps_test_` keys, the sandbox.
    Test,
}

impl Environment {
    /// The number that stands for it in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Environment::Live => 1,
            Environment::Test => 2,
        }
    }

    /// What a number of the database stands for.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(Environment::Live),
            2 => Some(Environment::Test),
            _ => None,
        }
    }

    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Environment::Live => "live",
            Environment::Test => "test",
        }
    }

    /// Whose key begins so.
    #[must_use]
    pub fn of_key(text: &str) -> Self {
        if text.starts_with(Environment::Test.key_prefix()) {
            Environment::Test
        } else {
            Environment::Live
        }
    }

    /// How its keys begin (Chapter 2, Access Token Format).
    #[must_use]
    pub const fn key_prefix(self) -> &'static str {
        match self {
            Environment::Live => "ps_live_",
            Environment::Test => "ps_test_",
        }
    }
}

/// May the account be used?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountStatus {
    /// Yes.
    Open,
    /// An operator has stopped it.
    Suspended,
}

impl AccountStatus {
    /// The number that stands for it in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            AccountStatus::Open => 1,
            AccountStatus::Suspended => 2,
        }
    }

    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            AccountStatus::Open => "open",
            AccountStatus::Suspended => "suspended",
        }
    }

    /// What a number of the database stands for.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(AccountStatus::Open),
            2 => Some(AccountStatus::Suspended),
            _ => None,
        }
    }
}

/// The price of a call before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// Known: debited before the call, refunded if the call fails.
    Fixed(Credits),
    /// Known only after the call: some is held, the actual cost captured.
    UpTo(Bounds),
}

/// What a call may cost whose price is known only after it. In rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What it costs at least.
    pub least: Credits,
    /// With less than this the call is not begun.
    pub start: Credits,
    /// What is held when it begins, or as much of it as can be.
    pub first: Credits,
    /// What it can cost at most.
    pub most: Credits,
}

impl Bounds {
    /// A call that is begun only where all it can cost can be held.
    #[must_use]
    pub const fn whole(least: Credits, most: Credits) -> Self {
        Bounds { least, start: most, first: most, most }
    }
}

impl Price {
    /// What must be there for the call to be admitted.
    #[must_use]
    pub const fn start(self) -> Credits {
        match self {
            Price::Fixed(price) => price,
            Price::UpTo(bounds) => bounds.start,
        }
    }

    /// What it can cost at most.
    #[must_use]
    pub const fn most(self) -> Credits {
        match self {
            Price::Fixed(price) => price,
            Price::UpTo(bounds) => bounds.most,
        }
    }

    /// The refusal where this is available and does not cover it. It names the least where not even that is there,
    /// else what the call begins with.
    pub(super) fn uncovered(self, available: Credits) -> Decline {
        let price = match self {
            Price::UpTo(Bounds { least, .. }) if least > available => least,
            _ => self.start(),
        };
        Decline::InsufficientCredits { price, available }
    }
}

/// A request to pay for one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Made once for each call.
    pub id: ChargeId,
    /// The key that pays.
    pub key: KeyId,
    /// What it may cost.
    pub price: Price,
    /// When the hold ends by itself, if nothing else ends it.
    pub expires_at: Timestamp,
    /// Is the hold written down? It is where the call is delivered before it is settled.
    pub is_durable: bool,
}

/// Why the account says no, in order of precedence: where several apply, the first is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Decline {
    /// A charge with this id is open already.
    #[error("the charge is open already")]
    AlreadyOpen,
    /// No hold of this id is open, so it cannot be extended.
    #[error("the hold is not open")]
    NotOpen,
    /// The account is suspended.
    #[error("the account is suspended")]
    AccountClosed,
    /// The key is revoked, deleted, or never was one of this account.
    #[error("the key is not active")]
    KeyInactive,
    /// One call may not cost that much.
    #[error("above the key's limit for one request")]
    PerRequestLimit,
    /// The balance does not cover it.
    #[error("costs ${price} with ${available} available")]
    InsufficientCredits {
        /// What the refusal names as the cost.
        price: Credits,
        /// What could be spent.
        available: Credits,
    },
    /// The key's day is spent.
    #[error("the key's daily limit is reached")]
    DailyLimit,
    /// The key's month is spent.
    #[error("the key's monthly limit is reached")]
    MonthlyLimit,
    /// The key has spent all it ever may.
    #[error("the key's total limit is reached")]
    TotalLimit,
    /// A sum would not fit.
    #[error("the amount is too large")]
    AmountTooLarge,
}

/// What a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Debited or held for it.
    pub held: Credits,
    /// What it could cost at most, with what the balance and the limits have left for it now.
    pub ceiling: Credits,
}

/// A charge that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    /// What it got.
    pub terms: Terms,
    /// The debit to write down; none for a hold and for a call that is free of charge.
    pub entry: Option<LedgerEntry>,
    /// The hold to write down, where it is durable.
    pub hold: Option<Hold>,
    /// The key's counters with it.
    pub key_spend: KeySpend,
}

/// A hold that was made larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// What is held now.
    pub held: Credits,
    /// The hold to write down, where it is durable.
    pub hold: Option<Hold>,
}

/// How a charged call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was delivered. The cost counts for a hold, and is clamped to it; a fixed price stands.
    Delivered {
        /// What it did cost.
        cost: Credits,
    },
    /// Nothing was delivered: a fixed price is refunded, a hold released.
    Failed,
    /// Its time is over, or its owner gone: of a durable hold what was earned is captured; else as failed.
    Expired,
}

/// A charge that was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The key that paid.
    pub key: KeyId,
    /// When the charge was opened.
    pub opened_at: Timestamp,
    /// The capture or refund to write down, if money moved.
    pub entry: Option<LedgerEntry>,
    /// The end of the hold to write down, where it is durable.
    pub hold_end: Option<HoldEnd>,
    /// The last entry of the charge: that one, else the debit of a fixed price, if there was one.
    pub seq: Option<i64>,
    /// What the call cost in the end.
    pub cost: Credits,
    /// The balance after it.
    pub balance: Credits,
    /// The key's counters after it; none where the key is gone.
    pub key_spend: Option<KeySpend>,
    /// What the key may still spend after it.
    pub left: LimitsLeft,
}

/// There is no open charge of this id: it never was, it was ended, or it expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such open charge")]
pub struct NotOpen;

/// The account has no such key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such key")]
pub struct NoSuchKey;

/// A charge between its acceptance and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenCharge {
    key: KeyId,
    /// Where it counts, from beginning to end, whatever midnight does in between.
    day: Day,
    month: Month,
    stake: Stake,
    opened_at: Timestamp,
    expires_at: Timestamp,
}

/// What a charge has taken before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stake {
    /// A fixed price, by this entry; none where it is free of charge.
    Debited(Credits, Option<i64>),
    Held {
        amount: Credits,
        /// The cost of what was delivered when the hold was last extended.
        earned: Credits,
        is_durable: bool,
    },
}

/// What a charge would do, before it does it.
struct Decided {
    day: Day,
    month: Month,
    terms: Terms,
}

/// What the account knows of one of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// The key.
    pub id: KeyId,
    /// Revoked for good.
    pub is_revoked: bool,
    /// Its ceilings.
    pub limits: SpendingLimits,
    /// Spent today.
    pub day: WindowCounter<Day>,
    /// Spent this month.
    pub month: WindowCounter<Month>,
    /// Spent since it was made.
    pub total: WindowCounter<Always>,
    /// The last call that passed every check.
    pub last_used_at: Option<Timestamp>,
    /// The days on which its holder was last told that it has reached its daily and its monthly limit.
    pub limit_told: [Day; 2],
}

impl KeyState {
    /// A new key with these limits.
    #[must_use]
    pub fn new(id: KeyId, limits: SpendingLimits) -> Self {
        KeyState {
            id,
            is_revoked: false,
            limits,
            day: WindowCounter::default(),
            month: WindowCounter::default(),
            total: WindowCounter::default(),
            last_used_at: None,
            limit_told: [Day::default(); 2],
        }
    }

    /// The part of the counters that is written down.
    #[must_use]
    pub fn spend(&self) -> KeySpend {
        KeySpend {
            key: self.id,
            day: self.day.window,
            day_spent: self.day.captured,
            month: self.month.window,
            month_spent: self.month.captured,
            last_used_at: self.last_used_at,
        }
    }

    /// Spent and held in the day and the month that `now` counts in.
    #[must_use]
    pub fn committed(&self, now: Timestamp) -> (Credits, Credits) {
        let (day, month) = self.windows(now);
        (
            self.day.committed(day).unwrap_or(Credits::MAX),
            self.month.committed(month).unwrap_or(Credits::MAX),
        )
    }

    /// Spent and held since the key was made.
    #[must_use]
    pub fn committed_in_all(&self) -> Credits {
        self.total.committed(()).unwrap_or(Credits::MAX)
    }

    /// The windows that `now` counts in. They never go back, even where a clock does.
    #[must_use]
    pub fn windows(&self, now: Timestamp) -> (Day, Month) {
        let day = self.day.current(now.day());
        (day, self.month.current(day.month()))
    }

    /// What the key may still spend in the windows that `now` counts in.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> LimitsLeft {
        let (day, month) = self.windows(now);
        let SpendingLimits { per_request, daily, monthly, total } = self.limits;
        LimitsLeft {
            per_request,
            daily: daily.map(|_| self.day.room(day, daily)),
            monthly: monthly.map(|_| self.month.room(month, monthly)),
            total: total.map(|_| self.total.room((), total)),
        }
    }

    /// What all limits together leave for a call that counts in these windows and holds `held` already.
    fn room(&self, day: Day, month: Month, held: Credits) -> Credits {
        let SpendingLimits { per_request, daily, monthly, total } = self.limits;
        let of_request = per_request.map_or(Credits::MAX, |ceiling| ceiling.less(held));
        let of_windows = self.day.room(day, daily).min(self.month.room(month, monthly));
        of_request.min(of_windows).min(self.total.room((), total))
    }

    fn add(&mut self, day: Day, month: Month, captured: Credits, held: Credits) {
        self.day.add(day, captured, held);
        self.month.add(month, captured, held);
        self.total.add((), captured, held);
    }

    fn take(&mut self, day: Day, month: Month, captured: Credits, held: Credits) {
        self.day.take(day, captured, held);
        self.month.take(month, captured, held);
        self.total.take((), captured, held);
    }
}

/// A change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Other ceilings.
    Limits(LimitsChange),
    /// Out of use, for good; still listed.
    Revoke,
    /// Out of use and out of the list.
    Delete,
}

/// An account as it is written down, beside its keys and its open holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAccount {
    /// Its number.
    pub id: AccountId,
    /// Live or test.
    pub environment: Environment,
    /// Open or suspended.
    pub status: AccountStatus,
    /// The fold of its ledger.
    pub balance: Credits,
    /// The last entry's number; 0 before the first.
    pub seq: i64,
    /// The last entry's link.
    pub link: Link,
}

/// One account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountState {
    id: AccountId,
    environment: Environment,
    status: AccountStatus,
    balance: Credits,
    /// The sum of `open`'s holds.
    held: Credits,
    /// The last entry's number; 0 before the first.
    seq: i64,
    /// The last entry's link.
    link: Link,
    /// The epoch of its owner's lease, which each entry gets.
    epoch: i64,
    /// What entries that are not yet durable gave back, by entry number, oldest first.
    unconfirmed: VecDeque<(i64, Credits)>,
    /// The sum of `unconfirmed`.
    unconfirmed_sum: Credits,
    /// Sorted by id. A vector, because most accounts have one or two keys and a million accounts may be
    /// in memory.
    keys: Vec<KeyState>,
    open: BTreeMap<ChargeId, OpenCharge>,
}

impl AccountState {
    /// An account as it was written down: with the holds that are open, nothing unconfirmed. `epoch` is that of
    /// its new owner.
    #[must_use]
    pub fn load(
        stored: StoredAccount,
        epoch: i64,
        mut keys: Vec<KeyState>,
        holds: &[Hold],
    ) -> Self {
        keys.sort_unstable_by_key(|key| key.id);
        // A vector that grew has room for four, which is a kilobyte, and a million accounts may be in memory.
        keys.shrink_to_fit();
        let StoredAccount { id, environment, status, balance, seq, link } = stored;
        let mut account = AccountState {
            id,
            environment,
            status,
            balance,
            held: Credits::ZERO,
            seq,
            link,
            epoch,
            unconfirmed: VecDeque::new(),
            unconfirmed_sum: Credits::ZERO,
            keys,
            open: BTreeMap::new(),
        };
        for hold in holds {
            let Hold { amount, earned, day, month, .. } = *hold;
            let open = OpenCharge {
                key: hold.key,
                day,
                month,
                stake: Stake::Held { amount, earned, is_durable: true },
                opened_at: hold.opened_at,
                expires_at: hold.expires_at,
            };
            account.held = account.held.checked_add(amount).unwrap_or(Credits::MAX);
            account.counters(&open, |key, day, month| key.add(day, month, Credits::ZERO, amount));
            account.open.insert(hold.id, open);
        }
        account
    }

    /// What a charge would get. Changes nothing.
    ///
    /// # Errors
    /// The first [`Decline`] that applies, in the order of its variants.
    pub fn quote(&self, charge: &Charge, now: Timestamp) -> Result<Terms, Decline> {
        self.decide(charge, now).map(|decided| decided.terms)
    }

    /// All checks of the chapter's pipeline from the account to the limits, in the order of [`Decline`].
    fn decide(&self, charge: &Charge, now: Timestamp) -> Result<Decided, Decline> {
        if self.open.contains_key(&charge.id) {
            return Err(Decline::AlreadyOpen);
        }
        if self.status != AccountStatus::Open {
            return Err(Decline::AccountClosed);
        }
        let available = self.available();
        let Some(key) = self.key(charge.key).filter(|key| !key.is_revoked) else {
            return Err(Decline::KeyInactive);
        };
        let start = charge.price.start();
        if key.limits.per_request.is_some_and(|ceiling| start > ceiling) {
            return Err(Decline::PerRequestLimit);
        }
        if start > available {
            return Err(charge.price.uncovered(available));
        }
        let (day, month) = key.windows(now);
        if key.day.breaks(day, start, key.limits.daily) {
            return Err(Decline::DailyLimit);
        }
        if key.month.breaks(month, start, key.limits.monthly) {
            return Err(Decline::MonthlyLimit);
        }
        if key.total.breaks((), start, key.limits.total) {
            return Err(Decline::TotalLimit);
        }
        let terms = match charge.price {
            Price::Fixed(price) => Terms { held: price, ceiling: price },
            Price::UpTo(Bounds { first, most, .. }) => {
                let room = available.min(key.room(day, month, Credits::ZERO));
                Terms { held: first.min(room), ceiling: most.min(room) }
            }
        };
        Ok(Decided { day, month, terms })
    }

    /// Decides a charge: all checks of the chapter's pipeline from the balance to the debit, in one step
    /// that nothing can come between.
    ///
    /// # Errors
    /// The first [`Decline`] that applies, in the order of its variants. Nothing is changed then.
    pub fn charge(&mut self, charge: &Charge, now: Timestamp) -> Result<Charged, Decline> {
        let Decided { day, month, terms } = self.decide(charge, now)?;
        let (debit, hold) = match charge.price {
            Price::Fixed(price) => (price, Credits::ZERO),
            Price::UpTo(_) => (Credits::ZERO, terms.held),
        };
        let balance = self.balance.checked_sub(debit).ok_or(Decline::AmountTooLarge)?;
        let held = self.held.checked_add(hold).ok_or(Decline::AmountTooLarge)?;
        let key = key_mut(&mut self.keys, charge.key).ok_or(Decline::KeyInactive)?;

        // Decided. From here on nothing fails.
        key.day.roll(day);
        key.month.roll(month);
        key.add(day, month, debit, hold);
        key.last_used_at = Some(now);
        let key_spend = key.spend();
        self.balance = balance;
        self.held = held;
        let entry = (debit > Credits::ZERO).then(|| {
            let amount = negated(debit);
            self.entry(EntryKind::Charge, amount, charge.id.0, Some(charge.key), day, month, now)
        });
        let stake = match charge.price {
            Price::Fixed(price) => Stake::Debited(price, entry.map(|entry| entry.seq)),
            Price::UpTo(_) => {
                let (amount, earned) = (hold, Credits::ZERO);
                Stake::Held { amount, earned, is_durable: charge.is_durable }
            }
        };
        let (key, expires_at) = (charge.key, charge.expires_at);
        let open = OpenCharge { key, day, month, stake, opened_at: now, expires_at };
        self.open.insert(charge.id, open);
        Ok(Charged { terms, entry, hold: self.durable_hold(charge.id), key_spend })
    }

    /// Makes a hold larger: to `want` in all, or to as much as there is room for, if that is `need` at least.
    /// `earned` is the cost of what has been delivered so far.
    ///
    /// # Errors
    /// The first [`Decline`] that applies; nothing is changed then.
    pub fn extend(
        &mut self,
        charge: ChargeId,
        need: Credits,
        want: Credits,
        earned: Credits,
    ) -> Result<Extended, Decline> {
        let open = *self.open.get(&charge).ok_or(Decline::NotOpen)?;
        let Stake::Held { amount, .. } = open.stake else { return Err(Decline::NotOpen) };
        if self.status != AccountStatus::Open {
            return Err(Decline::AccountClosed);
        }
        let available = self.available();
        let Some(key) = self.key(open.key).filter(|key| !key.is_revoked) else {
            return Err(Decline::KeyInactive);
        };
        let more = need.less(amount);
        if key.limits.per_request.is_some_and(|ceiling| need > ceiling) {
            return Err(Decline::PerRequestLimit);
        }
        if more > available {
            return Err(Decline::InsufficientCredits { price: need, available });
        }
        if key.day.breaks(open.day, more, key.limits.daily) {
            return Err(Decline::DailyLimit);
        }
        if key.month.breaks(open.month, more, key.limits.monthly) {
            return Err(Decline::MonthlyLimit);
        }
        if key.total.breaks((), more, key.limits.total) {
            return Err(Decline::TotalLimit);
        }
        let room = available.min(key.room(open.day, open.month, amount));
        self.enlarge(charge, &open, more.max(want.less(amount).min(room)), earned)
    }

    /// Makes a hold larger for what was delivered already: to `want` in all, or as far as the balance and the
    /// key's limits go. That the key or the account is out of use meanwhile changes nothing in what is owed.
    ///
    /// # Errors
    /// [`Decline::NotOpen`], or [`Decline::AmountTooLarge`]; nothing is changed then.
    pub fn extend_owed(&mut self, charge: ChargeId, want: Credits) -> Result<Extended, Decline> {
        let open = *self.open.get(&charge).ok_or(Decline::NotOpen)?;
        let Stake::Held { amount, earned, .. } = open.stake else {
            return Err(Decline::NotOpen);
        };
        let of_limits =
            self.key(open.key).map_or(Credits::MAX, |key| key.room(open.day, open.month, amount));
        let room = self.available().min(of_limits);
        self.enlarge(charge, &open, want.less(amount).min(room), earned)
    }

    fn enlarge(
        &mut self,
        charge: ChargeId,
        open: &OpenCharge,
        more: Credits,
        earned: Credits,
    ) -> Result<Extended, Decline> {
        let Stake::Held { amount, is_durable, .. } = open.stake else {
            return Err(Decline::NotOpen);
        };
        let held = self.held.checked_add(more).ok_or(Decline::AmountTooLarge)?;
        let amount = amount.checked_add(more).ok_or(Decline::AmountTooLarge)?;

        // Decided. From here on nothing fails.
        self.held = held;
        self.counters(open, |key, day, month| key.add(day, month, Credits::ZERO, more));
        let stake = Stake::Held { amount, earned: earned.min(amount), is_durable };
        self.open.insert(charge, OpenCharge { stake, ..*open });
        Ok(Extended { held: amount, hold: self.durable_hold(charge) })
    }

    /// Ends a charge: captures the cost of a hold and releases the rest, or refunds a fixed price.
    ///
    /// # Errors
    /// [`NotOpen`]; nothing is changed then.
    pub fn settle(
        &mut self,
        charge: ChargeId,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<Settled, NotOpen> {
        let open = self.open.remove(&charge).ok_or(NotOpen)?;

        // Decided. From here on nothing fails.
        if self.open.is_empty() {
            // An empty map keeps a node of a kilobyte, and a million accounts may be in memory.
            self.open = BTreeMap::new();
        }
        let (kind, amount, comes_back, cost) = match (open.stake, outcome) {
            (Stake::Debited(price, _), Outcome::Delivered { .. }) => {
                (EntryKind::Charge, Credits::ZERO, Credits::ZERO, price)
            }
            (Stake::Debited(price, _), Outcome::Failed | Outcome::Expired) => {
                self.counters(&open, |key, day, month| key.take(day, month, price, Credits::ZERO));
                (EntryKind::Refund, price, price, Credits::ZERO)
            }
            (Stake::Held { amount: held, earned, is_durable }, outcome) => {
                let cost = match outcome {
                    Outcome::Delivered { cost } => cost.clamp(Credits::ZERO, held),
                    Outcome::Expired if is_durable => earned.min(held),
                    Outcome::Failed | Outcome::Expired => Credits::ZERO,
                };
                self.held = self.held.less(held);
                self.counters(&open, |key, day, month| {
                    key.take(day, month, Credits::ZERO, held);
                    key.add(day, month, cost, Credits::ZERO);
                });
                // A hold that cost nothing leaves no entry to wait for.
                let rest = if cost > Credits::ZERO { held.less(cost) } else { Credits::ZERO };
                (EntryKind::Capture, negated(cost), rest, cost)
            }
        };
        let entry = (amount != Credits::ZERO).then(|| {
            // A hold never exceeds the balance and a refund was debited from it, so this sum fits.
            self.balance = self.balance.checked_add(amount).unwrap_or(self.balance);
            self.entry(kind, amount, charge.0, Some(open.key), open.day, open.month, now)
        });
        self.withhold(comes_back);
        let (debit_seq, hold_end) = match open.stake {
            Stake::Debited(_, seq) => (seq, None),
            Stake::Held { amount: held, is_durable, .. } => {
                let kind = match outcome {
                    Outcome::Expired => HoldEndKind::Expired,
                    _ if cost > Credits::ZERO => HoldEndKind::Captured,
                    _ => HoldEndKind::Released,
                };
                let account = self.id;
                let end = HoldEnd { id: charge, account, kind, held, captured: cost, at: now };
                (None, is_durable.then_some(end))
            }
        };
        let key = self.key(open.key);
        Ok(Settled {
            key: open.key,
            opened_at: open.opened_at,
            entry,
            hold_end,
            seq: entry.map(|entry| entry.seq).or(debit_seq),
            cost,
            balance: self.balance,
            key_spend: key.map(KeyState::spend),
            left: key.map(|key| key.left(now)).unwrap_or_default(),
        })
    }

    /// Brings the balance up to `to`, where it is below. Of test accounts.
    ///
    /// # Errors
    /// As [`AccountState::top_up`].
    pub fn refill(
        &mut self,
        reference: Uuid,
        to: Credits,
        now: Timestamp,
    ) -> Result<Option<LedgerEntry>, Decline> {
        match to.less(self.balance) {
            Credits::ZERO => Ok(None),
            missing => self.top_up(EntryKind::Grant, reference, missing, now).map(Some),
        }
    }

    /// Adds credits. They can be spent once the entry is confirmed.
    ///
    /// # Errors
    /// [`Decline::AccountClosed`], or [`Decline::AmountTooLarge`] where the amount is not positive or the
    /// balance would not fit.
    pub fn top_up(
        &mut self,
        kind: EntryKind,
        reference: Uuid,
        amount: Credits,
        now: Timestamp,
    ) -> Result<LedgerEntry, Decline> {
        if self.status != AccountStatus::Open {
            return Err(Decline::AccountClosed);
        }
        self.credit(kind, reference, amount, now)
    }

    /// The same whatever the account's status: money that a provider has is not kept from its owner.
    ///
    /// # Errors
    /// [`Decline::AmountTooLarge`]
    pub fn credit(
        &mut self,
        kind: EntryKind,
        reference: Uuid,
        amount: Credits,
        now: Timestamp,
    ) -> Result<LedgerEntry, Decline> {
        if amount <= Credits::ZERO {
            return Err(Decline::AmountTooLarge);
        }
        let balance = self.balance.checked_add(amount).ok_or(Decline::AmountTooLarge)?;

        // Decided. From here on nothing fails.
        self.balance = balance;
        let day = now.day();
        let entry = self.entry(kind, amount, reference, None, day, day.month(), now);
        self.withhold(amount);
        Ok(entry)
    }

    /// Takes credits, whatever the account's status: at most what is available, so that nothing is taken of what
    /// runs.
    ///
    /// # Errors
    /// [`Decline::InsufficientCredits`], or [`Decline::AmountTooLarge`] where the amount is not positive.
    pub fn take(
        &mut self,
        kind: EntryKind,
        reference: Uuid,
        amount: Credits,
        now: Timestamp,
    ) -> Result<LedgerEntry, Decline> {
        if amount <= Credits::ZERO {
            return Err(Decline::AmountTooLarge);
        }
        let available = self.available();
        if amount > available {
            return Err(Decline::InsufficientCredits { price: amount, available });
        }
        let balance = self.balance.checked_sub(amount).ok_or(Decline::AmountTooLarge)?;

        // Decided. From here on nothing fails.
        self.balance = balance;
        let day = now.day();
        let taken = negated(amount);
        Ok(self.entry(kind, taken, reference, None, day, day.month(), now))
    }

    /// Makes spendable what entries up to number `durable_seq` gave back.
    pub fn confirm(&mut self, durable_seq: i64) {
        while let Some((_, amount)) =
            self.unconfirmed.front().filter(|(seq, _)| *seq <= durable_seq)
        {
            self.unconfirmed_sum = self.unconfirmed_sum.less(*amount);
            self.unconfirmed.pop_front();
        }
    }

    /// Adds a key.
    pub fn add_key(&mut self, key: KeyState) {
        match self.keys.binary_search_by_key(&key.id, |other| other.id) {
            Ok(_) => {}
            Err(place) => {
                self.keys.reserve_exact(1);
                self.keys.insert(place, key);
            }
        }
    }

    /// Changes a key. Binds for the next charge.
    ///
    /// # Errors
    /// [`NoSuchKey`]
    pub fn change_key(&mut self, id: KeyId, change: KeyChange) -> Result<KeyState, NoSuchKey> {
        let place = self.keys.binary_search_by_key(&id, |key| key.id).map_err(|_| NoSuchKey)?;
        if change == KeyChange::Delete {
            return Ok(self.keys.remove(place));
        }
        let key = self.keys.get_mut(place).ok_or(NoSuchKey)?;
        match change {
            KeyChange::Limits(limits) => key.limits = key.limits.changed(limits),
            KeyChange::Revoke => key.is_revoked = true,
            KeyChange::Delete => {}
        }
        Ok(*key)
    }

    /// Suspends or resumes the account. Binds for the next charge; what runs is settled.
    pub fn set_status(&mut self, status: AccountStatus) {
        self.status = status;
    }

    /// A key that a charge was refused for by its daily or its monthly limit, where its holder is to be told: once a day
    /// for each.
    pub fn limit_refused(
        &mut self,
        key: KeyId,
        is_monthly: bool,
        now: Timestamp,
    ) -> Option<KeyState> {
        let key = key_mut(&mut self.keys, key)?;
        let (day, _) = key.windows(now);
        let told = key.limit_told.get_mut(usize::from(is_monthly))?;
        let is_news = *told < day;
        *told = day.max(*told);
        is_news.then_some(*key)
    }

    /// Charges whose time is over, for the owner to settle as failed.
    #[must_use]
    pub fn expired(&self, now: Timestamp) -> Vec<ChargeId> {
        self.open.iter().filter(|(_, open)| open.expires_at <= now).map(|(id, _)| *id).collect()
    }

    /// The account's number.
    #[must_use]
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// Live or test.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Open or suspended.
    #[must_use]
    pub fn status(&self) -> AccountStatus {
        self.status
    }

    /// The fold of the ledger. Holds are still in it.
    #[must_use]
    pub fn balance(&self) -> Credits {
        self.balance
    }

    /// Reserved by open charges.
    #[must_use]
    pub fn held(&self) -> Credits {
        self.held
    }

    /// What a charge may take now: `balance - held - unconfirmed`.
    #[must_use]
    pub fn available(&self) -> Credits {
        self.balance.less(self.held).less(self.unconfirmed_sum)
    }

    /// The same, where it alone decides whether a call is declined for want of credits: the account is open, nothing
    /// is held or comes back, and no key has a ceiling that would be named first.
    #[must_use]
    pub fn available_at_rest(&self) -> Option<Credits> {
        let is_at_rest = self.status == AccountStatus::Open
            && self.open.is_empty()
            && self.unconfirmed.is_empty()
            && self.keys.iter().all(|key| key.limits.per_request.is_none());
        is_at_rest.then(|| self.available())
    }

    /// The number of the last entry.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// The account's own part, as it is to be written down.
    #[must_use]
    pub fn stored(&self) -> StoredAccount {
        let AccountState { id, environment, status, balance, seq, link, .. } = *self;
        StoredAccount { id, environment, status, balance, seq, link }
    }

    /// How many charges are open.
    #[must_use]
    pub fn open_charges(&self) -> usize {
        self.open.len()
    }

    /// One key.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&KeyState> {
        let place = self.keys.binary_search_by_key(&id, |key| key.id).ok()?;
        self.keys.get(place)
    }

    /// Every key that is not deleted, in the order of ids.
    #[must_use]
    pub fn keys(&self) -> &[KeyState] {
        &self.keys
    }

    fn counters(&mut self, open: &OpenCharge, change: impl FnOnce(&mut KeyState, Day, Month)) {
        if let Some(key) = key_mut(&mut self.keys, open.key) {
            change(key, open.day, open.month);
        }
    }

    /// A hold as it is to be written down; none where it is not durable.
    fn durable_hold(&self, id: ChargeId) -> Option<Hold> {
        let open = self.open.get(&id)?;
        let Stake::Held { amount, earned, is_durable: true } = open.stake else { return None };
        Some(Hold {
            id,
            account: self.id,
            key: open.key,
            day: open.day,
            month: open.month,
            amount,
            earned,
            opened_at: open.opened_at,
            expires_at: open.expires_at,
        })
    }

    fn withhold(&mut self, amount: Credits) {
        if amount > Credits::ZERO {
            self.unconfirmed.push_back((self.seq, amount));
            self.unconfirmed_sum = self.unconfirmed_sum.checked_add(amount).unwrap_or(Credits::MAX);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the columns of an entry, named at its two callers"
    )]
    fn entry(
        &mut self,
        kind: EntryKind,
        amount: Credits,
        reference: Uuid,
        key: Option<KeyId>,
        day: Day,
        month: Month,
        at: Timestamp,
    ) -> LedgerEntry {
        self.seq = self.seq.saturating_add(1);
        let entry = LedgerEntry {
            account: self.id,
            seq: self.seq,
            epoch: self.epoch,
            kind,
            amount,
            balance_after: self.balance,
            reference,
            key,
            day,
            month,
            at,
            link: Link::START,
        };
        let entry = entry.after(self.link);
        self.link = entry.link;
        entry
    }
}

fn key_mut(keys: &mut [KeyState], id: KeyId) -> Option<&mut KeyState> {
    let place = keys.binary_search_by_key(&id, |key| key.id).ok()?;
    keys.get_mut(place)
}

fn negated(amount: Credits) -> Credits {
    Credits::ZERO.checked_sub(amount).unwrap_or(Credits::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyId = KeyId(Uuid::from_u128(1));
    const NOON: Timestamp = Timestamp::from_micros(1_705_320_000_000_000); // 2024-01-15T12:00:00Z
    const DAY_MICROS: i64 = 86_400_000_000;

    fn cents(n: i64) -> Credits {
        Credits::from_nanos(n * 10_000_000)
    }

    fn account(balance: Credits, limits: SpendingLimits) -> AccountState {
        AccountState::load(stored(balance), 1, vec![KeyState::new(KEY, limits)], &[])
    }

    fn stored(balance: Credits) -> StoredAccount {
        StoredAccount {
            id: AccountId(1),
            environment: Environment::Live,
            status: AccountStatus::Open,
            balance,
            seq: 5,
            link: Link([5; 32]),
        }
    }

    fn fixed(id: u128, price: Credits) -> Charge {
        Charge {
            id: ChargeId(Uuid::from_u128(id)),
            key: KEY,
            price: Price::Fixed(price),
            expires_at: NOON.plus_micros(DAY_MICROS),
            is_durable: false,
        }
    }

    fn hold(id: u128, least: Credits, most: Credits) -> Charge {
        Charge { price: Price::UpTo(Bounds::whole(least, most)), ..fixed(id, most) }
    }

    #[test]
    fn an_account_at_rest_has_room_for_nothing_more() {
        let mut keys = Vec::with_capacity(4);
        keys.push(KeyState::new(KEY, SpendingLimits::default()));
        let mut account = AccountState::load(stored(cents(100)), 1, keys, &[]);
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
        account.change_key(KEY, KeyChange::Revoke).unwrap();

        // Everything is wrong with this charge. Take one reason away after the other.
        let dear = fixed(1, cents(3));
        assert_eq!(account.charge(&dear, NOON), Err(Decline::AlreadyOpen));
        let dear = fixed(2, cents(3));
        assert_eq!(account.charge(&dear, NOON), Err(Decline::AccountClosed));
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
        assert_eq!(
            (entry.seq, entry.kind, entry.amount),
            (6, EntryKind::Charge, negated(cents(4)))
        );
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

        let outcome = Outcome::Delivered { cost: cents(2) };
        let settled = account.settle(ChargeId(Uuid::from_u128(1)), outcome, NOON).unwrap();
        assert_eq!((settled.cost, settled.balance), (cents(2), cents(8)));
        assert_eq!(account.available(), cents(4), "the rest waits for the capture to be durable");
        account.confirm(6);
        assert_eq!(account.available(), cents(8));

        account.charge(&hold(2, cents(1), cents(6)), NOON).unwrap();
        let outcome = Outcome::Delivered { cost: cents(60) };
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
        for outcome in [Outcome::Failed, Outcome::Delivered { cost: cents(1) }] {
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
        // The new day has the whole limit, although the old day's hold is still open.
        account.charge(&fixed(2, cents(6)), tomorrow).unwrap();
        let outcome = Outcome::Delivered { cost: cents(5) };
        let settled = account.settle(ChargeId(Uuid::from_u128(1)), outcome, tomorrow).unwrap();
        assert_eq!(settled.entry.unwrap().day, NOON.day());
        assert_eq!(account.keys()[0].day.captured, cents(6));
        assert_eq!(account.keys()[0].month.captured, cents(11));
        // A clock that goes back does not open yesterday again.
        assert_eq!(account.charge(&fixed(3, cents(1)), NOON), Err(Decline::DailyLimit));
    }

    #[test]
    fn a_refusal_names_the_least_where_not_even_that_is_there() {
        let mut account = account(cents(3), SpendingLimits::default());
        let price = |least, most| Price::UpTo(Bounds::whole(cents(least), cents(most)));
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
        account.change_key(KEY, KeyChange::Delete).unwrap();
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
        for amount in [Credits::ZERO, negated(cents(1)), Credits::MAX] {
            let refused = account.top_up(EntryKind::TopUp, Uuid::nil(), amount, NOON);
            assert_eq!(refused, Err(Decline::AmountTooLarge));
        }
        assert_eq!((account.balance(), account.seq()), (cents(10), 5));
    }

    fn stream(id: u128, start: i64, first: i64, most: i64) -> Charge {
        let (start, first, most) = (cents(start), cents(first), cents(most));
        let bounds = Bounds { least: cents(1), start, first, most };
        Charge { price: Price::UpTo(bounds), is_durable: true, ..fixed(id, most) }
    }

    #[test]
    fn a_call_gets_as_much_as_there_is_room_for() {
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
                terms.map(|(held, ceiling)| Terms { held: cents(held), ceiling: cents(ceiling) });
            assert_eq!(account.quote(&order, NOON).ok(), expected);
            assert_eq!(account.held(), Credits::ZERO, "a quote takes nothing");
            assert_eq!(account.charge(&order, NOON).ok().map(|charged| charged.terms), expected);
        }
    }

    #[test]
    fn a_hold_is_extended_as_far_as_there_is_room() {
        let id = ChargeId(Uuid::from_u128(1));
        let mut account = account(cents(20), SpendingLimits::default());
        account.charge(&stream(1, 5, 8, 50), NOON).unwrap();
        let extended = account.extend(id, cents(9), cents(12), cents(7)).unwrap();
        assert_eq!((extended.held, account.available()), (cents(12), cents(8)));
        let hold = extended.hold.unwrap();
        assert_eq!((hold.amount, hold.earned), (cents(12), cents(7)));
        // More is wanted than there is, but what is needed is there.
        assert_eq!(account.extend(id, cents(13), cents(40), cents(12)).unwrap().held, cents(20));
        let short = Decline::InsufficientCredits { price: cents(21), available: cents(0) };
        assert_eq!(account.extend(id, cents(21), cents(40), cents(20)), Err(short));
        // Never smaller.
        assert_eq!(account.extend(id, cents(2), cents(3), cents(1)).unwrap().held, cents(20));
        account.change_key(KEY, KeyChange::Revoke).unwrap();
        assert_eq!(account.extend(id, cents(1), cents(1), cents(1)), Err(Decline::KeyInactive));
        let owed = account.extend_owed(id, cents(99)).unwrap();
        assert_eq!((owed.held, owed.hold.unwrap().earned), (cents(20), cents(1)));
        let delivered = Outcome::Delivered { cost: cents(15) };
        let end = account.settle(id, delivered, NOON).unwrap().hold_end.unwrap();
        assert_eq!(
            (end.kind, end.held, end.captured),
            (HoldEndKind::Captured, cents(20), cents(15))
        );
        assert_eq!(account.extend(id, cents(1), cents(1), cents(1)), Err(Decline::NotOpen));
        assert_eq!(account.held(), Credits::ZERO);
    }

    #[test]
    fn what_is_owed_is_held_within_balance_and_limits_alone() {
        let id = ChargeId(Uuid::from_u128(1));
        for (per_request, held) in [(None, 20), (Some(15), 15), (Some(9), 9)] {
            let per_request = per_request.map(cents);
            let limits = SpendingLimits { per_request, ..Default::default() };
            let mut account = account(cents(20), limits);
            account.charge(&stream(1, 5, 8, 50), NOON).unwrap();
            account.change_key(KEY, KeyChange::Revoke).unwrap();
            account.set_status(AccountStatus::Suspended);
            assert_eq!(account.extend_owed(id, cents(99)).unwrap().held, cents(held));
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
        assert_eq!(account.extend(id, cents(9), cents(50), cents(8)).unwrap().held, cents(10));
        assert_eq!(account.extend(id, cents(11), cents(50), cents(8)), Err(Decline::DailyLimit));
        // Two windows on, what began in the first is not counted any more, and gets nothing more.
        account.charge(&fixed(3, cents(1)), tomorrow.plus_micros(DAY_MICROS)).unwrap();
        assert_eq!(account.extend(id, cents(11), cents(50), cents(8)), Err(Decline::DailyLimit));
    }

    #[test]
    fn what_a_crash_left_open_ends_at_what_was_earned() {
        let id = ChargeId(Uuid::from_u128(1));
        let mut before = account(cents(20), SpendingLimits::default());
        let hold = before.charge(&stream(1, 5, 8, 50), NOON).unwrap().hold.unwrap();
        let extended = before.extend(id, cents(9), cents(12), cents(7)).unwrap().hold.unwrap();
        for (hold, captured) in [(hold, 0), (extended, 7)] {
            let keys = vec![KeyState::new(KEY, SpendingLimits::default())];
            let mut after = AccountState::load(stored(cents(20)), 2, keys, &[hold]);
            assert_eq!((after.held(), after.open_charges()), (hold.amount, 1));
            let settled = after.settle(id, Outcome::Expired, NOON).unwrap();
            let end = settled.hold_end.unwrap();
            assert_eq!((end.kind, end.captured), (HoldEndKind::Expired, cents(captured)));
            assert_eq!(after.balance(), cents(20 - captured));
            assert_eq!(after.settle(id, Outcome::Expired, NOON), Err(NotOpen));
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
}
