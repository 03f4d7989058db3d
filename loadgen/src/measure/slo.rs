//! What a run has to hold: `p99<50ms`, `loss==0`, `achieved>=99%`.
//!
//! Owns the text of an SLO and its meaning, and the result that a summary shows. Leaves measuring
//! to [`super::recorder`] and judging to [`judge`].
//!
//! ```text
//! METRIC [{stage=NAME,flow=NAME}] < <= > >= ==  VALUE  [over TIME [for SHARE]]  [abort]
//! ```
//!
//! | metric | value | what it is |
//! |---|---|---|
//! | `p50` to `p99.99`, `mean`, `min`, `max` | a time | of response; `service.p99` and `lag.p99` of these |
//! | `errors` | a count or a share | failed messages, whatever the code |
//! | `unanswered`, `unsent` | a count or a share | not answered at the end; due and not sent |
//! | `loss` | a count or a share | the three together: what was offered and nobody acknowledged |
//! | `achieved` | a share | answered `ok` or `filtered`, or rejected where it is broken on purpose, of what was offered |
//! | `throughput` | messages a second | the same answers, a second |
//!
//! Shares of messages are shares of what was offered. Nothing of a warm-up counts.
//!
//! - `over 10s` cuts the measured time into windows of ten seconds, one behind the other; each has
//!   to hold by itself, or with `for 95%` so many of them. What is left behind the last whole
//!   window is not judged.
//! - A figure of which only "more than t" is known can fail an SLO, but not prove one. What cannot
//!   be decided is *not assessed*, and that is not a pass.
//! - `abort` ends the run at the end of the second in which the SLO cannot hold any more, whatever
//!   the rest brings. See [`judge`] for what that means where nothing can be proved.
//!
//! Invariant: a text that is parsed prints as it was written, and parses to the same.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use runtime::units;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::summary::{rate, thousands, time};

pub mod judge;

/// One condition on a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slo {
    text: String,
    pub(crate) metric: Metric,
    pub(crate) scope: Scope,
    pub(crate) comparison: Comparison,
    pub(crate) limit: Limit,
    pub(crate) windows: Option<Windows>,
    pub(crate) aborts: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Latency(Kind, Statistic),
    Errors,
    Unanswered,
    Unsent,
    Loss,
    Achieved,
    Throughput,
}

/// Which of the three latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Response,
    Service,
    Lag,
}

/// What of a latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statistic {
    /// In ten-thousandths.
    Percentile(u64),
    Mean,
    Min,
    Max,
}

/// Which messages; `None` is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) stage: Option<String>,
    pub(crate) flow: Option<String>,
}

/// How the observed value has to lie to the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Below,
    AtMost,
    Equal,
    AtLeast,
    Above,
}

/// The limit, with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// Nanoseconds.
    Time(f64),
    /// Messages.
    Count(f64),
    /// Of what was offered; 1.0 is all.
    Share(f64),
    /// Messages a second.
    PerSecond(f64),
}

/// Windows, each judged by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Windows {
    /// Length of one, whole seconds.
    pub(crate) seconds: u64,
    /// The share of them that has to hold.
    pub(crate) share: f64,
}

/// Whether an SLO was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SloState {
    /// It was kept.
    Held,
    /// It was broken.
    Failed,
    /// What was measured decides neither. This is not a pass.
    NotAssessed,
}

impl fmt::Display for SloState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            SloState::Held => "held",
            SloState::Failed => "FAILED",
            SloState::NotAssessed => "not assessed",
        })
    }
}

/// An SLO and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SloResult {
    /// As it was asked.
    pub text: String,
    /// What became of it.
    pub state: SloState,
    /// What was measured, in `unit`; with windows, the share of them that held. `null` where
    /// nothing was, or only a bound.
    pub observed: Option<f64>,
    /// Of `observed` and `limit`: `ns`, `messages`, `share` or `per_s`.
    pub unit: String,
    /// What it had to be.
    pub limit: f64,
    /// The same for people.
    pub detail: String,
}

impl SloResult {
    /// Takes back what was judged by figures that nobody can vouch for.
    pub fn withhold(&mut self) {
        self.state = SloState::NotAssessed;
        self.observed = None;
        "the run is invalid, and STRICT withholds its figures".clone_into(&mut self.detail);
    }

    /// One line: `held          p99<50ms  41.2 ms`.
    pub fn line(&self) -> String {
        format!("{:<12}  {}: {}", self.state, self.text, self.detail)
    }
}

impl Limit {
    pub(crate) fn value(self) -> f64 {
        match self {
            Limit::Time(value)
            | Limit::Count(value)
            | Limit::Share(value)
            | Limit::PerSecond(value) => value,
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Limit::Time(_) => "ns",
            Limit::Count(_) => "messages",
            Limit::Share(_) => "share",
            Limit::PerSecond(_) => "per_s",
        }
    }

    /// A value of this limit's unit, for people.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Limit::Time(_) => time(value as u64),
            Limit::Count(_) => thousands(value as u64),
            Limit::Share(_) => percent(value),
            Limit::PerSecond(_) => format!("{} a second", rate(value)),
        }
    }
}

/// `99.2 %`; as many digits as tell it from a whole one.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match (percent - percent.round()).abs() {
        ..1e-9 => 0,
        _ if (percent - 100.0).abs() < 0.1 || percent.abs() < 0.1 => 4,
        _ => 2,
    };
    format!("{percent:.digits$} %")
}

/// The words that a run knows, to check the names in a [`Slo`] against.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Every flow.
    pub flows: Vec<String>,
    /// Every stage of every flow.
    pub stages: Vec<String>,
}

impl Slo {
    /// Whether the run has the stage and the flow that it names.
    ///
    /// # Errors
    /// The name that it does not have, and those that it has.
    pub fn check(&self, names: &Names) -> Result<(), String> {
        for (what, asked, known) in
            [("stage", &self.scope.stage, &names.stages), ("flow", &self.scope.flow, &names.flows)]
        {
            let Some(asked) = asked else { continue };
            // `stage=burst` finds the flow of the bursts, too.
            if known.contains(asked) || (what == "stage" && names.flows.contains(asked)) {
                continue;
            }
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!(
                "SLO \"{self}\": unknown {what} \"{asked}\"; this run has: {known}"
            ));
        }
        Ok(())
    }

    /// It ends the run once it cannot hold any more.
    pub fn aborts(&self) -> bool {
        self.aborts
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Slo> for String {
    fn from(slo: Slo) -> String {
        slo.text
    }
}

impl TryFrom<String> for Slo {
    type Error = String;

    fn try_from(text: String) -> Result<Slo, String> {
        text.parse()
    }
}

const FORM: &str = "an SLO is METRIC[{stage=NAME}]<VALUE [over 10s [for 95%]] [abort], such as \
                    p99<50ms, loss==0 or achieved>=99%";
const METRICS: &str = "p50 to p99.99, mean, min and max (of response; service.p99 and lag.p99 of \
                       these), errors, unanswered, unsent, loss, achieved, throughput";
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("<", Comparison::Below),
    (">", Comparison::Above),
    ("=", Comparison::Equal),
];

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Slo, String> {
        let text = text.trim();
        let name_end = text
            .find(['{', '<', '>', '=', ' '])
            .ok_or_else(|| format!("\"{text}\" lacks one of < <= > >= ==; {FORM}"))?;
        let metric = Metric::parse(&text[..name_end])?;
        let rest = text[name_end..].trim_start();
        let (scope, rest) = match rest.strip_prefix('{') {
            None => (Scope::default(), rest),
            Some(inner) => {
                let (scope, rest) = inner.split_once('}').ok_or("a { is not closed by a }")?;
                (Scope::parse(scope)?, rest.trim_start())
            }
        };
        let (comparison, rest) = COMPARISONS
            .iter()
            .find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)))
            .ok_or_else(|| format!("\"{text}\" lacks one of < <= > >= ==; {FORM}"))?;
        let mut words = rest.split_whitespace().peekable();
        let mut value = words.next().ok_or_else(|| format!("\"{text}\" lacks a value"))?.to_owned();
        // `50 ms` is two words.
        if let Some(unit) = words.next_if(|word| !["over", "for", "abort"].contains(word)) {
            value.push_str(unit);
        }
        let limit = metric.limit(&value)?;
        let mut slo = Slo {
            text: text.to_owned(),
            metric,
            scope,
            comparison,
            limit,
            windows: None,
            aborts: false,
        };
        while let Some(word) = words.next() {
            match word {
                "over" if slo.windows.is_none() => {
                    let length = words.next().ok_or("behind `over` a time is missing")?;
                    slo.windows = Some(Windows { seconds: window(length)?, share: 1.0 });
                }
                "for" => {
                    let windows = slo.windows.as_mut().ok_or("`for` needs `over TIME` before")?;
                    let share = words.next().ok_or("behind `for` a share is missing")?;
                    windows.share = units::share(share)?;
                }
                "abort" => slo.aborts = true,
                _ => return Err(format!("\"{word}\" is not over, for or abort; {FORM}")),
            }
        }
        Ok(slo)
    }
}

fn window(text: &str) -> Result<u64, String> {
    let length = units::seconds(text)?;
    if length < Duration::from_secs(1) || length.subsec_nanos() != 0 {
        return Err(format!("a window of {text} is not a whole number of seconds"));
    }
    Ok(length.as_secs())
}

impl Metric {
    fn parse(name: &str) -> Result<Metric, String> {
        let (kind, statistic) = match name.split_once('.') {
            Some(("response", rest)) => (Kind::Response, rest),
            Some(("service", rest)) => (Kind::Service, rest),
            Some(("lag", rest)) => (Kind::Lag, rest),
            _ => (Kind::Response, name),
        };
        let is_plain = statistic == name;
        let metric = match statistic {
            "mean" => Metric::Latency(kind, Statistic::Mean),
            "min" => Metric::Latency(kind, Statistic::Min),
            "max" => Metric::Latency(kind, Statistic::Max),
            "errors" if is_plain => Metric::Errors,
            "unanswered" if is_plain => Metric::Unanswered,
            "unsent" if is_plain => Metric::Unsent,
            "loss" if is_plain => Metric::Loss,
            "achieved" if is_plain => Metric::Achieved,
            "throughput" if is_plain => Metric::Throughput,
            _ => match statistic.strip_prefix('p').and_then(ten_thousandths) {
                Some(percentile) => Metric::Latency(kind, Statistic::Percentile(percentile)),
                None => return Err(format!("unknown metric \"{name}\": {METRICS}")),
            },
        };
        Ok(metric)
    }

    fn limit(self, text: &str) -> Result<Limit, String> {
        let is_share = text.ends_with('%');
        let share = || units::share(text).map(Limit::Share);
        match self {
            Metric::Latency(..) => {
                if !text.ends_with(|last: char| last.is_ascii_alphabetic()) {
                    return Err(format!("\"{text}\" is not a time with a unit, like 50ms"));
                }
                let limit = units::seconds(text)?;
                Ok(Limit::Time(crate::clock::nanos(limit) as f64))
            }
            Metric::Achieved if is_share => share(),
            Metric::Achieved => {
                Err(format!("\"{text}\" is not a share like 99%; messages a second are throughput"))
            }
            Metric::Throughput => Ok(Limit::PerSecond(units::count(text)? as f64)),
            Metric::Errors | Metric::Unanswered | Metric::Unsent | Metric::Loss => {
                if is_share {
                    return share();
                }
                let count = units::count(text);
                count
                    .map(|count| Limit::Count(count as f64))
                    .map_err(|_| format!("\"{text}\" is not a count like 0 or a share like 0.1%"))
            }
        }
    }
}

/// `99.9` is 9990. From 50 to 99.99, with two decimals at most.
fn ten_thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || whole.len() > 2 || fraction.len() > 2 {
        return None;
    }
    let hundredths: u64 = format!("{fraction:0<2}").parse().ok()?;
    let percentile = whole.parse::<u64>().ok()? * 100 + hundredths;
    (5_000..=9_999).contains(&percentile).then_some(percentile)
}

impl Scope {
    fn parse(text: &str) -> Result<Scope, String> {
        let mut scope = Scope::default();
        for pair in text.split(',') {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("\"{{{text}}}\" is not {{stage=NAME}} or {{flow=NAME}}"))?;
            let slot = match name.trim() {
                "stage" => &mut scope.stage,
                "flow" => &mut scope.flow,
                other => return Err(format!("unknown label \"{other}\": stage, flow")),
            };
            if slot.replace(value.trim().to_owned()).is_some() {
                return Err(format!("\"{{{text}}}\" names a {name} twice"));
            }
        }
        Ok(scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slo(text: &str) -> Slo {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_spelling_of_the_manual_is_understood() {
        use Comparison::*;
        let response =
            |percentile| Metric::Latency(Kind::Response, Statistic::Percentile(percentile));
        for (text, metric, comparison, limit) in [
            ("p99<50ms", response(9_900), Below, Limit::Time(50e6)),
            ("p50 <= 1.5 s", response(5_000), AtMost, Limit::Time(1.5e9)),
            ("p99.99<1s", response(9_999), Below, Limit::Time(1e9)),
            ("response.p95<1m", response(9_500), Below, Limit::Time(60e9)),
            (
                "lag.p99<2ms",
                Metric::Latency(Kind::Lag, Statistic::Percentile(9_900)),
                Below,
                Limit::Time(2e6),
            ),
            (
                "service.max<1s",
                Metric::Latency(Kind::Service, Statistic::Max),
                Below,
                Limit::Time(1e9),
            ),
            (
                "mean<250us",
                Metric::Latency(Kind::Response, Statistic::Mean),
                Below,
                Limit::Time(250e3),
            ),
            ("loss==0", Metric::Loss, Equal, Limit::Count(0.0)),
            ("errors=0", Metric::Errors, Equal, Limit::Count(0.0)),
            ("errors<0.1%", Metric::Errors, Below, Limit::Share(0.001)),
            ("unsent<1k", Metric::Unsent, Below, Limit::Count(1000.0)),
            ("achieved>=99%", Metric::Achieved, AtLeast, Limit::Share(0.99)),
            ("throughput>10k", Metric::Throughput, Above, Limit::PerSecond(10_000.0)),
        ] {
            let slo = slo(text);
            assert_eq!(
                (slo.metric, slo.comparison, slo.limit),
                (metric, comparison, limit),
                "{text}"
            );
            assert_eq!((slo.to_string().as_str(), slo.aborts(), slo.windows), (text, false, None));
        }
    }

    #[test]
    fn scopes_windows_and_abort_stand_in_any_sensible_place() {
        let slo = slo(" p99.9{stage=burst, flow=main} < 200ms over 10s for 95% abort ");
        assert_eq!(slo.scope.stage.as_deref(), Some("burst"));
        assert_eq!(slo.scope.flow.as_deref(), Some("main"));
        assert_eq!(slo.windows, Some(Windows { seconds: 10, share: 0.95 }));
        assert!(slo.aborts());
        assert_eq!(
            super::tests::slo("p99<5ms abort over 1m").windows,
            Some(Windows { seconds: 60, share: 1.0 })
        );
        let text = serde_json::to_string(&slo).unwrap();
        assert_eq!(serde_json::from_str::<Slo>(&text).unwrap(), slo);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_exists() {
        for (text, named) in [
            ("p99", "p99<50ms"),
            ("p101<1s", "unknown metric \"p101\": p50 to p99.99"),
            ("p99.999<1s", "unknown metric"),
            ("p49<1s", "unknown metric"),
            ("lag.loss<1", "unknown metric \"lag.loss\""),
            ("latency<1s", "service.p99"),
            ("p99<50", "\"50\" is not a time with a unit"),
            ("p99<50parsecs", "50parsecs"),
            ("p99~50ms", "lacks one of"),
            ("p99<", "lacks a value"),
            ("loss==0.5", "\"0.5\" is not a count"),
            ("errors<101%", "101%"),
            ("achieved>=1000", "throughput"),
            ("throughput>1%", "1%"),
            ("p99{step=1}<1s", "unknown label \"step\": stage, flow"),
            ("p99{stage=a,stage=b}<1s", "twice"),
            ("p99{stage<1s", "not closed"),
            ("p99{stage}<1s", "{stage=NAME}"),
            ("p99<1s over", "behind `over`"),
            ("p99<1s over 1500ms", "whole number of seconds"),
            ("p99<1s over 0", "whole number of seconds"),
            ("p99<1s for 95%", "needs `over TIME`"),
            ("p99<1s over 10s for", "behind `for`"),
            ("p99<1s over 10s for ever", "ever"),
            ("p99<1s please", "please"),
            ("p99<1s 5 abort", "1s5"),
        ] {
            let error = text.parse::<Slo>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_stage_or_flow_is_named_with_those_that_exist() {
        let names = Names { flows: vec!["main".into()], stages: vec!["1".into(), "burst".into()] };
        slo("p99{stage=burst,flow=main}<1s").check(&names).unwrap();
        slo("p99<1s").check(&Names::default()).unwrap();
        slo("p99{stage=main}<1s").check(&names).unwrap();
        let error = slo("p99{stage=brust}<1s").check(&names).unwrap_err();
        assert!(error.contains("\"brust\"; this run has: 1, burst"), "{error}");
        let error = slo("p99{flow=x}<1s").check(&names).unwrap_err();
        assert!(error.contains("unknown flow \"x\"; this run has: main"), "{error}");
    }

    #[test]
    fn shares_show_as_many_digits_as_they_need() {
        let texts = [1.0, 0.99, 0.9925, 0.99999, 0.0, 0.0000123, 0.5].map(percent);
        let expected = ["100 %", "99 %", "99.25 %", "99.9990 %", "0 %", "0.0012 %", "50 %"];
        assert_eq!(texts, expected);
    }
}
