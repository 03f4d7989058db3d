//! What clients have to know.
//!
//! Owns the token of AUTH_TOKEN_FILE, and when it changes; leaves the question for it to the
//! connection. Invariants: only a digest of the token is kept, so that no log or dump can show it;
//! the time of a comparison tells neither the token nor its length; a token that cannot be read
//! never takes the place of one that was.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::constant_time;
use aws_lc_rs::digest::{Digest, SHA256, digest};

use crate::error::Error;

/// Longest token in bytes. A hello is one line, and this leaves room in the shortest.
pub(crate) const TOKEN_BYTES_MAX: usize = 4096;

/// The token of AUTH_TOKEN_FILE. Clones share it, over all shards.
#[derive(Clone)]
pub(crate) struct Token {
    path: Arc<Path>,
    /// Held for the time of a copy, once per connection.
    digest: Arc<RwLock<Digest>>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Token {
    /// Reads the token: the content of the file without white space around it.
    ///
    /// # Errors
    /// The file cannot be read, or holds no token or more than one line.
    pub(crate) fn load(path: &Path) -> Result<Token, Error> {
        let digest = read(path)?;
        Ok(Token { path: path.into(), digest: Arc::new(RwLock::new(digest)) })
    }

    /// Reads the file again, for the connections to come.
    ///
    /// # Errors
    /// As [`Token::load`]; the present token then stays.
    pub(crate) fn reload(&self) -> Result<(), Error> {
        let fresh = read(&self.path)?;
        *self.digest.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Whether a hello with this token may come in.
    pub(crate) fn admits(&self, said: Option<&str>) -> bool {
        let Some(said) = said else { return false };
        let said = digest(&SHA256, said.as_bytes());
        let known = *self.digest.read().unwrap_or_else(PoisonError::into_inner);
        // Digests are of one length, and where they begin to differ tells nothing about the token.
        constant_time::verify_slices_are_equal(said.as_ref(), known.as_ref()).is_ok()
    }
}

fn read(path: &Path) -> Result<Digest, Error> {
    let unusable = |reason: String| Error::Unusable {
        path: PathBuf::from(path),
        knob: "AUTH_TOKEN_FILE",
        reason,
    };
    let mut text = String::new();
    // White space around the token may be as long again.
    let bound = 2 * TOKEN_BYTES_MAX as u64;
    File::open(path)
        .and_then(|file| file.take(bound + 1).read_to_string(&mut text))
        .map_err(|error| unusable(error.to_string()))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(unusable("it holds no token".into()));
    }
    if token.len() > TOKEN_BYTES_MAX || text.len() as u64 > bound {
        return Err(unusable(format!("a token has at most {TOKEN_BYTES_MAX} bytes")));
    }
    if token.contains(char::is_control) {
        return Err(unusable("a token is one line, without control characters".into()));
    }
    Ok(digest(&SHA256, token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content: &[u8]) -> Result<Token, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, content).unwrap();
        Token::load(&path)
    }

    #[test]
    fn the_token_is_what_the_file_holds_without_white_space_around_it() {
        let token = of(b"  open sesame\r\n\n").unwrap();
        assert!(token.admits(Some("open sesame")));
        for wrong in ["", "open sesam", "open sesame ", "Open sesame", "open sesame\r\n"] {
            assert!(!token.admits(Some(wrong)), "{wrong:?}");
        }
        assert!(!token.admits(None));
    }

    #[test]
    fn a_file_without_a_usable_token_is_refused_with_path_and_knob() {
        let long = [b'x'; TOKEN_BYTES_MAX + 1];
        for (content, words) in [
            (&b""[..], "no token"),
            (b" \n\t\r\n", "no token"),
            (b"one\ntwo", "one line"),
            (b"\xff\xfe", "UTF-8"),
            (&long, "4096"),
            (&[b' '; 10 * TOKEN_BYTES_MAX], "no token"),
        ] {
            let text = of(content).unwrap_err().to_string();
            assert!(text.contains(words) && text.contains("AUTH_TOKEN_FILE"), "{text}");
        }
        assert!(of(&long[1..]).is_ok());
        assert!(Token::load(Path::new("/no/such/file")).is_err());
    }

    #[test]
    fn a_reload_counts_for_all_clones_and_a_failed_one_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "old").unwrap();
        let token = Token::load(&path).unwrap();
        let clone = token.clone();
        std::fs::write(&path, "new").unwrap();
        assert!(clone.admits(Some("old")), "nothing changes before the reload");
        token.reload().unwrap();
        assert!(clone.admits(Some("new")) && !clone.admits(Some("old")));
        std::fs::write(&path, "").unwrap();
        assert!(token.reload().is_err());
        assert!(clone.admits(Some("new")) && !clone.admits(Some("")));
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let shown = format!("{:?}", of(b"hush-hush").unwrap());
        assert!(shown.contains("path") && !shown.contains("hush"), "{shown}");
        assert!(!shown.to_lowercase().contains("digest"), "{shown}");
    }
}
