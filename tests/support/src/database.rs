//! Databases for tests: a SQLite file, or a database in a PostgreSQL cluster that lives as long as
//! the test process.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use polysystems::config::DatabaseSettings;
use polysystems::store::Store;
use tempfile::TempDir;

/// A fresh, empty database.
pub struct Database {
    folder: TempDir,
    url: String,
}

impl Database {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("test.db").display());
        Database { folder, url }
    }

    pub fn postgres() -> Self {
        Self::in_cluster(Cluster::get())
    }

    /// A database in a cluster that syncs every commit, as in production.
    pub fn durable_postgres() -> Self {
        static DURABLE: OnceLock<Cluster> = OnceLock::new();
        Self::in_cluster(DURABLE.get_or_init(|| Cluster::start("")))
    }

    /// A database in a cluster that has created its write-ahead log files already, like any cluster
    /// that has been in use for a while. A new cluster creates a file of 16 MB now and then, and
    /// commits wait for it.
    pub fn settled_postgres() -> Self {
        static SETTLED: OnceLock<Cluster> = OnceLock::new();
        Self::in_cluster(SETTLED.get_or_init(|| {
            let cluster = Cluster::start("");
            cluster.settle();
            cluster
        }))
    }

    /// A database in this cluster. It is reached by `port` if that is given, and otherwise by the
    /// socket.
    pub fn of(cluster: &Cluster, port: Option<u16>) -> Self {
        let database = Self::in_cluster(cluster);
        let Some(port) = port else { return database };
        let name = database.url.rsplit('/').next().unwrap();
        let url = format!("postgres://postgres@127.0.0.1:{port}/{name}?sslmode=disable");
        Database { url, ..database }
    }

    /// A connection that bypasses the server.
    pub async fn connect(&self) -> sea_orm::DatabaseConnection {
        sea_orm::Database::connect(&self.url).await.unwrap()
    }

    fn in_cluster(cluster: &Cluster) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::SeqCst));
        cluster.create(&name);
        Database { folder: tempfile::tempdir().unwrap(), url: cluster.url(&name) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The journal file of a SQLite database.
    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("test.journal.log")
    }

    /// Number of batches in the journal.
    pub async fn journaled(&self) -> usize {
        let store = open(&self.url).await;
        let batches = store.journaled().await.unwrap();
        store.close().await;
        batches.len()
    }

    /// The folder in which the server keeps its secrets.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres")
    }

    /// Waits until the journal is in the tables, then runs SQL without the server. Returns the
    /// first column of the first row, as text.
    pub async fn query(&self, sql: &str) -> String {
        use sea_orm::ConnectionTrait as _;
        wait_for_journal(&self.url).await;
        let connection = sea_orm::Database::connect(&self.url).await.unwrap();
        let backend = connection.get_database_backend();
        let statement = sea_orm::Statement::from_string(backend, sql);
        let row = connection.query_one_raw(statement).await.unwrap();
        let text = row.map(|row| row.try_get_by_index::<String>(0).unwrap()).unwrap_or_default();
        connection.close().await.unwrap();
        text
    }

    /// Asserts that rollups, usage records and the ledger agree by key, hour and endpoint. Returns
    /// the number of charges without a usage record, which belong to calls that a kill interrupted.
    pub async fn sums_agree(&self) -> usize {
        const BY: &str = "account_id, key_id, period, route";
        self.fold().await;
        let usage =
            "SELECT account_id, key_id, CAST(started_at / 3600000000 AS INTEGER) AS period, route,
            cost AS x, 1 AS n FROM usage_record";
        let hours = "SELECT account_id, key_id, period, route, -cost, -calls FROM usage_hour";
        let days = "SELECT account_id, key_id, period, route, -cost, -calls FROM usage_day";
        let of_days =
            "SELECT account_id, key_id, period / 24 AS period, route, cost AS x, calls AS n
            FROM usage_hour";
        let ledger = "SELECT entry.account_id, entry.key_id, CAST(usage.started_at / 3600000000 AS INTEGER) AS period,
            usage.route, -entry.amount AS x, 0 AS n
            FROM ledger_entry AS entry INNER JOIN usage_record AS usage
                ON usage.account_id = entry.account_id AND usage.id = entry.reference";
        let costs = "SELECT account_id, key_id, period, route, -cost, 0 FROM usage_hour";
        for (what, one, other) in
            [("usage", usage, hours), ("days", of_days, days), ("ledger", ledger, costs)]
        {
            let astray = format!(
                "SELECT CAST(COUNT(*) AS TEXT) FROM (SELECT {BY} FROM ({one} UNION ALL {other}) AS both_sides
                GROUP BY {BY} HAVING SUM(x) <> 0 OR SUM(n) <> 0) AS astray"
            );
            assert_eq!(self.query(&astray).await, "0", "{what} and rollups do not agree");
        }
        let unreported = "SELECT CAST(COUNT(*) AS TEXT) FROM ledger_entry AS entry
            WHERE key_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM usage_record AS usage
                WHERE usage.account_id = entry.account_id AND usage.id = entry.reference)";
        self.query(unreported).await.parse().unwrap()
    }

    /// Empties the rollups.
    pub async fn unfold(&self) {
        for sql in
            ["DELETE FROM usage_hour", "DELETE FROM usage_day", "UPDATE usage_mark SET number = 0"]
        {
            self.execute(sql).await.unwrap();
        }
    }

    /// Adds every call on record to the rollups, as a stopping server does.
    pub async fn fold(&self) {
        let store = open(&self.url).await;
        store.fold_usage().await.unwrap();
        store.close().await;
    }

    /// Waits until no hold is open.
    pub async fn no_hold_is_open(&self) {
        for _ in 0..600 {
            if self.query("SELECT CAST(COUNT(*) AS TEXT) FROM hold").await == "0" {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("a hold stays open");
    }

    /// Keeps every checkpoint from its end until the stall is released: on SQLite by the lock on
    /// writing, on PostgreSQL by a lock on the row that each checkpoint changes last.
    pub async fn stall_checkpoints(&self) -> Stall {
        use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
        let connection = self.connect().await;
        let transaction = connection.begin().await.unwrap();
        let lock = "UPDATE journal_mark SET number = number";
        transaction.execute_unprepared(lock).await.unwrap();
        Stall { connection, transaction }
    }

    /// Makes the user with this name an operator.
    pub async fn promote(&self, name: &str) {
        let sql = format!("UPDATE users SET role = 2 WHERE username = '{name}'");
        self.execute(&sql).await.unwrap();
    }

    /// Runs SQL without the server.
    pub async fn execute(&self, sql: &str) -> Result<(), sea_orm::DbErr> {
        use sea_orm::ConnectionTrait as _;
        let connection = sea_orm::Database::connect(&self.url).await.unwrap();
        let result = connection.execute_unprepared(sql).await.map(drop);
        connection.close().await.unwrap();
        result
    }
}

/// See [`Database::stall_checkpoints`].
pub struct Stall {
    connection: sea_orm::DatabaseConnection,
    transaction: sea_orm::DatabaseTransaction,
}

impl Stall {
    pub async fn release(self) {
        self.transaction.rollback().await.unwrap();
        self.connection.close().await.unwrap();
    }
}

async fn open(url: &str) -> Store {
    let (settings, runtime) = (DatabaseSettings::default(), tokio::runtime::Handle::current());
    Store::open(&settings, url, runtime).await.unwrap()
}

/// Waits until a running server has checkpointed the journal.
pub async fn wait_for_journal(url: &str) {
    use sea_orm::{ConnectionTrait as _, Database, Statement};
    let tables = Database::connect(url).await.unwrap();
    let sql = "SELECT epoch, number FROM journal_mark";
    let mark = Statement::from_string(tables.get_database_backend(), sql);
    // Before the first start of the server the table does not exist.
    if tables.query_one_raw(mark.clone()).await.is_err() {
        return;
    }
    let store = open(url).await;
    for _ in 0..1_000 {
        // A batch that is checkpointed after this read is gone, or at most at the mark.
        let batches = store.journaled().await.unwrap();
        let row = tables.query_one_raw(mark.clone()).await.unwrap().unwrap();
        let at = |place| row.try_get_by_index::<i64>(place).unwrap();
        let checkpointed = (at(0), at(1));
        if batches.iter().all(|batch| *batch <= checkpointed) {
            store.close().await;
            let _ = tables.close().await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the journal is not checkpointed");
}

/// A PostgreSQL cluster in a temporary folder. It listens only on its Unix socket.
pub struct Cluster {
    folder: PathBuf,
    binaries: PathBuf,
}

impl Cluster {
    fn get() -> &'static Cluster {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| Cluster::start("-c fsync=off -c full_page_writes=off"))
    }

    /// A separate cluster that syncs every commit, for tests that break it.
    pub fn own() -> Cluster {
        Cluster::start("")
    }

    /// The Unix socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// Stops it as an operator would.
    pub fn stop(&self) {
        let data = self.folder.join("data");
        let stop = format!("{} -D {} -m fast -w stop", self.binary("pg_ctl"), data.display());
        self.shell(is_root(), &stop);
    }

    /// Starts it again with the same options.
    pub fn start_again(&self) {
        let data = self.folder.join("data");
        let options = std::fs::read_to_string(data.join("postmaster.opts")).unwrap();
        let options = options.split_once(' ').unwrap().1.trim().replace('"', "'");
        let log = self.folder.join("log");
        let start = format!(
            "{} -D {} -l {} -w -o \"{options}\" start",
            self.binary("pg_ctl"),
            data.display(),
            log.display()
        );
        self.shell(is_root(), &start);
    }

    /// Sends a signal to all its processes.
    pub fn signal(&self, signal: &str) {
        let file = self.folder.join("data/postmaster.pid");
        let pid = std::fs::read_to_string(file).unwrap().lines().next().unwrap().to_owned();
        let children = Command::new("pgrep").args(["-P", &pid]).output().unwrap().stdout;
        let children = String::from_utf8(children).unwrap();
        // The first process last, because it would start new ones.
        let mut pids: Vec<&str> = children.lines().collect();
        pids.push(&pid);
        if signal != "-CONT" {
            pids.reverse();
        }
        let _ = Command::new("kill").arg(signal).args(pids).status();
    }

    fn start(options: &str) -> Cluster {
        let binaries = find_binaries();
        let folder = tempfile::Builder::new().prefix("polysystems-pg-").tempdir().unwrap().keep();
        let is_root = is_root();
        if is_root {
            // initdb refuses root.
            let owned = Command::new("chown").arg("postgres").arg(&folder).status().unwrap();
            assert!(
                owned.success(),
                "tests as root need the user postgres; install Debian's postgresql"
            );
        }
        let cluster = Cluster { folder, binaries };
        let data = cluster.folder.join("data");
        let initdb = format!(
            "{} -D {} -U postgres -A trust -E UTF8 --no-locale --no-sync",
            cluster.binary("initdb"),
            data.display()
        );
        cluster.shell(is_root, &initdb);
        let start = format!(
            "{} -D {} -l {} -w -o \"-c listen_addresses='' -c unix_socket_directories={} \
             -c max_connections=300 {options}\" start",
            cluster.binary("pg_ctl"),
            data.display(),
            cluster.folder.join("log").display(),
            cluster.folder.display()
        );
        cluster.shell(is_root, &start);
        cluster.stop_with_this_process(is_root);
        cluster
    }

    /// Starts a shell that waits for the end of its input, which comes when this process ends in
    /// any way. Then the shell stops the cluster.
    fn stop_with_this_process(&self, is_root: bool) {
        let folder = self.folder.display();
        let script = format!(
            "read _; {} -D {folder}/data -m immediate stop; rm -rf {folder}",
            self.binary("pg_ctl")
        );
        let child = as_postgres(is_root, &script)
            // A signal to this process group must not reach the shell.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::mem::forget(child);
    }

    fn binary(&self, name: &str) -> String {
        self.binaries.join(name).display().to_string()
    }

    fn shell(&self, is_root: bool, script: &str) {
        // Output goes to a file, because a server that inherits a pipe would keep it open.
        let log = self.folder.join("shell");
        let output = std::fs::File::create(&log).unwrap();
        let status = as_postgres(is_root, script)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status()
            .unwrap();
        assert!(status.success(), "{script}: {}", std::fs::read_to_string(log).unwrap());
    }

    /// Fills the write-ahead log up to its default size, so that the next checkpoint leaves files
    /// to reuse.
    fn settle(&self) {
        const FILL: &str = "DO $$ BEGIN FOR file IN 1..60 LOOP
                PERFORM pg_logical_emit_message(false, 'settle', 'x');
                PERFORM pg_switch_wal();
            END LOOP; END $$";
        self.execute("postgres", &[FILL, "CHECKPOINT"]);
    }

    fn url(&self, database: &str) -> String {
        let socket = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{socket}/{database}")
    }

    /// Makes a database.
    fn create(&self, name: &str) {
        self.execute("postgres", &[&format!("CREATE DATABASE {name}")]);
    }

    /// Runs statements on a separate thread, because tests already run on a runtime.
    fn execute(&self, database: &str, statements: &[&str]) {
        let url = self.url(database);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                crate::run(async {
                    use sea_orm::ConnectionTrait as _;
                    let connection = sea_orm::Database::connect(url).await.unwrap();
                    for statement in statements {
                        connection.execute_unprepared(statement).await.unwrap();
                    }
                    connection.close().await.unwrap();
                });
            });
        });
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

fn as_postgres(is_root: bool, script: &str) -> Command {
    let mut command;
    if is_root {
        command = Command::new("runuser");
        command.args(["-u", "postgres", "--", "sh", "-c", script]);
    } else {
        command = Command::new("sh");
        command.args(["-c", script]);
    }
    // That user may have no access to the folder of the tests.
    command.current_dir("/");
    command
}

fn find_binaries() -> PathBuf {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path().join("bin"))
        .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()))
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    folders.sort();
    folders
        .pop()
        .expect("these tests need PostgreSQL's server programs; install Debian's postgresql")
}
