//! The terms of a text: what the text arm of a search compares.
//!
//! A word is a run of letters and digits, in lowercase, stemmed by the collection's language,
//! without accents. Scripts that write no spaces give pairs of neighbouring characters.

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Characters of a word that count: of a longer one, the first.
const WORD_MAX: usize = 64;

macro_rules! languages {
    ($($name:ident $code:literal $number:literal),* $(,)?) => {
        /// The language of a collection, which chooses its stemmer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum Language {
            /// Words are compared as they are, without accents.
            #[default]
            Plain,
            $(
                #[doc = concat!("Snowball's stemmer of `", $code, "`.")]
                $name,
            )*
        }

        impl Language {
            /// By its code of ISO 639-1. `None` if there is no stemmer for it.
            pub fn from_code(code: &str) -> Option<Self> {
                match code {
                    "plain" => Some(Self::Plain),
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its code of ISO 639-1, or `plain`.
            pub const fn code(self) -> &'static str {
                match self {
                    Self::Plain => "plain",
                    $(Self::$name => $code,)*
                }
            }

            pub(crate) const fn from_number(number: u8) -> Option<Self> {
                match number {
                    0 => Some(Self::Plain),
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            pub(crate) const fn number(self) -> u8 {
                match self {
                    Self::Plain => 0,
                    $(Self::$name => $number,)*
                }
            }

            fn stemmer(self) -> Option<Stemmer> {
                match self {
                    Self::Plain => None,
                    $(Self::$name => Some(Stemmer::create(Algorithm::$name)),)*
                }
            }
        }
    };
}

languages! {
    Arabic "ar" 1, Danish "da" 2, Dutch "nl" 3, English "en" 4, Finnish "fi" 5, French "fr" 6,
    German "de" 7, Greek "el" 8, Hungarian "hu" 9, Italian "it" 10, Norwegian "no" 11,
    Portuguese "pt" 12, Romanian "ro" 13, Russian "ru" 14, Spanish "es" 15, Swedish "sv" 16,
    Tamil "ta" 17, Turkish "tr" 18,
}

/// A word of a query.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Word {
    /// The term that it is in an index.
    pub(crate) term: String,
    /// The word before it was stemmed, without accents.
    pub(crate) folded: String,
    /// Whether it is one character of a script without spaces, which is in pairs of an index.
    pub(crate) part_of_pair: bool,
}

/// Takes texts to terms in one language.
pub(crate) struct Analyzer {
    stemmer: Option<Stemmer>,
}

impl Analyzer {
    pub(crate) fn new(language: Language) -> Self {
        Self { stemmer: language.stemmer() }
    }

    /// Gives the terms of a text of a document to `found`, in order.
    pub(crate) fn terms(&self, text: &str, mut found: impl FnMut(&str)) {
        runs(text, |run, unspaced| {
            if unspaced {
                pairs(run, &mut found);
                // The last is in no pair as the first.
                if let Some(last) = run.chars().next_back() {
                    found(last.encode_utf8(&mut [0; 4]));
                }
            } else {
                found(&self.stemmed(run));
            }
        });
    }

    /// The words of a query, in order.
    pub(crate) fn words(&self, text: &str) -> Vec<Word> {
        let mut words = Vec::new();
        runs(text, |run, unspaced| {
            let mut add = |term: &str, folded: String, part_of_pair| {
                words.push(Word { term: term.to_owned(), folded, part_of_pair });
            };
            if !unspaced {
                add(&self.stemmed(run), without_accents(run), false);
            } else if run.chars().nth(1).is_none() {
                add(run, run.to_owned(), true);
            } else {
                pairs(run, |pair| add(pair, pair.to_owned(), false));
            }
        });
        words
    }

    fn stemmed(&self, word: &str) -> String {
        let stem = self.stemmer.as_ref().map_or(word.into(), |stemmer| stemmer.stem(word));
        without_accents(&stem)
    }
}

/// Gives each run of word characters to `found`, in lowercase, and whether its script writes no
/// spaces.
fn runs(text: &str, mut found: impl FnMut(&str, bool)) {
    let mut run = String::new();
    let (mut length, mut unspaced) = (0, false);
    let mut end = |run: &mut String, length: &mut usize, unspaced| {
        if !run.is_empty() {
            found(run, unspaced);
        }
        run.clear();
        *length = 0;
    };
    let mut take = |letter: char| {
        if !letter.is_alphanumeric() && !is_combining_mark(letter) {
            return end(&mut run, &mut length, unspaced);
        }
        // A mark belongs to the letter before it.
        let here = if is_combining_mark(letter) { unspaced } else { is_unspaced(letter) };
        if here != unspaced {
            end(&mut run, &mut length, unspaced);
            unspaced = here;
        }
        length += 1;
        if length <= WORD_MAX {
            run.extend(letter.to_lowercase());
        } else if unspaced {
            // The last begins the next run, so that no pair is missing.
            let last = run.chars().next_back();
            end(&mut run, &mut length, unspaced);
            run.extend(last);
            run.push(letter);
            length = 2;
        }
    };
    if text.is_ascii() {
        text.chars().for_each(&mut take);
    } else {
        text.nfkc().for_each(&mut take);
    }
    take(' ');
}

fn pairs(run: &str, mut found: impl FnMut(&str)) {
    let starts = run.char_indices().map(|(start, _)| start);
    let ends = run.char_indices().skip(1).map(|(start, letter)| start + letter.len_utf8());
    starts.zip(ends).filter_map(|(start, end)| run.get(start..end)).for_each(&mut found);
}

/// Without the accents of European scripts and the vowel points of Arabic and Hebrew. Marks of
/// other scripts are letters.
fn without_accents(word: &str) -> String {
    if word.is_ascii() {
        return word.to_owned();
    }
    let is_accent = |letter: &char| matches!(letter, '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{64b}'..='\u{65f}');
    let plain: String = word.nfd().filter(|letter| !is_accent(letter)).nfc().collect();
    if plain.is_empty() { word.to_owned() } else { plain }
}

/// Thai, Lao, Myanmar, Khmer, Japanese, Chinese, Korean. Korean has spaces, but its words change
/// their ends, and pairs find them.
const fn is_unspaced(letter: char) -> bool {
    matches!(letter,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::{Analyzer, Language};

    fn terms(language: Language, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        Analyzer::new(language).terms(text, |term| found.push(term.to_owned()));
        found
    }

    #[test]
    fn words_are_stemmed_and_lose_their_accents() {
        assert_eq!(terms(Language::English, "Running Refunds, café"), ["run", "refund", "cafe"]);
        assert_eq!(terms(Language::German, "Häuser HAUS"), ["haus", "haus"]);
        assert_eq!(terms(Language::Plain, "ﬁle Ünits x_1"), ["file", "units", "x", "1"]);
    }

    #[test]
    fn scripts_without_spaces_give_pairs() {
        assert_eq!(terms(Language::English, "東京都 km"), ["東京", "京都", "都", "km"]);
        let words = Analyzer::new(Language::Plain).words("猫 東京都");
        let words: Vec<_> = words.iter().map(|word| (&*word.term, word.part_of_pair)).collect();
        assert_eq!(words, [("猫", true), ("東京", false), ("京都", false)]);
    }

    #[test]
    fn marks_of_other_scripts_stay_in_their_word() {
        assert_eq!(terms(Language::Plain, "हिन्दी भाषा").len(), 2);
    }

    #[test]
    fn a_long_word_is_cut() {
        assert_eq!(terms(Language::Plain, &"a".repeat(100_000)), ["a".repeat(64)]);
        let pairs = terms(Language::Plain, &"語".repeat(200));
        assert_eq!(pairs.iter().filter(|term| *term == "語語").count(), 199);
    }

    #[test]
    fn codes_and_numbers_lead_back() {
        for number in 0..=18 {
            let language = Language::from_number(number);
            assert_eq!(language.map(Language::number), Some(number));
            assert_eq!(language.and_then(|one| Language::from_code(one.code())), language);
        }
        assert_eq!(Language::from_code("xx"), None);
    }
}
