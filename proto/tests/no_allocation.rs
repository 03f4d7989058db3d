//! A usual line costs no allocation, neither in framing nor in decoding nor in its reply; and the
//! memory that a gzip member takes is no more than is accounted for.
//! A file of its own, because it replaces the allocator of the whole test program.
#![expect(unsafe_code, reason = "an allocator that counts is an unsafe trait; it only delegates")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use proto::{Bounds, Flow, Frame, Lines, Record, Reply, Scratch, Step, Unpack};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        LIVE_BYTES.with(|live| live.set(live.get().wrapping_add(layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        let change = new_size.wrapping_sub(layout.size());
        LIVE_BYTES.with(|live| live.set(live.get().wrapping_add(change)));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE_BYTES.with(|live| live.set(live.get().wrapping_sub(layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations_in(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations_in(|| drop(std::hint::black_box(vec![1_u8]))), 1);
}

#[test]
fn a_usual_line_costs_no_allocation_from_chunk_to_reply() {
    let mut stream = Vec::new();
    for seq in 0..10_000 {
        let id = ["", ",\"id\":\"m-1\"", ",\"id\":-17", ",\"ctx\":{\"a\":[1.5,null,\"\\u00e9\"]}"]
            [seq % 4];
        let text = ["plain", "ünïcode", "esc\\\"aped\\n", "\\ud83d\\ude00"][seq / 4 % 4];
        stream.extend_from_slice(
            format!("{{\"level\":\"INFO\",\"message\":\"{text}\",\"seq\":{seq}{id}}}\n").as_bytes(),
        );
    }
    let mut lines = Lines::new(262_144);
    let mut scratch = Scratch::new();
    let mut out = Vec::with_capacity(1 << 20);
    let mut pass = || {
        let mut taken = 0;
        // Chunks that end anywhere, so that most calls leave a rest in the carry.
        for chunk in stream.chunks(1499) {
            lines.feed(chunk, |frame| {
                let Frame::Line(line) = frame else { unreachable!() };
                let record = Record::parse(line, &mut scratch).unwrap();
                Reply::ok().with_id(record.id).write(&mut out);
                taken += 1;
                Flow::Next
            });
        }
        assert_eq!(taken, 10_000);
        out.clear();
    };
    pass(); // warm-up: the carry grows to a line
    assert_eq!(allocations_in(pass), 0);
}

#[test]
fn a_line_of_any_size_is_decoded_without_an_allocation() {
    for size in [0, 100, 10_000, 262_000] {
        let line =
            format!("{{\"level\":\"INFO\",\"id\":\"x\",\"message\":\"{}\"}}", "x".repeat(size));
        let mut scratch = Scratch::new();
        let allocations = allocations_in(|| {
            Record::parse(line.as_bytes(), &mut scratch).unwrap();
        });
        assert_eq!(allocations, 0, "{size}");
    }
}

#[test]
fn a_member_takes_no_more_memory_than_is_accounted_and_gives_it_back() {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    for seq in 0..20_000_u32 {
        writeln!(packer, "{{\"seq\":{}}}", seq.wrapping_mul(2_654_435_761)).unwrap();
    }
    let stream = packer.finish().unwrap();
    let mut scratch = vec![0; 64 << 10];
    let mut unpack = Unpack::new(262_144, Bounds { ratio_max: 1000, ratio_after_bytes: 8 << 20 });
    let before = LIVE_BYTES.get();
    let mut most = 0;
    for chunk in stream.chunks(5000) {
        let mut bytes = chunk;
        loop {
            let step = unpack.feed(bytes, &mut scratch, |_, _| Flow::Next).unwrap();
            let live = LIVE_BYTES.get() - before;
            assert!(live <= unpack.capacity_bytes(), "{live} > {}", unpack.capacity_bytes());
            most = most.max(live);
            bytes = &[];
            if step == Step::Hungry {
                break;
            }
        }
    }
    assert!(most > 32 << 10, "{most} bytes: an inflater has been there");
    assert!(unpack.is_empty());
    let live = LIVE_BYTES.get() - before;
    assert!(live <= 4096, "{live} bytes are left");
}
