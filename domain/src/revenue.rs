//! What the entries of the ledgers say of an operator's money: what customers have paid, what they
//! have spent of it, and what is still owed to them.

use super::ledger::EntryKind;
use super::money::Credits;

/// Entries of one kind, summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntrySums {
    /// Why the money moved.
    pub kind: EntryKind,
    /// Do grants and deductions correct a charge? Otherwise an operator gave or took.
    pub is_correction: bool,
    /// How many entries.
    pub count: u64,
    /// The sum of their amounts, as they are in the ledgers: negative is taken.
    pub amount: Credits,
}

/// The sums of entries by what they mean to the operator. None is negative but
/// [`Revenue::corrected`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revenue {
    /// How many entries.
    pub entries: u64,
    /// Credited for payments.
    pub credited: Credits,
    /// Taken back because a provider refunded the payment.
    pub refunded: Credits,
    /// Taken back because the payer disputes the payment.
    pub disputed: Credits,
    /// Given back because a refund failed or a dispute was won.
    pub reinstated: Credits,
    /// Given by operators, without a payment.
    pub granted: Credits,
    /// Taken by operators, or given up by a user who erased the account.
    pub taken: Credits,
    /// Taken for calls: charges and captures.
    pub spent: Credits,
    /// Fixed prices that were given back because the call failed.
    pub returned: Credits,
    /// Given back to correct charges, less what was taken to correct them.
    pub corrected: Credits,
}

/// The sum; the largest amount if it does not fit. That takes nine thousand million dollars.
fn sum(a: Credits, b: Credits) -> Credits {
    a.checked_add(b).unwrap_or(Credits::MAX)
}

fn difference(a: Credits, b: Credits) -> Credits {
    a.checked_sub(b).unwrap_or(Credits::MAX)
}

impl Revenue {
    /// Adds entries.
    pub fn add(&mut self, sums: &EntrySums) {
        self.entries = self.entries.saturating_add(sums.count);
        let place = match (sums.kind, sums.is_correction) {
            (EntryKind::TopUp, _) => &mut self.credited,
            (EntryKind::PaymentRefund, _) => &mut self.refunded,
            (EntryKind::Dispute, _) => &mut self.disputed,
            (EntryKind::Reinstatement, _) => &mut self.reinstated,
            (EntryKind::Charge | EntryKind::Capture, _) => &mut self.spent,
            (EntryKind::Refund, _) => &mut self.returned,
            (EntryKind::Grant, false) => &mut self.granted,
            (EntryKind::Deduction, false) => &mut self.taken,
            (EntryKind::Grant | EntryKind::Deduction, true) => {
                self.corrected = sum(self.corrected, sums.amount);
                return;
            }
        };
        let is_given = sums.kind.gives();
        *place = if is_given { sum(*place, sums.amount) } else { difference(*place, sums.amount) };
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Revenue) {
        self.entries = self.entries.saturating_add(other.entries);
        for (one, other) in [
            (&mut self.credited, other.credited),
            (&mut self.refunded, other.refunded),
            (&mut self.disputed, other.disputed),
            (&mut self.reinstated, other.reinstated),
            (&mut self.granted, other.granted),
            (&mut self.taken, other.taken),
            (&mut self.spent, other.spent),
            (&mut self.returned, other.returned),
            (&mut self.corrected, other.corrected),
        ] {
            *one = sum(*one, other);
        }
    }

    /// What customers have paid, less what went back to them.
    #[must_use]
    pub fn paid(&self) -> Credits {
        let back = sum(self.refunded, self.disputed);
        difference(sum(self.credited, self.reinstated), back)
    }

    /// What was earned by calls: the revenue of the margins.
    #[must_use]
    pub fn earned(&self) -> Credits {
        difference(difference(self.spent, self.returned), self.corrected)
    }

    /// By how much the balances have grown: the sum of all entries.
    #[must_use]
    pub fn net(&self) -> Credits {
        let given = sum(self.paid(), difference(self.granted, self.taken));
        difference(given, self.earned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_in_one_sum_and_all_come_to_the_change_of_the_balance() {
        let mut revenue = Revenue::default();
        let mut folded = 0;
        for (place, kind) in EntryKind::ALL.into_iter().enumerate() {
            for is_correction in [false, true] {
                let size = 10_i64.pow(u32::try_from(place).unwrap()) * 3;
                let size = if is_correction { size + 1 } else { size };
                let amount = Credits::from_nanos(if kind.gives() { size } else { -size });
                folded += amount.nanos();
                revenue.add(&EntrySums { kind, is_correction, count: 2, amount });
            }
        }
        assert_eq!((revenue.entries, revenue.net().nanos()), (36, folded));
        let nanos = Credits::nanos;
        // In the order of the kinds; of grants and deductions, corrections are told apart.
        assert_eq!(nanos(revenue.credited), 3 + 4);
        assert_eq!(nanos(revenue.spent), 30 + 31 + 300 + 301);
        assert_eq!(nanos(revenue.returned), 3_000 + 3_001);
        assert_eq!((nanos(revenue.granted), nanos(revenue.taken)), (30_000, 300_000));
        assert_eq!(nanos(revenue.corrected), 30_001 - 300_001);
        assert_eq!(nanos(revenue.refunded), 3_000_000 + 3_000_001);
        assert_eq!(nanos(revenue.disputed), 30_000_000 + 30_000_001);
        assert_eq!(nanos(revenue.reinstated), 300_000_000 + 300_000_001);
        assert_eq!(nanos(revenue.earned()), 662 - 6_001 + 270_000);
        let mut twice = revenue;
        twice.merge(&revenue);
        assert_eq!((twice.entries, nanos(twice.net())), (72, 2 * folded));
        assert_eq!(nanos(twice.paid()), 2 * nanos(revenue.paid()));
    }
}
