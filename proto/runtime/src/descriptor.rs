//! Raw descriptors in and out of glommio, which offers no safe way for either.
//!
//! Connections do not come this way: see [`crate::socket`]. What does is the admin's listener,
//! datagrams, files, and whatever else is waited for by a poll of glommio's.
#![expect(unsafe_code, reason = "glommio takes and gives raw descriptors only")]

use std::ffi::{c_int, c_void};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use glommio::net::{TcpListener, TcpStream};

/// A duplicate of the descriptor below `socket`, closed on exec.
///
/// # Errors
/// What `fcntl(F_DUPFD_CLOEXEC)` says: EMFILE, mostly.
pub fn dup(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: `socket` is borrowed for the whole call and owns the descriptor.
    let borrowed = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?)
}

/// Gives a connected socket to the executor of this thread.
pub fn tcp_stream(fd: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is owned, open, and passes into the stream.
    unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) }
}

/// Gives a listening socket to the executor of this thread.
pub fn tcp_listener(fd: OwnedFd) -> TcpListener {
    // SAFETY: the descriptor is owned, open, and passes into the listener.
    unsafe { TcpListener::from_raw_fd(fd.into_raw_fd()) }
}

/// Gives a bound datagram socket to the executor of this thread, as a stream each read of which is
/// one datagram. glommio's own `UdpSocket` waits by a receive in the ring, and cancelling that one
/// makes the executor spin for ever (0.9.0); its streams wait by a poll.
pub fn datagram_stream(fd: OwnedFd) -> TcpStream {
    tcp_stream(fd)
}

const SOL_SOCKET: c_int = 1;
const SO_MEMINFO: c_int = 55;
/// The kernel's `SK_MEMINFO_VARS`, and the place of the drops among them (linux/sock_diag.h).
const MEMINFO_VALUES: usize = 9;
const MEMINFO_DROPS: usize = 8;

unsafe extern "C" {
    fn getsockopt(
        socket: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        bytes: *mut u32,
    ) -> c_int;
    fn setsockopt(
        socket: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        bytes: u32,
    ) -> c_int;
}

/// How many datagrams the kernel dropped at `socket`, because its buffer was full or a checksum was
/// wrong; the count wraps.
///
/// # Errors
/// What `getsockopt(SO_MEMINFO)` says: ENOPROTOOPT before Linux 4.12.
pub fn datagrams_dropped(socket: &impl AsFd) -> io::Result<u32> {
    let mut values = [0u32; MEMINFO_VALUES];
    let room = u32::try_from(size_of_val(&values)).map_err(io::Error::other)?;
    let mut bytes = room;
    // SAFETY: `socket` is borrowed for the whole call; the kernel writes at most `bytes` bytes
    // into `values`, which is plain numbers.
    let result = unsafe {
        getsockopt(
            socket.as_fd().as_raw_fd(),
            SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    match result {
        0 if bytes == room => Ok(values[MEMINFO_DROPS]),
        0 => Err(io::Error::other("SO_MEMINFO is shorter than expected")),
        _ => Err(io::Error::last_os_error()),
    }
}

const SOL_IP: c_int = 0;
const IP_BIND_ADDRESS_NO_PORT: c_int = 24;

/// Binds `socket` to a local address and lets the kernel choose its port when it connects, so that
/// one port serves for as many connections as there are targets (ip(7), IP_BIND_ADDRESS_NO_PORT;
/// where that is refused, the port is chosen at once).
///
/// # Errors
/// What `bind` says: EADDRNOTAVAIL of an address that is not of this machine.
pub fn bind_without_port(socket: &socket2::Socket, address: IpAddr) -> io::Result<()> {
    const BYTES: u32 = 4;
    let one: i32 = 1;
    // SAFETY: `socket` is borrowed for the whole call; the kernel reads four bytes of `one`.
    let _ = unsafe {
        setsockopt(
            socket.as_fd().as_raw_fd(),
            SOL_IP,
            IP_BIND_ADDRESS_NO_PORT,
            (&raw const one).cast(),
            BYTES,
        )
    };
    socket.bind(&SocketAddr::from((address, 0)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_drops_at_a_full_socket_is_counted() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&receiver).set_recv_buffer_size(4096).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(datagrams_dropped(&receiver).unwrap(), 0);
        for _ in 0..50 {
            sender.send_to(&[0; 1000], receiver.local_addr().unwrap()).unwrap();
        }
        receiver.set_nonblocking(true).unwrap();
        let mut taken = 0;
        while receiver.recv(&mut [0; 1000]).is_ok() {
            taken += 1;
        }
        assert!(taken < 50, "nothing was dropped");
        assert_eq!(datagrams_dropped(&receiver).unwrap(), 50 - taken);
    }
}
