//! A prepaid account. Each user has a live one and a test one.

use sea_orm::entity::prelude::*;

/// A prepaid account. Each user has a live one and a test one.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "account")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub user_id: Uuid,
    pub environment: i16,
    pub status: i16,
    pub balance: i64,
    pub seq: i64,
    pub updated_at: i64,
    pub created_at: i64,
    pub link: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
