//! Price cards: what one model costs, in every tier that it is sold in.

use super::coded::coded_enum;
use super::dim::{Dim, DimSet, SCALE, Side};
use super::money::Credits;
use super::quantities::Quantities;
use super::rates::{Rates, tokens_within};

coded_enum! {
    /// A service tier: how soon a provider answers, and at which price.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub enum Service {
        /// The one that a call has if nobody says anything.
        #[default]
        Standard => "standard",
        /// Cheaper, and later.
        Flex => "flex",
        /// Dearer, and sooner.
        Priority => "priority",
        /// Answered within a day or so.
        Batch => "batch",
        /// The same model on faster machines.
        Fast => "fast",
    }
}

/// A set of service tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceSet(u8);

impl ServiceSet {
    /// No service tier.
    pub const EMPTY: ServiceSet = ServiceSet(0);
    /// Every service tier.
    pub const ALL: ServiceSet = ServiceSet(0b1_1111);

    /// The set with this service tier.
    #[must_use]
    pub const fn with(self, service: Service) -> Self {
        ServiceSet(self.0 | service.bit())
    }

    /// Is it in the set?
    #[must_use]
    pub const fn contains(self, service: Service) -> bool {
        self.0 & service.bit() != 0
    }
}

impl Service {
    const fn bit(self) -> u8 {
        match self {
            Service::Standard => 1,
            Service::Flex => 1 << 1,
            Service::Priority => 1 << 2,
            Service::Batch => 1 << 3,
            Service::Fast => 1 << 4,
        }
    }
}

impl FromIterator<Service> for ServiceSet {
    fn from_iter<I: IntoIterator<Item = Service>>(services: I) -> Self {
        services.into_iter().fold(ServiceSet::EMPTY, ServiceSet::with)
    }
}

/// One row of a card. A whole call is priced by one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardRow {
    /// The service tier that it is for.
    pub service: Service,
    /// It is for prompts of more tokens than this; with 0 also for none.
    pub over: u64,
    /// Its prices.
    pub rates: Rates,
}

impl CardRow {
    /// Is it for prompts of so many tokens, if no later row of its service tier is?
    fn is_for(&self, input: u64) -> bool {
        self.over == 0 || self.over < input
    }
}

/// The prices of one model. Rows are in the order of service tier and of `over`; every service
/// tier that has a row has one for the shortest prompts, and `standard` has rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    rows: Vec<CardRow>,
}

/// Why rows are not a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// There are more than a bill can name.
    #[error("has more than {} rows", Card::ROWS_MAX)]
    TooManyRows,
    /// No row is of the standard service tier.
    #[error("has no row of the service tier \"standard\"")]
    NoStandard,
    /// All rows of a service tier are for long prompts.
    #[error("has no row of the service tier {:?} for prompts of any length", .0.name())]
    NoFirst(Service),
    /// Two rows are for the same calls.
    #[error("has two rows of the service tier {:?} for prompts over {over}", .service.name())]
    Twice {
        /// Their service tier.
        service: Service,
        /// Their threshold.
        over: u64,
    },
    /// A row prices nothing.
    #[error("has a row of the service tier {:?} without a price", .0.name())]
    Empty(Service),
}

/// The most that a call may use. It is known from the request and the model, before anybody is
/// asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Envelope {
    /// Tokens of the prompt, of all dimensions together.
    pub input: u64,
    /// Tokens of the completion, of all dimensions and choices together.
    pub output: u64,
    /// The dimensions that tokens may be of.
    pub may: DimSet,
    /// What is no token.
    pub beside: Quantities,
    /// The service tiers that may serve the call.
    pub services: ServiceSet,
}

impl Card {
    /// Most rows of a card.
    pub const ROWS_MAX: usize = 256;

    /// A card of these rows, in any order.
    ///
    /// # Errors
    /// If some call would have two rows, or a call that is sold none.
    pub fn new(mut rows: Vec<CardRow>) -> Result<Self, CardError> {
        rows.sort_by_key(|row| (row.service, row.over));
        if rows.len() > Self::ROWS_MAX {
            return Err(CardError::TooManyRows);
        }
        if rows.first().is_none_or(|row| row.service != Service::Standard) {
            return Err(CardError::NoStandard);
        }
        let mut before: Option<&CardRow> = None;
        for row in &rows {
            match before.filter(|before| before.service == row.service) {
                None if row.over > 0 => return Err(CardError::NoFirst(row.service)),
                Some(before) if before.over == row.over => {
                    return Err(CardError::Twice { service: row.service, over: row.over });
                }
                _ => {}
            }
            if row.rates == Rates::NONE {
                return Err(CardError::Empty(row.service));
            }
            before = Some(row);
        }
        Ok(Card { rows })
    }

    /// A card of one row, for every call of the standard service tier.
    ///
    /// # Errors
    /// If nothing has a price.
    pub fn flat(rates: Rates) -> Result<Self, CardError> {
        Card::new(vec![CardRow { service: Service::Standard, over: 0, rates }])
    }

    /// Its rows. The place of a row is its number in a bill.
    #[must_use]
    pub fn rows(&self) -> &[CardRow] {
        &self.rows
    }

    /// The service tiers that it is sold in.
    #[must_use]
    pub fn services(&self) -> ServiceSet {
        self.rows.iter().map(|row| row.service).collect()
    }

    /// The row with this number.
    #[must_use]
    pub fn numbered(&self, number: u8) -> Option<&CardRow> {
        self.rows.get(usize::from(number))
    }

    /// The row for a call of this service tier whose prompt has so many tokens, of all dimensions
    /// together, and its number. `None`: the service tier is not sold.
    #[must_use]
    pub fn row(&self, service: Service, input: u64) -> Option<(u8, &CardRow)> {
        let is_it = |row: &CardRow| row.service == service && row.is_for(input);
        let (place, row) = self.rows.iter().enumerate().rfind(|(_, row)| is_it(row))?;
        Some((u8::try_from(place).ok()?, row))
    }

    /// Each row that may price a call within the envelope, and the longest prompt that it may
    /// price.
    fn reachable(&self, envelope: Envelope) -> impl Iterator<Item = (&CardRow, u64)> {
        let next = self.rows.iter().skip(1).map(Some).chain([None]);
        self.rows.iter().zip(next).filter_map(move |(row, next)| {
            if !envelope.services.contains(row.service) || !row.is_for(envelope.input) {
                return None;
            }
            let next = next.filter(|next| next.service == row.service);
            Some((row, next.map_or(envelope.input, |next| next.over.min(envelope.input))))
        })
    }

    /// The most that a call within the envelope costs, whichever row prices it. Some call within
    /// it costs just that. `None` if it may use what is not sold, if no service tier of the
    /// envelope is sold, or if the amount does not fit.
    #[must_use]
    pub fn bound(&self, envelope: &Envelope) -> Option<Credits> {
        let mut bound = None;
        for (row, input) in self.reachable(*envelope) {
            let fixed = row.fixed(input, envelope)?;
            let output = row.tokens(Side::Out, envelope.output, envelope.may)?;
            let exact = fixed.checked_add(output)?.checked_add(SCALE / 2)?;
            let rounded = i64::try_from(exact.checked_div(SCALE)?).ok()?;
            bound = bound.max(Some(Credits::from_nanos(rounded)));
        }
        bound
    }

    /// The most tokens of a completion that `held` pays for, whichever row prices the call. The
    /// completion of the envelope does not count. `None` if the rest of it may cost more than
    /// `held`, and where [`Card::bound`] has none.
    #[must_use]
    pub fn output_within(&self, held: Credits, envelope: &Envelope) -> Option<u64> {
        let mut least = None;
        for (row, input) in self.reachable(*envelope) {
            let price = i128::from(row.rates.highest(Side::Out, envelope.may)?.nanos());
            let tokens = tokens_within(held, row.fixed(input, envelope)?, price)?;
            least = Some(least.map_or(tokens, |least: u64| least.min(tokens)));
        }
        least
    }
}

impl CardRow {
    /// The most that so many tokens of one part of the call come to, over [`SCALE`].
    fn tokens(&self, side: Side, tokens: u64, may: DimSet) -> Option<i128> {
        if tokens == 0 {
            return Some(0);
        }
        let price = i128::from(self.rates.highest(side, may)?.nanos());
        price.checked_mul(i128::from(tokens))?.checked_mul(Dim::Output.scale())
    }

    /// The most that all but the completion comes to, over [`SCALE`].
    fn fixed(&self, input: u64, envelope: &Envelope) -> Option<i128> {
        let beside = self.rates.exact(&envelope.beside)?;
        beside.checked_add(self.tokens(Side::In, input, envelope.may)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rates::UnitPrice;
    use super::*;

    fn row(service: Service, over: u64, input: &str) -> CardRow {
        let input: UnitPrice = input.parse().unwrap();
        CardRow { service, over, rates: Rates::NONE.with(Dim::Input, input) }
    }

    fn card() -> Card {
        Card::new(vec![
            row(Service::Priority, 0, "20"),
            row(Service::Standard, 272_000, "15"),
            row(Service::Standard, 0, "10"),
        ])
        .unwrap()
    }

    #[test]
    fn a_call_is_priced_by_the_row_of_its_tier_and_its_prompt() {
        let card = card();
        for (service, input, number) in [
            (Service::Standard, 0, Some(0)),
            (Service::Standard, 272_000, Some(0)),
            (Service::Standard, 272_001, Some(1)),
            (Service::Priority, 272_001, Some(2)),
            // Not sold, and not sold as standard.
            (Service::Flex, 1, None),
        ] {
            let found = card.row(service, input);
            assert_eq!(found.map(|(number, _)| number), number, "{service:?} {input}");
            assert_eq!(found.map(|(_, row)| row), number.and_then(|number| card.numbered(number)));
        }
        assert_eq!(card.numbered(3), None);
        let services = ServiceSet::EMPTY.with(Service::Standard).with(Service::Priority);
        assert_eq!(card.services(), services);
        assert_eq!(Service::ALL.into_iter().collect::<ServiceSet>(), ServiceSet::ALL);
    }

    #[test]
    fn rows_with_a_gap_or_an_overlap_are_no_card() {
        let standard = row(Service::Standard, 0, "10");
        let free = CardRow { rates: Rates::NONE, ..standard };
        for (rows, error) in [
            (vec![], CardError::NoStandard),
            (vec![row(Service::Flex, 0, "1")], CardError::NoStandard),
            (vec![row(Service::Standard, 9, "1")], CardError::NoFirst(Service::Standard)),
            (vec![standard, row(Service::Fast, 9, "1")], CardError::NoFirst(Service::Fast)),
            (vec![standard, standard], CardError::Twice { service: Service::Standard, over: 0 }),
            (vec![free], CardError::Empty(Service::Standard)),
            (vec![standard; 257], CardError::TooManyRows),
        ] {
            assert_eq!(Card::new(rows), Err(error));
        }
    }

    #[test]
    fn what_may_be_used_and_is_not_sold_has_no_bound() {
        let services = ServiceSet::EMPTY.with(Service::Standard);
        let may = DimSet::EMPTY.with(Dim::CacheRead);
        let envelope = Envelope { input: 272_001, may, services, ..Envelope::default() };
        let bound = |envelope: Envelope| card().bound(&envelope).map(|bound| bound.to_string());
        assert_eq!(bound(envelope), Some("4.080015".into()));
        assert_eq!(bound(Envelope { input: 272_000, ..envelope }), Some("2.7200".into()));
        assert_eq!(
            bound(Envelope { services: ServiceSet::ALL, ..envelope }),
            Some("5.44002".into())
        );
        // No completion is sold.
        assert_eq!(bound(Envelope { output: 1, ..envelope }), None);
        assert_eq!(bound(Envelope { output: 1, may: may.with(Dim::Output), ..envelope }), None);
        assert_eq!(bound(Envelope { may: DimSet::EMPTY, ..envelope }), None);
        let image = Quantities::NONE.with(Dim::Image, 1);
        assert_eq!(bound(Envelope { beside: image, ..envelope }), None);
        let flex = ServiceSet::EMPTY.with(Service::Flex);
        assert_eq!(bound(Envelope { services: flex, ..envelope }), None);
    }
}
