//! Counts the allocations of a thread, so that a test can show that a path makes none.
//!
//! Only in this crate's own tests; it hands everything on to the system's allocator.
#![expect(unsafe_code, reason = "a global allocator cannot be had without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator with the arguments that came in.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more, and no test that looks at it.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Allocations (reallocations among them) that `work` makes on this thread.
pub(crate) fn during(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

#[test]
fn allocations_are_seen() {
    assert_eq!(during(|| drop(std::hint::black_box(Box::new(1)))), 1);
    let mut grown = vec![0u8; 8];
    assert_eq!(during(|| grown.reserve_exact(1000)), 1);
    assert_eq!(during(|| ()), 0);
}
