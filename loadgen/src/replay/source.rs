//! Where a recording lies: a file, plain, gzip or zstd, or a folder of the engine's segments.
//!
//! Owns which files there are and how they are opened. A *strand* is files that are read one after
//! the other; the segments of one shard are one, and strands are merged by time.
//! Invariant: what is opened twice is read the same: a file that grows as far as it was there at
//! first, even if the replay itself makes it grow; a pipe, which cannot be read again, is refused.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::vec;

use flate2::read::MultiGzDecoder;
use proto::packed::{self, Content};
use rustix::fs::{Advice, fadvise};

use super::lines::{Lines, Step};
use crate::plan::replay::screen::{Bad, Layout, Read, SAMPLE_LINES, Screened};

/// Compressed bytes asked of a file at once.
const GZIP_READ_BYTES: usize = 64 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Each has a file open and a buffer.
const STRANDS_MAX: usize = 256;

/// The files of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) strands: Vec<Vec<Part>>,
}

/// A file, as long as it was when it was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    path: PathBuf,
    bytes: u64,
}

impl Source {
    /// What lies at `path`.
    ///
    /// # Errors
    /// Nothing is there, or nothing that could be read again and again.
    pub(crate) fn find(path: &Path) -> Result<Source, String> {
        let about = fs::metadata(path).map_err(|error| error.to_string())?;
        let strands = if about.is_dir() {
            segments(path).map_err(|error| error.to_string())?
        } else if about.is_file() {
            File::open(path).map_err(|error| error.to_string())?;
            vec![vec![Part { path: path.to_owned(), bytes: about.len() }]]
        } else {
            return Err("it is neither a file nor a folder".to_owned());
        };
        if strands.is_empty() {
            return Err("the folder has no segments (shard-*/*.ndjson)".to_owned());
        }
        if strands.len() > STRANDS_MAX {
            return Err(format!("{} shards are more than {STRANDS_MAX}", strands.len()));
        }
        Ok(Source { strands })
    }
}

/// The segments of each shard in a LOG_DIR, or of the one shard whose folder it is.
fn segments(folder: &Path) -> io::Result<Vec<Vec<Part>>> {
    let own = segments_of_shard(folder)?;
    let mut strands = if own.is_empty() { Vec::new() } else { vec![own] };
    let mut shards: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_shard =
            entry.file_name().to_str().is_some_and(|name| proto::segment::shard_of(name).is_some());
        if is_shard && entry.path().is_dir() {
            shards.push(entry.path());
        }
    }
    shards.sort();
    for shard in shards {
        strands.push(segments_of_shard(&shard)?);
    }
    strands.retain(|strand| !strand.is_empty());
    Ok(strands)
}

fn segments_of_shard(folder: &Path) -> io::Result<Vec<Part>> {
    let mut numbered = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| proto::segment::number_of(packed::plain_name(name)));
        let about = entry.metadata()?;
        if let Some(number) = number.filter(|_| about.is_file()) {
            numbered.push((number, Part { path: entry.path(), bytes: about.len() }));
        }
    }
    numbered.sort();
    // Where one is there plain and packed, the plain one counts; its name is the first.
    numbered.dedup_by_key(|&mut (number, _)| number);
    Ok(numbered.into_iter().map(|(_, part)| part).collect())
}

type Input = Box<dyn io::Read + Send>;

/// A file, unpacked where it is gzip or zstd: told by its first bytes, not by its name.
fn open(part: &Part) -> io::Result<Input> {
    let mut file = File::open(&part.path)?;
    let mut magic = Vec::new();
    file.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    // Doubles the kernel's read-ahead; a file system that refuses advice is read all the same.
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    let file = file.take(part.bytes);
    if magic == ZSTD_MAGIC {
        return Ok(Box::new(Content::of(packed::ENDING, file)?));
    }
    Ok(match magic.starts_with(&GZIP_MAGIC) {
        true => Box::new(MultiGzDecoder::new(BufReader::with_capacity(GZIP_READ_BYTES, file))),
        false => Box::new(file),
    })
}

/// A strand that is being read.
pub(crate) struct Strand {
    parts: vec::IntoIter<Part>,
    input: Option<(PathBuf, Lines<Input>)>,
    /// What kept a file from being read to its end.
    pub(crate) broken: Option<String>,
}

impl Strand {
    pub(crate) fn new(parts: Vec<Part>) -> Strand {
        Strand { parts: parts.into_iter(), input: None, broken: None }
    }

    /// The line that was stepped to.
    pub(crate) fn line(&self) -> &[u8] {
        self.input.as_ref().map_or(&[], |(_, lines)| lines.line())
    }

    /// Goes to the next line that says when it was recorded; counts those that do not. `None` at
    /// the end.
    pub(crate) fn advance(
        &mut self,
        layout: &Layout,
        wants_level: bool,
        screened: &mut Screened,
    ) -> Option<Read> {
        loop {
            let read = match self.step() {
                Step::End => return None,
                Step::TooLong => Err(Bad::TooLong),
                Step::Line => layout.read(self.line(), wants_level),
            };
            match read {
                Ok(read) => return Some(read),
                Err(bad) => screened.bad(bad),
            }
        }
    }

    /// Goes to the next line of whichever file is next; one that cannot be read on is left.
    pub(crate) fn step(&mut self) -> Step {
        loop {
            if let Some((path, lines)) = &mut self.input {
                match lines.step() {
                    Ok(Step::End) => {}
                    Ok(step) => return step,
                    Err(error) => self.broken = Some(format!("{}: {error}", path.display())),
                }
                self.input = None;
            }
            let Some(part) = self.parts.next() else { return Step::End };
            match open(&part) {
                Ok(input) => self.input = Some((part.path, Lines::new(input))),
                Err(error) => self.broken = Some(format!("{}: {error}", part.path.display())),
            }
        }
    }
}

/// All strands as one, in the order of time.
pub(crate) struct Merged {
    strands: Vec<Strand>,
    /// Strands by when their next line was recorded, the earliest first.
    heap: BinaryHeap<Reverse<(i64, usize)>>,
    /// What each strand's next line says; the heap has its time.
    reads: Vec<Option<Read>>,
    /// The strand whose line was given last.
    current: Option<usize>,
}

impl Merged {
    pub(crate) fn new(source: &Source) -> Merged {
        let strands: Vec<Strand> = source.strands.iter().cloned().map(Strand::new).collect();
        let reads = vec![None; strands.len()];
        Merged { heap: BinaryHeap::with_capacity(strands.len()), strands, reads, current: None }
    }

    /// Goes to the next line that says when it was recorded; see [`Strand::advance`].
    pub(crate) fn advance(
        &mut self,
        layout: &Layout,
        wants_level: bool,
        screened: &mut Screened,
    ) -> Option<Read> {
        if let [strand] = &mut self.strands[..] {
            self.current = Some(0);
            return strand.advance(layout, wants_level, screened);
        }
        let behind = match self.current {
            None => 0..self.strands.len(),
            Some(current) => current..current + 1,
        };
        for index in behind {
            let read = self.strands[index].advance(layout, wants_level, screened);
            self.reads[index] = read;
            self.heap.extend(read.map(|read| Reverse((read.at_ns, index))));
        }
        let Reverse((_, index)) = self.heap.pop()?;
        self.current = Some(index);
        self.reads[index]
    }

    /// The line that was advanced to.
    pub(crate) fn line(&self) -> &[u8] {
        self.current.map_or(&[], |current| self.strands[current].line())
    }

    /// What kept a file from being read to its end.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.strands.iter().find_map(|strand| strand.broken.as_deref())
    }
}

/// The first lines of a recording, by which its format is told; what is too long is left out.
pub(crate) fn sample(source: &Source) -> (Vec<Vec<u8>>, Option<String>) {
    let mut lines = Vec::new();
    let mut broken = None;
    for parts in &source.strands {
        let mut strand = Strand::new(parts.clone());
        while lines.len() < SAMPLE_LINES {
            match strand.step() {
                Step::Line => lines.push(strand.line().to_vec()),
                Step::TooLong => {}
                Step::End => break,
            }
        }
        broken = broken.or(strand.broken);
    }
    (lines, broken)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::plan::replay::{Format, Replay};

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn line(at: u64) -> String {
        format!("{{\"timestamp\":{},\"n\":{at}}}\n", 1_700_000_000 + at)
    }

    fn all(source: &Source) -> (Vec<u64>, Screened, Option<String>) {
        let layout = Layout { format: Format::Ndjson, timestamp_field: "timestamp".to_owned() };
        let (mut merged, mut screened) = (Merged::new(source), Screened::default());
        let mut found = Vec::new();
        while let Some(read) = merged.advance(&layout, false, &mut screened) {
            let value: serde_json::Value = serde_json::from_slice(merged.line()).unwrap();
            let n = value["n"].as_u64().unwrap();
            assert_eq!(read.at_ns, (1_700_000_000 + n.cast_signed()) * 1_000_000_000);
            found.push(n);
        }
        (found, screened, merged.broken().map(str::to_owned))
    }

    #[test]
    fn the_members_of_a_gzip_file_are_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("without-a-telling-name");
        let whole: String = (0..1000).map(line).collect();
        let (one, other) = whole.split_at(777);
        fs::write(&path, [gzip(one), gzip(""), gzip(other)].concat()).unwrap();
        let source = Source::find(&path).unwrap();
        assert_eq!(all(&source), ((0..1000).collect(), Screened::default(), None));
        let (lines, broken) = sample(&source);
        assert_eq!((lines.len(), broken), (SAMPLE_LINES, None));
        // Torn off: what came before is there, and it is said.
        let torn = gzip(&whole);
        fs::write(&path, &torn[..torn.len() / 2]).unwrap();
        let (found, _, broken) = all(&source);
        assert!(found.len() < 1000 && found.iter().copied().eq(0..found.len() as u64));
        assert!(broken.unwrap().contains("without-a-telling-name"));
    }

    #[test]
    fn a_file_that_grows_is_read_as_far_as_it_was_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = (0..10).map(line).collect();
        fs::write(file.path(), &text).unwrap();
        let source = Source::find(file.path()).unwrap();
        fs::write(file.path(), text.clone() + &line(10)).unwrap();
        for _ in 0..2 {
            assert_eq!(all(&source), ((0..10).collect(), Screened::default(), None));
        }
        assert_eq!(all(&Source::find(file.path()).unwrap()).0.len(), 11);
    }

    #[test]
    fn the_segments_of_shards_are_merged_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let write = |shard: usize, number: u64, text: String| {
            let shard = folder.path().join(proto::segment::shard_name(shard));
            fs::create_dir_all(&shard).unwrap();
            fs::write(shard.join(proto::segment::file_name(number)), text).unwrap();
        };
        // Padded with line ends, torn at its end, and of three shards of which one is empty.
        write(0, 1, [0, 3, 4].map(line).concat() + "\n\n\n");
        // Packed by now; and one that is being packed, whose plain file counts.
        let packed = |number: u64, text: String| {
            let name = proto::segment::file_name(number) + packed::ENDING;
            let bytes = zstd::encode_all(text.as_bytes(), 3).unwrap();
            fs::write(folder.path().join("shard-03").join(name), bytes).unwrap();
        };
        write(0, 2, [5, 9].map(line).concat() + "{\"timestamp\":17000");
        write(3, 10, [2, 8].map(line).concat());
        packed(9, [1].map(line).concat());
        packed(10, [2, 8].map(line).concat());
        write(7, 1, String::new());
        fs::write(folder.path().join("shard-00/000000000001.crc"), "no segment").unwrap();
        fs::write(folder.path().join("notes.ndjson"), "no segment").unwrap();
        let source = Source::find(folder.path()).unwrap();
        let (found, screened, broken) = all(&source);
        assert_eq!(found, [0, 1, 2, 3, 4, 5, 8, 9]);
        assert_eq!((screened.lines, screened.malformed, broken), (1, 1, None));
        let shard = Source::find(&folder.path().join("shard-03")).unwrap();
        assert_eq!(all(&shard).0, [1, 2, 8]);
        let layout = Layout::of(&Replay::default(), &sample(&source).0).unwrap();
        assert_eq!(layout.timestamp_field, "timestamp");
    }

    #[test]
    fn what_is_no_recording_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = |path: &Path| Source::find(path).unwrap_err();
        assert!(wrong(folder.path()).contains("no segments"));
        assert!(wrong(&folder.path().join("none")).contains("No such file"));
        assert!(wrong(Path::new("/dev/null")).contains("neither"));
    }
}
