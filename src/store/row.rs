//! The columns of a table as one list, from which come the statements of both databases and the
//! values of a row.

use sea_orm::{Statement, Value};

/// A column of a table whose rows are `R`s.
pub(super) struct Column<R> {
    pub(super) name: &'static str,
    /// Its type in PostgreSQL.
    pub(super) kind: &'static str,
    /// What stands for NULL in an array, if it can be NULL: an array has a value in each place.
    pub(super) null: Option<&'static str>,
    /// The column of many rows, as an array of PostgreSQL.
    pub(super) array: fn(&[R]) -> Value,
}

/// A row of `N` columns. Made by [`row!`].
pub(super) trait Row<const N: usize>: Sized + 'static {
    /// The table.
    const TABLE: &'static str;
    /// Its columns, in the order of [`Row::values`].
    const COLUMNS: [Column<Self>; N];

    /// The row's values.
    fn values(&self) -> [Value; N];
}

/// Implements [`Row`]: `name: TYPE = value` for each column, and `name: TYPE or null = value` for
/// one whose value is an `Option`, with the literal that stands for NULL in an array and is the
/// type's default.
macro_rules! row {
    ($table:literal[$count:literal], |$row:ident: $record:ty| {
        $($name:ident: $kind:ident $(or $null:literal)? = $value:expr;)*
    }) => {
        impl $crate::store::row::Row<$count> for $record {
            const TABLE: &'static str = $table;
            const COLUMNS: [$crate::store::row::Column<Self>; $count] = [$($crate::store::row::Column {
                name: stringify!($name),
                kind: stringify!($kind),
                null: row!(@null $($null)?),
                array: |rows| $crate::store::sql::column(rows, |$row: &Self| row!(@filled $value $(, $null)?)),
            },)*];

            fn values(&self) -> [sea_orm::Value; $count] {
                let $row = self;
                [$($value.into(),)*]
            }
        }
    };
    (@null) => { None };
    (@null $null:literal) => { Some($null) };
    (@filled $value:expr) => { $value };
    (@filled $value:expr, $null:literal) => { $value.unwrap_or_default() };
}
pub(super) use row;

/// The names of columns.
pub(super) fn names<R>(columns: &[Column<R>]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// The columns of arrays as they are selected for the table: with NULL again.
pub(super) fn selected<R>(columns: &[Column<R>]) -> String {
    let column = |column: &Column<R>| match column.null {
        Some(null) => format!("NULLIF({}, {null})", column.name),
        None => column.name.to_owned(),
    };
    columns.iter().map(column).collect::<Vec<_>>().join(", ")
}

/// Parameters of a statement for PostgreSQL, which are arrays, numbered as they are used.
#[derive(Default)]
pub(super) struct Arrays(usize);

impl Arrays {
    /// The next ones, of these types.
    pub(super) fn of<'k>(&mut self, kinds: impl Iterator<Item = &'k str>) -> String {
        let array = |kind: &str| {
            self.0 = self.0.saturating_add(1);
            format!("${}::{kind}[]", self.0)
        };
        kinds.map(array).collect::<Vec<_>>().join(", ")
    }

    /// The next ones, one for each column.
    pub(super) fn of_columns<R>(&mut self, columns: &[Column<R>]) -> String {
        self.of(columns.iter().map(|column| column.kind))
    }
}

/// Writes one row.
pub(super) fn insert<R: Row<N>, const N: usize>(
    row: &R,
    connection: &impl sea_orm::ConnectionTrait,
) -> Statement {
    let numbers = (1..=N).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ");
    let sql = format!("INSERT INTO {} ({}) VALUES ({numbers})", R::TABLE, names(&R::COLUMNS));
    Statement::from_sql_and_values(connection.get_database_backend(), sql, row.values())
}
