//! What clients have to know.

/// The token of AUTH_TOKEN_FILE.
#[derive(Clone, Debug)]
pub(crate) struct Token;

impl Token {
    /// Whether a hello with this token may come in.
    pub(crate) fn admits(&self, _token: Option<&str>) -> bool {
        false
    }
}
