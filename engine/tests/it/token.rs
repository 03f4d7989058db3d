//! The token of AUTH_TOKEN_FILE.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::clients::line;
use super::harness::{Engine, PATIENCE, command, run};
use super::secure::{Certs, ask, connect};

const TOKEN: &str = "open-sesame-3141592653";

fn hello(token: &str) -> String {
    format!(r#"{{"hello":{{"version":1,"token":"{token}"}}}}"#)
}

/// A token in a file of its own, and the engine that asks for it.
fn engine(settings: &[(&str, &str)]) -> (tempfile::TempDir, String, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token").to_str().unwrap().to_owned();
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    let mut all = vec![("AUTH_TOKEN_FILE", path.as_str())];
    all.extend_from_slice(settings);
    let engine = Engine::start(&all);
    (folder, path, engine)
}

fn say(engine: &Engine, lines: &[String]) -> Vec<String> {
    let mut stream = engine.connect();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    heard.lines().map(str::to_owned).collect()
}

fn is_refused(heard: &[String]) -> bool {
    matches!(heard, [only] if only.contains("unauthorized") && only.contains(r#""fatal":true"#))
}

#[test]
fn only_a_first_line_with_the_right_token_opens() {
    let (_folder, _, engine) = engine(&[]);
    let heard = say(&engine, &[hello(TOKEN), line("1"), line("2")]);
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(heard[0].contains("hello") && heard[2].contains("ok"), "{heard:?}");
    let longer = format!("{TOKEN}x");
    let wrong: &[&[String]] = &[
        &[line("3")],
        &[hello("wrong"), line("4")],
        &[hello(&TOKEN[..5]), line("5")],
        &[hello(&longer), line("6")],
        &[hello(""), line("7")],
        &[r#"{"hello":{"version":1}}"#.to_owned(), line("8")],
        &[line("9"), hello(TOKEN)],
        &["no JSON".to_owned(), hello(TOKEN)],
    ];
    for lines in wrong {
        let heard = say(&engine, lines);
        assert!(is_refused(&heard), "{lines:?}: {heard:?}");
        assert!(!heard[0].contains(TOKEN));
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("received"), 2, "nothing of the others was taken");
    assert_eq!(stopped.total("unauthorized"), wrong.len() as u64);
    assert!(!stopped.err.contains(TOKEN), "{}", stopped.err);
}

#[test]
fn who_says_nothing_is_closed_in_time() {
    let (_folder, _, engine) = engine(&[("HANDSHAKE_TIMEOUT_SECS", "1")]);
    let mut silent = engine.connect();
    let mut heard = String::new();
    silent.read_to_string(&mut heard).unwrap();
    assert!(heard.contains("timeout"), "{heard}");
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("handshake_timeouts"), 1);
}

#[test]
fn a_new_token_comes_by_sighup_and_connections_stay() {
    let (_folder, path, engine) = engine(&[]);
    let mut live: TcpStream = engine.connect();
    let mut reader = BufReader::new(live.try_clone().unwrap());
    let mut answer = |text: String| {
        writeln!(live, "{text}").unwrap();
        let mut reply = String::new();
        reader.read_line(&mut reply).unwrap();
        reply
    };
    assert!(answer(hello(TOKEN)).contains("hello"));

    std::fs::write(&path, " \n").unwrap();
    engine.signal("-HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert!(!is_refused(&say(&engine, &[hello(TOKEN)])), "an empty file changes nothing");
    assert!(is_refused(&say(&engine, &[hello("")])));

    std::fs::write(&path, "another").unwrap();
    engine.signal("-HUP");
    let began = Instant::now();
    while is_refused(&say(&engine, &[hello("another")])) {
        assert!(began.elapsed() < PATIENCE, "the new token is not taken");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(is_refused(&say(&engine, &[hello(TOKEN)])));
    assert!(answer(line("still here")).contains("ok"));
    let stopped = engine.stop();
    stopped.assert_clean();
    for words in ["AUTH_TOKEN_FILE", "no token", "token read again"] {
        assert!(stopped.err.contains(words), "{words} is missing in: {}", stopped.err);
    }
    assert!(!stopped.err.contains("another") && !stopped.err.contains(TOKEN));
}

#[test]
fn sighup_is_harmless_where_nothing_is_to_be_read_again() {
    let engine = Engine::start(&[]);
    for _ in 0..3 {
        engine.signal("-HUP");
    }
    assert_eq!(engine.converse((line("1") + "\n").as_bytes()).len(), 1);
    engine.stop().assert_clean();
}

#[test]
fn token_and_tls_go_together() {
    let certs = Certs::make();
    let dir = certs.path("");
    let (_folder, _, engine) = engine(&[("ENABLE_TLS", "true"), ("CERT_DIR", &dir)]);
    let mut client = connect(engine.address, &certs).unwrap();
    assert!(ask(&mut client, &hello(TOKEN)).unwrap().contains("hello"));
    assert!(ask(&mut client, &line("1")).unwrap().contains("ok"));
    let mut stranger = connect(engine.address, &certs).unwrap();
    assert!(ask(&mut stranger, &line("2")).unwrap().contains("unauthorized"));
    let mut rest = String::new();
    stranger.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    drop(client);
    engine.stop().assert_clean();
}

#[test]
fn a_token_that_cannot_work_is_refused_with_knob_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let path = path.to_str().unwrap();
    std::fs::write(path, "\n").unwrap();
    for (settings, code, words) in [
        (vec![("AUTH_TOKEN_FILE", path)], 3, [path, "no token"]),
        (vec![("AUTH_TOKEN_FILE", "/no/such")], 3, ["/no/such", "AUTH_TOKEN_FILE"]),
        (
            vec![("AUTH_TOKEN_FILE", path), ("ENABLE_UDP", "true")],
            2,
            ["ENABLE_UDP", "AUTH_TOKEN_FILE"],
        ),
    ] {
        let output = run(command(folder.path()).envs(settings));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    std::fs::write(path, TOKEN).unwrap();
    let shown = run(command(folder.path()).env("AUTH_TOKEN_FILE", path).arg("check"));
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(path) && !shown.contains(TOKEN), "{shown}");
}
