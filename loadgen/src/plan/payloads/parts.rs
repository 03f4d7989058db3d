//! The parts of a template file, and its feeders.
//!
//! Owns which members a file has at its top and what a feeder is asked for; and [`Fault`], which says
//! where something is wrong. Leaves messages to [`super::compile`].
//! Invariant: parts have fields or a text, never both.

use super::feeder::{Asked, Pick};
use super::keys::Maker;
use super::tree::{Node, Value};

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) line: Option<usize>,
    /// `fields.user.id`.
    pub(super) path: String,
    pub(super) reason: String,
}

/// A fault of `node`, which stands at `path`.
pub(super) fn fault(node: &Node, path: &str, reason: impl Into<String>) -> Fault {
    Fault { line: node.line, path: path.to_owned(), reason: reason.into() }
}

/// The parts of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a> {
    /// The message as an object, or as one text.
    pub(super) fields: Option<&'a Node>,
    pub(super) text: Option<&'a Node>,
    pub(super) values: Option<&'a Node>,
    pub(super) feeders: Option<&'a Node>,
    /// The lines name who sent them.
    pub(super) has_identity: bool,
}

impl<'a> Parts<'a> {
    /// Of the whole file.
    pub(super) fn of(root: &'a Node) -> Result<Parts<'a>, Fault> {
        let Value::Table(members) = &root.value else {
            return Err(fault(root, "", "is not a table with fields, values and feeders"));
        };
        let mut parts =
            Parts { fields: None, text: None, values: None, feeders: None, has_identity: true };
        for (name, node) in members {
            let is_table = matches!(node.value, Value::Table(_));
            match (name.as_str(), &node.value) {
                ("fields", _) if is_table => parts.fields = Some(node),
                ("values", _) if is_table => parts.values = Some(node),
                ("feeders", _) if is_table => parts.feeders = Some(node),
                ("fields" | "values" | "feeders", _) => {
                    return Err(fault(node, name, format!("{node} is not a table")));
                }
                ("text", Value::Text(_)) => parts.text = Some(node),
                ("identity", Value::Bool(value)) => parts.has_identity = *value,
                ("description", Value::Text(_)) => {}
                ("text" | "identity" | "description", _) => {
                    let what = if name == "identity" { "true or false" } else { "a text" };
                    return Err(fault(node, name, format!("{node} is not {what}")));
                }
                _ => {
                    let known = "fields, text, values, feeders, identity, description";
                    return Err(fault(node, name, format!("is not one of {known}")));
                }
            }
        }
        match (parts.fields, parts.text) {
            (Some(_), None) | (None, Some(_)) => Ok(parts),
            (Some(_), Some(text)) => Err(fault(text, "text", "beside fields: one of the two")),
            (None, None) => Err(fault(root, "", "has neither fields nor a text")),
        }
    }

    /// Its feeders, and their files.
    pub(super) fn feeders(&self) -> Result<Vec<(Asked, &'a str)>, Fault> {
        let Some(Node { value: Value::Table(members), .. }) = self.feeders else {
            return Ok(Vec::new());
        };
        members.iter().map(|(name, node)| feeder(name, node)).collect()
    }
}

fn feeder<'a>(name: &str, node: &'a Node) -> Result<(Asked, &'a str), Fault> {
    let path = format!("feeders.{name}");
    let maker = Maker { node, path: &path };
    maker.only(&["file", "mode", "per", "order", "end", "delimiter"])?;
    let file = maker.text("file")?.ok_or_else(|| maker.wrong("has no file".to_owned()))?;
    let mode = maker.word("mode", &["shared", "per-worker"])?;
    let per = maker.word("per", &["message", "connection"])?;
    let order = maker.word("order", &["sequential", "shuffle", "random"])?;
    let end = maker.word("end", &["circular", "stop"])?;
    let pick = match (mode, per, order) {
        (_, "message", "random") => Pick::RandomMessage,
        (_, _, "random") => Pick::RandomConnection,
        ("shared", "message", _) => Pick::SharedMessage,
        ("shared", _, _) => Pick::SharedConnection,
        (_, "message", _) => Pick::PerWorker,
        _ => {
            return Err(maker.wrong(
                "mode per-worker with per connection would give each connection the first row: \
                 mode shared gives each one of its own"
                    .to_owned(),
            ));
        }
    };
    let stops = end == "stop";
    if stops && pick != Pick::SharedMessage {
        return Err(maker.wrong(
            "end stop needs mode shared, per message, and an order that has an end".to_owned(),
        ));
    }
    let delimiter = match maker.text("delimiter")? {
        None => b',',
        Some(text) => match text.as_bytes() {
            [byte] => *byte,
            _ => return Err(maker.wrong(format!("delimiter {text:?} is not one character"))),
        },
    };
    let is_shuffled = order == "shuffle";
    Ok((Asked { name: name.to_owned(), pick, is_shuffled, stops, delimiter }, file))
}
