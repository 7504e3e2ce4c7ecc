//! A dry run: the cost of a request, and whether it would be accepted.

use std::sync::Arc;

use super::by_model::most_of_fallbacks;
use super::charge::{order, refusal, token_limit};
use super::gateway::{Gateway, lease};
use super::price::Quoted;
use domain::Refusal;
use domain::{ChargeQuote, Credits, Environment, LimitsLeft, VersionId};

/// The cost of a request, and whether it would be accepted.
#[derive(Clone, Debug)]
pub struct Quote {
    /// The environment of the account that would pay.
    pub environment: Environment,
    /// The public name of the model, if it is priced by that.
    pub model: Option<Arc<str>>,
    /// The version of the price list that it would be priced by.
    pub price_version: VersionId,
    /// The least that it would cost.
    pub least: Credits,
    /// The most that it would cost, as requested, whichever model answers.
    pub most: Credits,
    /// Debited or held at the start; `None` if it would be refused.
    pub hold: Option<Credits>,
    /// Tokens of the prompt, if the price depends on tokens.
    pub prompt_tokens: Option<u64>,
    /// The most tokens that the prompt can have, as it is held for.
    pub prompt_tokens_max: Option<u64>,
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
        (Ok(terms), Some(generation)) => token_limit(gateway, &quoted, generation, *terms),
        _ => None,
    };
    // Another model may answer, and cost more.
    let most_of_others = most_of_fallbacks(gateway, &quoted).unwrap_or(Credits::ZERO);
    let counted = generation.map(|generation| generation.request.prompt.counted);
    let bound = generation.map(|generation| generation.demand.prompt_tokens_max);
    Ok(Quote {
        environment: quoted.key().environment,
        model: quoted.model().map(|call| Arc::clone(&call.found.name)),
        price_version: quoted.version(),
        least: quoted.pricing().least(counted.unwrap_or(0)),
        most: quoted.price().most().max(most_of_others),
        hold: terms.as_ref().ok().map(|terms| terms.held),
        prompt_tokens: counted,
        prompt_tokens_max: bound,
        max_tokens,
        refusal: terms.err().map(refusal),
        balance,
        available,
        left,
    })
}
