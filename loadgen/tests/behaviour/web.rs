//! Web servers that nobody here wrote, started on a free port below a folder that goes away: nginx
//! and Python's http.server. What they saw is in their own logs.
//!
//! Where one is not installed its tests say SKIPPED and return.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::tool::skip;

/// How long a server may take to listen, or to write what it saw.
const PATIENCE: Duration = Duration::from_secs(10);

/// A child that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One process that serves one folder.
pub(crate) struct Nginx {
    pub(crate) port: u16,
    folder: tempfile::TempDir,
    _process: Running,
}

impl Nginx {
    /// nginx with `server` within its server block, where `{dir}` is its folder and `listen` is what
    /// follows the address; `None` where it is not installed, which `test` has said then.
    pub(crate) fn start(test: &str, listen: &str, server: &str) -> Option<Nginx> {
        let Some(program) = find("nginx") else {
            skip(test, "nginx is not installed (apt-get install nginx-light)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display().to_string();
        std::fs::create_dir(folder.path().join("html")).unwrap();
        std::fs::write(folder.path().join("html/index.html"), "hello from nginx").unwrap();
        std::fs::write(folder.path().join("html/long.txt"), "a line of text\n".repeat(2000))
            .unwrap();
        // The port may be taken by somebody else before nginx has it: then another one.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let server = server.replace("{dir}", &dir);
            let conf = format!(
                "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;\n\
                 events {{ worker_connections 1024; }}\n\
                 http {{\n\
                   log_format seen '$status $request_method $request_uri $content_length \
                     \"$http_authorization\" \"$http_x_test\" $ssl_client_verify $connection';\n\
                   access_log {dir}/access.log seen;\n\
                   client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; \
                   fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
                   server {{ listen 127.0.0.1:{port} {listen}; root {dir}/html;\n{server}\n}}\n\
                 }}\n"
            );
            std::fs::write(folder.path().join("nginx.conf"), conf).unwrap();
            let mut nginx = Command::new(&program);
            nginx.arg("-p").arg(folder.path()).arg("-c").arg("nginx.conf");
            nginx.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = Running(nginx.spawn().unwrap());
            if listens(port, &mut process) {
                return Some(Nginx { port, folder, _process: process });
            }
        }
        let log = std::fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
        panic!("nginx does not start: {log}");
    }

    /// A file below its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its access log, once it has `count` lines.
    pub(crate) fn seen(&self, count: u64) -> Vec<Seen> {
        let lines = lines_of(&self.path("access.log"), count, |_| true);
        lines.iter().map(|line| Seen::parse(line)).collect()
    }
}

/// A request as nginx saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) method: String,
    pub(crate) uri: String,
    /// `-` without a body.
    pub(crate) content_length: String,
    pub(crate) authorization: String,
    pub(crate) x_test: String,
    pub(crate) client_verify: String,
    pub(crate) connection: u64,
}

impl Seen {
    fn parse(line: &str) -> Seen {
        let (front, rest) = line.split_once(" \"").unwrap();
        let (authorization, rest) = rest.split_once("\" \"").unwrap();
        let (x_test, rest) = rest.split_once("\" ").unwrap();
        let mut words = front.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap();
        let (client_verify, connection) = rest.split_once(' ').unwrap();
        Seen {
            status: word().parse().unwrap(),
            method: word(),
            uri: word(),
            content_length: word(),
            authorization: authorization.to_owned(),
            x_test: x_test.to_owned(),
            client_verify: client_verify.to_owned(),
            connection: connection.parse().unwrap(),
        }
    }
}

/// `python3 -m http.server`.
pub(crate) struct Python {
    pub(crate) port: u16,
    folder: tempfile::TempDir,
    _process: Running,
}

impl Python {
    /// Serves `index.html` by this version of HTTP; `None` where Python is not installed, which
    /// `test` has said then.
    pub(crate) fn start(test: &str, protocol: &str) -> Option<Python> {
        let Some(program) = find("python3") else {
            skip(test, "python3 is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.html"), "hello from Python").unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut python = Command::new(program);
        python.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]);
        python.args(["--protocol", protocol, "--directory"]).arg(folder.path());
        python.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let (process, port) = announced(python);
        let Some(port) = port else {
            skip(test, "this python3 has no http.server with --protocol (3.11 has)");
            return None;
        };
        Some(Python { port, folder, _process: process })
    }

    /// Runs a server that a script is; `None` as above.
    pub(crate) fn script(test: &str, script: &str) -> Option<Python> {
        let Some(program) = find("python3") else {
            skip(test, "python3 is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let mut python = Command::new(program);
        python.args(["-u", "-c", script]);
        python.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let (process, port) = announced(python);
        Some(Python { port: port.expect("it says its port"), folder, _process: process })
    }

    /// Statuses that it logged, once it has `count` requests.
    pub(crate) fn statuses(&self, count: u64) -> Vec<u16> {
        // 127.0.0.1 - - [21/Nov/2026 14:00:00] "GET / HTTP/1.1" 200 -
        let is_request = |line: &str| line.contains("] \"");
        lines_of(&self.folder.path().join("log"), count, is_request)
            .iter()
            .map(|line| line.rsplit(' ').nth(1).unwrap().parse().unwrap())
            .collect()
    }
}

/// Starts a server that says "… port 1234 …" once it listens.
fn announced(mut command: Command) -> (Running, Option<u16>) {
    let mut process = Running(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.split_once(" port ").map(|(_, rest)| rest.split(' ').next().unwrap());
    (process, port.map(|port| port.parse().unwrap()))
}

/// The lines of a log, once it has `count` of those that are `wanted`, and a moment later, so that
/// more of them would show.
fn lines_of(path: &Path, count: u64, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let read = || -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter(|line| wanted(line)).map(str::to_owned).collect()
    };
    let began = Instant::now();
    while (read().len() as u64) < count && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(50));
    read()
}

fn listens(port: u16, process: &mut Running) -> bool {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if process.0.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Debian keeps servers where users do not look for programs.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(more);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The body of what a server answers to a GET.
pub(crate) fn ask(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A server of our own that does with a request whatever a test wants.
pub(crate) struct Liar {
    pub(crate) port: u16,
}

/// A connection of a [`Liar`].
pub(crate) struct Caught {
    stream: BufReader<TcpStream>,
    /// Counted from 0.
    pub(crate) number: usize,
}

impl Liar {
    /// Calls `on` for every connection, on a thread of its own; the connection ends with it.
    pub(crate) fn start(on: impl Fn(&mut Caught) + Send + Sync + 'static) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let on = std::sync::Arc::new(on);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                let on = on.clone();
                std::thread::spawn(move || {
                    let mut caught = Caught { stream: BufReader::new(stream), number };
                    on(&mut caught);
                    let _ = caught.stream.get_ref().shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Liar { port }
    }
}

impl Caught {
    /// Reads a request: its head and its body. `None` at the end of the connection.
    pub(crate) fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head()?;
        let length = head
            .to_ascii_lowercase()
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some((head, body))
    }

    pub(crate) fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match self.stream.read_line(&mut head) {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
        Some(head)
    }

    /// Reads so many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).ok().map(|()| bytes)
    }

    /// Whether it was taken.
    pub(crate) fn say(&mut self, text: impl AsRef<[u8]>) -> bool {
        self.stream.get_mut().write_all(text.as_ref()).is_ok()
    }

    /// Holds the connection until the peer ends it.
    pub(crate) fn hold(&mut self) {
        let mut chunk = [0; 4096];
        while self.stream.read(&mut chunk).is_ok_and(|n| n > 0) {}
    }
}
