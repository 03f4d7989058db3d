//! What load was asked for: shapes, arrivals, catching up and pacing, as people write them.
//!
//! Owns the words and their limits. Leaves what they mean for message n to [`super::schedule`], and
//! the knobs' names to `config`. Pure.
//! Invariant: what is printed is parsed to the same value; every value here can be run: rates are
//! at most [`RATE_MAX`], times whole microseconds and at most [`LASTS_MAX`], and something is sent.
//!
//! ```text
//! stages    30s:1k,1m:10k,10s:0     linear from the rate before (0 at the start); 30s@5k holds;
//!                                   0s:5k jumps; name=30s:1k names a stage
//! burst     rate=50k,for=1s,every=10s,base=1k,after=5s
//! wave      mean=5k,swing=4k,every=60s,start=mean
//! ```

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use runtime::units;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The highest rate of a shape: one message a nanosecond.
pub const RATE_MAX: u64 = 1_000_000_000;
/// The longest time in a shape: ten years.
pub const LASTS_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);
/// Every stage has histograms of its own.
pub const STAGES_MAX: usize = 64;
/// The stage before the measured ones.
pub const WARM_UP: &str = "warm-up";

const BURST_RATE: u64 = 10_000;
const BURST_BASE: u64 = 1_000;
const BURST_LASTS: Duration = Duration::from_secs(1);
const BURST_EVERY: Duration = Duration::from_secs(10);
const WAVE_MEAN: u64 = 1_000;
const WAVE_EVERY: Duration = Duration::from_secs(60);

/// The course of the load over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// As fast as the replies come.
    #[default]
    Closed,
    /// The same rate all the time.
    Constant(Constant),
    /// One rate after the other.
    Stages(Stages),
    /// Short bursts, now and then, over a steady base.
    Burst(Burst),
    /// Up and down like a sine.
    Wave(Wave),
    /// As a recording was; its speed stands beside it.
    Recorded,
}

impl Shape {
    /// `rate_per_s` messages a second all the time; 0 is the closed loop.
    pub fn from_rate(rate_per_s: u64) -> Shape {
        match rate_per_s {
            0 => Shape::Closed,
            rate_per_s => Shape::Constant(Constant { rate_per_s }),
        }
    }

    /// How long it lasts by itself; `None` goes on until a bound ends it.
    pub fn lasts(&self) -> Option<Duration> {
        match self {
            Shape::Stages(stages) => Some(stages.lasts()),
            Shape::Closed
            | Shape::Constant(_)
            | Shape::Burst(_)
            | Shape::Wave(_)
            | Shape::Recorded => None,
        }
    }

    /// The highest rate that it asks for, messages a second; `None` where nobody knows.
    pub fn peak_per_s(&self) -> Option<u64> {
        match self {
            Shape::Closed | Shape::Recorded => None,
            Shape::Constant(constant) => Some(constant.rate_per_s),
            Shape::Stages(stages) => stages.0.iter().map(|stage| stage.rate_per_s).max(),
            Shape::Burst(burst) => Some(burst.base_per_s + burst.rate_per_s),
            Shape::Wave(wave) => Some(wave.mean_per_s + wave.swing_per_s),
        }
    }
}

/// The same rate all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Messages a second, at least 1.
    pub rate_per_s: u64,
}

/// One rate after the other; at least one of them is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages(Vec<Stage>);

/// One part of [`Stages`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it is called in reports; its number, from 1, where it was not named.
    pub name: Option<String>,
    /// How it comes to its rate.
    pub way: Way,
    /// How long; 0 is a jump.
    pub lasts: Duration,
    /// Messages a second at its end.
    pub rate_per_s: u64,
}

/// How a stage comes to its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `:` — linear from the rate before.
    Ramp,
    /// `@` — at once, and stays.
    Hold,
}

impl Stages {
    /// The stages, in order.
    pub fn as_slice(&self) -> &[Stage] {
        &self.0
    }

    /// How long they last together.
    pub fn lasts(&self) -> Duration {
        self.0.iter().map(|stage| stage.lasts).sum()
    }

    /// Checks stages that were made one by one.
    ///
    /// # Errors
    /// None or too many, a rate or a time out of range, two of the same name, or nothing to send.
    pub fn new(stages: Vec<Stage>) -> Result<Stages, String> {
        if stages.is_empty() {
            return Err(format!("no stages: {STAGES_HINT}"));
        }
        if stages.len() > STAGES_MAX {
            return Err(format!("{} stages are more than {STAGES_MAX}", stages.len()));
        }
        for (index, stage) in stages.iter().enumerate() {
            check_rate(stage.rate_per_s)?;
            check_time(stage.lasts)?;
            if stage.way == Way::Hold && stage.lasts.is_zero() {
                return Err(format!("\"{stage}\" holds a rate for no time: try {stage:#}"));
            }
            let Some(name) = &stage.name else { continue };
            check_name(name)?;
            if stages[..index].iter().any(|other| other.name.as_ref() == Some(name)) {
                return Err(format!("two stages are named \"{name}\""));
            }
        }
        let stages = Stages(stages);
        check_time(stages.lasts())?;
        let mut before = 0;
        for stage in &stages.0 {
            let is_load = stage.rate_per_s > 0 || (before > 0 && stage.way == Way::Ramp);
            if is_load && !stage.lasts.is_zero() {
                return Ok(stages);
            }
            before = stage.rate_per_s;
        }
        Err(format!("\"{stages}\" sends nothing: {STAGES_HINT}"))
    }
}

const STAGES_HINT: &str = "try 30s:1k,1m:10k,10s:0, or 30s@5k to hold a rate";

impl FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Stages, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Stages::new(parts.map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl Display for Stages {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, stage) in self.0.iter().enumerate() {
            write!(f, "{}{stage}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Stage, String> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) => (Some(name.trim().to_owned()), rest),
            None => (None, text),
        };
        let (way, (lasts, rate)) = match (rest.split_once(':'), rest.split_once('@')) {
            (Some(parts), None) => (Way::Ramp, parts),
            (None, Some(parts)) => (Way::Hold, parts),
            (_, _) => return Err(format!("\"{text}\" is not a stage: {STAGES_HINT}")),
        };
        let in_stage = |error| format!("{error}, in the stage \"{text}\": {STAGES_HINT}");
        Ok(Stage {
            name,
            way,
            lasts: time(lasts).map_err(in_stage)?,
            rate_per_s: units::count(rate).map_err(in_stage)?,
        })
    }
}

impl Display for Stage {
    /// The alternate form shows a stage that holds for no time as the jump that it would be.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        let way = match self.way {
            Way::Hold if !f.alternate() => '@',
            Way::Hold | Way::Ramp => ':',
        };
        write!(f, "{}{way}{}", Time(self.lasts), Count(self.rate_per_s))
    }
}

/// Bursts over a steady base. The two don't share workers, so that neither starves the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Messages a second all the time; 0 is bursts alone.
    pub base_per_s: u64,
    /// Messages a second more while a burst lasts, at least 1.
    pub rate_per_s: u64,
    /// How long a burst lasts; not longer than `every`.
    pub lasts: Duration,
    /// From the beginning of a burst to the beginning of the next.
    pub every: Duration,
    /// From the start of the load to the first burst; a burst ends with its period at the latest.
    pub after: Duration,
}

impl Default for Burst {
    fn default() -> Burst {
        Burst {
            base_per_s: BURST_BASE,
            rate_per_s: BURST_RATE,
            lasts: BURST_LASTS,
            every: BURST_EVERY,
            after: BURST_EVERY / 2,
        }
    }
}

impl Burst {
    /// The base as a load of its own; `None` where there is none.
    pub fn base(&self) -> Option<Shape> {
        (self.base_per_s > 0).then_some(Shape::Constant(Constant { rate_per_s: self.base_per_s }))
    }

    /// The bursts without the base.
    pub fn alone(&self) -> Shape {
        Shape::Burst(Burst { base_per_s: 0, ..*self })
    }

    fn check(&self) -> Result<(), String> {
        check_rate(self.base_per_s)?;
        check_rate(self.rate_per_s)?;
        check_time(self.every)?;
        if self.rate_per_s == 0 {
            return Err(format!("a burst of rate=0 is none: {BURST_HINT}"));
        }
        if self.lasts.is_zero() || self.lasts > self.every {
            return Err(format!(
                "for={} is not above 0 and up to every={}: {BURST_HINT}",
                Time(self.lasts),
                Time(self.every)
            ));
        }
        if self.after > self.every - self.lasts {
            return Err(format!(
                "after={} lets the burst outlast every={}: at most after={}",
                Time(self.after),
                Time(self.every),
                Time(self.every - self.lasts)
            ));
        }
        Ok(())
    }
}

const BURST_HINT: &str = "try rate=50k,for=1s,every=10s (and base=1k, after=5s)";

impl FromStr for Burst {
    type Err = String;

    fn from_str(text: &str) -> Result<Burst, String> {
        let mut burst = Burst::default();
        let mut after = None;
        for (key, value) in pairs(text, BURST_HINT)? {
            let at_key = |error| format!("{key}: {error}");
            match key {
                "base" => burst.base_per_s = units::count(value).map_err(at_key)?,
                "rate" => burst.rate_per_s = units::count(value).map_err(at_key)?,
                "for" => burst.lasts = time(value).map_err(at_key)?,
                "every" => burst.every = time(value).map_err(at_key)?,
                "after" => after = Some(time(value).map_err(at_key)?),
                _ => return Err(unknown(key, "base, rate, for, every, after", BURST_HINT)),
            }
        }
        // In the middle, where there is room: load, burst, and load again to see how it recovers.
        let middle = whole_micros(burst.every / 2);
        burst.after = after.unwrap_or(middle.min(burst.every.saturating_sub(burst.lasts)));
        burst.check()?;
        Ok(burst)
    }
}

impl Display for Burst {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Burst { base_per_s, rate_per_s, lasts, every, after } = *self;
        let (base, rate) = (Count(base_per_s), Count(rate_per_s));
        let (lasts, every, after) = (Time(lasts), Time(every), Time(after));
        write!(f, "rate={rate},for={lasts},every={every},base={base},after={after}")
    }
}

/// Up and down like a sine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wave {
    /// Messages a second in the middle, at least 1.
    pub mean_per_s: u64,
    /// How far it goes above and below, messages a second; at most the mean.
    pub swing_per_s: u64,
    /// From crest to crest.
    pub every: Duration,
    /// Where it starts.
    pub start: WaveStart,
}

/// Where a wave starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaveStart {
    /// At the mean, rising.
    Mean,
    /// At the crest.
    High,
    /// In the trough.
    Low,
}

impl WaveStart {
    const ALL: [(&'static str, WaveStart); 3] =
        [("mean", WaveStart::Mean), ("high", WaveStart::High), ("low", WaveStart::Low)];
}

impl Default for Wave {
    fn default() -> Wave {
        Wave {
            mean_per_s: WAVE_MEAN,
            swing_per_s: WAVE_MEAN / 2,
            every: WAVE_EVERY,
            start: WaveStart::Mean,
        }
    }
}

const WAVE_HINT: &str = "try mean=5k,swing=4k,every=60s (and start=low)";

impl FromStr for Wave {
    type Err = String;

    fn from_str(text: &str) -> Result<Wave, String> {
        let mut wave = Wave::default();
        let mut swing = None;
        for (key, value) in pairs(text, WAVE_HINT)? {
            let at_key = |error| format!("{key}: {error}");
            match key {
                "mean" => wave.mean_per_s = units::count(value).map_err(at_key)?,
                "swing" => swing = Some(units::count(value).map_err(at_key)?),
                "every" => wave.every = time(value).map_err(at_key)?,
                "start" => wave.start = word("start", value, &WaveStart::ALL)?,
                _ => return Err(unknown(key, "mean, swing, every, start", WAVE_HINT)),
            }
        }
        wave.swing_per_s = swing.unwrap_or(wave.mean_per_s / 2);
        check_rate(wave.mean_per_s)?;
        check_time(wave.every)?;
        if wave.mean_per_s == 0 {
            return Err(format!("a wave of mean=0 sends nothing: {WAVE_HINT}"));
        }
        if wave.swing_per_s > wave.mean_per_s {
            return Err(format!(
                "swing={} would take mean={} below 0: at most swing={1}",
                Count(wave.swing_per_s),
                Count(wave.mean_per_s)
            ));
        }
        if wave.every.is_zero() {
            return Err(format!("every=0s is not a time from crest to crest: {WAVE_HINT}"));
        }
        Ok(wave)
    }
}

impl Display for Wave {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Wave { mean_per_s, swing_per_s, every, start } = *self;
        let (mean, swing, every) = (Count(mean_per_s), Count(swing_per_s), Time(every));
        write!(f, "mean={mean},swing={swing},every={every},start={}", spelt(start, &WaveStart::ALL))
    }
}

impl FromStr for Shape {
    type Err = String;

    /// `closed`, or a kind and its text: `constant 10k`, `stages 30s:1k,1m:10k`.
    fn from_str(text: &str) -> Result<Shape, String> {
        let (kind, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        Ok(match kind {
            "closed" if rest.is_empty() => Shape::Closed,
            "recorded" if rest.is_empty() => Shape::Recorded,
            "constant" => Shape::Constant(rest.parse()?),
            "stages" => Shape::Stages(rest.parse()?),
            "burst" => Shape::Burst(rest.parse()?),
            "wave" => Shape::Wave(rest.parse()?),
            _ => {
                return Err(format!(
                    "\"{text}\" is not a shape: try closed, constant 10k, stages …, burst …, wave …, \
                     recorded"
                ));
            }
        })
    }
}

impl Display for Shape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Closed => f.write_str("closed"),
            Shape::Recorded => f.write_str("recorded"),
            Shape::Constant(constant) => write!(f, "constant {constant}"),
            Shape::Stages(stages) => write!(f, "stages {stages}"),
            Shape::Burst(burst) => write!(f, "burst {burst}"),
            Shape::Wave(wave) => write!(f, "wave {wave}"),
        }
    }
}

impl FromStr for Constant {
    type Err = String;

    fn from_str(text: &str) -> Result<Constant, String> {
        let rate_per_s = units::count(text)?;
        check_rate(rate_per_s)?;
        match rate_per_s {
            0 => Err("a rate of 0 sends nothing: try 10k".to_owned()),
            rate_per_s => Ok(Constant { rate_per_s }),
        }
    }
}

impl Display for Constant {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Count(self.rate_per_s))
    }
}

/// How the messages of a shape lie in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// As even as the rate allows.
    #[default]
    Even,
    /// As independent senders would: exponential gaps around the rate.
    Poisson,
}

impl Arrivals {
    const ALL: [(&'static str, Arrivals); 2] =
        [("even", Arrivals::Even), ("poisson", Arrivals::Poisson)];
}

/// What becomes of messages that could not be sent when they were due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// They go as fast as workers come free.
    #[default]
    Asap,
    /// They are not sent, and counted as unsent.
    None,
    /// They go at so many thousandths of the rate at which they were due; above 1000.
    Limited {
        /// 1200 is 1.2 times the rate.
        thousandths: u32,
    },
}

const CATCH_UP_HINT: &str = "try asap, none, or a factor above 1 like 1.2x";
const THOUSANDTHS_MAX: u64 = 1_000_000;

impl FromStr for CatchUp {
    type Err = String;

    fn from_str(text: &str) -> Result<CatchUp, String> {
        match text.trim() {
            "asap" => return Ok(CatchUp::Asap),
            "none" => return Ok(CatchUp::None),
            _ => {}
        }
        // A thousandth is the unit: "1.2k" is 1200 of them.
        let factor = text.trim().strip_suffix(['x', 'X']);
        let is_number = |factor: &&str| factor.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let thousandths = factor
            .filter(is_number)
            .and_then(|factor| units::count(&format!("{factor}k")).ok())
            .ok_or_else(|| format!("\"{text}\" is not a way to catch up: {CATCH_UP_HINT}"))?;
        match u32::try_from(thousandths) {
            Ok(thousandths @ 1001..) if u64::from(thousandths) <= THOUSANDTHS_MAX => {
                Ok(CatchUp::Limited { thousandths })
            }
            Ok(..=1000) => {
                Err(format!("at \"{text}\" nothing would be caught up: {CATCH_UP_HINT}"))
            }
            _ => Err(format!("\"{text}\" is more than 1000x: try asap")),
        }
    }
}

impl Display for CatchUp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            CatchUp::Asap => f.write_str("asap"),
            CatchUp::None => f.write_str("none"),
            CatchUp::Limited { thousandths } => {
                let fraction = format!("{:03}", thousandths % 1000);
                match fraction.trim_end_matches('0') {
                    "" => write!(f, "{}x", thousandths / 1000),
                    fraction => write!(f, "{}.{fraction}x", thousandths / 1000),
                }
            }
        }
    }
}

/// How exactly messages are sent when they are due, and what that may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pacing {
    /// Within microseconds, for most of a core.
    Precise,
    /// Within about a millisecond, for little.
    #[default]
    Thrifty,
}

impl Pacing {
    const ALL: [(&'static str, Pacing); 2] =
        [("precise", Pacing::Precise), ("thrifty", Pacing::Thrifty)];
}

/// A value of a few words, by its word.
macro_rules! words {
    ($type:ty, $what:literal) => {
        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<$type, String> {
                word($what, text.trim(), &<$type>::ALL)
            }
        }

        impl Display for $type {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str(spelt(*self, &<$type>::ALL))
            }
        }
    };
}

words!(Arrivals, "arrivals");
words!(Pacing, "pacing");

/// A value that is its text wherever it is stored.
macro_rules! stored_as_text {
    ($($type:ty)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

stored_as_text!(Shape Constant Stages Burst Wave Arrivals CatchUp Pacing);

fn word<T: Copy>(what: &str, text: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = all.iter().map(|(word, _)| *word).collect();
        format!("unknown {what} \"{text}\": try {}", words.join(" or "))
    })
}

fn spelt<T: Copy + PartialEq>(value: T, all: &[(&'static str, T)]) -> &'static str {
    all.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
}

fn pairs<'a>(text: &'a str, hint: &str) -> Result<Vec<(&'a str, &'a str)>, String> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) =
            part.split_once('=').ok_or_else(|| format!("\"{part}\" is not key=value: {hint}"))?;
        let (key, value) = (key.trim(), value.trim());
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(format!("{key}= is there twice"));
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

fn unknown(key: &str, keys: &str, hint: &str) -> String {
    format!("unknown key \"{key}\", known are {keys}: {hint}")
}

fn check_rate(rate_per_s: u64) -> Result<(), String> {
    match rate_per_s {
        0..=RATE_MAX => Ok(()),
        _ => Err(format!("a rate of {} is above {}", Count(rate_per_s), Count(RATE_MAX))),
    }
}

fn check_time(lasts: Duration) -> Result<(), String> {
    if lasts <= LASTS_MAX {
        return Ok(());
    }
    Err(format!("{} is longer than {} (ten years)", Time(lasts), Time(LASTS_MAX)))
}

fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.len() <= 64
        && name.bytes().all(is_plain);
    if !is_name {
        return Err(format!(
            "\"{name}\" is not a stage's name: a letter, then letters, digits, - or _"
        ));
    }
    if name == WARM_UP {
        return Err(format!("\"{name}\" is the name of what comes before the stages"));
    }
    Ok(())
}

/// Seconds where no unit is given, to the microsecond.
fn time(text: &str) -> Result<Duration, String> {
    units::seconds(text).map(whole_micros)
}

fn whole_micros(time: Duration) -> Duration {
    let micros = (time.as_nanos() + 500) / 1_000;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// A count in its largest whole unit.
#[derive(Clone, Copy, Debug)]
pub struct Count(pub u64);

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
        match units.iter().find(|(factor, _)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((factor, unit)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A time of whole microseconds in its largest whole unit.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Duration);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let units =
            [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms"), (1, "us")];
        match units.iter().find(|(factor, _)| micros > 0 && micros.is_multiple_of(*factor)) {
            Some((factor, unit)) => write!(f, "{}{unit}", micros / factor),
            None => f.write_str("0s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn stage(name: Option<&str>, way: Way, secs: u32, rate_per_s: u64) -> Stage {
        Stage { name: name.map(str::to_owned), way, lasts: SECOND * secs, rate_per_s }
    }

    #[test]
    fn stages_ramp_hold_jump_and_have_names() {
        let stages: Stages = "30s:1k, 1m:10k,peak=10@10k,0s:5k,10s:0".parse().unwrap();
        assert_eq!(
            stages.as_slice(),
            [
                stage(None, Way::Ramp, 30, 1000),
                stage(None, Way::Ramp, 60, 10_000),
                stage(Some("peak"), Way::Hold, 10, 10_000),
                stage(None, Way::Ramp, 0, 5000),
                stage(None, Way::Ramp, 10, 0),
            ]
        );
        assert_eq!(stages.lasts(), SECOND * 110);
        assert_eq!(stages.to_string(), "30s:1k,1m:10k,peak=10s@10k,0s:5k,10s:0");
    }

    #[test]
    fn a_burst_has_defaults_and_lies_in_the_middle_of_its_period() {
        let burst: Burst = "".parse().unwrap();
        assert_eq!(burst, Burst::default());
        assert_eq!(burst.to_string(), "rate=10k,for=1s,every=10s,base=1k,after=5s");
        let burst: Burst = "rate=50k,for=700ms,every=1s,base=0".parse().unwrap();
        assert_eq!(burst.after, Duration::from_millis(300));
        assert_eq!(burst.base(), None);
        let burst: Burst = "rate=50k".parse().unwrap();
        assert_eq!(burst.base(), Some(Shape::from_rate(1000)));
        assert_eq!(burst.alone().peak_per_s(), Some(50_000));
    }

    #[test]
    fn a_wave_swings_by_half_of_its_mean_unless_told() {
        let wave: Wave = "mean=5k".parse().unwrap();
        assert_eq!((wave.swing_per_s, wave.every), (2500, SECOND * 60));
        let wave: Wave = "mean=5k,swing=5k,every=2m,start=low".parse().unwrap();
        assert_eq!(wave.to_string(), "mean=5k,swing=5k,every=2m,start=low");
    }

    #[test]
    fn a_factor_is_kept_to_the_thousandth() {
        for (text, thousandths) in [("1.2x", 1200), ("2x", 2000), ("1.005x", 1005)] {
            let catch_up: CatchUp = text.parse().unwrap();
            assert_eq!(catch_up, CatchUp::Limited { thousandths });
            assert_eq!(catch_up.to_string(), text);
        }
    }

    #[test]
    fn a_wrong_value_is_named_and_a_right_one_shown() {
        fn refusal<T: FromStr<Err = String> + fmt::Debug>(text: &str) -> String {
            text.parse::<T>().unwrap_err()
        }
        for (error, says) in [
            (refusal::<Stages>(""), &["no stages", "30s:1k"][..]),
            (refusal::<Stages>("30s"), &["\"30s\"", "30s:1k"]),
            (refusal::<Stages>("30s:1k,10s:lots"), &["\"lots\"", "\"10s:lots\"", "30s@5k"]),
            (refusal::<Stages>("10s:0,5s@0"), &["\"10s:0,5s@0\"", "sends nothing"]),
            (refusal::<Stages>("0s:5k"), &["sends nothing"]),
            (refusal::<Stages>("1s:5k,0s@5k"), &["\"0s@5k\"", "try 0s:5k"]),
            (refusal::<Stages>("a=1s:1,a=1s:2"), &["\"a\"", "two"]),
            (refusal::<Stages>("1=1s:1"), &["\"1\"", "letter"]),
            (refusal::<Stages>("warm-up=1s:1"), &["\"warm-up\""]),
            (refusal::<Stages>("1s:2G"), &["2G", "above 1G"]),
            (refusal::<Stages>("100000h:1"), &["100000h", "ten years"]),
            (refusal::<Burst>("rate"), &["\"rate\"", "key=value", "rate=50k"]),
            (refusal::<Burst>("rates=1k"), &["\"rates\"", "base, rate", "rate=50k"]),
            (refusal::<Burst>("rate=0"), &["rate=0", "rate=50k"]),
            (refusal::<Burst>("rate=many"), &["rate:", "\"many\""]),
            (refusal::<Burst>("for=2s,every=1s"), &["for=2s", "every=1s"]),
            (refusal::<Burst>("for=1s,for=2s"), &["for= is there twice"]),
            (refusal::<Burst>("after=10s"), &["after=10s", "at most after=9s"]),
            (refusal::<Wave>("swing=2k"), &["swing=2k", "mean=1k"]),
            (refusal::<Wave>("mean=0"), &["mean=0"]),
            (refusal::<Wave>("every=0"), &["every=0s"]),
            (refusal::<Wave>("start=top"), &["\"top\"", "mean or high or low"]),
            (refusal::<Arrivals>("random"), &["\"random\"", "even or poisson"]),
            (refusal::<Pacing>("exact"), &["\"exact\"", "precise or thrifty"]),
            (refusal::<CatchUp>("fast"), &["\"fast\"", "1.2x"]),
            (refusal::<CatchUp>("1x"), &["\"1x\"", "nothing would be caught up"]),
            (refusal::<CatchUp>("1.2kx"), &["\"1.2kx\""]),
            (refusal::<CatchUp>("2000x"), &["\"2000x\"", "asap"]),
            (refusal::<Shape>("sine 1k"), &["\"sine 1k\"", "wave"]),
        ] {
            for part in says {
                assert!(error.contains(part), "{error:?} does not say {part:?}");
            }
        }
    }

    fn any_time() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0u64..2_000_000).prop_map(Duration::from_micros),
            (0u64..100_000_000).prop_map(Duration::from_millis),
            (0u64..10_000_000).prop_map(Duration::from_secs),
            (0u64..1_000_000_000_000).prop_map(Duration::from_micros),
        ]
    }

    fn any_shape() -> impl Strategy<Value = Shape> {
        let stage = (any::<bool>(), any::<bool>(), any_time(), 1..=RATE_MAX);
        prop_oneof![
            (0..=RATE_MAX).prop_map(Shape::from_rate),
            prop::collection::vec(stage, 1..8).prop_map(|stages| {
                let stages = stages.into_iter().enumerate();
                let stages = stages.map(|(index, (is_named, holds, lasts, rate_per_s))| Stage {
                    name: is_named.then(|| format!("stage-{index}")),
                    way: if holds { Way::Hold } else { Way::Ramp },
                    lasts: lasts.max(Duration::from_micros(1)),
                    rate_per_s,
                });
                Shape::Stages(Stages::new(stages.collect()).unwrap())
            }),
            (0..=RATE_MAX, 1..=RATE_MAX, any_time(), any_time(), any_time()).prop_map(
                |(base_per_s, rate_per_s, lasts, after, pause)| {
                    let lasts = lasts.max(Duration::from_micros(1));
                    let every = lasts + after + pause;
                    Shape::Burst(Burst { base_per_s, rate_per_s, lasts, every, after })
                }
            ),
            (1..=RATE_MAX, any_time(), 0..3usize).prop_map(|(mean_per_s, every, start)| {
                Shape::Wave(Wave {
                    mean_per_s,
                    swing_per_s: mean_per_s / 3,
                    every: every.max(Duration::from_micros(1)),
                    start: WaveStart::ALL[start].1,
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed_to_the_same(shape in any_shape()) {
            let text = shape.to_string();
            prop_assert_eq!(text.parse::<Shape>(), Ok(shape.clone()), "{}", text);
            let json = serde_json::to_string(&shape).unwrap();
            prop_assert_eq!(serde_json::from_str::<Shape>(&json).unwrap(), shape);
        }
    }
}
