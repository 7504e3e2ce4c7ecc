//! Checks of a request's path, of the client's address and of the way between, before any of them
//! is trusted.

use std::net::{IpAddr, SocketAddr};

use percent_encoding::percent_decode_str;

/// Does the path mean the same to this server, which prices it, and to the upstream, which serves
/// it? It has no dot segments, no empty ones, and no encoded separator or dot. It has no `;`, after
/// which some servers drop the rest of a segment, no control character, and only UTF-8.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let hidden = ["%2f", "%5c", "%25", "\\", ";", "%3b"];
    // Unreserved characters must not be encoded: a second spelling could dodge a price.
    let needlessly_encoded = lower.split('%').skip(1).any(|rest| {
        // `from_str_radix` would accept a sign.
        let code = rest.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        code.is_none_or(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    });
    !needlessly_encoded
        && is_plain_decoded(path)
        && !hidden.iter().any(|hidden| lower.contains(hidden))
}

/// Is it UTF-8 without control characters, empty segments and dot segments, also between spaces?
fn is_plain_decoded(path: &str) -> bool {
    percent_decode_str(path).decode_utf8().is_ok_and(|text| {
        !text.contains(char::is_control)
            && text.split('/').skip(1).all(|segment| !matches!(segment.trim(), "" | "." | ".."))
    })
}

/// The address behind a chain of proxies. `X-Forwarded-For` (its values in their order) counts only
/// as far as trusted proxies wrote it: from the right, the first address that is not one of them.
#[must_use]
pub fn forwarded_address<'v>(
    peer: IpAddr,
    values: impl Iterator<Item = &'v str>,
    trusted: &[IpAddr],
) -> IpAddr {
    let is_trusted =
        |address: &IpAddr| trusted.iter().any(|known| known.to_canonical() == *address);
    if !is_trusted(&peer) {
        return peer;
    }
    let forwarded: Vec<&str> = values.flat_map(|value| value.split(',')).collect();
    forwarded
        .iter()
        .rev()
        .map_while(|address| {
            let text = address.trim();
            // Some proxies write the port too.
            let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
            text.parse::<IpAddr>().or_else(|_| with_port()).ok()
        })
        .map(|address| address.to_canonical())
        .find(|address| !is_trusted(address))
        .unwrap_or(peer)
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
    fn a_path_that_could_mean_something_else_upstream_is_no_route() {
        for (path, plain) in [
            ("/api/hub/agents/chat", true),
            ("/api/hub/memory/caf%C3%A9", true),
            ("/api/hub/memory/../agents/chat", false),
            ("/api/hub/memory/%2e%2E/agents/chat", false),
            ("/api/hub/agents/ch%61t", false),
            ("/api/hub/agents/chat%", false),
            ("/api/hub/agents/chat%+f", false),
            ("/api/hub/memory/..%2fagents", false),
            ("/api/hub/memory/..%5cagents", false),
            ("/api/hub/memory/%252e%252e/x", false),
            ("/api/hub//agents", false),
            ("/api/hub/", false),
            ("/api/hub/./agents", false),
            ("/api/hub/memory/..;/agents/chat", false),
            ("/api/hub/memory/..%3b/agents/chat", false),
            ("/api/hub/memory;a=b/agents", false),
            ("/api/hub/memory/..%20/agents", false),
            ("/api/hub/memory/%20../agents", false),
            ("/api/hub/memory/a%20b", true),
            ("/api/hub/memory/%00", false),
            ("/api/hub/memory/%0d%0a", false),
            ("/api/hub/memory/%7f", false),
            ("/api/hub/memory/%c0%ae%c0%ae/agents", false),
            ("/api/hub/memory/%ff", false),
            ("/api/hub/memory/%C2%85", false),
        ] {
            assert_eq!(is_plain(path), plain, "{path}");
        }
    }
}
