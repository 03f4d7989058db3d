//! A disk in memory that fails on demand, and loses what was not synced.
//!
//! Everything completes at once; a hook decides on every operation whether it succeeds. What a
//! power loss may leave is any mix of the synced contents and the writes since then, sector by
//! sector: a sector is old or new, never garbage.

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use fastrand::Rng;

use super::Disk;

const SECTOR: usize = 512;

/// What the disk is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Write { offset: u64, bytes: usize },
    Sync,
    Truncate { bytes: u64 },
    Close,
    Remove,
    SyncDirectory,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    /// Nothing happens.
    Fail(io::ErrorKind),
    /// So many bytes are written, and it says so.
    Short(usize),
    /// So many bytes are written, but it says that it failed.
    Torn(usize, io::ErrorKind),
}

/// See the module.
#[derive(Clone)]
pub(crate) struct FaultyDisk(Rc<RefCell<State>>);

type Judge = dyn FnMut(&Path, &Operation) -> Verdict;

struct State {
    files: BTreeMap<PathBuf, Rc<RefCell<Contents>>>,
    log: Vec<(PathBuf, Operation, Verdict)>,
    judge: Box<Judge>,
}

/// A file: what a reader sees, and what a power loss leaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub(crate) bytes: Vec<u8>,
    pub(crate) synced: Vec<u8>,
    /// Since the last sync.
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDisk").finish_non_exhaustive()
    }
}

impl FaultyDisk {
    /// A disk on which `judge` decides.
    pub(crate) fn new(judge: impl FnMut(&Path, &Operation) -> Verdict + 'static) -> FaultyDisk {
        let judge = Box::new(judge);
        FaultyDisk(Rc::new(RefCell::new(State { files: BTreeMap::new(), log: Vec::new(), judge })))
    }

    /// What `view` makes of each file, by path.
    pub(crate) fn files<T>(&self, view: impl Fn(&Contents) -> T) -> Vec<(PathBuf, T)> {
        let state = self.0.borrow();
        state.files.iter().map(|(path, file)| (path.clone(), view(&file.borrow()))).collect()
    }

    /// Every operation so far, and what came of it.
    pub(crate) fn log(&self) -> Ref<'_, [(PathBuf, Operation, Verdict)]> {
        Ref::map(self.0.borrow(), |state| state.log.as_slice())
    }

    /// Writes what the end of the process leaves to the real directory `root`.
    pub(crate) fn after_kill(&self, root: &Path) {
        self.save(root, |contents| contents.bytes.clone());
    }

    /// Writes what a power loss may leave to the real directory `root`.
    pub(crate) fn after_power_loss(&self, root: &Path, rng: &mut Rng) {
        self.save(root, |contents| {
            let mut bytes = contents.synced.clone();
            // How many writes come through at all is a matter of luck, too.
            let chance = rng.f64();
            for change in &contents.unsynced {
                match change {
                    Change::Write(offset, data) => {
                        for (index, sector) in data.chunks(SECTOR).enumerate() {
                            if rng.f64() < chance {
                                put(&mut bytes, offset + index * SECTOR, sector);
                            }
                        }
                    }
                    Change::Truncate(length) if rng.f64() < chance => bytes.resize(*length, 0),
                    Change::Truncate(_) => {}
                }
            }
            bytes
        });
    }

    fn save(&self, root: &Path, mut image: impl FnMut(&Contents) -> Vec<u8>) {
        for (path, contents) in self.files(Contents::clone) {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, image(&contents)).unwrap();
        }
    }

    fn ask(&self, path: &Path, operation: Operation) -> Verdict {
        let mut state = self.0.borrow_mut();
        let verdict = (state.judge)(path, &operation);
        state.log.push((path.to_owned(), operation, verdict));
        verdict
    }

    fn must(&self, path: &Path, operation: Operation) -> io::Result<()> {
        match self.ask(path, operation) {
            Verdict::Go => Ok(()),
            Verdict::Fail(kind) | Verdict::Torn(_, kind) => Err(kind.into()),
            Verdict::Short(_) => unreachable!("only a write is short"),
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

/// An open file of this disk.
#[derive(Debug)]
pub(crate) struct FaultyFile {
    path: PathBuf,
    contents: Rc<RefCell<Contents>>,
}

impl Disk for FaultyDisk {
    type File = FaultyFile;
    type Buf = Vec<u8>;

    fn alloc(&self, bytes: usize) -> Vec<u8> {
        vec![b'?'; bytes]
    }

    async fn create(&self, path: &Path, _: u64) -> io::Result<FaultyFile> {
        self.must(path, Operation::Create)?;
        let contents = Rc::<RefCell<Contents>>::default();
        let mut state = self.0.borrow_mut();
        if state.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.insert(path.to_owned(), Rc::clone(&contents));
        Ok(FaultyFile { path: path.to_owned(), contents })
    }

    async fn write_at(
        &self,
        file: &FaultyFile,
        buf: Vec<u8>,
        len: usize,
        offset: u64,
    ) -> io::Result<usize> {
        assert!(len.is_multiple_of(super::super::BLOCK), "direct I/O takes whole blocks");
        assert!(offset.is_multiple_of(super::super::BLOCK as u64), "direct I/O takes whole blocks");
        let start = usize::try_from(offset).unwrap();
        let (bytes, result) = match self.ask(&file.path, Operation::Write { offset, bytes: len }) {
            Verdict::Go => (len, Ok(len)),
            Verdict::Fail(kind) => (0, Err(kind.into())),
            Verdict::Short(bytes) => (bytes.min(len), Ok(bytes.min(len))),
            Verdict::Torn(bytes, kind) => (bytes.min(len), Err(kind.into())),
        };
        if bytes > 0 {
            let mut contents = file.contents.borrow_mut();
            put(&mut contents.bytes, start, &buf[..bytes]);
            contents.unsynced.push(Change::Write(start, buf[..bytes].to_vec()));
        }
        result
    }

    async fn sync(&self, file: &FaultyFile) -> io::Result<()> {
        self.must(&file.path, Operation::Sync)?;
        let mut contents = file.contents.borrow_mut();
        contents.synced = contents.bytes.clone();
        contents.unsynced.clear();
        Ok(())
    }

    async fn truncate(&self, file: &FaultyFile, bytes: u64) -> io::Result<()> {
        self.must(&file.path, Operation::Truncate { bytes })?;
        let bytes = usize::try_from(bytes).unwrap();
        let mut contents = file.contents.borrow_mut();
        contents.bytes.resize(bytes, 0);
        contents.unsynced.push(Change::Truncate(bytes));
        Ok(())
    }

    async fn close(&self, file: FaultyFile) -> io::Result<()> {
        self.must(&file.path, Operation::Close)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.must(path, Operation::Remove)?;
        self.0.borrow_mut().files.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.must(path, Operation::SyncDirectory)
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        // Nothing here ever waits.
        futures_lite::future::block_on(work);
    }
}
