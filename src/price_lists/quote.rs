//! What a usage would cost.

use std::sync::Arc;

use super::{PriceLists, PriceListsError};
use domain::catalogue::Catalogue;
use domain::price_book::{Arithmetic, ListId, Priced};
use domain::{
    Bill, Convention, Dim, Flags, PriceBook, Quantities, Service, Side, Timestamp, UserId,
};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct PriceQuestion {
    /// The list.
    pub list: ListId,
    /// The name of a model, an alias, or a name that a pattern has.
    pub model: String,
    /// At which instant; `None`: now.
    pub at: Option<Timestamp>,
    /// The service tier.
    pub service: Service,
    /// What is used. The call itself counts once unless it is named.
    pub usage: Quantities,
}

/// What it costs.
#[derive(Clone, Debug)]
pub struct QuotedPrice {
    /// How the cost comes about.
    pub arithmetic: Arithmetic,
    /// At which instant.
    pub at: Timestamp,
}

/// The name of the card that prices a model by a list, and the price: the catalogue says it, or
/// the card has the model's own name, or the longest pattern that fits it.
#[must_use]
pub fn card_for(
    catalogue: &Catalogue,
    book: &PriceBook,
    list: ListId,
    model: &str,
    at: Timestamp,
) -> Option<(Arc<str>, Priced)> {
    if let Some(found) = catalogue.find(model) {
        let priced = book.find(list, &found.card, at)?;
        return Some((Arc::clone(&found.card), priced));
    }
    book.find_fitting(list, model, at)
}

impl PriceLists {
    /// What a usage costs by a list. It is read from memory: nothing is asked of the database.
    ///
    /// # Errors
    /// [`PriceListsError::NoCard`] and [`PriceListsError::NotPriced`]
    pub fn quote(&self, question: &PriceQuestion) -> Result<QuotedPrice, PriceListsError> {
        let selling = self.gateway.models.selling();
        let at = question.at.unwrap_or_else(|| self.gateway.clock.now());
        let found = card_for(&selling.catalogue, &selling.book, question.list, &question.model, at);
        let (_, priced) = found.ok_or(PriceListsError::NoCard)?;
        let mut quantities = question.usage;
        if quantities.of(Dim::Request) == 0 {
            quantities = quantities.with(Dim::Request, 1);
        }
        let row = priced.card.row(question.service, quantities.sum(Side::In));
        let (row, _) = row.ok_or(PriceListsError::NotPriced)?;
        let bill = Bill {
            version: priced.version,
            card: priced.number,
            row,
            convention: Convention::default(),
            flags: Flags::NONE,
            quantities,
        };
        let arithmetic = bill.arithmetic(&selling.book).ok_or(PriceListsError::NotPriced)?;
        Ok(QuotedPrice { arithmetic, at })
    }

    /// The list that a user pays by.
    ///
    /// # Errors
    /// [`PriceListsError::Store`]
    pub async fn list_of(&self, user: UserId) -> Result<ListId, PriceListsError> {
        Ok(self.store.price_list_of(user).await?)
    }

    /// The number of the list of this name.
    ///
    /// # Errors
    /// [`PriceListsError::NoList`]
    pub async fn number_of(&self, name: &str) -> Result<ListId, PriceListsError> {
        let lists = self.lists_there().await?;
        lists.named(name).map(|list| list.id).ok_or(PriceListsError::NoList(Some("list")))
    }
}
