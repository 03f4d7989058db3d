//! What the live view looks like, for a terminal of a given size. Pure.
//!
//! ```text
//! tcp://localhost:9000  10000/s  5 workers                      run 4f2a9c01
//! rate       9,998/s of 10,000/s offered        ▆▆▇▆▆▆▇█▆▆▆▆▆▆▇▆▆▆▆▆▆
//! response   p50 1.20 ms  p99 3.40 ms  max 12.0 ms  ▁▁▂▁▁▁▁▃█▁▁▁▁▁
//! messages   41,234 ok  0 failed (0.00%)  12 in flight
//! validity   nothing speaks against it so far
//! ━━━━━━━━━━━━━━━━━━━───────────────────  42 %  4 s of 10 s, 6 s left
//! ```
//!
//! Invariant: every row fits, at any size; on a terminal that is too low it is one row.

use std::time::Duration;

use loadgen::Verdict;
use loadgen::summary::{thousands, time};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Sparkline, Widget as _};

use super::State;

const ROWS: u16 = 6;
/// A line of the past that is shorter shows nothing.
const SPARK_MIN: u16 = 8;
const SPARK_MAX: u16 = 48;
const LABEL: usize = 11;
/// Lag of a second above which it is worth a hint, in open loop: what "validity" allows a
/// thrifty pacing.
const LAG_NS: u64 = 5_000_000;

/// Draws it.
pub(super) fn draw(state: &State, width: u16, height: u16) -> Buffer {
    // One row is left for the cursor.
    if height <= ROWS {
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, 1));
        put(&mut buffer, 0, one_row(state));
        return buffer;
    }
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, ROWS));
    title(state, &mut buffer);
    let used = put(&mut buffer, 1, row("rate", rate(state)));
    let rates: Vec<Option<u64>> = state.rates.iter().map(|rate| Some(*rate)).collect();
    spark(&mut buffer, 1, used, &rates, Color::Cyan);
    let used = put(&mut buffer, 2, row("response", response(state)));
    let p99s: Vec<Option<u64>> = state.p99s.iter().copied().collect();
    spark(&mut buffer, 2, used, &p99s, Color::Magenta);
    put(&mut buffer, 3, row("messages", messages(state)));
    put(&mut buffer, 4, row("validity", vec![hint(state)]));
    progress(state, &mut buffer, 5);
    buffer
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn row<'a>(label: &'a str, rest: Vec<Span<'a>>) -> Line<'a> {
    let mut spans = vec![Span::styled(format!("{label:<LABEL$}"), dim())];
    spans.extend(rest);
    Line::from(spans)
}

/// Puts a line, cut at the edge. Gives the width that it took.
fn put(buffer: &mut Buffer, y: u16, line: Line<'_>) -> u16 {
    let width = buffer.area.width;
    let (end, _) = buffer.set_line(0, y, &line, width);
    end
}

fn title(state: &State, buffer: &mut Buffer) {
    let width = buffer.area.width;
    let used = put(buffer, 0, Line::styled(state.title.as_str(), bold()));
    let run = format!("run {}", state.run_id);
    let length = u16::try_from(run.len()).unwrap_or(u16::MAX);
    if let Some(x) = width.checked_sub(length).filter(|x| *x > used + 1) {
        buffer.set_string(x, 0, run, dim());
    }
}

fn rate(state: &State) -> Vec<Span<'static>> {
    let Some(seen) = &state.latest else { return vec![Span::styled("-", dim())] };
    let second = &seen.second;
    let mut spans =
        vec![Span::styled(format!("{}/s", thousands(second.ok + second.filtered)), bold())];
    if seen.is_open_loop {
        spans.push(Span::raw(format!(" of {}/s offered", thousands(second.offered))));
    }
    for stage in seen.stages.iter().filter(|_| state.ended.is_none()) {
        spans.push(Span::styled(
            format!("  {} ({} of {})", stage.stage, stage.number, stage.of),
            Style::new().fg(Color::Cyan),
        ));
    }
    spans
}

fn response(state: &State) -> Vec<Span<'static>> {
    let Some(seen) = &state.latest else { return vec![Span::styled("-", dim())] };
    let second = &seen.second;
    let value = |value: Option<u64>| value.map_or("-".to_owned(), time);
    vec![
        Span::raw(format!("p50 {}  p99 ", value(second.response_p50_ns))),
        Span::styled(value(second.response_p99_ns), bold()),
        Span::raw(format!("  max {}", value(second.response_max_ns))),
    ]
}

fn messages(state: &State) -> Vec<Span<'static>> {
    let Some(seen) = &state.latest else { return vec![Span::styled("-", dim())] };
    let mut spans = vec![Span::raw(format!("{} ok", thousands(state.sums.ok)))];
    if state.sums.filtered > 0 {
        spans.push(Span::raw(format!("  {} filtered", thousands(state.sums.filtered))));
    }
    let (failed, share) = (state.sums.failed, state.sums.failed_share * 100.0);
    let style = if failed > 0 { Style::new().fg(Color::Red) } else { Style::new() };
    spans.push(Span::styled(format!("  {} failed ({share:.2}%)", thousands(failed)), style));
    if state.ended.is_none() {
        spans.push(Span::raw(format!("  {} in flight", thousands(seen.second.in_flight))));
    }
    spans
}

/// What speaks against the figures of this second, if anything.
fn hint(state: &State) -> Span<'static> {
    let doubt = |text: String| Span::styled(text, Style::new().fg(Color::Yellow));
    let Some(seen) = &state.latest else {
        return Span::styled("nothing is known yet", dim());
    };
    let second = &seen.second;
    if seen.second.warmup {
        return Span::styled("warm-up: not measured yet", Style::new().fg(Color::Cyan));
    }
    let answered = second.ok + second.filtered + second.error;
    if answered == 0 && second.in_flight > 0 {
        return doubt("no reply in this second".to_owned());
    }
    let behind = state.sums.offered.saturating_sub(state.sums.sent);
    if seen.is_open_loop && behind > second.offered / 20 && behind > 0 {
        return doubt(format!("behind: {} messages are due and not sent", thousands(behind)));
    }
    if let Some(lag) = second.lag_p99_ns.filter(|lag| seen.is_open_loop && *lag > LAG_NS) {
        return doubt(format!("late: lag p99 {}, it is part of the response", time(lag)));
    }
    if state.is_debug {
        return doubt("a debug build: its figures say little".to_owned());
    }
    Span::styled("nothing speaks against it so far", Style::new().fg(Color::Green))
}

fn progress(state: &State, buffer: &mut Buffer, y: u16) {
    let (text, style) = standing(state);
    let width = buffer.area.width;
    let length = u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
    let (done, _) = state.progress();
    let done = if state.ended.is_some() { None } else { done };
    let bar = width.saturating_sub(length + 2).min(SPARK_MAX);
    let mut line = Line::default();
    if let Some(done) = done.filter(|_| bar >= SPARK_MIN) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a width"
        )]
        let filled = (f64::from(bar) * done.clamp(0.0, 1.0)).round() as usize;
        line.push_span(Span::styled("━".repeat(filled), Style::new().fg(Color::Cyan)));
        line.push_span(Span::styled("─".repeat(usize::from(bar) - filled), dim()));
        line.push_span(Span::raw("  "));
    }
    line.push_span(Span::styled(text, style));
    put(buffer, y, line);
}

/// Where the run stands, in words.
fn standing(state: &State) -> (String, Style) {
    let elapsed = span(state.elapsed);
    if let Some(ended) = &state.ended {
        let Some(verdict) = ended.verdict else {
            return ("not begun".to_owned(), Style::new().fg(Color::Red));
        };
        let color = if verdict == Verdict::Pass { Color::Green } else { Color::Red };
        return (format!("{verdict} after {elapsed}"), Style::new().fg(color));
    }
    let text = match (state.progress(), state.plan.lasts) {
        ((Some(done), _), _) if done >= 1.0 => format!("{elapsed}, waiting for the last replies"),
        ((Some(done), Some(left)), Some(lasts)) => {
            format!("{:.0} %  {elapsed} of {}, {} left", done * 100.0, span(lasts), span(left))
        }
        ((Some(done), Some(left)), None) => {
            format!("{:.0} %  {elapsed}, {} left", done * 100.0, span(left))
        }
        _ => format!("{elapsed} so far"),
    };
    (text, Style::new())
}

/// Everything that matters most, in one row.
fn one_row(state: &State) -> Line<'static> {
    let mut spans = rate(state);
    if let Some(seen) = &state.latest {
        let p99 = seen.second.response_p99_ns.map_or("-".to_owned(), time);
        spans.push(Span::raw(format!("  p99 {p99}  {} failed", thousands(seen.errors))));
    }
    spans.push(Span::raw(format!("  {}", standing(state).0)));
    Line::from(spans)
}

/// The recent past at the right of a row, the latest second at its end.
fn spark(buffer: &mut Buffer, y: u16, used: u16, values: &[Option<u64>], color: Color) {
    let width = buffer.area.width;
    // All lines of the past begin in one column, if there is room for it.
    let begin = (used + 2).max(50.min(width.saturating_sub(SPARK_MIN)));
    let room = width.saturating_sub(begin).min(SPARK_MAX);
    if room < SPARK_MIN {
        return;
    }
    let shown = values.len().min(usize::from(room));
    let values = &values[values.len() - shown..];
    // What is there shows, however small it is beside the largest.
    let least = values.iter().flatten().max().map_or(0, |max| max.div_ceil(8));
    let values = values.iter().map(|value| value.map(|it| if it == 0 { 0 } else { it.max(least) }));
    Sparkline::default()
        .data(values)
        .style(Style::new().fg(color))
        .render(Rect::new(begin, y, room, 1), buffer);
}

/// `4 s`, `3 min 20 s`, `2 h 5 min`.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use loadgen::measure::progress::Second;

    use super::super::{Ended, Plan};
    use super::*;
    use crate::output::seen::{Running, Seen};

    fn running(rate: u64, lag_ns: u64, in_flight: u64) -> State {
        let mut state = State {
            title: "tcp://localhost:9000  constant 1000  5 workers".into(),
            run_id: "4f2a9c01".into(),
            plan: Plan { lasts: Some(Duration::from_secs(10)), messages: None },
            elapsed: Duration::from_millis(4200),
            ..State::default()
        };
        for end_s in 1..=4 {
            let second = Second {
                end_ns: end_s * 1_000_000_000,
                offered: 1000,
                sent: rate,
                ok: rate,
                in_flight,
                response_p50_ns: Some(1_200_000),
                response_p99_ns: Some(3_400_000 * end_s),
                response_max_ns: Some(59_000_000),
                lag_p99_ns: Some(lag_ns),
                ..Second::default()
            };
            state.second(&Arc::new(Seen {
                elapsed: Duration::from_secs(end_s),
                second,
                is_open_loop: true,
                errors: 0,
                error_rate: 0.0,
                line: String::new(),
                stages: Vec::new(),
                kept: None,
            }));
        }
        state
    }

    fn lines(state: &State, width: u16, height: u16) -> Vec<String> {
        let buffer = draw(state, width, height);
        let row =
            |y| -> String { (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect() };
        (0..buffer.area.height).map(|y| row(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn it_shows_what_matters() {
        let shown = lines(&running(1000, 100_000, 12), 80, 24).join("\n");
        let expected = "\
tcp://localhost:9000  constant 1000  5 workers                      run 4f2a9c01
rate       1,000/s of 1,000/s offered             ████
response   p50 1.20 ms  p99 13.6 ms  max 59.0 ms  ▂▄▆█
messages   4,000 ok  0 failed (0.00%)  12 in flight
validity   nothing speaks against it so far
━━━━━━━━━━━━━━━━━━━━───────────────────────────  42 %  4.2 s of 10 s, 5.8 s left";
        assert_eq!(shown, expected);
    }

    #[test]
    fn it_says_which_stage_is_running() {
        let mut state = running(1000, 0, 5);
        let mut seen = Seen::clone(state.latest.as_deref().unwrap());
        let (flow, stage) = ("main".to_owned(), "rise".to_owned());
        seen.stages =
            vec![Running { flow, stage, number: 2, of: 4, begin_ns: 0, is_warmup: false }];
        state.latest = Some(Arc::new(seen));
        let row = &lines(&state, 80, 24)[1];
        assert!(row.starts_with("rate       1,000/s of 1,000/s offered  rise (2 of 4)"), "{row}");
    }

    #[test]
    fn it_says_what_speaks_against_the_figures() {
        for (state, hint) in [
            (running(1000, 30_000_000, 12), "late: lag p99 30.0 ms"),
            (running(900, 0, 12), "behind: 400 messages"),
            (running(0, 0, 12), "no reply in this second"),
            (State { is_debug: true, ..running(1000, 0, 0) }, "debug build"),
        ] {
            assert!(lines(&state, 80, 24)[4].contains(hint), "{hint}");
        }
    }

    #[test]
    fn it_fits_every_terminal() {
        let ended = Some(Ended { verdict: Some(Verdict::Pass) });
        for state in [State::default(), running(1000, 0, 5), State { ended, ..running(1, 0, 0) }] {
            for width in 1..130 {
                for height in 1..10 {
                    let shown = lines(&state, width, height);
                    assert!(shown.len() < usize::from(height).max(2), "{width}x{height}");
                }
            }
        }
        let low = lines(&running(1000, 0, 5), 200, 5);
        assert_eq!(low.len(), 1);
        assert!(low[0].starts_with("1,000/s of 1,000/s offered  p99 13.6 ms"), "{}", low[0]);
    }

    #[test]
    fn the_rest_is_estimated_by_whatever_ends_first() {
        let mut state = running(1000, 0, 5);
        state.plan.messages = Some(5000);
        let (done, left) = state.progress();
        assert!((done.unwrap() - 0.84).abs() < 1e-9, "{done:?}");
        assert_eq!(left.unwrap(), Duration::from_millis(800));
        state.plan = Plan::default();
        assert_eq!(state.progress(), (None, None));
        assert!(lines(&state, 80, 24)[5].starts_with("4.2 s so far"));
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let texts = [1_500, 59_000, 200_000, 7_500_000].map(|ms| span(Duration::from_millis(ms)));
        assert_eq!(texts, ["1.5 s", "59 s", "3 min 20 s", "2 h 5 min"]);
    }
}
