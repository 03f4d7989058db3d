//! A few rows at the end of what a terminal shows, drawn anew in place.
//!
//! Owns the escape codes. It needs nothing back from the terminal and changes none of its modes: no
//! raw mode, no other screen, no hidden cursor, so there is nothing to put right when the process
//! ends in whatever way. Each picture is one write. Rows are one column short of the width, so that
//! none of them wraps.
//! Invariant: between two calls the cursor is at the beginning of the row below the picture.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use loadgen::config::{Taste, taste};
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use ratatui::text::Line;

use crate::output::document::to_stderr;

/// After so long somebody else may have written (a shell, while we were stopped): begin below.
const ALONE: Duration = Duration::from_secs(2);
const SYNCHRONIZED_BEGIN: &str = "\x1b[?2026h";
const SYNCHRONIZED_END: &str = "\x1b[?2026l";

/// The terminal behind stderr.
#[derive(Debug)]
pub(super) struct Terminal {
    has_color: bool,
    /// Widths of the rows that are shown.
    shown: Vec<u16>,
    drawn: Option<Instant>,
}

impl Terminal {
    /// `None` where stderr is no terminal, or one without a cursor that moves.
    pub(super) fn on_stderr() -> Option<Terminal> {
        let Taste { is_dumb, has_color } = taste();
        let is_fit = std::io::stderr().is_terminal() && !is_dumb;
        is_fit.then(|| Terminal { has_color, shown: Vec::new(), drawn: None })
    }

    /// A line that stays, above the picture.
    pub(super) fn say(&mut self, text: &str) {
        let (width, _) = size();
        let out = format!("{}\x1b[J{text}\n", back(&self.shown, width));
        self.shown.clear();
        to_stderr(&out);
    }

    /// Replaces the picture by what `picture` makes of width and height.
    pub(super) fn draw(&mut self, picture: impl Fn(u16, u16) -> Buffer) {
        if !is_foreground() {
            return;
        }
        if self.drawn.is_some_and(|drawn| drawn.elapsed() > ALONE) {
            self.shown.clear();
        }
        let (width, height) = size();
        let buffer = picture(width.saturating_sub(1).max(1), height);
        let (rows, widths) = text(&buffer, self.has_color);
        let mut out = String::from(SYNCHRONIZED_BEGIN);
        out.push_str(&back(&self.shown, width));
        for row in rows {
            let _ = writeln!(out, "{row}\x1b[K");
        }
        out.push_str("\x1b[J");
        out.push_str(SYNCHRONIZED_END);
        to_stderr(&out);
        (self.shown, self.drawn) = (widths, Some(Instant::now()));
    }
}

/// To the beginning of the rows that are shown. A terminal that has become narrower has folded those
/// that are longer.
fn back(shown: &[u16], width: u16) -> String {
    let folded = |row: &u16| usize::from(row.div_ceil(width.max(1)).max(1));
    let rows: usize = shown.iter().map(folded).sum();
    match rows {
        0 => "\r".to_owned(),
        rows => format!("\r\x1b[{rows}A"),
    }
}

/// Columns and rows.
fn size() -> (u16, u16) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}

/// Whether the terminal is ours: a job in the background leaves the prompt alone.
fn is_foreground() -> bool {
    match rustix::termios::tcgetpgrp(std::io::stderr()) {
        Ok(group) => group == rustix::process::getpgrp(),
        // Not our session's terminal: nobody else's prompt is there.
        Err(_) => true,
    }
}

/// The rows as text, and how wide they are, without what is blank at their ends.
fn text(buffer: &Buffer, has_color: bool) -> (Vec<String>, Vec<u16>) {
    let area = buffer.area;
    let rows = (0..area.height).map(|y| {
        let cells: Vec<&Cell> = (0..area.width).map(|x| &buffer[(x, y)]).collect();
        let length = cells.iter().rposition(|cell| cell.symbol() != " ").map_or(0, |last| last + 1);
        let (mut row, mut style, mut x) = (String::new(), String::new(), 0);
        while x < length {
            let cell = cells[x];
            let wanted = if has_color { codes(cell) } else { String::new() };
            if wanted != style {
                row.push_str("\x1b[0m");
                row.push_str(&wanted);
                style = wanted;
            }
            row.push_str(cell.symbol());
            // A wide sign covers the cell behind it.
            x += Line::raw(cell.symbol()).width().max(1);
        }
        if !style.is_empty() {
            row.push_str("\x1b[0m");
        }
        (row, u16::try_from(length).unwrap_or(u16::MAX))
    });
    rows.unzip()
}

fn codes(cell: &Cell) -> String {
    let mut codes = Vec::new();
    if cell.modifier.contains(Modifier::BOLD) {
        codes.push("1");
    }
    if cell.modifier.contains(Modifier::DIM) {
        codes.push("2");
    }
    codes.extend(match cell.fg {
        Color::Red => Some("31"),
        Color::Green => Some("32"),
        Color::Yellow => Some("33"),
        Color::Magenta => Some("35"),
        Color::Cyan => Some("36"),
        _ => None,
    });
    if codes.is_empty() { String::new() } else { format!("\x1b[{}m", codes.join(";")) }
}
