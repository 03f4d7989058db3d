//! From a template file to a program: what its words mean, and what is wrong with them.
//!
//! Owns the language (docs/guide/payloads.md tells it to users). A table with a `make` is made anew
//! for each message; any other value stands for itself; `${name}` in a text is the value of another
//! field. Leaves reading the file to [`super::tree`] and running to [`super::program`].
//! Invariant: a program from `fields` writes one JSON object a line, one from `text` one line.

use std::time::Duration;

use runtime::units;

use super::chance::{Spread, Zipf};
use super::feeder::{Asked, Feeder, Pick};
use super::moment::Format;
use super::pattern::Pattern;
use super::program::{Block, Step};
use super::tree::{Node, Value};

/// Steps of a program: references are copies of what they refer to.
const STEPS_MAX: usize = 50_000;
const ID_DIGITS_MAX: u64 = 1024;
const WORDS_MAX: u64 = 10_000;
const DECIMALS_MAX: u64 = 9;
/// What an audit finds a line by.
const IDENTITY: [&str; 3] = ["run", "conn", "seq"];

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) line: Option<usize>,
    /// `fields.user.id`.
    pub(super) path: String,
    pub(super) reason: String,
}

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

/// The parts of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a> {
    /// The message as an object, or as one text.
    pub(super) fields: Option<&'a Node>,
    pub(super) text: Option<&'a Node>,
    values: Option<&'a Node>,
    feeders: Option<&'a Node>,
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

fn fault(node: &Node, path: &str, reason: impl Into<String>) -> Fault {
    Fault { line: node.line, path: path.to_owned(), reason: reason.into() }
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

/// Makes a program's steps.
pub(super) struct Compiler<'a> {
    parts: Parts<'a>,
    feeders: &'a [Feeder],
    run_id: &'a str,
    /// The nodes that are being compiled, each within the one before.
    open: Vec<u32>,
    steps: usize,
}

/// Of each alternative, if it says one.
type Weights<'a> = Vec<Option<&'a Node>>;

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
        let mut block = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            // `$${` is `${` itself.
            if rest[..at].ends_with('$') {
                literal.push_str(&rest[..at]);
                literal.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            literal.push_str(&rest[..at]);
            let Some((name, behind)) = rest[at + 2..].split_once('}') else {
                return Err(fault(node, path, format!("{node} has a ${{ without its }}")));
            };
            rest = behind;
            block.push(literal_step(node, path, &std::mem::take(&mut literal), place)?);
            block.extend(self.reference(node, name.trim(), path, place)?);
        }
        literal.push_str(rest);
        block.push(literal_step(node, path, &literal, place)?);
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

    fn made(&mut self, node: &'a Node, path: &str, place: Place) -> Result<Block, Fault> {
        let maker = Maker { node, path };
        let number = node.number;
        let word = maker.text("make")?.unwrap_or_default();
        let text = |step: Step| Ok(in_quotes(vec![step], place));
        match word {
            "choice" => self.choice(&maker, place),
            "range" => Ok(vec![range(&maker)?]),
            "counter" => {
                maker.only(&["make", "from", "step"])?;
                let from = maker.integer("from")?.unwrap_or(1);
                Ok(vec![Step::Counter { from, step: maker.integer("step")?.unwrap_or(1) }])
            }
            "pattern" => {
                maker.only(&["make", "pattern"])?;
                let written = maker.text("pattern")?;
                let written = written.ok_or_else(|| maker.wrong("has no pattern".to_owned()))?;
                if place == Place::Plain {
                    plain(written).map_err(|reason| maker.wrong(reason))?;
                }
                let escape = |letter: &str| match place {
                    Place::Plain => letter.to_owned(),
                    Place::Value | Place::Quoted => quoted(letter),
                };
                let pattern =
                    Pattern::parse(written, escape).map_err(|reason| maker.wrong(reason))?;
                text(Step::Pattern { node: number, pattern })
            }
            "id" => {
                maker.only(&["make", "digits"])?;
                let digits = maker.count("digits", 1..=ID_DIGITS_MAX)?.unwrap_or(16);
                let digits = usize::try_from(digits).expect("at most ID_DIGITS_MAX");
                text(Step::Id { node: number, digits })
            }
            "uuid" => {
                maker.only(&["make", "version"])?;
                let version = maker.count("version", 4..=7)?.unwrap_or(4);
                if !matches!(version, 4 | 7) {
                    return Err(maker.wrong(format!("version {version} is not 4 or 7")));
                }
                text(Step::Uuid { node: number, is_timed: version == 7 })
            }
            "timestamp" => {
                maker.only(&["make", "format", "offset", "jitter"])?;
                let format = Format::parse(maker.text("format")?.unwrap_or("rfc3339"))
                    .map_err(|reason| maker.wrong(reason))?;
                let (offset_ns, jitter_ns) = (maker.shift("offset")?, maker.shift("jitter")?);
                let Ok(jitter_ns) = u64::try_from(jitter_ns) else {
                    return Err(maker.wrong("jitter goes both ways by itself".to_owned()));
                };
                let is_number = format.is_number();
                let format = match place {
                    Place::Plain => format,
                    Place::Value | Place::Quoted => format.mapped(quoted),
                };
                let step = Step::Time { node: number, format, offset_ns, jitter_ns };
                if is_number { Ok(vec![step]) } else { text(step) }
            }
            "text" => {
                maker.only(&["make", "words"])?;
                let (from, to) = maker.words()?;
                text(Step::Words { node: number, from, to })
            }
            "reference" => self.typed_reference(&maker, place),
            "literal" => {
                maker.only(&["make", "value"])?;
                let Some(value) = node.get("value") else {
                    return Err(maker.wrong("has no value".to_owned()));
                };
                literal(value, path, place)
            }
            _ => Err(maker.wrong(format!(
                "make {:?} is not one of choice, range, pattern, id, uuid, timestamp, counter, \
                 text, reference, literal",
                word
            ))),
        }
    }

    fn choice(&mut self, maker: &Maker<'a, '_>, place: Place) -> Result<Block, Fault> {
        maker.only(&["make", "of", "weights", "with"])?;
        let Maker { node, path } = *maker;
        let drawn_by = self.drawn_by(maker)?;
        let (mut weights, mut blocks) = (Vec::new(), Vec::new());
        match node.get("of").map(|it| (it, &it.value)) {
            Some((_, Value::Table(members))) => {
                if node.get("weights").is_some() || drawn_by.is_some() {
                    return Err(maker.wrong("a table of weights beside weights or with".into()));
                }
                for (text, weight) in members {
                    let inner = if place == Place::Value { Place::Quoted } else { place };
                    let block = self.pieces(weight, text, path, inner)?;
                    blocks.push(in_quotes(block, place));
                    weights.push(weight);
                }
            }
            Some((_, Value::List(items))) => {
                for (index, item) in items.iter().enumerate() {
                    blocks.push(self.node(item, &format!("{path}.of[{index}]"), place)?);
                }
                match node.get("weights").map(|it| &it.value) {
                    None => {}
                    Some(Value::List(list)) if list.len() == items.len() => weights.extend(list),
                    Some(Value::List(list)) => {
                        return Err(maker.wrong(format!(
                            "{} weights for {} values",
                            list.len(),
                            items.len()
                        )));
                    }
                    Some(_) => return Err(maker.wrong("weights is not a list".to_owned())),
                }
            }
            _ => {
                return Err(maker.wrong(
                    "of is not a list of values, or a table of texts and weights".to_owned(),
                ));
            }
        }
        if blocks.is_empty() {
            return Err(maker.wrong("of has nothing to choose from".to_owned()));
        }
        blocks.iter_mut().for_each(join);
        if let Some((drawn_by, weights)) = drawn_by {
            if weights.len() != blocks.len() {
                return Err(maker.wrong(format!(
                    "{} values with a choice of {}",
                    blocks.len(),
                    weights.len()
                )));
            }
            return Ok(vec![Step::Choice { node: drawn_by, sums: sums(maker, &weights)?, blocks }]);
        }
        let weights: Vec<Option<&Node>> =
            (0..blocks.len()).map(|index| weights.get(index).copied()).collect();
        let sums = sums(maker, &weights)?;
        Ok(vec![Step::Choice { node: node.number, sums, blocks }])
    }

    /// The choice that this one goes with: its number, and its weights.
    fn drawn_by(&self, maker: &Maker<'a, '_>) -> Result<Option<(u32, Weights<'a>)>, Fault> {
        let mut followed = *maker;
        let mut hops = 0;
        while let Some(name) = followed.text("with")? {
            if maker.node.get("weights").is_some() {
                return Err(maker.wrong("weights beside with, which says them".to_owned()));
            }
            let wrong = |reason: &str| maker.wrong(format!("with \"{name}\" {reason}"));
            let node = match self.target(name).map_err(|reason| wrong(&reason))? {
                Target::Node(node, _) => self.behind_reference(node),
                _ => return Err(wrong("is no choice")),
            };
            if !matches!(node.get("make"), Some(Node { value: Value::Text(it), .. }) if it == "choice")
            {
                return Err(wrong("is no choice"));
            }
            hops += 1;
            if hops > 16 {
                return Err(wrong("leads back here"));
            }
            followed = Maker { node, path: maker.path };
        }
        if hops == 0 {
            return Ok(None);
        }
        let weights: Vec<Option<&Node>> = match followed.node.get("of").map(|it| &it.value) {
            Some(Value::Table(members)) => members.iter().map(|(_, it)| Some(it)).collect(),
            Some(Value::List(items)) => match followed.node.get("weights").map(|it| &it.value) {
                Some(Value::List(list)) => list.iter().map(Some).collect(),
                _ => vec![None; items.len()],
            },
            _ => Vec::new(),
        };
        Ok(Some((followed.node.number, weights)))
    }

    /// What a text that is nothing but `${name}` stands for.
    fn behind_reference(&self, mut node: &'a Node) -> &'a Node {
        for _ in 0..16 {
            let Value::Text(text) = &node.value else { break };
            let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            match name.map(|name| self.target(name)) {
                Some(Ok(Target::Node(target, _))) => node = target,
                _ => break,
            }
        }
        node
    }

    /// A reference that keeps the type of what it refers to.
    fn typed_reference(&mut self, maker: &Maker<'a, '_>, place: Place) -> Result<Block, Fault> {
        maker.only(&["make", "to", "as"])?;
        let name = maker.text("to")?;
        let name = name.ok_or_else(|| maker.wrong("has no `to`, a name".to_owned()))?;
        let is_number = maker.word("as", &["text", "number"])? == "number";
        let wrong = |reason: String| maker.wrong(format!("\"{name}\" {reason}"));
        match self.target(name).map_err(wrong)? {
            Target::Cell { feeder, column } if is_number => {
                let file = &self.feeders[feeder];
                let is_json = |cell: &[u8]| {
                    cell.first().is_some_and(|it| it.is_ascii_digit() || *it == b'-')
                        && !cell.ends_with(b" ")
                        && serde_json::from_slice::<serde_json::Number>(cell).is_ok()
                };
                if let Some((row, cell)) = file.find_not(column, is_json) {
                    return Err(wrong(format!("has {cell:?} in row {row}, which is no number")));
                }
                Ok(vec![Step::Cell { feeder, column }])
            }
            _ if is_number => Err(wrong("is no feeder's column: it has its type already".into())),
            _ => self.reference(maker.node, name, maker.path, place),
        }
    }
}

/// The sum of the weights up to each one; what has none weighs 1.
fn sums(maker: &Maker<'_, '_>, weights: &[Option<&Node>]) -> Result<Vec<f64>, Fault> {
    let mut sum = 0.0;
    let mut sums = Vec::with_capacity(weights.len());
    for weight in weights {
        sum += match weight {
            None => 1.0,
            Some(weight) => number(weight)
                .filter(|weight| *weight >= 0.0)
                .ok_or_else(|| maker.wrong(format!("weight {weight} is not a number from 0 on")))?,
        };
        sums.push(sum);
    }
    if sum <= 0.0 || !sum.is_finite() {
        return Err(maker.wrong(format!("the weights add up to {sum}")));
    }
    Ok(sums)
}

/// A value that stands for itself, with its `make` and its `${`.
fn literal(node: &Node, path: &str, place: Place) -> Result<Block, Fault> {
    fn json(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => number.clone(),
            Value::Text(text) => format!("\"{}\"", quoted(text)),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(json).collect();
                format!("[{}]", items.join(","))
            }
            Value::Table(members) => {
                let member =
                    |(name, it): &(String, Node)| format!("\"{}\":{}", quoted(name), json(it));
                let members: Vec<String> = members.iter().map(member).collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }
    match (&node.value, place) {
        (Value::Text(text), Place::Quoted | Place::Plain) => {
            Ok(vec![literal_step(node, path, text, place)?])
        }
        (Value::List(_) | Value::Table(_), Place::Quoted | Place::Plain) => {
            Err(fault(node, path, format!("{node} cannot stand within a text")))
        }
        _ => Ok(vec![Step::Bytes(json(node).into_bytes())]),
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

fn number(node: &Node) -> Option<f64> {
    let Value::Number(text) = &node.value else { return None };
    text.parse().ok()
}

fn range(maker: &Maker<'_, '_>) -> Result<Step, Fault> {
    maker.only(&[
        "make",
        "from",
        "to",
        "decimals",
        "distribution",
        "mean",
        "deviation",
        "exponent",
    ])?;
    let decimals = maker.count("decimals", 0..=DECIMALS_MAX)?.unwrap_or(0);
    let decimals = u32::try_from(decimals).expect("at most DECIMALS_MAX");
    let bound = |key| {
        let node = maker.node.get(key);
        let node = node.ok_or_else(|| maker.wrong(format!("has no `{key}`")))?;
        scaled(node, decimals).ok_or_else(|| {
            maker.wrong(format!("{key} {node} is not a number with {decimals} decimals at most"))
        })
    };
    let (from, to) = (bound("from")?, bound("to")?);
    if from > to {
        let [from, to] = ["from", "to"].map(|key| maker.node.get(key).map(Node::to_string));
        let [from, to] = [from, to].map(Option::unwrap_or_default);
        return Err(maker.wrong(format!("from {from} is more than to {to}")));
    }
    let scale = 10f64.powi(decimals.cast_signed());
    let (low, high) = (from as f64 / scale, to as f64 / scale);
    let distribution = maker.word("distribution", &["uniform", "normal", "exponential", "zipf"])?;
    let knows: &[&str] = match distribution {
        "normal" => &["mean", "deviation"],
        "exponential" => &["mean"],
        "zipf" => &["exponent"],
        _ => &[],
    };
    for key in ["mean", "deviation", "exponent"] {
        if maker.node.get(key).is_some() && !knows.contains(&key) {
            return Err(maker.wrong(format!("{key} means nothing to distribution {distribution}")));
        }
    }
    let within = |key: &str, default: f64, low: f64, high: f64| match maker.node.get(key) {
        None => Ok(default),
        Some(node) => {
            number(node).filter(|number| (low..=high).contains(number)).ok_or_else(|| {
                maker.wrong(format!("{key} {node} is not a number within {low} and {high}"))
            })
        }
    };
    let width = (high - low).max(f64::MIN_POSITIVE);
    let spread = match distribution {
        "normal" => Spread::Normal {
            mean: within("mean", f64::midpoint(low, high), low, high)? * scale,
            deviation: within("deviation", width / 6.0, 0.0, f64::MAX)? * scale,
        },
        "exponential" => {
            let mean = within("mean", low + width / 5.0, low, f64::MAX)?;
            // What is above the lower bound; at least something.
            Spread::Exponential { mean: ((mean - low) * scale).max(1e-9) }
        }
        "zipf" => {
            let count = to.abs_diff(from).saturating_add(1);
            Spread::Zipf(Zipf::new(count, within("exponent", 1.0, 0.01, 20.0)?))
        }
        _ => Spread::Uniform,
    };
    Ok(Step::Range { node: maker.node.number, from, to, decimals, spread })
}

/// A number times ten to the `decimals`, if that is whole.
fn scaled(node: &Node, decimals: u32) -> Option<i64> {
    let Value::Number(text) = &node.value else { return None };
    if let Ok(whole) = text.parse::<i64>() {
        return whole.checked_mul(10i64.checked_pow(decimals)?);
    }
    let scaled = text.parse::<f64>().ok()? * 10f64.powi(decimals.cast_signed());
    let is_near = (scaled - scaled.round()).abs() < 1e-6 && scaled.abs() < 9e15;
    #[expect(clippy::cast_possible_truncation, reason = "below 2^53")]
    is_near.then(|| scaled.round() as i64)
}

/// A table with named values.
#[derive(Clone, Copy)]
struct Maker<'a, 'p> {
    node: &'a Node,
    path: &'p str,
}

impl<'a> Maker<'a, '_> {
    fn wrong(&self, reason: String) -> Fault {
        fault(self.node, self.path, reason)
    }

    /// There is nothing but this.
    fn only(&self, names: &[&str]) -> Result<(), Fault> {
        let Value::Table(members) = &self.node.value else {
            return Err(self.wrong(format!("{} is not a table", self.node)));
        };
        match members.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                Err(self.wrong(format!("knows no `{name}`, only {}", names.join(", "))))
            }
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, Fault> {
        match self.node.get(key).map(|it| (it, &it.value)) {
            None => Ok(None),
            Some((_, Value::Text(text))) => Ok(Some(text)),
            Some((node, _)) => Err(self.wrong(format!("{key} {node} is not a text"))),
        }
    }

    /// One of `words`, the first of which is the default.
    fn word<'w>(&self, key: &str, words: &[&'w str]) -> Result<&'w str, Fault> {
        let Some(text) = self.text(key)? else { return Ok(words[0]) };
        words
            .iter()
            .find(|word| **word == text)
            .copied()
            .ok_or_else(|| self.wrong(format!("{key} {text:?} is not one of {}", words.join(", "))))
    }

    fn integer(&self, key: &str) -> Result<Option<i64>, Fault> {
        let Some(node) = self.node.get(key) else { return Ok(None) };
        match scaled(node, 0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(format!("{key} {node} is not a whole number"))),
        }
    }

    fn count(
        &self,
        key: &str,
        within: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, Fault> {
        let Some(node) = self.node.get(key) else { return Ok(None) };
        let number = scaled(node, 0).and_then(|number| u64::try_from(number).ok());
        match number.filter(|number| within.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (low, high) = (within.start(), within.end());
                Err(self.wrong(format!("{key} {node} is not a whole number from {low} to {high}")))
            }
        }
    }

    /// `8`, or `[5, 20]`.
    fn words(&self) -> Result<(u64, u64), Fault> {
        let Some(node) = self.node.get("words") else { return Ok((8, 8)) };
        let count = |node: &Node| {
            scaled(node, 0)
                .and_then(|number| u64::try_from(number).ok())
                .filter(|number| (1..=WORDS_MAX).contains(number))
        };
        let bounds = match &node.value {
            Value::List(items) => match &items[..] {
                [from, to] => count(from).zip(count(to)),
                _ => None,
            },
            _ => count(node).map(|number| (number, number)),
        };
        bounds.filter(|(from, to)| from <= to).ok_or_else(|| {
            self.wrong(format!("words {node} is not a count up to {WORDS_MAX}, or two in order"))
        })
    }

    /// `-5m`, `250ms`, in nanoseconds.
    fn shift(&self, key: &str) -> Result<i64, Fault> {
        let Some(text) = self.text(key)? else { return Ok(0) };
        let (sign, time) = match text.strip_prefix('-') {
            Some(time) => (-1, time),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let nanos = |time: Duration| {
            i64::try_from(time.as_nanos()).ok().filter(|nanos| *nanos < i64::MAX / 8)
        };
        match units::seconds(time).ok().and_then(nanos) {
            Some(nanos) => Ok(sign * nanos),
            None => Err(self.wrong(format!("{key} {text:?} is not a time like 250ms or -5m"))),
        }
    }
}
