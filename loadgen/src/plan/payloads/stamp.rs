//! The time in messages.
//!
//! Owns its usual text, rendered anew only as far as it changed, and the calendar. Leaves other
//! formats to [`super::moment`].
//! Invariant: the text is always that of the time which was set last.

/// Bytes of `2026-11-21T03:53:57.123456Z`.
pub(super) const STAMP_BYTES: usize = 27;

/// A point in time as text, UTC with microseconds; rewritten only as far as it changed.
#[derive(Clone, Debug)]
pub struct Stamp {
    pub(super) text: [u8; STAMP_BYTES],
    pub(super) unix_ns: u64,
    second: u64,
}

impl Default for Stamp {
    fn default() -> Self {
        let text = *b"0000-00-00T00:00:00.000000Z";
        let mut stamp = Stamp { text, unix_ns: 0, second: u64::MAX };
        stamp.set(0);
        stamp
    }
}

impl Stamp {
    /// Sets the time, nanoseconds since 1970-01-01 (no leap seconds, as Unix counts).
    pub fn set(&mut self, unix_ns: u64) {
        self.unix_ns = unix_ns;
        let second = unix_ns / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.set_second(second);
        }
        let mut micros = unix_ns / 1_000 % 1_000_000;
        for at in (20..26).rev() {
            self.text[at] = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).expect("digits and punctuation")
    }

    fn set_second(&mut self, second: u64) {
        let (year, month, day) = civil(second / 86_400);
        let (hour, minute) = (second / 3600 % 24, second / 60 % 60);
        let mut put = |at: usize, number: u64| {
            self.text[at] = b'0' + (number / 10 % 10) as u8;
            self.text[at + 1] = b'0' + (number % 10) as u8;
        };
        put(0, year / 100);
        for (at, number) in
            [(2, year), (5, month), (8, day), (11, hour), (14, minute), (17, second % 60)]
        {
            put(at, number);
        }
    }
}

/// Year, month, day of a day number since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms", days_from_civil's inverse, for days that are not negative).
pub(super) fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stamp_is_what_jiff_prints(unix_ns in 0u64..4_000_000_000_000_000_000) {
            let mut stamp = Stamp::default();
            stamp.set(unix_ns);
            let oracle = jiff::Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap();
            prop_assert_eq!(stamp.as_str(), oracle.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
            // A second later, from the same state: the cached part is refreshed.
            stamp.set(unix_ns + 1_000_000_000);
            let oracle = jiff::Timestamp::from_nanosecond(i128::from(unix_ns + 1_000_000_000)).unwrap();
            prop_assert_eq!(stamp.as_str(), oracle.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
        }
    }
}
