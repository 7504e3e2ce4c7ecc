//! Readers for values that people write in more than one way.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// How many decimal digits a float surely keeps.
const FLOAT_DIGITS: usize = 15;

/// An address and a port. `localhost` is 127.0.0.1.
#[derive(Clone, Copy)]
struct Address(SocketAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Address;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an IP address and a port, such as 127.0.0.1:8080 or localhost:8080")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Address, E> {
                let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
                let local = local.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                let address = local.or_else(|| text.parse().ok());
                address
                    .map(Address)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Other("text"), &self))
            }
        }
        from.deserialize_str(Reader)
    }
}

pub(super) fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    Address::deserialize(from).map(|Address(address)| address)
}

pub(super) fn optional_address<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let address = Option::<Address>::deserialize(from)?;
    Ok(address.map(|Address(address)| address))
}

/// An amount of USD or a price: a text, or a number that loses no digit.
struct Money(String);

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Money;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of USD, such as 25.00")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Money, E> {
                Ok(Money(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Money, E> {
                Ok(Money(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Money, E> {
                Ok(Money(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Money, E> {
                // The shortest text that reads as this number. It is what was written, if that was
                // short.
                let text = number.to_string();
                let digits = text.trim_start_matches(['-', '0', '.']);
                if digits.chars().filter(char::is_ascii_digit).count() > FLOAT_DIGITS {
                    return Err(E::custom("has too many digits for a number; write it in quotes"));
                }
                Ok(Money(text))
            }
        }
        from.deserialize_any(Reader)
    }
}

pub(super) fn money<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Money::deserialize(from).map(|Money(text)| text)
}

pub(super) fn optional_money<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<Money>::deserialize(from)?.map(|Money(text)| text))
}
