//! What a provider says that a call used, and how it is taken apart into quantities.
//!
//! Providers name parts of a whole: cached tokens of a prompt, thoughts of a completion. Whatever
//! they name, the quantities are a partition: together they are the whole, and each token is paid
//! once.

use super::dim::{Dim, Side};
use super::oddity::{Oddities, Oddity};
use super::quantities::Quantities;
use super::tally::TokenUsage;

/// How a provider counts a part: in the number of the whole, or beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Counted {
    /// The whole has it already.
    #[default]
    Within,
    /// It must be added to get the whole.
    Beside,
}

/// How a provider counts in one dialect. The same dialect is counted in different ways by
/// different providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Convention {
    /// Cached tokens, read and written, in the number of the prompt.
    pub cache: Counted,
    /// Thoughts in the number of the completion.
    pub thoughts: Counted,
}

impl Convention {
    /// All of them.
    pub const ALL: [Convention; 4] = [
        Convention { cache: Counted::Within, thoughts: Counted::Within },
        Convention { cache: Counted::Beside, thoughts: Counted::Within },
        Convention { cache: Counted::Within, thoughts: Counted::Beside },
        Convention { cache: Counted::Beside, thoughts: Counted::Beside },
    ];
    /// As OpenAI counts: everything within.
    pub const OPENAI: Convention = Convention { cache: Counted::Within, thoughts: Counted::Within };
    /// As Anthropic and Bedrock count: the cache beside the prompt.
    pub const ANTHROPIC: Convention =
        Convention { cache: Counted::Beside, thoughts: Counted::Within };
    /// As Gemini counts, and xAI in chat: thoughts beside the completion.
    pub const GEMINI: Convention = Convention { cache: Counted::Within, thoughts: Counted::Beside };
}

/// Declares the fields, each a number or nothing.
macro_rules! provider_usage {
    ($($(#[$doc:meta])* $field:ident,)+) => {
        /// The usage of a call as its provider names it: nothing is added up or taken apart yet. A
        /// field is `None` where the provider has not named it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub struct ProviderUsage {
            $($(#[$doc])* pub $field: Option<u64>,)+
        }

        impl ProviderUsage {
            /// This and what came later or earlier in the same answer: of each field the larger
            /// number. A provider repeats its sums while they grow, so nothing is ever added, and
            /// a zero takes nothing away.
            #[must_use]
            pub fn merged(self, other: ProviderUsage) -> Self {
                ProviderUsage { $($field: self.$field.max(other.$field),)+ }
            }

            /// What the provider has named, with the names of the fields.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                let all = [$((stringify!($field), self.$field),)+];
                all.into_iter().filter_map(|(name, number)| Some((name, number?)))
            }
        }
    };
}

provider_usage! {
    /// Tokens of the prompt.
    input,
    /// Tokens of the prompt that came from tools of the provider, always beside `input`.
    tool_input,
    /// Tokens of the completion, of all choices.
    output,
    /// All tokens. If that is more than all others, the surplus is of the completion.
    total,
    /// Tokens of the prompt that were cached before.
    cache_read,
    /// Tokens of the prompt that are cached now, for whatever time.
    cache_write,
    /// Those of them that are cached for five minutes.
    cache_write_5m,
    /// Those of them that are cached for an hour.
    cache_write_1h,
    /// Those of them that are cached for twelve hours.
    cache_write_12h,
    /// Tokens of the prompt's audio.
    input_audio,
    /// Those of them that were cached before; `cache_read` has them, too.
    cache_read_audio,
    /// Tokens of the prompt's images.
    input_image,
    /// Those of them that were cached before; `cache_read` has them, too.
    cache_read_image,
    /// Tokens of the prompt's videos.
    input_video,
    /// Tokens that the model thought.
    thoughts,
    /// Tokens of the completion's audio.
    output_audio,
    /// Tokens of the completion's images.
    output_image,
    /// Milliseconds of audio that were transcribed.
    audio_in_ms,
    /// Milliseconds of audio that were made.
    audio_out_ms,
    /// Milliseconds of video that were made.
    video_ms,
    /// Images that were made.
    images,
    /// Searches of the web.
    web_searches,
    /// Units of reranking.
    rerank_units,
    /// Pages that were read.
    pages,
    /// Sessions of tools that the provider runs.
    tool_sessions,
}

impl ProviderUsage {
    /// Has the provider named nothing at all? Then there is nothing to bill by, and that is not
    /// the same as a usage of zero.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        *self == ProviderUsage::default()
    }

    /// The same for an answer in which images were seen: if the provider names no tokens of them,
    /// all of the completion is the image that is neither text nor thought.
    #[must_use]
    pub fn of_image_answer(self, by: Convention, seen: SeenAnswer) -> Self {
        let named = [self.output_audio, self.output_image].into_iter().flatten();
        if seen.images == 0 || named.fold(0, u64::saturating_add) > 0 {
            return self;
        }
        let thoughts = self.thoughts.unwrap_or(0);
        // Thoughts may be shown, and are a part of the text then.
        let others = match by.thoughts {
            Counted::Within => thoughts.max(seen.text),
            Counted::Beside => seen.text.saturating_sub(thoughts),
        };
        let output = self.output.filter(|tokens| *tokens > 0);
        let image = output.map_or(seen.images, |output| output.saturating_sub(others));
        ProviderUsage { output, output_image: Some(image), ..self }
    }

    /// The same for a request that asked to keep its prompt for an hour: what is written to the
    /// cache, and not told apart by its time, is kept for an hour. That is the dearer one.
    #[must_use]
    pub fn kept_for_an_hour(self) -> Self {
        let named = |part: Option<u64>| part.unwrap_or(0);
        let hour = named(self.cache_write_1h);
        let by_time = sum([named(self.cache_write_5m), hour, named(self.cache_write_12h)]);
        match named(self.cache_write).saturating_sub(by_time) {
            0 => self,
            untold => ProviderUsage { cache_write_1h: Some(hour.saturating_add(untold)), ..self },
        }
    }
}

/// What was seen here of an answer, in tokens of our own count. The provider's count is another
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SeenAnswer {
    /// Of its text, thoughts that are shown among it.
    pub text: u64,
    /// Of its images.
    pub images: u64,
}

impl From<TokenUsage> for ProviderUsage {
    fn from(usage: TokenUsage) -> Self {
        ProviderUsage {
            input: Some(usage.prompt),
            output: Some(usage.completion),
            total: (usage.reported_total > 0).then_some(usage.reported_total),
            ..ProviderUsage::default()
        }
    }
}

/// A whole that is being taken apart.
struct Rest {
    left: u64,
    quantities: Quantities,
    odd: Oddities,
}

impl Rest {
    /// Takes so many tokens for this dimension; fewer if there are not so many left.
    fn take(&mut self, dim: Dim, wanted: u64) {
        let taken = wanted.min(self.left);
        self.note(taken < wanted, of_dim(dim));
        self.left = self.left.saturating_sub(taken);
        self.quantities = self.quantities.with(dim, taken);
    }

    fn note(&mut self, is_so: bool, odd: Oddity) {
        self.odd = self.odd.with_if(is_so, odd);
    }

    /// Begins with another whole.
    fn begin(&mut self, whole: u64) {
        self.left = whole;
    }
}

/// What it is if there is more of this part than there can be.
const fn of_dim(dim: Dim) -> Oddity {
    match dim {
        Dim::CacheRead
        | Dim::CacheReadAudio
        | Dim::CacheReadImage
        | Dim::CacheWrite
        | Dim::CacheWrite1h
        | Dim::CacheWrite12h => Oddity::Cache,
        Dim::Reasoning => Oddity::Thoughts,
        _ => Oddity::Parts,
    }
}

/// What the provider named, taken apart, and what of its numbers does not agree with each other:
/// then the convention is wrong or the provider is.
///
/// The sums of both sides are the whole, whatever is said of its parts: a part never has more than
/// what the parts before it have left. The whole is what the provider names, with what its
/// convention counts beside; the sum of the parts if it does not name it.
#[must_use]
pub fn split(usage: &ProviderUsage, by: Convention) -> (Quantities, Oddities) {
    let mut rest = Rest { left: 0, quantities: Quantities::NONE, odd: Oddities::NONE };
    let input = split_input(&mut rest, usage, by.cache);
    split_output(&mut rest, usage, by.thoughts, input);
    let pieces = [
        (Dim::AudioIn, usage.audio_in_ms),
        (Dim::AudioOut, usage.audio_out_ms),
        (Dim::Video, usage.video_ms),
        (Dim::Image, usage.images),
        (Dim::WebSearch, usage.web_searches),
        (Dim::RerankUnit, usage.rerank_units),
        (Dim::Page, usage.pages),
        (Dim::ToolSession, usage.tool_sessions),
    ];
    let quantities = pieces.into_iter().fold(rest.quantities, |quantities, (dim, number)| {
        quantities.with(dim, number.unwrap_or(0))
    });
    (quantities, rest.odd)
}

/// What the same numbers of a provider are if it counts otherwise than was thought: as if they had
/// been [`split`] by `to` and not by `from`. What is no token stays.
#[must_use]
pub fn recounted(quantities: &Quantities, from: Convention, to: Convention) -> Quantities {
    let of = |dim| quantities.of(dim);
    let writes = sum([of(Dim::CacheWrite), of(Dim::CacheWrite1h), of(Dim::CacheWrite12h)]);
    let reads = sum([of(Dim::CacheRead), of(Dim::CacheReadAudio), of(Dim::CacheReadImage)]);
    let whole = |side, beside: Counted, part| {
        let all = quantities.sum(side);
        if beside == Counted::Beside { all.saturating_sub(part) } else { all }
    };
    let named = |number: u64| (number > 0).then_some(number);
    let usage = ProviderUsage {
        input: Some(whole(Side::In, from.cache, sum([reads, writes]))),
        output: Some(whole(Side::Out, from.thoughts, of(Dim::Reasoning))),
        cache_read: named(reads),
        cache_write: named(writes),
        cache_write_1h: named(of(Dim::CacheWrite1h)),
        cache_write_12h: named(of(Dim::CacheWrite12h)),
        input_audio: named(sum([of(Dim::InputAudio), of(Dim::CacheReadAudio)])),
        cache_read_audio: named(of(Dim::CacheReadAudio)),
        input_image: named(sum([of(Dim::InputImage), of(Dim::CacheReadImage)])),
        cache_read_image: named(of(Dim::CacheReadImage)),
        input_video: named(of(Dim::InputVideo)),
        thoughts: named(of(Dim::Reasoning)),
        output_audio: named(of(Dim::OutputAudio)),
        output_image: named(of(Dim::OutputImage)),
        ..ProviderUsage::default()
    };
    let (tokens, _) = split(&usage, to);
    let beside = quantities.parts().filter(|(dim, _)| dim.side() == Side::Beside);
    beside.fold(tokens, |all, (dim, quantity)| all.with(dim, quantity))
}

fn sum<const COUNT: usize>(parts: [u64; COUNT]) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

/// The prompt; how many tokens it has.
fn split_input(rest: &mut Rest, usage: &ProviderUsage, cache: Counted) -> u64 {
    let named = |part: Option<u64>| part.unwrap_or(0);
    let (hour, hours) = (named(usage.cache_write_1h), named(usage.cache_write_12h));
    let by_time = sum([named(usage.cache_write_5m), hour, hours]);
    let written = named(usage.cache_write).max(by_time);
    rest.note(usage.cache_write.is_some_and(|written| written < by_time), Oddity::Cache);
    let (read_audio, read_image) = (named(usage.cache_read_audio), named(usage.cache_read_image));
    let read = named(usage.cache_read).max(read_audio.saturating_add(read_image));
    rest.note(usage.cache_read.is_some_and(|named| named < read), Oddity::Cache);
    // What was cached of a modality is in both numbers.
    let fresh = |all: Option<u64>, read: u64| named(all).saturating_sub(read);
    let (audio, image) =
        (fresh(usage.input_audio, read_audio), fresh(usage.input_image, read_image));
    let video = named(usage.input_video);

    let cached = sum([read, written]);
    let whole = match (usage.input, cache) {
        (Some(input), Counted::Within) => input,
        (Some(input), Counted::Beside) => input.saturating_add(cached),
        (None, _) => {
            let parts = sum([cached, audio, image, video]);
            rest.note(parts > 0, Oddity::Parts);
            parts
        }
    };
    let whole = whole.saturating_add(named(usage.tool_input));
    rest.begin(whole);
    rest.take(Dim::CacheReadAudio, read_audio);
    rest.take(Dim::CacheReadImage, read_image);
    rest.take(Dim::CacheRead, read.saturating_sub(read_audio.saturating_add(read_image)));
    rest.take(Dim::CacheWrite12h, hours);
    rest.take(Dim::CacheWrite1h, hour);
    rest.take(Dim::CacheWrite, written.saturating_sub(hour.saturating_add(hours)));
    rest.take(Dim::InputAudio, audio);
    rest.take(Dim::InputImage, image);
    rest.take(Dim::InputVideo, video);
    rest.take(Dim::Input, rest.left);
    whole
}

/// The completion of a call whose prompt has so many tokens.
fn split_output(rest: &mut Rest, usage: &ProviderUsage, thoughts: Counted, input: u64) {
    let named = |part: Option<u64>| part.unwrap_or(0);
    let (thought, audio) = (named(usage.thoughts), named(usage.output_audio));
    let image = named(usage.output_image);
    let whole = match (usage.output, thoughts) {
        (Some(output), Counted::Within) => output,
        (Some(output), Counted::Beside) => output.saturating_add(thought),
        (None, _) => {
            let parts = sum([thought, audio, image]);
            rest.note(parts > 0, Oddity::Parts);
            parts
        }
    };
    // Some name their thoughts in the total only. If they are named elsewhere, a surplus is odd.
    let all = input.saturating_add(whole);
    let surplus = usage.total.map_or(0, |total| total.saturating_sub(all));
    let is_less = usage.total.is_some_and(|total| total < all);
    rest.note(is_less || (surplus > 0 && thought > 0), Oddity::Total);
    rest.begin(whole.saturating_add(surplus));
    rest.take(Dim::Reasoning, thought);
    rest.take(Dim::OutputAudio, audio);
    rest.take(Dim::OutputImage, image);
    rest.take(Dim::Output, rest.left);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(usage: &ProviderUsage, by: Convention) -> (Vec<(Dim, u64)>, bool) {
        let (quantities, odd) = split(usage, by);
        (quantities.parts().collect(), !odd.is_empty())
    }

    #[test]
    fn cached_parts_of_a_modality_are_taken_once() {
        let usage = ProviderUsage {
            input: Some(1_000),
            input_audio: Some(300),
            cache_read: Some(500),
            cache_read_audio: Some(200),
            ..ProviderUsage::default()
        };
        let expected = vec![
            (Dim::Input, 400),
            (Dim::CacheRead, 300),
            (Dim::InputAudio, 100),
            (Dim::CacheReadAudio, 200),
        ];
        assert_eq!(parts(&usage, Convention::OPENAI), (expected, false));
    }

    #[test]
    fn writes_are_told_apart_by_their_time() {
        let usage = ProviderUsage {
            input: Some(10),
            cache_write: Some(100),
            cache_write_1h: Some(60),
            cache_write_12h: Some(30),
            ..ProviderUsage::default()
        };
        let expected = vec![
            (Dim::Input, 10),
            (Dim::CacheWrite, 10),
            (Dim::CacheWrite1h, 60),
            (Dim::CacheWrite12h, 30),
        ];
        assert_eq!(parts(&usage, Convention::ANTHROPIC), (expected, false));
        // The whole of them may come later, or never.
        let by_time = ProviderUsage { cache_write: None, ..usage };
        let expected = vec![(Dim::Input, 10), (Dim::CacheWrite1h, 60), (Dim::CacheWrite12h, 30)];
        assert_eq!(parts(&by_time, Convention::ANTHROPIC), (expected.clone(), false));
        let odd = ProviderUsage { cache_write: Some(80), ..usage };
        assert_eq!(parts(&odd, Convention::ANTHROPIC), (expected, true));
    }

    #[test]
    fn a_surplus_of_the_total_is_output() {
        let usage =
            ProviderUsage::from(TokenUsage { prompt: 8, completion: 60, reported_total: 99 });
        let expected = vec![(Dim::Input, 8), (Dim::Output, 91)];
        assert_eq!(parts(&usage, Convention::OPENAI), (expected, false));
        // Thoughts that are named are no reason for a surplus.
        let usage = ProviderUsage { thoughts: Some(31), ..usage };
        let expected = vec![(Dim::Input, 8), (Dim::Output, 60), (Dim::Reasoning, 31)];
        assert_eq!(parts(&usage, Convention::OPENAI), (expected.clone(), true));
        assert_eq!(parts(&usage, Convention::GEMINI), (expected, false));
        // A total below its parts says that the convention is wrong.
        let less = ProviderUsage { total: Some(68), ..usage };
        assert!(parts(&less, Convention::GEMINI).1 && !parts(&less, Convention::OPENAI).1);
    }

    #[test]
    fn parts_without_a_whole_are_the_whole() {
        let usage =
            ProviderUsage { cache_read: Some(5), thoughts: Some(7), ..ProviderUsage::default() };
        let expected = vec![(Dim::CacheRead, 5), (Dim::Reasoning, 7)];
        assert_eq!(parts(&usage, Convention::OPENAI), (expected, true));
        assert_eq!(parts(&ProviderUsage::default(), Convention::OPENAI), (vec![], false));
        assert!(ProviderUsage::default().is_missing());
        assert!(!ProviderUsage { input: Some(0), ..ProviderUsage::default() }.is_missing());
    }

    #[test]
    fn writes_that_nobody_tells_apart_are_kept_as_long_as_was_asked_for() {
        let usage = ProviderUsage { cache_write: Some(100), ..ProviderUsage::default() };
        let hour = |usage: ProviderUsage| usage.kept_for_an_hour().cache_write_1h;
        assert_eq!(hour(usage), Some(100));
        // Zeros tell nothing apart.
        let zeros = ProviderUsage { cache_write_5m: Some(0), cache_write_1h: Some(0), ..usage };
        assert_eq!(hour(zeros), Some(100));
        // A split that is told counts.
        let split = ProviderUsage { cache_write_5m: Some(30), cache_write_1h: Some(60), ..usage };
        assert_eq!(hour(split), Some(70));
        let whole = ProviderUsage { cache_write_5m: Some(100), ..usage };
        assert_eq!(whole.kept_for_an_hour(), whole);
        let by_time = ProviderUsage { cache_write: None, ..split };
        assert_eq!(by_time.kept_for_an_hour(), by_time);
    }

    #[test]
    fn what_is_neither_text_nor_thought_is_the_image_that_was_seen() {
        let usage =
            ProviderUsage { output: Some(1_400), thoughts: Some(300), ..ProviderUsage::default() };
        let image = |usage: ProviderUsage, by: Convention, text: u64| {
            usage.of_image_answer(by, SeenAnswer { text, images: 900 }).output_image
        };
        // Thoughts within the completion are no image, and shown ones are text.
        assert_eq!(image(usage, Convention::OPENAI, 20), Some(1_100));
        assert_eq!(image(usage, Convention::OPENAI, 310), Some(1_090));
        // Thoughts beside it are no part of it.
        assert_eq!(image(usage, Convention::GEMINI, 20), Some(1_400));
        assert_eq!(image(usage, Convention::GEMINI, 310), Some(1_390));
        // Nothing is told: our own count.
        assert_eq!(image(ProviderUsage::default(), Convention::GEMINI, 0), Some(900));
        let zero = ProviderUsage { output: Some(0), ..ProviderUsage::default() };
        assert_eq!(image(zero, Convention::GEMINI, 0), Some(900));
        // What is named counts, and without an image there is none.
        let named = ProviderUsage { output_image: Some(1_290), ..usage };
        assert_eq!(image(named, Convention::GEMINI, 0), Some(1_290));
        let unseen = SeenAnswer { text: 9, images: 0 };
        assert_eq!(usage.of_image_answer(Convention::GEMINI, unseen), usage);
    }

    #[test]
    fn what_is_odd_is_told_apart() {
        let usage = |change: fn(&mut ProviderUsage)| {
            let mut usage =
                ProviderUsage { input: Some(10), output: Some(10), ..ProviderUsage::default() };
            change(&mut usage);
            let odd = split(&usage, Convention::OPENAI).1;
            odd.each().map(Oddity::name).collect::<Vec<_>>()
        };
        assert_eq!(usage(|_| ()), Vec::<&str>::new());
        assert_eq!(usage(|usage| usage.cache_read = Some(11)), ["cache_above_prompt"]);
        assert_eq!(usage(|usage| usage.thoughts = Some(11)), ["thoughts_above_completion"]);
        assert_eq!(usage(|usage| usage.total = Some(19)), ["total_differs"]);
        assert_eq!(usage(|usage| usage.input_audio = Some(11)), ["parts_without_whole"]);
        let both = usage(|usage| (usage.cache_write, usage.total) = (Some(12), Some(1)));
        assert_eq!(both, ["cache_above_prompt", "total_differs"]);
    }

    #[test]
    fn pieces_are_what_they_are() {
        let usage = ProviderUsage {
            tool_input: Some(4),
            input: Some(3),
            web_searches: Some(2),
            audio_in_ms: Some(3_400),
            ..ProviderUsage::default()
        };
        let expected = vec![(Dim::Input, 7), (Dim::AudioIn, 3_400), (Dim::WebSearch, 2)];
        assert_eq!(parts(&usage, Convention::OPENAI), (expected, false));
    }
}
