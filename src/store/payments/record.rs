//! The rows of payments.

use domain::{AccountId, Credits, NewPayment, PaymentId, PaymentStatus, Timestamp};
use entity::payment;

use crate::store::StoreError;

/// A payment as stored.
#[derive(Clone, Debug)]
pub struct Payment {
    /// Its id.
    pub id: PaymentId,
    /// The account that it tops up.
    pub account: AccountId,
    /// The provider.
    pub provider: String,
    /// Its status.
    pub status: PaymentStatus,
    /// The amount.
    pub amount: Credits,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the payer confirmed at the provider.
    pub confirming_at: Option<Timestamp>,
    /// When the account was credited.
    pub confirmed_at: Option<Timestamp>,
    /// When it failed or expired.
    pub ended_at: Option<Timestamp>,
    /// Until when the payer may pay.
    pub expires_at: Option<Timestamp>,
    /// Its id at the provider.
    pub provider_ref: Option<String>,
    /// The page on which the payer pays.
    pub checkout_url: Option<String>,
    /// The saved payment method that is charged.
    pub method: Option<String>,
    /// Did the server begin it, as an automatic top-up?
    pub is_auto: bool,
    /// Why it failed.
    pub failure: Option<String>,
    /// How often the server has checked it at the provider.
    pub looks: i32,
}

impl Payment {
    /// A payment that is created and confirmed at once.
    #[must_use]
    pub fn confirmed(payment: &NewPayment) -> Self {
        Payment {
            id: payment.id,
            account: payment.account,
            provider: payment.provider.to_owned(),
            status: PaymentStatus::Confirmed,
            amount: payment.amount,
            created_at: payment.at,
            confirming_at: None,
            confirmed_at: Some(payment.at),
            ended_at: None,
            expires_at: None,
            provider_ref: None,
            checkout_url: None,
            method: None,
            is_auto: false,
            failure: None,
            looks: 0,
        }
    }
}

/// A payment to insert.
#[derive(Clone, Debug)]
pub struct OpenPayment {
    /// Its id.
    pub id: PaymentId,
    /// The account that it tops up.
    pub account: AccountId,
    /// The provider.
    pub provider: &'static str,
    /// Its id at the provider, if it is known.
    pub provider_ref: Option<String>,
    /// The amount.
    pub amount: Credits,
    /// The saved payment method to charge.
    pub method: Option<String>,
    /// Does the server begin it, as an automatic top-up?
    pub is_auto: bool,
    /// The digest of the idempotency key, if there is one.
    pub request_digest: Option<[u8; 32]>,
    /// If the request came since this time, a repeat begins no second payment.
    pub once_from: Timestamp,
    /// When it begins.
    pub at: Timestamp,
    /// Until when the payer may pay.
    pub expires_at: Timestamp,
}

/// A payment's id at its provider, and the page on which it is paid.
#[derive(Clone, Debug, Default)]
pub struct ProviderFacts {
    /// Its id at the provider.
    pub provider_ref: Option<String>,
    /// The page on which the payer pays.
    pub checkout_url: Option<String>,
}

pub(super) fn payment(row: payment::Model) -> Result<Payment, StoreError> {
    let status = PaymentStatus::from_code(row.status)
        .ok_or_else(|| StoreError::Corrupt(format!("payment {} has an unknown status", row.id)))?;
    let at = |micros: Option<i64>| micros.map(Timestamp::from_micros);
    Ok(Payment {
        id: PaymentId(row.id),
        account: AccountId(row.account_id),
        provider: row.provider,
        status,
        amount: Credits::from_nanos(row.amount),
        created_at: Timestamp::from_micros(row.created_at),
        confirming_at: at(row.confirming_at),
        confirmed_at: at(row.confirmed_at),
        ended_at: at(row.ended_at),
        expires_at: at(row.expires_at),
        provider_ref: row.provider_ref,
        checkout_url: row.checkout_url,
        method: row.method,
        is_auto: row.is_auto,
        failure: row.failure,
        looks: row.looks,
    })
}
