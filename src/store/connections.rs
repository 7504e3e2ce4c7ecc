//! The connections that everybody but the ledger writer shares, and the turns at them.
//!
//! SQLite has one connection that writes, for the ledger writer as well, and a pool serves whoever
//! asked first. So everybody else waits for a turn before the pool: there is one at a time, and the
//! ledger writer waits for no more than one write. PostgreSQL's pool also serves look-ups of keys
//! and loads of accounts, so the turns leave a quarter of its connections to them.
//!
//! Few may wait for a turn. A further write is refused before it begins. The place in the queue
//! belongs to the work, and not to who asked for it: a client that leaves gives no place back.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, IsolationLevel,
    QueryResult, Statement, TransactionTrait as _, Value,
};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::StoreError;
use super::journaled_keys::JournaledKeys;
use super::outbox::Outbox;
use super::sql::is_postgres;

/// How long a caller waits for the database. The ledger writer has a limit of its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Rows deleted in one statement, so that the ledger writer never waits long for it.
pub(in crate::store) const CHUNK: u64 = 500;
/// How long work waits for its turn. Nothing is written before it.
const TURN_MAX: Duration = Duration::from_secs(5);

/// The turns at the shared connections.
#[derive(Clone, Debug)]
pub(in crate::store) struct Turns {
    turns: Arc<Semaphore>,
    /// Do reads take turns as well? Otherwise they have connections of their own.
    with_reads: bool,
}

impl Turns {
    /// For SQLite: one write at a time.
    pub(in crate::store) fn one_write() -> Self {
        Turns { turns: Arc::new(Semaphore::new(1)), with_reads: false }
    }

    /// For a pool of so many connections: three quarters of them.
    pub(in crate::store) fn of_pool(connections: u32) -> Self {
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        let turns = connections.saturating_sub(connections.div_ceil(4)).max(1);
        let turns = turns.min(Semaphore::MAX_PERMITS);
        Turns { turns: Arc::new(Semaphore::new(turns)), with_reads: true }
    }

    async fn take(self) -> Result<OwnedSemaphorePermit, StoreError> {
        let turn = tokio::time::timeout(TURN_MAX, self.turns.acquire_owned()).await;
        turn.map_err(|_| StoreError::Busy)?.map_err(|_| StoreError::Stopped)
    }
}

/// The shared connections, with the outbox that writes on them fill.
#[derive(Clone, Debug)]
pub(in crate::store) struct Connections {
    pub runtime: Handle,
    pub read: DatabaseConnection,
    pub write: DatabaseConnection,
    pub outbox: Arc<Outbox>,
    pub journaled_keys: Arc<JournaledKeys>,
    pub turns: Turns,
    /// The places of writes that wait for a turn. Each concern has its own.
    pub places: Arc<Semaphore>,
}

impl Connections {
    /// The same connections, with so many places of their own.
    pub(in crate::store) fn with_places(&self, places: usize) -> Arc<Self> {
        Arc::new(Connections { places: Arc::new(Semaphore::new(places)), ..self.clone() })
    }

    /// Runs `work`, which reads, as a task of its own on the database runtime.
    pub(crate) async fn run<T, F, W>(self: &Arc<Self>, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Arc<Connections>) -> F,
    {
        if self.turns.with_reads {
            return self.run_in_turn(None, work(Arc::clone(self))).await;
        }
        run_on(&self.runtime, work(Arc::clone(self))).await
    }

    /// As [`Connections::run`], for what a paid call waits for: it takes no turn.
    pub(crate) async fn run_for_call<T, F, W>(self: &Arc<Self>, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Arc<Connections>) -> F,
    {
        run_on(&self.runtime, work(Arc::clone(self))).await
    }

    /// As [`Connections::run`], for work that writes: its error says whether the outcome is known.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if too many writes wait.
    pub(crate) async fn run_write<T, F, W>(self: &Arc<Self>, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Arc<Connections>) -> F,
    {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| StoreError::Busy)?;
        let written = self.run_in_turn(Some(place), work(Arc::clone(self))).await;
        written.map_err(StoreError::of_unrepeated_write)
    }

    /// As [`Connections::run_write`], for the server's own work, of which little runs at a time: it
    /// needs no place.
    pub(crate) async fn run_job<T, F, W>(self: &Arc<Self>, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Arc<Connections>) -> F,
    {
        let written = self.run_in_turn(None, work(Arc::clone(self))).await;
        written.map_err(StoreError::of_unrepeated_write)
    }

    async fn run_in_turn<T, F>(
        &self,
        place: Option<OwnedSemaphorePermit>,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let turns = self.turns.clone();
        let in_turn = async move {
            let _place = place;
            let _turn = turns.take().await?;
            work.await
        };
        run_on(&self.runtime, in_turn).await
    }
}

/// Runs `work` as a task of its own, and waits for it as long as anyone waits for the database.
pub(in crate::store) async fn run_on<T, F>(runtime: &Handle, work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, StoreError>> + Send + 'static,
{
    match tokio::time::timeout(PATIENCE, runtime.spawn(work)).await {
        Ok(result) => result.map_err(|_| StoreError::Stopped)?,
        // The task goes on; nobody waits for it any more.
        Err(_) => Err(StoreError::TooSlow),
    }
}

/// Begins a transaction that reads one state of the database from its first query to its last.
pub(in crate::store) async fn begin_snapshot(
    connection: &DatabaseConnection,
) -> Result<DatabaseTransaction, StoreError> {
    Ok(if is_postgres(connection) {
        let (isolation, access) = (IsolationLevel::RepeatableRead, AccessMode::ReadOnly);
        connection.begin_with_config(Some(isolation), Some(access)).await?
    } else {
        // A read transaction of SQLite in WAL mode is a snapshot.
        connection.begin().await?
    })
}

/// Executes one statement; answers how many rows it changed.
pub(in crate::store) async fn execute(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<u64, DbErr> {
    let backend = connection.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, sql, values);
    Ok(connection.execute_raw(statement).await?.rows_affected())
}

/// Runs one query; answers its rows.
pub(in crate::store) async fn query(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<QueryResult>, DbErr> {
    let backend = connection.get_database_backend();
    connection.query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await
}

#[cfg(test)]
mod tests {
    use futures_util::future::{join_all, pending};
    use futures_util::{FutureExt as _, poll};
    use sea_orm::Database;

    use super::*;
    use crate::store::options::options;
    use crate::store::sql::begin_write;

    async fn connections(places: usize) -> (tempfile::TempDir, Arc<Connections>) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("x.db").display());
        let write = Database::connect(options(&url, 1)).await.unwrap();
        let shared = Connections {
            runtime: Handle::current(),
            read: write.clone(),
            write,
            outbox: Arc::default(),
            journaled_keys: Arc::default(),
            turns: Turns::one_write(),
            places: Arc::new(Semaphore::new(places)),
        };
        (folder, Arc::new(shared))
    }

    /// A write of 20 ms, as on a slow disk.
    async fn slow_write(database: Arc<Connections>) -> Result<(), StoreError> {
        let transaction = begin_write(&database.write).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        transaction.commit().await.map_err(StoreError::OutcomeUnknown)
    }

    #[tokio::test]
    async fn the_ledger_writer_waits_for_no_more_than_one_write() {
        let (_folder, shared) = connections(100).await;
        let writes: Vec<_> = (0..100)
            .map(|_| {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { shared.run_write(slow_write).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        // As the ledger writer does, which takes no turn.
        let begun = std::time::Instant::now();
        begin_write(&shared.write).await.unwrap().commit().await.unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(500), "{took:?}");
        assert!(join_all(writes).await.into_iter().all(|written| written.unwrap().is_ok()));
    }

    #[tokio::test]
    async fn a_place_in_the_queue_belongs_to_the_work() {
        let (_folder, shared) = connections(2).await;
        let blocking = begin_write(&shared.write).await.unwrap();
        // Both clients leave at once; what they asked for goes on.
        for _ in 0..2 {
            let mut asked = Box::pin(shared.run_write(slow_write));
            assert!(poll!(&mut asked).is_pending());
        }
        let refused = shared.run_write(slow_write).now_or_never().expect("refused at once");
        assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
        // Another concern has places of its own, and the server's own work needs none.
        let other = shared.with_places(1);
        let mut others = Box::pin(other.run_write(slow_write));
        let mut job = Box::pin(shared.run_job(slow_write));
        assert!(poll!(&mut others).is_pending() && poll!(&mut job).is_pending());
        blocking.rollback().await.unwrap();
        others.await.unwrap();
        job.await.unwrap();
        shared.run_write(slow_write).await.unwrap();
    }

    #[tokio::test]
    async fn a_pool_keeps_connections_for_calls() {
        let (_folder, shared) = connections(10).await;
        let shared = Arc::new(Connections { turns: Turns::of_pool(4), ..(*shared).clone() });
        let forever = |_| pending::<Result<(), StoreError>>();
        for _ in 0..3 {
            assert!(poll!(Box::pin(shared.run(forever))).is_pending());
        }
        tokio::task::yield_now().await;
        assert_eq!(shared.turns.turns.available_permits(), 0);
        shared.run_for_call(|_| async { Ok(()) }).await.unwrap();
    }
}
