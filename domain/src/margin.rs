//! What is left of what calls bring after what they cost us.

use std::collections::BTreeMap;

use super::cost::UnknownCost;
use super::ledger::EntryKind;
use super::money::Credits;

/// An entry of the ledger that belongs to a call: its charge or capture, its refund, or a
/// correction of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallEntry {
    /// Why the money moved.
    pub kind: EntryKind,
    /// The amount, as it is in the ledger: negative is taken.
    pub amount: Credits,
    /// What the call cost us. A call costs once, so this counts with its charge or capture alone.
    pub cost: Result<Credits, UnknownCost>,
}

/// The sums of entries of calls.
///
/// `revenue` is the exact negative of the sum of the entries. Of calls whose cost nobody knows it
/// is told apart, and the margin is that of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Margin {
    /// Charges and captures.
    pub calls: u64,
    /// What was taken for calls, less what was given back.
    pub revenue: Credits,
    /// What they cost us, as far as that is known.
    pub cost: Credits,
    /// Those of the calls whose cost nobody knows, by the reason.
    pub unknown_calls: BTreeMap<UnknownCost, u64>,
    /// The part of `revenue` that is of these.
    pub unknown_revenue: Credits,
}

/// The sum; the largest amount if it does not fit. That takes nine thousand million dollars.
fn sum(a: Credits, b: Credits) -> Credits {
    a.checked_add(b).unwrap_or(Credits::MAX)
}

impl Margin {
    /// Adds an entry.
    pub fn add(&mut self, entry: &CallEntry) {
        let revenue = Credits::ZERO.checked_sub(entry.amount).unwrap_or(Credits::MAX);
        self.revenue = sum(self.revenue, revenue);
        let is_call = matches!(entry.kind, EntryKind::Charge | EntryKind::Capture);
        self.calls = self.calls.saturating_add(u64::from(is_call));
        match entry.cost {
            Ok(cost) if is_call => self.cost = sum(self.cost, cost),
            Ok(_) => {}
            Err(why) => {
                self.unknown_revenue = sum(self.unknown_revenue, revenue);
                if is_call {
                    let calls = self.unknown_calls.entry(why).or_default();
                    *calls = calls.saturating_add(1);
                }
            }
        }
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Margin) {
        self.calls = self.calls.saturating_add(other.calls);
        self.revenue = sum(self.revenue, other.revenue);
        self.cost = sum(self.cost, other.cost);
        self.unknown_revenue = sum(self.unknown_revenue, other.unknown_revenue);
        for (why, more) in &other.unknown_calls {
            let calls = self.unknown_calls.entry(*why).or_default();
            *calls = calls.saturating_add(*more);
        }
    }

    /// What is left of the revenue of the calls whose cost is known.
    #[must_use]
    pub fn margin(&self) -> Credits {
        let known = self.revenue.checked_sub(self.unknown_revenue).unwrap_or(Credits::ZERO);
        known.checked_sub(self.cost).unwrap_or(Credits::ZERO)
    }

    /// How many calls have a cost that nobody knows.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown_calls.values().fold(0, |all, calls| all.saturating_add(*calls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryKind, amount: i64, cost: Result<i64, UnknownCost>) -> CallEntry {
        CallEntry { kind, amount: Credits::from_nanos(amount), cost: cost.map(Credits::from_nanos) }
    }

    #[test]
    fn each_entry_counts_and_each_call_costs_once() {
        let none = Err(UnknownCost::NoList);
        let mut margin = Margin::default();
        for one in [
            entry(EntryKind::Capture, -500, Ok(300)),
            // Given back in part: the cost stays.
            entry(EntryKind::Grant, 120, Ok(300)),
            entry(EntryKind::Deduction, -5, Ok(300)),
            // Sold at a loss.
            entry(EntryKind::Capture, -10, Ok(400)),
            entry(EntryKind::Charge, -70, none),
            entry(EntryKind::Refund, 70, none),
            entry(EntryKind::Capture, -9, Err(UnknownCost::NoRecord)),
        ] {
            margin.add(&one);
        }
        let nanos = Credits::nanos;
        assert_eq!((margin.calls, nanos(margin.revenue), nanos(margin.cost)), (4, 404, 700));
        assert_eq!((margin.unknown(), nanos(margin.unknown_revenue)), (2, 9));
        assert_eq!(nanos(margin.margin()), 404 - 9 - 700);
        let mut twice = margin.clone();
        twice.merge(&margin);
        assert_eq!((twice.calls, twice.unknown(), nanos(twice.margin())), (8, 4, -610));
        assert_eq!(twice.unknown_calls[&UnknownCost::NoRecord], 2);
    }
}
