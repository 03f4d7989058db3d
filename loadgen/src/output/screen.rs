//! stderr while a run goes on: a live view on a terminal, a line a second on anything else, or
//! nothing but warnings.

use std::time::Duration;

use super::document::to_stderr;
use super::live::Live;
use super::sink::{Place, Told};

/// What stderr is used for.
#[derive(Debug)]
pub(crate) enum Screen {
    /// Warnings only.
    Quiet,
    /// A line a second.
    Lines,
    /// A picture.
    Live(Box<Live>),
}

impl Screen {
    /// As asked, and as stderr allows.
    pub(crate) fn open(is_quiet: bool) -> Screen {
        if is_quiet {
            return Screen::Quiet;
        }
        Live::open().map_or(Screen::Lines, |live| Screen::Live(Box::new(live)))
    }
}

impl Place for Screen {
    const REST: Duration = Duration::from_millis(250);
    const MAY_MISS: bool = true;

    fn tell(&mut self, told: &Told) {
        match (self, told) {
            (Screen::Live(live), told) => live.tell(told),
            (_, Told::Warning(text)) => to_stderr(&format!("warning: {text}\n")),
            (Screen::Lines, Told::Second(seen)) => to_stderr(&format!("{}\n", seen.line)),
            _ => {}
        }
    }

    fn pass(&mut self) {
        if let Screen::Live(live) = self {
            live.draw();
        }
    }

    fn close(self) -> Result<(), String> {
        Ok(())
    }
}
