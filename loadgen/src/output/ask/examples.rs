//! `examples`: command lines that are worth knowing. A test reads every one of them.

use loadgen::plan::journey::presets::Preset;

/// A purpose, and the words behind the program's name.
const EXAMPLES: &[(&str, &str)] = &[
    ("A thousand messages to localhost:9000, to see that it works.", "-n 1000"),
    (
        "As much as the target takes, by 8 workers for half a minute (a closed loop).",
        "--target tcp://logs.example.org:9000 -c 8 -z 30s",
    ),
    (
        "A steady rate, measured behind a warm-up: latency counts from when a message was due.",
        "-r 10k -w 5s -z 1m -c 50",
    ),
    (
        "What has to hold, for a pipeline of checks: exit code 10 if it does not.",
        "-r 10k -z 1m -c 50 --slo 'p99<50ms' --slo 'loss==0' --slo 'achieved>=99%'",
    ),
    (
        "No figure at all from a machine that was too busy to measure: exit code 13.",
        "-r 50k -z 1m -c 50 --strict",
    ),
    (
        "Up to a rate, hold it, and down again, each stage reported on its own.",
        "--stages 'rise=30s:20k,hold=2m@20k,fall=30s:0' -c 100",
    ),
    (
        "What came to a port, with the gaps between it, at twice the speed.",
        "--replay recorded.ndjson.gz --speed 2x -c 50",
    ),
    (
        "Bursts over a steady base, each with workers of its own.",
        "--burst rate=50k,for=1s,every=10s,base=1k -z 1m -c 100",
    ),
    (
        "A day in ten minutes: the rate goes up and down like a sine.",
        "--wave mean=5k,swing=4k,every=10m -z 10m -c 50",
    ),
    (
        "Independent senders: messages come at random, as customers do.",
        "-r 5k --arrivals poisson -z 1m -c 50",
    ),
    (
        "Ten thousand mostly idle clients, which connect all at once and again each minute.",
        "-c 10k --connect storm --connection-secs-max 1m --think-time 5s..15s --batch-size 1 -z 5m",
    ),
    (
        "Durable replies over TLS, in compressed batches.",
        "--target tls://logs.example.org:9000 --ca-cert-path certs/ca.crt --durability durable --compress -z 30s",
    ),
    (
        "Datagrams; how many arrive only the target knows.",
        "--target udp://localhost:9001 -r 1k -z 10s",
    ),
    (
        "Requests to a web server: a message is a request, and anything but 2xx an error.",
        "--target http://localhost:8080/search?q=x -r 1k -z 30s -c 64 --hit-timeout-ms 500",
    ),
    (
        "Post log lines, 500 a request, with a bearer token from a file.",
        "--target http://localhost:9200/_bulk --ndjson --batch-size 500 --auth-token-file token -z 30s",
    ),
    (
        "A reading a request, as its body, to the path of its device.",
        "--target 'http://localhost:8080/devices/${device}' -m PUT --payload iot -r 1k -z 1m -c 50",
    ),
    (
        "Access logs as nginx writes them, of sizes that vary, and one in a hundred broken.",
        "--payload nginx --payload-bytes lognormal:400,0.6 --malformed 1% -r 5k -z 1m -c 20",
    ),
    (
        "Messages of your own, from a template (`examples app` prints one to begin with).",
        "--template orders.toml -r 5k -z 1m -c 20",
    ),
    (
        "Everything kept in a folder: usable even if the run is killed.",
        "-r 10k -z 10m -c 50 --out results/first",
    ),
    (
        "Each message a journey of several requests, each checked (printed below).",
        "--target http://localhost:8080 --journey medium -r 100 -z 1m",
    ),
    ("The summary for a program, and nothing else on stdout.", "-n 10k --json - --quiet"),
    ("What happens, second by second, for a program.", "-r 1k -z 1m --events ndjson"),
    (
        "What a run would do, without sending anything.",
        "--stages 30s:1k,1m:10k,10s:0 -c 20 --explain",
    ),
    (
        "Keep a command line as a scenario file, and run it from there.",
        "-r 1k -z 1m -c 20 --print-config",
    ),
];

/// All of them, for a person.
pub(super) fn text() -> String {
    let mut out = String::new();
    for (purpose, words) in EXAMPLES {
        out.push_str(&format!("# {purpose}\nlogboom-loadgen {words}\n\n"));
    }
    for preset in Preset::ALL {
        out.push_str(&format!("# --journey {preset}: as a scenario file, to be run or changed.\n"));
        out.push_str(preset.text());
        out.push('\n');
    }
    out.push_str("# From the file again; flags beat what it says.\n");
    out.push_str("logboom-loadgen --scenario steady.toml -z 10s\n");
    out
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use loadgen::config::{self, Wrong};

    use super::*;

    /// As a shell would: blanks part words, single quotes hold them together.
    fn words(line: &str) -> Vec<OsString> {
        let mut words = vec![OsString::from("logboom-loadgen")];
        for (index, part) in line.split('\'').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(OsString::from)),
                _ => words.push(part.into()),
            }
        }
        words
    }

    #[test]
    fn every_example_is_a_run() {
        for (purpose, line) in EXAMPLES {
            match config::read(words(line)) {
                Ok((_, config)) => config.check().unwrap_or_else(|error| panic!("{line}: {error}")),
                Err(Wrong::Line(error)) => panic!("{line}: {error}"),
                Err(Wrong::Run(error)) => panic!("{line}: {error}"),
            }
            assert!(purpose.ends_with('.') && purpose.len() < 100, "{purpose}");
            assert!(text().contains(line));
        }
    }
}
