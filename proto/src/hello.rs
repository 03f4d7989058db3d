//! The optional first line of a connection and its answer: what the client asks for, what it gets.
//!
//! Leaves to others what is granted, and tokens' worth (the engine). Invariant: `recognise` costs an
//! ordinary first line one substring search, and a token never shows in `Debug`.

use std::fmt;
use std::str::FromStr;

use memchr::memmem;
use serde_json::{Map, Value};

use crate::json::{write_integer, write_string};
use crate::limits::{PROTOCOL_VERSION, QUOTED_BYTES_MAX};

/// How the server answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Replies {
    /// One line per message.
    #[default]
    Each,
    /// Consecutive equal replies that are ready together become one line with `count`.
    Range,
    /// Only fatal ones.
    None,
}

/// What an `ok` promises, in rising order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Durability {
    /// Parsed and batched in memory.
    Received,
    /// The write of its batch has completed: survives the death of the server process.
    #[default]
    Written,
    /// That write is also synced: survives power loss.
    Durable,
}

/// A word that names no choice of its kind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind} {word:?} is not one of {choices}")]
pub struct UnknownWord {
    pub kind: &'static str,
    pub word: String,
    pub choices: &'static str,
}

impl UnknownWord {
    fn new(kind: &'static str, word: &str, choices: &'static str) -> Self {
        let word = word[..word.floor_char_boundary(QUOTED_BYTES_MAX)].to_owned();
        UnknownWord { kind, word, choices }
    }
}

impl Replies {
    pub const ALL: [Replies; 3] = [Replies::Each, Replies::Range, Replies::None];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Replies::Each => "each",
            Replies::Range => "range",
            Replies::None => "none",
        }
    }
}

impl fmt::Display for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Replies {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Replies, UnknownWord> {
        Replies::ALL
            .into_iter()
            .find(|replies| replies.as_str() == word)
            .ok_or_else(|| UnknownWord::new("replies", word, "each range none"))
    }
}

impl Durability {
    pub const ALL: [Durability; 3] =
        [Durability::Received, Durability::Written, Durability::Durable];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Received => "received",
            Durability::Written => "written",
            Durability::Durable => "durable",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Durability {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Durability, UnknownWord> {
        Durability::ALL
            .into_iter()
            .find(|durability| durability.as_str() == word)
            .ok_or_else(|| UnknownWord::new("durability", word, "received written durable"))
    }
}

/// What a client asks for. `None` leaves the choice to the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    pub version: u64,
    pub replies: Option<Replies>,
    pub durability: Option<Durability>,
    /// A secret.
    pub token: Option<String>,
}

impl Default for Hello {
    fn default() -> Self {
        Hello { version: PROTOCOL_VERSION, replies: None, durability: None, token: None }
    }
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("version", &self.version)
            .field("replies", &self.replies)
            .field("durability", &self.durability)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

/// What is wrong with a hello or with its answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadHello(pub String);

impl Hello {
    /// Reads a connection's first line. `None`: it is no hello but an ordinary line.
    ///
    /// A hello is a JSON object with a member `hello` (spelled without escapes) that is an object.
    pub fn recognise(line: &[u8]) -> Option<Result<Hello, BadHello>> {
        members(line).map(|members| Hello::from_members(&members))
    }

    fn from_members(members: &Map<String, Value>) -> Result<Hello, BadHello> {
        let version = version_of(members)?;
        let token = match members.get("token") {
            None => None,
            Some(Value::String(token)) => Some(token.clone()),
            Some(_) => return Err(BadHello("hello.token is not a string".to_owned())),
        };
        let replies = choice_of(members, "replies")?;
        Ok(Hello { version, replies, durability: choice_of(members, "durability")?, token })
    }

    /// Appends the line with its `\n`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"hello\":{\"version\":");
        write_integer(self.version, out);
        if let Some(replies) = self.replies {
            out.extend_from_slice(b",\"replies\":");
            write_string(replies.as_str(), out);
        }
        if let Some(durability) = self.durability {
            out.extend_from_slice(b",\"durability\":");
            write_string(durability.as_str(), out);
        }
        if let Some(token) = &self.token {
            out.extend_from_slice(b",\"token\":");
            write_string(token, out);
        }
        out.extend_from_slice(b"}}\n");
    }
}

/// The server's answer to a hello; it binds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    pub version: u64,
    pub replies: Replies,
    pub durability: Durability,
    /// Which shard serves this connection, from 0.
    pub shard: usize,
    pub shards: usize,
    /// Longest line that the server takes, in bytes without the line end.
    pub line_bytes_max: usize,
}

impl Welcome {
    /// Appends the line with its `\n`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"hello\":{\"version\":");
        write_integer(self.version, out);
        out.extend_from_slice(b",\"replies\":");
        write_string(self.replies.as_str(), out);
        out.extend_from_slice(b",\"durability\":");
        write_string(self.durability.as_str(), out);
        out.extend_from_slice(b",\"shard\":");
        write_integer(self.shard, out);
        out.extend_from_slice(b",\"shards\":");
        write_integer(self.shards, out);
        out.extend_from_slice(b",\"line_bytes_max\":");
        write_integer(self.line_bytes_max, out);
        out.extend_from_slice(b"}}\n");
    }

    /// Reads the answer, with or without its line end.
    ///
    /// # Errors
    /// The line is no answer to a hello. It may be a fatal reply: see
    /// [`OwnedReply::parse`](crate::reply::OwnedReply::parse).
    pub fn parse(line: &[u8]) -> Result<Welcome, BadHello> {
        let Some(members) = members(line) else {
            return Err(BadHello("answer has no hello object".to_owned()));
        };
        let missing = |name: &str| BadHello(format!("hello.{name} is missing"));
        let number = |name: &str| match members.get(name) {
            None => Err(missing(name)),
            Some(value) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| BadHello(format!("hello.{name} is not a count"))),
        };
        Ok(Welcome {
            version: version_of(&members)?,
            replies: choice_of(&members, "replies")?.ok_or_else(|| missing("replies"))?,
            durability: choice_of(&members, "durability")?.ok_or_else(|| missing("durability"))?,
            shard: number("shard")?,
            shards: number("shards")?,
            line_bytes_max: number("line_bytes_max")?,
        })
    }
}

/// The hello object of a line, if it is one.
fn members(line: &[u8]) -> Option<Map<String, Value>> {
    memmem::find(line, b"\"hello\"")?;
    let Ok(Value::Object(mut object)) = serde_json::from_slice(line) else { return None };
    match object.remove("hello") {
        Some(Value::Object(members)) => Some(members),
        _ => None,
    }
}

fn version_of(members: &Map<String, Value>) -> Result<u64, BadHello> {
    match members.get("version") {
        None => Err(BadHello("hello.version is missing".to_owned())),
        Some(value) => match value.as_u64() {
            None => Err(BadHello("hello.version is not a whole number".to_owned())),
            Some(PROTOCOL_VERSION) => Ok(PROTOCOL_VERSION),
            Some(version) => Err(BadHello(format!(
                "hello.version {version} is not served, only {PROTOCOL_VERSION}"
            ))),
        },
    }
}

fn choice_of<T: FromStr<Err = UnknownWord>>(
    members: &Map<String, Value>,
    name: &str,
) -> Result<Option<T>, BadHello> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(word)) => {
            word.parse().map(Some).map_err(|error| BadHello(format!("hello.{error}")))
        }
        Some(_) => Err(BadHello(format!("hello.{name} is not a string"))),
    }
}
