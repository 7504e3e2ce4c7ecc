//! A payment that tops up an account.

use sea_orm::entity::prelude::*;

/// A payment that tops up an account.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "payment")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub account_id: i64,
    pub provider: String,
    pub status: i16,
    pub amount: i64,
    pub created_at: i64,
    pub confirmed_at: Option<i64>,
    pub provider_ref: Option<String>,
    pub checkout_url: Option<String>,
    pub method: Option<String>,
    pub is_auto: bool,
    pub confirming_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub failure: Option<String>,
    pub request_digest: Option<Vec<u8>>,
    pub look_at: Option<i64>,
    pub looks: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
