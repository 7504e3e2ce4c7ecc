//! x402: payment by a signed transfer of a stablecoin, sent in a header, verified and settled by a
//! facilitator.
//!
//! Version 2 of the protocol (`PAYMENT-REQUIRED`, `PAYMENT-SIGNATURE`, `PAYMENT-RESPONSE`), scheme
//! `exact`. A token is a dollar and has six decimals. On EVM networks, by EIP-3009: an
//! authorization can be settled once, on the chain, by its payer and nonce. So they name its
//! payment: sent twice, however it is written, it is the same payment.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::provider::{Order, Progress, Provider, ProviderAnswer, ProviderError, Stage, at};
use crate::config::{Secret, X402Settings};
use crate::store::payments::Payment;
use domain::{Credits, PaymentStatus, Timestamp};

/// Its name in the API.
pub const NAME: &str = "x402";
/// The longest header that is read, in bytes.
const HEADER_MAX: usize = 16 * 1024;
/// The largest answer that is read, in bytes.
const ANSWER_MAX: usize = 1024 * 1024;
const NANOS_PER_UNIT: i64 = 1_000;

/// See the module.
pub struct X402 {
    client: reqwest::Client,
    runtime: Handle,
    url: String,
    api_key: Option<Secret>,
    settings: X402Settings,
    /// The least amount that a call without enough balance asks for.
    pub amount: Credits,
}

/// The requirements of a payment (x402, PaymentRequirements).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requirements {
    scheme: String,
    network: String,
    amount: String,
    asset: String,
    pay_to: String,
    max_timeout_seconds: u32,
    extra: Value,
}

/// A signed payment from a client (x402, PaymentPayload).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedPayment {
    x402_version: u32,
    accepted: Requirements,
    payload: ExactPayload,
}

/// A signed EIP-3009 authorization (x402, scheme `exact` on EVM). Other fields are dropped, so that
/// one authorization has one text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ExactPayload {
    signature: String,
    authorization: Authorization,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorization {
    from: String,
    to: String,
    value: String,
    valid_after: String,
    valid_before: String,
    nonce: String,
}

/// The header is not a valid payment; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotPayable(pub String);

impl SignedPayment {
    /// Reads `PAYMENT-SIGNATURE`.
    pub fn read(header: &[u8]) -> Result<Self, NotPayable> {
        let malformed = |what: &str| NotPayable(format!("PAYMENT-SIGNATURE {what}"));
        if header.len() > HEADER_MAX {
            return Err(malformed("is too long"));
        }
        let text = STANDARD.decode(header).map_err(|_| malformed("must be base64"))?;
        // Decoded as text first, because serde does not check the bytes of fields it skips.
        let text = String::from_utf8(text).map_err(|_| malformed("must be JSON in UTF-8"))?;
        let read: Self = serde_json::from_str(&text)
            .map_err(|_| malformed("must be a PaymentPayload of x402 version 2"))?;
        if read.x402_version != 2 {
            return Err(malformed("must be of x402Version 2"));
        }
        Ok(read)
    }

    /// How much it pays.
    #[must_use]
    pub fn amount(&self) -> Option<Credits> {
        let units: i64 = self.accepted.amount.parse().ok()?;
        units.checked_mul(NANOS_PER_UNIT).map(Credits::from_nanos)
    }

    /// The reference under which its payment is recorded: the payer and nonce that identify it on
    /// the chain.
    #[must_use]
    pub fn provider_ref(&self) -> String {
        let Authorization { from, nonce, .. } = &self.payload.authorization;
        let parts = [&self.accepted.network, &self.accepted.asset, from, nonce];
        let name = parts.map(|part| part.to_ascii_lowercase()).join(" ");
        hex::encode(Sha256::digest(name))
    }

    /// The text to store, to be settled after a crash.
    #[must_use]
    pub fn stored_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl X402 {
    /// Is its money without worth?
    #[must_use]
    pub fn is_on_test_network(&self) -> bool {
        self.settings.is_on_test_network()
    }

    /// The client of the settings; `None` if x402 is not used. Requests run on `runtime`.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        settings: &X402Settings,
        amount: Credits,
        runtime: Handle,
    ) -> anyhow::Result<Option<Self>> {
        let Some(url) = &settings.facilitator_url else { return Ok(None) };
        let timeout = u64::from(settings.timeout_seconds.get()).saturating_add(10);
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(timeout))
            .build()?;
        let url = url.trim_end_matches('/').to_owned();
        let api_key = settings.facilitator_api_key.clone();
        Ok(Some(X402 { client, runtime, url, api_key, settings: settings.clone(), amount }))
    }

    /// The requirements for an amount, rounded up to the token's unit.
    #[must_use]
    pub fn requirements(&self, amount: Credits) -> Requirements {
        let nanos = amount.nanos().max(0);
        let units = nanos.saturating_add(NANOS_PER_UNIT - 1).checked_div(NANOS_PER_UNIT);
        Requirements {
            scheme: "exact".into(),
            network: self.settings.network.clone(),
            amount: units.unwrap_or(0).to_string(),
            asset: self.settings.asset.clone(),
            pay_to: self.settings.pay_to.clone(),
            max_timeout_seconds: self.settings.timeout_seconds.get(),
            extra: json!({
                "name": self.settings.asset_name,
                "version": self.settings.asset_version,
            }),
        }
    }

    /// The `PAYMENT-REQUIRED` header for an amount, at this URL.
    #[must_use]
    pub fn required(&self, amount: Credits, url: &str, error: &str) -> String {
        let required = json!({
            "x402Version": 2,
            "error": error,
            "resource": { "url": url, "description": "API credits", "mimeType": "application/json" },
            "accepts": [self.requirements(amount)],
        });
        STANDARD.encode(required.to_string())
    }

    /// `PAYMENT-RESPONSE` for a payment that is settled.
    #[must_use]
    pub fn response(&self, payment: &Payment) -> String {
        let transaction = payment.checkout_url.as_deref().unwrap_or_default();
        let response = json!({
            "success": true,
            "transaction": transaction,
            "network": self.settings.network,
        });
        STANDARD.encode(response.to_string())
    }

    /// Is it a payment to this server, of an amount in these bounds?
    pub fn accept(
        &self,
        signed: &SignedPayment,
        least: Credits,
        most: Credits,
    ) -> Result<Credits, NotPayable> {
        let amount = signed.amount().filter(|amount| *amount > Credits::ZERO);
        let amount = amount.ok_or_else(|| NotPayable("the amount is not a number".into()))?;
        // The facilitator gets the server's own requirements; the payer's copy only has to match
        // them.
        if signed.accepted != self.requirements(amount) {
            return Err(NotPayable("the payment is not for what was asked".into()));
        }
        let Authorization { from, to, value, nonce, .. } = &signed.payload.authorization;
        if !to.eq_ignore_ascii_case(&self.settings.pay_to) || *value != signed.accepted.amount {
            return Err(NotPayable("the authorization is not for what was asked".into()));
        }
        // Written in one way, but for the case: they name the payment.
        if !is_hex(from, 40) || !is_hex(nonce, 64) {
            return Err(NotPayable("from must be an address, and nonce 32 bytes, in hex".into()));
        }
        if amount < least || amount > most {
            return Err(NotPayable(format!("the amount must be from {least} to {most}")));
        }
        Ok(amount)
    }

    /// Would it be settled? Nothing moves.
    ///
    /// # Errors
    /// [`ProviderError::Refused`] if it would not settle.
    pub(super) async fn verify(
        &self,
        signed: &SignedPayment,
        amount: Credits,
    ) -> Result<(), ProviderError> {
        let verified = self.ask("verify", &self.request(signed, amount)).await?;
        if *at(&verified, "isValid") != true {
            return Err(ProviderError::Refused(reason(&verified, "invalidReason")));
        }
        Ok(())
    }

    /// Has the money moved. `is_first`: it was certainly not sent before. A payment whose
    /// transaction the facilitator does not name waits: nothing tells it from another.
    async fn send(&self, payment: &Payment, is_first: bool) -> Result<Progress, ProviderError> {
        let request = self.request(&stored_text(payment)?, payment.amount);
        let settled = self.ask("settle", &request).await?;
        if *at(&settled, "success") == true {
            let transaction = at(&settled, "transaction").as_str().filter(|name| !name.is_empty());
            let Some(transaction) = transaction else {
                tracing::error!(
                    payment = %payment.id,
                    "the facilitator settled a payment and named no transaction, so it is not credited yet; look for \
                     it on the chain. The facilitator is asked again."
                );
                return Ok(Progress::at(Stage::Waiting));
            };
            let checkout_url = Some(transaction.to_owned());
            return Ok(Progress { checkout_url, ..Progress::at(Stage::Paid(payment.amount)) });
        }
        let why = reason(&settled, "errorReason");
        if is_first {
            return Ok(Progress::at(Stage::Failed(why)));
        }
        // It was sent before, with unknown outcome: an operator must check the chain.
        Err(ProviderError::Unreachable(format!("an authorization sent before was refused: {why}")))
    }

    fn request(&self, signed: &SignedPayment, amount: Credits) -> Value {
        json!({
            "x402Version": 2,
            "paymentPayload": signed,
            "paymentRequirements": self.requirements(amount),
        })
    }

    async fn ask(&self, what: &str, request: &Value) -> Result<Value, ProviderError> {
        let url = format!("{}/{what}", self.url);
        let mut request = self
            .client
            .post(url)
            .header("Content-Type", "application/json")
            .body(request.to_string());
        if let Some(api_key) = &self.api_key {
            request = request.bearer_auth(api_key.expose());
        }
        let exchange = self.runtime.spawn(async move {
            let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
            let status = answer.status();
            let body = super::http::read_body(answer, ANSWER_MAX).await?;
            Ok::<_, String>((status, body))
        });
        let exchanged =
            exchange.await.map_err(|error| ProviderError::Unreachable(error.to_string()));
        let (status, body) = exchanged?.map_err(ProviderError::Unreachable)?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        // A refusal may have another status than 200.
        if value.get("isValid").is_some() || value.get("success").is_some() {
            return Ok(value);
        }
        Err(ProviderError::Unreachable(format!("the facilitator answered {status}")))
    }
}

impl Provider for X402 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_known(&self, payment: &Payment) -> bool {
        // Named from the first; that it is sent is on record before it is.
        payment.status != PaymentStatus::Created
    }

    fn begin<'p>(&'p self, order: &'p Order) -> ProviderAnswer<'p, Progress> {
        Box::pin(async {
            self.verify(&stored_text(&order.payment)?, order.payment.amount).await?;
            Ok(Progress::at(Stage::Confirming))
        })
    }

    fn settle<'p>(&'p self, payment: &'p Payment) -> Option<ProviderAnswer<'p, Progress>> {
        Some(Box::pin(self.send(payment, true)))
    }

    fn check<'p>(
        &'p self,
        payment: &'p Payment,
        _: Option<&'p str>,
        _: Timestamp,
    ) -> ProviderAnswer<'p, Progress> {
        Box::pin(async {
            match payment.status {
                PaymentStatus::Confirming => self.send(payment, false).await,
                _ => Ok(Progress::at(Stage::Waiting)),
            }
        })
    }
}

/// The authorization of a payment on record.
fn stored_text(payment: &Payment) -> Result<SignedPayment, ProviderError> {
    let kept = payment.method.as_deref().unwrap_or_default();
    serde_json::from_str(kept)
        .map_err(|_| ProviderError::Refused("no authorization is on record".into()))
}

/// `0x` and so many hex digits.
fn is_hex(text: &str, digits: usize) -> bool {
    text.strip_prefix("0x").is_some_and(|text| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn reason(answer: &Value, name: &str) -> String {
    at(answer, name).as_str().unwrap_or("no reason given").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x402() -> X402 {
        let settings = X402Settings {
            facilitator_url: Some("http://127.0.0.1:1".into()),
            pay_to: "0xpayee".into(),
            ..X402Settings::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let amount = "1".parse().unwrap();
        X402::new(&settings, amount, runtime.handle().clone()).unwrap().unwrap()
    }

    #[test]
    fn only_what_was_asked_is_a_payment_to_us() {
        let x402 = x402();
        let amount = "1.25".parse().unwrap();
        let asked = x402.requirements(amount);
        assert_eq!(asked.amount, "1250000");
        assert_eq!(x402.requirements("0.0000001".parse().unwrap()).amount, "1");
        let (from, nonce) = (format!("0x{:040X}", 0xab), format!("0x{:064x}", 0xcd));
        let of = |accepted: &Requirements, version: u32, to: &str, from: &str, nonce: &str| {
            let payment = json!({
                "x402Version": version, "accepted": accepted,
                "payload": { "signature": "0x1", "ours": 1, "authorization": {
                    "from": from, "to": to, "value": accepted.amount, "validAfter": "0",
                    "validBefore": "9", "nonce": nonce } },
            });
            STANDARD.encode(payment.to_string())
        };
        let header =
            |accepted: &Requirements, version| of(accepted, version, "0xPAYEE", &from, &nonce);
        let signed = SignedPayment::read(header(&asked, 2).as_bytes()).unwrap();
        let (least, most) = ("1".parse().unwrap(), "2".parse().unwrap());
        assert_eq!(x402.accept(&signed, least, most), Ok(amount));
        assert!(x402.accept(&signed, most, Credits::MAX).is_err());
        assert!(x402.accept(&signed, Credits::ZERO, least).is_err());
        for other in [
            Requirements { pay_to: "0xthief".into(), ..asked.clone() },
            Requirements { asset: "0xworthless".into(), ..asked.clone() },
            Requirements { network: "eip155:1".into(), ..asked.clone() },
            Requirements { amount: "-1".into(), ..asked.clone() },
            Requirements { amount: "99999999999999999999".into(), ..asked.clone() },
        ] {
            let signed = SignedPayment::read(header(&other, 2).as_bytes()).unwrap();
            assert!(x402.accept(&signed, Credits::ZERO, Credits::MAX).is_err(), "{other:?}");
        }
        assert!(SignedPayment::read(header(&asked, 1).as_bytes()).is_err());
        assert!(SignedPayment::read(b"{}").is_err());
        for (to, from, nonce) in [
            ("0xthief", from.as_str(), nonce.as_str()),
            ("0xpayee", "0xab", nonce.as_str()),
            ("0xpayee", from.as_str(), "0xcd"),
            ("0xpayee", &from.replace('0', "g"), nonce.as_str()),
        ] {
            let signed = SignedPayment::read(of(&asked, 2, to, from, nonce).as_bytes()).unwrap();
            assert!(
                x402.accept(&signed, Credits::ZERO, Credits::MAX).is_err(),
                "{to} {from} {nonce}"
            );
        }
        // The same authorization is the same payment, however it is written and whatever stands
        // around it.
        let again = of(
            &asked,
            2,
            "0xpayee",
            &from.to_lowercase().replace("0X", "0x"),
            &nonce.to_uppercase().replace("0X", "0x"),
        );
        let again = SignedPayment::read(again.as_bytes()).unwrap();
        assert_eq!(again.provider_ref(), signed.provider_ref());
        assert!(!again.stored_text().contains("ours"));
        let other = of(&asked, 2, "0xpayee", &from, &nonce.replace("cd", "ce"));
        let other = SignedPayment::read(other.as_bytes()).unwrap();
        assert_ne!(other.provider_ref(), signed.provider_ref());
    }
}
