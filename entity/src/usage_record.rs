//! A usage record: what one call did.

use sea_orm::entity::prelude::*;

/// A usage record: what one call did.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "usage_record")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub number: i64,
    pub id: Uuid,
    pub account_id: i64,
    pub seq: Option<i64>,
    pub key_id: Uuid,
    pub method: String,
    pub route: String,
    pub upstream: String,
    pub status: i16,
    pub cost: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub started_at: i64,
    pub latency_micros: i64,
    pub ending: i16,
    pub tally: i16,
    pub model: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
