//! Users as an operator looks for them.

use std::fmt::Write as _;

use sea_orm::{EntityTrait as _, FromQueryResult as _, QueryResult, Value};
use uuid::Uuid;

use super::UserStore;
use super::record::{Role, User, folded};
use crate::store::StoreError;
use crate::store::connections::query;
use domain::{AccountStatus, Credits, Day, Environment, KeyId, MICROS_PER_DAY, Timestamp, UserId};
use entity::user;

/// The order of a list of users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserOrder {
    /// The last registered one first.
    #[default]
    Newest,
    /// The first registered one first.
    Oldest,
    /// The highest live balance first.
    Balance,
}

/// A search for users by an operator. Each field that is set leaves fewer.
#[derive(Clone, Debug, Default)]
pub struct UserSearch {
    /// Users whose email or username contains this, ignoring case.
    pub text: Option<String>,
    /// Users of this role.
    pub role: Option<Role>,
    /// Users whose rate limit tier was set to this.
    pub tier: Option<String>,
    /// Users who have proved their address, or have not.
    pub is_verified: Option<bool>,
    /// Users whose live account has this status.
    pub status: Option<AccountStatus>,
    /// The order.
    pub order: UserOrder,
    /// From this day on it is summed up what their calls cost.
    pub spent_since: Day,
    /// Users after this one.
    pub before: Option<UserId>,
    /// Most users in the result.
    pub limit: u64,
}

/// A user of a list, with what is on record of their live account.
#[derive(Clone, Debug)]
pub struct ListedUser {
    /// The user.
    pub user: User,
    /// The balance.
    pub balance: Credits,
    /// The status.
    pub status: AccountStatus,
    /// What the calls since the day that was asked for cost.
    pub spent: Credits,
    /// When the last call arrived that is on record.
    pub last_call_at: Option<Timestamp>,
}

/// What must stand before and after a text so that it is found anywhere.
fn pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for character in folded(text).chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

impl UserSearch {
    /// The conditions, whose values are pushed to `values`.
    fn conditions(&self, values: &mut Vec<Value>) -> String {
        let mut conditions = String::new();
        let mut narrow = |condition: &str, value: Value| {
            values.push(value);
            let place = format!("${}", values.len());
            let _ = write!(conditions, " AND {}", condition.replace('?', &place));
        };
        if let Some(text) = &self.text {
            let like = "(users.email_folded LIKE ? ESCAPE '\\' OR users.username_folded LIKE ? ESCAPE '\\')";
            narrow(like, pattern(text).into());
        }
        if let Some(role) = self.role {
            narrow("users.role = ?", role.code().into());
        }
        if let Some(tier) = &self.tier {
            narrow("users.tier = ?", tier.clone().into());
        }
        if let Some(is_verified) = self.is_verified {
            narrow("users.is_email_verified = ?", is_verified.into());
        }
        if let Some(status) = self.status {
            narrow("live.status = ?", status.code().into());
        }
        conditions
    }
}

impl UserStore {
    /// The keys with this id or this preview, deleted ones too, and whose they are; at most
    /// `limit`.
    pub async fn find_key_owners(
        &self,
        key: Option<KeyId>,
        preview: String,
        limit: u64,
    ) -> Result<Vec<(KeyId, UserId)>, StoreError> {
        const SQL: &str = "SELECT api_key.id, account.user_id FROM api_key
            INNER JOIN account ON account.id = api_key.account_id
            WHERE api_key.id = $1 OR api_key.preview = $2
            ORDER BY api_key.created_at DESC, api_key.id LIMIT $3";
        self.database
            .run(move |database| async move {
                let key = key.map_or(Uuid::nil(), |key| key.0);
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let values = vec![key.into(), preview.into(), limit.into()];
                let found = |row: &QueryResult| {
                    Ok((KeyId(row.try_get_by_index(0)?), UserId(row.try_get_by_index(1)?)))
                };
                query(&database.read, SQL, values).await?.iter().map(found).collect()
            })
            .await
    }

    /// Users that match a search.
    pub async fn list(&self, search: UserSearch) -> Result<Vec<ListedUser>, StoreError> {
        self.database
            .run(move |database| async move {
                let mut values: Vec<Value> = vec![Environment::Live.code().into()];
                let mut conditions = search.conditions(&mut values);
                let (column, sign, direction) = match search.order {
                    UserOrder::Newest => ("users.created_at", "<", "DESC"),
                    UserOrder::Oldest => ("users.created_at", ">", "ASC"),
                    UserOrder::Balance => ("live.balance", "<", "DESC"),
                };
                if let Some(before) = search.before {
                    // A user who is gone since has no place in the list.
                    if user::Entity::find_by_id(before.0).one(&database.read).await?.is_none() {
                        return Ok(Vec::new());
                    }
                    values.push(before.0.into());
                    let last = values.len();
                    let of_last = if search.order == UserOrder::Balance {
                        format!("(SELECT balance FROM account WHERE user_id = ${last} AND environment = $1)")
                    } else {
                        format!("(SELECT created_at FROM users WHERE id = ${last})")
                    };
                    let _ = write!(
                        conditions,
                        " AND ({column} {sign} {of_last} OR ({column} = {of_last} AND users.id {sign} ${last}))"
                    );
                }
                values.push(i64::try_from(search.limit).unwrap_or(i64::MAX).into());
                let limit = values.len();
                let begins = i64::from(search.spent_since.0).saturating_mul(MICROS_PER_DAY);
                values.push(search.spent_since.0.into());
                values.push(begins.into());
                let (day, begins) = (limit.saturating_add(1), limit.saturating_add(2));
                let place =
                    if search.order == UserOrder::Balance { "live_balance" } else { "created_at" };
                // What is summed up is looked for once the page is known. Calls that are in no
                // rollup yet are summed up by themselves.
                let sql = format!(
                    "SELECT page.*,
                        (SELECT CAST(COALESCE(SUM(cost), 0) AS BIGINT) FROM usage_day
                            WHERE account_id = page.live_id AND period >= ${day}) +
                        (SELECT CAST(COALESCE(SUM(cost), 0) AS BIGINT) FROM usage_record
                            WHERE number > (SELECT number FROM usage_mark)
                                AND account_id = page.live_id AND started_at >= ${begins})
                            AS spent,
                        (SELECT started_at FROM usage_record WHERE account_id = page.live_id
                            ORDER BY id DESC LIMIT 1) AS last_call_at
                    FROM (SELECT users.*, live.id AS live_id, live.balance AS live_balance,
                            live.status AS live_status
                        FROM users INNER JOIN account AS live
                            ON live.user_id = users.id AND live.environment = $1
                        WHERE TRUE{conditions}
                        ORDER BY {column} {direction}, users.id {direction} LIMIT ${limit})
                        AS page
                    ORDER BY {place} {direction}, id {direction}"
                );
                query(&database.read, &sql, values).await?.iter().map(listed).collect()
            })
            .await
    }
}

fn listed(row: &QueryResult) -> Result<ListedUser, StoreError> {
    let status = AccountStatus::from_code(row.try_get("", "live_status")?);
    Ok(ListedUser {
        user: user::Model::from_query_result(row, "")?.into(),
        balance: Credits::from_nanos(row.try_get("", "live_balance")?),
        status: status
            .ok_or_else(|| StoreError::Corrupt("an account has an unknown status".into()))?,
        spent: Credits::from_nanos(row.try_get("", "spent")?),
        last_call_at: row.try_get::<Option<i64>>("", "last_call_at")?.map(Timestamp::from_micros),
    })
}
