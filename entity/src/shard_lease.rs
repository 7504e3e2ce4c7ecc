//! The lease of a shard: which process may write its accounts. The epoch never decreases.

use sea_orm::entity::prelude::*;

/// The lease of a shard: which process may write its accounts. The epoch never decreases.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "shard_lease")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i32,
    pub owner: Option<Uuid>,
    pub epoch: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
