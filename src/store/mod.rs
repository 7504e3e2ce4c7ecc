//! The database: domain types in, domain types out. The only module that speaks SQL or SeaORM.
//!
//! Every call runs in a task of its own on the database runtime. So a client that leaves cannot
//! cancel a transaction half-way, and a connection is only ever polled where it was opened.
//!
//! Connections: SQLite has one for writing, shared by the ledger writer and everyone else (several
//! writers would only wait for one another in the file), and several for reading. Its journal is a
//! file of its own, so that a paid call never waits for writes into the tables. PostgreSQL has one
//! pool, and the ledger writer two connections of its own beside it, one for each of its lanes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait as _, DatabaseConnection, DatabaseTransaction};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use attempts::AttemptStore;
use audit_log::AuditLogStore;
use catalogue::CatalogueStore;
use connections::{Connections, Turns, begin_snapshot, run_on};
use domain::writer::Lane;
use journaled_keys::JournaledKeys;
use keys::KeyStore;
use ledger::connection::LaneConnection;
use ledger::journal::Journal;
use oddities::OddityStore;
use payments::PaymentStore;
use reports::ReportStore;
use users::UserStore;
use verifications::VerificationStore;
use webhooks::WebhookStore;

pub mod accounts;
pub mod answers;
pub mod attempts;
pub mod audit;
pub mod audit_log;
pub mod backup;
pub mod catalogue;
mod connections;
mod error;
mod journaled_keys;
pub mod keys;
pub mod ledger;
pub mod oddities;
mod open;
mod options;
pub mod outbox;
pub mod payments;
pub mod peppered;
pub mod price_lists;
pub mod prices;
pub mod reports;
mod row;
mod schema;
mod sql;
pub mod users;
pub mod verifications;
pub mod webhooks;

pub(crate) use connections::PATIENCE;
pub use error::{CommitError, StoreError};
pub use ledger::{journal, lease, rollups};
pub use schema::last_migration;

const PING_MAX: Duration = Duration::from_secs(2);
/// How many writes of one concern may wait for the database. A payment may be under way elsewhere,
/// so more of these may.
const PLACES: usize = 128;
const PAYMENT_PLACES: usize = 256;
/// How long the writer waits for the end of a connection that it does not need any more.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// A handle on the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    runtime: Handle,
    read: DatabaseConnection,
    write: DatabaseConnection,
    tables: LaneConnection,
    journal: Journal,
    outbox: Arc<outbox::Outbox>,
    journaled_keys: Arc<JournaledKeys>,
    unfolded: Arc<rollups::Unfolded>,
    /// Users, their sessions and tokens.
    pub users: UserStore,
    /// API keys.
    pub keys: KeyStore,
    /// Payments.
    pub payments: PaymentStore,
    /// Webhook endpoints and deliveries.
    pub webhooks: WebhookStore,
    /// What account holders read.
    pub reports: ReportStore,
    /// The catalogue of models.
    pub catalogue: CatalogueStore,
    /// Attempts at deployments.
    pub attempts: AttemptStore,
    /// Odd usage.
    pub oddities: OddityStore,
    /// Verifications of the ledger, and what is quarantined.
    pub verifications: VerificationStore,
    /// Who did what.
    pub audit_log: AuditLogStore,
}

impl Store {
    /// The stores of all concerns, over the same connections.
    fn new(
        runtime: Handle,
        read: DatabaseConnection,
        write: DatabaseConnection,
        tables: LaneConnection,
        journal: Journal,
        turns: Turns,
    ) -> Self {
        let outbox = Arc::<outbox::Outbox>::default();
        let journaled_keys = Arc::<JournaledKeys>::default();
        let shared = Connections {
            runtime: runtime.clone(),
            read: read.clone(),
            write: write.clone(),
            outbox: Arc::clone(&outbox),
            journaled_keys: Arc::clone(&journaled_keys),
            turns,
            places: Arc::new(Semaphore::new(PLACES)),
        };
        Store {
            users: UserStore::new(shared.with_places(PLACES)),
            keys: KeyStore::new(shared.with_places(PLACES)),
            payments: PaymentStore::new(shared.with_places(PAYMENT_PLACES)),
            webhooks: WebhookStore::new(shared.with_places(PLACES)),
            reports: ReportStore::new(shared.with_places(PLACES)),
            catalogue: CatalogueStore::new(shared.with_places(PLACES)),
            attempts: AttemptStore::new(shared.with_places(PLACES)),
            oddities: OddityStore::new(shared.with_places(PLACES)),
            verifications: VerificationStore::new(shared.with_places(PLACES)),
            audit_log: AuditLogStore::new(Arc::new(shared)),
            runtime,
            read,
            write,
            tables,
            journal,
            outbox,
            journaled_keys,
            unfolded: Arc::default(),
        }
    }

    /// Where the database's work is done, and what nobody waits for.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The connection of a lane; SQLite's journal has none.
    fn lane(&self, lane: Lane) -> Option<&LaneConnection> {
        match lane {
            Lane::Tables => Some(&self.tables),
            Lane::Journal => self.journal.connection(),
        }
    }

    /// Gives the ledger writer another connection, and ends what its last one may still be doing: a
    /// session whose client is gone would keep the rows locked that are to be written again.
    pub async fn renew_connection(&self, lane: Lane) {
        let Some(lane) = self.lane(lane) else { return };
        let Some(renewal) = lane.renewal() else { return };
        let fresh = match sql::connect(renewal).await {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::warn!(%error, "no other connection for the ledger writer");
                return;
            }
        };
        let (closing, fresh) = lane.replace(fresh).await;
        tokio::spawn(async move {
            // It may never answer; then it ends as this is dropped.
            let _ = tokio::time::timeout(CLOSING_MAX, closing).await;
        });
        let end_others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = current_setting('application_name')
            AND usename = current_user AND pid <> pg_backend_pid()";
        match tokio::time::timeout(CLOSING_MAX, fresh.execute_unprepared(end_others)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last connection's session was not ended"),
            Err(_) => tracing::warn!("the last connection's session was not ended in time"),
        }
    }

    /// Is it PostgreSQL? Otherwise it is SQLite.
    #[must_use]
    pub fn is_postgres(&self) -> bool {
        sql::is_postgres(&self.read)
    }

    /// Can the database be reached?
    pub async fn ping(&self) -> Result<(), StoreError> {
        let ping = self.run(|store| async move { Ok(store.read.ping().await?) });
        tokio::time::timeout(PING_MAX, ping).await.unwrap_or(Err(StoreError::TooSlow))
    }

    /// Closes every connection, after what runs on them is done.
    pub async fn close(&self) {
        let closed = self
            .run(|store| async move {
                store.journal.close().await?;
                store.tables.close().await?;
                for connection in [&store.write, &store.read] {
                    connection.close_by_ref().await?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = closed {
            tracing::warn!(%error, "the database connections did not close cleanly");
        }
    }

    /// As [`Store::run`], for what writes beside the ledger writer.
    async fn run_write<T, F, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Store) -> F,
    {
        self.run(work).await.map_err(StoreError::of_unrepeated_write)
    }

    /// Opens a transaction that reads, and sees one state of the database all through.
    async fn snapshot(&self) -> Result<DatabaseTransaction, StoreError> {
        begin_snapshot(&self.read).await
    }

    /// Runs `work` as a task of its own on the database runtime.
    async fn run<T, F, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Store) -> F,
    {
        run_on(&self.runtime, work(self.clone())).await
    }
}
