//! Points in time as logs write them.
//!
//! Owns the formats: names for the usual ones, and a pattern of `%` letters for others. UTC, as the
//! target's own log should be. Invariant: a format writes [`Format::bytes_max`] bytes at most.

use super::stamp::{STAMP_BYTES, Stamp, civil};

/// How a point in time is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Format {
    /// `2026-11-21T03:53:57.123456Z`, which the stamp has at hand.
    Rfc3339,
    /// A number: nanoseconds since 1970 divided by this.
    Unix(u64),
    Pieces(Vec<Piece>),
}

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Year,
    Month,
    MonthName,
    Day,
    /// ` 7`.
    DayInTwo,
    DayOfYear,
    WeekDay,
    Hour,
    Minute,
    Second,
    /// Digits behind the point.
    Fraction(u32),
    UnixSeconds,
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

impl Format {
    /// Reads a name or a pattern.
    ///
    /// # Errors
    /// Names the letter that is not known.
    pub(super) fn parse(text: &str) -> Result<Format, String> {
        Ok(match text {
            "rfc3339" => Format::Rfc3339,
            "unix" => Format::Unix(1_000_000_000),
            "unix_ms" => Format::Unix(1_000_000),
            "unix_us" => Format::Unix(1_000),
            "unix_ns" => Format::Unix(1),
            "clf" => Format::pieces("%d/%b/%Y:%H:%M:%S %z")?,
            "syslog" => Format::pieces("%b %e %H:%M:%S")?,
            text if text.contains('%') => Format::pieces(text)?,
            _ => {
                return Err(format!(
                    "format \"{text}\" is not rfc3339, unix, unix_ms, unix_us, unix_ns, clf, \
                     syslog, or a pattern like %Y-%m-%d %H:%M:%S.%3f"
                ));
            }
        })
    }

    fn pieces(text: &str) -> Result<Format, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars();
        while let Some(letter) = rest.next() {
            if letter != '%' {
                literal.push(letter);
                continue;
            }
            let mut letter = rest.next();
            let digits = letter.and_then(|letter| letter.to_digit(10));
            if digits.is_some() {
                letter = rest.next();
            }
            let piece = match (letter, digits) {
                (Some('%'), None) => {
                    literal.push('%');
                    continue;
                }
                (Some('z'), None) => {
                    literal.push_str("+0000");
                    continue;
                }
                (Some('Y'), None) => Piece::Year,
                (Some('m'), None) => Piece::Month,
                (Some('b'), None) => Piece::MonthName,
                (Some('d'), None) => Piece::Day,
                (Some('e'), None) => Piece::DayInTwo,
                (Some('j'), None) => Piece::DayOfYear,
                (Some('a'), None) => Piece::WeekDay,
                (Some('H'), None) => Piece::Hour,
                (Some('M'), None) => Piece::Minute,
                (Some('S'), None) => Piece::Second,
                (Some('s'), None) => Piece::UnixSeconds,
                (Some('f'), digits @ (None | Some(1..=9))) => Piece::Fraction(digits.unwrap_or(6)),
                (letter, _) => {
                    let letter = letter.map(String::from).unwrap_or_default();
                    return Err(format!(
                        "%{letter} of format \"{text}\" is not one of %Y %m %b %d %e %j %a %H %M \
                         %S %f (%1f to %9f) %s %z %%"
                    ));
                }
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Format::Pieces(pieces))
    }

    /// It is a number, not a text.
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Format::Unix(_))
    }

    /// The same with its literal text rewritten, as the place asks where it goes.
    pub(super) fn mapped(self, rewrite: impl Fn(&str) -> String) -> Format {
        let Format::Pieces(mut pieces) = self else { return self };
        for piece in &mut pieces {
            if let Piece::Text(text) = piece {
                *text = rewrite(text);
            }
        }
        Format::Pieces(pieces)
    }

    /// It writes no more.
    pub(super) fn bytes_max(&self) -> usize {
        match self {
            Format::Rfc3339 => STAMP_BYTES,
            Format::Unix(_) => 20,
            Format::Pieces(pieces) => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text.len(),
                    Piece::UnixSeconds => 20,
                    _ => 9,
                })
                .sum(),
        }
    }

    /// Appends the time of `stamp`, moved by `shift_ns`.
    pub(super) fn append(&self, out: &mut Vec<u8>, stamp: &Stamp, shift_ns: i64) {
        let unix_ns = stamp.unix_ns.saturating_add_signed(shift_ns);
        match self {
            Format::Rfc3339 if shift_ns == 0 => out.extend_from_slice(&stamp.text),
            Format::Rfc3339 => {
                let mut shifted = stamp.clone();
                shifted.set(unix_ns);
                out.extend_from_slice(&shifted.text);
            }
            Format::Unix(unit) => {
                out.extend_from_slice(itoa::Buffer::new().format(unix_ns / unit).as_bytes());
            }
            Format::Pieces(pieces) => append_pieces(out, pieces, unix_ns),
        }
    }
}

fn append_pieces(out: &mut Vec<u8>, pieces: &[Piece], unix_ns: u64) {
    let second = unix_ns / 1_000_000_000;
    let days = second / 86_400;
    let (year, month, day) = civil(days);
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Year => digits(out, year, 4),
            Piece::Month => digits(out, month, 2),
            Piece::MonthName => {
                out.extend_from_slice(MONTHS[usize::from(small(month)) - 1].as_bytes());
            }
            Piece::Day => digits(out, day, 2),
            Piece::DayInTwo => {
                let at = out.len();
                digits(out, day, 2);
                if day < 10 {
                    out[at] = b' ';
                }
            }
            Piece::DayOfYear => digits(out, day_of_year(year, month, day), 3),
            Piece::WeekDay => {
                out.extend_from_slice(DAYS[usize::from(small(days % 7))].as_bytes());
            }
            Piece::Hour => digits(out, second / 3600 % 24, 2),
            Piece::Minute => digits(out, second / 60 % 60, 2),
            Piece::Second => digits(out, second % 60, 2),
            Piece::Fraction(count) => {
                let fraction = unix_ns % 1_000_000_000 / 10u64.pow(9 - count);
                digits(out, fraction, *count as usize);
            }
            Piece::UnixSeconds => {
                out.extend_from_slice(itoa::Buffer::new().format(second).as_bytes());
            }
        }
    }
}

fn day_of_year(year: u64, month: u64, day: u64) -> u64 {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let is_leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    BEFORE[usize::from(small(month)) - 1] + day + u64::from(is_leap && month > 2)
}

#[expect(clippy::cast_possible_truncation, reason = "a month or a day of the week")]
fn small(number: u64) -> u8 {
    number as u8
}

/// The last `count` digits, with zeros in front.
pub(super) fn digits(out: &mut Vec<u8>, mut number: u64, count: usize) {
    let start = out.len();
    out.resize(start + count, b'0');
    for at in (start..start + count).rev() {
        out[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(format: &str, unix_ns: u64, shift_ns: i64) -> String {
        let (format, mut stamp, mut out) =
            (Format::parse(format).unwrap(), Stamp::default(), Vec::new());
        stamp.set(unix_ns);
        format.append(&mut out, &stamp, shift_ns);
        assert!(out.len() <= format.bytes_max());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_usual_formats_look_as_they_do_in_logs() {
        let ns = 1_795_233_237_123_456_789;
        for (format, expected) in [
            ("rfc3339", "2026-11-21T03:53:57.123456Z"),
            ("unix", "1795233237"),
            ("unix_ms", "1795233237123"),
            ("unix_us", "1795233237123456"),
            ("unix_ns", "1795233237123456789"),
            ("clf", "21/Nov/2026:03:53:57 +0000"),
            ("syslog", "Nov 21 03:53:57"),
            ("%a %e %b, day %j, %H:%M:%S.%3f %% %z", "Sat 21 Nov, day 325, 03:53:57.123 % +0000"),
        ] {
            assert_eq!(written(format, ns, 0), expected);
        }
        assert_eq!(written("rfc3339", ns, -3_600_000_000_000), "2026-11-21T02:53:57.123456Z");
        assert_eq!(written("%e", 6 * 86_400_000_000_000, 0), " 7");
        for wrong in ["iso", "%Q", "%", "%3Y", "%0f"] {
            assert!(Format::parse(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_is_what_jiff_prints(unix_ns in 0u64..4_000_000_000_000_000_000) {
            let pattern = "%Y-%m-%d %b %e %a %j %H:%M:%S.%9f %s";
            let oracle = jiff::Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap();
            prop_assert_eq!(written(pattern, unix_ns, 0), oracle.strftime(pattern).to_string());
        }
    }
}
