//! Texts after a pattern: `[A-Z]{3}-\d{4}`.
//!
//! A small part of what regular expressions know, so that every text that may come has an end:
//!
//! | | |
//! |---|---|
//! | `[A-Fa-f0-9_]` | one of these characters, each as likely |
//! | `\d` `\w` `\h` | a digit; a letter, digit or `_`; a hexadecimal digit |
//! | `(GET\|PUT\|POST)` | one of these patterns, each as likely |
//! | `x{3}` `x{2,5}` `x?` | so many of them; `{0,1}` is `?` |
//! | `\.` | the character itself; any other character stands for itself |
//!
//! Owns reading and drawing. Invariant: a pattern writes [`Pattern::bytes_max`] bytes at most, and
//! what it writes needs no further escape.

use crate::plan::random::Random;

/// Of one repetition.
const REPEATS_MAX: u64 = 4096;
/// Of a whole text.
const BYTES_MAX: usize = 65_536;
/// Of groups in groups.
const DEPTH_MAX: usize = 16;
const DIGITS: &str = "0123456789";
const HEXADECIMAL: &str = "0123456789abcdef";
const WORD: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";

/// A pattern, read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// One of these, each with its escapes.
    Class(Vec<Box<[u8]>>),
    Text(Vec<u8>),
    OneOf(Vec<Pattern>),
    Repeat {
        part: Box<Part>,
        from: u64,
        to: u64,
    },
}

impl Pattern {
    /// Reads `text`; `escape` rewrites a character for the place where it will stand.
    ///
    /// # Errors
    /// Says what is not understood.
    pub(super) fn parse(text: &str, escape: impl Fn(&str) -> String) -> Result<Pattern, String> {
        let mut reader = Reader { rest: text, escape: &escape, depth: 0 };
        let wrong = |reason: String| format!("pattern \"{text}\": {reason}");
        let pattern = reader.one_of().map_err(wrong)?;
        if !reader.rest.is_empty() {
            return Err(wrong("a ) without its (".to_owned()));
        }
        if pattern.bytes_max() > BYTES_MAX {
            return Err(wrong(format!("may be longer than {BYTES_MAX} bytes")));
        }
        Ok(pattern)
    }

    /// It writes no more.
    pub(super) fn bytes_max(&self) -> usize {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes_max()))
    }

    /// Appends a text.
    pub(super) fn append(&self, out: &mut Vec<u8>, random: &mut Random) {
        self.parts.iter().for_each(|part| part.append(out, random));
    }
}

impl Part {
    fn bytes_max(&self) -> usize {
        match self {
            Part::Class(choices) => choices.iter().map(|choice| choice.len()).max().unwrap_or(0),
            Part::Text(text) => text.len(),
            Part::OneOf(choices) => choices.iter().map(Pattern::bytes_max).max().unwrap_or(0),
            Part::Repeat { part, to, .. } => {
                part.bytes_max().saturating_mul(usize::try_from(*to).unwrap_or(usize::MAX))
            }
        }
    }

    fn append(&self, out: &mut Vec<u8>, random: &mut Random) {
        match self {
            Part::Class(choices) => out.extend_from_slice(random.pick::<Box<[u8]>>(choices)),
            Part::Text(text) => out.extend_from_slice(text),
            Part::OneOf(choices) => random.pick(choices).append(out, random),
            Part::Repeat { part, from, to } => {
                let count = if from == to { *from } else { from + random.below(to - from + 1) };
                (0..count).for_each(|_| part.append(out, random));
            }
        }
    }
}

struct Reader<'a, F> {
    rest: &'a str,
    escape: &'a F,
    depth: usize,
}

impl<F: Fn(&str) -> String> Reader<'_, F> {
    fn next(&mut self) -> Option<char> {
        let letter = self.rest.chars().next()?;
        self.rest = &self.rest[letter.len_utf8()..];
        Some(letter)
    }

    fn takes(&mut self, letter: char) -> bool {
        let is_next = self.rest.starts_with(letter);
        if is_next {
            self.next();
        }
        is_next
    }

    /// Up to the end, or the `)` of the group.
    fn one_of(&mut self) -> Result<Pattern, String> {
        let mut choices = vec![self.sequence()?];
        while self.takes('|') {
            choices.push(self.sequence()?);
        }
        Ok(match choices.len() {
            1 => choices.remove(0),
            _ => Pattern { parts: vec![Part::OneOf(choices)] },
        })
    }

    fn sequence(&mut self) -> Result<Pattern, String> {
        let mut parts = Vec::new();
        while !self.rest.is_empty() && !self.rest.starts_with(['|', ')']) {
            let part = self.part()?;
            let part = self.repeated(part)?;
            match (parts.last_mut(), part) {
                (Some(Part::Text(before)), Part::Text(text)) => before.extend(text),
                (_, part) => parts.push(part),
            }
        }
        Ok(Pattern { parts })
    }

    fn part(&mut self) -> Result<Part, String> {
        let Some(letter) = self.next() else { return Err("ends too early".to_owned()) };
        match letter {
            '[' => self.class(),
            '(' => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(format!("more than {DEPTH_MAX} groups within each other"));
                }
                let group = self.one_of()?;
                if !self.takes(')') {
                    return Err("a ( without its )".to_owned());
                }
                self.depth -= 1;
                Ok(Part::OneOf(vec![group]))
            }
            '\\' => match self.next() {
                Some('d') => Ok(self.choices(DIGITS)),
                Some('h') => Ok(self.choices(HEXADECIMAL)),
                Some('w') => Ok(self.choices(WORD)),
                Some(letter) if letter.is_alphanumeric() => {
                    Err(format!("\\{letter} is not one of \\d \\w \\h"))
                }
                Some(letter) => Ok(self.literal(letter)),
                None => Err("ends with \\".to_owned()),
            },
            '*' | '+' => Err(format!("{letter} has no end: write {{0,8}} or {{1,8}} instead")),
            '.' => Err("what . stands for is not said: write \\. or a class like [a-z]".to_owned()),
            '{' | '?' => Err(format!("{letter} has nothing before it to repeat")),
            '^' | '$' | ']' | '}' => Err(format!("{letter} alone means nothing: write \\{letter}")),
            letter => Ok(self.literal(letter)),
        }
    }

    fn escaped(&self, letter: char) -> Box<[u8]> {
        (self.escape)(letter.encode_utf8(&mut [0; 4])).into_bytes().into_boxed_slice()
    }

    fn literal(&self, letter: char) -> Part {
        Part::Text(self.escaped(letter).into_vec())
    }

    fn choices(&self, letters: &str) -> Part {
        Part::Class(letters.chars().map(|letter| self.escaped(letter)).collect())
    }

    fn class(&mut self) -> Result<Part, String> {
        let mut letters = String::new();
        if self.rest.starts_with('^') {
            return Err("[^ leaves open what may come: name the characters".to_owned());
        }
        loop {
            let from = match self.next() {
                None => return Err("a [ without its ]".to_owned()),
                Some(']') if letters.is_empty() => return Err("[] has no character".to_owned()),
                Some(']') => break,
                Some('\\') => match self.next() {
                    Some('d') => {
                        letters.push_str(DIGITS);
                        continue;
                    }
                    Some('h') => {
                        letters.push_str(HEXADECIMAL);
                        continue;
                    }
                    Some('w') => {
                        letters.push_str(WORD);
                        continue;
                    }
                    Some(letter) if !letter.is_alphanumeric() => letter,
                    other => {
                        let letter = other.map(String::from).unwrap_or_default();
                        return Err(format!("\\{letter} is not one of \\d \\w \\h"));
                    }
                },
                Some(letter) => letter,
            };
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.next();
                let to = match self.next() {
                    Some('\\') => self.next(),
                    to => to,
                };
                let to = to.ok_or("a [ without its ]")?;
                if from > to {
                    return Err(format!("{from}-{to} begins after its end"));
                }
                if u32::from(to) - u32::from(from) > 1024 {
                    return Err(format!("{from}-{to} has more than 1024 characters"));
                }
                letters.extend(from..=to);
            } else {
                letters.push(from);
            }
        }
        Ok(self.choices(&letters))
    }

    fn repeated(&mut self, part: Part) -> Result<Part, String> {
        let (from, to) = if self.takes('?') {
            (0, 1)
        } else if self.takes('{') {
            let Some((count, rest)) = self.rest.split_once('}') else {
                return Err("a { without its }".to_owned());
            };
            self.rest = rest;
            let (from, to) = count.split_once(',').unwrap_or((count, count));
            let number = |text: &str| text.trim().parse::<u64>().ok();
            let (Some(from), Some(to)) = (number(from), number(to)) else {
                return Err(format!("{{{count}}} is not a count like {{3}} or {{2,5}}"));
            };
            if from > to || to > REPEATS_MAX {
                return Err(format!("{{{count}}} is not within 0 and {REPEATS_MAX}, in order"));
            }
            (from, to)
        } else {
            return Ok(part);
        };
        if self.rest.starts_with(['?', '{', '*', '+']) {
            return Err("two counts behind each other: put the first into ( )".to_owned());
        }
        Ok(Part::Repeat { part: Box::new(part), from, to })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn drawn(pattern: &str, n: usize) -> Vec<String> {
        let pattern = Pattern::parse(pattern, str::to_owned).unwrap();
        let mut random = Random::new(3);
        (0..n)
            .map(|_| {
                let mut out = Vec::new();
                pattern.append(&mut out, &mut random);
                assert!(out.len() <= pattern.bytes_max());
                String::from_utf8(out).unwrap()
            })
            .collect()
    }

    #[test]
    fn texts_are_as_the_pattern_says() {
        for text in drawn(r"[A-Z]{3}-\d{4}", 200) {
            let (letters, digits) = text.split_once('-').unwrap();
            assert!(letters.len() == 3 && letters.bytes().all(|it| it.is_ascii_uppercase()));
            assert!(digits.len() == 4 && digits.bytes().all(|it| it.is_ascii_digit()));
        }
        let all = |pattern: &str| drawn(pattern, 500).into_iter().collect::<BTreeSet<_>>();
        let set = |texts: &[&str]| texts.iter().map(|it| (*it).to_owned()).collect();
        assert_eq!(all("(GET|PUT) /x?"), set(&["GET /", "GET /x", "PUT /", "PUT /x"]));
        assert_eq!(all("a{0,3}"), set(&["", "a", "aa", "aaa"]));
        assert_eq!(all(r"[a\-\]-]\.\[é"), set(&["a.[é", "-.[é", "].[é"]));
        assert_eq!(all("(ab){2}|c"), set(&["abab", "c"]));
    }

    #[test]
    fn choices_are_as_likely_as_each_other() {
        let texts = drawn("[a-e]", 10_000);
        // Pearson's statistic with 4 degrees of freedom; 18.47 is the 99.9 % point.
        let statistic: f64 = ["a", "b", "c", "d", "e"]
            .iter()
            .map(|letter| texts.iter().filter(|text| text == letter).count() as f64)
            .map(|count| (count - 2000.0).powi(2) / 2000.0)
            .sum();
        assert!(statistic < 18.47, "{statistic}");
    }

    #[test]
    fn what_has_no_end_or_no_meaning_is_refused() {
        for (pattern, hint) in [
            ("a*", "* has no end"),
            (r"\d+", "+ has no end"),
            ("a.b", r"write \."),
            ("[a", "a [ without its ]"),
            ("(a", "a ( without its )"),
            ("a)", "a ) without its ("),
            ("[z-a]", "z-a begins after its end"),
            ("a{5,2}", "{5,2}"),
            ("a{x}", "{x} is not a count"),
            ("a{9999}", "{9999}"),
            ("(a{4096}){4096}", "longer than"),
            (r"\q", r"\q is not one of"),
            ("{3}", "nothing before it"),
            ("a{2}{3}", "two counts"),
            ("[^a]", "[^"),
            ("[]", "no character"),
        ] {
            let error = Pattern::parse(pattern, str::to_owned).unwrap_err();
            assert!(error.contains(hint) && error.contains(pattern), "{pattern}: {error}");
        }
        let deep = "(".repeat(40) + &")".repeat(40);
        assert!(Pattern::parse(&deep, str::to_owned).is_err());
    }

    #[test]
    fn every_text_of_random_patterns_is_either_read_or_refused() {
        let letters = ["a", "[", "]", "(", ")", "{", "}", "2", ",", "|", "\\", "d", "-", "?", "é"];
        let mut random = Random::new(77);
        for _ in 0..5000 {
            let text: String = (0..random.below(12)).map(|_| *random.pick(&letters)).collect();
            if let Ok(pattern) = Pattern::parse(&text, str::to_owned) {
                let mut out = Vec::new();
                pattern.append(&mut out, &mut random);
                assert!(out.len() <= pattern.bytes_max() && std::str::from_utf8(&out).is_ok());
            }
        }
    }
}
