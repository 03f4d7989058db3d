//! HTTP/1.1: a request a message, or a request for a batch of log lines.

mod head;
mod request;
mod response;
