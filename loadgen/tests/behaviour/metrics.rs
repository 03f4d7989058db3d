//! What Prometheus reads of a run while it goes on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::{Do, OK, Server};
use crate::tool::{command, finish, skip, start};

const PATIENCE: Duration = Duration::from_secs(20);

/// The address that a run says its metrics are at.
fn address(stderr: &mut BufReader<ChildStderr>) -> String {
    let mut said = String::new();
    loop {
        let from = said.len();
        assert!(stderr.read_line(&mut said).unwrap() > 0, "no metrics: {said}");
        if let Some((_, url)) = said[from..].split_once("metrics at http://") {
            return url.trim_end().strip_suffix("/metrics").unwrap().to_owned();
        }
    }
}

/// The body of an answer, and its status line.
fn get(address: &str, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).ok()?;
    let mut all = String::new();
    stream.read_to_string(&mut all).ok()?;
    let (head, body) = all.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

/// Every sample by its series.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

#[test]
fn a_run_shows_its_figures_while_it_goes_on() {
    const NAME: &str = "a_run_shows_its_figures_while_it_goes_on";
    // Every tenth line is refused.
    let server = Server::start(|line| match line.index % 10 {
        9 => Do::Say("{\"status\":\"error\",\"code\":\"disk_full\",\"reason\":\"r\"}\n".to_owned()),
        _ => Do::Say(OK.to_owned()),
    });
    let mut child =
        start(server.port, "-r 1k -z 5s -c 2 --metrics-port 0 --max-error-rate 1 --quiet");
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let address = address(&mut stderr);
    let began = Instant::now();
    let mut last: BTreeMap<String, f64> = BTreeMap::new();
    let text = loop {
        let (head, text) = get(&address, "/metrics").unwrap();
        assert_eq!(head, "HTTP/1.1 200 OK");
        let now = samples(&text);
        for (series, value) in &last {
            let is_counter = series.contains("_total") || series.contains("_bucket");
            assert!(!is_counter || now[series] >= *value, "{series} fell from {value}");
        }
        // p99 of the lag wants a thousand messages.
        if now.contains_key(r#"logboom_loadgen_signal_limit{signal="lag",unit="seconds"}"#) {
            last = now;
            break text;
        }
        last = now;
        assert!(began.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let of_flow = |name: &str| {
        let series = format!("logboom_loadgen_{name}{{flow=\"main\"}}");
        *last.get(&series).unwrap_or_else(|| panic!("no {series} in {text}"))
    };
    let offered = of_flow("messages_offered_total");
    let elapsed = last["logboom_loadgen_elapsed_seconds"];
    assert!((offered - 1000.0 * elapsed).abs() < 50.0, "{offered} of 1000 a second in {elapsed} s");
    let [sent, ok, error] =
        ["sent", "ok", "error"].map(|it| of_flow(&format!("messages_{it}_total")));
    let in_flight = of_flow("messages_in_flight");
    assert!((sent - ok - error - in_flight).abs() < 0.5, "{sent} = {ok} + {error} + {in_flight}");
    let refused = last[r#"logboom_loadgen_errors_total{flow="main",code="disk_full"}"#];
    assert!((refused - error).abs() < 0.5 && error > 30.0, "{refused} of {error}");
    for kind in ["response", "service", "lag"] {
        let count = of_flow(&format!("{kind}_seconds_count"));
        assert!(count >= ok && count <= sent, "{count} of {kind}, {ok} ok, {sent} sent");
        let buckets = format!("logboom_loadgen_{kind}_seconds_bucket{{le=\"+Inf\",flow=\"main\"}}");
        assert!((last[&buckets] - count).abs() < 0.5);
        assert!(of_flow(&format!("{kind}_seconds_sum")) > 0.0);
    }
    assert!(last.contains_key("logboom_loadgen_valid"));
    assert!(last[r#"logboom_loadgen_signal_bad{signal="achieved"}"#] < 0.5);
    assert!(last["process_resident_memory_bytes"] > 1e6);

    let mut judge = Command::new("promtool");
    judge.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    match judge.stdout(Stdio::null()).spawn() {
        Err(_) => skip(NAME, "promtool is not here"),
        Ok(mut judge) => {
            judge.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let judged = judge.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&judged.stderr);
            assert!(judged.status.success() && said.is_empty(), "{said}");
        }
    }
    assert_eq!(get(&address, "/").unwrap().0, "HTTP/1.1 404 Not Found");
    let run = finish(child);
    assert!(run.load("ok") as f64 >= ok && run.load("offered") == 5000);
}

#[test]
fn a_port_that_is_taken_is_refused_before_anything_is_sent() {
    let server = Server::honest();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("tcp://127.0.0.1:{}", server.port);
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let output =
            command(&[&["--target", &target, "-n", "10"], args].concat()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "no {word} in {said}"));
    };
    refused(&["--metrics-port", &port], 3, &[&port, "METRICS_PORT", "in use"]);
    refused(&["--metrics-port", "0", "--metrics-host", "x y"], 2, &["x y", "METRICS_HOST"]);
    assert_eq!(server.lines().len(), 0);
}
