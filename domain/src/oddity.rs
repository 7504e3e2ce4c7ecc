//! What can be odd about the usage that a provider reports, and when that needs a person.
//!
//! One odd report is billed as it can be ([`super::pricing`]), and kept. Several of one deployment
//! say that its provider counts otherwise than is thought: then all its bills are wrong a little.

use super::coded::coded_enum;

coded_enum! {
    /// One thing that is odd. Its number is a bit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Oddity {
        /// More tokens were cached than the prompt has, or the parts of what was cached are more
        /// than all of it.
        Cache = 1 => "cache_above_prompt",
        /// More tokens were thought than the completion has.
        Thoughts = 2 => "thoughts_above_completion",
        /// The total is not the sum.
        Total = 4 => "total_differs",
        /// Other parts are more than their whole, or there is no whole.
        Parts = 8 => "parts_without_whole",
        /// A number that cannot be: negative, broken, or beyond measure.
        Impossible = 16 => "impossible_number",
        /// More tokens than the prompt can have, or than the call was allowed.
        TooMany = 32 => "more_than_possible",
        /// Something that the card has no price for.
        Unpriced = 64 => "unpriced",
    }
}

/// What is odd about one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Oddities(u8);

impl Oddities {
    /// Nothing.
    pub const NONE: Oddities = Oddities(0);

    const fn bit(one: Oddity) -> u8 {
        match one {
            Oddity::Cache => 1,
            Oddity::Thoughts => 1 << 1,
            Oddity::Total => 1 << 2,
            Oddity::Parts => 1 << 3,
            Oddity::Impossible => 1 << 4,
            Oddity::TooMany => 1 << 5,
            Oddity::Unpriced => 1 << 6,
        }
    }

    /// These, and that one if it is so.
    #[must_use]
    pub const fn with_if(self, is_so: bool, one: Oddity) -> Self {
        if is_so { Oddities(self.0 | Self::bit(one)) } else { self }
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Oddities) -> Self {
        Oddities(self.0 | others.0)
    }

    /// Is nothing odd?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Is this one among them?
    #[must_use]
    pub const fn has(self, one: Oddity) -> bool {
        self.0 & Self::bit(one) != 0
    }

    /// Each of them.
    pub fn each(self) -> impl Iterator<Item = Oddity> {
        Oddity::ALL.into_iter().filter(move |one| self.has(*one))
    }

    /// As they are stored: the sum of their numbers.
    #[must_use]
    pub fn code(self) -> i16 {
        i16::from(self.0)
    }

    /// Those that are stored so; `None` if one of them is not known.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        u8::try_from(code).ok().filter(|bits| bits & 0x80 == 0).map(Oddities)
    }
}

/// Answers of a deployment that are looked at together.
pub const ODDITY_WINDOW: u64 = 1_000;
/// Odd ones among them that need a person: more than one in a thousand.
pub const ODDITIES_TOLD: u64 = 2;

/// The odd reports among the last answers of a deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OddityWindow {
    begins: u64,
    odd: u64,
    is_told: bool,
}

impl OddityWindow {
    /// Counts an odd report of a deployment that has given so many answers since the start. Is a
    /// person to be told now? Once in a window.
    pub fn add(&mut self, answered: u64) -> bool {
        if answered.saturating_sub(self.begins) >= ODDITY_WINDOW {
            *self = OddityWindow { begins: answered, odd: 0, is_told: false };
        }
        self.odd = self.odd.saturating_add(1);
        let tells = !self.is_told && self.odd >= ODDITIES_TOLD;
        self.is_told |= tells;
        tells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_bit_of_its_own() {
        let mut all = Oddities::NONE;
        for one in Oddity::ALL {
            let alone = Oddities::NONE.with_if(true, one);
            assert_eq!(alone.code(), one.code());
            assert_eq!(Oddities::from_code(one.code()), Some(alone));
            assert_eq!((alone.each().collect::<Vec<_>>(), all.has(one)), (vec![one], false));
            all = all.and(alone);
        }
        assert_eq!(all.each().collect::<Vec<_>>(), Oddity::ALL);
        assert!(Oddities::NONE.with_if(false, Oddity::Total).is_empty() && !all.is_empty());
        assert_eq!((Oddities::from_code(128), Oddities::from_code(-1)), (None, None));
    }

    #[test]
    fn a_person_is_told_of_more_than_one_in_a_thousand() {
        let mut window = OddityWindow::default();
        // One in each thousand answers is borne.
        for thousand in 1..5 {
            assert!(!window.add(thousand * 1_000));
        }
        assert!(window.add(4_500));
        // Once.
        assert!(!window.add(4_501) && !window.add(4_999));
        assert!(!window.add(5_000) && window.add(5_999));
    }
}
