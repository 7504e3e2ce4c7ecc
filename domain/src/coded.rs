//! A macro for enums that the database stores as a number and the API shows as a word.

/// Declares an enum with the numbers (`= 1`) and the words (`=> "open"`) of its variants, and the
/// conversions in both directions.
///
/// Never change the number or the word of a variant: stored rows contain it.
macro_rules! coded_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$doc:meta])* $variant:ident $(= $code:literal)? $(=> $word:literal)?,)+
        }
    ) => {
        $(#[$meta])*
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every variant.
            pub const ALL: [$name; [$(stringify!($variant)),+].len()] = [$($name::$variant),+];
        }

        coded_enum!(@code $name $($variant $(= $code)?,)+);
        coded_enum!(@word $name $($variant $(=> $word)?,)+);
    };
    (@code $name:ident $($variant:ident,)+) => {};
    (@code $name:ident $($variant:ident = $code:literal,)+) => {
        impl $name {
            /// Its number in the database.
            #[must_use]
            pub const fn code(self) -> i16 {
                match self {
                    $($name::$variant => $code,)+
                }
            }

            /// The variant with this number.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some($name::$variant),)+
                    _ => None,
                }
            }
        }
    };
    (@word $name:ident $($variant:ident,)+) => {};
    (@word $name:ident $($variant:ident => $word:literal,)+) => {
        impl $name {
            /// Its word in the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }

            /// The variant with this word.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use coded_enum;

#[cfg(test)]
mod tests {
    use crate::catalogue::{BilledService, FallbackPrice, Modality, ProviderDialect};
    use crate::delivery::DeliveryStatus;
    use crate::route_group::RouteGroup;
    use crate::{
        AccountStatus, ActKind, Ending, EntryKind, Environment, EventKind, HoldEndKind,
        PaymentStatus, ReversalKind, Service, Tally,
    };

    macro_rules! assert_codes {
        ($($name:ident)+) => {$(
            for (place, variant) in $name::ALL.into_iter().enumerate() {
                assert_eq!($name::from_code(variant.code()), Some(variant));
                assert_eq!(usize::try_from(variant.code()), Ok(place + 1), "{variant:?}");
            }
            assert_eq!($name::from_code(0), None);
        )+};
    }

    macro_rules! assert_words {
        ($($name:ident)+) => {$(
            for variant in $name::ALL {
                assert_eq!($name::from_name(variant.name()), Some(variant));
            }
            assert_eq!($name::from_name(""), None);
        )+};
    }

    #[test]
    fn every_variant_reads_back_from_its_number_and_its_word() {
        assert_codes!(AccountStatus DeliveryStatus Ending EntryKind Environment HoldEndKind);
        assert_codes!(PaymentStatus ReversalKind Tally);
        assert_words!(AccountStatus ActKind DeliveryStatus EntryKind Environment EventKind RouteGroup);
        assert_words!(BilledService FallbackPrice Modality PaymentStatus ProviderDialect ReversalKind Service);
    }
}
