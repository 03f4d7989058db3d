//! A real Prometheus beside a real engine and a real generator: the files of `deploy/` as they are, the
//! guide's questions, and the query of every panel.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::support::{engine, loadgen, skip};

const PATIENCE: Duration = Duration::from_secs(30);
/// Panels that are empty in a run in which nothing of the kind happens.
const MAY_BE_EMPTY: &[&str] = &["Failed, by code"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy")
}

/// A child that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has(program: &str) -> bool {
    let mut probe = Command::new(program);
    probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(deploy().join("prometheus"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_finds_nothing_wrong_with_configuration_rules_and_alerts() {
    if !has("promtool") {
        return skip(
            "promtool_finds_nothing_wrong_with_configuration_rules_and_alerts",
            "promtool is not here",
        );
    }
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "rules.yml", "alerts.yml"]);
    promtool(&["test", "rules", "tests.yml"]);
}

/// A GET; the body.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut all = String::new();
    stream.read_to_string(&mut all)?;
    Ok(all.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn encoded(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

struct Prometheus {
    _running: Running,
    address: SocketAddr,
    folder: TempDir,
}

impl Prometheus {
    /// With the configuration of `deploy/`, but these addresses and a second between scrapes.
    fn start(engine: &str, loadgen: &str) -> Prometheus {
        let folder = tempfile::tempdir().unwrap();
        for name in ["rules.yml", "alerts.yml"] {
            fs::copy(deploy().join("prometheus").join(name), folder.path().join(name)).unwrap();
        }
        // It cannot be told to take any free port and say which.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut config = fs::read_to_string(deploy().join("prometheus/prometheus.yml")).unwrap();
        for (from, to) in [
            ("engine:9100", engine),
            ("loadgen:9101", loadgen),
            ("localhost:9090", &free.to_string()),
            ("scrape_interval: 5s", "scrape_interval: 1s"),
            ("scrape_timeout: 4s", "scrape_timeout: 1s"),
            ("evaluation_interval: 5s", "evaluation_interval: 1s"),
        ] {
            assert!(config.contains(from), "prometheus.yml has no {from}");
            config = config.replace(from, to);
        }
        fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address={free}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Prometheus { _running: Running(child), address: free, folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn api(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&get(self.address, path).ok()?).ok()
    }

    /// The samples that answer `query` now.
    fn ask(&self, query: &str) -> Vec<Value> {
        let answer = self.api(&format!("/api/v1/query?query={}", encoded(query)));
        let answer = answer.unwrap_or_else(|| panic!("no answer to {query}: {}", self.log()));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// The same as numbers; what is no number is none.
    fn numbers(&self, query: &str) -> Vec<f64> {
        let number = |sample: &Value| sample["value"][1].as_str().unwrap().parse().unwrap();
        self.ask(query).iter().map(number).filter(|value: &f64| value.is_finite()).collect()
    }
}

/// The guide's questions and queries.
fn questions() -> Vec<(String, String)> {
    let guide = deploy().parent().unwrap().join("docs/guide/watching.md");
    let guide = fs::read_to_string(guide).unwrap();
    let (_, table) = guide.split_once("<!-- queries -->").unwrap();
    let (table, _) = table.split_once("<!-- /queries -->").unwrap();
    let row = |line: &str| {
        let (question, query) = line.strip_prefix("| ")?.strip_suffix("` |")?.split_once(" | `")?;
        Some((question.to_owned(), query.to_owned()))
    };
    table.lines().filter_map(row).collect()
}

/// Every panel of the dashboards: where, its title, its queries.
fn panels() -> Vec<(String, String, Vec<String>)> {
    let mut panels = Vec::new();
    for name in ["engine.json", "generator.json"] {
        let text = fs::read_to_string(deploy().join("grafana/dashboards").join(name)).unwrap();
        let board: Value = serde_json::from_str(&text).unwrap();
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: an id twice");
            if panel["type"] == "row" {
                continue;
            }
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {}", panel["title"]);
            let targets = panel["targets"].as_array().unwrap();
            let queries = targets.iter().map(|it| it["expr"].as_str().unwrap().to_owned());
            let title = panel["title"].as_str().unwrap().to_owned();
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{name}: {title}");
            panels.push((name.to_owned(), title, queries.collect()));
        }
    }
    panels
}

#[test]
fn prometheus_answers_the_guides_questions_and_every_panel() {
    const NAME: &str = "prometheus_answers_the_guides_questions_and_every_panel";
    if !has("prometheus") {
        return skip(NAME, "prometheus is not here");
    }
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let child = Command::new(engine())
        .env_clear()
        .envs([("SERVER_HOST", "127.0.0.1"), ("SERVER_PORT", "0"), ("ADMIN_PORT", "0")])
        .envs([("DISK_FREE_BYTES_MIN", "0"), ("SHARDS", "2"), ("DURABILITY", "durable")])
        .env("LOG_DIR", folder.path().join("logs"))
        .env("READY_FILE", &ready)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut engine = Running(child);
    let began = Instant::now();
    while !ready.exists() {
        assert!(engine.0.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE, "no engine");
        std::thread::sleep(Duration::from_millis(5));
    }
    let ready: Value = serde_json::from_str(&fs::read_to_string(&ready).unwrap()).unwrap();
    let port = |name: &str| ready[name].as_u64().unwrap();

    let child = Command::new(loadgen())
        .env_clear()
        .args(["--target", &format!("tcp://127.0.0.1:{}", port("port"))])
        .args(["-r", "500", "-z", "60s", "-c", "8", "--metrics-port", "0", "--quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut generator = Running(child);
    let mut said = BufReader::new(generator.0.stderr.take().unwrap());
    let mut line = String::new();
    let metrics = loop {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the generator does not say where");
        if let Some((_, url)) = line.trim_end().split_once("metrics at http://") {
            break url.strip_suffix("/metrics").unwrap().to_owned();
        }
    };
    // And somebody sends what is none of a line's business.
    let mut wrong =
        TcpStream::connect(("127.0.0.1", u16::try_from(port("port")).unwrap())).unwrap();
    wrong.write_all(b"nonsense\n").unwrap();
    let admin = format!("127.0.0.1:{}", port("admin_port"));
    let prometheus = Prometheus::start(&admin, &metrics);

    // Until there are rates of all that is asked about.
    let began = Instant::now();
    let all_there = || {
        let is_up = get(prometheus.address, "/-/ready").is_ok_and(|it| it.contains("is Ready"));
        is_up
            && !prometheus.numbers("instance:logboom_engine_reply_seconds:p99_1m").is_empty()
            && !prometheus.numbers("instance:logboom_loadgen_response_seconds:p99_30s").is_empty()
            && !prometheus.numbers("logboom_loadgen_signal_limit{signal=\"lag\"}").is_empty()
    };
    while !all_there() {
        assert!(began.elapsed() < PATIENCE, "{}", prometheus.log());
        let _ = wrong.write_all(b"nonsense\n");
        std::thread::sleep(Duration::from_millis(200));
    }

    for (question, query) in questions() {
        let numbers = prometheus.numbers(&query);
        assert!(!numbers.is_empty(), "no answer to `{question}`: {query}");
        let bounds = match question.as_str() {
            it if it.starts_with("messages a second") => 1.0..2000.0,
            it if it.starts_with("share of them refused") => 1e-6..0.5,
            it if it.contains("seconds") && !it.starts_with("cpu") => 1e-6..10.0,
            it if it.starts_with("breakers") => 0.0..0.5,
            it if it.starts_with("how even") => 1.0..2.01,
            it if it.starts_with("lines that share") => 1.0..1000.0,
            _ => 0.0..1e9,
        };
        let is_sensible = numbers.iter().all(|number| bounds.contains(number));
        assert!(is_sensible, "{question}: {numbers:?} in {bounds:?}");
    }
    assert!(questions().len() > 10, "the guide's table is read");
    assert_eq!(prometheus.numbers("logboom_engine_ready"), [1.0]);
    // Nothing is wrong but that these are debug builds that share cpus.
    let firing = prometheus.ask("ALERTS{alertstate=\"firing\", alertname!=\"LogboomRunNotValid\"}");
    assert!(firing.is_empty(), "{firing:?}");

    let mut empty = BTreeSet::new();
    for (board, title, queries) in panels() {
        let job = if board == "engine.json" { admin.as_str() } else { metrics.as_str() };
        let answers: usize = queries
            .iter()
            .map(|query| {
                let query = query.replace("$__rate_interval", "20s").replace("$instance", job);
                assert!(!query.contains('$'), "{title}: {query} has a variable that is unknown");
                prometheus.ask(&query).len()
            })
            .sum();
        if answers == 0 {
            empty.insert(title);
        }
    }
    let unexpected: Vec<_> =
        empty.iter().filter(|title| !MAY_BE_EMPTY.contains(&title.as_str())).collect();
    assert!(unexpected.is_empty(), "panels without data: {unexpected:?}");
}

#[test]
fn every_metric_that_is_asked_for_is_one_that_is_served() {
    let tables = [engine_table(), loadgen::metrics::table()].concat();
    let served: BTreeSet<&str> =
        tables.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut asked: Vec<String> = panels().into_iter().flat_map(|(_, _, queries)| queries).collect();
    asked.extend(questions().into_iter().map(|(_, query)| query));
    for name in ["rules.yml", "alerts.yml"] {
        asked.push(fs::read_to_string(deploy().join("prometheus").join(name)).unwrap());
    }
    let mut seen = BTreeSet::new();
    for text in asked {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
        for word in words.filter(|it| it.starts_with("logboom_") && !it.contains(':')) {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| word.strip_suffix(part).filter(|name| served.contains(name)))
                .unwrap_or(word);
            assert!(served.contains(name), "{name} is asked for and not served");
            seen.insert(name.to_owned());
        }
    }
    assert!(seen.len() > 40, "{seen:?}");
}

/// The guide's, which another test holds against the engine.
fn engine_table() -> String {
    let guide = deploy().parent().unwrap().join("docs/guide/engine.md");
    let guide = fs::read_to_string(guide).unwrap();
    let (_, table) = guide.split_once("<!-- metrics -->").unwrap();
    table.split_once("<!-- /metrics -->").unwrap().0.to_owned()
}
