//! Closed segments may be packed: `000000000001.ndjson.zst` in place of `000000000001.ndjson`.
//!
//! The same bytes, padding included, as one zstd frame that tells its length and ends with a checksum
//! (RFC 8878), so that `zstd -d` reads it, too. Owns the name and how one is read; leaves when a
//! segment is packed to the engine. Pure: bytes come from whatever the caller reads. Invariants: where
//! both names are there, the plain one counts; what is read is what was written, or an error.

use std::io::{self, BufReader, Read};

/// What a packed segment's name has at its end.
pub const ENDING: &str = ".zst";

/// The name of a plain segment, whether `name` is that or the packed one's.
#[must_use]
pub fn plain_name(name: &str) -> &str {
    name.strip_suffix(ENDING).unwrap_or(name)
}

/// Whether a file that is called so is packed.
#[must_use]
pub fn is_packed(name: &str) -> bool {
    name.ends_with(ENDING)
}

/// The content of a segment, plain or packed. Memory is bounded: a frame that wants a window of more
/// than 128 MiB is refused.
pub enum Content<R: Read> {
    /// As it is.
    Plain(R),
    /// Unpacked on the way.
    Packed(zstd::stream::read::Decoder<'static, BufReader<R>>),
}

impl<R: Read> Content<R> {
    /// Of the file called `name`, which `input` is at the beginning of.
    ///
    /// # Errors
    /// There is no memory for unpacking.
    pub fn of(name: &str, input: R) -> io::Result<Content<R>> {
        if !is_packed(name) {
            return Ok(Content::Plain(input));
        }
        zstd::stream::read::Decoder::new(input).map(Content::Packed)
    }
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Content::Plain(input) => input.read(buf),
            Content::Packed(input) => input.read(buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_segment_reads_like_the_plain_one_and_any_damage_is_told() {
        let lines: Vec<u8> =
            (0..5_000).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect();
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        io::copy(&mut lines.as_slice(), &mut encoder).unwrap();
        let packed = encoder.finish().unwrap();
        let read = |name: &str, bytes: &[u8]| {
            let mut out = Vec::new();
            Content::of(name, bytes).unwrap().read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read("000000000001.ndjson.zst", &packed).unwrap(), lines);
        assert_eq!(read("000000000001.ndjson", &lines).unwrap(), lines);
        for length in [0, 1, packed.len() / 2, packed.len() - 1] {
            let cut = read("1.zst", &packed[..length]);
            assert!(cut.is_err() || length == 0, "{length}");
        }
        for at in (0..packed.len()).step_by(7) {
            let mut rotten = packed.clone();
            rotten[at] ^= 4;
            assert!(read("1.zst", &rotten).map_or(true, |out| out == lines), "{at}");
        }
        assert_eq!(plain_name("000000000001.ndjson.zst"), "000000000001.ndjson");
        assert_eq!(plain_name("000000000001.ndjson"), "000000000001.ndjson");
    }
}
