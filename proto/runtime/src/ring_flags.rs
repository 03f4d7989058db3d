//! COOP_TASKRUN on the rings that glommio makes.
//!
//! glommio 0.9 sets its rings up without it, so that each completion interrupts a running peer:
//! 64 ping-pong connections cost two to three times the CPU. The linker's `--wrap` (see build.rs)
//! sends liburing's set-up call through here, where the flag is added. Invariant: a program that
//! starts shards went through the wrap, which [`wrapped_calls`] proves and `shards::start` asserts.
#![expect(unsafe_code, reason = "stands in for a C function of liburing")]

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

/// `IORING_SETUP_COOP_TASKRUN`, Linux 5.19.
pub const COOP_TASKRUN: u32 = 1 << 8;
const EINVAL: c_int = 22;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static COOPERATIVE: AtomicUsize = AtomicUsize::new(0);

/// The first fields of the kernel's `struct io_uring_params`, which is all that is touched here.
#[repr(C)]
pub struct ParamsPrefix {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
}

/// How many rings of this process were set up through the wrap.
pub fn wrapped_calls() -> usize {
    CALLS.load(Ordering::Relaxed)
}

/// How many of them the kernel gave COOP_TASKRUN.
pub fn cooperative_rings() -> usize {
    COOPERATIVE.load(Ordering::Relaxed)
}

unsafe extern "C" {
    fn __real_io_uring_queue_init_params(
        entries: c_uint,
        ring: *mut c_void,
        params: *mut ParamsPrefix,
    ) -> c_int;
}

/// Stands in for liburing's `io_uring_queue_init_params`: asks for COOP_TASKRUN, and again
/// without it where the kernel is older (EINVAL). Never panics: it is called from C.
///
/// # Safety
/// As for the real function: `ring` and `params` point to liburing's structures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_io_uring_queue_init_params(
    entries: c_uint,
    ring: *mut c_void,
    params: *mut ParamsPrefix,
) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller hands in valid pointers; the prefix is the head of the real structure.
    let asked = unsafe { (*params).flags };
    unsafe { (*params).flags = asked | COOP_TASKRUN };
    let result = unsafe { __real_io_uring_queue_init_params(entries, ring, params) };
    if result == -EINVAL {
        unsafe { (*params).flags = asked };
        return unsafe { __real_io_uring_queue_init_params(entries, ring, params) };
    }
    if result >= 0 {
        COOPERATIVE.fetch_add(1, Ordering::Relaxed);
    }
    result
}
