//! stderr while a run goes on: a line a second.

use super::document::to_stderr;
use super::sink::{Place, Told};

/// What stderr is used for.
#[derive(Debug)]
pub(crate) enum Screen {
    /// Warnings only.
    Quiet,
    /// A line a second.
    Lines,
}

impl Screen {
    /// As asked, and as stderr allows.
    pub(crate) fn open(is_quiet: bool) -> Screen {
        if is_quiet { Screen::Quiet } else { Screen::Lines }
    }
}

impl Place for Screen {
    const MAY_MISS: bool = true;

    fn tell(&mut self, told: &Told) {
        match told {
            Told::Warning(text) => to_stderr(&format!("warning: {text}\n")),
            Told::Second(seen) if matches!(self, Screen::Lines) => {
                to_stderr(&format!("{}\n", seen.line));
            }
            _ => {}
        }
    }

    fn close(self) -> Result<(), String> {
        Ok(())
    }
}
