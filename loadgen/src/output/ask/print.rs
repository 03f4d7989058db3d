//! `--print-config`: the resolved run as a scenario file, which is the same run again.
//!
//! Invariant: reading the file gives the same [`Config`]. Secrets are in files, of which only the
//! names are known here.

use std::time::Duration;

use loadgen::config::{Args, Config, Flow, Http, Sockets};
use loadgen::plan::replay::Replay;
use loadgen::plan::shape::{Shape, Time};
use toml::{Table, Value};

/// The file.
pub(super) fn toml(config: &Config, args: &Args) -> String {
    let mut run = Table::new();
    let Config {
        flows,
        shards,
        seed,
        run_id,
        pacing,
        warmup_secs,
        reply_timeout_secs,
        connect_timeout_secs,
        max_error_rate,
        slo,
        strict,
        state_dir,
        ledger: _,
    } = config;
    put(&mut run, "shards", shards);
    put(&mut run, "seed", seed);
    if let Some(run_id) = run_id {
        put(&mut run, "run_id", run_id);
    }
    put(&mut run, "pacing", pacing);
    put(&mut run, "warmup_secs", time(*warmup_secs));
    put(&mut run, "reply_timeout_secs", time(*reply_timeout_secs));
    put(&mut run, "connect_timeout_secs", time(*connect_timeout_secs));
    put(&mut run, "max_error_rate", max_error_rate);
    if !slo.is_empty() {
        let slo = slo.iter().map(|slo| Value::String(slo.to_string())).collect();
        run.insert("slo".to_owned(), Value::Array(slo));
    }
    run.insert("strict".to_owned(), Value::Boolean(*strict));
    if let Some(state_dir) = state_dir {
        put(&mut run, "state_dir", state_dir.display());
    }
    if let Some(out) = &args.out {
        put(&mut run, "out", out.display());
    }
    if let Some(json) = &args.json {
        put(&mut run, "json", json.display());
    }
    let flows = flows.iter().map(|it| Value::Table(flow(it))).collect();
    run.insert("flow".to_owned(), Value::Array(flows));
    toml::to_string(&run).expect("a table of texts")
}

fn flow(flow: &Flow) -> Table {
    let mut table = Table::new();
    let Flow {
        name,
        scheme: _,
        server_host: _,
        server_port: _,
        total_logs,
        duration_secs,
        concurrency,
        batch_size,
        shape,
        arrivals,
        catch_up,
        think_time,
        connect: _,
        connection_secs_max,
        connection_messages_max,
        sockets,
        payload,
        template,
        payload_bytes,
        malformed,
        feeder_rows: _,
        replies,
        durability,
        hit_timeout_ms,
        http,
        steps,
        ca_cert_path,
        client_cert_path,
        client_key_path,
        auth_token_file,
        auth_token: _,
        compress,
        udp_datagram_bytes,
        replay,
    } = flow;
    put(&mut table, "name", name);
    put(&mut table, "target", flow.target());
    put(&mut table, "total_logs", total_logs);
    put(&mut table, "duration_secs", time(*duration_secs));
    put(&mut table, "concurrency", concurrency);
    put(&mut table, "batch_size", batch_size);
    match shape {
        // What is replayed says its own speed.
        Shape::Recorded => {}
        Shape::Closed if replay.is_some() => {}
        Shape::Closed => put(&mut table, "target_rps", 0),
        Shape::Constant(constant) => put(&mut table, "target_rps", constant.rate_per_s),
        Shape::Stages(stages) => put(&mut table, "stages", stages),
        Shape::Burst(burst) => put(&mut table, "burst", burst),
        Shape::Wave(wave) => put(&mut table, "wave", wave),
    }
    put(&mut table, "arrivals", arrivals);
    put(&mut table, "catch_up", catch_up);
    put(&mut table, "think_time", think_time);
    let connect = serde_json::to_value(flow.connect).expect("a word");
    put(&mut table, "connect", connect.as_str().unwrap_or_default());
    put(&mut table, "connection_secs_max", time(*connection_secs_max));
    put(&mut table, "connection_messages_max", connection_messages_max);
    connections(&mut table, sockets);
    put(&mut table, "payload", payload);
    put(&mut table, "payload_bytes", payload_bytes);
    put(&mut table, "malformed", malformed);
    put(&mut table, "replies", replies);
    if let Some(durability) = durability {
        put(&mut table, "durability", durability);
    }
    if let Some(timeout) = hit_timeout_ms {
        put(&mut table, "hit_timeout_ms", time(*timeout));
    }
    if flow.scheme.is_http() {
        requests(&mut table, http);
    }
    if !steps.is_empty() {
        let step = |step| Value::try_from(step).expect("a step is plain data");
        table.insert("step".to_owned(), Value::Array(steps.iter().map(step).collect()));
    }
    for (key, path) in [
        ("ca_cert_path", ca_cert_path),
        ("template", template),
        ("client_cert_path", client_cert_path),
        ("client_key_path", client_key_path),
        ("auth_token_file", auth_token_file),
    ] {
        if let Some(path) = path {
            put(&mut table, key, path.display());
        }
    }
    table.insert("compress".to_owned(), Value::Boolean(*compress));
    put(&mut table, "udp_datagram_bytes", udp_datagram_bytes);
    if let Some(replay) = replay {
        put_replay(&mut table, replay);
    }
    table
}

fn requests(table: &mut Table, http: &Http) {
    let Http { path: _, method, headers, body, pipeline, ndjson, http2, streams } = http;
    if let Some(method) = method {
        table.insert("method".to_owned(), Value::String(method.clone()));
    }
    if !headers.is_empty() {
        let headers = headers.iter().map(|header| Value::String(header.to_string())).collect();
        table.insert("header".to_owned(), Value::Array(headers));
    }
    if let Some(body) = body {
        table.insert("body".to_owned(), Value::String(body.to_string()));
    }
    put(table, "pipeline", pipeline);
    table.insert("ndjson".to_owned(), Value::Boolean(*ndjson));
    table.insert("http2".to_owned(), Value::Boolean(*http2));
    put(table, "streams", streams);
}

fn connections(table: &mut Table, sockets: &Sockets) {
    let Sockets { source_address, tcp_nodelay, send_buffer, receive_buffer } = sockets;
    if !source_address.is_empty() {
        let sources = source_address.iter().map(|source| Value::String(source.to_string()));
        table.insert("source_address".to_owned(), Value::Array(sources.collect()));
    }
    put(table, "tcp_nodelay", if *tcp_nodelay { "on" } else { "off" });
    for (key, bytes) in [("send_buffer", send_buffer), ("receive_buffer", receive_buffer)] {
        if let Some(bytes) = bytes {
            put(table, key, bytes);
        }
    }
}

fn put_replay(table: &mut Table, replay: &Replay) {
    let Replay { path, format, timestamp_field, speed, loops, from, to, level } = replay;
    put(table, "replay", path.display());
    put(table, "replay_speed", speed);
    put(table, "replay_loops", loops);
    let more = [
        ("replay_format", format.map(|it| it.to_string())),
        ("replay_timestamp_field", timestamp_field.clone()),
        ("replay_from", from.map(|it| it.to_string())),
        ("replay_to", to.map(|it| it.to_string())),
        ("replay_level", level.map(|it| it.to_string())),
    ];
    for (key, value) in more {
        if let Some(value) = value {
            put(table, key, value);
        }
    }
}

/// Whole numbers as such, everything else as text.
fn put(table: &mut Table, key: &str, value: impl ToString) {
    let text = value.to_string();
    let value = text.parse().map_or(Value::String(text), Value::Integer);
    table.insert(key.to_owned(), value);
}

fn time(duration: Duration) -> String {
    match duration {
        Duration::ZERO => "0".to_owned(),
        duration => Time(duration).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use loadgen::config::{self, Wrong};

    use super::*;

    fn read(words: &[&str]) -> (Args, Config) {
        let line = ["logboom-loadgen"].iter().chain(words).map(OsString::from);
        match config::read(line) {
            Ok(read) => read,
            Err(Wrong::Line(error)) => panic!("{words:?}: {error}"),
            Err(Wrong::Run(error)) => panic!("{words:?}: {error}"),
        }
    }

    #[test]
    fn the_file_is_the_same_run_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scenario.toml");
        for words in [
            &[][..],
            &["-n", "1k"],
            &["-z", "90s", "-r", "12345", "--arrivals", "poisson", "--catch-up", "1.25x"],
            &["--stages", "rise=30s:20k,2m@20k,30s:0", "-w", "1500ms", "--pacing", "precise"],
            &["--burst", "rate=50k,for=1s,every=10s", "-c", "7", "--slo", "p99<50ms", "--strict"],
            &["--burst", "rate=5k,base=0,for=20ms,every=90ms", "-z", "3"],
            &["--wave", "mean=5k,swing=4k,every=60s", "-z", "1h", "--think-time", "1ms..2500us"],
            &["--target", "tls://[::1]:9100", "--auth-token-file", "secret.txt", "--compress"],
            &["--target", "udp://a:1", "--udp-datagram-bytes", "8KiB", "--seed", "77"],
            &["--connect", "storm", "--connection-secs-max", "1m", "--durability", "durable"],
            &["--max-error-rate", "0.5%", "--run-id", "abc", "--reply-timeout-secs", "300ms"],
            &["--state-dir", "/tmp/state", "--shards", "2"],
            &["--target", "https://[::1]/a?b=c", "-m", "PUT", "-d", "@a b", "-H", "a: b: c"],
            &["--target", "http://a:8080", "-d", "77", "-H", "x: 1", "-H", "x: 2", "--pipeline=4"],
            &["--target", "http://a", "--ndjson", "--hit-timeout-ms", "250", "--batch-size", "7"],
            &["--target", "https://a", "--http2", "--streams", "32"],
            &["--target", "http://a/api", "--journey", "complex", "--http2"],
            &["--source-address", "127.0.0.2,127.0.1.0/24", "--tcp-nodelay=off"],
            &["--send-buffer", "64KiB", "--receive-buffer", "1MiB", "--source-address", "::1"],
            &["--payload", "k8s", "--malformed", "2.5%", "--payload-bytes", "64:90%,16k:10%"],
            &["--payload-bytes", "lognormal:300,0.75", "--template", "some where/orders.toml"],
            &["--payload-bytes", "1k"],
        ] {
            let (args, config) = read(words);
            config.check().unwrap();
            let text = toml(&config, &args);
            std::fs::write(&path, &text).unwrap();
            let (_, again) = read(&["--scenario", path.to_str().unwrap()]);
            assert_eq!(again, config, "{words:?}:\n{text}");
        }
    }
}
