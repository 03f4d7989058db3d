//! The only files that touch sockets.

pub(crate) mod admin;
pub(crate) mod connection;
mod farewell;
pub(crate) mod listener;
pub(crate) mod registry;
mod replies;
pub(crate) mod tls;
mod transport;
pub(crate) mod udp;
