//! What the ledger writer writes on in one of its lanes.
//!
//! A pool asks a connection that it is given back whether it is still there: a round trip, and with SQLite two changes
//! of threads, after each statement. So the connection that batches go to the journal on is given back only for others
//! that need it.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{self, Postgres, Sqlite};
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, RuntimeErr, Value, Values};
use sea_query_sqlx::SqlxValues;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::{StoreError, is_postgres, options};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct LaneConnection {
    /// Another one after it was broken.
    session: Arc<RwLock<Session>>,
    /// For SQLite: where to look, since the connection that wrote could see what it has not committed.
    reading: Option<DatabaseConnection>,
    /// For PostgreSQL: how another one is opened.
    renewal: Option<Arc<ConnectOptions>>,
}

/// A pool of one connection, and that connection while it is kept out of it.
#[derive(Clone, Debug)]
struct Session {
    pool: DatabaseConnection,
    kept: Arc<Mutex<Option<Kept>>>,
}

impl Session {
    fn new(pool: DatabaseConnection) -> Self {
        Session { pool, kept: Arc::default() }
    }

    async fn lent(self) -> Lent {
        let mut kept = self.kept.lock_owned().await;
        *kept = None;
        Lent { pool: self.pool, _kept: Some(kept) }
    }
}

/// A connection out of its pool.
#[derive(Debug)]
enum Kept {
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl Kept {
    async fn of(pool: &DatabaseConnection) -> Result<Self, sqlx::Error> {
        Ok(if is_postgres(pool) {
            Kept::Postgres(pool.get_postgres_connection_pool().acquire().await?)
        } else {
            Kept::Sqlite(pool.get_sqlite_connection_pool().acquire().await?)
        })
    }

    async fn execute(&mut self, sql: &'static str, values: Values) -> Result<u64, sqlx::Error> {
        let values = SqlxValues(values);
        Ok(match self {
            Kept::Postgres(connection) => {
                sqlx::query_with(sql, values).execute(&mut **connection).await?.rows_affected()
            }
            Kept::Sqlite(connection) => {
                sqlx::query_with(sql, values).execute(&mut **connection).await?.rows_affected()
            }
        })
    }
}

/// A lane's pool, with its connection in it: nothing else is done in the lane as long as this lives.
pub(super) struct Lent {
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
    pub(super) fn of_sqlite(writing: DatabaseConnection, reading: DatabaseConnection) -> Self {
        let session = Arc::new(RwLock::new(Session::new(writing)));
        LaneConnection { session, reading: Some(reading), renewal: None }
    }

    /// Opened by the ledger writer's first use, on the thread that then drives it: for the journal the writer's own.
    pub(super) async fn of_postgres(url: &str, name: &str) -> Result<Self, StoreError> {
        let mut renewal = options(url, 1);
        let name = format!("polysystems {name} {}", Uuid::new_v4().simple());
        renewal.min_connections(0).connect_lazy(true).set_application_name(name);
        let pool = Database::connect(renewal.clone()).await?;
        let session = Arc::new(RwLock::new(Session::new(pool)));
        Ok(LaneConnection { session, reading: None, renewal: Some(Arc::new(renewal)) })
    }

    fn session(&self) -> Session {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Executes a statement on the connection, which is kept for the next one where all went well. Says how many rows
    /// it wrote.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) async fn execute<const N: usize>(
        &self,
        sql: &'static str,
        values: [Value; N],
    ) -> Result<u64, DbErr> {
        let session = self.session();
        let mut slot = session.kept.lock().await;
        let mut kept = match slot.take() {
            Some(kept) => kept,
            None => Kept::of(&session.pool).await.map_err(|error| DbErr::Conn(runtime(error)))?,
        };
        // Whoever breaks this off gives the connection back, and the pool waits until it is done.
        let rows = kept.execute(sql, Values(values.into()));
        let rows = rows.await.map_err(|error| DbErr::Exec(runtime(error)))?;
        *slot = Some(kept);
        Ok(rows)
    }

    /// The connection, for anything else.
    pub(super) async fn lent(&self) -> Lent {
        self.session().lent().await
    }

    /// Where to look for what is committed.
    pub(super) async fn committed(&self) -> Lent {
        match self.reading.clone() {
            Some(pool) => Lent { pool, _kept: None },
            None => self.lent().await,
        }
    }

    /// How another one is opened, where that can help.
    pub(super) fn renewal(&self) -> Option<ConnectOptions> {
        self.renewal.as_deref().cloned()
    }

    /// Puts another one in its place. Gives the last one back, with nothing kept from it once whatever uses it has
    /// ended.
    pub(super) fn replace(&self, pool: DatabaseConnection) -> impl Future<Output = Lent> + use<> {
        let mut session = self.session.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *session, Session::new(pool)).lent()
    }

    /// Closes it, after what runs on it is done.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) async fn close(&self) -> Result<(), DbErr> {
        self.lent().await.close_by_ref().await?;
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
        let open = || Database::connect(options(&url, 1));
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
        // Whoever writes waits for it meanwhile, and not for the pool, which would give up.
        let mut writing = std::pin::pin!(lane.execute(INSERT, [3_i64.into()]));
        assert!(poll!(&mut writing).is_pending());
        drop(lent);
        assert_eq!(writing.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_connection_that_failed_or_was_left_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let lane = lane(&folder).await;
        lane.execute(INSERT, [1_i64.into()]).await.unwrap();
        let refused = lane.execute(INSERT, [1_i64.into()]).await.unwrap_err();
        assert!(refused.sql_err().is_some(), "{refused}");
        assert!(lane.session().kept.lock().await.is_none());
        lane.execute(INSERT, [2_i64.into()]).await.unwrap();
        {
            let mut left = std::pin::pin!(lane.execute(INSERT, [3_i64.into()]));
            assert!(poll!(&mut left).is_pending());
        }
        // What was begun is done before anything else.
        let pinged = tokio::time::timeout(Duration::from_secs(5), async {
            lane.lent().await.ping().await.unwrap();
        });
        pinged.await.unwrap();
        lane.execute(INSERT, [4_i64.into()]).await.unwrap();
        lane.close().await.unwrap();
        assert!(lane.execute(INSERT, [5_i64.into()]).await.is_err(), "closed");
    }
}
