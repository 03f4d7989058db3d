//! What is sent and when, and what the summary says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::server::{Do, OK, Server, stall};
use crate::tool::{command, finish, run, start};

#[test]
fn a_small_total_is_spread_over_all_workers() {
    let server = Server::honest();
    let run = run(server.port, "-n 7 -c 5");
    assert_eq!((run.code, run.verdict(), run.load("ok")), (0, "pass", 7));
    let mut connections = BTreeMap::new();
    for line in server.lines() {
        *connections.entry(line.json()["conn"].as_u64().unwrap()).or_insert(0) += 1;
    }
    let mut counts: Vec<i32> = connections.into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 1, 2, 2]);
}

#[test]
fn every_message_is_sent_once_and_numbered_without_gaps_over_two_shards() {
    let server = Server::honest();
    let run = run(server.port, "-n 5000 -c 6 --batch-size 64 --shards 2 --run-id two-shards");
    assert_eq!((run.code, run.load("ok")), (0, 5000));
    assert_eq!(run.json["environment"]["shards"], 2);
    let mut seqs: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for line in server.lines() {
        let json = line.json();
        assert_eq!(json["run"], "two-shards");
        let is_new = seqs
            .entry(json["conn"].as_u64().unwrap())
            .or_default()
            .insert(json["seq"].as_u64().unwrap());
        assert!(is_new, "{}", line.text);
    }
    assert_eq!(seqs.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    for seqs in seqs.values() {
        assert_eq!(seqs.last().unwrap() + 1, seqs.len() as u64);
    }
}

#[test]
fn a_constant_rate_offers_exactly_its_messages_and_spreads_them() {
    let begin = Instant::now();
    let arrivals = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let server = Server::start({
        let arrivals = arrivals.clone();
        move |_| {
            arrivals.lock().unwrap().push(begin.elapsed());
            Do::Say(OK.to_owned())
        }
    });
    let run = run(server.port, "-r 500 -z 2s -c 4 --shards 2");
    assert_eq!((run.load("offered"), run.load("ok") + run.load("unsent")), (1000, 1000));
    assert!(run.load("unsent") <= 50, "{}", run.load("unsent"));
    assert_eq!(run.json["rate"]["offered_per_s"], 500.0);
    // Spread inside a second: no twentieth of the run holds more than a few times its share,
    // whatever the machine does.
    let arrivals = arrivals.lock().unwrap();
    let first = arrivals[0];
    let mut slices = BTreeMap::new();
    for arrival in &*arrivals {
        *slices.entry((*arrival - first).as_millis() / 100).or_insert(0) += 1;
    }
    assert!(slices.len() >= 15, "{slices:?}");
    assert!(slices.values().all(|&count| count <= 250), "{slices:?}");
}

#[test]
fn a_total_ends_a_constant_rate_early_and_a_duration_ends_a_closed_loop() {
    let server = Server::honest();
    let by_total = run(server.port, "-r 1000 -n 300 -z 60s");
    assert_eq!((by_total.load("offered"), by_total.load("ok")), (300, 300));
    let by_time = run(server.port, "-z 500ms -c 2 --batch-size 10");
    assert_eq!((by_time.code, by_time.load("unsent")), (0, 0));
    assert!(by_time.load("ok") > 0);
    assert_eq!(by_time.load("offered"), by_time.load("ok"));
}

#[test]
fn what_a_stalled_server_keeps_from_being_sent_is_unsent() {
    let begin = std::sync::OnceLock::new();
    let server = Server::start(move |_| {
        stall(*begin.get_or_init(Instant::now), 0.5, 2.5);
        Do::Say(OK.to_owned())
    });
    // From 0.5 s to the end at 1.5 s a thousand messages become due, fewer by as much as the first
    // one was late; one worker holds a few.
    let run = run(server.port, "-r 1000 -z 1500ms -c 1 --batch-size 10");
    assert_eq!((run.code, run.verdict(), run.load("offered")), (10, "fail", 1500));
    assert!(run.load("unsent") >= 300, "{}", run.load("unsent"));
    assert_eq!(run.load("unanswered"), 0);
    let response = &run.json["latency"]["response"];
    assert_eq!(response["count"], 1500);
    let bounds = response["lower_bounds"].as_array().unwrap();
    assert!(bounds.contains(&"p90_ns".into()), "{response}");
    assert!(run.stderr.contains("MAX_ERROR_RATE"), "{}", run.stderr);
}

#[test]
fn waiting_for_a_target_that_comes_up_late_is_latency() {
    // Bound but not listening: connections are refused.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let child = start(port, "-n 20 -c 2");
    std::thread::sleep(Duration::from_millis(1200));
    socket.listen(16).unwrap();
    let _server = Server::on(TcpListener::from(socket), |_| Do::Say(OK.to_owned()));
    let run = finish(child);
    assert_eq!((run.code, run.load("ok")), (0, 20));
    let min = run.latency("response", "min_ns");
    assert!(min > 0.5, "{min}");
}

#[test]
fn a_big_batch_reads_while_it_writes() {
    // 20,000 messages (4 MB) in one batch, each answered with a kilobyte before the next is read:
    // who only writes waits for ever.
    let reply = format!("{{\"status\":\"ok\",\"more\":\"{}\"}}\n", "x".repeat(1000));
    let server = Server::start(move |_| Do::Say(reply.clone()));
    let run = run(server.port, "-n 20k -c 1 --batch-size 20k");
    assert_eq!((run.code, run.load("ok")), (0, 20_000));
}

#[test]
fn a_hello_is_sent_only_on_demand_and_what_is_granted_is_told() {
    let server = Server::start(|line| match line.index {
        0 => {
            let hello = &line.json()["hello"];
            assert_eq!(
                (&hello["replies"], &hello["durability"]),
                (&"range".into(), &"durable".into())
            );
            Do::Say(
                "{\"hello\":{\"version\":1,\"replies\":\"range\",\"durability\":\"written\",\
                 \"shard\":0,\"shards\":1,\"line_bytes_max\":262144}}\n"
                    .to_owned(),
            )
        }
        // One reply for every ten messages.
        index if index % 10 == 0 => Do::Say("{\"status\":\"ok\",\"count\":10}\n".to_owned()),
        _ => Do::Say(String::new()),
    });
    let with = run(server.port, "-n 100 -c 2 --batch-size 50 --replies range --durability durable");
    assert_eq!((with.code, with.load("ok")), (0, 100));
    assert_eq!(with.json["environment"]["granted"]["durability"], "written");
    assert!(with.stderr.contains("the target grants written"), "{}", with.stderr);

    let plain = Server::honest();
    let without = run(plain.port, "-n 10");
    assert_eq!(without.load("ok"), 10);
    assert!(plain.lines().iter().all(|line| line.json()["hello"].is_null()));
}

#[test]
fn filtered_and_rejected_messages_are_told_apart() {
    let server = Server::start(|line| {
        Do::Say(match line.index % 4 {
            0 => "{\"status\":\"filtered\"}\n".to_owned(),
            1 => "{\"status\":\"error\",\"code\":\"overloaded\",\"reason\":\"busy\"}\n".to_owned(),
            _ => OK.to_owned(),
        })
    });
    let run = run(server.port, "-n 400 -c 1 --batch-size 40");
    assert_eq!((run.code, run.verdict()), (10, "fail"));
    assert_eq!((run.load("ok"), run.load("filtered")), (200, 100));
    assert_eq!(run.error("overloaded"), 100);
    let tolerant = self::run(server.port, "-n 400 -c 1 --max-error-rate 25%");
    assert_eq!((tolerant.code, tolerant.verdict()), (0, "pass"));
}

#[test]
fn stdout_is_the_text_or_exactly_one_document() {
    let server = Server::honest();
    let port = server.port.to_string();
    let base = ["--target", &format!("tcp://127.0.0.1:{port}"), "-r", "100", "-z", "1200ms"];
    let text = |output: &[u8]| String::from_utf8(output.to_vec()).unwrap();

    let plain = command(&base).output().unwrap();
    assert!(text(&plain.stdout).contains("PASS: 120 of 120 messages ok"));
    let progress = text(&plain.stderr);
    assert_eq!(progress.lines().count(), 1, "{progress}");
    for word in ["/s of 100/s", "errors 0 (0.00%)", "in flight", "p99"] {
        assert!(progress.contains(word), "{progress}");
    }

    let json = command(&[&base[..], &["--json", "-", "--quiet"]].concat()).output().unwrap();
    let summary: loadgen::summary::Summary = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(summary.load.ok, 120);
    assert!(text(&json.stderr).contains("PASS:"), "quiet takes the progress only");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("summary.json");
    let file =
        command(&[&base[..], &["--json", path.to_str().unwrap()]].concat()).output().unwrap();
    assert!(text(&file.stdout).contains("PASS:"));
    let read = std::fs::read(&path).unwrap();
    serde_json::from_slice::<loadgen::summary::Summary>(&read).unwrap();
}

#[test]
fn the_environment_sets_knobs_and_a_flag_beats_it() {
    let server = Server::honest();
    let mut by_environment = command(&["--json", "-", "-n", "30"]);
    by_environment
        .env("SERVER_HOST", "127.0.0.1")
        .env("SERVER_PORT", server.port.to_string())
        .env("TOTAL_LOGS", "20")
        .env("CONCURRENCY", "3")
        .env("SEED", "9");
    let output = by_environment.output().unwrap();
    let summary: loadgen::summary::Summary = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((summary.load.ok, summary.seed), (30, 9));
    assert_eq!(summary.config["flows"][0]["concurrency"], 3);
}

#[test]
fn the_ledger_is_what_the_server_saw() {
    let server = Server::start(|line| {
        Do::Say(match line.index % 5 {
            4 => "{\"status\":\"error\",\"code\":\"disk_full\",\"reason\":\"\"}\n".to_owned(),
            _ => OK.to_owned(),
        })
    });
    let flow = loadgen::Flow {
        server_host: "127.0.0.1".to_owned(),
        server_port: server.port,
        total_logs: 1000,
        batch_size: 70,
        ..loadgen::Flow::default()
    };
    let config = loadgen::Config { ledger: true, ..loadgen::Config::of(flow) };
    let stop = runtime::stop::Stop::new();
    let outcome = loadgen::run(&config, &stop, &mut |_: &loadgen::Progress| ()).unwrap();
    let mut seen = BTreeSet::new();
    for line in server.lines().iter().filter(|line| line.index % 5 != 4) {
        let json = line.json();
        assert_eq!(json["run"], outcome.ledger.run_id.as_str());
        seen.insert((json["conn"].as_u64().unwrap(), json["seq"].as_u64().unwrap()));
    }
    let mut ledger = BTreeSet::new();
    for connection in &outcome.ledger.connections {
        for &(first, count) in &connection.ok {
            ledger.extend((first..first + count).map(|seq| (connection.conn, seq)));
        }
    }
    assert_eq!(ledger, seen);
    assert_eq!(outcome.ledger.acknowledged(), outcome.summary.load.ok);
    let sent: u64 = outcome.ledger.connections.iter().map(|connection| connection.sent).sum();
    assert_eq!(sent, outcome.summary.load.sent);
}
