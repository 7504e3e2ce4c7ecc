//! Statements that both databases understand, and the few helpers that every file of the store
//! needs to make them.

use std::sync::OnceLock;

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    DbErr, QueryResult, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait as _, Value,
};

use super::Store;
use super::error::{CommitError, StoreError};
use super::row::{Row, names};

/// Rows that one statement deletes at most, so that no other statement waits long for it.
pub(super) const DELETED_MAX: u64 = 500;

/// Rows of each table that PostgreSQL is given in one statement: it has a processor for itself
/// until it is done.
pub(super) const PIECE: usize = 256;

/// Is it PostgreSQL that this connection speaks to, or SQLite?
pub(super) fn is_postgres(connection: &impl ConnectionTrait) -> bool {
    connection.get_database_backend() == DbBackend::Postgres
}

/// Connects. The future of `Database::connect` has 17 KB: in a box, those who await it do not have
/// them too.
pub(super) async fn connect(options: ConnectOptions) -> Result<DatabaseConnection, DbErr> {
    Box::pin(Database::connect(options)).await
}

/// Begins a transaction that may write from its first statement on.
pub(super) async fn begin_write(
    connection: &DatabaseConnection,
) -> Result<DatabaseTransaction, DbErr> {
    connection
        .begin_with_options(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        })
        .await
        .map_err(|error| match error {
            // Whatever came of it, nothing was written.
            DbErr::Query(error) | DbErr::Exec(error) => DbErr::Conn(error),
            error => error,
        })
}

/// Executes a statement; says how many rows it wrote.
pub(super) async fn execute<const N: usize>(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: [Value; N],
) -> Result<u64, DbErr> {
    let backend = connection.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, sql, values);
    Ok(connection.execute_raw(statement).await?.rows_affected())
}

/// The rows that answer a statement.
pub(super) async fn query<const N: usize>(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: [Value; N],
) -> Result<Vec<QueryResult>, StoreError> {
    let backend = connection.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, sql, values);
    Ok(connection.query_all_raw(statement).await?)
}

/// The first number of the first row; 0 if there is none.
pub(super) async fn count<const N: usize>(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: [Value; N],
) -> Result<i64, StoreError> {
    let rows = query(connection, sql, values).await?;
    Ok(rows.first().map(|row| row.try_get_by_index::<i64>(0)).transpose()?.unwrap_or(0))
}

/// One text cell of one row.
pub(super) async fn text_cell(
    connection: &DatabaseConnection,
    sql: &str,
) -> Result<String, StoreError> {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one_raw(statement).await?;
    let row = row.ok_or_else(|| StoreError::Corrupt(format!("no answer to {sql}")))?;
    Ok(row.try_get_by_index::<String>(0)?)
}

/// One column of the rows, as a PostgreSQL array.
pub(super) fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Value
where
    Vec<T>: Into<Value>,
{
    rows.iter().map(value).collect::<Vec<T>>().into()
}

/// `VALUES` for so many rows of so many columns.
pub(super) fn placeholders(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    format!("VALUES {}", vec![row; rows].join(","))
}

/// The values of rows, one after the other, and NULL for each row that the text has room for beyond
/// them.
pub(super) fn push_rows<const N: usize>(
    values: &mut Vec<Value>,
    rows: impl ExactSizeIterator<Item = [Value; N]>,
    capacity: usize,
) {
    let padding = capacity.saturating_sub(rows.len()).saturating_mul(N);
    values.extend(rows.flatten());
    values.extend(std::iter::repeat_n(Value::BigInt(None), padding));
}

/// A statement for PostgreSQL and the same for SQLite.
pub(super) type Sql = (&'static str, &'static str);

/// The one for this connection.
pub(super) fn statement(
    connection: &impl ConnectionTrait,
    sql: Sql,
    values: Vec<Value>,
) -> Statement {
    let text = if is_postgres(connection) { sql.0 } else { sql.1 };
    Statement::from_sql_and_values(connection.get_database_backend(), text, values)
}

/// The rows as one JSON text: an array of arrays.
pub(super) fn json<R: serde::Serialize>(rows: impl Iterator<Item = R>) -> Result<Value, DbErr> {
    let rows: Vec<R> = rows.collect();
    serde_json::to_string(&rows).map(Value::from).map_err(|error| DbErr::Json(error.to_string()))
}

/// A statement of SQLite that writes many rows: its text before and after the `VALUES` of the rows.
///
/// What is refused fails the transaction, so no statement need be undone by itself: with `OR FAIL`
/// SQLite does not copy each page that a statement changes.
pub(super) struct Table {
    padded: RowTexts,
    /// For as many rows as there is room for: SQLite then need not look which rows are there.
    full: Option<RowTexts>,
}

/// Most rows in one text. Each row is code of its own in the prepared statement, which is made and
/// kept for each connection: for more rows that costs more than a statement less is worth.
const CAPACITY_MAX: usize = 128;

/// RowTexts by their capacities, which are powers of two: few enough that each stays prepared.
struct RowTexts {
    before: String,
    after: String,
    made: [OnceLock<String>; 8],
}

impl RowTexts {
    const fn new(before: String, after: String) -> Self {
        RowTexts { before, after, made: [const { OnceLock::new() }; 8] }
    }

    /// The text with room for so many rows of so many columns.
    fn of(&self, capacity: usize, columns: usize) -> &str {
        let place = usize::try_from(capacity.trailing_zeros()).unwrap_or(0);
        let make = || format!("{}{}{}", self.before, placeholders(capacity, columns), self.after);
        let text = self.made.get(place).map(|text| text.get_or_init(make));
        text.map_or("", String::as_str)
    }
}

impl Table {
    /// One that does with the rows what is before and after them.
    pub(super) fn new(before: &str, after: &str) -> Self {
        Table { padded: RowTexts::new(format!("{before} ("), format!(") {after}")), full: None }
    }

    /// One that inserts rows with these columns, and then does what `after` says.
    pub(super) fn inserting(table: &str, names: &str, after: &str) -> Self {
        let insert = format!("INSERT OR FAIL INTO {table} ({names})");
        let padded = Table::new(
            &format!("{insert} SELECT * FROM"),
            &format!("WHERE column1 IS NOT NULL {after}"),
        );
        Table { full: Some(RowTexts::new(format!("{insert} "), format!(" {after}"))), ..padded }
    }

    /// One that inserts rows of this kind, and then does what `after` says.
    pub(super) fn inserting_rows<R: Row<N>, const N: usize>(after: &str) -> Self {
        Table::inserting(R::TABLE, &names(&R::COLUMNS), after)
    }

    /// Writes the rows. All of them must be taken.
    pub(super) async fn write<R, const N: usize>(
        &self,
        transaction: &DatabaseTransaction,
        rows: &[R],
        values_of: impl Fn(&R) -> [Value; N],
    ) -> Result<(), CommitError> {
        let mut rest = rows;
        while !rest.is_empty() {
            let capacity = capacity(rest.len());
            let (rows, others) = rest.split_at(capacity.min(rest.len()));
            let full = self.full.as_ref().filter(|_| rows.len() == capacity);
            let text = full.unwrap_or(&self.padded).of(capacity, N);
            let mut values = Vec::with_capacity(capacity.saturating_mul(N));
            push_rows(&mut values, rows.iter().map(&values_of), capacity);
            let statement = Statement::from_sql_and_values(DbBackend::Sqlite, text, values);
            let written = transaction.execute_raw(statement).await?.rows_affected();
            all_written(written, rows.len())?;
            rest = others;
        }
        Ok(())
    }
}

/// The room of the text for the first of so many rows: many are taken in full texts, few in one
/// with some room left.
fn capacity(rows: usize) -> usize {
    let above = rows.clamp(1, CAPACITY_MAX).next_power_of_two();
    if above > rows && above > 64 { above / 2 } else { above }
}

/// Refuses a batch of which the database has taken fewer rows than it was given.
pub(super) fn all_written(written: u64, expected: usize) -> Result<(), CommitError> {
    if usize::try_from(written).is_ok_and(|written| written == expected) {
        Ok(())
    } else {
        Err(CommitError::Refused("an account's ledger has moved on elsewhere".into()))
    }
}

impl Store {
    /// Deletes rows that are no longer needed, at most [`DELETED_MAX`] of them; says whether there
    /// may be more. The statement must limit itself to that many.
    pub(super) async fn delete_some<const N: usize>(
        &self,
        sql: &str,
        values: [Value; N],
    ) -> Result<bool, StoreError> {
        let deleted = execute(&self.write, sql, values).await?;
        Ok(deleted == DELETED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::Database;

    use super::*;
    use crate::store::options::options;

    #[tokio::test]
    async fn a_write_that_did_not_begin_did_not_happen() {
        let connection = Database::connect(options("sqlite::memory:", 1)).await.unwrap();
        connection.execute_unprepared("PRAGMA query_only = ON").await.unwrap();
        let error = begin_write(&connection).await.unwrap_err();
        let told = StoreError::Database(error).of_unrepeated_write();
        assert!(matches!(told, StoreError::Database(DbErr::Conn(_))), "{told}");
    }
}
