//! The end of a hold. Each hold has at most one.

use sea_orm::entity::prelude::*;

/// The end of a hold. Each hold has at most one.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "hold_end")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub account_id: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub hold_id: Uuid,
    pub kind: i16,
    pub held: i64,
    pub captured: i64,
    pub at: i64,
    pub epoch: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
