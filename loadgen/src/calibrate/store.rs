//! Where ceilings are kept: a file each, `ceilings/HASH.json` in the state folder.
//!
//! Owns the names of files. The hash only spreads names; what a file holds for is its own key,
//! compared in full. Invariant: a file is replaced as a whole or not at all.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{Calibration, Key};

/// Keeps `calibration` under `state`, in place of an older one; gives its path.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn keep(state: &Path, calibration: &Calibration) -> io::Result<PathBuf> {
    let path = path(state, &calibration.key);
    let folder = path.parent().unwrap_or(state);
    std::fs::create_dir_all(folder)?;
    let text = serde_json::to_string_pretty(calibration)? + "\n";
    let draft = folder.join(format!(".{}.draft", std::process::id()));
    let mut file = std::fs::File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, &path)?;
    Ok(path)
}

/// The calibration for `key`.
///
/// # Errors
/// Why there is none, for people.
pub fn find(state: &Path, key: &Key) -> Result<Calibration, String> {
    let path = path(state, key);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err("not calibrated for this load: `logboom-loadgen calibrate` with the same \
                        CONCURRENCY, BATCH_SIZE and SHARDS"
                .to_owned());
        }
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let found: Calibration = serde_json::from_str(&text)
        .map_err(|error| format!("{} is no calibration: {error}", path.display()))?;
    if found.key != *key {
        return Err(format!("{} is of another load", path.display()));
    }
    Ok(found)
}

fn path(state: &Path, key: &Key) -> PathBuf {
    let text = serde_json::to_string(key).expect("a key is plain data");
    state.join("ceilings").join(format!("{:016x}.json", hash(text.as_bytes())))
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::{Against, Ceiling, Drive};
    use crate::plan::payloads::Sizes;
    use crate::plan::shape::Pacing;

    fn calibration() -> Calibration {
        let key = Key {
            host: "h".into(),
            cpu_model: "c".into(),
            cpu_list: vec![0, 1],
            build: "release 0.1.0".into(),
            payload: "default".into(),
            payload_bytes: Sizes::default(),
            batch_size: 100,
            compress: false,
            replies: "each".into(),
            concurrency: 5,
            shards: 2,
            pacing: Pacing::Thrifty,
        };
        let ceiling = Ceiling {
            against: Against::Sink,
            drive: Drive::Open,
            per_s: 1e6,
            spread: 0.1,
            turns: vec![1e6],
        };
        Calibration {
            key,
            measured_at: "2026-11-21T11:00:00Z".into(),
            sink_has_own_cpu: false,
            ceilings: vec![ceiling],
        }
    }

    #[test]
    fn what_is_kept_is_found_for_its_own_key_only() {
        let state = tempfile::tempdir().unwrap();
        let kept = calibration();
        let why = find(state.path(), &kept.key).unwrap_err();
        assert!(why.contains("logboom-loadgen calibrate"), "{why}");
        let path = keep(state.path(), &kept).unwrap();
        assert_eq!(find(state.path(), &kept.key).unwrap(), kept);
        assert_eq!(kept.ceiling(Against::Sink, Drive::Open), Some(1e6));
        assert_eq!(kept.ceiling(Against::Null, Drive::Open), None);
        let other = Key { batch_size: 1, ..kept.key.clone() };
        assert!(find(state.path(), &other).unwrap_err().contains("not calibrated"));
        // Under the right name with the wrong key, and no calibration at all.
        std::fs::copy(&path, super::path(state.path(), &other)).unwrap();
        assert!(find(state.path(), &other).unwrap_err().contains("of another load"));
        std::fs::write(&path, "{").unwrap();
        assert!(find(state.path(), &kept.key).unwrap_err().contains("is no calibration"));
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(names.count(), 2, "no draft is left");
    }
}
