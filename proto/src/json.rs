//! Writing JSON text by hand: the few shapes that this crate sends, without building a tree.
//! Reading is `record`'s (the hot path) and `serde_json`'s (everything else).

/// Appends `text` as a JSON string with its quotes. Only what JSON demands is escaped.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// Appends an integer in decimal.
pub(crate) fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_string_reads_back_and_holds_no_raw_control_character() {
        let all: String = (0..0x300).filter_map(char::from_u32).chain("é€😀".chars()).collect();
        for text in ["", "plain", "a\"b\\c\n", all.as_str()] {
            let mut out = Vec::new();
            write_string(text, &mut out);
            assert!(out.iter().all(|&byte| byte >= 0x20));
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
