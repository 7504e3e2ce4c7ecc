//! A dry run: the cost of a request, and whether it would be accepted.

use super::charge::{order, refusal, token_limit};
use super::gateway::{Gateway, lease};
use super::price::Quoted;
use domain::Refusal;
use domain::{ChargeQuote, Credits, Environment, LimitsLeft};

/// The cost of a request, and whether it would be accepted.
#[derive(Clone, Debug)]
pub struct Quote {
    /// The environment of the account that would pay.
    pub environment: Environment,
    /// The least that it would cost.
    pub least: Credits,
    /// The most that it would cost, as requested.
    pub most: Credits,
    /// Debited or held at the start; `None` if it would be refused.
    pub hold: Option<Credits>,
    /// Tokens of the prompt, if the price depends on tokens.
    pub prompt_tokens: Option<u64>,
    /// The token limit that the upstream would get, if it is not the request's own.
    pub max_tokens: Option<u64>,
    /// Why it would be refused.
    pub refusal: Option<Refusal>,
    /// The account's balance.
    pub balance: Credits,
    /// The part of it that can be spent.
    pub available: Credits,
    /// What the key may spend.
    pub left: LimitsLeft,
}

/// Asks the account how it would decide.
pub(super) async fn estimate(gateway: &Gateway, quoted: Quoted) -> Result<Quote, Refusal> {
    let account = lease(gateway, quoted.key()).await?;
    let order = order(gateway, &quoted, quoted.arrival().idempotency_key.is_some());
    let gone = |_| Refusal::Unavailable("the account's owner died");
    let receipt = account.quote(order).await.map_err(gone)?;
    let answered = tokio::time::timeout(gateway.commit_timeout, receipt.wait()).await;
    let Ok(Ok(ChargeQuote { terms, balance, available, left })) = answered else {
        return Err(Refusal::Unavailable("what the account has decided is not on record yet"));
    };
    let generation = quoted.generation();
    let max_tokens = match (&terms, generation) {
        (Ok(terms), Some(generation)) => {
            token_limit(gateway, quoted.rule(), generation, terms.ceiling)
        }
        _ => None,
    };
    let counted = generation.map(|generation| generation.request.prompt.counted);
    Ok(Quote {
        environment: quoted.key().environment,
        least: quoted.rule().cost(counted.unwrap_or(0)).unwrap_or(quoted.rule().base),
        most: quoted.price().most(),
        hold: terms.as_ref().ok().map(|terms| terms.held),
        prompt_tokens: counted,
        max_tokens,
        refusal: terms.err().map(refusal),
        balance,
        available,
        left,
    })
}
