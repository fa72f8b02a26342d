//! The address of the server under load, out of `ws://host:port[/prefix]`.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// Where the server is, and what stands before `/ws/chat/` in its paths.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    /// What the `Host` header says.
    pub(crate) host: String,
    /// The first address that the host resolves to.
    pub(crate) address: SocketAddr,
    /// The path's prefix, without a slash at its end.
    pub(crate) prefix: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("ws://").ok_or("it must begin with ws:// (TLS is not spoken here)")?;
        if rest.contains(['?', '#']) {
            return Err("it may have no query: rooms and tokens come from the fixtures".into());
        }
        if rest.contains('@') {
            return Err("it may have no user's name or password".into());
        }
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let with_port = if has_port(host) { host.to_owned() } else { format!("{host}:80") };
        let address = with_port
            .to_socket_addrs()
            .map_err(|error| format!("the host {host:?} cannot be resolved: {error}"))?
            .next()
            .ok_or_else(|| format!("the host {host:?} has no address"))?;
        Ok(Self { host: host.to_owned(), address, prefix: path.trim_end_matches('/').to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}{}", self.host, self.prefix)
    }
}

fn has_port(host: &str) -> bool {
    let after_address = host.rsplit_once(']').map_or(host, |(_, after)| after);
    after_address.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_addresses_apart() {
        for (text, address, prefix) in [
            ("ws://127.0.0.1:8000", "127.0.0.1:8000", ""),
            ("ws://127.0.0.1:8000/", "127.0.0.1:8000", ""),
            ("ws://127.0.0.1", "127.0.0.1:80", ""),
            ("ws://[::1]:9/chat/", "[::1]:9", "/chat"),
            ("ws://[::1]", "[::1]:80", ""),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.address.to_string().as_str(), url.prefix.as_str()), (address, prefix), "{text}");
        }
        for text in [
            "wss://127.0.0.1",
            "127.0.0.1:8000",
            "ws://",
            "ws://127.0.0.1:x",
            "ws://127.0.0.1:8000/?token=apricot",
            "ws://127.0.0.1:8000/#apricot",
            "ws://ann:apricot@127.0.0.1:8000",
            "wss://ann:apricot@127.0.0.1:8000",
        ] {
            let why = text.parse::<Url>().unwrap_err();
            assert!(!why.contains("apricot"), "{text}: {why}");
        }
    }
}
