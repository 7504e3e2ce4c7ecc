//! The database bytes of a paid call: in each table and index, and in the write-ahead log.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait as _, Statement};
use serde::Serialize;

use test_support::Database;

/// Bytes for each call.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    pub database: String,
    /// A table, an index, or the log.
    pub what: String,
    pub bytes_a_call: f64,
}

const SQLITE: &str = "SELECT name, CAST(SUM(pgsize) AS BIGINT) FROM dbstat GROUP BY name";
const POSTGRES: &str = "SELECT relname::TEXT, pg_relation_size(oid) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')";

/// The current sizes.
pub(crate) struct Sizes(BTreeMap<String, i64>);

impl Sizes {
    /// Reads the sizes. The writes of SQLite are those of the server's process, `process`.
    pub(crate) fn now(database: &Database, process: u32) -> Self {
        let mut sizes = BTreeMap::new();
        test_support::run(async {
            let connection = database.connect().await;
            let backend = connection.get_database_backend();
            let sql = if database.is_postgres() { POSTGRES } else { SQLITE };
            let rows =
                connection.query_all_raw(Statement::from_string(backend, sql)).await.unwrap();
            for row in rows {
                let name: String = row.try_get_by_index(0).unwrap();
                sizes.insert(name, row.try_get_by_index(1).unwrap());
            }
            if database.is_postgres() {
                let sql = "SELECT CAST(pg_current_wal_lsn() - '0/0'::pg_lsn AS BIGINT)";
                let statement = Statement::from_string(backend, sql);
                let row = connection.query_one_raw(statement).await.unwrap().unwrap();
                sizes.insert("the write-ahead log".to_owned(), row.try_get_by_index(0).unwrap());
            }
            connection.close().await.unwrap();
        });
        if !database.is_postgres() {
            let io = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap();
            let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
            // The log, and the database file at checkpoints.
            let written = written.parse().unwrap();
            sizes.insert("all that is written to the disk".to_owned(), written);
        }
        Sizes(sizes)
    }

    /// The growth since `before`, divided by the number of calls.
    pub(crate) fn since(&self, before: &Sizes, database: &str, calls: u64) -> Vec<Cost> {
        let grown = self.0.iter().map(|(what, bytes)| {
            let grown = bytes - before.0.get(what).copied().unwrap_or(0);
            let bytes_a_call = grown as f64 / calls as f64;
            Cost { database: database.to_owned(), what: what.clone(), bytes_a_call }
        });
        grown.filter(|cost| cost.bytes_a_call >= 0.5).collect()
    }
}
