//! Rows of a CSV file that messages take their values from: credentials, device ids.
//!
//! Owns reading the file, and which row a message has. The whole file is in memory once for all
//! shards, as text with its escapes: about its own size, and [`FILE_BYTES_MAX`] at most.
//!
//! | mode | per | row |
//! |---|---|---|
//! | `shared` | `message` | the next one that no message of the flow had, whoever sends it |
//! | `shared` | `connection` | each connection has one of its own and keeps it |
//! | `per-worker` | `message` | each connection goes through all rows by itself, from the first |
//!
//! Invariant: but for `shared` by `message`, which needs to ask the others, a message's row follows
//! from the seed, the connection and the number of the message.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Author, MessageKey, Numbering};
use crate::plan::random::Random;

/// Of one file, as it lies in memory.
const FILE_BYTES_MAX: usize = 256 << 20;

/// How rows are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    SharedMessage,
    SharedConnection,
    PerWorker,
    RandomMessage,
    RandomConnection,
}

/// What a template says of a feeder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) pick: Pick,
    /// Rows in an order by chance, not that of the file.
    pub(super) is_shuffled: bool,
    /// The load ends with the last row.
    pub(super) stops: bool,
    pub(super) delimiter: u8,
}

/// A file, read.
#[derive(Debug)]
pub(super) struct Feeder {
    pub(super) asked: Asked,
    columns: Vec<Column>,
    rows: usize,
    /// Of a shuffled file: which row is the n-th.
    order: Option<Vec<u32>>,
    /// Rows that messages have taken.
    taken: AtomicU64,
}

#[derive(Debug)]
struct Column {
    name: String,
    cells: Vec<u8>,
    /// Where the cell of row i ends in `cells`.
    ends: Vec<u32>,
    bytes_max: usize,
}

impl Feeder {
    /// Reads `path`; `escape` rewrites a cell for the place where it will stand. The seed fixes the
    /// order of a shuffled one.
    ///
    /// # Errors
    /// Names the line of the file that is not understood.
    pub(super) fn read(
        asked: Asked,
        path: &Path,
        seed: u64,
        escape: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Feeder, String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let reader = csv::ReaderBuilder::new().delimiter(asked.delimiter).from_path(path);
        let mut reader = reader.map_err(|error| wrong(words(&error)))?;
        let header = reader.headers().map_err(|error| wrong(words(&error)))?;
        let name = |name: &str| name.trim_start_matches('\u{feff}').trim().to_owned();
        let mut columns: Vec<Column> = header
            .iter()
            .map(|text| Column {
                name: name(text),
                cells: Vec::new(),
                ends: Vec::new(),
                bytes_max: 0,
            })
            .collect();
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].iter().any(|other| other.name == column.name) {
                return Err(wrong(format!("two columns are called \"{}\"", column.name)));
            }
        }
        let (mut rows, mut bytes) = (0, 0);
        let mut row = csv::StringRecord::new();
        while reader.read_record(&mut row).map_err(|error| wrong(words(&error)))? {
            let line = row.position().map_or(0, csv::Position::line);
            for (column, cell) in columns.iter_mut().zip(&row) {
                let cell = escape(cell).map_err(|reason| {
                    wrong(format!("line {line}, column \"{}\": {reason}", column.name))
                })?;
                column.cells.extend_from_slice(cell.as_bytes());
                column.bytes_max = column.bytes_max.max(cell.len());
                bytes += cell.len() + size_of::<u32>();
                if bytes > FILE_BYTES_MAX {
                    let mib = FILE_BYTES_MAX >> 20;
                    return Err(wrong(format!(
                        "more than {mib} MiB: split it, or leave columns out"
                    )));
                }
                column.ends.push(u32::try_from(column.cells.len()).expect("at most 256 MiB"));
            }
            rows += 1;
        }
        if rows == 0 {
            return Err(wrong("no row below the names of its columns".to_owned()));
        }
        let order = asked.is_shuffled.then(|| {
            let mut order: Vec<u32> = (0..u32::try_from(rows).unwrap_or(u32::MAX)).collect();
            Random::new(seed).shuffle(&mut order);
            order
        });
        Ok(Feeder { asked, columns, rows, order, taken: AtomicU64::new(0) })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// In words: `devices: 1000 rows, …`.
    pub(super) fn told(&self) -> String {
        let Asked { name, pick, is_shuffled, stops, .. } = &self.asked;
        let rows = if self.rows == 1 { "1 row".to_owned() } else { format!("{} rows", self.rows) };
        let how = match pick {
            Pick::SharedMessage => "the next one for each message",
            Pick::SharedConnection => "one for each connection",
            Pick::PerWorker => "each connection goes through all of them",
            Pick::RandomMessage => "a random one for each message",
            Pick::RandomConnection => "a random one for each connection",
        };
        let shuffled = if *is_shuffled { ", shuffled" } else { "" };
        let end = if *stops { "; the load ends with the last" } else { "" };
        format!("{name}: {rows}{shuffled}, {how}{end}")
    }

    /// The names of its columns.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Which column has this name.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The longest cell of a column.
    pub(super) fn bytes_max(&self, column: usize) -> usize {
        self.columns[column].bytes_max
    }

    /// The first cell of a column that `holds` says no to, and its row from 1.
    pub(super) fn find_not(
        &self,
        column: usize,
        holds: impl Fn(&[u8]) -> bool,
    ) -> Option<(usize, String)> {
        let row = (0..self.rows).find(|row| !holds(self.cell(column, *row)))?;
        Some((row + 1, String::from_utf8_lossy(self.cell(column, row)).into_owned()))
    }

    /// The row of message `seq`; asked once for each message, as the next may be another one.
    pub(super) fn row(
        &self,
        numbering: Numbering,
        key: MessageKey,
        author: &Author,
        seq: u64,
        index: u32,
    ) -> usize {
        let rows = self.rows as u64;
        let nth = match self.asked.pick {
            Pick::SharedMessage => self.taken.fetch_add(1, Ordering::Relaxed) % rows,
            Pick::SharedConnection => numbering.rank(author) % rows,
            Pick::PerWorker => seq % rows,
            Pick::RandomMessage => key.feeder(index).below(rows),
            Pick::RandomConnection => key.feeder_of_connection(index).below(rows),
        };
        #[expect(clippy::cast_possible_truncation, reason = "below the number of rows")]
        let nth = nth as usize;
        self.order.as_ref().map_or(nth, |order| order[nth] as usize)
    }

    pub(super) fn cell(&self, column: usize, row: usize) -> &[u8] {
        let Column { cells, ends, .. } = &self.columns[column];
        let start = if row == 0 { 0 } else { ends[row - 1] as usize };
        &cells[start..ends[row] as usize]
    }
}

/// What the csv reader says, with the line and without its own name.
fn words(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Io(error) => error.to_string(),
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            format!("line {line} has {len} columns, not {expected_len}")
        }
        csv::ErrorKind::Utf8 { pos, .. } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            format!("line {line} is not UTF-8")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan::payloads::Key;

    fn asked(pick: Pick) -> Asked {
        let name = "devices".to_owned();
        Asked { name, pick, is_shuffled: false, stops: false, delimiter: b',' }
    }

    fn read(text: &str, asked: Asked) -> Result<Feeder, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.csv");
        std::fs::write(&path, text).unwrap();
        Feeder::read(asked, &path, 1, |cell| Ok(cell.to_owned()))
    }

    fn cells(feeder: &Feeder, conn: u64, seqs: std::ops::Range<u64>) -> Vec<String> {
        let author = Author::new(conn);
        let numbering = Numbering::default();
        seqs.map(|seq| {
            let key = Key::new(1).of(&author, seq);
            let row = feeder.row(numbering, key, &author, seq, 0);
            String::from_utf8(feeder.cell(feeder.column("id").unwrap(), row).to_vec()).unwrap()
        })
        .collect()
    }

    const ROWS: &str = "id,name\na,\"x, \"\"y\"\"\"\nb,\nc,é\n";

    #[test]
    fn quotes_and_empty_cells_are_read_as_spreadsheets_write_them() {
        let feeder = read(ROWS, asked(Pick::PerWorker)).unwrap();
        let name = feeder.column("name").unwrap();
        let cells: Vec<_> = (0..3).map(|row| feeder.cell(name, row)).collect();
        assert_eq!(cells, ["x, \"y\"".as_bytes(), b"", "é".as_bytes()]);
        assert_eq!((feeder.rows(), feeder.bytes_max(name)), (3, 6));
        let semicolons = Asked { delimiter: b';', ..asked(Pick::PerWorker) };
        let feeder = read("\u{feff}id;b\r\n1;2\r\n", semicolons).unwrap();
        assert_eq!(feeder.names().collect::<Vec<_>>(), ["id", "b"]);
    }

    #[test]
    fn rows_are_handed_out_as_asked() {
        let shared = read(ROWS, asked(Pick::SharedMessage)).unwrap();
        assert_eq!(cells(&shared, 0, 0..2), ["a", "b"]);
        assert_eq!(cells(&shared, 9, 0..2), ["c", "a"]);
        let own = read(ROWS, asked(Pick::PerWorker)).unwrap();
        for conn in [0, 7] {
            assert_eq!(cells(&own, conn, 0..4), ["a", "b", "c", "a"]);
        }
        let kept = read(ROWS, asked(Pick::SharedConnection)).unwrap();
        let all: Vec<_> = (0..4).map(|conn| cells(&kept, conn, 0..2)).collect();
        assert_eq!(all, [["a", "a"], ["b", "b"], ["c", "c"], ["a", "a"]]);
        let random = read(ROWS, asked(Pick::RandomMessage)).unwrap();
        let drawn = cells(&random, 0, 0..100);
        assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), 3);
        assert_eq!(drawn, cells(&random, 0, 0..100), "the seed fixes them");
        assert_ne!(drawn, cells(&random, 1, 0..100));
        let random = read(ROWS, asked(Pick::RandomConnection)).unwrap();
        for conn in 0..20 {
            assert_eq!(cells(&random, conn, 0..9).iter().collect::<BTreeSet<_>>().len(), 1);
        }
    }

    #[test]
    fn a_shuffled_file_has_every_row_once() {
        let text: String = std::iter::once("id\n".to_owned())
            .chain((0..100).map(|row| format!("{row}\n")))
            .collect();
        let shuffled = Asked { is_shuffled: true, ..asked(Pick::SharedMessage) };
        let feeder = read(&text, shuffled).unwrap();
        let drawn = cells(&feeder, 0, 0..100);
        assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), 100);
        assert!(drawn.windows(2).any(|pair| pair[0].len() > pair[1].len()));
    }

    #[test]
    fn a_wrong_file_is_named_with_its_line() {
        for (text, hint) in [
            ("id,name\na\n", "line 2 has 1 columns, not 2"),
            ("id\n", "no row below"),
            ("id,id\na,b\n", "two columns are called \"id\""),
            ("", "no row"),
        ] {
            let error = read(text, asked(Pick::PerWorker)).unwrap_err();
            assert!(error.contains(hint) && error.contains("devices.csv"), "{error}");
        }
        let absent = Feeder::read(asked(Pick::PerWorker), Path::new("/no/file"), 1, |cell| {
            Ok(cell.to_owned())
        });
        assert!(absent.unwrap_err().contains("/no/file"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes.csv");
        std::fs::write(&path, b"id\na\n\xff\n").unwrap();
        let error =
            Feeder::read(asked(Pick::PerWorker), &path, 1, |cell| Ok(cell.to_owned())).unwrap_err();
        assert!(error.contains("line 3 is not UTF-8"), "{error}");
    }
}
