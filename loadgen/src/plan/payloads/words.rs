//! Running text as logs have it.

use crate::plan::random::Random;

/// Needs no escapes anywhere.
const WORDS: [&str; 160] = [
    "accepted", "account", "after", "again", "all", "already", "and", "answer", "attempt", "backend",
    "backlog", "batch", "because", "before", "body", "broker", "bucket", "buffer", "bytes", "cache",
    "caller", "cannot", "cart", "changed", "checked", "chunk", "client", "closed", "cluster",
    "commit", "config", "connected", "connection", "consumer", "controller", "cookie", "copied",
    "created", "credentials", "customer", "data", "database", "deadline", "deleted", "delivery",
    "denied", "deployed", "device", "disk", "done", "dropped", "during", "empty", "entry", "error",
    "event", "expired", "failed", "fetched", "file", "finished", "first", "flushed", "for", "found",
    "from", "full", "gateway", "handler", "has", "header", "healthy", "host", "idle", "ignored",
    "in", "index", "inserted", "instance", "invalid", "invoice", "is", "item", "job", "key", "last",
    "latency", "leader", "lease", "limit", "loaded", "lock", "lost", "memory", "message",
    "migration", "missing", "moved", "network", "new", "next", "no", "node", "not", "of", "on",
    "open", "order", "page", "partition", "payment", "peer", "pending", "policy", "pool", "primary",
    "process", "producer", "queue", "quota", "read", "ready", "received", "record", "refused",
    "removed", "replica", "request", "reset", "response", "restarted", "retry", "row", "saved",
    "scheduled", "sent", "server", "service", "session", "shard", "shutdown", "slow", "snapshot",
    "socket", "started", "stopped", "storage", "stream", "table", "task", "the", "timeout", "to",
    "token", "topic", "updated", "user", "was", "with", "write",
];

/// The longest of them.
const WORD_BYTES_MAX: usize = 11;

/// So many words have no more bytes.
pub(super) fn bytes_max(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(WORD_BYTES_MAX + 1)
}

/// Appends `count` words.
pub(super) fn append(out: &mut Vec<u8>, count: u64, random: &mut Random) {
    for index in 0..count {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(random.pick(&WORDS).as_bytes());
    }
}

#[test]
fn words_are_plain_and_as_short_as_said() {
    assert!(WORDS.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
    assert_eq!(WORDS.iter().map(|word| word.len()).max(), Some(WORD_BYTES_MAX));
    assert!(WORDS.is_sorted());
    let (mut out, mut random) = (Vec::new(), Random::new(1));
    append(&mut out, 7, &mut random);
    assert_eq!(String::from_utf8(out).unwrap().split(' ').count(), 7);
}
