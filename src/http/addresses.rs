//! What one address may have at the same time. IPv6 addresses count by /64, and by the /56 and the
//! /48 that it is of, which may have a few times as much.
//!
//! Only what waits for its sender is counted: connections that no paid call has come on yet, and
//! bodies that do not arrive at once. So paid calls pass without a lock.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use domain::address::{Network, networks};

/// A limit for each address.
#[derive(Debug)]
pub struct PerAddress {
    max: usize,
    /// No network is here without an amount.
    taken: DashMap<Network, usize>,
    refused: AtomicU64,
}

/// An address's share of a limit, until it is dropped.
#[derive(Debug)]
pub struct AddressShare {
    of: Arc<PerAddress>,
    address: IpAddr,
    amount: usize,
}

impl PerAddress {
    /// At most `max` for each address.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(PerAddress { max, taken: DashMap::new(), refused: AtomicU64::new(0) })
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
        let own = self.taken.iter().filter(|taken| taken.key().is_one_caller());
        own.map(|taken| *taken).fold(0, usize::saturating_add)
    }

    /// Takes so much more for a network. False, and nothing is taken, if that is above its limit.
    fn take(&self, network: Network, callers: usize, more: usize) -> bool {
        let max = self.max.saturating_mul(callers);
        match self.taken.entry(network) {
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

    fn give_back(&self, network: Network, amount: usize) {
        if let Entry::Occupied(mut taken) = self.taken.entry(network) {
            let left = taken.get().saturating_sub(amount);
            if left == 0 {
                taken.remove();
            } else {
                *taken.get_mut() = left;
            }
        }
    }
}

impl AddressShare {
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
                self.of.give_back(network, missing);
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
        if self.amount > 0 {
            networks(self.address).for_each(|(network, _)| self.of.give_back(network, self.amount));
        }
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
        assert_eq!(limit.taken.len(), 0);
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
        assert_eq!(limit.taken.len(), 0);
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
        assert_eq!(limit.taken.len(), 0);
    }
}
