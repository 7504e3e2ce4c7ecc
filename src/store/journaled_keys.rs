//! Changes of API keys that are durable in the journal and not in the tables yet.
//!
//! The rows of keys are read from the tables, and what is here is applied to them. So a reader sees
//! a change as soon as it is acknowledged, however far behind the tables are. After a restart there
//! is nothing here: the journal is checkpointed before anything else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{AccountId, Batch, Change, KeyId};

/// The changes of each key, oldest first, with the number of the batch in the journal.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct KeyChanges(BTreeMap<KeyId, Vec<(i64, Change)>>);

impl KeyChanges {
    /// What became of a key, oldest first.
    pub(in crate::store) fn of(&self, key: KeyId) -> impl Iterator<Item = &Change> {
        self.0.get(&key).into_iter().flatten().map(|(_, change)| change)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::store) struct JournaledKeys {
    changes: Mutex<Arc<KeyChanges>>,
}

impl JournaledKeys {
    fn changes(&self) -> MutexGuard<'_, Arc<KeyChanges>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the changes of a batch that is durable in the journal under this number. Called before
    /// anyone is told.
    pub(in crate::store) fn note(&self, number: i64, batch: &Batch) {
        if batch.changes.is_empty() {
            return;
        }
        let mut changes = self.changes();
        let KeyChanges(changes) = Arc::make_mut(&mut changes);
        for change in &batch.changes {
            let Some((_, key)) = change.changed_key() else { continue };
            changes.entry(key).or_default().push((number, change.clone()));
        }
    }

    /// Forgets what is in the tables: batches up to this number, but for what the tables refused.
    pub(in crate::store) fn forget(&self, last: i64, refused: &[AccountId]) {
        let is_in_tables = |(number, change): &(i64, Change)| {
            let account = change.changed_key().map(|(account, _)| account);
            *number <= last && account.is_none_or(|account| !refused.contains(&account))
        };
        let mut changes = self.changes();
        if !changes.0.values().flatten().any(is_in_tables) {
            return;
        }
        let KeyChanges(changes) = Arc::make_mut(&mut changes);
        changes.retain(|_, changes| {
            changes.retain(|change| !is_in_tables(change));
            !changes.is_empty()
        });
    }

    /// What is not in the tables now. To be taken before the tables are read, and to be applied to
    /// what is found there if it still holds ([`Self::still_holds`]). What is applied may be in the
    /// tables already; applied once more, it changes nothing.
    pub(in crate::store) fn now(&self) -> Arc<KeyChanges> {
        Arc::clone(&self.changes())
    }

    /// Was nothing noted or forgotten since then? If not, the tables that were read meanwhile do
    /// not fit it, and are to be read again.
    pub(in crate::store) fn still_holds(&self, then: &Arc<KeyChanges>) -> bool {
        // While somebody has it, every change makes another one.
        Arc::ptr_eq(then, &self.changes())
    }
}

#[cfg(test)]
mod tests {
    use domain::Timestamp;
    use uuid::Uuid;

    use super::*;

    const KEY: KeyId = KeyId(Uuid::from_u128(1));

    fn revocation(account: i64) -> Batch {
        let at = Timestamp::from_micros(1);
        let change = Change::KeyRevoked(AccountId(account), KEY, at);
        Batch { changes: vec![change], ..Batch::default() }
    }

    fn count(keys: &JournaledKeys) -> usize {
        keys.now().of(KEY).count()
    }

    #[test]
    fn what_is_in_the_tables_is_forgotten_and_what_they_refused_is_not() {
        let keys = JournaledKeys::default();
        for (number, account) in [(1, 1), (2, 2), (3, 1)] {
            keys.note(number, &revocation(account));
        }
        keys.forget(2, &[AccountId(2)]);
        assert_eq!(count(&keys), 2);
        keys.forget(3, &[]);
        assert_eq!(count(&keys), 0);
    }

    #[test]
    fn what_was_taken_before_a_change_does_not_hold_any_more() {
        let keys = JournaledKeys::default();
        let none = keys.now();
        keys.note(1, &Batch::default());
        keys.forget(1, &[]);
        assert!(keys.still_holds(&none), "no key was changed");
        keys.note(2, &revocation(1));
        assert!(!keys.still_holds(&none) && none.of(KEY).count() == 0);
        let one = keys.now();
        assert_eq!(one.of(KEY).count(), 1);
        keys.forget(2, &[]);
        assert!(!keys.still_holds(&one) && one.of(KEY).count() == 1);
    }
}
