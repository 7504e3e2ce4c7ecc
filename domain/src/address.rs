//! Which addresses the server may connect to for a client: only those of the public internet.
//!
//! An account holder chooses the address of a webhook. It must not lead into the server's own
//! network: loopback, private and link-local networks and metadata services are refused, in every
//! notation. The list follows RFC 6890, its successors, and IANA's registries of special-purpose
//! addresses.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::num::NonZeroU32;

/// Names that belong to the machine or to its own network, and names below them.
const OWN_NAMES: [&str; 5] = ["localhost", "local", "internal", "localdomain", "home.arpa"];

/// Does the name of a host belong to the public internet, as far as the name tells? One without a
/// dot does not.
#[must_use]
pub fn is_public_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_own = |own: &str| {
        name == own || name.strip_suffix(own).is_some_and(|before| before.ends_with('.'))
    };
    name.contains('.') && !OWN_NAMES.into_iter().any(is_own)
}

/// Is it an address of the public internet?
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = match a {
        // This network, a private one, loopback.
        0 | 10 | 127 => true,
        // Shared address space (RFC 6598).
        100 => matches!(b, 64..=127),
        // Link-local; another private one.
        169 => b == 254,
        172 => matches!(b, 16..=31),
        // A private one, protocol assignments, documentation, anycast of old protocols.
        192 => {
            b == 168 || matches!((b, c), (0, 0 | 2) | (88, 99) | (31, 196) | (52, 193) | (175, 48))
        }
        // Benchmarking, documentation.
        198 => matches!(b, 18 | 19) || (b, c) == (51, 100),
        203 => (b, c) == (0, 113),
        // Multicast, reserved, broadcast.
        _ => a >= 224,
    };
    // The metadata service of Azure, which has a public address.
    !is_special && address != Ipv4Addr::new(168, 63, 129, 16)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([w, x], [y, z]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(w, x, y, z))
    };
    match segments {
        // IPv4 inside IPv6: mapped, translated (RFC 6052), 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            embedded(high, low)
        }
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, benchmarking, ORCHID and documentation: no servers have these addresses.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Only what IANA has assigned as global unicast. The rest is loopback, local, multicast or
        // unassigned.
        [first, ..] => matches!(first, 0x2000..=0x3fff),
    }
}

/// The network that counts as one caller: an IPv4 address, or an IPv6 network of /64.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
    }
}

/// A network of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerNetwork {
    address: IpAddr,
    bits: u8,
}

impl CallerNetwork {
    /// Is it that of one caller?
    #[must_use]
    pub fn is_one_caller(self) -> bool {
        matches!(self.bits, 32 | 64)
    }
}

/// How many callers each of the networks of [`networks`] may have.
pub const CALLERS: [NonZeroU32; 3] =
    [NonZeroU32::MIN, NonZeroU32::MIN.saturating_add(3), NonZeroU32::MIN.saturating_add(7)];

/// The networks that an address counts for, the narrowest first, each with how many callers it may
/// have: an IPv4 address is one. Of IPv6 a /64 is one, and a /56 has 256 of them, a /48 has 65,536,
/// and either may be of one owner.
pub fn networks(address: IpAddr) -> impl Iterator<Item = (CallerNetwork, NonZeroU32)> {
    let own = network(address);
    let widths: &[u8] = match own {
        IpAddr::V4(_) => &[32],
        IpAddr::V6(_) => &[64, 56, 48],
    };
    widths.iter().zip(CALLERS).map(move |(bits, callers)| {
        let address = match own {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let rest = 128_u32.saturating_sub(u32::from(*bits));
                let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        (CallerNetwork { address, bits: *bits }, callers)
    })
}

/// The network that counts as one place where somebody is: /24 of IPv4, /48 of IPv6. A provider
/// gives a customer another address of it now and then.
#[must_use]
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8))),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbourhood_has_the_addresses_of_one_provider() {
        for (one, other, is_same) in [
            ("192.0.2.1", "192.0.2.254", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("192.0.2.1", "::ffff:192.0.2.9", true),
            ("2001:db8:1:2::1", "2001:db8:1:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:2:2::1", false),
            ("192.0.2.1", "2001:db8::1", false),
        ] {
            let of = |text: &str| neighbourhood(text.parse().unwrap());
            assert_eq!(of(one) == of(other), is_same, "{one} {other}");
        }
    }

    #[test]
    fn only_the_public_internet_is_public() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.1",
            "192.167.1.1",
            "169.253.1.1",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "3fff::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_caller() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:127.0.0.1"), parse("127.0.0.1"));
    }

    #[test]
    fn an_address_counts_for_the_networks_of_its_owner() {
        let of = |text: &str| networks(text.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_eq!(of("192.0.2.1").len(), 1);
        let shared = |one: &str, other: &str| {
            let (one, other) = (of(one), of(other));
            one.iter()
                .filter(|network| other.contains(network))
                .map(|(_, callers)| callers.get())
                .sum::<u32>()
        };
        for (other, callers) in [
            ("2001:db8:0:1::2", 13_u32),
            ("2001:db8:0:2::1", 12),
            ("2001:db8:0:101::1", 8),
            ("2001:db8:1:1::1", 0),
        ] {
            assert_eq!(shared("2001:db8:0:1::1", other), callers, "{other}");
        }
        // Networks of different widths are different ones.
        assert_eq!(of("2001:db8::").len(), 3);
    }
}
