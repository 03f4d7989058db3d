//! The middle path: a simd-json tape decides what `scan` left undecided and is valid all the same.
//!
//! Escapes in a name, in a level or an id, exponents of three digits: rare in logs, but no reason
//! to pay for `serde_json`. The tape is filled into reused buffers from a scratch copy, because
//! simd-json unescapes in place. Invariant: what it accepts, `strict` would accept with the same
//! fields; what it refuses, `strict` decides and words. simd-json counts depth and numbers as
//! `strict` does (the tests hold the three paths against each other).

use simd_json::{Buffers, INPUT_PADDING, Node, StaticNode, Tape};

use super::{Fields, Record, Rejection, Scratch, Value, not_an_object};
use crate::limits::DEPTH_MAX;

/// Longer lines go to `strict`: simd-json wants up to 40 bytes of memory per byte of line, and
/// keeps it.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Reused buffers, empty until the first line that comes here.
#[derive(Default)]
pub(super) struct Memory {
    /// A copy of the line, and [`INPUT_PADDING`] bytes behind it.
    bytes: Vec<u8>,
    buffers: Option<Buffers>,
    /// Empty between calls; kept for its allocation.
    nodes: Vec<Node<'static>>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// `None`: not decided.
#[cold]
pub(super) fn decide<'s>(
    line: &[u8],
    scratch: &'s mut Scratch,
) -> Option<Result<Record<'s>, Rejection<'s>>> {
    if line.len() > LINE_BYTES_MAX {
        return None;
    }
    let mut memory = std::mem::take(&mut scratch.tape);
    memory.bytes.clear();
    memory.bytes.extend_from_slice(line);
    memory.bytes.resize(line.len() + INPUT_PADDING, 0);
    let buffers =
        memory.buffers.get_or_insert_with(|| Buffers::with_max_depth(line.len(), DEPTH_MAX));
    let mut tape = Tape(std::mem::take(&mut memory.nodes)).reset();
    let filled =
        simd_json::fill_tape_padded(&mut memory.bytes, line.len(), buffers, &mut tape).is_ok();
    let verdict = filled.then(|| match fields(&tape.0) {
        Some(fields) => fields.judge(&mut scratch.id),
        None => Err(not_an_object()),
    });
    memory.nodes = tape.reset().0;
    scratch.tape = memory;
    verdict
}

/// The last member of each name; `None` if the tape's root is no object.
fn fields<'l>(nodes: &[Node<'l>]) -> Option<Fields<'l>> {
    let Some(&Node::Object { len, .. }) = nodes.first() else { return None };
    let mut fields = Fields::default();
    let mut at = 1;
    for _ in 0..len {
        let [Node::String(name), node, ..] = nodes[at..] else {
            unreachable!("a tape's object is pairs of a string and a value")
        };
        match name.as_bytes() {
            b"level" => fields.level = value(node),
            b"message" => fields.message = value(node),
            b"id" => fields.id = value(node),
            _ => {}
        }
        at += match node {
            Node::Object { count, .. } | Node::Array { count, .. } => count + 2,
            Node::String(_) | Node::Static(_) => 2,
        };
    }
    Some(fields)
}

fn value(node: Node<'_>) -> Value<'_> {
    match node {
        Node::String(text) => Value::Text(text.as_bytes()),
        Node::Static(StaticNode::U64(magnitude)) => Value::Int { negative: false, magnitude },
        // -0 is the only signed zero, and a `Number` here as for serde_json.
        Node::Static(StaticNode::I64(0) | StaticNode::F64(_)) => Value::Number,
        Node::Static(StaticNode::I64(int)) => {
            Value::Int { negative: int < 0, magnitude: int.unsigned_abs() }
        }
        Node::Static(StaticNode::Null | StaticNode::Bool(_))
        | Node::Array { .. }
        | Node::Object { .. } => Value::Other,
    }
}
