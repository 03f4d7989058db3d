//! What is shown while the bench runs, on standard error.
//!
//! A terminal gets one line that rewrites itself for the second just gone, a pipe a line a second;
//! what is over gets a line that stays, on both. A standard error that is gone stops nothing.

use std::io::{self, Write};

/// Room for the longest tier name.
const NAME_WIDTH: usize = 12;

/// The view of a run.
#[derive(Debug, Clone, Copy)]
pub struct Live {
    is_terminal: bool,
}

impl Live {
    pub fn new(is_terminal: bool) -> Live {
        Live { is_terminal }
    }

    /// A line that stays.
    pub fn say(&self, tier: &str, text: &str) {
        self.write(&format!("{tier:<NAME_WIDTH$} {text}\n"));
    }

    /// A line that the next one replaces.
    pub fn progress(&self, tier: &str, text: &str) {
        let end = if self.is_terminal { "" } else { "\n" };
        self.write(&format!("{tier:<NAME_WIDTH$} {text}{end}"));
    }

    fn write(&self, line: &str) {
        // To the first column, and the rest of the line away.
        let begin = if self.is_terminal { "\r\x1b[2K" } else { "" };
        let _ = io::stderr().write_all(format!("{begin}{line}").as_bytes());
    }
}
