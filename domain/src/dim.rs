//! What is measured of a call, and so what has a price: the dimensions.
//!
//! The code and the parent of a dimension are fixed for ever: bills in the ledger contain the
//! codes, and prices on record are completed by the parents. A new dimension gets a new code.

/// The least common multiple of all [`Dim::per`]. Sums of prices are in nano-dollars over this, so
/// they are exact.
pub const SCALE: i128 = 18_000_000;

/// Declares the dimensions, each with its code, its place among them and its word.
macro_rules! dims {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $place:literal, $word:literal;)+) => {
        /// A dimension: one kind of thing that a call uses and that has a price of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Dim {
            $($(#[$doc])* $name,)+
        }

        impl Dim {
            /// All of them, by code.
            pub const ALL: [Dim; COUNT] = [$(Dim::$name,)+];

            /// Its number in bills.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self {
                    $(Dim::$name => $code,)+
                }
            }

            /// The dimension with this number.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Dim::$name),)+
                    _ => None,
                }
            }

            /// Its word in settings, price lists and the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Dim::$name => $word,)+
                }
            }

            /// The dimension with this word.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($word => Some(Dim::$name),)+
                    _ => None,
                }
            }

            /// Its place in [`Dim::ALL`].
            pub(crate) const fn place(self) -> usize {
                match self {
                    $(Dim::$name => $place,)+
                }
            }

            /// The set of it alone.
            const fn bit(self) -> u32 {
                match self {
                    $(Dim::$name => 1 << $place,)+
                }
            }
        }
    };
}

/// How many dimensions there are.
pub(crate) const COUNT: usize = 24;

dims! {
    /// Tokens of the prompt that are nothing more special.
    Input = 0, 0, "input";
    /// Tokens of the prompt that the provider had cached.
    CacheRead = 1, 1, "cache_read";
    /// Tokens of the prompt that the provider has cached, for five minutes or so.
    CacheWrite = 2, 2, "cache_write";
    /// The same, cached for an hour.
    CacheWrite1h = 3, 3, "cache_write_1h";
    /// The same, cached for twelve hours.
    CacheWrite12h = 4, 4, "cache_write_12h";
    /// Tokens of the prompt's audio.
    InputAudio = 5, 5, "input_audio";
    /// Tokens of the prompt's audio that the provider had cached.
    CacheReadAudio = 6, 6, "cache_read_audio";
    /// Tokens of the prompt's images.
    InputImage = 7, 7, "input_image";
    /// Tokens of the prompt's images that the provider had cached.
    CacheReadImage = 8, 8, "cache_read_image";
    /// Tokens of the prompt's videos.
    InputVideo = 9, 9, "input_video";
    /// Tokens of the completion that are nothing more special.
    Output = 16, 10, "output";
    /// Tokens that the model thought, seen or unseen.
    Reasoning = 17, 11, "reasoning";
    /// Tokens of the completion's audio.
    OutputAudio = 18, 12, "output_audio";
    /// Tokens of the completion's images.
    OutputImage = 19, 13, "output_image";
    /// The call itself.
    Request = 24, 14, "request";
    /// Characters to be spoken.
    Character = 25, 15, "character";
    /// Milliseconds of audio to be transcribed.
    AudioIn = 26, 16, "audio_in";
    /// Milliseconds of audio that were made.
    AudioOut = 27, 17, "audio_out";
    /// Milliseconds of video that were made.
    Video = 28, 18, "video";
    /// Images that were made.
    Image = 29, 19, "image";
    /// Searches of the web by the provider.
    WebSearch = 30, 20, "web_search";
    /// Units of reranking, as the provider counts them.
    RerankUnit = 31, 21, "rerank_unit";
    /// Pages that were read.
    Page = 32, 22, "page";
    /// Sessions of a tool that the provider runs.
    ToolSession = 33, 23, "tool_session";
}

/// The part of a call that a dimension belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Tokens of the prompt. Together they are the whole prompt.
    In,
    /// Tokens of the completion. Together they are the whole completion.
    Out,
    /// What is no token.
    Beside,
}

impl Dim {
    /// The part of a call that it belongs to.
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Dim::Input
            | Dim::CacheRead
            | Dim::CacheWrite
            | Dim::CacheWrite1h
            | Dim::CacheWrite12h
            | Dim::InputAudio
            | Dim::CacheReadAudio
            | Dim::InputImage
            | Dim::CacheReadImage
            | Dim::InputVideo => Side::In,
            Dim::Output | Dim::Reasoning | Dim::OutputAudio | Dim::OutputImage => Side::Out,
            Dim::Request
            | Dim::Character
            | Dim::AudioIn
            | Dim::AudioOut
            | Dim::Video
            | Dim::Image
            | Dim::WebSearch
            | Dim::RerankUnit
            | Dim::Page
            | Dim::ToolSession => Side::Beside,
        }
    }

    /// How many units a price is for: a million tokens or characters, the milliseconds of an hour,
    /// or one piece.
    #[must_use]
    pub const fn per(self) -> u32 {
        match self {
            Dim::AudioIn | Dim::AudioOut | Dim::Video => 3_600_000,
            Dim::Request
            | Dim::Image
            | Dim::WebSearch
            | Dim::RerankUnit
            | Dim::Page
            | Dim::ToolSession => 1,
            Dim::Character
            | Dim::Input
            | Dim::CacheRead
            | Dim::CacheWrite
            | Dim::CacheWrite1h
            | Dim::CacheWrite12h
            | Dim::InputAudio
            | Dim::CacheReadAudio
            | Dim::InputImage
            | Dim::CacheReadImage
            | Dim::InputVideo
            | Dim::Output
            | Dim::Reasoning
            | Dim::OutputAudio
            | Dim::OutputImage => 1_000_000,
        }
    }

    /// [`SCALE`] over [`Dim::per`]: what one unit at a price of one counts in a sum.
    #[must_use]
    pub const fn scale(self) -> i128 {
        match self.per() {
            1 => SCALE,
            3_600_000 => SCALE / 3_600_000,
            _ => SCALE / 1_000_000,
        }
    }

    /// The dimension whose price counts where this one has none. `None`: it must have a price
    /// itself, or it is not sold.
    #[must_use]
    pub const fn parent(self) -> Option<Dim> {
        match self {
            Dim::CacheRead
            | Dim::CacheWrite
            | Dim::InputAudio
            | Dim::InputImage
            | Dim::InputVideo => Some(Dim::Input),
            Dim::CacheWrite1h => Some(Dim::CacheWrite),
            Dim::CacheWrite12h => Some(Dim::CacheWrite1h),
            Dim::CacheReadAudio => Some(Dim::InputAudio),
            Dim::CacheReadImage => Some(Dim::InputImage),
            Dim::Reasoning | Dim::OutputAudio | Dim::OutputImage => Some(Dim::Output),
            Dim::Input
            | Dim::Output
            | Dim::Request
            | Dim::Character
            | Dim::AudioIn
            | Dim::AudioOut
            | Dim::Video
            | Dim::Image
            | Dim::WebSearch
            | Dim::RerankUnit
            | Dim::Page
            | Dim::ToolSession => None,
        }
    }
}

/// A set of dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DimSet(u32);

impl DimSet {
    /// No dimension.
    pub const EMPTY: DimSet = DimSet(0);
    /// Every dimension.
    pub const ALL: DimSet = DimSet((1 << COUNT) - 1);

    /// The set with this dimension.
    #[must_use]
    pub const fn with(self, dim: Dim) -> Self {
        DimSet(self.0 | dim.bit())
    }

    /// The set without this dimension.
    #[must_use]
    pub const fn without(self, dim: Dim) -> Self {
        DimSet(self.0 & !dim.bit())
    }

    /// Is it in the set?
    #[must_use]
    pub const fn contains(self, dim: Dim) -> bool {
        self.0 & dim.bit() != 0
    }

    /// Its dimensions, by code.
    pub fn dims(self) -> impl Iterator<Item = Dim> {
        Dim::ALL.into_iter().filter(move |dim| self.contains(*dim))
    }
}

impl FromIterator<Dim> for DimSet {
    fn from_iter<I: IntoIterator<Item = Dim>>(dims: I) -> Self {
        dims.into_iter().fold(DimSet::EMPTY, DimSet::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bills on record have these codes, and prices on record these parents.
    #[test]
    fn codes_and_parents_never_change() {
        let codes: Vec<u8> = Dim::ALL.into_iter().map(Dim::code).collect();
        assert_eq!(codes, (0..10).chain(16..20).chain(24..34).collect::<Vec<u8>>());
        let parents: Vec<_> = Dim::ALL
            .into_iter()
            .filter_map(|dim| Some(format!("{} {}", dim.name(), dim.parent()?.name())))
            .collect();
        assert_eq!(
            parents,
            [
                "cache_read input",
                "cache_write input",
                "cache_write_1h cache_write",
                "cache_write_12h cache_write_1h",
                "input_audio input",
                "cache_read_audio input_audio",
                "input_image input",
                "cache_read_image input_image",
                "input_video input",
                "reasoning output",
                "output_audio output",
                "output_image output",
            ]
        );
    }

    #[test]
    fn every_dimension_reads_back_from_its_code_and_its_word() {
        for (place, dim) in Dim::ALL.into_iter().enumerate() {
            assert_eq!(Dim::from_code(dim.code()), Some(dim));
            assert_eq!(Dim::from_name(dim.name()), Some(dim));
            assert_eq!((dim.place(), dim.bit()), (place, 1 << place));
            assert!(Dim::ALL[..place].iter().all(|other| other.code() < dim.code()));
            assert_eq!(dim.scale() * i128::from(dim.per()), SCALE);
            // A parent is measured in the same unit, and is of the same part of the call.
            if let Some(parent) = dim.parent() {
                assert_eq!((parent.per(), parent.side()), (dim.per(), dim.side()));
                assert!(parent < dim, "parents are completed first");
            }
        }
        assert_eq!((Dim::from_code(10), Dim::from_name("")), (None, None));
    }

    #[test]
    fn a_set_has_what_was_put_in() {
        let set = DimSet::EMPTY.with(Dim::Output).with(Dim::Input).with(Dim::ToolSession);
        assert_eq!(set.dims().collect::<Vec<_>>(), [Dim::Input, Dim::Output, Dim::ToolSession]);
        assert!(!set.without(Dim::Output).contains(Dim::Output));
        assert_eq!(Dim::ALL.into_iter().collect::<DimSet>(), DimSet::ALL);
    }
}
