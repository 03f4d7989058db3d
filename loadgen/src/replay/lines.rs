//! Lines of a file, pulled one at a time.
//!
//! `proto::lines` cuts what a socket pushes; here several files are read side by side, each as far
//! as its next line. A line is lent out of the buffer, without a copy.
//! Invariant: the buffer holds at most [`LINE_BYTES_MAX`] and one read; what is longer is told once
//! and skipped.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

use memchr::memchr;

/// Without its end. No server of this protocol takes a longer one.
pub(crate) const LINE_BYTES_MAX: usize = proto::limits::LINE_BYTES_MAX;
/// Asked of the file at once: a chunk's worth, so that a reader that is awake is quickly done.
const READ_BYTES: usize = 128 * 1024;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A line that is not blank: [`Lines::line`].
    Line,
    /// One of more than [`LINE_BYTES_MAX`].
    TooLong,
    /// There is no more.
    End,
}

/// See the module.
pub(crate) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    /// What of the buffer is read and not given yet.
    start: usize,
    end: usize,
    /// The line that was stepped to.
    line: Range<usize>,
    /// From `start`, what has been searched for a line end.
    searched: usize,
    /// Inside a line that is too long.
    is_skipping: bool,
    is_over: bool,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(input: R) -> Lines<R> {
        Lines {
            input,
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            line: 0..0,
            searched: 0,
            is_skipping: false,
            is_over: false,
        }
    }

    /// The line that was stepped to, without its end.
    pub(crate) fn line(&self) -> &[u8] {
        &self.buffer[self.line.clone()]
    }

    /// Goes to the next line that is not blank. What follows the last line end is a line, too.
    ///
    /// # Errors
    /// The file cannot be read on. What was whole before was given.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        loop {
            let found = memchr(b'\n', &self.buffer[self.start + self.searched..self.end]);
            let unread = self.end - self.start;
            let (length, taken) = match found {
                Some(at) => (self.searched + at, self.searched + at + 1),
                None if self.is_over && unread == 0 => return Ok(Step::End),
                None if self.is_over => (unread, unread),
                None => {
                    self.searched = unread;
                    if unread > LINE_BYTES_MAX + 1 {
                        (self.start, self.end, self.searched) = (0, 0, 0);
                        if !std::mem::replace(&mut self.is_skipping, true) {
                            return Ok(Step::TooLong);
                        }
                    }
                    self.fill()?;
                    continue;
                }
            };
            let begin = self.start;
            self.start += taken;
            self.searched = 0;
            if std::mem::take(&mut self.is_skipping) {
                continue;
            }
            self.line = begin..begin + length;
            if self.line().ends_with(b"\r") {
                self.line.end -= 1;
            }
            match self.line.len() {
                0 => {}
                1..=LINE_BYTES_MAX => return Ok(Step::Line),
                _ => return Ok(Step::TooLong),
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.buffer.len() < self.end + READ_BYTES / 2 {
            self.buffer.resize(self.end + READ_BYTES, 0);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.is_over = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives so many bytes at a time, over and over.
    struct Slow<'a> {
        rest: &'a [u8],
        steps: Vec<usize>,
        at: usize,
    }

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let step = self.steps[self.at % self.steps.len()].min(self.rest.len()).min(out.len());
            self.at += 1;
            out[..step].copy_from_slice(&self.rest[..step]);
            self.rest = &self.rest[step..];
            Ok(step)
        }
    }

    fn all(input: impl Read) -> Vec<Option<Vec<u8>>> {
        let mut lines = Lines::new(input);
        let mut all = Vec::new();
        loop {
            all.push(match lines.step().unwrap() {
                Step::Line => Some(lines.line().to_vec()),
                Step::TooLong => None,
                Step::End => break,
            });
        }
        assert!(lines.buffer.len() <= LINE_BYTES_MAX + 2 * READ_BYTES);
        all
    }

    #[test]
    fn a_line_of_any_length_is_told_once_and_costs_no_more_than_the_bound() {
        let long = |bytes: usize| vec![b'x'; bytes];
        for bytes in [LINE_BYTES_MAX, LINE_BYTES_MAX + 1, LINE_BYTES_MAX + 2, 5 << 20] {
            for end in ["\n", "\r\n"] {
                let input = [b"a\n", &long(bytes)[..], end.as_bytes(), b"b"].concat();
                let middle = (bytes <= LINE_BYTES_MAX).then(|| long(bytes));
                let expected = [Some(b"a".to_vec()), middle, Some(b"b".to_vec())];
                assert!(all(&input[..]) == expected, "{bytes} bytes");
                let slow = Slow { rest: &input, steps: vec![4093, 77_777], at: 0 };
                assert!(all(slow) == expected, "{bytes} bytes, slowly");
            }
            assert_eq!(all(&long(bytes)[..]).len(), 1, "{bytes} bytes without an end");
        }
    }

    #[test]
    fn what_was_whole_before_an_error_is_given() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let mut lines = Lines::new(b"a\nb\nc".chain(Broken));
        for expected in [b"a", b"b"] {
            assert_eq!((lines.step().unwrap(), lines.line()), (Step::Line, &expected[..]));
        }
        assert!(lines.step().is_err());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_file_is_read(
            text in "[ab\r\n]{0,60}",
            steps in prop::collection::vec(1usize..7, 1..8),
        ) {
            let expected: Vec<_> = text.split('\n')
                .map(|line| line.strip_suffix('\r').unwrap_or(line))
                .filter(|line| !line.is_empty())
                .map(|line| Some(line.as_bytes().to_vec()))
                .collect();
            prop_assert_eq!(all(text.as_bytes()), expected.clone());
            prop_assert_eq!(all(Slow { rest: text.as_bytes(), steps, at: 0 }), expected);
        }
    }
}
