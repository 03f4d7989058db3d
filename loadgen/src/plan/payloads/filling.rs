//! What lengthens a message: compressible as log lines are, and no run of one byte.

/// Needs no escapes in JSON.
pub(super) const FILLING: &str =
    ", as seen by the collector of this host; nothing was lost on the way";

/// Appends `bytes` of it, over and over.
pub(super) fn fill(out: &mut Vec<u8>, mut bytes: usize) {
    while bytes > 0 {
        let piece = bytes.min(FILLING.len());
        out.extend_from_slice(&FILLING.as_bytes()[..piece]);
        bytes -= piece;
    }
}
