//! A template file as it was written: members in their order, each with its place.
//!
//! Owns reading TOML and JSON into one shape, so that a message has its members in the order of the
//! file, and an error can say where. Leaves meaning to [`super::compile`].
//! Invariant: no table has two members of the same name; every node has a number of its own.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use toml::de::{DeTable, DeValue};

/// Nodes in a file.
const NODES_MAX: u32 = 10_000;

/// A value of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    /// The line in which it begins, from 1; `None` where the format does not tell.
    pub(super) line: Option<usize>,
    /// Unique in its file; what is drawn for it depends on this.
    pub(super) number: u32,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// As JSON has it.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

impl Node {
    fn new(value: Value) -> Node {
        Node { value, line: None, number: 0 }
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// With line and column.
    pub(super) fn from_toml(text: &str) -> Result<Node, String> {
        let table = DeTable::parse(text).map_err(|error| error.to_string())?;
        let lines = Lines::of(text);
        let mut node = Node::new(Value::Table(toml_members(table.into_inner(), &lines)?));
        node.numbered(&mut 0)?;
        Ok(node)
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// With line and column.
    pub(super) fn from_json(text: &str) -> Result<Node, String> {
        let mut node: Node = serde_json::from_str(text).map_err(|error| error.to_string())?;
        node.numbered(&mut 0)?;
        Ok(node)
    }

    fn numbered(&mut self, next: &mut u32) -> Result<(), String> {
        self.number = *next;
        *next += 1;
        if *next > NODES_MAX {
            return Err(format!("more than {NODES_MAX} values"));
        }
        match &mut self.value {
            Value::List(items) => items.iter_mut().try_for_each(|item| item.numbered(next)),
            Value::Table(members) => {
                members.iter_mut().try_for_each(|(_, member)| member.numbered(next))
            }
            _ => Ok(()),
        }
    }

    /// A member of a table.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        let Value::Table(members) = &self.value else { return None };
        members.iter().find(|(other, _)| other == name).map(|(_, member)| member)
    }
}

/// As a person would write it, on one line and not endless.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 60;
        match &self.value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(text) => f.write_str(text),
            Value::Text(text) if text.chars().count() > SHOWN => {
                write!(f, "{:?}…", text.chars().take(SHOWN).collect::<String>())
            }
            Value::Text(text) => write!(f, "{text:?}"),
            Value::List(items) => write!(f, "a list of {}", items.len()),
            Value::Table(members) => write!(f, "a table of {}", members.len()),
        }
    }
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|begin| *begin <= at)
    }
}

fn toml_members(table: DeTable<'_>, lines: &Lines) -> Result<Vec<(String, Node)>, String> {
    // The table is sorted by name; the file is not.
    let mut members: Vec<_> = table.into_iter().collect();
    members.sort_by_key(|(name, _)| name.span().start);
    let member = |(name, value): (toml::Spanned<_>, toml::Spanned<DeValue<'_>>)| {
        let line = lines.line(name.span().start);
        let name = std::borrow::Cow::into_owned(name.into_inner());
        let value = toml_value(value.into_inner(), lines)
            .map_err(|error| format!("line {line}: {name}: {error}"))?;
        Ok((name, Node { line: Some(line), ..Node::new(value) }))
    };
    members.into_iter().map(member).collect()
}

fn toml_value(value: DeValue<'_>, lines: &Lines) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let text = number.as_str();
            let parsed = i64::from_str_radix(text, number.radix());
            Value::Number(parsed.map_err(|error| format!("{text}: {error}"))?.to_string())
        }
        DeValue::Float(number) => {
            let text = number.as_str();
            let parsed = text.parse::<f64>().ok().filter(|number| number.is_finite());
            let number = parsed.ok_or_else(|| format!("{text} is no number in JSON"))?;
            Value::Number(json_number(number))
        }
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => {
            let item = |item: toml::Spanned<DeValue<'_>>| {
                let line = Some(lines.line(item.span().start));
                let value = toml_value(item.into_inner(), lines)?;
                Ok::<_, String>(Node { line, ..Node::new(value) })
            };
            Value::List(items.into_iter().map(item).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Value::Table(toml_members(table, lines)?),
    })
}

fn json_number(number: f64) -> String {
    serde_json::Number::from_f64(number).map_or_else(|| "0".to_owned(), |it| it.to_string())
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Node, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::new(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::new(Value::Bool(value)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::new(Value::Number(value.to_string())))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::new(Value::Number(value.to_string())))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::new(Value::Number(json_number(value))))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::new(Value::Text(value.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = from.next_element()? {
                    items.push(item);
                }
                Ok(Node::new(Value::List(items)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
                let mut members: Vec<(String, Node)> = Vec::new();
                while let Some((name, value)) = from.next_entry::<String, Node>()? {
                    if members.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom(format!("\"{name}\" stands there twice")));
                    }
                    members.push((name, value));
                }
                Ok(Node::new(Value::Table(members)))
            }
        }
        from.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(node: &Node) -> Vec<&str> {
        let Value::Table(members) = &node.value else { panic!("{node:?}") };
        members.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn members_keep_the_order_of_the_file_in_both_formats() {
        let toml = "[fields]\nz = 1\na = 'x'\nm.b = 0x10\nm.a = [1.5, true]\n[values]\nq = 1\n";
        let tree = Node::from_toml(toml).unwrap();
        assert_eq!(names(&tree), ["fields", "values"]);
        let fields = tree.get("fields").unwrap();
        assert_eq!(names(fields), ["z", "a", "m"]);
        assert_eq!(names(fields.get("m").unwrap()), ["b", "a"]);
        let sixteen = fields.get("m").unwrap().get("b").unwrap();
        assert_eq!((&sixteen.value, sixteen.line), (&Value::Number("16".into()), Some(4)));
        let json = r#"{"fields":{"z":1,"a":"x","m":{"b":16,"a":[1.5,true]}},"values":{"q":1}}"#;
        let same = Node::from_json(json).unwrap();
        assert_eq!(names(same.get("fields").unwrap()), ["z", "a", "m"]);
        // What is drawn depends on the numbers: both formats give the same messages.
        let numbers = |tree: &Node| {
            let at = |path: [&str; 3]| {
                path.iter().try_fold(tree, |node, name| node.get(name)).unwrap().number
            };
            [at(["fields", "m", "b"]), at(["fields", "m", "a"])]
        };
        assert_eq!(numbers(&tree), numbers(&same));
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        for (toml, hint) in [
            ("a = 1\nb = ", "line 2"),
            ("[fields]\na = inf\n", "line 2: a: inf"),
            ("a = 1\na = 2\n", "duplicate key"),
        ] {
            let error = Node::from_toml(toml).unwrap_err();
            assert!(error.contains(hint), "{toml}: {error}");
        }
        for (json, hint) in [("{\"a\":1", "line 1"), ("{\"a\":1,\"a\":2}", "\"a\" stands there")] {
            let error = Node::from_json(json).unwrap_err();
            assert!(error.contains(hint), "{json}: {error}");
        }
    }
}
