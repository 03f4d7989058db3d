//! The side file of a segment, `000000000001.crc` beside `000000000001.ndjson`: checksums by which
//! bit rot is found. Derived: the segment is enough by itself, and nothing is lost with this. Where the
//! segment is packed, all offsets are those of its content, and the side file stays as it is.
//!
//! ```text
//!  byte   0        8       12      16      20       28      32
//!         │ offset │ length │ lines │  crc  │ synced │ check │     a record, little-endian
//! ```
//!
//! A record is one commit: `length` bytes from `offset` on, which are `lines` whole lines and have
//! the CRC-32C `crc`. Every byte before `synced` was durable when the record was made. A record of
//! length 0 says only that. `check` is the CRC-32C of a tag, the segment's number and the 28 bytes
//! before it, so that a record which is torn, rotten or from elsewhere is not taken for one.
//!
//! Owns the format and the names; leaves when it is written to `scribe`, and what it proves to
//! `fsck` and `recovery`. Invariants: a record is made after its bytes were written, and says
//! `synced` only after the sync; so a range without a record, or one that is not below `synced` and
//! does not match, is unverified, and only a mismatch below `synced` is damage.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A record's size.
pub(super) const RECORD_BYTES: usize = 32;

const CHUNK_BYTES: usize = 1 << 20;
const TAG: &[u8; 16] = b"logboom side v1\n";

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub offset: u64,
    pub length: u32,
    pub lines: u32,
    pub crc: u32,
    pub synced: u64,
}

impl Entry {
    /// That everything before `synced` is durable.
    pub(super) fn mark(synced: u64) -> Entry {
        Entry { offset: synced, length: 0, lines: 0, crc: 0, synced }
    }

    /// Where its bytes end.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }

    /// Appends the record for segment `number`.
    pub(super) fn encode(&self, number: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.lines.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
        let check = check(number, &out[start..]);
        out.extend_from_slice(&check.to_le_bytes());
    }

    /// Reads a record of segment `number`; `None` if it is none.
    pub(super) fn decode(number: u64, record: &[u8]) -> Option<Entry> {
        let (head, tail) = record.split_at_checked(RECORD_BYTES - 4)?;
        if tail != check(number, head).to_le_bytes() {
            return None;
        }
        let long = |at: usize| Some(u64::from_le_bytes(*head[at..].first_chunk()?));
        let short = |at: usize| Some(u32::from_le_bytes(*head[at..].first_chunk()?));
        Some(Entry {
            offset: long(0)?,
            length: short(8)?,
            lines: short(12)?,
            crc: short(16)?,
            synced: long(20)?,
        })
    }
}

/// The CRC-32C of `bytes`.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The same for bytes that come in pieces.
fn digest() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)
}

/// What the pieces come to.
fn finish(digest: &crc_fast::Digest) -> u32 {
    u32::try_from(digest.finalize()).unwrap_or_else(|_| unreachable!("a CRC-32 has 32 bits"))
}

/// Whether the bytes in `file` are those of the record.
pub(super) fn matches(file: &mut (impl Read + Seek), entry: &Entry) -> io::Result<bool> {
    file.seek(SeekFrom::Start(entry.offset))?;
    let mut digest = digest();
    let mut rest = usize::try_from(entry.length).unwrap_or(usize::MAX);
    let mut chunk = vec![0; rest.min(CHUNK_BYTES)];
    while rest > 0 {
        let some = rest.min(chunk.len());
        match file.read_exact(&mut chunk[..some]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        digest.update(&chunk[..some]);
        rest -= some;
    }
    Ok(finish(&digest) == entry.crc)
}

fn check(number: u64, head: &[u8]) -> u32 {
    let mut bytes = [0; TAG.len() + 8 + RECORD_BYTES - 4];
    bytes[..16].copy_from_slice(TAG);
    bytes[16..24].copy_from_slice(&number.to_le_bytes());
    bytes[24..].copy_from_slice(head);
    checksum(&bytes)
}

/// Where the side file of a segment lies.
pub(super) fn path_of(segment: &Path) -> PathBuf {
    let name = segment.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    segment.with_file_name(proto::packed::plain_name(name)).with_extension("crc")
}

/// What a side file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Side {
    /// By offset; none of length 0, and none that overlaps an earlier one.
    pub entries: Vec<Entry>,
    /// Every byte before it was durable.
    pub synced: u64,
    /// Records that are none. One at the end may be on its way.
    pub damaged: u64,
}

impl Side {
    /// Reads the side file of segment `number`; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read(segment: &Path, number: u64) -> io::Result<Option<Side>> {
        match fs::read(path_of(segment)) {
            Ok(bytes) => Ok(Some(Side::parse(number, &bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(number: u64, bytes: &[u8]) -> Side {
        let mut side = Side::default();
        for record in bytes.chunks_exact(RECORD_BYTES) {
            let Some(entry) = Entry::decode(number, record) else {
                side.damaged += 1;
                continue;
            };
            side.synced = side.synced.max(entry.synced);
            if entry.length > 0 {
                side.entries.push(entry);
            }
        }
        side.entries.sort_unstable_by_key(|entry| entry.offset);
        let mut end = 0;
        side.entries.retain(|entry| {
            let fits = entry.offset >= end;
            end = if fits { entry.end() } else { end };
            fits
        });
        side
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u64, length: u32, synced: u64) -> Entry {
        Entry { offset, length, lines: 1, crc: 0xdead_beef, synced }
    }

    #[test]
    fn a_record_comes_back_and_any_flipped_bit_or_other_segment_makes_it_none() {
        let entry = entry(1 << 40, 77, 9000);
        let mut record = Vec::new();
        entry.encode(3, &mut record);
        assert_eq!(record.len(), RECORD_BYTES);
        assert_eq!(Entry::decode(3, &record), Some(entry));
        assert_eq!(Entry::decode(4, &record), None);
        for bit in 0..8 * RECORD_BYTES {
            record[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::decode(3, &record), None);
            record[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Entry::decode(3, &[0; RECORD_BYTES]), None, "a hole is no record");
        assert_eq!(Entry::decode(3, &record[..31]), None);
    }

    #[test]
    fn the_format_stays() {
        let mut record = Vec::new();
        entry(0x0102, 3, 4).encode(1, &mut record);
        assert_eq!(
            record,
            [
                2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde, 4, 0, 0, 0,
                0, 0, 0, 0, record[28], record[29], record[30], record[31]
            ]
        );
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn torn_and_doubled_records_are_left_out() {
        let mut bytes = Vec::new();
        entry(0, 10, 0).encode(1, &mut bytes);
        bytes.extend([0; RECORD_BYTES]);
        entry(20, 10, 20).encode(1, &mut bytes);
        entry(20, 10, 20).encode(1, &mut bytes);
        Entry::mark(30).encode(1, &mut bytes);
        entry(10, 5, 5).encode(1, &mut bytes);
        bytes.extend([7; 5]);
        let side = Side::parse(1, &bytes);
        let offsets: Vec<_> = side.entries.iter().map(|entry| entry.offset).collect();
        assert_eq!((offsets.as_slice(), side.synced, side.damaged), (&[0, 10, 20][..], 30, 1));
    }
}
