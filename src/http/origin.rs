//! Checks of a request's path, of the client's address and of the way between, before any of them
//! is trusted.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The one spelling of a path, so that it means the same to this server, which prices it, and to
/// the upstream, which serves it (RFC 3986, 6.2.2). `None` if it could mean something else there:
/// it has empty or dot segments, also between spaces, an encoded separator, a control character, or
/// is no UTF-8. So has one with `;`, `\` or `%` in a segment: some servers drop what follows a `;`,
/// and some decode twice.
#[must_use]
pub fn one_spelling(path: &str) -> Option<Cow<'_, str>> {
    if is_simple(path) {
        return Some(path.into());
    }
    let hides_a_separator = path.contains("%2f") || path.contains("%2F");
    let text = percent_decode_str(path).decode_utf8().ok().filter(|_| !hides_a_separator)?;
    let is_dots = |segment: &str| matches!(segment.trim(), "" | "." | "..");
    let means_more = |c: char| c.is_control() || matches!(c, ';' | '\\' | '%');
    if text.contains(means_more) || text.split('/').skip(1).any(is_dots) {
        return None;
    }
    Some(utf8_percent_encode(&text, IN_SEGMENTS).to_string().into())
}

/// Is it of letters, digits, `-` and `_`, without an empty segment? Most paths are.
fn is_simple(path: &str) -> bool {
    let is_of_segment = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_simple = |segment: &str| !segment.is_empty() && segment.bytes().all(is_of_segment);
    path.strip_prefix('/').is_some_and(|path| path.split('/').all(is_simple))
}

/// What is encoded in a path: all but `/` and what may stand in a segment as it is.
const IN_SEGMENTS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// Is it one of these addresses, however they are written?
#[must_use]
pub fn is_listed(address: IpAddr, addresses: &[IpAddr]) -> bool {
    addresses.iter().any(|known| known.to_canonical() == address.to_canonical())
}

/// The address of a client that a trusted proxy has not named.
pub const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The address behind a chain of proxies. `X-Forwarded-For` (its values in their order) counts only
/// as far as trusted proxies wrote it: from the right, the first address that is not one of them.
/// Where something else stands, it is [`NOBODY`]: a client may not pass for a proxy by bytes that
/// are no address.
#[must_use]
pub fn forwarded_address<'v>(
    peer: IpAddr,
    values: impl Iterator<Item = &'v [u8]>,
    trusted: &[IpAddr],
) -> IpAddr {
    let is_trusted = |address: &IpAddr| is_listed(*address, trusted);
    if !is_trusted(&peer) {
        return peer;
    }
    let pieces = values.flat_map(|value| value.split(|byte| *byte == b','));
    let pieces: Vec<&[u8]> = pieces.map(<[u8]>::trim_ascii).collect();
    pieces
        .iter()
        .rev()
        .filter(|piece| !piece.is_empty())
        .map(|piece| address_of(piece).unwrap_or(NOBODY))
        .find(|address| !is_trusted(address))
        .unwrap_or(peer)
}

/// The address in a piece of `X-Forwarded-For`. Some proxies write the port too.
fn address_of(piece: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(piece).ok()?;
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    text.parse::<IpAddr>().or_else(|_| with_port()).ok().map(|address| address.to_canonical())
}

/// Headers that reverse proxies, load balancers and tunnels add, by how their names begin.
const OF_PROXIES: [&str; 13] = [
    "cdn-",
    "cf-",
    "fastly-",
    "forwarded",
    "true-client-",
    "via",
    "x-amzn-",
    "x-client-ip",
    "x-cluster-",
    "x-envoy-",
    "x-forwarded",
    "x-original-",
    "x-real-",
];

/// Does a header of this name, in lower case, tell that the request came through a proxy?
#[must_use]
pub fn is_of_proxy(name: &str) -> bool {
    // Some write `_` for `-`.
    let name = name.replace('_', "-");
    OF_PROXIES.iter().any(|begin| name.starts_with(begin))
}

/// Does the value of `Host`, with or without a port, name this machine to itself?
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_told_by_its_headers_and_by_the_name_it_passes_on() {
        for name in [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x_forwarded_for",
            "x-real-ip",
            "via",
            "cf-connecting-ip",
            "x-envoy-external-address",
        ] {
            assert!(is_of_proxy(name), "{name}");
        }
        for name in ["host", "accept", "content-type", "x-request-id", "traceparent"] {
            assert!(!is_of_proxy(name), "{name}");
        }
        for (host, is_own) in [
            ("127.0.0.1:8080", true),
            ("127.1.2.3", true),
            ("localhost:8080", true),
            ("LocalHost", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]", true),
            ("api.example.com", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("192.0.2.1:8080", false),
            ("[2001:db8::1]", false),
            ("", false),
        ] {
            assert_eq!(is_loopback_host(host), is_own, "{host}");
        }
    }

    #[test]
    fn who_is_not_named_is_nobody() {
        let proxy = IpAddr::from([10, 0, 0, 1]);
        let trusted = [proxy, IpAddr::from([10, 0, 0, 2])];
        let found = |values: &[&[u8]]| {
            forwarded_address(proxy, values.iter().copied(), &trusted).to_string()
        };
        for (values, address) in [
            (&[][..], "10.0.0.1"),
            (&[&b""[..]], "10.0.0.1"),
            (&[b"10.0.0.2"], "10.0.0.1"),
            (&[b"192.0.2.1"], "192.0.2.1"),
            (&[b"198.51.100.1, 192.0.2.1, , 10.0.0.2 ,"], "192.0.2.1"),
            (&[b"\xff, 192.0.2.1:443"], "192.0.2.1"),
            (&[b"198.51.100.1", b"\xff, [2001:db8::1]:443"], "2001:db8::1"),
            (&[b"\xff"], "0.0.0.0"),
            (&[b"198.51.100.1", b"\xff"], "0.0.0.0"),
            (&[b"198.51.100.1, unknown, 10.0.0.2"], "0.0.0.0"),
        ] {
            assert_eq!(found(values), address, "{values:?}");
        }
        let stranger = IpAddr::from([192, 0, 2, 9]);
        assert_eq!(forwarded_address(stranger, [&b"\xff"[..]].into_iter(), &trusted), stranger);
    }

    #[test]
    fn a_path_has_one_spelling() {
        let memory = |rest: &str| format!("/api/hub/memory/{rest}");
        for (path, spelling) in [
            ("chat", "chat"),
            ("ch%61t", "chat"),
            ("caf%C3%A9", "caf%C3%A9"),
            ("caf%c3%A9", "caf%C3%A9"),
            ("a:b@c,d=e!$&'()*+", "a:b@c,d=e!$&'()*+"),
            ("a%3Ab", "a:b"),
            ("a%40b", "a@b"),
            ("a%2bb", "a+b"),
            ("a%28b", "a(b"),
            ("a%7Bb", "a%7Bb"),
            ("a{b", "a%7Bb"),
            ("a|b", "a%7Cb"),
            ("\u{e9}", "%C3%A9"),
            ("a%20b", "a%20b"),
        ] {
            assert_eq!(one_spelling(&memory(path)).as_deref(), Some(&*memory(spelling)), "{path}");
        }
    }

    #[test]
    fn a_path_that_could_mean_something_else_upstream_is_no_route() {
        for path in [
            "/api/hub/memory/../agents/chat",
            "/api/hub/memory/%2e%2E/agents/chat",
            "/api/hub/agents/chat%",
            "/api/hub/agents/chat%+f",
            "/api/hub/memory/..%2fagents",
            "/api/hub/memory/a%2Fb",
            "/api/hub/memory/..%5cagents",
            "/api/hub/memory/%252e%252e/x",
            "/api/hub//agents",
            "/api/hub/",
            "/api/hub/./agents",
            "/api/hub/memory/a%\u{e9}b",
            "/api/hub/memory/..;/agents/chat",
            "/api/hub/memory/..%3b/agents/chat",
            "/api/hub/memory;a=b/agents",
            "/api/hub/memory/..%20/agents",
            "/api/hub/memory/%20../agents",
            "/api/hub/memory/%00",
            "/api/hub/memory/%0d%0a",
            "/api/hub/memory/%7f",
            "/api/hub/memory/%c0%ae%c0%ae/agents",
            "/api/hub/memory/%ff",
            "/api/hub/memory/%C2%85",
        ] {
            assert_eq!(one_spelling(path), None, "{path}");
        }
    }
}
