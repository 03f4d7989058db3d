//! How long messages are: one size, or sizes by chance, as people write them.
//!
//! Owns the words and the drawing. A size is the least that a line has, with its newline: a shorter
//! line is lengthened, a longer one stays as it is. Leaves the lengthening to whoever makes the line.
//! Invariant: [`Sizes::draw`] never gives more than [`Sizes::max`].

use std::fmt;
use std::str::FromStr;

use proto::limits::LINE_BYTES_MAX;
use runtime::units;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::chance::normal;
use crate::plan::random::Random;

/// A line that is longer is no log line.
const BYTES_MAX: usize = 1 << 20;
/// What has no end of its own ends where the engine would reject the line.
const TAIL_BYTES_MAX: usize = LINE_BYTES_MAX;
/// Parts of a mixture.
const PARTS_MAX: usize = 64;

/// The sizes of a flow's messages, bytes with the newline.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// At least one; of several, each with its share of the messages.
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    size: Size,
    /// 0 to 1; of all parts 1.
    share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    Fixed(usize),
    /// Each as likely as the other, both ends among them.
    Uniform(usize, usize),
    /// Mean and standard deviation, bytes.
    Normal(usize, usize),
    /// Median in bytes, and the standard deviation of the logarithm.
    LogNormal(usize, f64),
    /// Mean, bytes.
    Exponential(usize),
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes::fixed(0)
    }
}

impl Sizes {
    /// Every message has `bytes` at least.
    pub fn fixed(bytes: usize) -> Sizes {
        Sizes { parts: vec![Part { size: Size::Fixed(bytes), share: 1.0 }] }
    }

    /// The one size, if there is only one.
    pub fn as_fixed(&self) -> Option<usize> {
        match self.parts[..] {
            [Part { size: Size::Fixed(bytes), .. }] => Some(bytes),
            _ => None,
        }
    }

    /// No message is lengthened beyond this.
    pub fn max(&self) -> usize {
        self.parts.iter().map(|part| part.size.max()).max().unwrap_or(0)
    }

    /// The next size.
    pub fn draw(&self, random: &mut Random) -> usize {
        let size = match self.parts[..] {
            [Part { size, .. }] => size,
            [..] => {
                let mut left = random.unit();
                let mut parts = self.parts.iter();
                loop {
                    let Some(part) = parts.next() else {
                        // Shares add up to one but for rounding.
                        break self.parts[self.parts.len() - 1].size;
                    };
                    if left < part.share {
                        break part.size;
                    }
                    left -= part.share;
                }
            }
        };
        size.draw(random)
    }
}

impl Size {
    fn max(self) -> usize {
        match self {
            Size::Fixed(bytes) | Size::Uniform(_, bytes) => bytes,
            Size::Normal(..) | Size::LogNormal(..) | Size::Exponential(_) => TAIL_BYTES_MAX,
        }
    }

    fn draw(self, random: &mut Random) -> usize {
        match self {
            Size::Fixed(bytes) => bytes,
            Size::Uniform(from, to) => from + below(random, to - from + 1),
            Size::Normal(mean, deviation) => cut(mean as f64 + deviation as f64 * normal(random)),
            Size::LogNormal(median, sigma) => cut(median as f64 * (sigma * normal(random)).exp()),
            Size::Exponential(mean) => cut(-(mean as f64) * (1.0 - random.unit()).ln()),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "below a number that is a usize")]
fn below(random: &mut Random, end: usize) -> usize {
    random.below(end as u64) as usize
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn cut(bytes: f64) -> usize {
    (bytes.round() as usize).min(TAIL_BYTES_MAX)
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        if !text.contains('%') {
            return Ok(Sizes { parts: vec![Part { size: size(text)?, share: 1.0 }] });
        }
        let mut parts = Vec::new();
        for part in text.split(',') {
            let wrong = || {
                format!(
                    "\"{part}\" of \"{text}\" is not a size and its share, like 64:90% \
                     (a mixture knows sizes like 64 and 128..4k)"
                )
            };
            let (size, share) = part.rsplit_once(':').ok_or_else(wrong)?;
            let size = self::size(size.trim()).map_err(|_| wrong())?;
            let share = units::share(share.trim()).map_err(|_| wrong())?;
            parts.push(Part { size, share });
        }
        let sum: f64 = parts.iter().map(|part| part.share).sum();
        if (sum - 1.0).abs() > 1e-9 {
            return Err(format!("the shares of \"{text}\" add up to {} %, not 100", round(sum)));
        }
        if parts.len() > PARTS_MAX {
            return Err(format!("\"{text}\" has more than {PARTS_MAX} sizes"));
        }
        Ok(Sizes { parts })
    }
}

/// Percent, without what floating point adds.
fn round(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

fn size(text: &str) -> Result<Size, String> {
    let wrong = || {
        format!(
            "\"{text}\" is not a size like 256, 128..4k, normal:256,64 (mean, deviation), \
             lognormal:256,0.8 (median, sigma), exponential:512 (mean) or 64:90%,16k:10%"
        )
    };
    let bytes = |text: &str| {
        let bytes = units::bytes_usize(text.trim()).map_err(|_| wrong())?;
        match bytes > BYTES_MAX {
            true => Err(format!("{bytes} bytes are more than 1MiB")),
            false => Ok(bytes),
        }
    };
    if let Some((from, to)) = text.split_once("..") {
        let (from, to) = (bytes(from)?, bytes(to)?);
        if from > to {
            return Err(format!("\"{text}\" begins after its end"));
        }
        return Ok(Size::Uniform(from, to));
    }
    let Some((name, rest)) = text.split_once(':') else { return Ok(Size::Fixed(bytes(text)?)) };
    let two = || rest.split_once(',').ok_or_else(wrong);
    match name.trim() {
        "normal" => {
            let (mean, deviation) = two()?;
            Ok(Size::Normal(bytes(mean)?, bytes(deviation)?))
        }
        "lognormal" => {
            let (median, sigma) = two()?;
            let sigma = sigma.trim().parse::<f64>().map_err(|_| wrong())?;
            if !(0.0..=10.0).contains(&sigma) {
                return Err(format!("{sigma} of \"{text}\" is no sigma from 0 to 10"));
            }
            Ok(Size::LogNormal(bytes(median)?, sigma))
        }
        "exponential" => Ok(Size::Exponential(bytes(rest)?)),
        _ => Err(wrong()),
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [part] = &self.parts[..] {
            return part.size.fmt(f);
        }
        for (index, Part { size, share }) in self.parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{size}:{}%", share * 100.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Fixed(bytes) => write!(f, "{bytes}"),
            Size::Uniform(from, to) => write!(f, "{from}..{to}"),
            Size::Normal(mean, deviation) => write!(f, "normal:{mean},{deviation}"),
            Size::LogNormal(median, sigma) => write!(f, "lognormal:{median},{sigma}"),
            Size::Exponential(mean) => write!(f, "exponential:{mean}"),
        }
    }
}

/// One size is a number, as it always was; others are text.
impl Serialize for Sizes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.as_fixed() {
            Some(bytes) => to.serialize_u64(bytes as u64),
            None => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Sizes, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Sizes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in bytes, or sizes as text")
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Sizes, E> {
                bytes.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Sizes, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Either).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(text: &str, n: usize) -> Vec<f64> {
        let (sizes, mut random) = (text.parse::<Sizes>().unwrap(), Random::new(11));
        (0..n)
            .map(|_| {
                let bytes = sizes.draw(&mut random);
                assert!(bytes <= sizes.max(), "{text}: {bytes}");
                bytes as f64
            })
            .collect()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    #[test]
    fn sizes_are_read_and_written_the_same() {
        for text in [
            "0",
            "256",
            "128..4096",
            "normal:256,64",
            "lognormal:256,0.8",
            "exponential:512",
            "64:90%,16384:10%",
            "64..128:50%,4096:25%,0:25%",
        ] {
            let sizes: Sizes = text.parse().unwrap();
            assert_eq!(sizes.to_string(), text);
            let json = serde_json::to_string(&sizes).unwrap();
            assert_eq!(serde_json::from_str::<Sizes>(&json).unwrap(), sizes, "{json}");
        }
        assert_eq!("128..4k".parse::<Sizes>().unwrap().to_string(), "128..4096");
        assert_eq!(serde_json::to_string(&Sizes::fixed(7)).unwrap(), "7");
    }

    #[test]
    fn what_is_no_size_is_named() {
        for (text, hint) in [
            ("many", "\"many\" is not a size like"),
            ("4k..128", "begins after its end"),
            ("2M", "more than 1MiB"),
            ("normal:256", "normal:256,64"),
            ("gamma:1,2", "\"gamma:1,2\" is not a size like"),
            ("lognormal:256,x", "lognormal:256,0.8"),
            ("64:90%,16k:20%", "add up to 110 %"),
            ("64,16k:20%", "\"64\" of \"64,16k:20%\""),
        ] {
            let error = text.parse::<Sizes>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    // Bounds are five standard errors of the mean.
    #[test]
    fn sizes_are_spread_as_said() {
        let n = 20_000;
        let root = (n as f64).sqrt();
        let deviation = (1001f64.powi(2) - 1.0).sqrt() / 12f64.sqrt();
        let found = mean(&draws("1000..2000", n));
        assert!((found - 1500.0).abs() < 5.0 * deviation / root, "{found}");
        let found = mean(&draws("normal:1000,100", n));
        assert!((found - 1000.0).abs() < 5.0 * 100.0 / root, "{found}");
        let found = mean(&draws("exponential:500", n));
        assert!((found - 500.0).abs() < 5.0 * 500.0 / root, "{found}");
        // The logarithm of a log-normal is normal, around that of the median.
        let logs: Vec<f64> = draws("lognormal:1000,0.5", n).iter().map(|it| it.ln()).collect();
        let found = mean(&logs);
        assert!((found - 1000f64.ln()).abs() < 5.0 * 0.5 / root, "{found}");
        let large = draws("64:90%,16k:10%", n).iter().filter(|it| **it > 64.0).count() as f64;
        let error = (n as f64 * 0.1 * 0.9).sqrt();
        assert!((large - n as f64 * 0.1).abs() < 5.0 * error, "{large}");
    }
}
