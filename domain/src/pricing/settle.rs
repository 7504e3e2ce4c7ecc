//! What a call to a model is billed for, and what that costs.
//!
//! What the upstream tells is believed as far as it can be true, for the prompt and for the
//! completion apart. More than that is cut back, and never makes a smaller bill: of what is cut the
//! dearest is kept, and nothing of it counts as cheaper than plain tokens.

use super::Demand;
use super::model::{ModelPricing, call};
use crate::bill::{Bill, Flags};
use crate::card::{CardRow, Service};
use crate::dim::{Dim, DimSet, Side};
use crate::metering::{Convention, ProviderUsage, split};
use crate::money::Credits;
use crate::oddity::{Oddities, Oddity};
use crate::quantities::Quantities;
use crate::rates::Rates;
use crate::tally::{Evidence, Heard, TokenUsage, tolerated};
use crate::usage::Tally;

/// What the upstream has told of a call, taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToldParts {
    /// How it counts.
    pub convention: Convention,
    /// The parts.
    pub quantities: Quantities,
    /// What is odd about its numbers.
    pub odd: Oddities,
    /// The service tier that has served, if it says so.
    pub served: Option<Service>,
}

impl ToldParts {
    /// What is told by this usage of an upstream that counts so.
    #[must_use]
    pub fn new(usage: &ProviderUsage, convention: Convention, served: Option<Service>) -> Self {
        let (quantities, odd) = split(usage, convention);
        ToldParts { convention, quantities, odd, served }
    }

    /// Its tokens.
    #[must_use]
    pub fn tokens(&self) -> TokenUsage {
        tokens(&self.quantities)
    }
}

/// What is known of a call at its end.
#[derive(Clone, Copy, Debug)]
pub struct CallEnd {
    /// Its tokens.
    pub evidence: Evidence,
    /// The parts that the upstream has told, also of a prompt whose completion it has not told.
    pub told: ToldParts,
    /// The token limit of each choice that the upstream was told.
    pub limit: u64,
    /// Does the client have what was counted here?
    pub is_delivered: bool,
    /// What is held.
    pub held: Credits,
}

/// What a call is billed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Billed {
    /// The number of the row that prices it.
    pub row: u8,
    /// How the provider counts.
    pub convention: Convention,
    /// What is peculiar.
    pub flags: Flags,
    /// How much of what. They cost [`Billed::whole`] by the row.
    pub quantities: Quantities,
    /// The cost of the quantities.
    pub whole: Credits,
    /// What the call costs: `whole`, or less where it cannot be said so exactly.
    pub cost: Credits,
    /// The tokens of the call, as they are recorded.
    pub tokens: TokenUsage,
    /// Where they come from.
    pub tally: Tally,
    /// Was more told than can be true?
    pub is_cut: bool,
    /// What the upstream names and the card has no price for.
    pub unpriced: DimSet,
    /// What is odd about what was told.
    pub odd: Oddities,
}

fn tokens(quantities: &Quantities) -> TokenUsage {
    TokenUsage::new(quantities.sum(Side::In), quantities.sum(Side::Out))
}

/// One part of a call: its plain tokens, the tokens that it has at least, and the most that can be
/// true.
#[derive(Clone, Copy)]
struct Part {
    side: Side,
    plain: Dim,
    least: u64,
    most: u64,
}

impl Part {
    /// How many tokens it is billed for if the upstream tells these.
    fn tokens(self, told: &Quantities) -> u64 {
        told.sum(self.side).max(self.least).min(self.most)
    }

    /// Is more told than can be true?
    fn is_cut(self, told: &Quantities) -> bool {
        told.sum(self.side) > self.most
    }

    /// What is told of it, in the dimensions that have a price; what has none is plain.
    fn believed(self, told: &Quantities, rates: &Rates) -> Quantities {
        let all = self.tokens(told);
        let plain_price = rates.price(self.plain);
        let mut parts: Vec<(Dim, u64)> = told
            .parts()
            .filter(|(dim, _)| dim.side() == self.side && *dim != self.plain)
            .filter(|(dim, _)| rates.price(*dim).is_some())
            // If it was cut, a part that is cheaper than plain tokens is not believed.
            .filter(|(dim, _)| !self.is_cut(told) || rates.price(*dim) > plain_price)
            .collect();
        parts.sort_by_key(|(dim, _)| std::cmp::Reverse(rates.price(*dim)));
        let mut left = all;
        let mut quantities = Quantities::NONE;
        for (dim, tokens) in parts {
            let taken = tokens.min(left);
            left = left.saturating_sub(taken);
            quantities = quantities.with(dim, taken);
        }
        quantities.with(self.plain, left)
    }
}

/// Both, if no dimension is in both.
fn with_all(quantities: Quantities, more: &Quantities) -> Quantities {
    more.parts().fold(quantities, |all, (dim, number)| all.with(dim, number))
}

/// The quantities that have a price, and the dimensions of those that have none.
fn priced(quantities: &Quantities, rates: &Rates) -> (Quantities, DimSet) {
    let mut kept = Quantities::NONE;
    let mut unpriced = DimSet::EMPTY;
    for (dim, number) in quantities.parts() {
        if rates.price(dim).is_some() {
            kept = kept.with(dim, number);
        } else {
            unpriced = unpriced.with(dim);
        }
    }
    (kept, unpriced)
}

impl ModelPricing {
    /// What the call is billed for.
    #[must_use]
    pub fn settle(&self, demand: &Demand, end: &CallEnd) -> Billed {
        let CallEnd { evidence, told, limit, is_delivered, held } = *end;
        let (usage, tally) = evidence.tally();
        let is_reported = evidence.reports_completion();
        let allowed = self.allowed(demand, limit);
        let of_prompt = Part {
            side: Side::In,
            plain: Dim::Input,
            least: if usage.prompt == 0 { evidence.counted.prompt } else { usage.prompt },
            most: demand.prompt_tokens_believed(),
        };
        let of_completion = Part {
            side: Side::Out,
            plain: Dim::Output,
            least: usage.completion,
            most: match (is_reported, is_delivered) {
                (true, _) => allowed.saturating_add(Demand::SLACK_TOKENS),
                (false, true) => tolerated(allowed),
                (false, false) => allowed,
            },
        };
        let row = self.row(self.service(told.served), of_prompt.tokens(&told.quantities));
        let Some((number, row)) = row else { return Self::nothing(told.convention, usage, tally) };
        let rates = &row.rates;
        let beside = told.quantities.parts().filter(|(dim, _)| dim.side() == Side::Beside);
        let beside = with_all(call(), &beside.collect());
        let all = with_all(beside, &of_prompt.believed(&told.quantities, rates));
        let all = with_all(all, &of_completion.believed(&told.quantities, rates));
        let (quantities, unpriced) = priced(&all, rates);
        let (quantities, whole) = payable(quantities, rates);
        let is_cut = of_prompt.is_cut(&told.quantities) || of_completion.is_cut(&told.quantities);
        let is_told_oddly = !told.odd.is_empty();
        let is_odd = is_cut || unpriced != DimSet::EMPTY || (is_told_oddly && is_reported);
        // What is on its way when a call is broken off need not agree.
        let is_whole = evidence.heard == Heard::ToItsEnd;
        let odd = if is_whole { told.odd } else { Oddities::NONE };
        let odd = odd.with_if(is_cut, Oddity::TooMany);
        let flags = Flags::NONE
            .and_if(tally != Tally::Reported, Flags::COUNTED)
            .and_if(is_odd, Flags::ODD)
            .and_if(evidence.heard != Heard::ToItsEnd, Flags::EARLY);
        let billed = Billed {
            row: number,
            convention: told.convention,
            flags,
            quantities,
            whole,
            // Nobody can say what an unpriced part is worth, so no more is taken than is held.
            cost: if unpriced == DimSet::EMPTY { whole } else { whole.min(held) },
            tokens: tokens(&quantities),
            tally,
            is_cut,
            unpriced,
            odd: odd.with_if(unpriced != DimSet::EMPTY, Oddity::Unpriced),
        };
        if tally == Tally::Held { billed.paid_with(held, rates) } else { billed }
    }

    /// The cost of what was delivered of a call that goes on, and what it is for.
    #[must_use]
    pub fn earned(&self, demand: &Demand, counted: TokenUsage, told: ToldParts) -> Billed {
        let evidence = Evidence {
            reported: crate::Reported::Missing,
            counted,
            heard: Heard::UntilItBroke,
            may_hide: false,
        };
        // A completion is told at its end.
        let prompt = told.quantities.parts().filter(|(dim, _)| dim.side() == Side::In);
        let told = ToldParts { quantities: prompt.collect(), ..told };
        let (limit, held) = (demand.completion_tokens_max, Credits::ZERO);
        self.settle(demand, &CallEnd { evidence, told, limit, is_delivered: true, held })
    }

    /// The tokens of which `held` pays the cost, if that is less than what is billed: the
    /// completion is recorded as far as it is paid.
    #[must_use]
    pub fn paid(&self, billed: &Billed, held: Credits) -> TokenUsage {
        let row = self.card().numbered(billed.row);
        let Some(row) = row.filter(|_| billed.whole > held) else { return billed.tokens };
        let rest = billed.tokens.completion.saturating_sub(billed.quantities.of(Dim::Output));
        let fixed = billed.quantities.with(Dim::Output, 0);
        let only = DimSet::EMPTY.with(Dim::Output);
        let paid = row.rates.output_within(held, &fixed, only).unwrap_or(0);
        let completion = paid.min(billed.quantities.of(Dim::Output)).saturating_add(rest);
        TokenUsage::new(billed.tokens.prompt, completion)
    }

    /// The bill that says so.
    #[must_use]
    pub fn bill(&self, billed: &Billed) -> Bill {
        Bill {
            version: self.priced().version,
            card: self.priced().number,
            row: billed.row,
            convention: billed.convention,
            flags: billed.flags.and(self.flags()),
            quantities: billed.quantities,
        }
    }

    fn row(&self, service: Service, input: u64) -> Option<(u8, &CardRow)> {
        self.card().row(service, input).or_else(|| self.card().row(Service::Standard, input))
    }

    /// Every card has a standard row, so this is never billed.
    fn nothing(convention: Convention, tokens: TokenUsage, tally: Tally) -> Billed {
        let (quantities, whole) = (Quantities::NONE, Credits::ZERO);
        let (flags, unpriced) = (Flags::ODD, DimSet::ALL);
        Billed {
            row: 0,
            convention,
            flags,
            quantities,
            whole,
            cost: whole,
            tokens,
            tally,
            is_cut: false,
            unpriced,
            odd: Oddities::NONE.with_if(true, Oddity::Unpriced),
        }
    }
}

impl Billed {
    /// The same for a call that costs all that is held: so many tokens more of the completion that
    /// they cost that.
    fn paid_with(self, held: Credits, rates: &Rates) -> Billed {
        if self.whole >= held {
            return self;
        }
        let fixed = self.quantities.with(Dim::Output, 0);
        let only = DimSet::EMPTY.with(Dim::Output);
        let Some(within) = rates.output_within(held, &fixed, only) else { return self };
        let with = |tokens: u64| {
            let quantities = fixed.with(Dim::Output, tokens);
            rates.cost(&quantities).map(|whole| (quantities, whole))
        };
        let exact = with(within).filter(|(_, whole)| *whole >= held);
        // No number of tokens costs just that: one more, and the bill says that less was taken.
        let next = || with(within.saturating_add(1)).filter(|(_, whole)| *whole >= held);
        match exact.or_else(next) {
            Some((quantities, whole)) => Billed { quantities, whole, cost: held, ..self },
            // Its completion costs nothing.
            None => self,
        }
    }
}

/// The quantities and their cost; if it does not fit into [`Credits`], with as many tokens of the
/// completion as fit.
fn payable(quantities: Quantities, rates: &Rates) -> (Quantities, Credits) {
    if let Some(cost) = rates.cost(&quantities) {
        return (quantities, cost);
    }
    let fixed = quantities.with(Dim::Output, 0);
    let only = DimSet::EMPTY.with(Dim::Output);
    let within = rates.output_within(Credits::MAX, &fixed, only);
    let fitting = fixed.with(Dim::Output, within.unwrap_or(0));
    match rates.cost(&fitting) {
        Some(cost) => (fitting, cost),
        None => (call(), rates.cost(&call()).unwrap_or(Credits::ZERO)),
    }
}
