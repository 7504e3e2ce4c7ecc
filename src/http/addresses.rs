//! What one address, and one account, may have at the same time. IPv6 addresses count by /64, and
//! by the /56 and the /48 that it is of. These may have a few times as many connections and bodies,
//! but no more bytes: the room for these is a few times what one address may have.
//!
//! Only what waits for its sender is counted: connections that no paid call comes on, and bodies
//! that do not arrive at once. So paid calls that follow one another pass without a lock.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use domain::AccountId;
use domain::address::{CallerNetwork, networks};

/// A limit for each address.
#[derive(Debug)]
pub struct PerAddress {
    max: usize,
    /// May a network of many callers have no more than one caller?
    is_strict: bool,
    taken: Taken<CallerNetwork>,
    refused: AtomicU64,
}

/// A limit for each account.
#[derive(Debug)]
pub struct PerAccount {
    max: usize,
    taken: Taken<AccountId>,
    refused: AtomicU64,
}

/// What each has taken. Nobody is here without an amount.
#[derive(Debug)]
struct Taken<K: Eq + Hash>(DashMap<K, usize>);

impl<K: Eq + Hash> Taken<K> {
    fn new() -> Self {
        Taken(DashMap::new())
    }

    /// Takes so much more. False, and nothing is taken, if that is above `max`.
    fn take(&self, of: K, more: usize, max: usize) -> bool {
        match self.0.entry(of) {
            Entry::Vacant(_) if more > max => false,
            Entry::Vacant(place) => {
                place.insert(more);
                true
            }
            Entry::Occupied(mut taken) => {
                let after = taken.get().saturating_add(more);
                let has_room = after <= max;
                if has_room {
                    *taken.get_mut() = after;
                }
                has_room
            }
        }
    }

    fn give_back(&self, of: K, amount: usize) {
        if let Entry::Occupied(mut taken) = self.0.entry(of) {
            let left = taken.get().saturating_sub(amount);
            if left == 0 {
                taken.remove();
            } else {
                *taken.get_mut() = left;
            }
        }
    }
}

/// An address's share of a limit, until it is dropped.
#[derive(Debug)]
pub struct AddressShare {
    of: Arc<PerAddress>,
    address: IpAddr,
    amount: usize,
}

/// An account's share of a limit, until it is dropped.
#[derive(Debug)]
pub struct AccountShare {
    of: Arc<PerAccount>,
    account: AccountId,
    amount: usize,
}

impl PerAccount {
    /// At most `max` for each account.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(PerAccount { max, taken: Taken::new(), refused: AtomicU64::new(0) })
    }

    /// The share of an account: nothing yet.
    #[must_use]
    pub fn share(self: &Arc<Self>, account: AccountId) -> AccountShare {
        AccountShare { of: Arc::clone(self), account, amount: 0 }
    }

    /// How often an account was refused, since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl AccountShare {
    /// Takes what is missing to `amount`. False if the account would be above the limit; then its
    /// share stays as it was.
    pub fn grow_to(&mut self, amount: usize) -> bool {
        let Some(missing) = amount.checked_sub(self.amount).filter(|missing| *missing > 0) else {
            return true;
        };
        if !self.of.taken.take(self.account, missing, self.of.max) {
            self.of.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.amount = amount;
        true
    }
}

impl Drop for AccountShare {
    fn drop(&mut self) {
        self.of.taken.give_back(self.account, self.amount);
    }
}

impl PerAddress {
    /// At most `max` for each address, and a few times as much for wider networks.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Self::with(max, false)
    }

    /// At most `max` for each address, and for wider networks.
    #[must_use]
    pub fn strict(max: usize) -> Arc<Self> {
        Self::with(max, true)
    }

    fn with(max: usize, is_strict: bool) -> Arc<Self> {
        let refused = AtomicU64::new(0);
        Arc::new(PerAddress { max, is_strict, taken: Taken::new(), refused })
    }

    /// The share of an address: nothing yet.
    #[must_use]
    pub fn share(self: &Arc<Self>, address: IpAddr) -> AddressShare {
        AddressShare { of: Arc::clone(self), address, amount: 0 }
    }

    /// One for the address; `None` if it has reached the limit.
    #[must_use]
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<AddressShare> {
        let mut share = self.share(address);
        share.grow_to(1).then_some(share)
    }

    /// How often an address was refused, since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What all addresses together have.
    #[must_use]
    pub fn total(&self) -> usize {
        let own = self.taken.0.iter().filter(|taken| taken.key().is_one_caller());
        own.map(|taken| *taken).fold(0, usize::saturating_add)
    }

    /// Takes so much more for a network. False, and nothing is taken, if that is above its limit.
    fn take(&self, network: CallerNetwork, callers: NonZeroU32, more: usize) -> bool {
        let callers = if self.is_strict { NonZeroU32::MIN } else { callers };
        let callers = usize::try_from(callers.get()).unwrap_or(usize::MAX);
        self.taken.take(network, more, self.max.saturating_mul(callers))
    }
}

impl AddressShare {
    /// Has it anything?
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.amount > 0
    }

    /// Gives back what it has. It can take again later.
    pub fn give_back(&mut self) {
        let amount = std::mem::take(&mut self.amount);
        if amount > 0 {
            networks(self.address)
                .for_each(|(network, _)| self.of.taken.give_back(network, amount));
        }
    }

    /// Takes what is missing to `amount`, also above the limit: it is there already.
    pub fn take_anyway(&mut self, amount: usize) {
        let missing = amount.saturating_sub(self.amount);
        if missing > 0 {
            for (network, _) in networks(self.address) {
                self.of.taken.take(network, missing, usize::MAX);
            }
            self.amount = amount;
        }
    }

    /// Takes what is missing to `amount`. False if the address would be above the limit; then its
    /// share stays as it was.
    pub fn grow_to(&mut self, amount: usize) -> bool {
        let Some(missing) = amount.checked_sub(self.amount).filter(|missing| *missing > 0) else {
            return true;
        };
        // One after the other, so that nobody holds two locks.
        let is_taken = |(network, callers)| self.of.take(network, callers, missing);
        let refused = networks(self.address).position(|network| !is_taken(network));
        if let Some(refused) = refused {
            for (network, _) in networks(self.address).take(refused) {
                self.of.taken.give_back(network, missing);
            }
            self.of.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.amount = amount;
        true
    }
}

impl Drop for AddressShare {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_more_than_it_may() {
        let limit = PerAddress::new(2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = limit.enter(address("2001:db8::1")).unwrap();
        let two = limit.enter(address("2001:db8::2")).unwrap();
        assert!(limit.enter(address("2001:db8::3")).is_none());
        assert!(limit.enter(address("2001:db8:0:1::1")).is_some());
        assert_eq!((limit.total(), limit.refused()), (2, 1));
        drop(one);
        assert!(limit.enter(address("2001:db8::3")).is_some());
        drop(two);
        assert_eq!(limit.taken.0.len(), 0);
    }

    #[test]
    fn a_share_can_be_put_aside() {
        let limit = PerAddress::new(1);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut aside = limit.enter(address).unwrap();
        aside.give_back();
        let other = limit.enter(address).unwrap();
        aside.take_anyway(1);
        assert_eq!(limit.total(), 2);
        drop(other);
        assert!(limit.enter(address).is_none());
        drop(aside);
        assert_eq!(limit.taken.0.len(), 0);
    }

    #[test]
    fn a_share_that_cannot_grow_stays_as_it_was() {
        let limit = PerAddress::new(10);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut one = limit.share(address);
        let mut two = limit.share(address);
        assert!(one.grow_to(6) && two.grow_to(4) && !two.grow_to(5) && one.grow_to(2));
        assert_eq!(limit.total(), 10);
        drop(one);
        assert!(two.grow_to(10));
        drop(two);
        assert!(!limit.share(address).grow_to(11));
        assert_eq!(limit.taken.0.len(), 0);
    }

    #[test]
    fn the_networks_of_an_owner_have_a_few_times_as_much() {
        let limit = PerAddress::new(2);
        let mut kept = Vec::new();
        let mut entered = |third: u16, fourth: u16| {
            let address = std::net::Ipv6Addr::new(0x2001, 0xdb8, third, fourth, 0, 0, 0, 1);
            let share = limit.enter(address.into());
            let is_in = share.is_some();
            kept.extend(share);
            is_in
        };
        // A /56 has four times as much as a /64.
        assert_eq!((0..256).filter(|fourth| entered(0, *fourth)).count(), 8);
        // A /48 has eight times as much, of whatever /56.
        assert_eq!((1..256).filter(|of_56| entered(0, *of_56 << 8)).count(), 8);
        assert!(entered(1, 0));
        assert_eq!(limit.total(), 17);
        drop(kept);
        assert_eq!(limit.taken.0.len(), 0);
    }

    #[test]
    fn the_networks_of_an_owner_have_no_more_bytes_than_one_of_them() {
        let limit = PerAddress::strict(10);
        let share = |text: &str| limit.share(text.parse().unwrap());
        let mut one = share("2001:db8::1");
        let mut others = ["2001:db8:0:1::1", "2001:db8:0:100::1"].map(share);
        assert!(one.grow_to(10));
        assert!(others.iter_mut().all(|other| !other.grow_to(1)));
        assert!(share("2001:db8:1::1").grow_to(10));
        drop(one);
        assert!(others.iter_mut().all(|other| other.grow_to(5)));
    }

    #[test]
    fn an_account_has_no_more_than_it_may() {
        let limit = PerAccount::new(10);
        let mut one = limit.share(AccountId(1));
        let mut two = limit.share(AccountId(1));
        assert!(one.grow_to(6) && !two.grow_to(5) && two.grow_to(4) && one.grow_to(6));
        assert!(limit.share(AccountId(2)).grow_to(10));
        drop(one);
        assert!(two.grow_to(10));
        drop(two);
        assert_eq!((limit.taken.0.len(), limit.refused()), (0, 1));
    }
}
