//! When something was recorded: RFC 3339 and its relatives, seconds since 1970 in four units, and
//! the time of an access log.
//!
//! Pure, and without an allocation: two hundred thousand a second pass here. Times are nanoseconds
//! since 1970-01-01 UTC (no leap seconds, as Unix counts), which i64 holds from 1678 to 2262.
//! Invariant: what is read here is what the calendar says; what is not a time is `None`, never a
//! guess.

/// Nanoseconds of a second.
const NANOS: i64 = 1_000_000_000;
/// A number below is seconds since 1970, up to the year 5138.
const SECONDS_BELOW: u64 = 100_000_000_000;
/// Then milliseconds, then microseconds, and above them nanoseconds.
const MILLIS_BELOW: u64 = 100_000_000_000_000;
const MICROS_BELOW: u64 = 100_000_000_000_000_000;

/// `2026-11-21T03:53:57.123456Z`, with any number of digits of a second or none; a space or a small
/// `t` may stand for the `T`, a comma for the point, `+01:00`, `+0100` or `+01` for the `Z`. A time
/// without a zone is UTC, a date without a time is its midnight.
pub fn rfc3339(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = *<&[u8; 10]>::try_from(date).ok()? else {
        return None;
    };
    let year = number([y0, y1, y2, y3])?;
    let day_ns = midnight(year, number([m0, m1])?, number([d0, d1])?)?;
    if rest.is_empty() {
        return Some(day_ns);
    }
    let (clock, rest) = rest.split_at_checked(9)?;
    let [b'T' | b't' | b' ', h0, h1, b':', m0, m1, b':', s0, s1] =
        *<&[u8; 9]>::try_from(clock).ok()?
    else {
        return None;
    };
    let clock_ns = time_of_day(number([h0, h1])?, number([m0, m1])?, number([s0, s1])?)?;
    let (fraction_ns, rest) = match rest {
        [b'.' | b',', rest @ ..] => fraction(rest)?,
        rest => (0, rest),
    };
    day_ns.checked_add(clock_ns + fraction_ns)?.checked_sub(zone(rest)?)
}

/// Digits behind the point, in nanoseconds, and what comes after them; more than nine are cut.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(digits);
    let counted = &digits[..digits.len().min(9)];
    let scale = POWERS[9 - counted.len()];
    (!digits.is_empty()).then(|| (decimal(counted) * scale, rest))
}

const POWERS: [i64; 10] =
    [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// At most 18 digits.
fn decimal(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
}

/// How far a zone is ahead of UTC, in nanoseconds.
fn zone(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text {
        [] | [b'Z' | b'z'] => return Some(0),
        [b' ', rest @ ..] => return zone(rest).filter(|_| !rest.is_empty()),
        b"UTC" | b"GMT" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match *rest {
        [h0, h1] => (number([h0, h1])?, 0),
        [h0, h1, m0, m1] | [h0, h1, b':', m0, m1] => (number([h0, h1])?, number([m0, m1])?),
        _ => return None,
    };
    (hours <= 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60) * NANOS)
}

/// A number of seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by how
/// large it is; `1700000000.25` is a fraction of its unit. Not negative.
pub fn epoch(text: &[u8]) -> Option<i64> {
    let whole = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (whole, rest) = text.split_at(whole);
    if whole.is_empty() || whole.len() > 19 {
        return None;
    }
    let value = whole
        .iter()
        .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    let unit_ns = match value {
        0..SECONDS_BELOW => NANOS,
        SECONDS_BELOW..MILLIS_BELOW => 1_000_000,
        MILLIS_BELOW..MICROS_BELOW => 1_000,
        _ => 1,
    };
    let fraction_ns = match rest {
        [] => 0,
        [b'.', rest @ ..] => {
            let (of_a_second_ns, rest) = fraction(rest)?;
            if !rest.is_empty() {
                return None;
            }
            of_a_second_ns / (NANOS / unit_ns)
        }
        _ => return None,
    };
    i64::try_from(value).ok()?.checked_mul(unit_ns)?.checked_add(fraction_ns)
}

/// `10/Oct/2000:13:55:36 -0700`, as between the brackets of an access log.
pub fn access_log(text: &[u8]) -> Option<i64> {
    let &[
        d0,
        d1,
        b'/',
        a,
        b,
        c,
        b'/',
        y0,
        y1,
        y2,
        y3,
        b':',
        h0,
        h1,
        b':',
        m0,
        m1,
        b':',
        s0,
        s1,
        ref rest @ ..,
    ] = text
    else {
        return None;
    };
    const MONTHS: [&[u8; 3]; 12] = [
        b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov",
        b"dec",
    ];
    let name = [a, b, c].map(|letter| letter.to_ascii_lowercase());
    let month = MONTHS.iter().position(|month| **month == name)?;
    let month = i64::try_from(month).ok()? + 1;
    let day_ns = midnight(number([y0, y1, y2, y3])?, month, number([d0, d1])?)?;
    let clock_ns = time_of_day(number([h0, h1])?, number([m0, m1])?, number([s0, s1])?)?;
    let zone_ns = match rest {
        [b' ', rest @ ..] => zone(rest)?,
        _ => return None,
    };
    day_ns.checked_add(clock_ns)?.checked_sub(zone_ns)
}

/// A number of so many digits.
fn number<const N: usize>(digits: [u8; N]) -> Option<i64> {
    digits.iter().all(u8::is_ascii_digit).then(|| decimal(&digits))
}

/// A leap second is the second behind it.
fn time_of_day(hours: i64, minutes: i64, seconds: i64) -> Option<i64> {
    let is_time = hours < 24 && minutes < 60 && seconds <= 60;
    is_time.then_some((hours * 3600 + minutes * 60 + seconds) * NANOS)
}

/// The beginning of a day (days as in Hinnant, "chrono-compatible low-level date algorithms",
/// days_from_civil).
fn midnight(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_max = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_max).contains(&day) {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let shifted_month = if month <= 2 { month + 9 } else { month - 3 };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era - 719_468).checked_mul(86_400 * NANOS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oracle(text: &str) -> i64 {
        i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn the_relatives_of_rfc_3339_are_read_as_well() {
        let expected = oracle("2026-11-21T03:53:57.123Z");
        for text in [
            "2026-11-21T03:53:57.123Z",
            "2026-11-21t03:53:57.123z",
            "2026-11-21 03:53:57,123",
            "2026-11-21 03:53:57.123 UTC",
            "2026-11-21T04:53:57.123+01:00",
            "2026-11-21T04:53:57.123+01",
            "2026-11-20T22:23:57.123-0530",
            "2026-11-21T03:53:57.123000000999Z",
            "2026-11-21T03:53:56.1230Z",
        ] {
            let slip = if text.contains(":56") { NANOS } else { 0 };
            assert_eq!(rfc3339(text.as_bytes()), Some(expected - slip), "{text}");
        }
        assert_eq!(rfc3339(b"2026-11-21"), Some(oracle("2026-11-21T00:00:00Z")));
        assert_eq!(rfc3339(b"2016-12-31T23:59:60Z"), Some(oracle("2017-01-01T00:00:00Z")));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "now",
            "2026-11-21T",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00X",
            "2026-01-01T00:00:00+1",
            "2026-01-01T00:00:00 ",
            "2026-01-01T00:00:00+99:00",
            "0001-01-01T00:00:00Z",
            "9999-01-01T00:00:00Z",
            "2026-1-01T00:00:00Z",
            "２０２６-01-01",
        ] {
            assert_eq!(rfc3339(text.as_bytes()), None, "{text}");
        }
        for text in ["", "-1", "1.", "1.5s", "x", ".5", "99999999999999999999", "1e9"] {
            assert_eq!(epoch(text.as_bytes()), None, "{text}");
        }
        for text in [
            "",
            "10/Oct/2000:13:55:36",
            "10/Okt/2000:13:55:36 -0700",
            "32/Oct/2000:13:55:36 -0700",
            "10/Oct/2000 13:55:36 -0700",
            "-",
        ] {
            assert_eq!(access_log(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_unit_of_a_number_is_told_by_its_size() {
        let expected = oracle("2023-11-14T22:13:20.25Z");
        for text in [
            "1700000000.25",
            "1700000000250",
            "1700000000250.0",
            "1700000000250000",
            "1700000000250000000",
        ] {
            assert_eq!(epoch(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(epoch(b"0"), Some(0));
        assert_eq!(epoch(b"1700000000250.5"), Some(expected + 500_000));
    }

    #[test]
    fn the_time_of_an_access_log_has_a_zone() {
        let expected = oracle("2000-10-10T20:55:36Z");
        assert_eq!(access_log(b"10/Oct/2000:13:55:36 -0700"), Some(expected));
        assert_eq!(access_log(b"10/OCT/2000:20:55:36 +0000"), Some(expected));
    }

    proptest! {
        #[test]
        fn it_is_what_jiff_reads(
            // From 1678 to 2262.
            ns in -9_200_000_000_000_000_000i64..9_200_000_000_000_000_000,
            digits in 0usize..10,
            zone_minutes in -1439i64..1440,
        ) {
            let at = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap();
            let zone = jiff::tz::Offset::from_seconds(i32::try_from(zone_minutes * 60).unwrap());
            let local = at.to_zoned(zone.unwrap().to_time_zone());
            let fraction = if digits == 0 { String::new() } else {
                format!(".{}", &local.strftime("%9f").to_string()[..digits])
            };
            let text = format!("{}{fraction}{}",
                local.strftime("%Y-%m-%dT%H:%M:%S"), local.strftime("%:z"));
            prop_assert_eq!(rfc3339(text.as_bytes()), Some(oracle(&text)), "{}", text);
            let text = local.strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
            prop_assert_eq!(access_log(text.as_bytes()), Some(ns.div_euclid(NANOS) * NANOS));
        }

        #[test]
        fn nothing_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (rfc3339(&text), epoch(&text), access_log(&text));
        }

        #[test]
        fn a_number_is_read_in_its_unit(ns in 200_000_000_000_000_000u64..8_000_000_000_000_000_000) {
            let [us, ms, s] = [1_000, 1_000_000, 1_000_000_000].map(|unit| ns / unit);
            for (text, unit) in [(ns, 1), (us, 1_000), (ms, 1_000_000), (s, 1_000_000_000)] {
                let expected = i64::try_from(text * unit).unwrap();
                prop_assert_eq!(epoch(text.to_string().as_bytes()), Some(expected));
            }
            let text = format!("{s}.{:09}", ns % 1_000_000_000);
            prop_assert_eq!(epoch(text.as_bytes()), Some(i64::try_from(ns).unwrap()));
        }
    }
}
