//! A hammer of one's own: memcached's text protocol, each message stored under its number.
//! `cargo run --example memcached -- --target tcp://localhost:11211 --tps 10k -z 10s`

use futures_lite::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use glommio::net::TcpStream;
use loadgen::hammer::{Answer, Broken, Failure, Hammer, Message, NoConnection};

struct Memcached(BufReader<TcpStream>);

impl Hammer for Memcached {
    type Plan = String;

    async fn connect(target: &String) -> Result<Memcached, NoConnection> {
        let stream = TcpStream::connect(target.as_str()).await.map_err(NoConnection::refused)?;
        Ok(Memcached(BufReader::new(stream)))
    }

    async fn hit(&mut self, message: &Message<'_>) -> Result<Answer, Failure> {
        let head = format!("set {}.{} 0 0 {}\r\n", message.conn, message.seq, message.line.len());
        self.0.get_mut().write_all(&[head.as_bytes(), message.line, b"\r\n"].concat()).await?;
        let mut reply = String::new();
        self.0.read_line(&mut reply).await?;
        match reply.trim_end() {
            "STORED" => Ok(Answer::Ok),
            "" => Err(Broken::Reset.into()),
            no => Err(Failure::Rejected(no.to_lowercase().replace(' ', "_"))),
        }
    }
}

fn main() -> Result<(), loadgen::Error> {
    let (_, config) = loadgen::config::read(std::env::args_os()).unwrap_or_else(|no| no.exit());
    let target = format!("{}:{}", config.flows[0].server_host, config.flows[0].server_port);
    let mut watch = |second: &loadgen::Progress<'_>| eprintln!("{second}");
    let outcome =
        loadgen::run_with::<Memcached>(&config, target, &loadgen::Stop::new(), &mut watch)?;
    eprintln!("{}", outcome.summary.text());
    std::process::exit(outcome.exit_code.into())
}
