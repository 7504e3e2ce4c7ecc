use std::sync::atomic::Ordering;

use super::checkpoint::PUT_OFF;
use super::*;
use crate::account::AccountFlags;
use crate::batch::{Change, NewKey, Write};
use crate::environment::AccountStatus;
use crate::ids::{ChargeId, KeyId};
use crate::limits::SpendingLimits;
use crate::money::Credits;
use crate::usage::{Ending, Tally, UsageRecord};
use crate::window::Timestamp;

/// Suspends an account: a change for the tables that leaves no rows to look for.
fn change(account: i64) -> Write {
    let account = AccountId(account);
    let change = Some(Change::AccountStatus(account, AccountStatus::Suspended));
    Write { change, ..Write::nothing(account) }
}

const KEY: KeyId = KeyId(uuid::Uuid::from_u128(1));

/// Revokes a key.
fn revocation(account: i64) -> Write {
    revocation_of(account, KEY)
}

fn revocation_of(account: i64, key: KeyId) -> Write {
    let account = AccountId(account);
    let change = Some(Change::KeyRevoked(account, key, Timestamp::from_micros(1)));
    Write { change, ..Write::nothing(account) }
}

/// Changes the spending limits of a key.
fn limits(account: i64) -> Write {
    let account = AccountId(account);
    let change = Some(Change::KeyLimits(account, KEY, SpendingLimits::default()));
    Write { change, ..Write::nothing(account) }
}

/// Makes a key.
fn creation(account: i64) -> Write {
    let account = AccountId(account);
    let key = NewKey {
        id: KEY,
        account,
        name: String::new(),
        digest: [0; 32],
        preview: String::new(),
        created_at: Timestamp::from_micros(1),
        expires_at: None,
        limits: SpendingLimits::default(),
    };
    Write { change: Some(Change::KeyCreated(key)), ..Write::nothing(account) }
}

fn gather(writer: &mut Writer<u8>, write: Write, flags: &Arc<AccountFlags>, ticket: u8) {
    flags.pending_writes.fetch_add(1, Ordering::AcqRel);
    let write = Box::new(write);
    writer.gather(Pending { write, flags: Arc::clone(flags), at_micros: 0, ticket });
}

#[test]
fn what_waits_behind_a_fenced_batch_of_its_account_is_fenced_too() {
    let mut writer = Writer::new(10, 1_000_000);
    let flags = Arc::new(AccountFlags::default());
    for ticket in 0..2 {
        gather(&mut writer, change(1), &flags, ticket);
        // The first write is committed alone, and the second one gathers meanwhile.
        assert_eq!(writer.next_task().is_some(), ticket == 0);
    }
    writer.committed(Lane::Tables, CommitOutcome::Fenced);
    assert!(writer.next_task().is_none());
    let fenced = Err(WriteError::Fenced);
    assert_eq!(writer.take_ended(), vec![(0, fenced), (1, fenced)]);
    assert!(flags.is_poisoned());
}

#[test]
fn a_barrier_stays_behind_the_writes_of_a_batch_that_is_split() {
    let mut writer = Writer::new(10, 1_000_000);
    let flags: [Arc<AccountFlags>; 3] = Default::default();
    gather(&mut writer, change(1), &flags[0], 1);
    gather(&mut writer, change(2), &flags[1], 2);
    gather(&mut writer, Write::nothing(AccountId::LAST), &flags[2], 3);
    assert!(matches!(writer.next_task(), Some(Task::Commit(..))));
    writer.committed(Lane::Tables, CommitOutcome::Refused);
    assert!(matches!(writer.next_task(), Some(Task::LookUp(..))));
    writer.looked_up(Lane::Tables, Some(false));
    for ticket in 1..3 {
        assert!(matches!(writer.next_task(), Some(Task::Commit(..))));
        assert_eq!(writer.take_ended(), []);
        writer.committed(Lane::Tables, CommitOutcome::Durable);
        assert_eq!(writer.take_ended(), vec![(ticket, Ok(()))]);
    }
    assert!(writer.next_task().is_none());
    assert_eq!(writer.take_ended(), vec![(3, Ok(()))]);
}

#[test]
fn of_a_change_without_a_trace_nobody_is_told_that_it_did_not_happen() {
    for last in [CommitOutcome::Fenced, CommitOutcome::Refused] {
        let mut writer = Writer::new(10, 1_000_000);
        let flags = Arc::new(AccountFlags::default());
        gather(&mut writer, change(1), &flags, 1);
        for attempt in [CommitOutcome::Unknown, last] {
            assert!(matches!(writer.next_task(), Some(Task::Commit(..))));
            writer.committed(Lane::Tables, attempt);
            assert!(matches!(writer.next_task(), Some(Task::LookUp(..))));
            writer.looked_up(Lane::Tables, Some(false));
            if attempt == CommitOutcome::Unknown {
                assert!(matches!(writer.next_task(), Some(Task::Pause(..))));
                writer.paused(Lane::Tables);
            }
        }
        assert_eq!(writer.take_ended(), vec![(1, Err(WriteError::Lost))]);
        let state = match last {
            CommitOutcome::Fenced => WriterState::Fenced,
            _ => WriterState::Serving,
        };
        assert_eq!(writer.state(), state);
    }
}

/// A call that moves no money.
fn usage(account: i64) -> Write {
    let usage = UsageRecord {
        id: ChargeId(uuid::Uuid::from_u128(1)),
        account: AccountId(account),
        seq: None,
        key: KeyId(uuid::Uuid::from_u128(1)),
        method: "GET".into(),
        route: "/".into(),
        model: "".into(),
        upstream: "sandbox".into(),
        status: 200,
        cost: Credits::ZERO,
        prompt_tokens: 0,
        completion_tokens: 0,
        ending: Ending::Completed,
        tally: Tally::Reported,
        started_at: Timestamp::from_micros(0),
        latency_micros: 0,
    };
    Write { usage: Some(usage), ..Write::nothing(AccountId(account)) }
}

#[test]
fn a_checkpoint_that_takes_too_long_is_tried_with_less() {
    let mut writer = Writer::new(1, 1_000_000).with_journal(8, 8);
    let flags = Arc::new(AccountFlags::default());
    for _ in 0..8 {
        journal(&mut writer, 1, &flags);
    }
    for last in [8, 4, 2, 1, 1] {
        let Some(Task::Checkpoint(checkpoint)) = writer.next_task() else {
            panic!("no checkpoint")
        };
        assert_eq!((checkpoint.first, checkpoint.last), (1, last));
        assert_eq!(checkpoint.batch().usage.len(), usize::try_from(last).unwrap());
        writer.checkpointed(Err(CommitOutcome::Unknown));
        assert!(
            matches!(writer.next_task(), Some(Task::LookUpCheckpoint(looked)) if looked == last)
        );
        writer.looked_up_checkpoint(CheckpointOutcome::NotDone);
        assert!(matches!(writer.next_task(), Some(Task::Pause(Lane::Tables, _))));
        writer.paused(Lane::Tables);
    }
    // The checkpoint is found to be done, and the refused accounts are known.
    let Some(Task::Checkpoint(_)) = writer.next_task() else { panic!("no checkpoint") };
    writer.checkpointed(Err(CommitOutcome::Unknown));
    assert!(matches!(writer.next_task(), Some(Task::LookUpCheckpoint(1))));
    assert_eq!(writer.state(), WriterState::Unavailable);
    writer.looked_up_checkpoint(CheckpointOutcome::Done { refused: vec![AccountId(1)] });
    assert!(flags.is_poisoned());
    assert_eq!(writer.backlog(), 7);
    // The database has answered, so the state is good again before the next call comes.
    assert_eq!(writer.state(), WriterState::Serving);
}

#[test]
fn the_journal_takes_its_time_where_checkpoints_do_not_keep_up() {
    let mut writer = Writer::new(1, 1_000_000).with_journal(8, 0);
    let flags = Arc::new(AccountFlags::default());
    let mut brakes = Vec::new();
    for backlog in 1..=512 {
        journal(&mut writer, 1, &flags);
        assert_eq!(writer.backlog(), backlog);
        brakes.push(writer.brake_micros(10));
    }
    assert!(brakes.is_sorted());
    assert_eq!((brakes[255], brakes[383], brakes[511]), (0, 500, 1_000));
    assert_eq!(writer.brake_micros(1_000), 25_000);
    assert_eq!(Writer::<u8>::new(1, 1).brake_micros(10), 0);
}

#[test]
fn a_checkpoint_that_is_found_too_late_makes_the_next_ones_smaller() {
    let mut writer = Writer::new(1, 1_000_000).with_journal(8, 8);
    let flags = Arc::new(AccountFlags::default());
    let more = |writer: &mut Writer<u8>, writes: usize| {
        (0..writes).for_each(|_| journal(writer, 1, &flags));
    };
    more(&mut writer, 8);
    assert_eq!(checkpoint_of(writer.next_task()), 8);
    more(&mut writer, 40);
    writer.checkpointed(Err(CommitOutcome::Unknown));
    assert!(matches!(writer.next_task(), Some(Task::LookUpCheckpoint(8))));
    writer.looked_up_checkpoint(CheckpointOutcome::Done { refused: Vec::new() });
    for checkpointed in [4, 8, 16] {
        assert_eq!(checkpoint_of(writer.next_task()), checkpointed);
        writer.checkpointed(Ok(Vec::new()));
    }
}

/// Gathers a write of the account, and makes it durable in the journal.
fn journal(writer: &mut Writer<u8>, account: i64, flags: &Arc<AccountFlags>) {
    gather(writer, usage(account), flags, 0);
    assert!(matches!(writer.next_task(), Some(Task::Commit(_, Target::Journal(_)))));
    writer.committed(Lane::Journal, CommitOutcome::Durable);
}

fn checkpoint_of(task: Option<Task>) -> usize {
    let Some(Task::Checkpoint(checkpoint)) = task else { panic!("no checkpoint: {task:?}") };
    checkpoint.batches.len()
}

#[test]
fn what_is_overdue_is_checkpointed_whatever_comes() {
    let mut writer = Writer::new(1, 1_000_000).with_journal(16, 8);
    let flags = Arc::new(AccountFlags::default());
    journal(&mut writer, 1, &flags);
    writer.overdue();
    gather(&mut writer, usage(1), &flags, 0);
    assert!(matches!(writer.next_task(), Some(Task::Commit(_, Target::Journal(2)))));
    assert_eq!(checkpoint_of(writer.next_task()), 1);
    writer.committed(Lane::Journal, CommitOutcome::Durable);
    writer.checkpointed(Ok(Vec::new()));
    assert!(writer.next_task().is_none(), "it is not overdue any more");
}

#[test]
fn what_is_written_into_the_tables_waits_for_no_more_than_was_before_it() {
    let mut writer = Writer::new(1, 1_000_000).with_journal(16, 8);
    let flags: [Arc<AccountFlags>; 3] = Default::default();
    journal(&mut writer, 1, &flags[0]);
    gather(&mut writer, change(2), &flags[1], 0);
    assert_eq!(checkpoint_of(writer.next_task()), 1);
    (0..4).for_each(|_| journal(&mut writer, 1, &flags[0]));
    gather(&mut writer, change(3), &flags[2], 0);
    (0..4).for_each(|_| journal(&mut writer, 1, &flags[0]));
    writer.checkpointed(Ok(Vec::new()));
    assert!(matches!(writer.next_task(), Some(Task::Commit(_, Target::Tables))));
    writer.committed(Lane::Tables, CommitOutcome::Durable);
    assert_eq!(checkpoint_of(writer.next_task()), 4);
}

#[test]
fn a_checkpoint_is_urgent_where_something_waits_for_it_or_more_than_as_much_again() {
    let mut writer = Writer::new(1, 1_000_000).with_journal(16, 0);
    let flags: [Arc<AccountFlags>; 2] = Default::default();
    let is_urgent = |task| match task {
        Some(Task::Checkpoint(checkpoint)) => checkpoint.is_urgent,
        other => panic!("no checkpoint: {other:?}"),
    };
    (0..16).for_each(|_| journal(&mut writer, 1, &flags[0]));
    assert!(!is_urgent(writer.next_task()));
    (0..16).for_each(|_| journal(&mut writer, 1, &flags[0]));
    gather(&mut writer, change(2), &flags[1], 0);
    writer.checkpointed(Ok(Vec::new()));
    assert!(is_urgent(writer.next_task()));
    writer.checkpointed(Ok(Vec::new()));
    assert!(matches!(writer.next_task(), Some(Task::Commit(_, Target::Tables))));
    // While the tables are busy, more than twice a checkpoint's writes come.
    (0..700).for_each(|_| {
        gather(&mut writer, usage(1), &flags[0], 0);
        assert!(matches!(writer.next_task(), Some(Task::Commit(_, Target::Journal(_)))));
        writer.committed(Lane::Journal, CommitOutcome::Durable);
    });
    writer.committed(Lane::Tables, CommitOutcome::Durable);
    let mut urgent = Vec::new();
    while let Some(task) = writer.next_task() {
        urgent.push(is_urgent(Some(task)));
        writer.checkpointed(Ok(Vec::new()));
    }
    assert!(urgent.len() > 2 && urgent[0] && !urgent.last().unwrap(), "{urgent:?}");
}

#[test]
fn a_checkpoint_waits_until_it_has_several_writes_of_each_account() {
    let accounts: Vec<(i64, Arc<AccountFlags>)> =
        (1..=100).map(|account| (account, Arc::default())).collect();
    let mut writer = Writer::new(1, 1_000_000).with_journal(16, 8);
    // A single account has enough writes as soon as a checkpoint is due.
    for _ in 0..16 {
        assert!(writer.next_task().is_none());
        journal(&mut writer, 1, &accounts[0].1);
    }
    assert_eq!(checkpoint_of(writer.next_task()), 16);
    writer.checkpointed(Ok(Vec::new()));
    // Five accounts take turns until each has eight writes.
    for (account, flags) in accounts[..5].iter().cycle().take(5 * 8) {
        assert!(writer.next_task().is_none());
        journal(&mut writer, *account, flags);
    }
    assert_eq!(checkpoint_of(writer.next_task()), 5 * 8);
    writer.checkpointed(Ok(Vec::new()));
    // A hundred accounts never have that many, so the checkpoint is put off as long as it may be.
    for (account, flags) in accounts.iter().cycle().take(16 * PUT_OFF) {
        assert!(writer.next_task().is_none());
        journal(&mut writer, *account, flags);
    }
    // A write that comes during the checkpoint waits for the next one.
    assert_eq!(checkpoint_of(writer.next_task()), 16 * PUT_OFF);
    journal(&mut writer, 1, &accounts[0].1);
    writer.checkpointed(Ok(Vec::new()));
    assert!(writer.next_task().is_none());
    assert_eq!(writer.backlog(), 1);
    assert!(!accounts[0].1.is_checkpointed() && accounts[1].1.is_checkpointed());
}

/// Makes the next batch of the journal durable, and returns its writes.
fn journaled(writer: &mut Writer<u8>) -> Vec<u8> {
    let task = writer.next_task();
    assert!(matches!(task, Some(Task::Commit(_, Target::Journal(_)))), "{task:?}");
    writer.committed(Lane::Journal, CommitOutcome::Durable);
    writer.take_ended().into_iter().map(|(ticket, _)| ticket).collect()
}

#[test]
fn a_change_of_a_key_waits_for_no_checkpoint() {
    let mut writer = Writer::new(10, 1_000_000).with_journal(1, 0);
    let flags = Arc::new(AccountFlags::default());
    journal(&mut writer, 1, &flags);
    writer.take_ended();
    assert_eq!(checkpoint_of(writer.next_task()), 1);
    // The checkpoint never ends. The write for the tables and the account's next call wait for it.
    // A change of a key overtakes both.
    gather(&mut writer, change(1), &flags, 1);
    gather(&mut writer, usage(1), &flags, 2);
    gather(&mut writer, revocation(1), &flags, 3);
    assert_eq!(journaled(&mut writer), [3]);
    // A revocation does not overtake the making of the same key.
    gather(&mut writer, creation(1), &flags, 4);
    gather(&mut writer, revocation(1), &flags, 5);
    assert!(writer.next_task().is_none());
    gather(&mut writer, revocation_of(1, KeyId(uuid::Uuid::from_u128(2))), &flags, 6);
    assert_eq!(journaled(&mut writer), [6]);
    writer.checkpointed(Ok(Vec::new()));
    // The writes up to the usage came before the change was journaled.
    for expected in [vec![1, 2], vec![4, 5]] {
        let mut task = writer.next_task();
        if matches!(task, Some(Task::Checkpoint(_))) {
            writer.checkpointed(Ok(Vec::new()));
            task = writer.next_task();
        }
        assert!(matches!(task, Some(Task::Commit(_, Target::Tables))), "{task:?}");
        writer.committed(Lane::Tables, CommitOutcome::Durable);
        let ended: Vec<u8> = writer.take_ended().into_iter().map(|(ticket, _)| ticket).collect();
        assert_eq!(ended, expected);
    }
    // No write for the tables is waiting any more.
    gather(&mut writer, revocation(1), &flags, 7);
    assert_eq!(journaled(&mut writer), [7]);
}

#[test]
fn a_full_backlog_takes_a_change_of_a_key_behind_what_its_account_decided() {
    let mut writer = Writer::new(10, 1_000_000).with_journal(1, 0);
    let flags: [Arc<AccountFlags>; 2] = Default::default();
    journal(&mut writer, 1, &flags[0]);
    assert_eq!(checkpoint_of(writer.next_task()), 1);
    (1..64).for_each(|_| journal(&mut writer, 1, &flags[0]));
    writer.take_ended();
    gather(&mut writer, usage(1), &flags[0], 1);
    // A write for the tables, after the writes before it.
    gather(&mut writer, change(3), &Arc::default(), 7);
    gather(&mut writer, usage(2), &flags[1], 2);
    gather(&mut writer, usage(1), &flags[0], 3);
    assert!(writer.next_task().is_none(), "the backlog is full");
    gather(&mut writer, revocation(2), &flags[1], 5);
    gather(&mut writer, usage(2), &flags[1], 6);
    assert_eq!(journaled(&mut writer), [2, 5]);
    assert!(writer.next_task().is_none(), "the backlog is full");
    // The journal takes the rest, and its commit has not ended yet.
    writer.checkpointed(Ok(Vec::new()));
    let mut is_journaling = false;
    while let Some(task) = writer.next_task() {
        match task {
            Task::Checkpoint(_) => writer.checkpointed(Ok(Vec::new())),
            Task::Commit(_, Target::Journal(_)) => is_journaling = true,
            other => panic!("overtaken with what it waits for: {other:?}"),
        }
    }
    assert!(is_journaling && writer.backlog() == 0);
    writer.committed(Lane::Journal, CommitOutcome::Durable);
    assert_eq!(checkpoint_of(writer.next_task()), 1);
    writer.checkpointed(Ok(Vec::new()));
    assert!(matches!(writer.next_task(), Some(Task::Commit(_, Target::Tables))));
    writer.committed(Lane::Tables, CommitOutcome::Durable);
    let ended: Vec<u8> = writer.take_ended().into_iter().map(|(ticket, _)| ticket).collect();
    assert_eq!(ended, [1, 3, 6, 7]);
}

#[test]
fn other_limits_end_a_batch_and_a_checkpoint() {
    let mut writer = Writer::new(10, 1_000_000).with_journal(16, 0);
    let flags = Arc::new(AccountFlags::default());
    // While the first write is committed, the others gather.
    gather(&mut writer, usage(1), &flags, 0);
    assert!(writer.next_task().is_some());
    for (ticket, write) in [(1, usage(1)), (2, limits(1)), (3, usage(1))] {
        gather(&mut writer, write, &flags, ticket);
    }
    writer.committed(Lane::Journal, CommitOutcome::Durable);
    assert_eq!(writer.take_ended().len(), 1);
    assert_eq!(journaled(&mut writer), [1, 2]);
    assert_eq!(journaled(&mut writer), [3]);
    writer.rested();
    for batches in [2, 1] {
        assert_eq!(checkpoint_of(writer.next_task()), batches);
        writer.checkpointed(Ok(Vec::new()));
        writer.rested();
    }
    assert!(writer.is_empty());
}
