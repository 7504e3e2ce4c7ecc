//! The spending of a key: on its last day, in its last month, and in total.

use sea_orm::entity::prelude::*;

/// The spending of a key: on its last day, in its last month, and in total.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "key_spend")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub key_id: Uuid,
    pub day: i32,
    pub day_spent: i64,
    pub month: i32,
    pub month_spent: i64,
    pub total_spent: i64,
    pub last_used_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
