//! A dry run: what a request would cost, and whether it would be admitted.

use super::charge::{order, refusal, token_limit};
use super::gateway::{Gateway, lease};
use super::price::Quoted;
use domain::Refusal;
use domain::{ChargeQuote, Credits, Environment, LimitsLeft};

/// What a request would cost, and whether it would be admitted.
#[derive(Clone, Debug)]
pub struct Quote {
    /// Which account would pay.
    pub environment: Environment,
    /// What it would cost at least.
    pub least: Credits,
    /// What it would cost at most, as the request stands.
    pub most: Credits,
    /// Debited or held when it begins; `None` where it would not begin.
    pub hold: Option<Credits>,
    /// Tokens of the prompt, where the price depends on tokens.
    pub prompt_tokens: Option<u64>,
    /// The token limit that the upstream would be told, where it is not the request's own.
    pub max_tokens: Option<u64>,
    /// Why it would not be admitted.
    pub refusal: Option<Refusal>,
    /// The account's balance.
    pub balance: Credits,
    /// What of it can be spent.
    pub available: Credits,
    /// What the key may spend.
    pub left: LimitsLeft,
}

/// Asks the account what it would say.
pub(super) async fn look(gateway: &Gateway, quoted: Quoted) -> Result<Quote, Refusal> {
    let account = lease(gateway, &quoted.key).await?;
    let order = order(gateway, &quoted, quoted.arrival.idempotency_key.is_some());
    let gone = |_| Refusal::Unavailable("the account's owner died");
    let receipt = account.quote(order).await.map_err(gone)?;
    let estimate = tokio::time::timeout(gateway.commit_timeout, receipt.wait()).await;
    let Ok(Ok(ChargeQuote { terms, balance, available, left })) = estimate else {
        return Err(Refusal::Unavailable("what the account has decided is not on record yet"));
    };
    let generation = quoted.generation.as_ref();
    let max_tokens = match (&terms, generation) {
        (Ok(terms), Some(generation)) => {
            token_limit(gateway, &quoted.rule, generation, terms.ceiling)
        }
        _ => None,
    };
    let counted = generation.map(|generation| generation.ask.prompt.counted);
    Ok(Quote {
        environment: quoted.key.environment,
        least: quoted.rule.cost(counted.unwrap_or(0)).unwrap_or(quoted.rule.base),
        most: quoted.price.most(),
        hold: terms.as_ref().ok().map(|terms| terms.held),
        prompt_tokens: counted,
        max_tokens,
        refusal: terms.err().map(refusal),
        balance,
        available,
        left,
    })
}
