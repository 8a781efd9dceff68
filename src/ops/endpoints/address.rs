//! Where metrics and health are served: an address, or none.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// The port, where none is given. Those of Kubernetes' own components end at 10259.
pub const DEFAULT_PORT: u16 = 10271;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

impl Default for Address {
    /// This node alone.
    fn default() -> Self {
        Self::At(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("0"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is none.
    #[error(
        "{0:?} is no address such as 127.0.0.1:{DEFAULT_PORT}, 127.0.0.1 (with port {DEFAULT_PORT}) or [::1]:{DEFAULT_PORT}; 0 \
         serves nothing"
    )]
    NoAddress(String),
    /// Others than this node could ask.
    #[error(
        "{0} can be reached from other machines, and whoever asks there is answered, without authentication and in clear: \
         names of checks and numbers, no object. Give a loopback address, or say that this is meant with \
         --expose-metrics-without-authentication"
    )]
    NotLoopback(SocketAddr),
}

impl FromStr for Address {
    type Err = AddressError;

    /// `127.0.0.1:10271`, `127.0.0.1`, `[::1]:10271`, `::1`; `0` or nothing is off.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.is_empty() || text == "0" {
            return Ok(Self::Off);
        }
        let with_port = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DEFAULT_PORT));
        let address = text.parse::<SocketAddr>().or_else(|_| with_port());
        address.map(Self::At).map_err(|_| AddressError::NoAddress(text.to_owned()))
    }
}

impl Address {
    /// Where to listen, if anywhere. `exposed`: the operator says that others may ask.
    ///
    /// # Errors
    /// [`AddressError::NotLoopback`].
    pub fn checked(self, exposed: bool) -> Result<Option<SocketAddr>, AddressError> {
        match self {
            Self::Off => Ok(None),
            Self::At(address) if exposed || address.ip().to_canonical().is_loopback() => Ok(Some(address)),
            Self::At(address) => Err(AddressError::NotLoopback(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let none = |text: &str| Err(AddressError::NoAddress(text.to_owned()));
        let there = |text: &str| Ok(Some(text.parse::<SocketAddr>().unwrap()));
        let refused = |text: &str| Err(AddressError::NotLoopback(text.parse().unwrap()));
        #[rustfmt::skip]
        let rows = [
            ("",                       Ok(None),                       Ok(None)),
            ("0",                      Ok(None),                       Ok(None)),
            ("127.0.0.1:10271",        there("127.0.0.1:10271"),       there("127.0.0.1:10271")),
            ("127.0.0.1",              there("127.0.0.1:10271"),       there("127.0.0.1:10271")),
            ("127.8.9.1:80",           there("127.8.9.1:80"),          there("127.8.9.1:80")),
            ("[::1]:9",                there("[::1]:9"),               there("[::1]:9")),
            ("::1",                    there("[::1]:10271"),           there("[::1]:10271")),
            ("[::ffff:127.0.0.1]:9",   there("[::ffff:127.0.0.1]:9"),  there("[::ffff:127.0.0.1]:9")),
            ("0.0.0.0:10271",          refused("0.0.0.0:10271"),       there("0.0.0.0:10271")),
            ("[::]:10271",             refused("[::]:10271"),          there("[::]:10271")),
            ("10.0.0.7",               refused("10.0.0.7:10271"),      there("10.0.0.7:10271")),
            ("[::ffff:10.0.0.7]:9",    refused("[::ffff:10.0.0.7]:9"), there("[::ffff:10.0.0.7]:9")),
            (":10271",                 none(":10271"),                 none(":10271")),
            ("10271",                  none("10271"),                  none("10271")),
            ("localhost:10271",        none("localhost:10271"),        none("localhost:10271")),
            ("127.0.0.1:70000",        none("127.0.0.1:70000"),        none("127.0.0.1:70000")),
            ("off",                    none("off"),                    none("off")),
        ];
        for (text, closed, exposed) in rows {
            let checked = |exposed| text.parse::<Address>().and_then(|address| address.checked(exposed));
            assert_eq!((checked(false), checked(true)), (closed, exposed), "{text:?}");
        }
        for address in [Address::Off, Address::default()] {
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }
}
