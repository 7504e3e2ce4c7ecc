//! Sums of usage, over every call that is on record.

use std::fmt::Write as _;

use sea_orm::{ConnectionTrait as _, QueryResult, Statement, Value};
use uuid::Uuid;

use super::rollups::{
    BEYOND_MARK, Group, NAMES, RollupRow, SUMS, UsageOf, UsageQuestion, bucket_names, marked,
    summed_text,
};
use crate::store::connections::begin_snapshot;
use crate::store::error::StoreError;
use crate::store::reports::ReportStore;
use domain::rollup::{BUCKETS, Rollup};
use domain::{Credits, KeyId, UserId};

/// SQL of a group's name. Its columns are those of the sums, and `owner`.
const fn name_of(group: Option<Group>) -> &'static str {
    match group {
        None => "''",
        Some(Group::Key) => "key_id",
        Some(Group::Endpoint) => "TRIM(method || ' ' || route)",
        Some(Group::Model) => "model",
        Some(Group::Status) => "CAST(status AS TEXT)",
        Some(Group::Upstream) => "upstream",
        Some(Group::User | Group::Tier) => "owner",
    }
}

/// SQL of what else is known of the account of a row.
const fn owner_of(group: Option<Group>) -> &'static str {
    match group {
        Some(Group::User) => {
            ", (SELECT user_id FROM account WHERE account.id = calls_of.account_id) AS owner"
        }
        Some(Group::Tier) => {
            ", COALESCE((SELECT users.tier FROM account INNER JOIN users
                ON users.id = account.user_id WHERE account.id = calls_of.account_id), '') AS owner"
        }
        _ => "",
    }
}

/// SQL of the sums that the question asks for. `$1` is the mark, `$2` whose usage it is, `$3` and
/// `$4` the periods.
fn sums_text(of: UsageOf, question: UsageQuestion, values: &mut Vec<Value>) -> String {
    let UsageQuestion { grain, filter, by_period, group, only, top_by_cost, .. } = question;
    let mut conditions = filter.conditions(values);
    let (name, owner) = (name_of(group), owner_of(group));
    let mut of_owners = String::new();
    if let Some(only) = only {
        let mut names = String::new();
        for name in only {
            values.push(group.map_or_else(|| name.as_str().into(), |group| group.value(&name)));
            let comma = if names.is_empty() { "" } else { ", " };
            let _ = write!(names, "{comma}${}", values.len());
        }
        if owner.is_empty() {
            let _ = write!(conditions, " AND {name} IN ({names})");
        } else {
            of_owners = format!(" WHERE owner IN ({names})");
        }
    }
    let order = match top_by_cost {
        Some(most) => format!("SUM(cost) DESC, 2 LIMIT {most}"),
        None => "1, 2".to_owned(),
    };
    let period = if by_period { "period" } else { "0" };
    let mut sums = String::new();
    let buckets = (0..BUCKETS).map(|bucket| format!("l{bucket}"));
    for sum in SUMS.into_iter().map(str::to_owned).chain(buckets) {
        let _ = write!(sums, ", CAST(SUM({sum}) AS BIGINT)");
    }
    let whose = match of {
        UsageOf::Account(_) => "account_id = $2",
        UsageOf::All(_) => "account_id IN (SELECT id FROM account WHERE environment = $2)",
    };
    // A reader writes nothing, so it sums up the calls that are not folded. The plus hides the
    // index by account, which would lead over all calls of the account. The index by number leads
    // over few.
    let unfolded = summed_text(grain, &format!("{BEYOND_MARK} AND +{whose}"));
    let (table, buckets) = (grain.table(), bucket_names());
    let mut calls = format!(
        "SELECT {NAMES}{buckets} FROM {table}
        WHERE {whose} AND period >= $3 AND period < $4{conditions}
        UNION ALL SELECT {NAMES}{buckets} FROM ({unfolded}) AS unfolded
        WHERE period >= $3 AND period < $4{conditions}"
    );
    if !owner.is_empty() {
        calls = format!("SELECT calls_of.*{owner} FROM ({calls}) AS calls_of");
    }
    format!(
        "SELECT {period} AS p, {name} AS g,
            CAST(SUM(CASE WHEN status < 200 OR status > 299 THEN calls ELSE 0 END) AS BIGINT){sums}
        FROM ({calls}) AS rollups{of_owners} GROUP BY 1, 2 ORDER BY {order}"
    )
}

impl ReportStore {
    /// Sums up usage, over every call that is on record.
    pub async fn usage(
        &self,
        of: UsageOf,
        question: UsageQuestion,
    ) -> Result<Vec<RollupRow>, StoreError> {
        let (from, until) = question.periods;
        if until <= from {
            return Ok(Vec::new());
        }
        self.database
            .run(move |database| async move {
                let snapshot = begin_snapshot(&database.read).await?;
                let backend = snapshot.get_database_backend();
                let mark = marked(&snapshot, "").await?;
                let whose: Value = match of {
                    UsageOf::Account(account) => account.0.into(),
                    UsageOf::All(environment) => environment.code().into(),
                };
                let group = question.group;
                let mut values: Vec<Value> = vec![mark.into(), whose, from.into(), until.into()];
                let sql = sums_text(of, question, &mut values);
                let statement = Statement::from_sql_and_values(backend, sql, values);
                let rows = snapshot.query_all_raw(statement).await?;
                snapshot.commit().await?;
                rows.iter().map(|row| rollup_row(row, group)).collect()
            })
            .await
    }
}

fn rollup_row(row: &QueryResult, group: Option<Group>) -> Result<RollupRow, StoreError> {
    let number = |place: usize| row.try_get_by_index::<i64>(place);
    let mut buckets = [0; BUCKETS];
    for (place, count) in buckets.iter_mut().enumerate() {
        *count = number(place.saturating_add(8))?;
    }
    let group = match group {
        Some(Group::Key) => KeyId(row.try_get_by_index::<Uuid>(1)?).to_string(),
        Some(Group::User) => UserId(row.try_get_by_index::<Uuid>(1)?).to_string(),
        _ => row.try_get_by_index(1)?,
    };
    Ok(RollupRow {
        period: row.try_get_by_index(0)?,
        group,
        errors: number(2)?,
        rollup: Rollup {
            calls: number(3)?,
            cost: Credits::from_nanos(number(4)?),
            prompt_tokens: number(5)?,
            completion_tokens: number(6)?,
            latency_micros: number(7)?,
            buckets,
        },
    })
}
