//! The ledger writer's connection for one of its lanes.
//!
//! A pool pings each connection that is given back, which is one more round trip after each
//! statement. So the connection that writes PostgreSQL's journal stays out of its pool until
//! another caller needs it.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::join;
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{self, Postgres};
use sea_orm::{ConnectOptions, DatabaseConnection, DbErr, RuntimeErr, Value, Values};
use sea_query_sqlx::SqlxValues;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use crate::store::error::{CommitError, StoreError};
use crate::store::options::options;
use crate::store::sql::connect;

/// A connection that was unused for this long may be cut off. It goes through the pool, which tests
/// it.
const UNUSED_MAX: Duration = Duration::from_mins(1);
/// A connection is kept out of the pool for at most this long. The pool replaces old connections.
const KEPT_MAX: Duration = Duration::from_mins(20);

/// The connection of one lane. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::store) struct LaneConnection {
    /// The current session. It is replaced after the connection broke.
    session: Arc<RwLock<Session>>,
    /// For SQLite: a connection that reads only what is committed. The writing connection also sees
    /// its own uncommitted rows.
    reading: Option<DatabaseConnection>,
    /// For PostgreSQL: the options to open a new connection.
    renewal: Option<Arc<ConnectOptions>>,
}

/// A pool of one connection, and that connection while it is kept out of the pool.
#[derive(Clone, Debug)]
struct Session {
    pool: DatabaseConnection,
    kept: Arc<Mutex<Option<Kept>>>,
}

impl Session {
    fn new(pool: DatabaseConnection) -> Self {
        Session { pool, kept: Arc::default() }
    }

    /// Closes the pool at once, so that no caller waits for a connection. Returns when the pool is
    /// closed.
    async fn close(self) -> Result<(), DbErr> {
        let given_back = async { *self.kept.lock().await = None };
        join(self.pool.close_by_ref(), given_back).await.0
    }
}

/// A connection that is kept out of its pool.
#[derive(Debug)]
struct Kept {
    connection: Option<AnyConnection>,
    since: Instant,
    used: Instant,
}

#[derive(Debug)]
enum AnyConnection {
    Postgres(PoolConnection<Postgres>),
    /// For tests of how long a connection is kept: they need no PostgreSQL server.
    #[cfg(test)]
    Sqlite(PoolConnection<sqlx::Sqlite>),
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Giving the connection back needs a task. If there is no runtime, the process is about to
        // end, and that closes the connection.
        if Handle::try_current().is_err() {
            let _left = ManuallyDrop::new(self.connection.take());
        }
    }
}

impl Kept {
    async fn of(pool: &DatabaseConnection) -> Result<Self, sqlx::Error> {
        #[cfg(test)]
        if !crate::store::sql::is_postgres(pool) {
            let connection = pool.get_sqlite_connection_pool().acquire().await?;
            return Ok(Kept::new(AnyConnection::Sqlite(connection)));
        }
        let connection = pool.get_postgres_connection_pool().acquire().await?;
        Ok(Kept::new(AnyConnection::Postgres(connection)))
    }

    fn new(connection: AnyConnection) -> Self {
        let now = Instant::now();
        Kept { connection: Some(connection), since: now, used: now }
    }

    fn is_fresh(&self) -> bool {
        self.used.elapsed() < UNUSED_MAX && self.since.elapsed() < KEPT_MAX
    }

    async fn execute(&mut self, sql: &'static str, values: Values) -> Result<u64, sqlx::Error> {
        let values = SqlxValues(values);
        let rows = match &mut self.connection {
            Some(AnyConnection::Postgres(connection)) => {
                sqlx::query_with(sql, values).execute(&mut **connection).await?.rows_affected()
            }
            #[cfg(test)]
            Some(AnyConnection::Sqlite(connection)) => {
                sqlx::query_with(sql, values).execute(&mut **connection).await?.rows_affected()
            }
            None => return Err(sqlx::Error::PoolClosed),
        };
        self.used = Instant::now();
        Ok(rows)
    }
}

/// A pool that has its connection. The connection is not kept out of the pool while this lives.
pub(in crate::store) struct Lent {
    pool: DatabaseConnection,
    _kept: Option<OwnedMutexGuard<Option<Kept>>>,
}

impl Deref for Lent {
    type Target = DatabaseConnection;

    fn deref(&self) -> &DatabaseConnection {
        &self.pool
    }
}

impl LaneConnection {
    pub(in crate::store) fn of_sqlite(
        writing: DatabaseConnection,
        reading: DatabaseConnection,
    ) -> Self {
        let session = Arc::new(RwLock::new(Session::new(writing)));
        LaneConnection { session, reading: Some(reading), renewal: None }
    }

    /// The connection is opened at its first use, on the thread that uses it. For the journal that
    /// is the writer's own thread.
    pub(in crate::store) async fn of_postgres(url: &str, name: &str) -> Result<Self, StoreError> {
        let mut renewal = options(url, 1);
        let name = format!("polysystems {name} {}", Uuid::new_v4().simple());
        renewal.min_connections(0).connect_lazy(true).set_application_name(name);
        let pool = connect(renewal.clone()).await?;
        let session = Arc::new(RwLock::new(Session::new(pool)));
        Ok(LaneConnection { session, reading: None, renewal: Some(Arc::new(renewal)) })
    }

    fn session(&self) -> Session {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Executes a statement and returns the number of rows that it wrote. If all went well, the
    /// connection is kept for the next statement.
    ///
    /// Only for the journal's lane: in the lane of the tables, other callers use the pool directly.
    pub(in crate::store) async fn execute<const N: usize>(
        &self,
        sql: &'static str,
        values: [Value; N],
    ) -> Result<u64, CommitError> {
        let session = self.session();
        let mut slot = session.kept.lock().await;
        let mut kept = match slot.take().filter(Kept::is_fresh) {
            Some(kept) => kept,
            None => Kept::of(&session.pool).await.map_err(|error| DbErr::Conn(runtime(error)))?,
        };
        // If this future is dropped, the connection goes back to the pool, which waits until the
        // statement is done.
        let rows = kept.execute(sql, Values(values.into()));
        let rows = rows.await.map_err(|error| DbErr::Exec(runtime(error)))?;
        *slot = Some(kept);
        Ok(rows)
    }

    /// Lends the connection for everything but [`LaneConnection::execute`].
    pub(in crate::store) async fn lent(&self) -> Lent {
        let session = self.session();
        let mut kept = session.kept.lock_owned().await;
        *kept = None;
        Lent { pool: session.pool, _kept: Some(kept) }
    }

    /// The pool of the lane of the tables. That lane never keeps a connection out of its pool.
    pub(in crate::store) fn pool(&self) -> DatabaseConnection {
        self.session().pool
    }

    /// Lends a connection that sees only what is committed.
    pub(in crate::store) async fn committed(&self) -> Lent {
        match self.reading.clone() {
            Some(pool) => Lent { pool, _kept: None },
            None => self.lent().await,
        }
    }

    /// The options to open a new connection. `None` for SQLite, which needs none.
    pub(in crate::store) fn renewal(&self) -> Option<ConnectOptions> {
        self.renewal.as_deref().cloned()
    }

    /// Replaces the pool, and lends the new pool to the caller before anybody else. Returns a
    /// future that closes the old pool.
    pub(in crate::store) async fn replace(
        &self,
        pool: DatabaseConnection,
    ) -> (impl Future<Output = Result<(), DbErr>> + use<>, Lent) {
        let fresh = Session::new(pool.clone());
        let kept = Arc::clone(&fresh.kept).lock_owned().await;
        let mut session = self.session.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *session, fresh);
        (old.close(), Lent { pool, _kept: Some(kept) })
    }

    /// Closes the connections after their running statements are done.
    pub(in crate::store) async fn close(&self) -> Result<(), DbErr> {
        self.session().close().await?;
        match &self.reading {
            Some(reading) => reading.close_by_ref().await,
            None => Ok(()),
        }
    }
}

fn runtime(error: sqlx::Error) -> RuntimeErr {
    RuntimeErr::SqlxError(error.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::poll;
    use sea_orm::ConnectionTrait as _;

    use super::*;

    const INSERT: &str = "INSERT INTO row (id) VALUES ($1)";

    async fn lane(folder: &tempfile::TempDir) -> LaneConnection {
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("x.db").display());
        let open = || connect(options(&url, 1));
        let lane = LaneConnection::of_sqlite(open().await.unwrap(), open().await.unwrap());
        let create = "CREATE TABLE row (id BIGINT NOT NULL PRIMARY KEY)";
        lane.lent().await.execute_unprepared(create).await.unwrap();
        lane
    }

    fn idle(lane: &LaneConnection) -> usize {
        lane.session().pool.get_sqlite_connection_pool().num_idle()
    }

    #[tokio::test]
    async fn the_connection_is_kept_until_others_need_it() {
        let folder = tempfile::tempdir().unwrap();
        let lane = lane(&folder).await;
        for id in 0..3_i64 {
            assert_eq!(lane.execute(INSERT, [id.into()]).await.unwrap(), 1);
            assert_eq!(idle(&lane), 0, "given back");
        }
        let lent = lane.lent().await;
        lent.ping().await.unwrap();
        // A write waits for the lent connection here, and not in the pool, whose wait has a limit.
        let mut writing = std::pin::pin!(lane.execute(INSERT, [3_i64.into()]));
        assert!(poll!(&mut writing).is_pending());
        drop(lent);
        assert_eq!(writing.await.unwrap(), 1);
    }

    #[test]
    fn a_kept_connection_may_outlive_its_runtime() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let lane = runtime.block_on(async {
            let lane = lane(&folder).await;
            lane.execute(INSERT, [1_i64.into()]).await.unwrap();
            lane
        });
        drop(runtime);
        drop(lane);
    }

    #[tokio::test]
    async fn a_connection_that_was_long_unused_goes_through_the_pool() {
        let folder = tempfile::tempdir().unwrap();
        let lane = lane(&folder).await;
        let session = lane.session();
        let mut since = None;
        for (id, unused) in [(1_i64, Duration::ZERO), (2, Duration::ZERO), (3, UNUSED_MAX)] {
            if let Some(kept) = session.kept.lock().await.as_mut() {
                kept.used -= unused;
            }
            lane.execute(INSERT, [id.into()]).await.unwrap();
            let now = session.kept.lock().await.as_ref().map(|kept| kept.since);
            assert_eq!(since == now, id == 2, "{id}");
            since = now;
        }
    }

    #[tokio::test]
    async fn nobody_has_another_connection_before_who_put_it_there() {
        let folder = tempfile::tempdir().unwrap();
        let lane = lane(&folder).await;
        lane.execute(INSERT, [1_i64.into()]).await.unwrap();
        let url = format!("sqlite://{}", folder.path().join("x.db").display());
        let (closing, lent) = lane.replace(connect(options(&url, 1)).await.unwrap()).await;
        let mut writing = std::pin::pin!(lane.execute(INSERT, [2_i64.into()]));
        assert!(poll!(&mut writing).is_pending());
        lent.ping().await.unwrap();
        drop(lent);
        closing.await.unwrap();
        assert_eq!(writing.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_connection_that_failed_or_was_left_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let lane = lane(&folder).await;
        lane.execute(INSERT, [1_i64.into()]).await.unwrap();
        let refused = lane.execute(INSERT, [1_i64.into()]).await.unwrap_err();
        assert!(matches!(refused, CommitError::Refused(_)), "{refused}");
        assert!(lane.session().kept.lock().await.is_none());
        lane.execute(INSERT, [2_i64.into()]).await.unwrap();
        {
            let mut left = std::pin::pin!(lane.execute(INSERT, [3_i64.into()]));
            assert!(poll!(&mut left).is_pending());
        }
        // A statement that has begun is done before any other one.
        let pinged = tokio::time::timeout(Duration::from_secs(5), async {
            lane.lent().await.ping().await.unwrap();
        });
        pinged.await.unwrap();
        lane.execute(INSERT, [4_i64.into()]).await.unwrap();
        lane.close().await.unwrap();
        assert!(lane.execute(INSERT, [5_i64.into()]).await.is_err(), "closed");
    }
}
