//! The only files that touch sockets.

pub(crate) mod connection;
pub(crate) mod listener;
pub(crate) mod registry;
mod replies;
