//! Text with `{{name}}` in it: what a step sends, and what it compares.
//!
//! Pure. A name is looked up when the text is read, so that filling it in is copying. Behind a bar
//! stands how a value is written: `{{name|url}}` percent-encoded (RFC 3986: all but the unreserved
//! characters), `{{name|json}}` as the inside of a JSON string.
//! Invariant: a template that was read names nothing that the journey does not know by then.

use std::ops::Range;

use crate::plan::percent;

/// What every journey knows from its begin, in the order of their slots.
pub(super) const BUILT_IN: [&str; 3] = ["conn", "seq", "message"];
/// The slot of `{{message}}`.
pub(super) const MESSAGE: usize = 2;

/// A text that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value { slot: usize, writing: Writing },
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    AsItIs,
    Url,
    Json,
}

/// Every value that a journey knows, by slot. Keeps its room from one journey to the next.
#[derive(Clone, Debug, Default)]
pub struct Values {
    text: Vec<u8>,
    slots: Vec<Range<usize>>,
}

impl Values {
    /// Forgets everything; from now on there are `slots` empty ones.
    pub(super) fn reset(&mut self, slots: usize) {
        self.text.clear();
        self.slots.clear();
        self.slots.resize(slots, 0..0);
    }

    /// The value of `slot`.
    pub(super) fn get(&self, slot: usize) -> &[u8] {
        &self.text[self.slots[slot].clone()]
    }

    /// Sets `slot`.
    pub(super) fn set(&mut self, slot: usize, value: &[u8]) {
        let begin = self.text.len();
        self.text.extend_from_slice(value);
        self.slots[slot] = begin..self.text.len();
    }
}

impl Template {
    /// Reads `text`; `slot_of` knows the names.
    ///
    /// # Errors
    /// A name that is not known yet, a bar with something else behind it, braces that do not end.
    pub(super) fn parse(
        text: &str,
        slot_of: impl Fn(&str) -> Option<usize>,
    ) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (inner, after) = behind
                .split_once("}}")
                .ok_or_else(|| format!("\"{{{{{behind}\" has no end: }}}}"))?;
            let (name, writing) = match inner.split_once('|') {
                None => (inner, Writing::AsItIs),
                Some((name, word)) => match word.trim() {
                    "url" => (name, Writing::Url),
                    "json" => (name, Writing::Json),
                    word => return Err(format!("\"|{word}\" in {{{{{inner}}}}}: url or json")),
                },
            };
            let name = name.trim();
            let slot = slot_of(name).ok_or_else(|| {
                format!(
                    "{{{{{name}}}}} is extracted by no step before it, and is none of {}",
                    BUILT_IN.join(", ")
                )
            })?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Value { slot, writing });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template { parts })
    }

    /// Appends the text with `values` filled in.
    pub(super) fn render(&self, values: &Values, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Value { slot, writing } => write(values.get(*slot), *writing, out),
            }
        }
    }

    /// Whether `slot` is in it.
    pub(super) fn names(&self, slot: usize) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Value { slot: it, .. } if *it == slot))
    }

    /// Its text up to the first name.
    pub(super) fn opening(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }
}

fn write(value: &[u8], writing: Writing, out: &mut Vec<u8>) {
    match writing {
        Writing::AsItIs => out.extend_from_slice(value),
        Writing::Url => {
            let start = out.len();
            out.extend_from_slice(value);
            percent::encode(out, start, percent::is_unreserved);
        }
        Writing::Json => {
            let text = String::from_utf8_lossy(value);
            let quoted = serde_json::to_string(&text).expect("any text is a JSON string");
            out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot_of(name: &str) -> Option<usize> {
        ["a", "b"].iter().position(|known| *known == name)
    }

    fn filled(text: &str, a: &[u8], b: &[u8]) -> Vec<u8> {
        let mut values = Values::default();
        values.reset(2);
        values.set(0, a);
        values.set(1, b);
        let mut out = Vec::new();
        Template::parse(text, slot_of).unwrap().render(&values, &mut out);
        out
    }

    #[test]
    fn names_are_replaced_and_everything_else_stays() {
        for (text, expected) in [
            ("", ""),
            ("plain { } }}", "plain { } }}"),
            ("{{a}}", "1"),
            ("/x/{{ a }}/{{b}}?{{a}}", "/x/1/a\"/b?1"),
            ("{\"k\":\"{{b|json}}\"}", "{\"k\":\"a\\\"/b\"}"),
            ("/q={{b | url}}", "/q=a%22%2Fb"),
        ] {
            assert_eq!(filled(text, b"1", b"a\"/b"), expected.as_bytes(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused_by_its_name() {
        for (text, hint) in [
            ("/{{c}}", "{{c}} is extracted by no step before it"),
            ("/{{a", "\"{{a\" has no end"),
            ("/{{a|xml}}", "\"|xml\""),
            ("/{{}}", "{{}}"),
        ] {
            let error = Template::parse(text, slot_of).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_value_is_it_stays_inside_a_json_string(value: String) {
            let text = filled("{\"k\":\"{{a|json}}\"}", value.as_bytes(), b"");
            let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(json["k"].as_str().unwrap(), value);
        }

        #[test]
        fn a_url_has_no_byte_that_parts_it(value: Vec<u8>) {
            let text = filled("{{a|url}}", &value, b"");
            prop_assert!(text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(byte)));
        }
    }
}
