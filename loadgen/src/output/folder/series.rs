//! `series.csv`: a header, then a row a second; times in nanoseconds, an empty cell is unknown.
//!
//! Owns the columns, which are the fields of a second of the summary, in their order. A row is
//! written in one piece.

use std::fmt;
use std::io;
use std::path::Path;

use loadgen::measure::progress::Second;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::Growing;

/// The file.
#[derive(Debug)]
pub(crate) struct Rows {
    file: Growing,
    columns: Vec<String>,
    last_end_ns: Option<u64>,
}

impl Rows {
    /// Begins it.
    pub(crate) fn create(path: &Path) -> io::Result<Rows> {
        let mut file = Growing::create(path)?;
        let whole = Second { warmup: true, rejected: 1, ..Second::default() };
        let columns: Vec<String> = Cells::of(&whole).0.into_iter().map(|(name, _)| name).collect();
        file.append(&(columns.join(",") + "\n"))?;
        Ok(Rows { file, columns, last_end_ns: None })
    }

    /// One more second.
    pub(crate) fn append(&mut self, second: &Second) -> io::Result<()> {
        let known = Cells::of(second).0;
        let cell = |name: &String| known.iter().find(|(known, _)| known == name);
        // Only a flag that is not set, and a count that is rare, are left out.
        let absent = |name: &str| if name == "warmup" { "false" } else { "0" };
        let row = self.columns.iter().map(|name| cell(name).map_or(absent(name), |(_, it)| it));
        let row: Vec<&str> = row.collect();
        self.last_end_ns = Some(second.end_ns);
        self.file.append(&(row.join(",") + "\n"))
    }

    /// The seconds of the summary that have not been told while it ran, and safe.
    pub(crate) fn finish(mut self, series: &[Second]) -> io::Result<()> {
        let last_end_ns = self.last_end_ns;
        for second in series.iter().filter(|it| last_end_ns.is_none_or(|end| it.end_ns > end)) {
            self.append(second)?;
        }
        self.file.finish()
    }
}

/// The fields of a second with their names, in order.
struct Cells(Vec<(String, String)>);

impl Cells {
    fn of(second: &Second) -> Cells {
        let text = serde_json::to_string(second).expect("a second is plain data");
        serde_json::from_str(&text).expect("a second is an object")
    }
}

impl<'de> Deserialize<'de> for Cells {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Cells, D::Error> {
        from.deserialize_map(CellsVisitor)
    }
}

struct CellsVisitor;

impl<'de> Visitor<'de> for CellsVisitor {
    type Value = Cells;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cells, A::Error> {
        let mut cells = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            let cell = match value {
                Value::Null => String::new(),
                Value::String(text) => quoted(&text),
                value => value.to_string(),
            };
            cells.push((name, cell));
        }
        Ok(Cells(cells))
    }
}

/// As RFC 4180 has it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_is_a_row_and_the_last_ones_come_from_the_summary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("series.csv");
        let second = |end_s: u64, p50| Second {
            end_ns: end_s * 1_000_000_000,
            ok: end_s,
            response_p50_ns: p50,
            ..Second::default()
        };
        let mut rows = Rows::create(&path).unwrap();
        rows.append(&second(1, None)).unwrap();
        rows.finish(&[second(1, None), second(2, Some(7))]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{text}");
        assert_eq!(lines[0][0], "end_ns");
        let column = |name| lines[0].iter().position(|cell| *cell == name).unwrap();
        let (ok, p50) = (column("ok"), column("response_p50_ns"));
        assert_eq!([lines[1][ok], lines[2][ok]], ["1", "2"]);
        assert_eq!([lines[1][p50], lines[2][p50]], ["", "7"]);
        assert_eq!(lines[1][column("warmup")], "false");
    }

    #[test]
    fn a_cell_with_a_comma_is_quoted() {
        assert_eq!(quoted("30s:1k,10s:0"), "\"30s:1k,10s:0\"");
        assert_eq!(quoted("a \"b\""), "\"a \"\"b\"\"\"");
    }
}
