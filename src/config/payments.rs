//! `[payments]`.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::lenient::money;
use super::validate::amount;
use super::{Secret, Settings, non_zero};
use domain::Credits;

/// `[payments]`: how credits are bought.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaymentSettings {
    /// The sandbox provider confirms every payment and takes no money. If true, everybody may use
    /// it; with a live Stripe key that is refused. If it is unset, it is on only while the server
    /// listens on a loopback address, the catalogue has no models, and no upstream URL, Stripe,
    /// x402 or trusted proxy is set; and only for requests that did not come through a proxy.
    pub sandbox: Option<bool>,
    /// If true, payments in money of a test (a test key of Stripe, or x402 on a test network) may
    /// buy credits for upstreams with a URL and for models of the catalogue. If false, the server
    /// does not start with such an upstream, and refuses payments while the catalogue has models.
    pub sell_for_test_money: bool,
    /// Largest payment, in USD.
    #[serde(deserialize_with = "money")]
    pub amount_max: String,
    /// Largest grant of credits by an operator to a live account, in USD.
    #[serde(deserialize_with = "money")]
    pub grant_max: String,
    /// Most that one operator may grant to live accounts in a UTC day, in USD.
    #[serde(deserialize_with = "money")]
    pub grants_per_day_max: String,
    /// Credits of a new user's test account, in USD.
    #[serde(deserialize_with = "money")]
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
            sell_for_test_money: false,
            amount_max: "100000.00".into(),
            grant_max: "1000.00".into(),
            grants_per_day_max: "10000.00".into(),
            test_credits: "100.00".into(),
            stripe: StripeSettings::default(),
            x402: X402Settings::default(),
        }
    }
}

/// Who may pay by the sandbox provider, which gives credits away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxPayments {
    /// Nobody.
    Off,
    /// Only requests that come directly from the same machine. The settings do not switch the
    /// sandbox on, and they sell nothing.
    Direct,
    /// Everybody. The operator has switched it on.
    On,
}

impl SandboxPayments {
    /// Says whether a request may pay by it. `is_direct` is true if the request came without a
    /// proxy.
    #[must_use]
    pub fn allows(self, is_direct: bool) -> bool {
        match self {
            SandboxPayments::Off => false,
            SandboxPayments::Direct => is_direct,
            SandboxPayments::On => true,
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
    #[serde(deserialize_with = "money")]
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
    #[serde(deserialize_with = "money")]
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

/// Chains whose tokens are worth nothing, by their number: those of the networks that x402 is used
/// on, and of local nodes.
const TEST_CHAINS: [&str; 18] = [
    "97", "300", "338", "1301", "1328", "1337", "4202", "10200", "17000", "31337", "43113",
    "59141", "80002", "84532", "421614", "534351", "11155111", "11155420",
];

impl X402Settings {
    /// Says whether the network is known to be one for tests.
    #[must_use]
    pub fn is_on_test_network(&self) -> bool {
        let chain = self.network.strip_prefix("eip155:").unwrap_or_default();
        TEST_CHAINS.contains(&chain)
    }
}

impl StripeSettings {
    /// Says whether the secret key moves real money. That is any key that is not marked as a test
    /// key.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let is_test = |key: &str| key.starts_with("sk_test_") || key.starts_with("rk_test_");
        self.secret_key.as_ref().is_some_and(|key| !is_test(key.expose()))
    }
}

impl Settings {
    /// Who may pay by the sandbox provider.
    #[must_use]
    pub fn sandbox_payments(&self) -> SandboxPayments {
        match self.payments.sandbox {
            Some(true) => SandboxPayments::On,
            None if self.server.bind.ip().is_loopback() && !self.is_public() => {
                SandboxPayments::Direct
            }
            Some(false) | None => SandboxPayments::Off,
        }
    }

    /// Says whether the settings have real upstreams, real payments or a proxy in front.
    fn is_public(&self) -> bool {
        self.upstreams.groups().iter().any(|(_, upstream)| upstream.url.is_some())
            || self.payments.stripe.secret_key.is_some()
            || self.payments.x402.facilitator_url.is_some()
            || !self.server.trusted_proxies.is_empty()
    }

    /// The largest payment.
    pub fn payment_amount_max(&self) -> anyhow::Result<Credits> {
        amount("payments.amount_max", &self.payments.amount_max)
    }

    /// The largest grant of an operator, and the most in a day.
    pub fn grant_caps(&self) -> anyhow::Result<(Credits, Credits)> {
        let each = amount("payments.grant_max", &self.payments.grant_max)?;
        let day = amount("payments.grants_per_day_max", &self.payments.grants_per_day_max)?;
        Ok((each, day))
    }

    /// The balance that a user's test account starts with.
    pub fn test_credits(&self) -> anyhow::Result<Credits> {
        amount("payments.test_credits", &self.payments.test_credits)
    }
}

impl PaymentSettings {
    /// The setting by which payments move no real money, unless it is allowed to sell for that.
    #[must_use]
    pub fn test_money(&self) -> Option<&'static str> {
        if self.sell_for_test_money {
            None
        } else if self.stripe.secret_key.is_some() && !self.stripe.is_live() {
            Some("payments.stripe.secret_key is a test key")
        } else if self.x402.facilitator_url.is_some() && self.x402.is_on_test_network() {
            Some("payments.x402.network is a test network")
        } else {
            None
        }
    }

    /// The smallest payment by Stripe.
    pub fn stripe_amount_min(&self) -> anyhow::Result<Credits> {
        amount("payments.stripe.amount_min", &self.stripe.amount_min)
    }

    /// The x402 payment that is asked for if the balance does not cover a call.
    pub fn x402_amount(&self) -> anyhow::Result<Credits> {
        amount("payments.x402.amount", &self.x402.amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Option<Secret> {
        serde_json::from_value(text.into()).unwrap()
    }

    #[test]
    fn credits_are_given_away_unasked_only_where_nothing_is_sold() {
        type Change<'c> = &'c dyn Fn(&mut Settings);
        let all: [(&str, Change<'_>, SandboxPayments); 13] = [
            ("quick start", &|_| (), SandboxPayments::Direct),
            ("v6", &|it| it.server.bind = "[::1]:8080".parse().unwrap(), SandboxPayments::Direct),
            ("all", &|it| it.server.bind = "0.0.0.0:1".parse().unwrap(), SandboxPayments::Off),
            ("all v6", &|it| it.server.bind = "[::]:1".parse().unwrap(), SandboxPayments::Off),
            ("host", &|it| it.server.bind = "192.0.2.1:1".parse().unwrap(), SandboxPayments::Off),
            ("v1", &|it| it.upstreams.v1.url = Some("http://x".into()), SandboxPayments::Off),
            ("hub", &|it| it.upstreams.hub.url = Some("http://x".into()), SandboxPayments::Off),
            ("omm", &|it| it.upstreams.omm.url = Some("http://x".into()), SandboxPayments::Off),
            (
                "yggdrasil",
                &|it| it.upstreams.yggdrasil.url = Some("http://x".into()),
                SandboxPayments::Off,
            ),
            (
                "stripe",
                &|it| it.payments.stripe.secret_key = secret("sk_test_1"),
                SandboxPayments::Off,
            ),
            (
                "x402",
                &|it| it.payments.x402.facilitator_url = Some("http://x".into()),
                SandboxPayments::Off,
            ),
            (
                "proxy",
                &|it| it.server.trusted_proxies = vec!["10.0.0.1".parse().unwrap()],
                SandboxPayments::Off,
            ),
            ("by name", &|it| it.payments.sandbox = Some(false), SandboxPayments::Off),
        ];
        for (name, change, expected) in all {
            let mut settings = Settings::default();
            change(&mut settings);
            assert_eq!(settings.sandbox_payments(), expected, "{name}");
            // If it is switched on, it is on everywhere.
            settings.payments.sandbox = Some(true);
            assert_eq!(settings.sandbox_payments(), SandboxPayments::On, "{name}");
        }
    }

    #[test]
    fn money_of_a_test_buys_nothing_of_an_upstream() {
        let stripe = |key| {
            let mut settings = Settings::default();
            settings.payments.stripe.secret_key = secret(key);
            settings.payments.stripe.webhook_secret = secret("whsec_1");
            settings
        };
        let x402 = |network: &str| {
            let mut settings = Settings::default();
            settings.payments.x402.facilitator_url = Some("https://a.example".to_owned());
            settings.payments.x402.pay_to = "0x1".to_owned();
            settings.payments.x402.network = network.to_owned();
            settings
        };
        let cases = vec![
            (stripe("sk_test_1"), true),
            (stripe("rk_test_1"), true),
            (stripe("sk_live_1"), false),
            (x402("eip155:84532"), true),
            (x402("eip155:8453"), false),
            (Settings::default(), false),
        ];
        for (mut settings, is_test) in cases {
            assert!(settings.check().is_ok());
            settings.upstreams.hub.url = Some("https://b.example".to_owned());
            let error = settings.check().err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(error.contains("payments.sell_for_test_money"), is_test, "{error}");
            settings.payments.sell_for_test_money = true;
            assert!(settings.check().is_ok());
        }
    }

    #[test]
    fn the_sandbox_is_refused_beside_a_live_key_of_stripe() {
        for (key, is_refused) in [
            ("sk_test_1", false),
            ("rk_test_1", false),
            ("sk_live_1", true),
            ("rk_live_1", true),
            ("sk_1", true),
        ] {
            let mut settings = Settings::default();
            settings.payments.stripe.secret_key = secret(key);
            settings.payments.stripe.webhook_secret = secret("whsec_1");
            assert!(settings.check().is_ok(), "{key}");
            settings.payments.sandbox = Some(true);
            let error = settings.check().err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(error.contains("payments.sandbox"), is_refused, "{key}: {error}");
        }
    }
}
