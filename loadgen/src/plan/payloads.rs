//! What a message's bytes are.
//!
//! Owns the choice between the built-in records, which cost two copies a message, and programs made
//! of templates; and what is the same for both: sizes, damage on purpose, and the chance that one
//! message has. Leaves buffers and sockets to the hammer.
//! Invariant: a message's bytes follow from the seed, the run id, the stamp, the connection and the
//! number of the message, whenever and wherever it is made (but for feeders that messages share,
//! see [`feeder`]); [`Payloads::append`] makes no allocation once its buffer has room.

use std::path::PathBuf;
use std::sync::Arc;

use self::blanks::Blank;
use self::compile::{Compiler, plain, quoted};
use self::feeder::Feeder;
use self::parts::{Fault, Parts};
use self::program::{End, FEEDERS_MAX, Program, Scene};
use self::records::Records;
use self::tree::Node;
use super::random::Random;
use crate::error::Error;

pub mod blanks;
mod builtin;
mod chance;
mod compile;
mod feeder;
mod filling;
mod keys;
mod malformed;
mod moment;
mod parts;
mod pattern;
mod program;
mod records;
mod sizes;
mod stamp;
mod tree;
mod words;

pub use builtin::Builtin;
pub use malformed::{Damage, Malformed};
pub use sizes::Sizes;
pub use stamp::Stamp;

/// Where messages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A template that is part of the program.
    Builtin(Builtin),
    /// A template file: JSON if its name ends so, else TOML.
    File(PathBuf),
}

/// The messages of a flow, as they were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What they look like.
    pub source: Source,
    /// How long they are at least.
    pub sizes: Sizes,
    /// The share of them that is broken on purpose, 0.0 to 1.0.
    pub malformed: f64,
    /// Texts around them that they fill in.
    pub blanks: Vec<Blank>,
    /// How the connections of the flow are numbered.
    pub numbering: Numbering,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            source: Source::Builtin(Builtin::Default),
            sizes: Sizes::default(),
            malformed: 0.0,
            blanks: Vec::new(),
            numbering: Numbering::default(),
        }
    }
}

/// How connections are numbered: each lane of a run counts on from its own number, in steps of
/// all lanes, so that a number is unique in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbering {
    /// Of the run.
    pub lanes: u64,
    /// The first of the flow, and how many it has, one behind the other.
    pub first: u64,
    /// See `first`.
    pub count: u64,
}

impl Default for Numbering {
    /// Of a run with one lane.
    fn default() -> Self {
        Numbering { lanes: 1, first: 0, count: 1 }
    }
}

impl Numbering {
    /// The connection's place among those of its flow, without gaps if its lanes are alike.
    fn rank(self, author: &Author) -> u64 {
        let lane = (author.conn % self.lanes).saturating_sub(self.first);
        author.conn / self.lanes * self.count + lane
    }
}

/// What a connection's lines have in common.
#[derive(Clone, Debug)]
pub struct Author {
    conn: u64,
    /// `17,"seq":`
    ending: Vec<u8>,
    /// The first template of this connection, so that connections don't run in step.
    first: u64,
}

impl Author {
    /// The author of connection `conn`.
    pub fn new(conn: u64) -> Author {
        Author {
            conn,
            ending: format!("{conn},\"seq\":").into_bytes(),
            // Any multiplier without a common divisor with the number of templates will do.
            first: conn.wrapping_mul(7919),
        }
    }
}

/// From where the chance of a flow comes.
#[derive(Clone, Copy, Debug)]
struct Key(u64);

impl Key {
    fn new(seed: u64) -> Key {
        Key(Random::new(seed ^ 0x5bd1_e995_9d1b_54a5).next_u64())
    }

    /// The chance of one message.
    fn of(self, author: &Author, seq: u64) -> MessageKey {
        // Odd multipliers: no two connections, and no two messages, have the same.
        let conn = Random::new(self.0 ^ author.conn.wrapping_mul(0xd6e8_feb8_6659_fd93)).next_u64();
        let message = Random::new(conn ^ seq.wrapping_mul(0xa076_1d64_78bd_642f)).next_u64();
        MessageKey { conn, message }
    }
}

/// See [`Key::of`].
#[derive(Clone, Copy, Debug)]
struct MessageKey {
    conn: u64,
    message: u64,
}

/// Places besides the nodes of a template that draw.
const SIZE: u64 = 1 << 40;
const MALFORMED: u64 = 2 << 40;
const FEEDER: u64 = 3 << 40;

impl MessageKey {
    fn at(key: u64, place: u64) -> Random {
        Random::new(key ^ (place + 1).wrapping_mul(0xe703_7ed1_a0b4_28db))
    }

    /// For a node of a template.
    fn node(self, number: u32) -> Random {
        MessageKey::at(self.message, u64::from(number))
    }

    /// For the size.
    fn size(self) -> Random {
        MessageKey::at(self.message, SIZE)
    }

    /// For whether it is broken, and how.
    fn malformed(self) -> Random {
        MessageKey::at(self.message, MALFORMED)
    }

    /// For the row of a feeder.
    fn feeder(self, index: u32) -> Random {
        MessageKey::at(self.message, FEEDER + u64::from(index))
    }

    /// For the row that a connection keeps.
    fn feeder_of_connection(self, index: u32) -> Random {
        MessageKey::at(self.conn, FEEDER + u64::from(index))
    }
}

/// The messages of a flow.
#[derive(Clone, Debug)]
pub struct Payloads {
    content: Content,
    malformed: Option<Malformed>,
}

#[derive(Clone, Debug)]
enum Content {
    Records(Records),
    Program(Arc<Program>),
}

/// What messages look like, from a thousand of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// One, without its newline.
    pub example: String,
    /// Bytes, with newlines.
    pub mean_bytes: f64,
    /// The longest.
    pub max_bytes: usize,
    /// Why the engine would reject the first of them that it would, if it would.
    pub rejected: Option<String>,
    /// What the first of them fills in, each text by itself.
    pub blanks: Vec<String>,
}

/// A message in the making, with the texts around it.
pub struct Making<'a> {
    payloads: &'a Payloads,
    stamp: &'a Stamp,
    author: &'a Author,
    seq: u64,
    scene: Option<Scene<'a>>,
}

impl Making<'_> {
    /// Appends the line, with its newline.
    pub fn line(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        match (&self.payloads.content, &mut self.scene) {
            (Content::Records(records), _) => {
                records.append(out, self.stamp, self.author, self.seq);
            }
            (Content::Program(_), scene) => scene.as_mut().expect("of a program").line(out),
        }
        self.payloads.damage(out, start, self.author, self.seq);
    }

    /// Appends text `index` of [`Wanted::blanks`], filled in. None of them is damaged.
    pub fn blank(&mut self, index: usize, out: &mut Vec<u8>) {
        self.scene.as_mut().expect("records have no names to fill in").blank(index, out);
    }
}

impl Payloads {
    /// The default records of `seed`; `run_id` is letters, digits, `-` and `_`.
    pub fn new(seed: u64, run_id: &str, bytes_min: usize) -> Payloads {
        let records = Records::new(seed, run_id, &Sizes::fixed(bytes_min));
        Payloads { content: Content::Records(records), malformed: None }
    }

    /// What was asked for, with the files that it names.
    ///
    /// # Errors
    /// [`Error::Usage`] names the file, the field and the value; [`Error::Unusable`] a template
    /// that cannot be read.
    pub fn open(wanted: &Wanted, seed: u64, run_id: &str) -> Result<Payloads, Error> {
        let Wanted { source, blanks, malformed, .. } = wanted;
        let program = |template: &Template, tree| {
            template.program(tree, wanted, seed, run_id).map(|it| Content::Program(Arc::new(it)))
        };
        let content = match source {
            Source::Builtin(Builtin::Default) if blanks.is_empty() => {
                Content::Records(Records::new(seed, run_id, &wanted.sizes))
            }
            Source::Builtin(builtin) => {
                let template = Template { name: builtin.to_string(), folder: PathBuf::new() };
                program(&template, Node::from_toml(builtin.template()))?
            }
            Source::File(path) => {
                let (template, tree) = read(path)?;
                program(&template, tree)?
            }
        };
        let malformed = Malformed::new(seed, *malformed);
        let payloads = Payloads { content, malformed };
        if malformed.is_some() && !payloads.is_object() {
            return Err(Error::Usage(
                "MALFORMED breaks objects of JSON, and the TEMPLATE makes a text".to_owned(),
            ));
        }
        Ok(payloads)
    }

    /// The line of message `seq` of `author` is not longer, with its newline.
    pub fn bytes_max(&self, author: &Author, seq: u64) -> usize {
        let bytes_max = match &self.content {
            Content::Records(records) => records.bytes_max(author, seq),
            Content::Program(program) => program.bytes_max(author, seq),
        };
        if self.malformed.is_none() { bytes_max } else { Malformed::bytes_max(bytes_max) }
    }

    /// [`Self::bytes_max`], where it is the same for all messages.
    pub fn same_bytes_max(&self) -> Option<usize> {
        let bytes_max = match &self.content {
            Content::Records(records) => records.same_bytes_max(),
            Content::Program(program) => program.same_bytes_max(),
        }?;
        Some(if self.malformed.is_none() { bytes_max } else { Malformed::bytes_max(bytes_max) })
    }

    /// Appends message `seq` of `author` to `out`: one line, with its newline.
    pub fn append(&self, out: &mut Vec<u8>, stamp: &Stamp, author: &Author, seq: u64) {
        let start = out.len();
        // Without a detour: this is what most messages cost.
        match &self.content {
            Content::Records(records) => records.append(out, stamp, author, seq),
            Content::Program(program) => program.scene(stamp, author, seq).line(out),
        }
        self.damage(out, start, author, seq);
    }

    /// Breaks the line that `out` has from `start` on, if that is to be.
    fn damage(&self, out: &mut Vec<u8>, start: usize, author: &Author, seq: u64) {
        if let Some(malformed) = &self.malformed {
            malformed.damage(out, start, author, seq);
        }
    }

    /// Message `seq` of `author`, to be written together with the texts that it fills in. Made once
    /// for each message, as it takes rows from feeders.
    pub fn make<'a>(&'a self, stamp: &'a Stamp, author: &'a Author, seq: u64) -> Making<'a> {
        let scene = match &self.content {
            Content::Records(_) => None,
            Content::Program(program) => Some(program.scene(stamp, author, seq)),
        };
        Making { payloads: self, stamp, author, seq, scene }
    }

    /// A line is an object of JSON.
    pub fn is_object(&self) -> bool {
        match &self.content {
            Content::Records(_) => true,
            Content::Program(program) => program.is_object,
        }
    }

    /// Which messages are broken on purpose, if any.
    pub fn malformed(&self) -> Option<Malformed> {
        self.malformed
    }

    /// Texts that a message fills in.
    fn blanks(&self) -> usize {
        match &self.content {
            Content::Records(_) => 0,
            Content::Program(program) => program.blanks.len(),
        }
    }

    /// A line is an object that an audit finds by its `run`, `conn` and `seq`.
    pub fn has_identity(&self) -> bool {
        match &self.content {
            Content::Records(_) => true,
            Content::Program(program) => matches!(program.end, End::Identity(_)),
        }
    }

    /// The feeders, in words: `devices: 1,000 rows, one a message`; and after how many messages the
    /// load ends because a feeder has no more rows.
    pub fn feeders(&self) -> (Vec<String>, Option<u64>) {
        let Content::Program(program) = &self.content else { return (Vec::new(), None) };
        let stops = program.feeders.iter().filter(|feeder| feeder.asked.stops);
        let end = stops.map(|feeder| feeder.rows() as u64).min();
        (program.feeders.iter().map(Feeder::told).collect(), end)
    }

    /// What messages look like. Takes no row of a feeder from anybody: it is for a look, not for a
    /// run.
    pub fn sample(&self, stamp: &Stamp) -> Sample {
        const MESSAGES: u64 = 1000;
        let mut sample = Sample::default();
        let (author, mut out) = (Author::new(0), Vec::new());
        let mut scratch = proto::Scratch::new();
        for seq in 0..MESSAGES {
            out.clear();
            let mut making = self.make(stamp, &author, seq);
            making.line(&mut out);
            sample.mean_bytes += out.len() as f64 / MESSAGES as f64;
            sample.max_bytes = sample.max_bytes.max(out.len());
            if self.malformed.is_some_and(|malformed| malformed.has(&author, seq)) {
                continue;
            }
            let line = out.strip_suffix(b"\n").unwrap_or(&out);
            if sample.example.is_empty() {
                sample.example = String::from_utf8_lossy(line).into_owned();
                sample.blanks = (0..self.blanks())
                    .map(|index| {
                        let mut text = Vec::new();
                        making.blank(index, &mut text);
                        String::from_utf8_lossy(&text).into_owned()
                    })
                    .collect();
            }
            if sample.rejected.is_none()
                && let Err(rejection) = proto::Record::parse(line, &mut scratch)
            {
                sample.rejected = Some(rejection.reason.into_owned());
            }
        }
        sample
    }
}

/// After how many messages the load ends because a feeder of the template has no more rows.
///
/// # Errors
/// As [`Payloads::open`], as far as it looks.
pub fn rows_until_end(wanted: &Wanted) -> Result<Option<u64>, Error> {
    let Source::File(path) = &wanted.source else { return Ok(None) };
    let (template, tree) = read(path)?;
    let tree = tree.map_err(|reason| template.unreadable(&reason))?;
    let asked = Parts::of(&tree).and_then(|parts| parts.feeders());
    let mut end: Option<u64> = None;
    for (asked, file) in asked.map_err(|fault| template.located(fault))? {
        if asked.stops {
            let path = template.folder.join(file);
            let name = asked.name.clone();
            let feeder = Feeder::read(asked, &path, 0, |_| Ok(String::new()));
            let feeder = feeder.map_err(|reason| template.feeder(&name, &reason))?;
            end = end.into_iter().chain([feeder.rows() as u64]).min();
        }
    }
    Ok(end)
}

/// A file, and where those that it names lie.
struct Template {
    name: String,
    folder: PathBuf,
}

fn read(path: &std::path::Path) -> Result<(Template, Result<Node, String>), Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::Unusable {
        path: path.to_owned(),
        knob: "TEMPLATE",
        reason: error.to_string(),
    })?;
    let is_json = path.extension().is_some_and(|it| it.eq_ignore_ascii_case("json"));
    let tree = if is_json { Node::from_json(&text) } else { Node::from_toml(&text) };
    let folder = path.parent().map(PathBuf::from).unwrap_or_default();
    Ok((Template { name: path.display().to_string(), folder }, tree))
}

impl Template {
    fn unreadable(&self, reason: &str) -> Error {
        Error::Usage(format!("cannot use {} (TEMPLATE): {reason}", self.name))
    }

    fn located(&self, Fault { line, path, reason }: Fault) -> Error {
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        let path = if path.is_empty() { path } else { format!("{path}: ") };
        Error::Usage(format!("{}{line} (TEMPLATE): {path}{reason}", self.name))
    }

    fn feeder(&self, feeder: &str, reason: &str) -> Error {
        Error::Usage(format!("{} (TEMPLATE): feeders.{feeder}: {reason}", self.name))
    }

    fn program(
        &self,
        tree: Result<Node, String>,
        wanted: &Wanted,
        seed: u64,
        run_id: &str,
    ) -> Result<Program, Error> {
        let Wanted { sizes, blanks, numbering, .. } = wanted;
        let located = |fault| self.located(fault);
        let tree = tree.map_err(|reason| self.unreadable(&reason))?;
        let parts = Parts::of(&tree).map_err(located)?;
        let is_object = parts.fields.is_some();
        let mut feeders = Vec::new();
        for (asked, file) in parts.feeders().map_err(located)? {
            let (path, feeder) = (self.folder.join(file), asked.name.clone());
            // Each shuffled on its own.
            let seed = Random::new(seed ^ feeders.len() as u64).next_u64();
            let escape = |cell: &str| if is_object { Ok(quoted(cell)) } else { plain(cell) };
            let read = Feeder::read(asked, &path, seed, escape);
            feeders.push(read.map_err(|reason| self.feeder(&feeder, &reason))?);
            if feeders.len() > FEEDERS_MAX {
                return Err(self.unreadable(&format!("more than {FEEDERS_MAX} feeders")));
            }
        }
        let sizes = (sizes.max() > 0).then(|| sizes.clone());
        let mut compiler = Compiler::new(parts, &feeders, run_id);
        compiler.check_values().map_err(located)?;
        let block = compiler.message(sizes.is_some()).map_err(located)?;
        let blanks = (0..)
            .zip(blanks)
            .map(|(index, blank)| {
                let filled = compiler.blank(blank, u32::MAX - index).map_err(Error::Usage)?;
                let bytes = program::bytes_max(&filled, &feeders);
                if bytes > blanks::BYTES_MAX {
                    return Err(Error::Usage(format!(
                        "{blank} may become {bytes} bytes long, more than {}",
                        blanks::BYTES_MAX
                    )));
                }
                Ok(filled)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let end = match is_object {
            true if parts.has_identity => {
                End::Identity(format!(",\"run\":\"{run_id}\",\"conn\":").into_bytes())
            }
            true => End::Bytes(b"}"),
            false => End::Bytes(b""),
        };
        let key = Key::new(seed);
        let mut program = Program::new(block, end, sizes, key, feeders, *numbering, is_object);
        program.blanks = blanks;
        Ok(program)
    }
}

#[cfg(test)]
mod tests;
