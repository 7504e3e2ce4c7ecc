//! `[payments]`.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::validate::amount;
use super::{Secret, Settings, non_zero};
use domain::Credits;

/// `[payments]`: how credits are bought.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaymentSettings {
    /// If true, the sandbox provider is offered, which confirms every payment and takes no money.
    /// If it is unset, it is offered only if the server listens on a loopback address.
    pub sandbox: Option<bool>,
    /// Largest payment, in USD.
    pub amount_max: String,
    /// Credits of a new user's test account, in USD.
    pub test_credits: String,
    /// Payments by Stripe.
    pub stripe: StripeSettings,
    /// Payments with stablecoins, by the x402 protocol.
    pub x402: X402Settings,
}

impl Default for PaymentSettings {
    fn default() -> Self {
        PaymentSettings {
            sandbox: None,
            amount_max: "100000.00".into(),
            test_credits: "100.00".into(),
            stripe: StripeSettings::default(),
            x402: X402Settings::default(),
        }
    }
}

/// `[payments.stripe]`: payments by Stripe.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StripeSettings {
    /// Stripe's secret key (`sk_...` or `rk_...`). If it is unset, Stripe is not offered.
    pub secret_key: Option<Secret>,
    /// Secret with which Stripe signs its webhooks (`whsec_...`). It is required with `secret_key`.
    pub webhook_secret: Option<Secret>,
    /// Base URL of Stripe's API.
    pub url: String,
    /// Your page for payers who have paid. Stripe fills in `{CHECKOUT_SESSION_ID}`.
    pub success_url: String,
    /// Your page for payers who have cancelled.
    pub cancel_url: String,
    /// How long a payer may take to pay, in minutes: from 31 to 1,440.
    pub checkout_minutes: u32,
    /// Smallest payment, in USD.
    pub amount_min: String,
}

impl Default for StripeSettings {
    fn default() -> Self {
        StripeSettings {
            secret_key: None,
            webhook_secret: None,
            url: "https://api.stripe.com".into(),
            success_url: "https://localhost/paid".into(),
            cancel_url: "https://localhost/not-paid".into(),
            checkout_minutes: 60,
            amount_min: "1.00".into(),
        }
    }
}

/// `[payments.x402]`: payments with stablecoins, by the x402 protocol.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct X402Settings {
    /// Base URL of the facilitator that verifies and settles payments. If it is unset, x402 is not
    /// offered.
    pub facilitator_url: Option<String>,
    /// API key that is sent to the facilitator as `Authorization: Bearer`.
    pub facilitator_api_key: Option<Secret>,
    /// Address that receives the payments. It is required with `facilitator_url`.
    pub pay_to: String,
    /// Network, by its CAIP-2 name. The default is Base.
    pub network: String,
    /// Contract of the token, which must be worth one dollar and have six decimals. The default is
    /// USDC on Base.
    pub asset: String,
    /// Name of the token as its contract gives it for signatures (EIP-712).
    pub asset_name: String,
    /// Version of the token as its contract gives it for signatures (EIP-712).
    pub asset_version: String,
    /// Payment that is asked for if the balance does not cover a call, in USD. A more expensive
    /// call asks for its price.
    pub amount: String,
    /// How long the settlement of a payment may take, in seconds.
    pub timeout_seconds: NonZeroU32,
}

impl Default for X402Settings {
    fn default() -> Self {
        X402Settings {
            facilitator_url: None,
            facilitator_api_key: None,
            pay_to: String::new(),
            network: "eip155:8453".into(),
            asset: "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913".into(),
            asset_name: "USD Coin".into(),
            asset_version: "2".into(),
            amount: "1.00".into(),
            timeout_seconds: non_zero::u32(60),
        }
    }
}

impl Settings {
    /// The largest payment.
    pub fn payment_amount_max(&self) -> anyhow::Result<Credits> {
        amount("payments.amount_max", &self.payments.amount_max)
    }

    /// The balance that a user's test account starts with.
    pub fn test_credits(&self) -> anyhow::Result<Credits> {
        amount("payments.test_credits", &self.payments.test_credits)
    }
}

impl PaymentSettings {
    /// The smallest payment by Stripe.
    pub fn stripe_amount_min(&self) -> anyhow::Result<Credits> {
        amount("payments.stripe.amount_min", &self.stripe.amount_min)
    }

    /// The x402 payment that is asked for if the balance does not cover a call.
    pub fn x402_amount(&self) -> anyhow::Result<Credits> {
        amount("payments.x402.amount", &self.x402.amount)
    }
}
