//! SIGHUP: certificates and token are read again, and connections that are there stay.

use runtime::hangup::Hangups;
use tracing::{error, info};

use crate::error::Error;
use crate::net::tls::Keys;
use crate::secrets::Token;

/// At each SIGHUP, reads certificates and token again. Connections that are there stay.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn on_hangup(keys: Option<Keys>, token: Option<Token>) -> std::io::Result<Hangups> {
    Hangups::answer(move || {
        let tell = |what: &str, reloaded: Result<(), Error>| match reloaded {
            Ok(()) => info!("SIGHUP: {what} read again, good for new connections"),
            Err(error) => error!("SIGHUP: {error}; {what} as before"),
        };
        if let Some(keys) = &keys {
            tell("certificates", keys.reload());
        }
        if let Some(token) = &token {
            tell("token", token.reload());
        }
        if keys.is_none() && token.is_none() {
            info!("SIGHUP: nothing to read again: neither ENABLE_TLS nor AUTH_TOKEN_FILE is set");
        }
    })
}
