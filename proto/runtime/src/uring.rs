//! Can io_uring be had here?
//!
//! glommio panics or exits where it cannot: ask the kernel first, with the call that glommio will
//! make, and say in one line what to do. Refusals are exit code 3.
#![expect(unsafe_code, reason = "io_uring_setup is an unsafe call in rustix")]

use std::time::Duration;

use rustix::io::Errno;
use rustix::io_uring::{IoringSetupFlags, io_uring_params, io_uring_setup};

/// What io_uring offers here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uring {
    /// The kernel takes COOP_TASKRUN (Linux 5.19).
    pub coop_taskrun: bool,
}

/// Why io_uring cannot be had, with the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// EPERM: seccomp, or the sysctl.
    #[error(
        "io_uring is refused (EPERM): allow it with `sysctl kernel.io_uring_disabled=0`; in a \
         container add `security_opt: [seccomp=deploy/seccomp.json]`, because the default profile \
         denies io_uring_setup"
    )]
    NotPermitted,
    /// ENOSYS: not in this kernel, or hidden by a sandbox.
    #[error(
        "io_uring is missing (ENOSYS): Linux 5.19 or later is needed; under podman or another \
         sandbox allow io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile"
    )]
    Missing,
    /// ENOMEM: the limit on locked memory.
    #[error(
        "io_uring has no memory (ENOMEM): raise the limit on locked memory (`ulimit -l unlimited`, \
         `memlock: -1` under ulimits in compose, LimitMEMLOCK=infinity in systemd)"
    )]
    NoMemory,
    /// The limit on locked memory is below what glommio insists on.
    #[error(
        "the limit on locked memory is {0} bytes, and 524288 are needed: raise it (`ulimit -l \
         unlimited`, `memlock: -1` under ulimits in compose, LimitMEMLOCK=infinity in systemd)"
    )]
    Memlock(u64),
    /// Anything else.
    #[error("io_uring cannot be set up: {0}")]
    Other(Errno),
}

/// glommio 0.9 refuses to start below this.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// Rings of a process that has just ended are charged for a moment still.
const ATTEMPTS: u32 = 20;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// Sets a small ring up and drops it again.
///
/// # Errors
/// The kernel refuses; the error's text is the remedy.
pub fn probe() -> Result<Uring, Refused> {
    let uring = ask()?;
    // Behind the ring: who is refused both learns of what weighs more.
    let memlock = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    match memlock.current.filter(|&bytes| bytes < MEMLOCK_BYTES_MIN) {
        Some(bytes) => Err(Refused::Memlock(bytes)),
        None => Ok(uring),
    }
}

fn ask() -> Result<Uring, Refused> {
    let mut attempt = 1;
    loop {
        match setup(IoringSetupFlags::COOP_TASKRUN) {
            Ok(()) => return Ok(Uring { coop_taskrun: true }),
            Err(Errno::INVAL) => {
                return setup(IoringSetupFlags::empty())
                    .map(|()| Uring { coop_taskrun: false })
                    .map_err(refused);
            }
            Err(Errno::NOMEM) if attempt < ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(ATTEMPT_PAUSE);
            }
            Err(errno) => return Err(refused(errno)),
        }
    }
}

fn setup(flags: IoringSetupFlags) -> Result<(), Errno> {
    let mut params = io_uring_params::default();
    params.flags = flags;
    // SAFETY: the parameters are valid and outlive the call; the ring is dropped at once, unused.
    unsafe { io_uring_setup(8, &mut params) }.map(drop)
}

fn refused(errno: Errno) -> Refused {
    match errno {
        Errno::PERM | Errno::ACCESS => Refused::NotPermitted,
        Errno::NOSYS => Refused::Missing,
        Errno::NOMEM => Refused::NoMemory,
        other => Refused::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_its_remedy_in_one_line() {
        for (errno, remedy) in [
            (Errno::PERM, "seccomp"),
            (Errno::NOSYS, "Linux 5.19"),
            (Errno::NOMEM, "ulimit -l"),
            (Errno::MFILE, "Too many open files"),
        ] {
            let text = refused(errno).to_string();
            assert!(text.contains(remedy), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        assert!(Refused::Memlock(65536).to_string().contains("65536"));
    }

    #[test]
    fn the_probe_works_where_these_tests_run() {
        probe().unwrap();
    }
}
