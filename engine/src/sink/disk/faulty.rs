//! A disk in memory that fails on demand, and loses what was not synced.
//!
//! A hook decides what comes of every operation; operations may take several turns, so that those
//! of several tasks interleave. What a power loss may leave is any mix of the synced contents and
//! the changes since then, sector by sector (a sector is old or new, never garbage), and of each
//! directory entry any state since the directory was synced. A failed sync may drop what it should
//! have kept: a later one does not bring it back. An operation in flight when the machine or the
//! process dies has happened in part, in full or not at all, and nobody learns of it.

use std::cell::{Ref, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs;
use std::future::{Future, pending};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

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
    Put,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    /// Nothing happens.
    Fail(io::ErrorKind),
    /// It happens, but it says that it failed.
    Deny(io::ErrorKind),
    /// Nothing happens, but it says that it did: what a bug above the disk would amount to.
    Lie,
    /// So many bytes are written, and it says so.
    Short(usize),
    /// So many bytes are written, but it says that it failed.
    Torn(usize, io::ErrorKind),
    /// Some sectors are written, anywhere in the write, and it says that it failed.
    Scattered(io::ErrorKind),
    /// Process or machine die in the middle of it: nothing ever completes again.
    Die,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct FaultyDisk(Rc<RefCell<State>>);

type Judge = dyn FnMut(&Path, &Operation) -> Verdict;
type File = Rc<RefCell<Contents>>;

struct State {
    /// What each name has meant since its directory was synced, the present last.
    names: BTreeMap<PathBuf, Vec<Option<File>>>,
    log: Vec<(PathBuf, Operation, Verdict)>,
    judge: Box<Judge>,
    rng: Rng,
    turns_max: u32,
    in_flight: Vec<(u64, Effect)>,
    begun: u64,
    is_dead: bool,
    is_stalled: bool,
    on_executor: bool,
    tasks: VecDeque<Pin<Box<dyn Future<Output = ()>>>>,
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

/// What an operation does once it happens.
#[derive(Clone)]
enum Effect {
    Create(PathBuf, File),
    Write(File, usize, Rc<Vec<u8>>),
    Sync(File),
    Truncate(File, usize),
    Close,
    Remove(PathBuf),
    SyncDirectory(PathBuf),
    Put(PathBuf, usize, Vec<u8>, bool),
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDisk").finish_non_exhaustive()
    }
}

impl FaultyDisk {
    /// A disk on which `judge` decides, and everything completes at once.
    pub(crate) fn new(judge: impl FnMut(&Path, &Operation) -> Verdict + 'static) -> FaultyDisk {
        FaultyDisk::slow(judge, Rng::with_seed(0), 0)
    }

    /// A disk whose operations take up to `turns_max` turns of whoever waits for them.
    pub(crate) fn slow(
        judge: impl FnMut(&Path, &Operation) -> Verdict + 'static,
        rng: Rng,
        turns_max: u32,
    ) -> FaultyDisk {
        FaultyDisk(Rc::new(RefCell::new(State {
            names: BTreeMap::new(),
            log: Vec::new(),
            judge: Box::new(judge),
            rng,
            turns_max,
            in_flight: Vec::new(),
            begun: 0,
            is_dead: false,
            is_stalled: false,
            on_executor: false,
            tasks: VecDeque::new(),
        })))
    }

    /// For a test inside a glommio executor, which runs what is spawned.
    pub(crate) fn on_executor(self) -> FaultyDisk {
        self.0.borrow_mut().on_executor = true;
        self
    }

    /// Lets no write complete, or again; only for a test inside a glommio executor.
    pub(crate) fn stall(&self, is_stalled: bool) {
        self.0.borrow_mut().is_stalled = is_stalled;
    }

    fn is_stalled(&self) -> bool {
        self.0.borrow().is_stalled
    }

    /// What `view` makes of each segment, by path.
    pub(crate) fn files<T>(&self, view: impl Fn(&Contents) -> T) -> Vec<(PathBuf, T)> {
        let files = self.all_files(Rc::clone);
        let is_segment = |path: &Path| path.extension().is_some_and(|end| end == "ndjson");
        let segments = files.into_iter().filter(|(path, _)| is_segment(path));
        segments.map(|(path, file)| (path, view(&file.borrow()))).collect()
    }

    /// What `view` makes of each file, by path.
    fn all_files<T>(&self, view: impl Fn(&File) -> T) -> Vec<(PathBuf, T)> {
        let state = self.0.borrow();
        let now = |history: &Vec<Option<File>>| history.last().cloned().flatten();
        let files = state.names.iter().filter_map(|(path, history)| Some((path, now(history)?)));
        files.map(|(path, file)| (path.clone(), view(&file))).collect()
    }

    /// Removes every file, as somebody may from outside.
    pub(crate) fn remove_all(&self) {
        for history in self.0.borrow_mut().names.values_mut() {
            history.push(None);
        }
    }

    /// Every operation so far, and what came of it.
    pub(crate) fn log(&self) -> Ref<'_, [(PathBuf, Operation, Verdict)]> {
        Ref::map(self.0.borrow(), |state| state.log.as_slice())
    }

    /// Whether the process or the machine died.
    pub(crate) fn is_dead(&self) -> bool {
        self.0.borrow().is_dead
    }

    /// Nothing completes any more; what is in flight has happened in part.
    pub(crate) fn die(&self) {
        self.0.borrow_mut().die();
    }

    /// Gives every spawned task a turn.
    pub(crate) fn run_tasks(&self) {
        let tasks = self.0.borrow().tasks.len();
        for _ in 0..tasks {
            let Some(mut task) = self.0.borrow_mut().tasks.pop_front() else { return };
            let is_pending = poll_once(task.as_mut()).is_none();
            if is_pending {
                self.0.borrow_mut().tasks.push_back(task);
            }
        }
    }

    /// Runs `work` and what it spawns until `work` is done.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        for _ in 0..1_000_000 {
            if let Some(done) = poll_once(work.as_mut()) {
                return done;
            }
            self.run_tasks();
        }
        panic!("it waits for something that never comes");
    }

    /// Writes what the end of the process leaves to the real directory `root`.
    pub(crate) fn after_kill(&self, root: &Path) {
        for (path, bytes) in self.all_files(|file| file.borrow().bytes.clone()) {
            save(&root.join(path), &bytes);
        }
    }

    /// Writes what a power loss may leave to the real directory `root`.
    pub(crate) fn after_power_loss(&self, root: &Path, rng: &mut Rng) {
        for (path, history) in &self.0.borrow().names {
            // A name may have come to mean anything that it meant since its directory was synced.
            if let Some(file) = &history[rng.usize(..history.len())] {
                save(&root.join(path), &file.borrow().after_power_loss(rng));
            }
        }
    }

    /// Asks the judge, lets time pass, and does as he said.
    async fn perform(&self, path: &Path, operation: Operation, effect: Effect) -> Verdict {
        if self.is_dead() {
            pending::<()>().await;
        }
        let is_write = matches!(effect, Effect::Write(..));
        let (id, verdict, turns) = {
            let state = &mut *self.0.borrow_mut();
            let verdict = (state.judge)(path, &operation);
            state.log.push((path.to_owned(), operation, verdict));
            state.begun += 1;
            state.in_flight.push((state.begun, effect));
            (state.begun, verdict, state.rng.u32(..=state.turns_max))
        };
        if verdict == Verdict::Die {
            self.die();
        }
        for _ in 0..turns {
            futures_lite::future::yield_now().await;
        }
        while is_write && self.is_stalled() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        if self.is_dead() {
            pending::<()>().await;
        }
        let state = &mut *self.0.borrow_mut();
        let at = state.in_flight.iter().position(|(other, _)| *other == id).unwrap();
        let (_, effect) = state.in_flight.swap_remove(at);
        match verdict {
            Verdict::Go | Verdict::Deny(_) => state.apply(effect),
            Verdict::Short(bytes) | Verdict::Torn(bytes, _) => {
                if let Effect::Write(file, offset, data) = effect {
                    file.borrow_mut().write(offset, &data[..bytes.min(data.len())]);
                }
            }
            Verdict::Scattered(_) => state.apply_in_part(effect),
            Verdict::Fail(_) => {
                if let Effect::Sync(file) = effect {
                    // The system has tried, and forgets what it could not write.
                    let chance = state.rng.f64();
                    file.borrow_mut().unsynced.retain(|_| state.rng.f64() < chance);
                }
            }
            Verdict::Lie => {}
            Verdict::Die => unreachable!("the dead do not go on"),
        }
        verdict
    }

    async fn must(&self, path: &Path, operation: Operation, effect: Effect) -> io::Result<()> {
        match self.perform(path, operation, effect).await {
            Verdict::Go | Verdict::Lie => Ok(()),
            Verdict::Fail(kind) | Verdict::Deny(kind) => Err(kind.into()),
            other => unreachable!("only a write can be {other:?}"),
        }
    }
}

impl State {
    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Create(path, file) => {
                self.names.entry(path).or_insert_with(|| vec![None]).push(Some(file));
            }
            Effect::Write(file, offset, data) => file.borrow_mut().write(offset, &data),
            Effect::Sync(file) => file.borrow_mut().sync(),
            Effect::Truncate(file, bytes) => file.borrow_mut().truncate(bytes),
            Effect::Close => {}
            Effect::Remove(path) => {
                if let Some(history) = self.names.get_mut(&path) {
                    history.push(None);
                }
            }
            Effect::Put(path, offset, bytes, durably) => {
                let file = self.open(path.clone(), offset == 0);
                file.borrow_mut().write(offset, &bytes);
                if durably {
                    file.borrow_mut().sync();
                    self.sync_name(&path);
                }
            }
            Effect::SyncDirectory(path) => {
                let names = self.names.keys().filter(|name| name.parent() == Some(&path));
                for name in names.cloned().collect::<Vec<_>>() {
                    self.sync_name(&name);
                }
            }
        }
    }

    /// Some sectors of a write; anything else wholly or not at all.
    fn apply_in_part(&mut self, effect: Effect) {
        match effect {
            Effect::Write(file, offset, data) => {
                let chance = self.rng.f64();
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if self.rng.f64() < chance {
                        file.borrow_mut().write(offset + index * SECTOR, sector);
                    }
                }
            }
            Effect::Put(path, offset, bytes, _) => {
                let file = self.open(path, offset == 0);
                self.apply_in_part(Effect::Write(file, offset, Rc::new(bytes)));
            }
            other if self.rng.bool() => self.apply(other),
            _ => {}
        }
    }

    fn die(&mut self) {
        if !std::mem::replace(&mut self.is_dead, true) {
            for (_, effect) in std::mem::take(&mut self.in_flight) {
                self.apply_in_part(effect);
            }
        }
    }

    /// The file at `path`, made if it is missing; `anew` with nothing in it.
    fn open(&mut self, path: PathBuf, anew: bool) -> File {
        let history = self.names.entry(path).or_insert_with(|| vec![None]);
        let file = match history.last().cloned().flatten() {
            Some(file) => file,
            None => {
                let file = File::default();
                history.push(Some(Rc::clone(&file)));
                file
            }
        };
        if anew {
            file.borrow_mut().truncate(0);
        }
        file
    }

    /// The name means for good what it means now.
    fn sync_name(&mut self, name: &Path) {
        if let Some(history) = self.names.get_mut(name) {
            history.drain(..history.len() - 1);
        }
    }

    fn now(&self, path: &Path) -> Option<&File> {
        self.names.get(path)?.last()?.as_ref()
    }
}

impl Contents {
    fn write(&mut self, offset: usize, data: &[u8]) {
        put(&mut self.bytes, offset, data);
        self.unsynced.push(Change::Write(offset, data.to_vec()));
    }

    fn truncate(&mut self, bytes: usize) {
        resize(&mut self.bytes, bytes);
        self.unsynced.push(Change::Truncate(bytes));
    }

    /// What an earlier, failed sync dropped stays away.
    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write(offset, data) => put(&mut self.synced, offset, &data),
                Change::Truncate(bytes) => resize(&mut self.synced, bytes),
            }
        }
    }

    fn after_power_loss(&self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        // How many changes come through at all is a matter of luck, too.
        let chance = rng.f64();
        for change in &self.unsynced {
            match change {
                Change::Write(offset, data) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        if rng.f64() < chance {
                            put(&mut bytes, offset + index * SECTOR, sector);
                        }
                    }
                }
                Change::Truncate(length) if rng.f64() < chance => resize(&mut bytes, *length),
                Change::Truncate(_) => {}
            }
        }
        // A size may come through without what lies in front of it.
        if bytes.len() < self.bytes.len() && rng.u8(..4) == 0 {
            resize(&mut bytes, self.bytes.len());
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        resize(bytes, offset + data.len());
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

/// As `Vec::resize`, which is slow in a debug build.
fn resize(bytes: &mut Vec<u8>, length: usize) {
    bytes.append(&mut vec![0; length.saturating_sub(bytes.len())]);
    bytes.truncate(length);
}

fn save(path: &Path, bytes: &[u8]) {
    match fs::write(path, bytes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        written => written.unwrap(),
    }
}

/// One turn of a future that nobody wakes; `Some` when it is done.
pub(crate) fn poll_once<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// An open file of this disk.
#[derive(Debug)]
pub(crate) struct FaultyFile {
    path: PathBuf,
    contents: File,
}

impl Disk for FaultyDisk {
    type File = FaultyFile;
    type Buf = Vec<u8>;

    fn alloc(&self, bytes: usize) -> Vec<u8> {
        vec![b'?'; bytes]
    }

    fn seal(&self, mut buf: Vec<u8>, bytes: usize) -> Rc<Vec<u8>> {
        buf.truncate(bytes);
        Rc::new(buf)
    }

    async fn create(&self, path: &Path) -> io::Result<FaultyFile> {
        if self.0.borrow().now(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let contents = File::default();
        let effect = Effect::Create(path.to_owned(), Rc::clone(&contents));
        self.must(path, Operation::Create, effect).await?;
        Ok(FaultyFile { path: path.to_owned(), contents })
    }

    async fn write_at(
        &self,
        file: &FaultyFile,
        buf: Rc<Vec<u8>>,
        offset: u64,
    ) -> io::Result<usize> {
        let bytes = buf.len();
        assert!(bytes.is_multiple_of(super::super::BLOCK), "direct I/O takes whole blocks");
        assert!(offset.is_multiple_of(super::super::BLOCK as u64), "direct I/O takes whole blocks");
        let start = usize::try_from(offset).unwrap();
        let effect = Effect::Write(Rc::clone(&file.contents), start, buf);
        match self.perform(&file.path, Operation::Write { offset, bytes }, effect).await {
            Verdict::Go | Verdict::Lie => Ok(bytes),
            Verdict::Short(some) => Ok(some.min(bytes)),
            Verdict::Fail(kind)
            | Verdict::Deny(kind)
            | Verdict::Torn(_, kind)
            | Verdict::Scattered(kind) => Err(kind.into()),
            Verdict::Die => unreachable!("the dead do not answer"),
        }
    }

    async fn sync(&self, file: &FaultyFile) -> io::Result<()> {
        let effect = Effect::Sync(Rc::clone(&file.contents));
        self.must(&file.path, Operation::Sync, effect).await
    }

    async fn truncate(&self, file: &FaultyFile, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).unwrap();
        let effect = Effect::Truncate(Rc::clone(&file.contents), length);
        self.must(&file.path, Operation::Truncate { bytes }, effect).await
    }

    async fn close(&self, file: FaultyFile) -> io::Result<()> {
        self.must(&file.path, Operation::Close, Effect::Close).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        if self.0.borrow().now(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.must(path, Operation::Remove, Effect::Remove(path.to_owned())).await
    }

    async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let effect = Effect::SyncDirectory(path.to_owned());
        self.must(path, Operation::SyncDirectory, effect).await
    }

    fn is_linked(&self, file: &FaultyFile) -> bool {
        let state = self.0.borrow();
        state.now(&file.path).is_some_and(|now| Rc::ptr_eq(now, &file.contents))
    }

    async fn put(&self, path: &Path, offset: u64, bytes: Vec<u8>, durably: bool) -> io::Result<()> {
        if offset > 0 && self.0.borrow().now(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let start = usize::try_from(offset).unwrap();
        let effect = Effect::Put(path.to_owned(), start, bytes, durably);
        match self.perform(path, Operation::Put, effect).await {
            Verdict::Go | Verdict::Lie => Ok(()),
            Verdict::Fail(kind) | Verdict::Deny(kind) | Verdict::Scattered(kind) => {
                Err(kind.into())
            }
            other => unreachable!("it is never {other:?}"),
        }
    }

    async fn sleep(&self, _: Duration) {
        let turns = self.0.borrow_mut().rng.u32(..40);
        for _ in 0..turns {
            futures_lite::future::yield_now().await;
        }
    }

    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        work()
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        if self.0.borrow().on_executor {
            glommio::spawn_local(work).detach();
            return;
        }
        let mut work: Pin<Box<dyn Future<Output = ()>>> = Box::pin(work);
        if poll_once(work.as_mut()).is_none() {
            self.0.borrow_mut().tasks.push_back(work);
        }
    }
}
