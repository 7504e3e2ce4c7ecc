//! How connections are opened, and where the files of a SQLite database lie.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sea_orm::ConnectOptions;
use sea_orm::sqlx::sqlite::SqliteConnectOptions;

use crate::failpoint;

/// Is every commit synced to the disk? Only a test may order less.
pub(super) fn is_synced() -> bool {
    !failpoint::is_ordered("sqlite-synchronous-normal")
}

/// What holds for every connection.
pub(super) fn options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .min_connections(1)
        .connect_timeout(Duration::from_secs(5))
        .acquire_timeout(Duration::from_secs(5))
        .set_application_name("polysystems")
        // Both cost on every statement; a dead connection is noticed by its first failure.
        .sqlx_logging(false)
        .test_before_acquire(false);
    // A client that disappears without closing its connection must not keep rows locked for hours.
    options.map_sqlx_postgres_opts(|postgres| {
        postgres.options([
            ("idle_in_transaction_session_timeout", "10000"),
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "10000"),
        ])
    });
    options
}

/// The file of a SQLite database.
pub(super) fn sqlite_file(url: &str) -> PathBuf {
    url.parse().map_or_else(
        // Connecting to it will fail, and say what is wrong with it.
        |_| PathBuf::from(url.trim_start_matches("sqlite:").trim_start_matches("//")),
        |options: SqliteConnectOptions| options.get_filename().to_owned(),
    )
}

/// The folder that a file is in.
pub(super) fn folder_of(file: &Path) -> &Path {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}
