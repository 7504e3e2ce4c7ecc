//! Usage as providers name it: a partition, whatever they name.

use domain::metering::split;
use domain::{Convention, Counted, Dim, ProviderUsage, Side, TokenUsage};
use proptest::array::uniform25;
use proptest::option;
use proptest::prelude::*;

use crate::config;
use crate::some::number;

/// Usage with these fields: each name stands here once.
macro_rules! usage_with {
    ($fields:expr => $($name:ident,)+) => {{
        let mut fields = $fields.into_iter();
        let usage = ProviderUsage { $($name: fields.next().expect("too few fields"),)+ };
        assert_eq!(fields.next(), None, "too many fields");
        usage
    }};
}

fn usage(bits: u32) -> impl Strategy<Value = ProviderUsage> {
    uniform25(option::of(number(bits))).prop_map(|fields| {
        usage_with!(fields =>
            input,
            tool_input,
            output,
            total,
            cache_read,
            cache_write,
            cache_write_5m,
            cache_write_1h,
            cache_write_12h,
            input_audio,
            cache_read_audio,
            input_image,
            cache_read_image,
            input_video,
            thoughts,
            output_audio,
            output_image,
            audio_in_ms,
            audio_out_ms,
            video_ms,
            images,
            web_searches,
            rerank_units,
            pages,
            tool_sessions,
        )
    })
}

fn number_of(part: Option<u64>) -> u64 {
    part.unwrap_or(0)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_parts_are_the_whole(usage in usage(40)) {
        for by in Convention::ALL {
            let (quantities, _) = split(&usage, by);
            let (input, output) = (quantities.sum(Side::In), quantities.sum(Side::Out));
            // No more cached tokens than were named count beside, and no fewer.
            let times = number_of(usage.cache_write_5m)
                + number_of(usage.cache_write_1h)
                + number_of(usage.cache_write_12h);
            let read = number_of(usage.cache_read_audio) + number_of(usage.cache_read_image);
            let cached = number_of(usage.cache_write).max(times) + number_of(usage.cache_read).max(read);
            if let Some(named) = usage.input {
                let beside = if by.cache == Counted::Beside { cached } else { 0 };
                prop_assert_eq!(input, named + beside + number_of(usage.tool_input));
            }
            if let Some(named) = usage.output {
                let thoughts = number_of(usage.thoughts);
                let beside = if by.thoughts == Counted::Beside { thoughts } else { 0 };
                let whole = input + named + beside;
                prop_assert_eq!(input + output, whole.max(number_of(usage.total)));
            }
        }
    }

    #[test]
    fn no_part_is_more_than_was_named(usage in usage(62)) {
        for by in Convention::ALL {
            let (quantities, odd) = split(&usage, by);
            for (dim, named) in [
                (Dim::CacheWrite1h, usage.cache_write_1h),
                (Dim::CacheWrite12h, usage.cache_write_12h),
                (Dim::InputAudio, usage.input_audio),
                (Dim::CacheReadAudio, usage.cache_read_audio),
                (Dim::InputImage, usage.input_image),
                (Dim::CacheReadImage, usage.cache_read_image),
                (Dim::InputVideo, usage.input_video),
                (Dim::Reasoning, usage.thoughts),
                (Dim::OutputAudio, usage.output_audio),
                (Dim::OutputImage, usage.output_image),
            ] {
                prop_assert!(quantities.of(dim) <= number_of(named), "{:?}", dim);
            }
            // Where nothing is odd, each has what was named.
            if odd.is_empty() {
                prop_assert_eq!(quantities.of(Dim::Reasoning), number_of(usage.thoughts));
                let read = [Dim::CacheRead, Dim::CacheReadAudio, Dim::CacheReadImage];
                let read = read.map(|dim| quantities.of(dim)).into_iter().sum::<u64>();
                let named = number_of(usage.cache_read_audio) + number_of(usage.cache_read_image);
                prop_assert_eq!(read, number_of(usage.cache_read).max(named));
            }
        }
    }

    #[test]
    fn the_order_of_reports_does_not_count(one in usage(64), two in usage(64), three in usage(64)) {
        prop_assert_eq!(one.merged(two), two.merged(one));
        prop_assert_eq!(one.merged(two).merged(three), one.merged(two.merged(three)));
        prop_assert_eq!(one.merged(one), one);
        prop_assert_eq!(one.merged(ProviderUsage::default()), one);
        let zeros = ProviderUsage::from(TokenUsage::default());
        prop_assert_eq!(one.merged(zeros).input, Some(number_of(one.input)));
    }

    /// What is billed today is billed by dimension.
    #[test]
    fn todays_total_is_the_sum(prompt in number(60), completion in number(60), total in number(62)) {
        let usage = TokenUsage { prompt, completion, reported_total: total };
        let (quantities, odd) = split(&usage.into(), Convention::OPENAI);
        prop_assert_eq!(quantities.sum(Side::In) + quantities.sum(Side::Out), usage.total());
        prop_assert_eq!(!odd.is_empty(), total > 0 && total < prompt + completion);
        prop_assert_eq!(quantities.of(Dim::Input), prompt);
    }
}
