//! One TLS session, without its socket: records in, plaintext out, and back.
//!
//! Owns rustls' state of one connection, the part of a record that has come so far, and records
//! that wait to be sent. Uses rustls' interface without buffers: ciphertext is read in large pieces
//! into the shard's buffer and decrypted there, record after record, where rustls' own buffer would
//! grow, be zeroed and shrink again for each. Leaves sockets to `stream`. Invariants: what was
//! decrypted before an error is given out before the error; between calls the session keeps less
//! than what [`Session::room`] leaves of a buffer, and what [`Session::encrypt`] and the handshake
//! have made.
//!
//! ```text
//! buffer  | plaintext >>>            | carry, then what was read            |
//!         0                      GAP_BYTES
//! ```
//! Plaintext is written from the front while records are consumed behind the gap. It is shorter
//! than its records, and the gap is as long as the longest, so it never reaches what is unread.

use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
    UnbufferedStatus,
};
use rustls::{Error, ServerConfig};

/// Longest plaintext of a record (RFC 8446, section 5.1).
const GAP_BYTES: usize = 16 * 1024;
/// Longest record on the wire (RFC 5246, section 6.2.3), which may have come but for a byte.
const RECORD_BYTES_MAX: usize = 5 + 16 * 1024 + 2048;
/// A client's certificates are one message in several records, and have to come as a whole.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Length of a buffer from which about `read_bytes` are read at a time.
pub(crate) fn buffer_bytes(read_bytes: usize) -> usize {
    GAP_BYTES + RECORD_BYTES_MAX + read_bytes.max(MESSAGE_BYTES_MAX)
}

/// See the module.
pub(super) struct Session {
    tls: UnbufferedServerConnection,
    /// Bytes that came and are not consumed: the beginning of a record, or of a message in several.
    carry: Vec<u8>,
    /// Records to be sent, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    has_peer_closed: bool,
    has_closed: bool,
    failed: Option<Error>,
}

impl Session {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Session, Error> {
        Ok(Session {
            tls: UnbufferedServerConnection::new(config)?,
            carry: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            has_peer_closed: false,
            has_closed: false,
            failed: None,
        })
    }

    /// Whether the two sides have yet to agree.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the peer has said that nothing more comes.
    pub(super) fn has_peer_closed(&self) -> bool {
        self.has_peer_closed
    }

    /// Where in `buffer` the next bytes belong; empty if the peer's message is too long.
    pub(super) fn room<'b>(&self, buffer: &'b mut [u8]) -> &'b mut [u8] {
        &mut buffer[GAP_BYTES + self.carry.len()..]
    }

    /// Takes `received` bytes that lie in the [`Session::room`] of `buffer`; gives the length of the
    /// plaintext at the front of `buffer`.
    ///
    /// # Errors
    /// The peer broke the rules. An alert that says so is then in [`Session::outgoing`].
    pub(super) fn take(&mut self, buffer: &mut [u8], received: usize) -> Result<usize, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let end = GAP_BYTES + self.carry.len() + received;
        buffer[GAP_BYTES..][..self.carry.len()].copy_from_slice(&self.carry);
        let (mut from, mut plain) = (GAP_BYTES, 0);
        loop {
            let (front, input) = buffer[..end].split_at_mut(from);
            let UnbufferedStatus { mut discard, state, .. } = self.tls.process_tls_records(input);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        front[plain..][..record.payload.len()].copy_from_slice(record.payload);
                        plain += record.payload.len();
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(message)) => encode(message, &mut self.outgoing),
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::PeerClosed) => self.has_peer_closed = true,
                Ok(_) => is_done = true,
                Err(error) => {
                    self.failed = Some(error);
                    self.raise_alert(&mut buffer[from..end]);
                    is_done = true;
                }
            }
            from += discard;
            if is_done {
                break;
            }
        }
        self.keep(&buffer[from..end]);
        match &self.failed {
            Some(error) if plain == 0 => Err(error.clone()),
            _ => Ok(plain),
        }
    }

    /// Lets the alert come out that tells the peer of a failure. Only while there is one: rustls does
    /// not stand being asked to go on after an error.
    fn raise_alert(&mut self, input: &mut [u8]) {
        while self.tls.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(message)) =
                self.tls.process_tls_records(input).state
        {
            encode(message, &mut self.outgoing);
        }
    }

    /// What went wrong, if it was not told yet because there was plaintext in front of it.
    pub(super) fn failed(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() || self.has_peer_closed || self.failed.is_some() {
            // An idle session keeps nothing.
            self.carry = Vec::new();
        } else {
            self.carry.clear();
            self.carry.extend_from_slice(rest);
        }
    }

    /// Makes records of `plain`, behind what waits to be sent.
    ///
    /// # Errors
    /// The session has failed, or nothing more may be said in it.
    pub(super) fn encrypt(&mut self, plain: &[u8]) -> Result<(), Error> {
        self.write(|traffic, out| traffic.encrypt(plain, out))
    }

    /// Says that nothing more comes from this side. A session that has failed says nothing.
    pub(super) fn close(&mut self) {
        if !self.has_closed {
            self.has_closed = true;
            let _ = self.write(|traffic, out| traffic.queue_close_notify(out));
        }
    }

    fn write(
        &mut self,
        mut put: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut size = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } =
                self.tls.process_tls_records(&mut self.carry);
            match state {
                Ok(ConnectionState::EncodeTlsData(message)) => encode(message, &mut self.outgoing),
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::PeerClosed) => self.has_peer_closed = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    // The first time, without room, only asks for the size, and lets a change of
                    // our keys come out: it has to go in front of what the new keys encrypt.
                    let at = self.outgoing.len();
                    self.outgoing.resize(at + size, 0);
                    let written = put(&mut traffic, &mut self.outgoing[at..]);
                    self.outgoing.truncate(at + *written.as_ref().unwrap_or(&0));
                    match written {
                        Ok(_) => return Ok(()),
                        Err(EncryptError::InsufficientSize(InsufficientSizeError {
                            required_size,
                        })) => size = required_size,
                        Err(EncryptError::EncryptExhausted) => return Err(Error::EncryptError),
                    }
                }
                Ok(_) => return Err(Error::HandshakeNotComplete),
                Err(error) => {
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
            self.carry.drain(..discard);
        }
    }

    /// Records to be sent.
    pub(super) fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// Says that `bytes` of [`Session::outgoing`] are sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.outgoing.len() {
            self.outgoing = Vec::new();
            self.sent = 0;
        }
    }

    /// Bytes of buffers that the session keeps now.
    pub(super) fn buffers_bytes(&self) -> usize {
        self.carry.capacity() + self.outgoing.capacity()
    }
}

type Traffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;

/// Puts a message of the handshake behind what waits to be sent.
fn encode(
    mut message: EncodeTlsData<'_, rustls::server::ServerConnectionData>,
    outgoing: &mut Vec<u8>,
) {
    let at = outgoing.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        message.encode(&mut [])
    {
        outgoing.resize(at + required_size, 0);
        let written = message.encode(&mut outgoing[at..]).unwrap_or(0);
        outgoing.truncate(at + written);
    }
}
