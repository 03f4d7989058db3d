//! The middle path: a simd-json tape decides what `scan` left undecided and is valid all the same.
//!
//! Escapes in a name, in a level or an id, exponents of three digits: rare in logs, but no reason
//! to pay for `serde_json`. The tape is filled into reused buffers from a scratch copy, because
//! simd-json unescapes in place. Invariant: what it accepts, `strict` would accept with the same
//! fields; what it refuses, `strict` decides and words. simd-json counts depth and numbers as
//! `strict` does (the tests hold the three paths against each other).

use simd_json::{Buffers, INPUT_PADDING, Node, StaticNode, Tape};

use super::{Fields, Value};
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

impl Memory {
    /// The three fields of a valid line, [`Parsed::Other`] if it is valid and no object;
    /// [`Parsed::Undecided`] if it is refused here.
    #[cold]
    pub(super) fn read(&mut self, line: &[u8]) -> Parsed<'_> {
        if line.len() > LINE_BYTES_MAX {
            return Parsed::Undecided;
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(line);
        self.bytes.resize(line.len() + INPUT_PADDING, 0);
        let buffers =
            self.buffers.get_or_insert_with(|| Buffers::with_max_depth(line.len(), DEPTH_MAX));
        let mut tape = Tape(std::mem::take(&mut self.nodes)).reset();
        let filled = simd_json::fill_tape_padded(&mut self.bytes, line.len(), buffers, &mut tape);
        let parsed = match filled {
            Ok(()) => fields(&tape.0).map_or(Parsed::Other, Parsed::Object),
            Err(_) => Parsed::Undecided,
        };
        self.nodes = tape.reset().0;
        parsed
    }
}

/// What a line is, as far as this path can say.
pub(super) enum Parsed<'l> {
    Object(Fields<'l>),
    Other,
    Undecided,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{scan, strict};

    fn verdicts_agree(line: &[u8]) -> bool {
        let (mut ours, mut theirs) = (String::new(), String::new());
        let mut memory = Memory::default();
        match memory.read(line) {
            Parsed::Object(fields) => {
                assert_eq!(fields.judge(&mut ours), strict::decide(line, &mut theirs));
                true
            }
            Parsed::Other => {
                let code = strict::decide(line, &mut theirs).unwrap_err().code;
                assert_eq!(code, crate::code::Code::NotAnObject);
                true
            }
            Parsed::Undecided => false,
        }
    }

    #[test]
    fn what_is_valid_and_rare_is_decided_here() {
        for line in [
            r#"{"l\u0065vel":"INFO","message":"m"}"#,
            r#"{"level":"\u0049NFO","message":"m","id":"a\"b"}"#,
            r#"{"level":"INFO","message":"m","x":1e-300,"id":"\ud83d\ude00"}"#,
            r#"{"level":"INFO","message":"m","id":"a","id":-7,"n\tested":{"id":[1,{}]}}"#,
        ] {
            let mut fields = Fields::default();
            assert!(scan::scan(line.as_bytes(), &mut fields).is_none(), "not rare: {line}");
            assert!(verdicts_agree(line.as_bytes()), "{line}");
        }
        assert!(!verdicts_agree(br#"{"level":"\ud800","message":"m"}"#));
    }

    proptest! {
        #[test]
        fn what_it_accepts_strict_accepts_with_the_same_fields(
            name in r#"(level|l\\u0065vel|id|message|other)"#,
            value in r#"("[a-z]{0,3}(\\n|\\u00e9|\\ud83d\\ude00|\\"){0,2}"|-?[0-9]{1,25}(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?|null|true|\[1,"x"\]|\{"id":3\})"#,
            cut in 0usize..90,
        ) {
            let line = format!(r#"{{"level":"INFO","message":"m","{name}":{value}}}"#);
            verdicts_agree(line.as_bytes());
            verdicts_agree(&line.as_bytes()[..cut.min(line.len())]);
        }
    }
}
