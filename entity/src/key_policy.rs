//! What an API key may be used for.

use sea_orm::entity::prelude::*;

/// What an API key may be used for.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "key_policy")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub key_id: Uuid,
    pub scopes: Option<String>,
    pub models: Option<String>,
    pub networks: Option<String>,
    pub calls_per_minute: Option<i64>,
    pub warned_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
