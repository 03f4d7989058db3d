//! From a template file to a program: what its words mean, and what is wrong with them.
//!
//! Owns the language (docs/guide/payloads.md tells it to users). A table with a `make` is made anew
//! for each message; any other value stands for itself; `${name}` in a text is the value of another
//! field. Leaves reading the file to [`super::tree`] and running to [`super::program`].
//! Invariant: a program from `fields` writes one JSON object a line, one from `text` one line.

use super::blanks::{Blank, Piece, pieces};
use super::feeder::Feeder;
use super::parts::{Fault, Parts, fault};
use super::program::{Block, Step};
use super::tree::{Node, Value};

mod make;

/// Steps of a program: references are copies of what they refer to.
const STEPS_MAX: usize = 50_000;
/// What an audit finds a line by.
const IDENTITY: [&str; 3] = ["run", "conn", "seq"];

/// Where a value stands, which decides how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// As a value of JSON.
    Value,
    /// Within the quotes of one.
    Quoted,
    /// In plain text.
    Plain,
}

/// `text` as it stands within quotes.
pub(super) fn quoted(text: &str) -> String {
    let json = serde_json::to_string(text).expect("a text is JSON");
    json[1..json.len() - 1].to_owned()
}

/// `text` for a line of plain text.
///
/// # Errors
/// It would end the line.
pub(super) fn plain(text: &str) -> Result<String, String> {
    match text.chars().find(|letter| letter.is_control()) {
        Some(letter) => Err(format!("{letter:?} in a text that is one line")),
        None => Ok(text.to_owned()),
    }
}

/// Makes a program's steps.
pub(super) struct Compiler<'a> {
    parts: Parts<'a>,
    feeders: &'a [Feeder],
    run_id: &'a str,
    /// The nodes that are being compiled, each within the one before.
    open: Vec<u32>,
    steps: usize,
}

/// What a reference names.
enum Target<'a> {
    Node(&'a Node, String),
    Cell { feeder: usize, column: usize },
    Run,
    Conn,
    Seq,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(parts: Parts<'a>, feeders: &'a [Feeder], run_id: &'a str) -> Compiler<'a> {
        Compiler { parts, feeders, run_id, open: Vec::new(), steps: 0 }
    }

    /// The message, up to the `}` of an object; with `stretches` it says where a line is
    /// lengthened.
    pub(super) fn message(&mut self, stretches: bool) -> Result<Block, Fault> {
        if let Some(text) = self.parts.text {
            if stretches {
                return Err(fault(text, "text", "cannot be lengthened (PAYLOAD_BYTES)"));
            }
            let mut block = self.node(text, "text", Place::Plain)?;
            join(&mut block);
            return Ok(block);
        }
        let fields = self.parts.fields.expect("there are fields or a text");
        let Value::Table(members) = &fields.value else { unreachable!("checked in Parts::of") };
        if members.is_empty() {
            return Err(fault(fields, "fields", "has no field"));
        }
        let mut block = Vec::new();
        let mut is_stretched = false;
        for (index, (name, member)) in members.iter().enumerate() {
            let path = format!("fields.{name}");
            if self.parts.has_identity && IDENTITY.contains(&name.as_str()) {
                return Err(fault(
                    member,
                    &path,
                    "is added to every line, so that an audit finds who sent it: another name, or \
                     identity = false",
                ));
            }
            let opening = if index == 0 { '{' } else { ',' };
            block.push(Step::Bytes(format!("{opening}\"{}\":", quoted(name)).into_bytes()));
            if stretches && name == "message" && self.is_text(member, 0) {
                is_stretched = true;
                block.push(Step::Bytes(b"\"".to_vec()));
                block.extend(self.node(member, &path, Place::Quoted)?);
                block.extend([Step::Stretch, Step::Bytes(b"\"".to_vec())]);
            } else {
                block.extend(self.node(member, &path, Place::Value)?);
            }
        }
        if stretches && !is_stretched {
            return Err(fault(
                fields,
                "fields",
                "has no text `message` to lengthen (PAYLOAD_BYTES)",
            ));
        }
        join(&mut block);
        Ok(block)
    }

    /// Checks what no message refers to, too.
    pub(super) fn check_values(&mut self) -> Result<(), Fault> {
        let Some(Node { value: Value::Table(members), .. }) = self.parts.values else {
            return Ok(());
        };
        let place = if self.parts.text.is_some() { Place::Plain } else { Place::Value };
        for (name, member) in members {
            let path = format!("values.{name}");
            if IDENTITY.contains(&name.as_str()) {
                return Err(fault(member, &path, "is what ${run}, ${conn} and ${seq} stand for"));
            }
            // An object is of use only by its members.
            if place == Place::Value || !is_structure(member) {
                self.node(member, &path, place)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &'a Node, path: &str, place: Place) -> Result<Block, Fault> {
        if self.open.contains(&node.number) {
            return Err(fault(node, path, "refers to itself"));
        }
        self.open.push(node.number);
        let block = self.value(node, path, place)?;
        self.open.pop();
        self.steps += block.len();
        if self.steps > STEPS_MAX {
            let reason = format!("more than {STEPS_MAX} steps: too many references to references");
            return Err(fault(node, path, reason));
        }
        Ok(block)
    }

    fn value(&mut self, node: &'a Node, path: &str, place: Place) -> Result<Block, Fault> {
        let one = |text: &str| vec![Step::Bytes(text.as_bytes().to_vec())];
        match &node.value {
            Value::Null => Ok(one("null")),
            Value::Bool(value) => Ok(one(if *value { "true" } else { "false" })),
            Value::Number(number) => Ok(one(number)),
            Value::Text(text) => {
                let inner = if place == Place::Value { Place::Quoted } else { place };
                let block = self.pieces(node, text, path, inner)?;
                Ok(in_quotes(block, place))
            }
            Value::Table(_) if node.get("make").is_some() => self.made(node, path, place),
            Value::List(_) | Value::Table(_) if place != Place::Value => Err(fault(
                node,
                path,
                format!("{node} cannot stand within a text: refer to one of its members"),
            )),
            Value::List(items) => {
                let mut block = one("[");
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        block.extend(one(","));
                    }
                    block.extend(self.node(item, &format!("{path}[{index}]"), place)?);
                }
                block.extend(one("]"));
                Ok(block)
            }
            Value::Table(members) => {
                let mut block = one("{");
                for (index, (name, member)) in members.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    block.extend(one(&format!("{comma}\"{}\":", quoted(name))));
                    block.extend(self.node(member, &format!("{path}.{name}"), place)?);
                }
                block.extend(one("}"));
                Ok(block)
            }
        }
    }

    /// A text with `${references}`.
    fn pieces(
        &mut self,
        node: &Node,
        text: &str,
        path: &str,
        place: Place,
    ) -> Result<Block, Fault> {
        let pieces =
            pieces(text).map_err(|reason| fault(node, path, format!("{node} {reason}")))?;
        let mut block = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Literal(text) => block.push(literal_step(node, path, &text, place)?),
                Piece::Name(name) => block.extend(self.reference(node, name, path, place)?),
            }
        }
        Ok(block)
    }

    /// A text around the message; `number` is one that no node of the file has.
    ///
    /// # Errors
    /// Says what is not understood.
    pub(super) fn blank(&mut self, blank: &Blank, number: u32) -> Result<Block, String> {
        let Blank { text, within, .. } = blank;
        let wrong = |reason: String| format!("{blank}: {reason}");
        let node = Node { value: Value::Text(text.clone()), line: None, number };
        let is_json = self.parts.fields.is_some();
        let place = if is_json { Place::Quoted } else { Place::Plain };
        let mut block = Vec::new();
        for piece in pieces(text).map_err(wrong)? {
            block.push(match piece {
                Piece::Literal(text) => Step::Bytes(text.into_bytes()),
                Piece::Name(name) => {
                    let value = self.reference(&node, name, "", place);
                    let mut block = value.map_err(|fault| wrong(fault.reason))?;
                    join(&mut block);
                    Step::Written { block, within: *within, is_json }
                }
            });
        }
        join(&mut block);
        Ok(block)
    }

    fn reference(
        &mut self,
        node: &Node,
        name: &str,
        path: &str,
        place: Place,
    ) -> Result<Block, Fault> {
        let target = self
            .target(name)
            .map_err(|reason| fault(node, path, format!("${{{name}}} {reason}")))?;
        Ok(match target {
            Target::Node(target, target_path) => {
                // The fault is where the reference is, if the two refer to each other.
                if self.open.contains(&target.number) {
                    return Err(fault(node, path, format!("${{{name}}} refers to itself")));
                }
                self.node(target, &target_path, place)?
            }
            Target::Cell { feeder, column } => {
                in_quotes(vec![Step::Cell { feeder, column }], place)
            }
            Target::Run => in_quotes(vec![Step::Bytes(self.run_id.as_bytes().to_vec())], place),
            Target::Conn => vec![Step::Conn],
            Target::Seq => vec![Step::Seq],
        })
    }

    fn target(&self, name: &str) -> Result<Target<'a>, String> {
        for (part, root) in [("values", self.parts.values), ("fields", self.parts.fields)] {
            // `values.name` says which, where both have one.
            let own = name.strip_prefix(part).and_then(|rest| rest.strip_prefix('.'));
            let name = own.unwrap_or(name);
            let steps = name.split('.');
            let found = root.and_then(|root| {
                steps.clone().try_fold(root, |node, step| {
                    // What is made has no members, but what it is made of.
                    let is_made = node.get("make").is_some() && !std::ptr::eq(node, root);
                    if is_made { None } else { node.get(step) }
                })
            });
            if let Some(node) = found {
                return Ok(Target::Node(node, format!("{part}.{name}")));
            }
        }
        if let Some((feeder, column)) = name.split_once('.')
            && let Some(index) = self.feeders.iter().position(|it| it.asked.name == feeder)
        {
            let feeder = &self.feeders[index];
            let column = feeder.column(column).ok_or_else(|| {
                let names: Vec<&str> = feeder.names().collect();
                format!("is no column of that feeder; it has {}", names.join(", "))
            })?;
            return Ok(Target::Cell { feeder: index, column });
        }
        match name {
            "run" => Ok(Target::Run),
            "conn" => Ok(Target::Conn),
            "seq" => Ok(Target::Seq),
            _ => Err("is no field, no value, no feeder's column, and not run, conn or seq".into()),
        }
    }

    /// It is always a text.
    fn is_text(&self, node: &Node, depth: usize) -> bool {
        if matches!(node.value, Value::Text(_)) {
            return true;
        }
        let word = |key| match node.get(key).map(|it| &it.value) {
            Some(Value::Text(text)) => text.as_str(),
            _ => "",
        };
        match (word("make"), node.get("of").map(|it| &it.value)) {
            _ if depth > 64 => false,
            ("choice", Some(Value::Table(_))) => true,
            ("choice", Some(Value::List(items))) => {
                items.iter().all(|item| self.is_text(item, depth + 1))
            }
            ("pattern" | "id" | "uuid" | "text", _) => true,
            ("timestamp", _) => !word("format").starts_with("unix"),
            ("reference", _) => match self.target(word("to")) {
                Ok(Target::Node(node, _)) => self.is_text(node, depth + 1),
                Ok(Target::Cell { .. }) => word("as") != "number",
                Ok(Target::Run) => true,
                _ => false,
            },
            ("literal", _) => {
                matches!(node.get("value"), Some(Node { value: Value::Text(_), .. }))
            }
            _ => false,
        }
    }
}

fn literal_step(node: &Node, path: &str, text: &str, place: Place) -> Result<Step, Fault> {
    let text = match place {
        Place::Plain => plain(text).map_err(|reason| fault(node, path, reason))?,
        Place::Value | Place::Quoted => quoted(text),
    };
    Ok(Step::Bytes(text.into_bytes()))
}

fn in_quotes(mut block: Block, place: Place) -> Block {
    if place == Place::Value {
        block.insert(0, Step::Bytes(b"\"".to_vec()));
        block.push(Step::Bytes(b"\"".to_vec()));
    }
    block
}

fn is_structure(node: &Node) -> bool {
    match &node.value {
        Value::List(_) => true,
        Value::Table(_) => node.get("make").is_none(),
        _ => false,
    }
}

/// Bytes behind bytes become one step.
fn join(block: &mut Block) {
    let mut joined: Block = Vec::with_capacity(block.len());
    for step in block.drain(..) {
        match (joined.last_mut(), step) {
            (Some(Step::Bytes(before)), Step::Bytes(bytes)) => before.extend(bytes),
            (_, Step::Bytes(bytes)) if bytes.is_empty() => {}
            (_, step) => joined.push(step),
        }
    }
    *block = joined;
}
