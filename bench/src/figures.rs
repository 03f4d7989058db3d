//! Figures as people read them: three digits that mean something, and separators. Pure.

/// `1,234,567`.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Three significant digits with a unit: `12.3 ms`.
pub fn time(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => digits(value / 1e3) + " µs",
        1_000_000..1_000_000_000 => digits(value / 1e6) + " ms",
        _ => digits(value / 1e9) + " s",
    }
}

/// A rate: whole from a hundred up.
pub fn rate(per_s: f64) -> String {
    if per_s < 99.95 {
        return format!("{per_s:.1}");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    thousands(per_s.round() as u64)
}

fn digits(value: f64) -> String {
    match value {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// `50 million`, `1.23 million`, `50,000`.
pub fn quantity(value: f64) -> String {
    if value < 1e6 {
        return rate(value).trim_end_matches(".0").to_owned();
    }
    let digits = digits(value / 1e6);
    let digits = if digits.contains('.') { digits.trim_end_matches('0') } else { &digits };
    format!("{} million", digits.trim_end_matches('.'))
}

/// `1.79 M`, `834 k`, `95`.
pub fn short_rate(per_s: f64) -> String {
    match per_s {
        1e6.. => digits(per_s / 1e6) + " M",
        1e4.. => digits(per_s / 1e3) + " k",
        _ => rate(per_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let quantities =
            [0.0, 950.0, 50_000.0, 1e6, 1_234_567.0, 50e6, 49_999_999.0, 123_456_789.0];
        let texts = quantities.map(quantity);
        let expected = [
            "0",
            "950",
            "50,000",
            "1 million",
            "1.23 million",
            "50 million",
            "50 million",
            "123 million",
        ];
        assert_eq!(texts, expected);
        assert_eq!(
            [1.79e6, 834e3, 950.0, 9_999.0].map(short_rate),
            ["1.79 M", "834 k", "950", "9,999"]
        );
        assert_eq!(
            [0, 999, 12_345, 999_499, 61_000_000_000].map(time),
            ["0 ns", "999 ns", "12.3 µs", "999 µs", "61.0 s"]
        );
    }
}
