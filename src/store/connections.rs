//! The connections that everybody but the ledger writer shares.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, IsolationLevel,
    QueryResult, Statement, TransactionTrait as _, Value,
};
use tokio::runtime::Handle;

use super::error::StoreError;
use super::journaled_keys::JournaledKeys;
use super::outbox::Outbox;
use super::sql::is_postgres;

/// How long a caller waits for the database. The ledger writer has a limit of its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Rows deleted in one statement, so that the ledger writer never waits long for it.
pub(in crate::store) const CHUNK: u64 = 500;

/// The shared connections, with the outbox that writes on them fill.
#[derive(Clone, Debug)]
pub(in crate::store) struct Connections {
    pub runtime: Handle,
    pub read: DatabaseConnection,
    pub write: DatabaseConnection,
    pub outbox: Arc<Outbox>,
    pub journaled_keys: Arc<JournaledKeys>,
}

impl Connections {
    /// Runs `work` as a task of its own on the database runtime.
    pub(crate) async fn run<T, F, W>(self: &Arc<Self>, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Arc<Connections>) -> F,
    {
        run_on(&self.runtime, work(Arc::clone(self))).await
    }

    /// As [`Connections::run`], for work that writes: its error says whether the outcome is known.
    pub(crate) async fn run_write<T, F, W>(self: &Arc<Self>, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Arc<Connections>) -> F,
    {
        self.run(work).await.map_err(StoreError::of_unrepeated_write)
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
