//! A ledger entry: one movement of money. The table is append-only.

use sea_orm::entity::prelude::*;

/// A ledger entry: one movement of money. The table is append-only.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "ledger_entry")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub account_id: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    pub epoch: i64,
    pub kind: i16,
    pub amount: i64,
    pub balance_after: i64,
    pub reference: Uuid,
    pub key_id: Option<Uuid>,
    pub day: i32,
    pub month: i32,
    pub at: i64,
    pub link: Vec<u8>,
    pub price_version: Option<i32>,
    pub bill: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
