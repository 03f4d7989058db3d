//! Numbers as people write them: `10k`, `64KiB`, `1.5s`, `1%`.
//!
//! Pure. Every parser gives a lower-case fragment as its error; clap puts the knob's name before it.

use std::time::Duration;

/// A count: `1000`, `10k`, `2.5M`, `1G`, `1_000_000`.
///
/// # Errors
/// Not a number, negative, a fraction of one, or too large.
pub fn count(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "m" | "M" => 1_000_000,
        "g" | "G" => 1_000_000_000,
        _ => return Err(format!("\"{text}\" is not a count like 1000, 10k or 2.5M")),
    };
    scaled(number, factor)
        .ok_or_else(|| format!("\"{text}\" is not a count like 1000, 10k or 2.5M"))
}

/// A number of bytes: `65536`, `64KiB`, `1.5 GiB`, `10MB`; a bare `k`, `M`, `G` is binary.
///
/// # Errors
/// Not a number of bytes, a fraction of one, or too large.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("\"{text}\" is not a size like 65536, 64KiB or 1GiB")),
    };
    scaled(number, factor)
        .ok_or_else(|| format!("\"{text}\" is not a size like 65536, 64KiB or 1GiB"))
}

/// A number of bytes that fits this machine's memory addresses.
///
/// # Errors
/// As [`bytes`].
pub fn bytes_usize(text: &str) -> Result<usize, String> {
    usize::try_from(bytes(text)?).map_err(|_| format!("\"{text}\" is too large"))
}

/// A count that fits this machine's memory addresses.
///
/// # Errors
/// As [`count`].
pub fn count_usize(text: &str) -> Result<usize, String> {
    usize::try_from(count(text)?).map_err(|_| format!("\"{text}\" is too large"))
}

/// A time whose bare number means seconds: `10`, `0.5`, `10s`, `250ms`, `1m`, `2h`.
///
/// # Errors
/// Not a time, or negative.
pub fn seconds(text: &str) -> Result<Duration, String> {
    duration(text, 1.0).ok_or_else(|| format!("\"{text}\" is not a time like 10, 10s, 250ms or 1m"))
}

/// A time whose bare number means milliseconds: `100`, `100ms`, `1s`.
///
/// # Errors
/// Not a time, or negative.
pub fn millis(text: &str) -> Result<Duration, String> {
    duration(text, 0.001).ok_or_else(|| format!("\"{text}\" is not a time like 100, 100ms or 1s"))
}

/// A share: `1%`, `0.5 %`, or the same as a fraction, `0.01`. Gives 0.0 to 1.0.
///
/// # Errors
/// Not a share between 0 and 1 (0 % and 100 %).
pub fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text);
    let share = match unit {
        "" => number.parse::<f64>().ok(),
        "%" => number.parse::<f64>().ok().map(|percent| percent / 100.0),
        _ => None,
    };
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("\"{text}\" is not a share like 1% or 0.01"))
}

/// Digits (with `.` and `_`) in front, the unit behind.
fn split(text: &str) -> (String, &str) {
    let text = text.trim();
    let end = text
        .find(|letter: char| !(letter.is_ascii_digit() || letter == '.' || letter == '_'))
        .unwrap_or(text.len());
    (text[..end].replace('_', ""), text[end..].trim())
}

/// `number × factor`, exact, in whole units.
fn scaled(number: String, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let mut total = whole.checked_mul(factor)?;
    if !fraction.is_empty() {
        let digits = fraction.parse::<u128>().ok()?;
        let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = digits.checked_mul(u128::from(factor))?;
        if part % scale != 0 {
            return None;
        }
        total = total.checked_add(u64::try_from(part / scale).ok()?)?;
    }
    Some(total)
}

fn duration(text: &str, bare_seconds: f64) -> Option<Duration> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" => bare_seconds,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" | "sec" | "secs" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * factor).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_decimal_suffixes() {
        assert_eq!(count("1000"), Ok(1000));
        assert_eq!(count("10k"), Ok(10_000));
        assert_eq!(count("2.5M"), Ok(2_500_000));
        assert_eq!(count("1_000_000"), Ok(1_000_000));
        for bad in ["", "k", "-1", "1.5", "10x", "1e3", "99999999999999999999", "."] {
            assert!(count(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn sizes_take_binary_and_decimal_suffixes() {
        assert_eq!(bytes("65536"), Ok(65_536));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("64k"), Ok(65_536));
        assert_eq!(bytes("64 kB"), Ok(64_000));
        assert_eq!(bytes("1.5GiB"), Ok(1_610_612_736));
        assert!(bytes("64bits").is_err());
    }

    #[test]
    fn times_take_their_knobs_unit_when_bare() {
        assert_eq!(seconds("10"), Ok(Duration::from_secs(10)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(millis("100"), Ok(Duration::from_millis(100)));
        assert_eq!(millis("1s"), Ok(Duration::from_secs(1)));
        assert!(seconds("-1").is_err());
        assert!(seconds("10 apples").is_err());
        assert!(seconds("").is_err());
    }

    #[test]
    fn shares_are_percent_or_fraction() {
        assert_eq!(share("1%"), Ok(0.01));
        assert_eq!(share("0.05"), Ok(0.05));
        assert!(share("101%").is_err());
        assert!(share("2").is_err());
    }
}
