//! A table of a template, read key by key.
//!
//! Owns what a value of a key may be, and how it is told when it is something else. Leaves what the
//! keys mean to whoever reads them.

use std::time::Duration;

use runtime::units;

use super::parts::{Fault, fault};
use super::tree::{Node, Value};

const WORDS_MAX: u64 = 10_000;

/// A table with named values.
#[derive(Clone, Copy)]
pub(super) struct Maker<'a, 'p> {
    pub(super) node: &'a Node,
    pub(super) path: &'p str,
}

impl<'a> Maker<'a, '_> {
    pub(super) fn wrong(&self, reason: String) -> Fault {
        fault(self.node, self.path, reason)
    }

    /// There is nothing but this.
    pub(super) fn only(&self, names: &[&str]) -> Result<(), Fault> {
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

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, Fault> {
        match self.node.get(key).map(|it| (it, &it.value)) {
            None => Ok(None),
            Some((_, Value::Text(text))) => Ok(Some(text)),
            Some((node, _)) => Err(self.wrong(format!("{key} {node} is not a text"))),
        }
    }

    /// One of `words`, the first of which is the default.
    pub(super) fn word<'w>(&self, key: &str, words: &[&'w str]) -> Result<&'w str, Fault> {
        let Some(text) = self.text(key)? else { return Ok(words[0]) };
        words
            .iter()
            .find(|word| **word == text)
            .copied()
            .ok_or_else(|| self.wrong(format!("{key} {text:?} is not one of {}", words.join(", "))))
    }

    pub(super) fn integer(&self, key: &str) -> Result<Option<i64>, Fault> {
        let Some(node) = self.node.get(key) else { return Ok(None) };
        match scaled(node, 0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(format!("{key} {node} is not a whole number"))),
        }
    }

    pub(super) fn count(
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
    pub(super) fn words(&self) -> Result<(u64, u64), Fault> {
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
    pub(super) fn shift(&self, key: &str) -> Result<i64, Fault> {
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

/// A number as it is written.
pub(super) fn number(node: &Node) -> Option<f64> {
    let Value::Number(text) = &node.value else { return None };
    text.parse().ok()
}

/// A number times ten to the `decimals`, if that is whole.
pub(super) fn scaled(node: &Node, decimals: u32) -> Option<i64> {
    let Value::Number(text) = &node.value else { return None };
    if let Ok(whole) = text.parse::<i64>() {
        return whole.checked_mul(10i64.checked_pow(decimals)?);
    }
    let scaled = text.parse::<f64>().ok()? * 10f64.powi(decimals.cast_signed());
    let is_near = (scaled - scaled.round()).abs() < 1e-6 && scaled.abs() < 9e15;
    #[expect(clippy::cast_possible_truncation, reason = "below 2^53")]
    is_near.then(|| scaled.round() as i64)
}
