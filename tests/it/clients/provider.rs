//! A mock of providers in a process of its own, what is sold of it, and what that costs: by
//! arithmetic that shares nothing with the server's.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::{folder, python};
use domain::catalogue::{
    Catalogue, CatalogueDocument, Credential, Deployment, DeploymentId, ModelProvider, ModelTarget,
    ProviderDialect, SoldModel, TargetAt,
};
use domain::ledger::Link;
use domain::{
    Card, Dim, ListId, Multiplier, PriceBook, PriceVersion, Rates, Timestamp, UnitPrice, VersionId,
    VersionTerms,
};
use polysystems::models::Selling;

type PathHeadersBody = (String, Vec<(String, String)>, String);

/// What a call costs, and a million tokens, in nano-dollars. No sum of them is a whole number.
const REQUEST: i64 = 1_100_000;
const PRICES: [(&str, Dim, i64); 5] = [
    ("input", Dim::Input, 3_000_000_001),
    ("cache_read", Dim::CacheRead, 300_000_007),
    ("cache_write", Dim::CacheWrite, 3_750_000_013),
    ("output", Dim::Output, 15_000_000_003),
    ("reasoning", Dim::Reasoning, 17_000_000_009),
];

/// The cost of a call with so many tokens, in nano-dollars.
pub(super) fn cost(tokens: &[(&str, i64)]) -> i64 {
    let millionths: i128 = tokens
        .iter()
        .map(|(name, count)| {
            let (.., price) = PRICES.iter().find(|(known, ..)| known == name).unwrap();
            i128::from(*price) * i128::from(*count)
        })
        .sum();
    // Half up.
    REQUEST + i64::try_from((millionths + 500_000) / 1_000_000).unwrap()
}

/// What the mock tells of each call: see `provider.py`. OpenAI counts cached tokens and thoughts
/// within the whole; Anthropic counts cached tokens beside it, Google thoughts.
pub(super) fn told(dialect: ProviderDialect) -> &'static [(&'static str, i64)] {
    match dialect {
        ProviderDialect::Anthropic => &[
            ("input", 1213 - 307 - 101),
            ("cache_read", 307),
            ("cache_write", 101),
            ("output", 53),
        ],
        _ => &[("input", 1213 - 307), ("cache_read", 307), ("output", 53 - 17), ("reasoning", 17)],
    }
}

/// The mock.
pub(super) struct Provider {
    _process: Child,
    port: u16,
}

/// A request as the mock got it.
pub(super) struct Seen {
    pub(super) path: String,
    /// Names in lowercase.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Value,
}

impl Provider {
    pub(super) async fn start() -> Self {
        let mut command = python();
        command.arg(folder().join("provider.py")).stdout(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next_line().await.unwrap().expect("no port").parse().unwrap();
        Provider { _process: process, port }
    }

    /// What it has got so far.
    pub(super) async fn seen(&self) -> Vec<Seen> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}/seen", self.port);
        let text = client.get(url).send().await.unwrap().text().await.unwrap();
        let seen: Vec<PathHeadersBody> = serde_json::from_str(&text).unwrap();
        let seen = seen.into_iter().map(|(path, headers, body)| Seen {
            path,
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.to_lowercase(), value))
                .collect(),
            body: serde_json::from_str(&body).unwrap(),
        });
        seen.collect()
    }

    /// A catalogue of models, each with the names that the mock has for it: one deployment a name.
    pub(super) fn sells(&self, models: &[(&str, ProviderDialect, &[&str])]) -> Selling {
        let mut document = CatalogueDocument::default();
        let mut secrets = BTreeMap::new();
        for (model, dialect, names) in models {
            for name in *names {
                let id: Arc<str> = format!("{model}-at-{name}").into();
                let base = if *dialect == ProviderDialect::Gemini { "v1beta" } else { "v1" };
                document.providers.push(ModelProvider {
                    name: Arc::clone(&id),
                    dialect: *dialect,
                    url: Some(format!("http://127.0.0.1:{}/{base}", self.port).into()),
                    allows_private: true,
                    ..ModelProvider::default()
                });
                document.credentials.push(Credential {
                    name: Arc::clone(&id),
                    provider: Arc::clone(&id),
                    quota_group: None,
                });
                document.deployments.push(Deployment {
                    name: Arc::clone(&id),
                    credential: Arc::clone(&id),
                    upstream_model: Some((*name).into()),
                    ..Deployment::default()
                });
                let secret = serde_json::from_value(json!("provider-secret")).unwrap();
                secrets.insert(id, secret);
            }
            let targets = names.iter().zip(0..).map(|(name, priority)| ModelTarget {
                at: TargetAt::Deployment(format!("{model}-at-{name}").into()),
                weight: 1,
                priority,
            });
            document.models.push(SoldModel {
                name: (*model).into(),
                max_input: 400_000,
                max_output: 128_000,
                tokenizer_permille: 1_000,
                targets: targets.collect(),
                ..SoldModel::default()
            });
        }
        let price = |nanos| UnitPrice::from_nanos(nanos).unwrap();
        let rates = Rates::NONE.with(Dim::Request, price(REQUEST));
        let rates =
            PRICES.iter().fold(rates, |rates, (_, dim, nanos)| rates.with(*dim, price(*nanos)));
        let card = Arc::new(Card::flat(rates).unwrap());
        let terms = VersionTerms {
            id: VersionId::new(1_000).unwrap(),
            list: ListId::DEFAULT,
            parent: None,
            multiplier: Multiplier::ONE,
            effective_from: Timestamp::from_micros(0),
            cards: models.iter().map(|(name, ..)| ((*name).into(), Arc::clone(&card))).collect(),
        };
        let mut book = PriceBook::default();
        book.add(Arc::new(PriceVersion::new(terms, Link::START).unwrap())).unwrap();
        let names = document.deployment_names();
        let ids = names.into_iter().zip((1..).map(DeploymentId)).collect();
        Selling::new(Catalogue::new(1, document, &ids).unwrap(), book, secrets)
    }
}
