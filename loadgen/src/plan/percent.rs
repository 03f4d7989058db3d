//! Percent-encoding (RFC 3986, 2.1), within a buffer and without allocation.

/// What may stand anywhere in a URL as it is (RFC 3986, 2.3).
pub(super) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Writes each byte of `out` from `start` on that is not `plain` as `%` and two digits. Makes no
/// allocation where `out` has room for three times as many bytes.
pub(super) fn encode(out: &mut Vec<u8>, start: usize, plain: impl Fn(u8) -> bool) {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    let special = out[start..].iter().filter(|byte| !plain(**byte)).count();
    if special == 0 {
        return;
    }
    let mut from = out.len();
    out.resize(from + 2 * special, b'%');
    // From the end, so that nothing is overwritten before it was read.
    let mut to = out.len();
    while from < to {
        from -= 1;
        let byte = out[from];
        if plain(byte) {
            to -= 1;
            out[to] = byte;
        } else {
            to -= 3;
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out[to..to + 3].copy_from_slice(&[b'%', digits[0], digits[1]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_says_what_it_was(before: Vec<u8>, value: Vec<u8>) {
            let mut out = before.clone();
            out.extend_from_slice(&value);
            encode(&mut out, before.len(), is_unreserved);
            prop_assert_eq!(&out[..before.len()], &before[..]);
            let mut slow = String::new();
            for &byte in &value {
                match is_unreserved(byte) {
                    true => slow.push(char::from(byte)),
                    false => slow.push_str(&format!("%{byte:02X}")),
                }
            }
            prop_assert_eq!(&out[before.len()..], slow.as_bytes());
        }
    }
}
