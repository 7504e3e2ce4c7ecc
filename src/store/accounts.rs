//! Loading of accounts from the tables.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryResult, Statement,
};
use uuid::Uuid;

use super::Store;
use super::error::StoreError;
use domain::audit::check_loaded;
use domain::limits::WindowCounter;
use domain::stored_bill::StoredBill;
use domain::{
    AccountId, AccountStatus, ChargeId, Credits, Day, EntryKind, Environment, Hold, KeyId,
    KeySpend, KeyState, LedgerEntry, Link, LoadedAccount, Month, SpendingLimits, StoredAccount,
    Timestamp,
};
use entity::{account, api_key, key_spend};

/// A user's two accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAccounts {
    /// Real credits.
    pub live: AccountId,
    /// Test credits.
    pub test: AccountId,
}

impl UserAccounts {
    /// The account of an environment.
    #[must_use]
    pub fn of(self, environment: Environment) -> AccountId {
        match environment {
            Environment::Live => self.live,
            Environment::Test => self.test,
        }
    }
}

impl Store {
    /// The account with its keys, counters and open holds, as the last committed batch left it.
    /// Holds of an epoch other than `epoch` count as expired.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if there is no such account or a row has an unknown value;
    /// [`StoreError::Quarantined`] if its rows disagree.
    pub async fn load_account(
        &self,
        id: AccountId,
        epoch: i64,
    ) -> Result<LoadedAccount, StoreError> {
        self.run(move |store| async move {
            failpoint!("load-before");
            let backend = store.read.get_database_backend();
            let statement = Statement::from_sql_and_values(backend, LOAD, [id.0.into()]);
            let rows = store.read.query_all_raw(statement).await?;
            failpoint!("load-read");
            let read = |row| Loaded::read(row, id, epoch);
            let loaded = rows.iter().map(read).collect::<Result<Vec<_>, StoreError>>()?;
            let (mut account, mut keys, mut holds, mut last) = (None, vec![], vec![], vec![]);
            for loaded in loaded {
                match loaded {
                    Loaded::Account(row) => account = Some(row),
                    Loaded::Key(key) => keys.push(key),
                    Loaded::Hold(hold) => holds.push(hold),
                    Loaded::Entry(entry) => last.push(entry),
                    Loaded::Refused => {
                        let what = "the tables refuse entries of it that are in the journal".into();
                        return Err(StoreError::Quarantined { account: id, what });
                    }
                }
            }
            let stored =
                account.ok_or_else(|| StoreError::Corrupt(format!("there is no account {id}")))?;
            let held =
                holds.iter().try_fold(Credits::ZERO, |sum, hold| sum.checked_add(hold.amount));
            check_loaded(&stored, &last, held.unwrap_or(Credits::MAX))
                .map_err(|what| StoreError::Quarantined { account: id, what })?;
            Ok(LoadedAccount { stored, epoch, keys, holds })
        })
        .await
    }
}

/// Everything of an account in one statement. That is one round trip, and one consistent state. Its
/// last two entries come last one first.
const LOAD: &str = "SELECT 1 AS what, CAST(environment AS BIGINT) AS n1, CAST(status AS BIGINT) AS n2,
        balance AS n3, seq AS n4, CAST(NULL AS BIGINT) AS n5, CAST(NULL AS BIGINT) AS n6,
        CAST(NULL AS BIGINT) AS n7, CAST(NULL AS BIGINT) AS n8, CAST(NULL AS BIGINT) AS n9,
        CAST(NULL AS UUID) AS u1, CAST(NULL AS UUID) AS u2, link AS b1, CAST(NULL AS BIGINT) AS n10,
        CAST(NULL AS BIGINT) AS n11, CAST(NULL AS BYTEA) AS b2
    FROM account WHERE id = $1
    UNION ALL
    SELECT 2, CASE WHEN is_revoked THEN 1 ELSE 0 END, per_request_limit, daily_limit, monthly_limit, day,
        day_spent, month, month_spent, last_used_at, id, NULL, NULL, total_limit, total_spent,
        NULL
    FROM api_key LEFT JOIN key_spend ON key_spend.key_id = api_key.id
    WHERE account_id = $1 AND NOT is_deleted
    UNION ALL
    SELECT 3, epoch, day, month, amount, earned, opened_at, expires_at, NULL, NULL, id, key_id, NULL,
        price_version, NULL, bill
    FROM hold WHERE account_id = $1
    UNION ALL
    SELECT 4, seq, epoch, kind, amount, balance_after, day, month, at, NULL, reference, key_id, link,
        price_version, NULL, bill
    FROM (SELECT * FROM ledger_entry WHERE account_id = $1 ORDER BY seq DESC LIMIT 2) AS last
    UNION ALL
    SELECT 5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        NULL
    FROM (SELECT 1 AS found FROM journal_refused WHERE account_id = $1 LIMIT 1) AS refused";

/// A row of [`LOAD`].
enum Loaded {
    Account(StoredAccount),
    Key(KeyState),
    Hold(Hold),
    Entry(LedgerEntry),
    /// The tables refused entries of it that are durable in the journal.
    Refused,
}

fn unknown(account: AccountId, what: &str) -> StoreError {
    StoreError::Corrupt(format!("account {account} has an unknown {what}"))
}

impl Loaded {
    fn read(row: &QueryResult, account: AccountId, epoch: i64) -> Result<Self, StoreError> {
        let maybe = |place: usize| row.try_get_by_index::<Option<i64>>(place);
        let number = |place: usize| row.try_get_by_index::<i64>(place);
        let credits = |place: usize| Ok::<_, DbErr>(Credits::from_nanos(number(place)?));
        let time = |place: usize| Ok::<_, DbErr>(Timestamp::from_micros(number(place)?));
        let uuid = |place: usize| row.try_get_by_index::<Uuid>(place);
        let link = || Ok::<_, DbErr>(Link::from_slice(&row.try_get_by_index::<Vec<u8>>(12)?));
        let small = |place: usize, what: &str| {
            i32::try_from(number(place)?).map_err(|_| unknown(account, what))
        };
        let bytes = |place: usize| row.try_get_by_index::<Option<Vec<u8>>>(place);
        let bill = || Ok::<_, DbErr>(StoredBill::from_columns(maybe(13)?, bytes(15)?.as_deref()));
        let code = |place: usize| Ok::<_, DbErr>(i16::try_from(number(place)?).unwrap_or(0));
        Ok(match row.try_get_by_index::<i32>(0)? {
            1 => Loaded::Account(stored_account(
                account,
                (code(1)?, code(2)?),
                (number(3)?, number(4)?),
                link()?,
            )?),
            2 => {
                let limit = |place: usize| Ok::<_, DbErr>(maybe(place)?.map(Credits::from_nanos));
                let limits = SpendingLimits {
                    per_request: limit(2)?,
                    daily: limit(3)?,
                    monthly: limit(4)?,
                    total: limit(13)?,
                };
                let mut state = KeyState::new(KeyId(uuid(10)?), limits);
                state.is_revoked = number(1)? == 1;
                // A key that was never used has no counters.
                if maybe(5)?.is_some() {
                    state.day = WindowCounter::stored(Day(small(5, "day")?), credits(6)?);
                    state.month = WindowCounter::stored(Month(small(7, "month")?), credits(8)?);
                    state.total = WindowCounter::stored((), credits(14)?);
                    state.last_used_at = maybe(9)?.map(Timestamp::from_micros);
                }
                Loaded::Key(state)
            }
            3 => Loaded::Hold(Hold {
                id: ChargeId(uuid(10)?),
                account,
                key: KeyId(uuid(11)?),
                day: Day(small(2, "day")?),
                month: Month(small(3, "month")?),
                amount: credits(4)?,
                earned: credits(5)?,
                // One that is damaged could not be written to the journal.
                bill: bill()?.filter(|bill| bill.bill().is_some()),
                opened_at: time(6)?,
                // The owner of a hold of another epoch is gone, so the hold has expired.
                expires_at: if number(1)? == epoch { time(7)? } else { Timestamp::default() },
            }),
            5 => Loaded::Refused,
            _ => {
                let kind = EntryKind::from_code(code(3)?);
                let kind = kind.ok_or_else(|| unknown(account, "kind of an entry"))?;
                Loaded::Entry(LedgerEntry {
                    account,
                    seq: number(1)?,
                    epoch: number(2)?,
                    kind,
                    amount: credits(4)?,
                    balance_after: credits(5)?,
                    reference: uuid(10)?,
                    key: row.try_get_by_index::<Option<Uuid>>(11)?.map(KeyId),
                    day: Day(small(6, "day")?),
                    month: Month(small(7, "month")?),
                    at: time(8)?,
                    bill: bill()?,
                    // A link of the wrong length becomes zeros, which break the chain.
                    link: link()?.unwrap_or_default(),
                })
            }
        })
    }
}

/// An account's own row.
pub(super) fn stored(row: &account::Model) -> Result<StoredAccount, StoreError> {
    let (codes, link) = ((row.environment, row.status), Link::from_slice(&row.link));
    stored_account(AccountId(row.id), codes, (row.balance, row.seq), link)
}

fn stored_account(
    id: AccountId,
    (environment, status): (i16, i16),
    (balance, seq): (i64, i64),
    link: Option<Link>,
) -> Result<StoredAccount, StoreError> {
    let corrupt = |what| StoreError::Corrupt(format!("account {id} has an unknown {what}"));
    Ok(StoredAccount {
        id,
        environment: Environment::from_code(environment).ok_or_else(|| corrupt("environment"))?,
        status: AccountStatus::from_code(status).ok_or_else(|| corrupt("status"))?,
        balance: Credits::from_nanos(balance),
        seq,
        // A link of the wrong length becomes a value that matches no ledger.
        link: link.unwrap_or(Link([0xff; 32])),
    })
}

/// The counters and the total spending of these keys. Keys that were never used are missing.
pub(super) async fn spends_of(
    connection: &impl ConnectionTrait,
    keys: &[api_key::Model],
) -> Result<BTreeMap<KeyId, (KeySpend, Credits)>, StoreError> {
    let mut spends = BTreeMap::new();
    // In pieces, to stay below the databases' bind limits.
    for piece in keys.chunks(500) {
        let rows = key_spend::Entity::find()
            .filter(key_spend::Column::KeyId.is_in(piece.iter().map(|key| key.id)))
            .all(connection)
            .await?;
        spends.extend(rows.iter().map(|row| {
            (KeyId(row.key_id), (key_spend_of(row), Credits::from_nanos(row.total_spent)))
        }));
    }
    Ok(spends)
}

/// The counters of a key as stored.
fn key_spend_of(row: &key_spend::Model) -> KeySpend {
    KeySpend {
        key: KeyId(row.key_id),
        day: Day(row.day),
        day_spent: Credits::from_nanos(row.day_spent),
        month: Month(row.month),
        month_spent: Credits::from_nanos(row.month_spent),
        last_used_at: row.last_used_at.map(Timestamp::from_micros),
    }
}
