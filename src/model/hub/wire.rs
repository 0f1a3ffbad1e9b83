//! The token on the wire, and nowhere else.
//!
//! ureq logs every byte of a request's head at level `trace`. So the request that ureq builds, keeps and logs carries a
//! mask of the token's length, and the connection puts the token in its place as the bytes leave. Only connections to
//! the token's own origin do so: a mask that went anywhere else would arrive as a mask.

use super::address::Origin;
use std::fmt;
use std::sync::Arc;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// A token and the one origin that may see it.
pub(super) struct Access {
    /// Who may see it.
    pub origin: Origin,
    /// The value of the header `Authorization` in the request.
    pub mask: String,
    /// The same on the wire, as long as the mask.
    value: String,
}

impl Access {
    /// The access that `token` gives to `origin`; `None` for a text that a header cannot carry.
    pub fn new(origin: Origin, token: &str) -> Option<Self> {
        let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let (mask, value) = (format!("Bearer {}", "*".repeat(token.len())), format!("Bearer {token}"));
        fits.then_some(Self { origin, mask, value })
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Access").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// The last link of the chain that makes a connection.
#[derive(Debug)]
pub(super) struct Unmasking(pub Option<Arc<Access>>);

impl<In: Transport> Connector<In> for Unmasking {
    type Out = Unmasked<In>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let own = |access: &&Arc<Access>| Origin::of(details.uri).as_ref() == Some(&access.origin);
        let access = self.0.as_ref().filter(own).cloned();
        Ok(chained.map(|inner| Unmasked { inner, access }))
    }
}

/// A connection that puts the token in the place of its mask.
#[derive(Debug)]
pub(super) struct Unmasked<In> {
    inner: In,
    access: Option<Arc<Access>>,
}

impl<In: Transport> Transport for Unmasked<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if let Some(access) = &self.access
            && let Some(output) = self.inner.buffers().output().get_mut(..amount)
        {
            replace(output, access.mask.as_bytes(), access.value.as_bytes());
        }
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// Puts `value` in the place of the first `mask`, which is as long.
fn replace(bytes: &mut [u8], mask: &[u8], value: &[u8]) {
    if let Some(start) = bytes.windows(mask.len()).position(|window| window == mask) {
        bytes[start..start + mask.len()].copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_takes_the_place_of_its_mask_and_is_never_shown() {
        let origin = Origin::of(&"https://hub.example/a".parse().unwrap()).unwrap();
        for wrong in ["", "two words", "line\r\nHost: elsewhere", "schlüssel"] {
            assert!(Access::new(origin.clone(), wrong).is_none(), "{wrong}");
        }
        let access = Access::new(origin, "hf_secret").map(Arc::new).unwrap();
        let mut head = format!("GET / HTTP/1.1\r\nauthorization: {}\r\n\r\n", access.mask).into_bytes();
        replace(&mut head, access.mask.as_bytes(), access.value.as_bytes());
        assert_eq!(head, b"GET / HTTP/1.1\r\nauthorization: Bearer hf_secret\r\n\r\n");
        let mut other = b"short".to_vec();
        replace(&mut other, access.mask.as_bytes(), access.value.as_bytes());
        assert_eq!(other, b"short");
        let shown = format!("{access:?} {:?}", Unmasking(Some(Arc::clone(&access))));
        assert!(shown.contains("hub.example") && !shown.contains("secret"), "{shown}");
    }
}
