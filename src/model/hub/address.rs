//! Addresses that may be asked, where redirects lead, and what of an address may be shown.

use super::failure::Failure;
use ureq::http::Uri;
use ureq::http::uri::Scheme;

/// Who a token may be sent to: scheme, host and port, all three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an address that can be asked.
    pub fn parse(address: &str) -> Option<Self> {
        Address::parse(address).ok().map(|address| address.origin)
    }

    /// The origin of an absolute address of http or https.
    pub fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme().filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme))?;
        let port = uri.port_u16().unwrap_or(if *scheme == Scheme::HTTPS { 443 } else { 80 });
        Some(Self { scheme: scheme.clone(), host: uri.host()?.to_ascii_lowercase(), port })
    }
}

/// An absolute address of http or https without user name and password.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// The address.
    pub uri: Uri,
    /// Where it leads.
    pub origin: Origin,
}

impl Address {
    /// Parses an address that may be asked.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::answer("an address http:// or https:// with a host", shown(text));
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(Failure::answer("an address without user name and password", shown(text)));
        }
        Ok(Self { origin: Origin::of(&uri).ok_or_else(wrong)?, uri })
    }

    /// Where a redirect from here leads: an address, or a path at the same origin.
    pub fn join(&self, location: &str) -> Result<Self, Failure> {
        let (scheme, path) = (&self.origin.scheme, self.uri.path());
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let next = if location.contains("://") && !location.starts_with('/') {
            Self::parse(location)?
        } else if location.starts_with("//") {
            Self::parse(&format!("{scheme}:{location}"))?
        } else if location.starts_with('/') {
            Self::parse(&format!("{scheme}://{authority}{location}"))?
        } else {
            Self::parse(&format!("{scheme}://{authority}{folder}/{location}"))?
        };
        if *scheme == Scheme::HTTPS && next.origin.scheme == Scheme::HTTP {
            return Err(Failure::answer("a redirect to https", shown(location)));
        }
        Ok(next)
    }
}

/// An address as it may be shown: without user name, password and what follows a `?` or `#`.
pub(crate) fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let (before, rest) = plain.split_at(plain.find("//").map_or(0, |start| start + 2));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{before}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Address::parse(url).unwrap().origin
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.example/a?b"), origin("https://hub.example:443/c"));
        for other in ["http://hub.example", "https://hub.example:8443", "https://cdn.hub.example"] {
            assert_ne!(origin("https://hub.example/a"), origin(other));
        }
        for wrong in ["hub.example/a", "/a", "ftp://hub.example", "", "https://", "https://a b/"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn redirects_lead_to_addresses_and_paths_but_not_out_of_https() {
        let here = Address::parse("https://hub.example:8443/a/b?c=d").unwrap();
        for (location, expected) in [
            ("/x?y=1", "https://hub.example:8443/x?y=1"),
            ("x", "https://hub.example:8443/a/x"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("https://cdn.example/x?to=http://y", "https://cdn.example/x?to=http://y"),
            ("/x?to=http://y", "https://hub.example:8443/x?to=http://y"),
        ] {
            assert_eq!(here.join(location).unwrap().uri.to_string(), expected);
        }
        assert!(here.join("http://hub.example:8443/x").is_err());
        assert!(here.join("https://name:secret@cdn.example/x").is_err());
        assert!(Address::parse("http://a/").unwrap().join("https://a/").is_ok());
    }

    #[test]
    fn addresses_are_shown_without_secrets() {
        for (url, expected) in [
            ("https://name:secret@hub.example/a/b?signature=secret#secret", "https://hub.example/a/b"),
            ("https://hub.example", "https://hub.example"),
            ("//secret@cdn.example/a?secret", "//cdn.example/a"),
            ("name:secret@hub.example/a", "hub.example/a"),
            ("/a/b@v1?secret", "/a/b@v1"),
        ] {
            assert_eq!(shown(url), expected);
        }
        let Failure::Answer { expected, found } = Address::parse("https://name:secret@hub.example/a").unwrap_err()
        else {
            panic!("another failure")
        };
        assert_eq!(
            (expected.as_str(), found.as_str()),
            ("an address without user name and password", "https://hub.example/a")
        );
    }
}
