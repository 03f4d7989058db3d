//! Messages packed as gzip members.
//!
//! Owns the compressor of a shard, reused from member to member. Invariant: what `pack` gives is
//! one whole member, so a connection never carries half of one behind another.

use flate2::{Compress, Compression, FlushCompress, Status};

/// 32 KiB, as gzip itself has.
const WINDOW_BITS: u8 = 15;
/// A member is never larger than what it holds by more than this and a thousandth.
const OVERHEAD_BYTES: usize = 64;

/// See the module.
pub(crate) struct Packer {
    compress: Compress,
    packed: Vec<u8>,
}

impl Packer {
    pub(crate) fn new() -> Packer {
        Packer {
            // What counts at this end is speed.
            compress: Compress::new_gzip(Compression::fast(), WINDOW_BITS),
            packed: Vec::new(),
        }
    }

    /// One member that holds `bytes`.
    pub(crate) fn pack(&mut self, bytes: &[u8]) -> &[u8] {
        self.compress.reset();
        self.packed.clear();
        self.packed.reserve(bytes.len() + bytes.len() / 1000 + OVERHEAD_BYTES);
        loop {
            let from = usize::try_from(self.compress.total_in()).expect("at most what was given");
            let status = self
                .compress
                .compress_vec(&bytes[from..], &mut self.packed, FlushCompress::Finish)
                .expect("compressing memory into memory does not fail");
            if status == Status::StreamEnd {
                return &self.packed;
            }
            self.packed.reserve(self.packed.capacity().max(OVERHEAD_BYTES));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn each_member_is_whole_and_stands_alone() {
        let mut packer = Packer::new();
        for length in [0, 1, 100, 70_000, 3_000_000] {
            let text: Vec<u8> =
                (0..length).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(packer.pack(&text)).read_to_end(&mut back).unwrap();
            assert!(back == text, "{length}");
        }
    }
}
