//! A person who logs in.

use sea_orm::entity::prelude::*;

/// A person who logs in.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub email: String,
    pub email_folded: String,
    pub username: String,
    pub username_folded: String,
    pub username_skeleton: String,
    pub password_hash: String,
    pub role: i16,
    pub is_email_verified: bool,
    pub token_version: i64,
    pub tier: Option<String>,
    pub created_at: i64,
    pub totp_secret: Option<Vec<u8>>,
    pub totp_enabled_at: Option<i64>,
    pub totp_step: i64,
    pub wrong_codes: i64,
    pub wrong_codes_day: i32,
    pub erasing_at: Option<i64>,
    pub erased_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
