//! The connections of one HTTP thread, looked at once a second.
//!
//! Whoever has paid for a call on a connection is no stranger there, for some seconds. Then the
//! connection counts for its address again, or one payment would keep it for ever.
//!
//! When most connections are taken, the server closes those of strangers that no call was paid for
//! on for the longest time, as far as they are at work on no request. So strangers hold no
//! connection that a customer needs, from however many addresses they come. Free requests in
//! between change nothing. Nothing of this costs a paid call anything.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::connection::ConnectionState;

const INTERVAL: Duration = Duration::from_secs(1);
/// After so many intervals without a paid call a connection is a stranger's again.
const IDLE_MAX: u32 = 5;

/// The connections of one thread.
#[derive(Debug)]
pub struct Connections {
    all: RefCell<Vec<Weak<ConnectionState>>>,
    /// Above so many, strangers' are closed: four fifths of what the thread may have.
    crowded: usize,
}

impl Connections {
    /// Those of a thread that may have `max` of them.
    #[must_use]
    pub fn new(max: usize) -> Rc<Self> {
        let crowded = max.saturating_sub(max / 5);
        Rc::new(Connections { all: RefCell::default(), crowded })
    }

    /// Looks at them from now on, on this thread.
    pub fn watch(self: &Rc<Self>) {
        let watched = Rc::downgrade(self);
        drop(actix_web::rt::spawn(async move {
            let mut interval = interval(INTERVAL);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                let Some(connections) = watched.upgrade() else { return };
                connections.look();
            }
        }));
    }

    /// Adds one that was opened.
    pub fn add(&self, connection: &Rc<ConnectionState>) {
        self.all.borrow_mut().push(Rc::downgrade(connection));
    }

    /// Looks at all of them. Answers how many are to be closed.
    fn look(&self) -> usize {
        let mut open = 0_usize;
        let mut strangers = Vec::new();
        self.all.borrow_mut().retain(|connection| {
            let Some(connection) = connection.upgrade() else { return false };
            open = open.saturating_add(1);
            if let Some(idle) = connection.note_interval() {
                if idle >= IDLE_MAX {
                    connection.return_share();
                }
                if connection.is_strangers() {
                    strangers.push((Reverse(idle), connection));
                }
            }
            true
        });
        let surplus = open.saturating_sub(self.crowded).min(strangers.len());
        if surplus > 0 {
            strangers.sort_unstable_by_key(|(idle, _)| *idle);
            strangers.iter().take(surplus).for_each(|(_, connection)| connection.close());
        }
        surplus
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::*;
    use crate::http::addresses::{PerAccount, PerAddress};
    use crate::http::connection::Aside;
    use crate::pipeline::Paying;
    use domain::{AccountId, Credits};

    struct Ground {
        connections: Rc<Connections>,
        per_address: Arc<PerAddress>,
        per_account: Arc<PerAccount>,
    }

    impl Ground {
        fn new(max: usize, of_account: usize) -> Self {
            Ground {
                connections: Connections::new(max),
                per_address: PerAddress::new(100),
                per_account: PerAccount::new(of_account),
            }
        }

        fn open(&self, last: u8) -> Rc<ConnectionState> {
            let share = self.per_address.enter(IpAddr::from([192, 0, 2, last]));
            let state = ConnectionState::new(Some(share.unwrap()), Arc::clone(&self.per_account));
            self.connections.add(&state);
            state
        }
    }

    fn pay(connection: &Rc<ConnectionState>) {
        let busy = connection.busy();
        let paying = Arc::<Paying>::default();
        let aside = Aside::new(connection, AccountId(1), Arc::clone(&paying));
        paying.charge();
        aside.follow();
        paying.settle(Credits::MAX);
        drop((aside, busy));
    }

    #[test]
    fn a_connection_that_paid_once_counts_again() {
        let ground = Ground::new(100, 100);
        let connection = ground.open(1);
        pay(&connection);
        assert_eq!(ground.per_address.total(), 0);
        for _ in 0..IDLE_MAX {
            // Free requests change nothing.
            drop(connection.busy());
            assert!(!connection.is_strangers());
            ground.connections.look();
        }
        assert_eq!(ground.per_address.total(), 0);
        ground.connections.look();
        assert!(connection.is_strangers());
        assert_eq!(ground.per_address.total(), 1);
        // Who goes on to pay stays what they are, and so does who waits for an answer.
        pay(&connection);
        let _stream = connection.busy();
        for _ in 0..100 {
            ground.connections.look();
        }
        assert_eq!(ground.per_address.total(), 0);
    }

    #[test]
    fn an_account_has_no_more_paid_connections_than_it_may() {
        let ground = Ground::new(100, 2);
        let open: Vec<_> = (0..4).map(|_| ground.open(1)).collect();
        open.iter().for_each(pay);
        assert_eq!(ground.per_address.total(), 2);
        drop(open);
        assert_eq!(ground.per_address.total(), 0);
        let next = ground.open(1);
        pay(&next);
        assert_eq!(ground.per_address.total(), 0);
    }

    #[test]
    fn of_a_crowd_the_strangers_who_came_first_are_closed() {
        let ground = Ground::new(10, 100);
        let customer = ground.open(1);
        let first: Vec<_> = (0..6).map(|last| ground.open(last)).collect();
        ground.connections.look();
        let mut others: Vec<_> = (0..3).map(|last| ground.open(last)).collect();
        pay(&customer);
        // One of the first is at work.
        let busy = first[0].busy();
        assert_eq!(ground.connections.look(), 2);
        let closed = |open: &[Rc<ConnectionState>]| {
            open.iter().filter(|connection| connection.is_closed()).count()
        };
        assert!(!customer.is_closed() && !first[0].is_closed());
        assert_eq!((closed(&first), closed(&others)), (2, 0));
        drop((busy, first));
        assert_eq!(ground.connections.look(), 0);
        others.extend((0..6).map(|last| ground.open(last)));
        assert_eq!(ground.connections.look(), 2);
        assert!(!customer.is_closed());
        assert_eq!(closed(&others[..3]), 2);
    }
}
