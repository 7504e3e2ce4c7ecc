//! `[[prices]]`, and the default price list.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::Settings;
use super::lenient::{money, optional_money};
use super::validate::amount;
use domain::TokenPrice;
use domain::pricing::{Extra, PriceList, PriceRule, RouteClass};

/// `[[prices]]`: the price of a route.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSetting {
    /// HTTP method. If it is unset, any method.
    pub method: Option<String>,
    /// An exact path, or a prefix that ends in `/*`. In `/v1beta/models/*:generateContent`, and in
    /// the paths of the other methods of Gemini's, `*` is any model.
    pub path: String,
    /// Class of the route, which decides its share of the rate limits: `health`, `read`, `write`,
    /// `generation` or `heavy`.
    #[serde(with = "route_class")]
    pub class: RouteClass,
    /// Price of a call, in USD.
    #[serde(deserialize_with = "money")]
    pub base: String,
    /// Price of a token in addition to `base`, in USD. If it is unset, the price is fixed.
    #[serde(default, deserialize_with = "optional_money")]
    pub per_token: Option<String>,
    /// Token limit for a request that names none; 4,096 if it is unset.
    #[serde(default = "default_max_tokens")]
    pub default_max_tokens: u64,
    /// Token limits for single models, by the model's name, instead of `default_max_tokens`.
    #[serde(default)]
    pub default_max_tokens_of: BTreeMap<String, u64>,
    /// Context window of the models, in tokens. An upstream's report of a larger prompt is not
    /// believed: the prompt is billed as it was counted here, or with this size if it has parts
    /// that only the upstream can count. A call with a file is held for with a prompt of this size.
    #[serde(default = "default_context_tokens")]
    pub context_tokens: u64,
    /// The same for single models: a table of context windows by model.
    #[serde(default)]
    pub context_tokens_of: BTreeMap<String, u64>,
    /// What requests may ask for though its cost cannot be known before the call: `background`,
    /// `service_tier`, `other_models`, `hosted_tools`, `prompt` (a prompt that the upstream keeps)
    /// and `file_url`.
    /// All else of the kind is refused. For the last three a whole context window is held.
    #[serde(default)]
    pub sells: Vec<String>,
}

const fn default_context_tokens() -> u64 {
    1_100_000
}

const fn default_max_tokens() -> u64 {
    4_096
}

/// The default price list: method, path, class, base, price per token. The published prices come
/// first. The published list has categories without routes; we chose the routes for them.
const DEFAULT_PRICES: [(&str, &str, RouteClass, &str, Option<&str>); 32] = [
    ("GET", "/api/hub/health", RouteClass::Health, "0", None),
    ("POST", "/api/hub/agents/chat", RouteClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/api/hub/agents/generate", RouteClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/api/omm/generate", RouteClass::Generation, "0.0030", Some("0.00002")),
    ("POST", "/api/yggdrasil/process", RouteClass::Generation, "0.0040", Some("0.00002")),
    ("POST", "/v1/chat/completions", RouteClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/api/hub/rag/index", RouteClass::Write, "0.0005", None),
    ("POST", "/api/hub/memory", RouteClass::Write, "0.0001", None),
    ("GET", "/api/hub/memory/*", RouteClass::Read, "0.0001", None),
    ("POST", "/api/hub/search/index", RouteClass::Write, "0.0002", None),
    ("POST", "/api/hub/documents", RouteClass::Heavy, "0.0005", None),
    // Routes that the published list does not name.
    ("POST", "/v1/completions", RouteClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/v1/responses", RouteClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/v1/messages", RouteClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/v1/messages/count_tokens", RouteClass::Read, "0", None),
    ("POST", "/v1/embeddings", RouteClass::Write, "0.0002", Some("0.0000001")),
    ("GET", "/v1/models", RouteClass::Read, "0", None),
    ("GET", "/v1/models/*", RouteClass::Read, "0", None),
    ("POST", "/v1beta/models/*:generateContent", RouteClass::Generation, "0.0020", Some("0.00001")),
    (
        "POST",
        "/v1beta/models/*:streamGenerateContent",
        RouteClass::Generation,
        "0.0020",
        Some("0.00001"),
    ),
    ("POST", "/v1beta/models/*:countTokens", RouteClass::Read, "0", None),
    ("POST", "/v1beta/models/*:embedContent", RouteClass::Write, "0.0002", Some("0.0000001")),
    ("POST", "/v1beta/models/*:batchEmbedContents", RouteClass::Write, "0.0002", Some("0.0000001")),
    ("POST", "/v1/models/*:generateContent", RouteClass::Generation, "0.0020", Some("0.00001")),
    (
        "POST",
        "/v1/models/*:streamGenerateContent",
        RouteClass::Generation,
        "0.0020",
        Some("0.00001"),
    ),
    ("POST", "/v1/models/*:countTokens", RouteClass::Read, "0", None),
    ("POST", "/v1/models/*:embedContent", RouteClass::Write, "0.0002", Some("0.0000001")),
    ("POST", "/v1/models/*:batchEmbedContents", RouteClass::Write, "0.0002", Some("0.0000001")),
    ("GET", "/v1beta/models", RouteClass::Read, "0", None),
    ("GET", "/v1beta/models/*", RouteClass::Read, "0", None),
    ("POST", "/api/hub/rag/query", RouteClass::Read, "0.0005", None),
    ("POST", "/api/hub/tasks", RouteClass::Write, "0.0001", None),
];

/// Reads and writes a class by its name.
mod route_class {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use domain::pricing::RouteClass;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(class: &RouteClass, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(class.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<RouteClass, D::Error> {
        let name = String::deserialize(from)?;
        let class = RouteClass::ALL.into_iter().find(|class| class.name() == name);
        class.ok_or_else(|| D::Error::unknown_variant(&name, &RouteClass::NAMES))
    }
}

impl Settings {
    /// The default prices, in the form of settings.
    pub(super) fn default_price_settings() -> Vec<PriceSetting> {
        let setting =
            |(method, path, class, base, per_token): &(&str, &str, _, &str, Option<&str>)| {
                PriceSetting {
                    method: Some((*method).to_owned()),
                    path: (*path).to_owned(),
                    class: *class,
                    base: (*base).to_owned(),
                    per_token: per_token.map(str::to_owned),
                    default_max_tokens: default_max_tokens(),
                    default_max_tokens_of: BTreeMap::new(),
                    context_tokens: default_context_tokens(),
                    context_tokens_of: BTreeMap::new(),
                    sells: Vec::new(),
                }
            };
        DEFAULT_PRICES.iter().map(setting).collect()
    }

    /// Returns the prices that apply. Fails with one line that names an invalid price.
    pub fn price_list(&self) -> anyhow::Result<PriceList> {
        let defaults = Self::default_price_settings().into_iter().filter(|_| self.default_prices);
        let rules = defaults.chain(self.prices.iter().cloned()).map(|price| {
            let name = format!("prices: {}", price.path);
            if !price.path.starts_with('/') {
                bail!("{name}: a path must begin with /");
            }
            // The path is in the key of the rollups, and databases limit the length of a key.
            if price.path.len() > 512 {
                bail!("{name}: a path must have at most 512 bytes");
            }
            let per_token = price.per_token.as_deref().map(str::parse::<TokenPrice>).transpose();
            Ok(PriceRule {
                method: price.method.as_deref().map(|method| method.to_ascii_uppercase().into()),
                path: price.path.as_str().into(),
                class: price.class,
                card_number: 0,
                base: amount(&format!("{name}: base"), &price.base)?,
                per_token: per_token.with_context(|| format!("{name}: per_token"))?,
                default_max_tokens: price.default_max_tokens,
                default_max_tokens_of: price.default_max_tokens_of,
                context_tokens: price.context_tokens,
                context_tokens_of: price.context_tokens_of,
                sells: price
                    .sells
                    .iter()
                    .map(|name| sold(&price.path, name))
                    .collect::<anyhow::Result<_>>()?,
            })
        });
        Ok(PriceList::new(rules.collect::<anyhow::Result<_>>()?))
    }
}

/// Finds the extra with this name. Fails if there is none, or if it may not be sold.
fn sold(path: &str, name: &str) -> anyhow::Result<Extra> {
    let known = Extra::ALL.into_iter().find(|extra| extra.name() == name);
    let names = Extra::ALL.into_iter().filter(|extra| !extra.is_of_a_customer()).map(Extra::name);
    match known {
        Some(extra) if extra.is_of_a_customer() => bail!(
            "prices: {path}: sells: {name} cannot be sold, because customers could name each \
             other's data with it"
        ),
        Some(extra) => Ok(extra),
        None => bail!(
            "prices: {path}: sells: {name:?} is not one of {}",
            names.collect::<Vec<_>>().join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_prices_are_the_published_ones() {
        let list = Settings::default().price_list().unwrap();
        for (method, path, base, per_token) in [
            ("POST", "/api/hub/agents/chat", "0.0020", Some("0.00001")),
            ("POST", "/api/omm/generate", "0.0030", Some("0.00002")),
            ("POST", "/api/yggdrasil/process", "0.0040", Some("0.00002")),
            ("POST", "/v1/chat/completions", "0.0020", Some("0.00001")),
            ("POST", "/api/hub/rag/index", "0.0005", None),
            ("GET", "/api/hub/health", "0", None),
        ] {
            let rule = list.find(method, path).unwrap();
            assert_eq!(rule.base, base.parse().unwrap(), "{path}");
            assert_eq!(rule.per_token, per_token.map(|price| price.parse().unwrap()), "{path}");
        }
        assert!(list.find("POST", "/api/hub/unknown").is_none());
    }

    #[test]
    fn what_names_another_customers_data_cannot_be_sold() {
        let selling = |name: &str| {
            let mut settings = Settings::default();
            let price = serde_json::json!({
                "path": "/v1/responses", "class": "generation", "base": "0.0020", "sells": [name],
            });
            settings.prices.push(serde_json::from_value(price).unwrap());
            settings
                .price_list()
                .map(|list| list.find("GET", "/v1/responses").unwrap().sells.clone())
        };
        assert_eq!(selling("hosted_tools").unwrap(), [Extra::HostedTools]);
        let refused = selling("previous_response_id").unwrap_err().to_string();
        assert!(refused.contains("each other's data"), "{refused}");
        let unknown = selling("everything").unwrap_err().to_string();
        assert!(unknown.contains("\"everything\" is not one of background, "), "{unknown}");
    }
}
