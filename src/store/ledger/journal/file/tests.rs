use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

fn lease(epoch: i64) -> Lease {
    Lease { owner: Uuid::from_u128(u128::try_from(epoch).unwrap()), epoch }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.journal.log");
    (folder, path)
}

fn taken(path: &Path, epoch: i64) -> FileJournal {
    let log = FileJournal::open(path).unwrap();
    log.take(lease(epoch)).unwrap();
    log
}

fn numbers(log: &FileJournal) -> Vec<Position> {
    log.read().unwrap().1.into_iter().map(|record| record.at).collect()
}

fn appended(path: &Path, count: i64) -> FileJournal {
    let log = taken(path, 1);
    for number in 1..=count {
        log.append(number, b"writes", lease(1)).unwrap();
    }
    log
}

fn change(path: &Path, place: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, place).unwrap();
}

/// Appends, forgets, takes over and reopens in any order. The file always has the same records as a
/// list, and it grows no more than needed.
#[test]
fn it_has_what_was_appended_and_not_forgotten() {
    for seed in 0..20 {
        let (_folder, path) = folder();
        let mut random = StdRng::seed_from_u64(seed);
        let (mut epoch, mut number) = (1, 0);
        let mut log = taken(&path, epoch);
        let mut model: VecDeque<Record> = VecDeque::new();
        let mut most = 0;
        for _ in 0..400 {
            match random.random_range(0..10) {
                0 => {
                    epoch += random.random_range(1..3);
                    number = 0;
                    if random.random_bool(0.5) {
                        log = FileJournal::open(&path).unwrap();
                    }
                    log.take(lease(epoch)).unwrap();
                }
                1 | 2 if !model.is_empty() => {
                    let count = random.random_range(1..=model.len());
                    let at = model[count - 1].at;
                    model.drain(..count);
                    log.forget(at, lease(epoch)).unwrap();
                }
                _ => {
                    number += 1;
                    let limit = if random.random_bool(0.1) { 60_000 } else { 6_000 };
                    let mut writes = vec![0; random.random_range(0..limit)];
                    random.fill(&mut writes[..]);
                    log.append(number, &writes, lease(epoch)).unwrap();
                    model.push_back(Record { at: (epoch, number), writes });
                }
            }
            let (_, found) = FileJournal::open(&path).unwrap().read().unwrap();
            let places: Vec<Position> = found.iter().map(|record| record.at).collect();
            let expected: Vec<Position> = model.iter().map(|record| record.at).collect();
            assert_eq!(places, expected, "seed {seed}");
            assert!(model == found, "seed {seed}: not what was written");
            most = model.iter().map(|record| record.writes.len()).sum::<usize>().max(most);
        }
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(length < 6 * u64::try_from(most).unwrap(), "{length} bytes for {most}");
    }
}

/// If any part of the last record is missing on the disk, that record does not count, and all
/// before it do.
#[test]
fn a_record_that_is_not_whole_does_not_count() {
    let (_folder, path) = folder();
    let log = appended(&path, 2);
    let writes: Vec<u8> = (0..9_000_u32).map(|number| number.to_le_bytes()[0] | 1).collect();
    log.append(3, &writes, lease(1)).unwrap();
    // The record did not fit into the first segment.
    let begin = HEADS + u64::from(SEGMENT);
    let whole = std::fs::read(&path).unwrap();
    for sector in (begin..begin + 9_000).step_by(512) {
        change(&path, sector, &[0; 512]);
        assert_eq!(numbers(&log), [(1, 1), (1, 2)], "{sector}");
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(numbers(&log).len(), 3);
    }
    // The next record follows the last complete one.
    change(&path, begin, &[0; 512]);
    let next = taken(&path, 2);
    next.append(1, b"next", lease(2)).unwrap();
    assert_eq!(numbers(&next), [(1, 1), (1, 2), (2, 1)]);
}

#[test]
fn a_record_that_is_missing_before_others_stops_everyone() {
    let (_folder, path) = folder();
    let log = appended(&path, 3);
    change(&path, HEADS + wide(BLOCK) + 20, &[0xff; 8]);
    // First records in the same segment, then in the next one.
    for number in 4..=6 {
        let error = log.read().unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("record 2 of the journal is missing or damaged"), "{error}");
        log.append(number, b"writes", lease(1)).unwrap();
    }
    let next = FileJournal::open(&path).unwrap();
    assert!(next.take(lease(2)).is_err());
}

/// If a record followed a large one in its last segment, the large one's first segments would be
/// free too early.
#[test]
fn behind_a_large_record_nothing_is_lost() {
    let (_folder, path) = folder();
    let log = taken(&path, 1);
    log.append(1, &vec![1; 60_000], lease(1)).unwrap();
    log.append(2, b"two", lease(1)).unwrap();
    log.forget((1, 1), lease(1)).unwrap();
    for number in 3..=9 {
        log.append(number, b"writes", lease(1)).unwrap();
        let expected: Vec<Position> = (2..=number).map(|number| (1, number)).collect();
        assert_eq!(numbers(&log), expected);
    }
}

/// A failed record is written again in its place, and counts once.
#[test]
fn a_write_that_failed_does_not_count() {
    let (_folder, path) = folder();
    let log = appended(&path, 1);
    let broken = || {
        let mut state = log.state();
        state.as_mut().unwrap().file = Arc::new(File::open(&path).unwrap());
    };
    broken();
    let failed = log.append(2, b"two", lease(1));
    assert!(matches!(failed, Err(CommitError::Unknown(_))), "{failed:?}");
    assert!(!log.contains((1, 2), lease(1)).unwrap());
    log.append(2, b"two", lease(1)).unwrap();
    assert!(log.contains((1, 2), lease(1)).unwrap());
    // The write reached the disk, and the sync failed.
    {
        let mut state = log.state();
        let state = state.as_mut().unwrap();
        state.failed = Some(HEADS + wide(BLOCK));
        state.next = 2;
        state.kept.pop_back();
        state.room = Some((HEADS + wide(BLOCK), HEADS + u64::from(SEGMENT)));
    }
    assert_eq!(numbers(&log), [(1, 1), (1, 2)]);
    assert!(!log.contains((1, 2), lease(1)).unwrap());
    assert_eq!(numbers(&log), [(1, 1)]);
    // No call of `contains` comes in between.
    broken();
    assert!(log.append(2, b"lost", lease(1)).is_err());
    log.append(3, b"three", lease(1)).unwrap();
    assert_eq!(numbers(&log), [(1, 1), (1, 3)]);
    log.close();
    assert!(log.append(4, b"four", lease(1)).is_err());
    assert!(log.read().is_err());
}

#[test]
fn of_two_heads_the_last_whole_one_counts() {
    let (_folder, path) = folder();
    let log = appended(&path, 2);
    log.forget((1, 1), lease(1)).unwrap();
    // The head that forgets is in the first block, and the head before it is in the second. No
    // record is overwritten yet.
    let whole = std::fs::read(&path).unwrap();
    change(&path, 20, &[0xff; 4]);
    assert_eq!(numbers(&log), [(1, 1), (1, 2)]);
    change(&path, wide(BLOCK) + 20, &[0xff; 4]);
    assert!(log.read().is_err());
    assert!(matches!(FileJournal::open(&path), Err(StoreError::Unsafe(_))));
    std::fs::write(&path, whole).unwrap();
    assert_eq!(numbers(&log), [(1, 2)]);
}

#[test]
fn who_was_overtaken_appends_nothing() {
    let (_folder, path) = folder();
    let one = appended(&path, 1);
    let two = taken(&path, 2);
    assert!(matches!(one.append(2, b"late", lease(1)), Err(CommitError::Fenced)));
    assert!(matches!(one.forget((1, 1), lease(1)), Err(CommitError::Fenced)));
    assert!(matches!(one.seal(lease(1)), Err(CommitError::Fenced)));
    assert!(matches!(one.take(lease(2)), Err(CommitError::Fenced)));
    assert!(matches!(one.take(lease(1)), Err(CommitError::Fenced)));
    assert!(one.contains((1, 1), lease(1)).unwrap());
    assert_eq!(two.read().unwrap().0, 2);
    two.append(1, b"one", lease(2)).unwrap();
    assert_eq!(numbers(&two), [(1, 1), (2, 1)]);
}

/// A customer who knows the format cannot make bytes count as a record.
#[test]
fn a_record_of_another_file_does_not_count() {
    let (_folder, path) = folder();
    let (_other_folder, other) = folder();
    drop(appended(&path, 1));
    drop(appended(&other, 2));
    let foreign = std::fs::read(&other).unwrap();
    let place = usize::try_from(HEADS).unwrap() + BLOCK;
    change(&path, wide(place), &foreign[place..place + BLOCK]);
    let log = FileJournal::open(&path).unwrap();
    assert_eq!(numbers(&log), [(1, 1)]);
}

#[test]
fn who_finds_it_locked_waits_and_then_appends() {
    let (_folder, path) = folder();
    let log = appended(&path, 1);
    let other = File::open(&path).unwrap();
    other.lock().unwrap();
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| log.append(2, b"two", lease(1)));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!appending.is_finished());
        other.unlock().unwrap();
        appending.join().unwrap().unwrap();
    });
}

#[test]
fn a_file_that_is_none_of_ours_is_left_alone() {
    let (_folder, path) = folder();
    std::fs::write(&path, "something else").unwrap();
    let error = FileJournal::open(&path).unwrap_err().to_string();
    assert!(error.contains("does not begin as a journal"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"something else");
    std::fs::write(&path, "").unwrap();
    let log = taken(&path, 3);
    log.append(1, b"one", lease(3)).unwrap();
    let newer =
        Head { format: FORMAT + 1, generation: 9, ..log.state().as_ref().unwrap().head.clone() };
    change(&path, 0, &head_block(&newer).unwrap());
    let error = FileJournal::open(&path).unwrap_err().to_string();
    assert!(error.contains("format 2, and this server knows 1"), "{error}");
}
