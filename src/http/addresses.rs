//! What one address may have at the same time. IPv6 addresses count by /64.
//!
//! Only what waits for its sender is counted: connections that no paid call has come on yet, and
//! bodies that do not arrive at once. So paid calls pass without a lock.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use domain::address::network;

/// A limit for each address.
#[derive(Debug)]
pub struct PerAddress {
    max: usize,
    /// No address is here without an amount.
    taken: DashMap<IpAddr, usize>,
    refused: AtomicU64,
}

/// An address's share of a limit, until it is dropped.
#[derive(Debug)]
pub struct AddressShare {
    of: Arc<PerAddress>,
    network: IpAddr,
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
        AddressShare { of: Arc::clone(self), network: network(address), amount: 0 }
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
        self.taken.iter().map(|taken| *taken).fold(0, usize::saturating_add)
    }
}

impl AddressShare {
    /// Takes what is missing to `amount`. False if the address would be above the limit; then its
    /// share stays as it was.
    pub fn grow_to(&mut self, amount: usize) -> bool {
        let Some(missing) = amount.checked_sub(self.amount).filter(|missing| *missing > 0) else {
            return true;
        };
        let mut taken = self.of.taken.entry(self.network).or_insert(0);
        let after = taken.saturating_add(missing);
        if after > self.of.max {
            let is_new = *taken == 0;
            drop(taken);
            self.of.refused.fetch_add(1, Ordering::Relaxed);
            if is_new {
                self.of.taken.remove_if(&self.network, |_, taken| *taken == 0);
            }
            return false;
        }
        *taken = after;
        self.amount = amount;
        true
    }
}

impl Drop for AddressShare {
    fn drop(&mut self) {
        if self.amount == 0 {
            return;
        }
        if let Entry::Occupied(mut taken) = self.of.taken.entry(self.network) {
            let left = taken.get().saturating_sub(self.amount);
            if left == 0 {
                taken.remove();
            } else {
                *taken.get_mut() = left;
            }
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
}
