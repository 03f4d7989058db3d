//! From which of our addresses connections are made, and with which options of their sockets.
//!
//! Pure. Leaves opening to `hammer::route`, which also asks the kernel whether it agrees.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How the sockets of a flow are made. [`Sockets::default`] is the documented defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sockets {
    /// Of this machine, used in turn; empty leaves it to the kernel.
    pub source_address: Vec<Source>,
    /// Small writes go at once.
    pub tcp_nodelay: bool,
    /// Bytes that the kernel keeps of what we send; `None` leaves it to the kernel.
    pub send_buffer: Option<usize>,
    /// Bytes that it keeps of what we receive.
    pub receive_buffer: Option<usize>,
}

impl Default for Sockets {
    fn default() -> Self {
        Sockets {
            source_address: Vec::new(),
            tcp_nodelay: true,
            send_buffer: None,
            receive_buffer: None,
        }
    }
}

impl Sockets {
    /// The first knob that is of no use without a connection.
    pub(super) fn asked(&self) -> Option<&'static str> {
        let asks = [
            (!self.source_address.is_empty(), "SOURCE_ADDRESS"),
            (!self.tcp_nodelay, "TCP_NODELAY"),
            (self.send_buffer.is_some(), "SEND_BUFFER"),
            (self.receive_buffer.is_some(), "RECEIVE_BUFFER"),
        ];
        asks.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, knob)| knob)
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// [`Error::Usage`] names the value and the knob.
    pub(super) fn check(&self) -> Result<(), Error> {
        for (knob, bytes) in
            [("SEND_BUFFER", self.send_buffer), ("RECEIVE_BUFFER", self.receive_buffer)]
        {
            if bytes.is_some_and(|bytes| !(1..=BUFFER_BYTES_MAX).contains(&bytes)) {
                let bytes = bytes.unwrap_or_default();
                return Err(Error::Usage(format!("{knob} {bytes} is not 1 to 1GiB")));
            }
        }
        Ok(())
    }
}

/// The kernel doubles it, in 31 bits.
const BUFFER_BYTES_MAX: usize = (1 << 30) - 1;

/// Addresses of this machine, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    first: IpAddr,
    /// Of the same family, not before the first.
    last: IpAddr,
}

impl Source {
    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last one.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// How many there are.
    pub fn count(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }

    /// Number `index`, from 0.
    pub fn nth(&self, index: u128) -> IpAddr {
        address(number(self.first) + index, self.first.is_ipv6())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(number: u128, is_v6: bool) -> IpAddr {
    if is_v6 {
        return Ipv6Addr::from_bits(number).into();
    }
    Ipv4Addr::from_bits(u32::try_from(number).expect("between two of them")).into()
}

impl FromStr for Source {
    type Err = String;

    /// `10.0.0.5`, `10.0.0.5-10.0.0.9`, `10.0.0.0/24`.
    fn from_str(text: &str) -> Result<Source, String> {
        let wrong =
            || format!("\"{text}\" is not an address, a range a-b, or a network like 10.0.0.0/24");
        let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
        if let Some((base, prefix)) = text.split_once('/') {
            let base = parse(base)?;
            let bits = if base.is_ipv6() { 128 } else { 32 };
            let prefix: u32 = prefix.trim().parse().map_err(|_| wrong())?;
            let host = bits - u32::min(prefix, bits);
            if prefix > bits {
                return Err(wrong());
            }
            let mask = 1u128.checked_shl(host).map_or(u128::MAX, |size| size - 1);
            let first = number(base) & !mask;
            return Ok(Source {
                first: address(first, base.is_ipv6()),
                last: address(first | mask, base.is_ipv6()),
            });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (parse(first)?, parse(last)?);
        if first.is_ipv6() != last.is_ipv6() {
            return Err(format!("\"{text}\" has two families of addresses"));
        }
        if number(first) > number(last) {
            return Err(format!("\"{text}\" ends before it begins"));
        }
        Ok(Source { first, last })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Source, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `on` or `off`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(format!("\"{text}\" is not on or off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_one_address_a_range_or_a_network() {
        for (text, first, last, count) in [
            ("127.0.0.2", "127.0.0.2", "127.0.0.2", 1),
            ("10.0.0.250-10.0.1.5", "10.0.0.250", "10.0.1.5", 12),
            ("10.0.0.77/30", "10.0.0.76", "10.0.0.79", 4),
            ("127.0.0.0/8", "127.0.0.0", "127.255.255.255", 1 << 24),
            ("::1", "::1", "::1", 1),
            ("fd00::/64", "fd00::", "fd00::ffff:ffff:ffff:ffff", 1 << 64),
        ] {
            let source: Source = text.parse().unwrap();
            let ends = (source.first().to_string(), source.last().to_string());
            assert_eq!(ends, (first.to_owned(), last.to_owned()), "{text}");
            assert_eq!(source.count(), count);
            assert_eq!(source.nth(count - 1), source.last());
            assert_eq!(source.to_string().parse(), Ok(source));
        }
        assert_eq!("::/0".parse::<Source>().unwrap().count(), u128::MAX);
        for text in ["", "a", "10.0.0.1/33", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "10.0.0.1/x"] {
            assert!(text.parse::<Source>().unwrap_err().contains(text), "{text}");
        }
    }
}
