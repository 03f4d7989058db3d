//! What a shard and its parts are told, in plain values, made of the knobs.
//!
//! The one place where [`Config`] is taken apart: what is below it knows no knob.

use proto::gzip::Bounds;
use proto::hello::Durability;

use crate::config::{BATCH_OVERHEAD_BYTES, Config, Overload};
use crate::ingest::batch::Limits;
use crate::ingest::lanes::Policy;
use crate::ingest::{self as admission, breaker};
use crate::intake;
use crate::net::connection::Terms;
use crate::net::registry::Patience;
use crate::net::{tls, udp};
use crate::shard::Settings;

/// A gzip member that inflates to less than this may be as dense as it likes.
const INFLATE_RATIO_AFTER_BYTES: u64 = 8 << 20;

/// For shard `shard` of `shards`, whose connections may hold `memory` bytes together.
pub(crate) fn of_shard(config: &Config, shard: usize, shards: usize, memory: usize) -> Settings {
    Settings {
        shard,
        shards,
        read_bytes: if config.enable_tls {
            tls::buffer_bytes(config.buffer_size)
        } else {
            config.buffer_size
        },
        intake: intake::Terms {
            buffer_bytes: config.commit_bytes_max,
            sync_after: config.sync_ms,
            ingest: admission_terms(config, shard),
        },
        connection: Terms {
            line_bytes_max: config.line_bytes_max,
            inflation: Bounds {
                ratio_max: config.inflate_ratio_max,
                ratio_after_bytes: INFLATE_RATIO_AFTER_BYTES,
            },
            reply_queue_bytes_max: config.reply_queue_bytes_max,
            durability: config.durability_granted(config.durability),
            durability_max: config.durability_granted(Durability::Durable),
        },
        udp: udp::Terms {
            line_bytes_max: config.line_bytes_max,
            inflated_bytes_max: config.inflated_bytes_max,
        },
        connection_memory_bytes: memory,
        speaks_tls: config.enable_tls,
        patience: Patience {
            handshake: config.handshake_timeout_secs,
            line: config.line_timeout_secs,
            idle: config.idle_timeout_secs,
            replies: config.reply_timeout_secs,
        },
        drain: config.drain_secs,
    }
}

fn admission_terms(config: &Config, shard: usize) -> admission::Terms {
    admission::Terms {
        shard,
        level_min: config.min_log_level,
        batch: Limits {
            bytes_max: config.commit_bytes_max - BATCH_OVERHEAD_BYTES,
            lines_flush: config.batch_size,
            flush_after: config.batch_flush_ms,
        },
        overload: match config.overload {
            Overload::Wait => Policy::Wait,
            Overload::Shed => Policy::Shed {
                low_percent: config.shed_low_percent,
                normal_percent: config.shed_normal_percent,
            },
        },
        breaker: config.circuit_breaker_enabled.then_some(breaker::Limits {
            failures_max: config.breaker_failures_max,
            slow: config.breaker_slow_ms,
            open: config.breaker_open_ms,
        }),
        disk_free_bytes_min: config.disk_free_bytes_min,
    }
}
