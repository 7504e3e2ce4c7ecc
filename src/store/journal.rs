//! The journal: batches of paid calls as one record each, and how they get from there into the tables.
//!
//! A record is written and acknowledged first, since rows of their own for each call would cost each caller a page of
//! several tables. A checkpoint writes what many such records say into the tables and moves the mark, which tells how far the
//! journal is checkpointed, in one transaction; only then are the records deleted. So whatever happens every call counts once:
//! by the journal above the mark, or by the tables. Whoever takes the accounts over checkpoints what its predecessor left
//! before it does anything else.
//!
//! For PostgreSQL the journal is a table beside the others, for SQLite a file beside the database (`journal_log.rs`), with
//! a lease of its own: a takeover raises the lease of the tables first, then that of the journal, then reads the journal.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, EntityTrait as _};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::batch::{PIECE_PAUSE, commit, write_rows};
use super::error::{CommitError, StoreError};
use super::lease::is_held;
use super::options;
use super::sql::{begin_write, count, execute, is_postgres, query};
use super::{Journal, Store, holds, outbox, rollups};
use domain::hold::HoldEndKind;
use domain::writer::{Checkpoint, Lane};
use domain::{
    AccountId, Batch, ChargeId, Credits, Day, Ending, EntryKind, Hold, HoldChange, HoldEnd, KeyId,
    KeySpend, Lease, LedgerEntry, Link, Month, Tally, Timestamp, UsageRecord,
};

use entity::account;

/// How the bytes of a record begin.
const FORMAT: u8 = 2;
/// Rows that are read at once.
const PAGE: usize = 64;
/// Of what an earlier process left, pages are checkpointed together until they have so many rows.
const LEFT_AT_ONCE: usize = if cfg!(test) { 100 } else { 16_384 };
/// Deletes what earlier processes left, when it is checkpointed.
const FORGET: &str = "DELETE FROM journal WHERE epoch < $1 OR (epoch = $1 AND number <= $2)";

/// Where a batch lies in the journal: the epoch of who wrote it, and its number of that process.
pub(super) type At = (i64, i64);

/// A batch in the journal.
struct JournalRow {
    at: At,
    batch: Batch,
}

/// The file of the journal of a SQLite database: `x.journal.log` beside `x.db`. No two databases have the same.
pub(super) fn sqlite_file(url: &str) -> PathBuf {
    let file = options::sqlite_file(url);
    if file.extension().is_some_and(|extension| extension == "db") {
        return file.with_extension("journal.log");
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push("-journal.log");
    file.with_file_name(name)
}

/// Had whoever opened the SQLite database before a journal?
pub(super) async fn is_migrated(tables: &DatabaseConnection) -> Result<bool, StoreError> {
    let sql = "SELECT COUNT(*) FROM sqlite_master WHERE name = $1";
    Ok(count(tables, sql, ["journal_mark".into()]).await? > 0)
}

/// Refuses to go on where the file of the journal is gone that the last process left with calls in it.
pub(super) async fn assert_there(tables: &DatabaseConnection, url: &str) -> Result<(), StoreError> {
    let file = sqlite_file(url);
    // A process that stops in good order checkpoints the journal first, and then gives the lease back.
    let sql = "SELECT COUNT(*) FROM shard_lease WHERE owner IS NOT NULL AND shard = $1";
    if file.is_file() || count(tables, sql, [0_i64.into()]).await? == 0 {
        return Ok(());
    }
    Err(StoreError::Unsafe(format!(
        "the journal {} is missing, and the last server did not stop in good order: calls may be in it that were \
         acknowledged and charged. Put it back beside the database; if it is lost for good, put an empty file in its place",
        file.display()
    )))
}

impl Store {
    /// Writes a batch of paid calls as one record, where the lease still holds. `Ok` means durable.
    ///
    /// # Errors
    /// [`CommitError`]
    pub async fn journal(
        &self,
        number: i64,
        batch: &Batch,
        lease: Lease,
    ) -> Result<(), CommitError> {
        // The lock on the lease's row keeps a takeover out until this is committed; one that was first is seen.
        const SQL: &str = "WITH held AS MATERIALIZED (
                SELECT 1 FROM shard_lease WHERE shard = 0 AND owner = $1 AND epoch = $2 FOR SHARE
            )
            INSERT INTO journal (epoch, number, writes) SELECT $2, $3, $4 FROM held";
        failpoint!("journal-before");
        let writes = encode(batch)?;
        match &self.journal {
            Journal::Log(log) => log.append(number, &writes, lease),
            Journal::Table(connection) => {
                let values = [lease.owner.into(), lease.epoch.into(), number.into(), writes.into()];
                let writing = connection.execute(SQL, values);
                failpoint!("journal-sent");
                match writing.await? {
                    0 => Err(CommitError::Fenced),
                    _ => Ok(()),
                }
            }
        }
    }

    /// The last epoch in which the journal of SQLite was taken over: higher than that of the tables where those are
    /// of an older backup.
    pub(super) fn journal_epoch(&self) -> Result<i64, StoreError> {
        let Journal::Log(log) = &self.journal else { return Ok(0) };
        // Whoever has the journal still knows what is in it; where it cannot be read, that one must go on.
        let (epoch, _) = log.read()?;
        Ok(epoch)
    }

    /// Takes the journal over, after the tables.
    pub(crate) fn take_journal(&self, lease: Lease) -> Result<(), StoreError> {
        failpoint!("takeover-journal");
        if let Journal::Log(log) = &self.journal {
            // Somebody who took the tables over after this process may have been here before it.
            log.take(lease)?;
        }
        Ok(())
    }

    /// Checkpoints batches of the journal into the tables. Accounts whose entries the tables refuse are answered; what they
    /// refused is kept apart.
    ///
    /// # Errors
    /// [`CommitError`]
    pub async fn checkpoint(
        &self,
        checkpoint: &Checkpoint,
        lease: Lease,
    ) -> Result<Vec<AccountId>, CommitError> {
        let last = (lease.epoch, checkpoint.last);
        let pause = if checkpoint.is_urgent { Duration::ZERO } else { PIECE_PAUSE };
        self.checkpoint_on(&self.tables.pool(), last, &checkpoint.batch(), pause, lease).await
    }

    /// Deletes from the journal what is checkpointed: batches of the process with numbers in this range. Says whether it did.
    /// What cannot be deleted now is below the mark, and can be deleted later.
    ///
    /// Never what lies before the range: PostgreSQL would go through everything that was deleted since it last tidied up.
    pub async fn forget_checkpointed(&self, numbers: RangeInclusive<i64>, lease: Lease) -> bool {
        let deleted = match &self.journal {
            Journal::Log(log) => log.forget((lease.epoch, *numbers.end()), lease),
            Journal::Table(_) => {
                let sql = "DELETE FROM journal WHERE epoch = $1 AND number >= $2 AND number <= $3";
                let values =
                    [lease.epoch.into(), (*numbers.start()).into(), (*numbers.end()).into()];
                execute(&self.tables.pool(), sql, values).await.map(drop).map_err(Into::into)
            }
        };
        forgotten(&deleted)
    }

    /// How many batches are deleted at once: a statement that deletes many keeps those that checkpoint waiting. SQLite's journal
    /// notes up to where it may be written over, however many those are.
    #[must_use]
    pub fn forget_max(&self) -> i64 {
        match &self.journal {
            Journal::Log(_) => i64::MAX,
            Journal::Table(_) => 256,
        }
    }

    /// Is a batch in the journal? What was appended to SQLite's, and failed, is not from then on.
    pub(super) async fn is_journaled(&self, number: i64, lease: Lease) -> Result<bool, StoreError> {
        let connection = match &self.journal {
            Journal::Log(log) => return Ok(log.is_there((lease.epoch, number), lease)?),
            Journal::Table(connection) => connection.committed().await,
        };
        let sql = "SELECT COUNT(*) FROM journal WHERE epoch = $1 AND number = $2";
        Ok(count(&*connection, sql, [lease.epoch.into(), number.into()]).await? > 0)
    }

    /// Which accounts' entries have the tables refused, if the journal of this process is checkpointed up to this number?
    /// Asked after a checkpoint of unknown outcome.
    ///
    /// # Errors
    /// [`StoreError`] where the database still does not answer.
    pub async fn checkpointed_up_to(
        &self,
        last: i64,
        lease: Lease,
    ) -> Result<Option<Vec<AccountId>>, StoreError> {
        self.wait_for_other_sessions(Lane::Tables).await?;
        let lent = self.tables.committed().await;
        let tables: &DatabaseConnection = &lent;
        if mark(tables).await? < (lease.epoch, last) {
            return Ok(None);
        }
        let sql = "SELECT account_id FROM journal_refused WHERE epoch = $1 AND number = $2";
        let rows = query(tables, sql, [lease.epoch.into(), last.into()]).await?;
        let account = |row: &sea_orm::QueryResult| Ok(AccountId(row.try_get_by_index(0)?));
        rows.iter().map(account).collect::<Result<_, StoreError>>().map(Some)
    }

    /// What the journal says that the tables do not yet: how many entries, and which accounts' entries do not follow
    /// their ledgers.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn audited_journal(&self) -> Result<(u64, Vec<(AccountId, String)>), StoreError> {
        // The journal first: what is checkpointed meanwhile is below the mark that is read then, and nothing is missed.
        let rows = self.journal_rows().await?.all().await?;
        let snapshot = self.snapshot().await?;
        let mark = mark(&snapshot).await?;
        let (mut ends, mut found) = (BTreeMap::<AccountId, End>::new(), Vec::new());
        let mut entries: u64 = 0;
        let refused = "SELECT DISTINCT account_id FROM journal_refused ORDER BY account_id";
        for row in query(&snapshot, refused, []).await? {
            let account = AccountId(row.try_get_by_index(0)?);
            found.push((account, "the tables refuse its entries of the journal".to_owned()));
        }
        for entry in rows.iter().filter(|row| row.at > mark).flat_map(|row| &row.batch.entries) {
            entries = entries.saturating_add(1);
            let end = match ends.entry(entry.account) {
                Entry::Occupied(end) => end.into_mut(),
                Entry::Vacant(none) => none.insert(end_of(&snapshot, entry.account).await?),
            };
            if !end.is_followed_by(entry) {
                let what = format!("entry {} in the journal does not follow", entry.seq);
                found.push((entry.account, what));
                *end = End { seq: entry.seq, balance: entry.balance_after, link: entry.link };
            }
        }
        snapshot.rollback().await?;
        Ok((entries, found))
    }

    /// Checkpoints what earlier processes left. Whoever holds the lease calls it before anything else.
    pub(super) async fn checkpoint_left(&self, lease: Lease) -> Result<(), StoreError> {
        failpoint!("checkpoint-left");
        self.checkpoint_refused(lease).await?;
        let journal = self.journal_rows().await?;
        let mut after = mark(&self.write).await?;
        loop {
            let mut rows: Vec<JournalRow> = Vec::new();
            let mut count: usize = 0;
            while count < LEFT_AT_ONCE {
                let page = journal.after(rows.last().map_or(after, |row| row.at)).await?;
                let is_last = page.len() < PAGE;
                count = page.iter().map(|row| row.batch.rows()).fold(count, usize::saturating_add);
                rows.extend(page);
                if is_last {
                    break;
                }
            }
            let Some(first) = rows.first() else { break };
            // A batch's holds are of the epoch in which it was written.
            let of_epoch: Vec<&JournalRow> =
                rows.iter().take_while(|row| row.at.0 == first.at.0).collect();
            let last = of_epoch.last().map_or(first.at, |row| row.at);
            let batch = Batch::checkpointed(of_epoch.iter().map(|row| &row.batch));
            let pause = Duration::ZERO;
            report_refused(
                self.checkpoint_on(&self.write, last, &batch, pause, lease).await?.iter(),
            );
            after = last;
        }
        forgotten(&match &self.journal {
            Journal::Log(log) => log.forget(after, lease),
            Journal::Table(_) => {
                let values = [after.0.into(), after.1.into()];
                execute(&self.write, FORGET, values).await.map(drop).map_err(Into::into)
            }
        });
        Ok(())
    }

    /// Which batches are in the journal, by epoch and number: also those that are checkpointed, and not deleted yet.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn journaled(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        let rows = self.journal_rows().await?.all().await?;
        Ok(rows.iter().map(|row| row.at).collect())
    }

    /// What is in the journal.
    async fn journal_rows(&self) -> Result<Rows<'_>, StoreError> {
        let Journal::Log(log) = &self.journal else { return Ok(Rows::OfTable(&self.write)) };
        let mut rows = Vec::new();
        rows.extend(log.read()?.1.into_iter().map(|record| (record.at, record.writes)));
        rows.sort_by_key(|(at, _)| *at);
        Ok(Rows::Read(rows))
    }

    /// How many writes of each account, on average, a checkpoint is put off for. Each account in it costs SQLite pages of its own;
    /// PostgreSQL takes several times as long for a row, and whatever waits for the checkpoint would wait for too long.
    #[must_use]
    pub fn account_writes(&self) -> usize {
        if is_postgres(&self.write) { 0 } else { 8 }
    }

    /// How long to wait for more writes before the next commit into the journal, where several come. About as long as the
    /// commit takes on SQLite; on PostgreSQL commits take long enough by themselves.
    #[must_use]
    pub fn gather_pause(&self) -> Duration {
        if is_postgres(&self.write) { Duration::ZERO } else { Duration::from_micros(100) }
    }

    async fn checkpoint_on(
        &self,
        connection: &DatabaseConnection,
        last: At,
        batch: &Batch,
        pause: Duration,
        lease: Lease,
    ) -> Result<Vec<AccountId>, CommitError> {
        match self.checkpoint_all(connection, last, batch, &[], pause, lease).await {
            Ok(()) => Ok(Vec::new()),
            Err(CommitError::Refused(reason)) => {
                tracing::warn!(
                    reason,
                    "the tables refuse a checkpoint; trying each account by itself"
                );
                let accounts: Vec<AccountId> = batch.account_ids().into_iter().collect();
                let mut refused = Vec::new();
                let mut parts: Vec<&[AccountId]> = vec![&accounts];
                while let Some(part) = parts.pop() {
                    // The whole is known to be refused. Halves: nearly all of them are taken.
                    let is_whole = part.len() == accounts.len() && part.len() > 1;
                    if !is_whole
                        && !is_refused(
                            connection,
                            last.0,
                            &batch.part_of(&part.iter().copied().collect()),
                            lease,
                        )
                        .await?
                    {
                        continue;
                    }
                    match part {
                        [account] => refused.push(*account),
                        _ => parts.extend(<[_; 2]>::from(part.split_at(part.len() / 2))),
                    }
                }
                self.checkpoint_all(connection, last, batch, &refused, pause, lease).await?;
                Ok(refused)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes all but what is refused into the tables, keeps that apart, and moves the mark.
    async fn checkpoint_all(
        &self,
        connection: &DatabaseConnection,
        last: At,
        batch: &Batch,
        refused: &[AccountId],
        pause: Duration,
        lease: Lease,
    ) -> Result<(), CommitError> {
        failpoint!("checkpoint-before-begin");
        let (epoch, number) = last;
        let mut unfolded = self.unfolded.hold().await;
        let before = unfolded.take();
        let transaction = begin(connection, batch, lease).await?;
        let taken = if refused.is_empty() {
            Cow::Borrowed(batch)
        } else {
            let mut taken = batch.account_ids();
            taken.retain(|account| !refused.contains(account));
            Cow::Owned(batch.part_of(&taken))
        };
        write(&transaction, epoch, &taken, pause).await?;
        let is_told = outbox::write_batch(&self.outbox, &transaction, &taken).await?;
        for account in refused {
            let sql = "INSERT INTO journal_refused (epoch, number, account_id, writes)
                VALUES ($1, $2, $3, $4)";
            let writes = encode(&batch.part_of(&BTreeSet::from([*account])))?;
            let values = [epoch.into(), number.into(), account.0.into(), writes.into()];
            execute(&transaction, sql, values).await?;
        }
        failpoint!("checkpoint-rows-written");
        let sql = "UPDATE journal_mark SET epoch = $1, number = $2
            WHERE epoch < $1 OR (epoch = $1 AND number < $2)";
        if execute(&transaction, sql, [epoch.into(), number.into()]).await? == 0 {
            // Someone else has checkpointed them; what would be written now would be written twice.
            return Err(CommitError::Fenced);
        }
        failpoint!("checkpoint-marked");
        let after = rollups::take_in(&transaction, before, &taken.usage).await?;
        commit(transaction).await?;
        *unfolded = Some(after);
        failpoint!("checkpoint-committed");
        self.outbox.ring(is_told);
        Ok(())
    }

    /// Tries again what was refused before: a person may have mended what stood in its way.
    async fn checkpoint_refused(&self, lease: Lease) -> Result<(), StoreError> {
        let mut after = (i64::MIN, 0, 0);
        loop {
            let sql = "SELECT epoch, number, account_id, writes FROM journal_refused
                WHERE (epoch, number, account_id) > ($1, $2, $3)
                ORDER BY epoch, number, account_id LIMIT 1";
            let values = [after.0.into(), after.1.into(), after.2.into()];
            let rows = query(&self.write, sql, values).await?;
            let Some(row) = rows.first() else { return Ok(()) };
            after = (row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?);
            let (epoch, number, account) = after;
            let batch = decoded((epoch, number), &row.try_get_by_index::<Vec<u8>>(3)?)?;
            let checkpointed = async {
                // What it comes to is looked up afterwards.
                self.unfolded.hold().await.take();
                let transaction = begin(&self.write, &batch, lease).await?;
                write(&transaction, epoch, &batch, Duration::ZERO).await?;
                outbox::write_batch(&self.outbox, &transaction, &batch).await?;
                let sql = "DELETE FROM journal_refused
                    WHERE epoch = $1 AND number = $2 AND account_id = $3";
                let values = [epoch.into(), number.into(), account.into()];
                execute(&transaction, sql, values).await?;
                commit(transaction).await
            };
            match checkpointed.await {
                Ok(()) | Err(CommitError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Tells whoever watches which accounts' entries the tables have refused.
pub fn report_refused<'a>(accounts: impl Iterator<Item = &'a AccountId>) {
    for account in accounts {
        tracing::error!(
            alert = "account_quarantined", %account,
            "the tables refuse entries of the journal; `polysystems verify` tells more"
        );
    }
}

/// How an account's ledger ends.
struct End {
    seq: i64,
    balance: Credits,
    link: Link,
}

impl End {
    /// Does the entry follow? If so, it is the end.
    fn is_followed_by(&mut self, entry: &LedgerEntry) -> bool {
        let follows = entry.seq == self.seq.saturating_add(1)
            && self.balance.checked_add(entry.amount) == Some(entry.balance_after)
            && self.link.next(entry) == entry.link;
        if follows {
            *self = End { seq: entry.seq, balance: entry.balance_after, link: entry.link };
        }
        follows
    }
}

async fn end_of(connection: &impl ConnectionTrait, id: AccountId) -> Result<End, StoreError> {
    let row = account::Entity::find_by_id(id.0).one(connection).await?;
    let none = End { seq: 0, balance: Credits::ZERO, link: Link::START };
    Ok(row.map_or(none, |row| End {
        seq: row.seq,
        balance: Credits::from_nanos(row.balance),
        link: Link::from_slice(&row.link).unwrap_or_default(),
    }))
}

/// Writes what calls leave, where `epoch` is that of who journaled it.
async fn write(
    transaction: &DatabaseTransaction,
    epoch: i64,
    batch: &Batch,
    pause: Duration,
) -> Result<(), CommitError> {
    if !(batch.entries.is_empty() && batch.spends.is_empty() && batch.usage.is_empty()) {
        write_rows(transaction, batch, pause).await?;
    }
    if !batch.holds.is_empty() {
        holds::write(transaction, batch, epoch).await?;
    }
    Ok(())
}

async fn begin(
    connection: &DatabaseConnection,
    batch: &Batch,
    lease: Lease,
) -> Result<DatabaseTransaction, CommitError> {
    let transaction = begin_write(connection).await.map_err(CommitError::Unknown)?;
    if is_held(&transaction, lease, &batch.shards()).await? {
        Ok(transaction)
    } else {
        Err(CommitError::Fenced)
    }
}

/// Do the tables refuse this? Writes nothing.
async fn is_refused(
    connection: &DatabaseConnection,
    epoch: i64,
    batch: &Batch,
    lease: Lease,
) -> Result<bool, CommitError> {
    let transaction = begin(connection, batch, lease).await?;
    let written = write(&transaction, epoch, batch, Duration::ZERO).await;
    transaction.rollback().await?;
    match written {
        Ok(()) => Ok(false),
        Err(CommitError::Refused(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

fn forgotten(deleted: &Result<(), CommitError>) -> bool {
    if let Err(error) = deleted {
        tracing::warn!(%error, "what is checkpointed was not deleted from the journal");
    }
    failpoint!("checkpoint-deleted");
    deleted.is_ok()
}

/// How far the journal is checkpointed.
async fn mark(tables: &impl ConnectionTrait) -> Result<At, StoreError> {
    let rows = query(tables, "SELECT epoch, number FROM journal_mark", []).await?;
    let row = rows.first();
    let row = row.ok_or_else(|| StoreError::Corrupt("the journal has no mark".into()))?;
    Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?))
}

/// What is in the journal, page by page.
enum Rows<'c> {
    OfTable(&'c DatabaseConnection),
    /// In their order.
    Read(Vec<(At, Vec<u8>)>),
}

impl Rows<'_> {
    /// Every batch.
    async fn all(&self) -> Result<Vec<JournalRow>, StoreError> {
        let (mut rows, mut after) = (Vec::new(), (i64::MIN, 0));
        loop {
            let page = self.after(after).await?;
            let Some(last) = page.last() else { return Ok(rows) };
            after = last.at;
            rows.extend(page);
        }
    }

    /// The next batches after this one: fewer than [`PAGE`] where there are no more.
    async fn after(&self, after: At) -> Result<Vec<JournalRow>, StoreError> {
        match self {
            Rows::OfTable(connection) => {
                let sql = format!(
                    "SELECT epoch, number, writes FROM journal WHERE (epoch, number) > ($1, $2)
                    ORDER BY epoch, number LIMIT {PAGE}"
                );
                let rows = query(*connection, &sql, [after.0.into(), after.1.into()]).await?;
                let row = |row: &sea_orm::QueryResult| {
                    let at = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
                    let batch = decoded(at, &row.try_get_by_index::<Vec<u8>>(2)?)?;
                    Ok(JournalRow { at, batch })
                };
                rows.iter().map(row).collect()
            }
            Rows::Read(rows) => {
                let first = rows.partition_point(|(at, _)| *at <= after);
                let row = |(at, writes): &(At, Vec<u8>)| {
                    Ok(JournalRow { at: *at, batch: decoded(*at, writes)? })
                };
                rows.iter().skip(first).take(PAGE).map(row).collect()
            }
        }
    }
}

fn decoded((epoch, number): At, writes: &[u8]) -> Result<Batch, StoreError> {
    decode(writes).ok_or_else(|| {
        StoreError::Corrupt(format!(
            "batch {number} of epoch {epoch} in the journal is not readable"
        ))
    })
}

/// What a row says. The order and the types of the fields are the format, fixed for ever as [`FORMAT`].
#[derive(Serialize, Deserialize)]
struct Written<'t> {
    entries: Vec<WrittenEntry>,
    spends: Vec<WrittenSpend>,
    #[serde(borrow)]
    usage: Vec<WrittenUsage<'t>>,
    holds: Vec<WrittenHold>,
}

/// What follows it: the models of the usage records, in their order.
#[derive(Serialize, Deserialize)]
struct WrittenModels<'t>(#[serde(borrow)] Vec<&'t str>);

#[derive(Serialize, Deserialize)]
enum WrittenHold {
    Opened(WrittenOpen),
    Extended(WrittenOpen),
    Ended { id: [u8; 16], account: i64, kind: i16, held: i64, captured: i64, at: i64 },
}

#[derive(Serialize, Deserialize)]
struct WrittenOpen {
    id: [u8; 16],
    account: i64,
    key: [u8; 16],
    day: i32,
    month: i32,
    amount: i64,
    earned: i64,
    opened_at: i64,
    expires_at: i64,
}

#[derive(Serialize, Deserialize)]
struct WrittenEntry {
    account: i64,
    seq: i64,
    epoch: i64,
    kind: i16,
    amount: i64,
    balance_after: i64,
    reference: [u8; 16],
    key: Option<[u8; 16]>,
    day: i32,
    month: i32,
    at: i64,
    link: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct WrittenSpend {
    key: [u8; 16],
    day: i32,
    day_spent: i64,
    month: i32,
    month_spent: i64,
    last_used_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct WrittenUsage<'t> {
    id: [u8; 16],
    account: i64,
    seq: Option<i64>,
    key: [u8; 16],
    method: &'t str,
    route: &'t str,
    upstream: &'t str,
    status: u16,
    cost: i64,
    prompt_tokens: u64,
    completion_tokens: u64,
    ending: i16,
    tally: i16,
    started_at: i64,
    latency_micros: i64,
}

fn encode(batch: &Batch) -> Result<Vec<u8>, CommitError> {
    let entry = |entry: &LedgerEntry| WrittenEntry {
        account: entry.account.0,
        seq: entry.seq,
        epoch: entry.epoch,
        kind: entry.kind.code(),
        amount: entry.amount.nanos(),
        balance_after: entry.balance_after.nanos(),
        reference: entry.reference.into_bytes(),
        key: entry.key.map(|key| key.0.into_bytes()),
        day: entry.day.0,
        month: entry.month.0,
        at: entry.at.micros(),
        link: entry.link.0,
    };
    let spend = |spend: &KeySpend| WrittenSpend {
        key: spend.key.0.into_bytes(),
        day: spend.day.0,
        day_spent: spend.day_spent.nanos(),
        month: spend.month.0,
        month_spent: spend.month_spent.nanos(),
        last_used_at: spend.last_used_at.map(Timestamp::micros),
    };
    let written = Written {
        entries: batch.entries.iter().map(entry).collect(),
        spends: batch.spends.values().map(spend).collect(),
        usage: batch.usage.iter().map(written_usage).collect(),
        holds: batch.holds.iter().map(written_hold).collect(),
    };
    let models = WrittenModels(batch.usage.iter().map(|usage| &*usage.model).collect());
    let bytes = vec![FORMAT];
    let bytes = postcard::to_extend(&written, bytes);
    let bytes = bytes.and_then(|bytes| postcard::to_extend(&models, bytes));
    bytes.map_err(|error| CommitError::Refused(error.to_string()))
}

fn written_usage(usage: &UsageRecord) -> WrittenUsage<'_> {
    WrittenUsage {
        id: usage.id.0.into_bytes(),
        account: usage.account.0,
        seq: usage.seq,
        key: usage.key.0.into_bytes(),
        method: &usage.method,
        route: &usage.route,
        upstream: &usage.upstream,
        status: usage.status,
        cost: usage.cost.nanos(),
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        ending: usage.ending.code(),
        tally: usage.tally.code(),
        started_at: usage.started_at.micros(),
        latency_micros: usage.latency_micros,
    }
}

fn written_hold(change: &HoldChange) -> WrittenHold {
    let open = |hold: &Hold| WrittenOpen {
        id: hold.id.0.into_bytes(),
        account: hold.account.0,
        key: hold.key.0.into_bytes(),
        day: hold.day.0,
        month: hold.month.0,
        amount: hold.amount.nanos(),
        earned: hold.earned.nanos(),
        opened_at: hold.opened_at.micros(),
        expires_at: hold.expires_at.micros(),
    };
    match change {
        HoldChange::Opened(hold) => WrittenHold::Opened(open(hold)),
        HoldChange::Extended(hold) => WrittenHold::Extended(open(hold)),
        HoldChange::Ended(end) => WrittenHold::Ended {
            id: end.id.0.into_bytes(),
            account: end.account.0,
            kind: end.kind.code(),
            held: end.held.nanos(),
            captured: end.captured.nanos(),
            at: end.at.micros(),
        },
    }
}

fn read_hold(written: WrittenHold) -> Option<HoldChange> {
    let id = |bytes| ChargeId(Uuid::from_bytes(bytes));
    let open = |open: WrittenOpen| Hold {
        id: id(open.id),
        account: AccountId(open.account),
        key: KeyId(Uuid::from_bytes(open.key)),
        day: Day(open.day),
        month: Month(open.month),
        amount: Credits::from_nanos(open.amount),
        earned: Credits::from_nanos(open.earned),
        opened_at: Timestamp::from_micros(open.opened_at),
        expires_at: Timestamp::from_micros(open.expires_at),
    };
    Some(match written {
        WrittenHold::Opened(hold) => HoldChange::Opened(open(hold)),
        WrittenHold::Extended(hold) => HoldChange::Extended(open(hold)),
        WrittenHold::Ended { id: bytes, account, kind, held, captured, at } => {
            HoldChange::Ended(HoldEnd {
                id: id(bytes),
                account: AccountId(account),
                kind: HoldEndKind::from_code(kind)?,
                held: Credits::from_nanos(held),
                captured: Credits::from_nanos(captured),
                at: Timestamp::from_micros(at),
            })
        }
    })
}

fn decode(bytes: &[u8]) -> Option<Batch> {
    let (format, bytes) = bytes.split_first()?;
    let (written, rest): (Written<'_>, _) = postcard::take_from_bytes(bytes).ok()?;
    let models = postcard::from_bytes::<WrittenModels<'_>>(rest).ok()?.0;
    if *format != FORMAT || models.len() != written.usage.len() {
        return None;
    }
    let key = |bytes| KeyId(Uuid::from_bytes(bytes));
    let entry = |entry: WrittenEntry| {
        Some(LedgerEntry {
            account: AccountId(entry.account),
            seq: entry.seq,
            epoch: entry.epoch,
            kind: EntryKind::from_code(entry.kind)?,
            amount: Credits::from_nanos(entry.amount),
            balance_after: Credits::from_nanos(entry.balance_after),
            reference: Uuid::from_bytes(entry.reference),
            key: entry.key.map(key),
            day: Day(entry.day),
            month: Month(entry.month),
            at: Timestamp::from_micros(entry.at),
            link: Link(entry.link),
        })
    };
    let spend = |spend: WrittenSpend| {
        let spend = KeySpend {
            key: key(spend.key),
            day: Day(spend.day),
            day_spent: Credits::from_nanos(spend.day_spent),
            month: Month(spend.month),
            month_spent: Credits::from_nanos(spend.month_spent),
            last_used_at: spend.last_used_at.map(Timestamp::from_micros),
        };
        (spend.key, spend)
    };
    let usage = |(usage, model): (WrittenUsage<'_>, &str)| {
        Some(UsageRecord {
            model: model.into(),
            id: ChargeId(Uuid::from_bytes(usage.id)),
            account: AccountId(usage.account),
            seq: usage.seq,
            key: key(usage.key),
            method: usage.method.into(),
            route: usage.route.into(),
            upstream: usage.upstream.into(),
            status: usage.status,
            cost: Credits::from_nanos(usage.cost),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            ending: Ending::from_code(usage.ending)?,
            tally: Tally::from_code(usage.tally)?,
            started_at: Timestamp::from_micros(usage.started_at),
            latency_micros: usage.latency_micros,
        })
    };
    Some(Batch {
        entries: written.entries.into_iter().map(entry).collect::<Option<_>>()?,
        spends: written.spends.into_iter().map(spend).collect(),
        usage: written.usage.into_iter().zip(models).map(usage).collect::<Option<_>>()?,
        holds: written.holds.into_iter().map(read_hold).collect::<Option<_>>()?,
        ..Batch::default()
    })
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::config::DatabaseSettings;

    #[tokio::test]
    async fn a_backup_spares_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("x.db").display());
        let settings = DatabaseSettings::default();
        let store = Store::open(&settings, &url, Handle::current()).await.unwrap();
        let copy = folder.path().join("copy");
        let copies = store.back_up(&copy).await.unwrap();
        assert_eq!(copies, [copy.join("x.journal.log"), copy.join("x.db")]);
        let again = store.back_up(&copy).await.unwrap_err().to_string();
        assert!(again.contains("x.journal.log is there already"), "{again}");
        store.close().await;
    }
}
