//! Small servers on plain threads: what they do with a line is the test's.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

pub(crate) const OK: &str = "{\"status\":\"ok\"}\n";

/// What to do after a line.
pub(crate) enum Do {
    /// Answer with this text (none, one or more lines) and go on.
    Say(String),
    /// Answer and close.
    SayAndClose(String),
}

/// One line as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Which connection, counted from 0.
    pub(crate) connection: usize,
    /// Which line of it, counted from 0.
    pub(crate) index: usize,
    pub(crate) text: String,
}

impl Line {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("a line is JSON")
    }
}

pub(crate) struct Server {
    pub(crate) port: u16,
    lines: Arc<Mutex<Vec<Line>>>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Server {
    /// Calls `on` for every line, on the connection's own thread. Answers to lines that arrived
    /// together leave together.
    pub(crate) fn start(on: impl Fn(&Line) -> Do + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Server::on(listener, on)
    }

    pub(crate) fn on(
        listener: TcpListener,
        on: impl Fn(&Line) -> Do + Send + Sync + 'static,
    ) -> Server {
        let port = listener.local_addr().unwrap().port();
        let server = Server { port, lines: Arc::default(), streams: Arc::default() };
        let (lines, streams) = (server.lines.clone(), server.streams.clone());
        let on = Arc::new(on);
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                streams.lock().unwrap().push(stream.try_clone().unwrap());
                let (lines, on) = (lines.clone(), on.clone());
                std::thread::spawn(move || serve(stream, connection, &lines, &*on));
            }
        });
        server
    }

    /// Answers every line with ok.
    pub(crate) fn honest() -> Server {
        Server::start(|_| Do::Say(OK.to_owned()))
    }

    /// What has come in so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().clone()
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn serve(
    stream: TcpStream,
    connection: usize,
    lines: &Mutex<Vec<Line>>,
    on: &(dyn Fn(&Line) -> Do + Send + Sync),
) {
    let mut out = stream.try_clone().unwrap();
    let mut input = BufReader::with_capacity(64 * 1024, stream);
    let (mut answers, mut index) = (String::new(), 0);
    loop {
        let mut text = String::new();
        match input.read_line(&mut text) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        text.truncate(text.trim_end().len());
        let line = Line { connection, index, text };
        index += 1;
        let action = on(&line);
        lines.lock().unwrap().push(line);
        let is_last = match action {
            Do::Say(text) => {
                answers.push_str(&text);
                false
            }
            Do::SayAndClose(text) => {
                answers.push_str(&text);
                true
            }
        };
        if is_last || !input.buffer().contains(&b'\n') {
            if out.write_all(answers.as_bytes()).is_err() {
                return;
            }
            answers.clear();
        }
        if is_last {
            let _ = out.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

/// Sleeps while `begin + from .. begin + until` lasts.
pub(crate) fn stall(begin: Instant, from: f64, until: f64) {
    let now = begin.elapsed().as_secs_f64();
    if (from..until).contains(&now) {
        std::thread::sleep(std::time::Duration::from_secs_f64(until - now));
    }
}
