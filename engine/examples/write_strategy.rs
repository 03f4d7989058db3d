//! How to write segments: what each way costs, and how fast it is.
//!
//! Writes batches as the file sink does (a buffer from the ring's memory, filled by a copy, one
//! write in flight) to a file that grows, one with space reserved (KEEP_SIZE), one written before,
//! and one behind the page cache; with and without an fdatasync per batch. CPU is that of the
//! process, kernel workers of its rings included, and that of the whole machine (write-back and
//! journal threads are no process's). The rounds interleave all cells; medians are printed.
//!
//!     cargo run --release -p logboom-engine --example write_strategy [DIRECTORY]
#![expect(clippy::print_stdout, reason = "a measurement prints")]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use glommio::io::{BufferedFile, DmaFile, OpenOptions};
use runtime::shards::{self, Plan};
use rustix::time::{ClockId, clock_gettime};

const KIB: usize = 1024;
const BATCHES: [usize; 6] = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB];
const WAYS: [Way; 5] = [Way::Null, Way::Growing, Way::Reserved, Way::Prewritten, Way::Buffered];
const ROUNDS: usize = 7;
/// A cell ends at the first of these.
const FILE_BYTES: u64 = 256 << 20;
const CELL: Duration = Duration::from_millis(500);
/// 200 MB: what a million lines of the default payload are.
const MILLION_LINES_BYTES: f64 = 200e6;

type Failure = Box<dyn Error>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The copy alone: the floor.
    Null,
    Growing,
    Reserved,
    Prewritten,
    Buffered,
}

enum Target {
    Null,
    Direct(DmaFile),
    Buffered(BufferedFile),
}

/// One cell of one round.
#[derive(Clone, Copy, Debug)]
struct Cost {
    bytes: f64,
    elapsed: f64,
    process_cpu: f64,
    machine_cpu: f64,
}

fn main() -> Result<(), Failure> {
    let root = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = root.join(format!("write-strategy-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let plan = Plan {
        name: "writer",
        count: 1,
        cpus: runtime::cpus::Cpus::detect()?.affinity,
        preempt: Duration::from_millis(1),
        ring_depth: 128,
        io_memory_bytes: 16 << 20,
    };
    let path = dir.join("file");
    let shards = shards::start(&plan, move |_| {
        let path = path.clone();
        async move { measure(&path).await.map_err(|error| error.to_string()) }
    })?;
    let measured = shards.into_iter().try_for_each(shards::Shard::join);
    fs::remove_dir_all(&dir)?;
    Ok(measured?)
}

async fn measure(path: &Path) -> Result<(), Failure> {
    // glommio 0.9 goes to sleep with a task ready to run, if the thread lost its core for longer
    // than the preempt timer just before it would have run it: any event wakes it again.
    let heartbeat = glommio::spawn_local(async {
        loop {
            glommio::timer::sleep(Duration::from_millis(20)).await;
        }
    });
    let measured = measure_all(path).await;
    heartbeat.cancel().await;
    measured
}

async fn measure_all(path: &Path) -> Result<(), Failure> {
    let mut cells = Vec::new();
    for sync in [false, true] {
        for batch in BATCHES {
            // The floor is the same with and without.
            let ways = WAYS.into_iter().filter(|way| !sync || *way != Way::Null);
            cells.extend(ways.map(|way| (sync, batch, way, Vec::new())));
        }
    }
    for round in 0..ROUNDS {
        let mut order: Vec<_> = (0..cells.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (sync, batch, way, costs) = &mut cells[index];
            costs.push(cell(path, *way, *batch, *sync).await?);
            eprint!(".");
        }
        eprintln!(" round {} of {ROUNDS}", round + 1);
    }
    println!("| sync | batch | way | MB/s | µs per batch | CPU-s per million lines | machine |");
    println!("|---|---|---|---|---|---|---|");
    for (sync, batch, way, costs) in &cells {
        let median = |value: &dyn Fn(&Cost) -> f64| {
            let mut values: Vec<_> = costs.iter().map(value).collect();
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "| {} | {} KiB | {way:?} | {:.0} | {:.0} | {:.3} | {:.3} |",
            if *sync { "each" } else { "none" },
            batch / KIB,
            median(&|cost| cost.bytes / cost.elapsed / 1e6),
            median(&|cost| cost.elapsed / cost.bytes * *batch as f64 * 1e6),
            median(&|cost| cost.process_cpu / cost.bytes * MILLION_LINES_BYTES),
            median(&|cost| cost.machine_cpu / cost.bytes * MILLION_LINES_BYTES),
        );
    }
    Ok(())
}

async fn cell(path: &Path, way: Way, batch: usize, sync: bool) -> Result<Cost, Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(way != Way::Prewritten);
    if way == Way::Prewritten {
        let file = options.dma_open(path).await?;
        fill(&file).await?;
        file.close().await?;
    }
    let target = match way {
        Way::Null => Target::Null,
        Way::Buffered => Target::Buffered(options.buffered_open(path).await?),
        Way::Growing | Way::Reserved | Way::Prewritten => {
            let file = options.dma_open(path).await?;
            if way == Way::Reserved {
                file.pre_allocate(FILE_BYTES, true).await?;
            }
            file.fdatasync().await?;
            Target::Direct(file)
        }
    };
    let lines = vec![b'x'; batch];
    let (mut bytes, begun) = (0, Instant::now());
    let (process, machine) = (process_cpu(), machine_cpu()?);
    while bytes < FILE_BYTES && begun.elapsed() < CELL {
        let mut buf = glommio::allocate_dma_buffer(batch);
        buf.as_bytes_mut().copy_from_slice(&lines);
        match &target {
            Target::Null => drop(std::hint::black_box(buf)),
            Target::Direct(file) => {
                assert_eq!(file.write_at(buf, bytes).await?, batch);
                if sync {
                    file.fdatasync().await?;
                }
            }
            Target::Buffered(file) => {
                assert_eq!(file.write_at(buf.as_bytes().to_vec(), bytes).await?, batch);
                if sync {
                    file.fdatasync().await?;
                }
            }
        }
        bytes += batch as u64;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    // Write-back goes on after the writer has ended, and belongs to the bill.
    match target {
        Target::Null => {}
        Target::Direct(file) => {
            file.fdatasync().await?;
            file.close().await?;
        }
        Target::Buffered(file) => {
            file.fdatasync().await?;
            file.close().await?;
        }
    }
    let (process, machine) = (process_cpu() - process, machine_cpu()? - machine);
    if way != Way::Null {
        fs::remove_file(path)?;
    }
    // Let the disk come to rest.
    glommio::timer::sleep(Duration::from_millis(50)).await;
    Ok(Cost { bytes: bytes as f64, elapsed, process_cpu: process, machine_cpu: machine })
}

async fn fill(file: &DmaFile) -> Result<(), Failure> {
    let step = 1 << 20;
    for offset in (0..FILE_BYTES).step_by(step) {
        let mut buf = file.alloc_dma_buffer(step);
        buf.as_bytes_mut().fill(b'\n');
        file.write_at(buf, offset).await?;
    }
    file.fdatasync().await?;
    Ok(())
}

/// Seconds of all threads of this process, those that the kernel runs for its rings included.
fn process_cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds that the machine was not idle.
fn machine_cpu() -> Result<f64, Failure> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().ok_or("/proc/stat is empty")?;
    let ticks: Vec<f64> = first.split_whitespace().skip(1).flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq, in hundredths of a second
    let busy = ticks.iter().enumerate().filter(|(index, _)| [0, 1, 2, 5, 6].contains(index));
    Ok(busy.map(|(_, ticks)| ticks).sum::<f64>() / 100.0)
}
