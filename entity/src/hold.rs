//! An open hold.

use sea_orm::entity::prelude::*;

/// An open hold.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "hold")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub account_id: i64,
    pub key_id: Uuid,
    pub epoch: i64,
    pub day: i32,
    pub month: i32,
    pub amount: i64,
    pub earned: i64,
    pub opened_at: i64,
    pub expires_at: i64,
    pub price_version: Option<i32>,
    pub bill: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
