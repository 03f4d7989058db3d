//! What a `make` means: the values that are made anew for each message.
//!
//! Owns the keys of each kind, and the steps that it becomes. Leaves references and what stands for
//! itself to [`super`].

use super::{Compiler, Place, Target, in_quotes, join, literal_step, plain, quoted};
use crate::plan::payloads::chance::{Spread, Zipf};
use crate::plan::payloads::keys::{Maker, number, scaled};
use crate::plan::payloads::moment::Format;
use crate::plan::payloads::parts::{Fault, fault};
use crate::plan::payloads::pattern::Pattern;
use crate::plan::payloads::program::{Block, Step};
use crate::plan::payloads::tree::{Node, Value};

const ID_DIGITS_MAX: u64 = 1024;
const DECIMALS_MAX: u64 = 9;

/// Of each alternative, if it says one.
type Weights<'a> = Vec<Option<&'a Node>>;

impl<'a> Compiler<'a> {
    pub(super) fn made(
        &mut self,
        node: &'a Node,
        path: &str,
        place: Place,
    ) -> Result<Block, Fault> {
        let maker = Maker { node, path };
        let number = node.number;
        let word = maker.text("make")?.unwrap_or_default();
        let text = |step: Step| Ok(in_quotes(vec![step], place));
        match word {
            "choice" => self.choice(&maker, place),
            "range" => Ok(vec![range(&maker)?]),
            "counter" => {
                maker.only(&["make", "from", "step"])?;
                let from = maker.integer("from")?.unwrap_or(1);
                Ok(vec![Step::Counter { from, step: maker.integer("step")?.unwrap_or(1) }])
            }
            "pattern" => {
                maker.only(&["make", "pattern"])?;
                let written = maker.text("pattern")?;
                let written = written.ok_or_else(|| maker.wrong("has no pattern".to_owned()))?;
                if place == Place::Plain {
                    plain(written).map_err(|reason| maker.wrong(reason))?;
                }
                let escape = |letter: &str| match place {
                    Place::Plain => letter.to_owned(),
                    Place::Value | Place::Quoted => quoted(letter),
                };
                let pattern =
                    Pattern::parse(written, escape).map_err(|reason| maker.wrong(reason))?;
                text(Step::Pattern { node: number, pattern })
            }
            "id" => {
                maker.only(&["make", "digits"])?;
                let digits = maker.count("digits", 1..=ID_DIGITS_MAX)?.unwrap_or(16);
                let digits = usize::try_from(digits).expect("at most ID_DIGITS_MAX");
                text(Step::Id { node: number, digits })
            }
            "uuid" => {
                maker.only(&["make", "version"])?;
                let version = maker.count("version", 4..=7)?.unwrap_or(4);
                if !matches!(version, 4 | 7) {
                    return Err(maker.wrong(format!("version {version} is not 4 or 7")));
                }
                text(Step::Uuid { node: number, is_timed: version == 7 })
            }
            "timestamp" => {
                maker.only(&["make", "format", "offset", "jitter"])?;
                let format = Format::parse(maker.text("format")?.unwrap_or("rfc3339"))
                    .map_err(|reason| maker.wrong(reason))?;
                let (offset_ns, jitter_ns) = (maker.shift("offset")?, maker.shift("jitter")?);
                let Ok(jitter_ns) = u64::try_from(jitter_ns) else {
                    return Err(maker.wrong("jitter goes both ways by itself".to_owned()));
                };
                let is_number = format.is_number();
                let format = match place {
                    Place::Plain => format,
                    Place::Value | Place::Quoted => format.mapped(quoted),
                };
                let step = Step::Time { node: number, format, offset_ns, jitter_ns };
                if is_number { Ok(vec![step]) } else { text(step) }
            }
            "text" => {
                maker.only(&["make", "words"])?;
                let (from, to) = maker.words()?;
                text(Step::Words { node: number, from, to })
            }
            "reference" => self.typed_reference(&maker, place),
            "literal" => {
                maker.only(&["make", "value"])?;
                let Some(value) = node.get("value") else {
                    return Err(maker.wrong("has no value".to_owned()));
                };
                literal(value, path, place)
            }
            _ => Err(maker.wrong(format!(
                "make {:?} is not one of choice, range, pattern, id, uuid, timestamp, counter, \
                 text, reference, literal",
                word
            ))),
        }
    }

    fn choice(&mut self, maker: &Maker<'a, '_>, place: Place) -> Result<Block, Fault> {
        maker.only(&["make", "of", "weights", "with"])?;
        let Maker { node, path } = *maker;
        let drawn_by = self.drawn_by(maker)?;
        let (mut weights, mut blocks) = (Vec::new(), Vec::new());
        match node.get("of").map(|it| (it, &it.value)) {
            Some((_, Value::Table(members))) => {
                if node.get("weights").is_some() || drawn_by.is_some() {
                    return Err(maker.wrong("a table of weights beside weights or with".into()));
                }
                for (text, weight) in members {
                    let inner = if place == Place::Value { Place::Quoted } else { place };
                    let block = self.pieces(weight, text, path, inner)?;
                    blocks.push(in_quotes(block, place));
                    weights.push(weight);
                }
            }
            Some((_, Value::List(items))) => {
                for (index, item) in items.iter().enumerate() {
                    blocks.push(self.node(item, &format!("{path}.of[{index}]"), place)?);
                }
                match node.get("weights").map(|it| &it.value) {
                    None => {}
                    Some(Value::List(list)) if list.len() == items.len() => weights.extend(list),
                    Some(Value::List(list)) => {
                        return Err(maker.wrong(format!(
                            "{} weights for {} values",
                            list.len(),
                            items.len()
                        )));
                    }
                    Some(_) => return Err(maker.wrong("weights is not a list".to_owned())),
                }
            }
            _ => {
                return Err(maker.wrong(
                    "of is not a list of values, or a table of texts and weights".to_owned(),
                ));
            }
        }
        if blocks.is_empty() {
            return Err(maker.wrong("of has nothing to choose from".to_owned()));
        }
        blocks.iter_mut().for_each(join);
        if let Some((drawn_by, weights)) = drawn_by {
            if weights.len() != blocks.len() {
                return Err(maker.wrong(format!(
                    "{} values with a choice of {}",
                    blocks.len(),
                    weights.len()
                )));
            }
            return Ok(vec![Step::Choice { node: drawn_by, sums: sums(maker, &weights)?, blocks }]);
        }
        let weights: Vec<Option<&Node>> =
            (0..blocks.len()).map(|index| weights.get(index).copied()).collect();
        let sums = sums(maker, &weights)?;
        Ok(vec![Step::Choice { node: node.number, sums, blocks }])
    }

    /// The choice that this one goes with: its number, and its weights.
    fn drawn_by(&self, maker: &Maker<'a, '_>) -> Result<Option<(u32, Weights<'a>)>, Fault> {
        let mut followed = *maker;
        let mut hops = 0;
        while let Some(name) = followed.text("with")? {
            if maker.node.get("weights").is_some() {
                return Err(maker.wrong("weights beside with, which says them".to_owned()));
            }
            let wrong = |reason: &str| maker.wrong(format!("with \"{name}\" {reason}"));
            let node = match self.target(name).map_err(|reason| wrong(&reason))? {
                Target::Node(node, _) => self.behind_reference(node),
                _ => return Err(wrong("is no choice")),
            };
            if !matches!(node.get("make"), Some(Node { value: Value::Text(it), .. }) if it == "choice")
            {
                return Err(wrong("is no choice"));
            }
            hops += 1;
            if hops > 16 {
                return Err(wrong("leads back here"));
            }
            followed = Maker { node, path: maker.path };
        }
        if hops == 0 {
            return Ok(None);
        }
        let weights: Vec<Option<&Node>> = match followed.node.get("of").map(|it| &it.value) {
            Some(Value::Table(members)) => members.iter().map(|(_, it)| Some(it)).collect(),
            Some(Value::List(items)) => match followed.node.get("weights").map(|it| &it.value) {
                Some(Value::List(list)) => list.iter().map(Some).collect(),
                _ => vec![None; items.len()],
            },
            _ => Vec::new(),
        };
        Ok(Some((followed.node.number, weights)))
    }

    /// What a text that is nothing but `${name}` stands for.
    fn behind_reference(&self, mut node: &'a Node) -> &'a Node {
        for _ in 0..16 {
            let Value::Text(text) = &node.value else { break };
            let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            match name.map(|name| self.target(name)) {
                Some(Ok(Target::Node(target, _))) => node = target,
                _ => break,
            }
        }
        node
    }

    /// A reference that keeps the type of what it refers to.
    fn typed_reference(&mut self, maker: &Maker<'a, '_>, place: Place) -> Result<Block, Fault> {
        maker.only(&["make", "to", "as"])?;
        let name = maker.text("to")?;
        let name = name.ok_or_else(|| maker.wrong("has no `to`, a name".to_owned()))?;
        let is_number = maker.word("as", &["text", "number"])? == "number";
        let wrong = |reason: String| maker.wrong(format!("\"{name}\" {reason}"));
        match self.target(name).map_err(wrong)? {
            Target::Cell { feeder, column } if is_number => {
                let file = &self.feeders[feeder];
                let is_json = |cell: &[u8]| {
                    cell.first().is_some_and(|it| it.is_ascii_digit() || *it == b'-')
                        && !cell.ends_with(b" ")
                        && serde_json::from_slice::<serde_json::Number>(cell).is_ok()
                };
                if let Some((row, cell)) = file.find_not(column, is_json) {
                    return Err(wrong(format!("has {cell:?} in row {row}, which is no number")));
                }
                Ok(vec![Step::Cell { feeder, column }])
            }
            _ if is_number => Err(wrong("is no feeder's column: it has its type already".into())),
            _ => self.reference(maker.node, name, maker.path, place),
        }
    }
}

/// The sum of the weights up to each one; what has none weighs 1.
fn sums(maker: &Maker<'_, '_>, weights: &[Option<&Node>]) -> Result<Vec<f64>, Fault> {
    let mut sum = 0.0;
    let mut sums = Vec::with_capacity(weights.len());
    for weight in weights {
        sum += match weight {
            None => 1.0,
            Some(weight) => number(weight)
                .filter(|weight| *weight >= 0.0)
                .ok_or_else(|| maker.wrong(format!("weight {weight} is not a number from 0 on")))?,
        };
        sums.push(sum);
    }
    if sum <= 0.0 || !sum.is_finite() {
        return Err(maker.wrong(format!("the weights add up to {sum}")));
    }
    Ok(sums)
}

/// A value that stands for itself, with its `make` and its `${`.
fn literal(node: &Node, path: &str, place: Place) -> Result<Block, Fault> {
    fn json(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => number.clone(),
            Value::Text(text) => format!("\"{}\"", quoted(text)),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(json).collect();
                format!("[{}]", items.join(","))
            }
            Value::Table(members) => {
                let member =
                    |(name, it): &(String, Node)| format!("\"{}\":{}", quoted(name), json(it));
                let members: Vec<String> = members.iter().map(member).collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }
    match (&node.value, place) {
        (Value::Text(text), Place::Quoted | Place::Plain) => {
            Ok(vec![literal_step(node, path, text, place)?])
        }
        (Value::List(_) | Value::Table(_), Place::Quoted | Place::Plain) => {
            Err(fault(node, path, format!("{node} cannot stand within a text")))
        }
        _ => Ok(vec![Step::Bytes(json(node).into_bytes())]),
    }
}

fn range(maker: &Maker<'_, '_>) -> Result<Step, Fault> {
    maker.only(&[
        "make",
        "from",
        "to",
        "decimals",
        "distribution",
        "mean",
        "deviation",
        "exponent",
    ])?;
    let decimals = maker.count("decimals", 0..=DECIMALS_MAX)?.unwrap_or(0);
    let decimals = u32::try_from(decimals).expect("at most DECIMALS_MAX");
    let bound = |key| {
        let node = maker.node.get(key);
        let node = node.ok_or_else(|| maker.wrong(format!("has no `{key}`")))?;
        scaled(node, decimals).ok_or_else(|| {
            maker.wrong(format!("{key} {node} is not a number with {decimals} decimals at most"))
        })
    };
    let (from, to) = (bound("from")?, bound("to")?);
    if from > to {
        let [from, to] = ["from", "to"].map(|key| maker.node.get(key).map(Node::to_string));
        let [from, to] = [from, to].map(Option::unwrap_or_default);
        return Err(maker.wrong(format!("from {from} is more than to {to}")));
    }
    let scale = 10f64.powi(decimals.cast_signed());
    let (low, high) = (from as f64 / scale, to as f64 / scale);
    let distribution = maker.word("distribution", &["uniform", "normal", "exponential", "zipf"])?;
    let knows: &[&str] = match distribution {
        "normal" => &["mean", "deviation"],
        "exponential" => &["mean"],
        "zipf" => &["exponent"],
        _ => &[],
    };
    for key in ["mean", "deviation", "exponent"] {
        if maker.node.get(key).is_some() && !knows.contains(&key) {
            return Err(maker.wrong(format!("{key} means nothing to distribution {distribution}")));
        }
    }
    let within = |key: &str, default: f64, low: f64, high: f64| match maker.node.get(key) {
        None => Ok(default),
        Some(node) => {
            number(node).filter(|number| (low..=high).contains(number)).ok_or_else(|| {
                maker.wrong(format!("{key} {node} is not a number within {low} and {high}"))
            })
        }
    };
    let width = (high - low).max(f64::MIN_POSITIVE);
    let spread = match distribution {
        "normal" => Spread::Normal {
            mean: within("mean", f64::midpoint(low, high), low, high)? * scale,
            deviation: within("deviation", width / 6.0, 0.0, f64::MAX)? * scale,
        },
        "exponential" => {
            let mean = within("mean", low + width / 5.0, low, f64::MAX)?;
            // What is above the lower bound; at least something.
            Spread::Exponential { mean: ((mean - low) * scale).max(1e-9) }
        }
        "zipf" => {
            let count = to.abs_diff(from).saturating_add(1);
            Spread::Zipf(Zipf::new(count, within("exponent", 1.0, 0.01, 20.0)?))
        }
        _ => Spread::Uniform,
    };
    Ok(Step::Range { node: maker.node.number, from, to, decimals, spread })
}
