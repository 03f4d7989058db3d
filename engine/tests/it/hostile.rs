//! Clients that mean no good, against an engine of one shard, while others on that shard are served.
//!
//! Each test runs an attack and, all through it, two good clients; they have their replies within
//! [`SERVED_WITHIN`] (far more than it takes, because tests share their machine), and the memory of
//! the process stays within what the test says. What was measured is printed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use flate2::{Compress, Compression, FlushCompress};
use proto::reply::{OwnedReply, Status};
use socket2::{Domain, Type};

use crate::clients::{Client, line};
use crate::harness::{Engine, PATIENCE, Stopped, skip};

/// A good client has its reply within this time, whatever others do.
const SERVED_WITHIN: Duration = Duration::from_secs(2);
const GOOD_CLIENTS: usize = 2;
const MIB: usize = 1 << 20;

fn start(more: &[(&str, &str)]) -> Engine {
    let mut settings = vec![("SHARDS", "1"), ("COMMIT_BYTES_MAX", "1MiB")];
    settings.extend(more);
    Engine::start(&settings)
}

/// What a good client saw.
struct Seen {
    replies: u64,
    worst: Duration,
}

fn good_client(address: SocketAddr, name: usize, over: Arc<AtomicBool>) -> JoinHandle<Seen> {
    // It was there before the attack; who comes during a storm has to queue.
    let mut client = Client::of(TcpStream::connect(address).unwrap());
    assert_eq!(client.ask(&line("good")).status, Status::Ok);
    std::thread::spawn(move || {
        let mut seen = Seen { replies: 0, worst: Duration::ZERO };
        while !over.load(Ordering::Relaxed) || seen.replies == 0 {
            let began = Instant::now();
            let id = format!("good {name} {}", seen.replies);
            let reply = client.ask(&line(&id));
            assert_eq!(reply.status, Status::Ok, "{reply:?}");
            assert_eq!(reply.id.unwrap(), id.as_str());
            seen.worst = seen.worst.max(began.elapsed());
            seen.replies += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        seen
    })
}

/// Resident bytes of the engine, now (`VmRSS`) or at their peak (`VmHWM`).
fn resident(engine: &Engine, which: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// What an attack did to the engine.
struct Damage {
    /// Lines of good clients, all of them answered.
    good: u64,
    /// How much the peak of resident memory rose.
    grown_bytes: usize,
}

/// Runs `attack` while good clients are served.
fn under<T>(name: &str, engine: &Engine, attack: impl FnOnce() -> T) -> (T, Damage) {
    let over = Arc::new(AtomicBool::new(false));
    // Warm: what the first lines cost in memory is not the attack's.
    engine.converse((line("warm") + "\n").repeat(2000).as_bytes());
    let before = resident(engine, "VmHWM");
    let good: Vec<_> = (0..GOOD_CLIENTS)
        .map(|client| good_client(engine.address, client, Arc::clone(&over)))
        .collect();
    let began = Instant::now();
    let result = attack();
    let took = began.elapsed();
    over.store(true, Ordering::Relaxed);
    let seen: Vec<_> = good.into_iter().map(|client| client.join().unwrap()).collect();
    let grown_bytes = resident(engine, "VmHWM").saturating_sub(before);
    let worst = seen.iter().map(|seen| seen.worst).max().unwrap();
    let good: u64 = seen.iter().map(|seen| seen.replies).sum();
    println!(
        "{name}: {took:.1?}, good clients had {good} replies within {worst:.1?}, \
         peak memory +{} KiB",
        grown_bytes / 1024
    );
    assert!(worst < SERVED_WITHIN, "a good client waited {worst:?}");
    (result, Damage { good: good + 2000 + GOOD_CLIENTS as u64, grown_bytes })
}

fn stop(engine: Engine, damage: &Damage) -> Stopped {
    let stopped = engine.stop();
    stopped.assert_clean();
    assert!(stopped.total("ok") >= damage.good);
    stopped
}

/// All replies until the connection ends, by FIN or by reset.
fn replies(mut stream: &TcpStream) -> Vec<OwnedReply> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    all.split_inclusive(|&byte| byte == b'\n')
        .map(|line| OwnedReply::parse(line.trim_ascii_end()).unwrap())
        .collect()
}

fn fatal_code(replies: &[OwnedReply]) -> &str {
    let last = replies.last().expect("a last word");
    assert!(last.fatal, "{last:?}");
    last.code.as_deref().unwrap()
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Raises the limit on descriptors; gives how many of `wanted` connections the test may open.
fn connections(test: &str, wanted: usize) -> usize {
    let may = usize::try_from(runtime::nofile::raise().now).unwrap_or(usize::MAX) - 200;
    if may < wanted {
        skip(test, &format!("{may} connections instead of {wanted}: the limit on descriptors"));
    }
    may.min(wanted)
}

#[test]
fn clients_that_send_a_byte_now_and_then_are_cut_off_with_a_word() {
    let engine = start(&[("LINE_TIMEOUT_SECS", "1")]);
    let (ends, damage) = under("slow bytes", &engine, || {
        let slow: Vec<_> = (0..50)
            .map(|_| {
                let stream = engine.connect();
                std::thread::spawn(move || {
                    for byte in line("slow").bytes().cycle() {
                        if (&stream).write_all(&[byte]).is_err() {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    // The last word was sent before the reset that a late byte provokes.
                    stream
                })
            })
            .collect();
        slow.into_iter().map(|slow| slow.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(ends.len(), 50);
    let stopped = stop(engine, &damage);
    assert_eq!(stopped.total("line_timeouts"), 50);
    assert_eq!(stopped.total("received"), damage.good);
}

#[test]
fn peers_that_vanish_without_a_word_are_let_go() {
    let test = "peers_that_vanish_without_a_word_are_let_go";
    let engine = start(&[("IDLE_TIMEOUT_SECS", "1"), ("LINE_TIMEOUT_SECS", "1")]);
    let port = format!(":{:04X}", engine.address.port());
    // The engine's ends of connections that nobody has closed (established, or closed by the peer).
    let connections = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let rows = table.lines().map(|row| row.split_whitespace().skip(1).collect::<Vec<_>>());
        rows.filter(|row| row[0].ends_with(&port) && ["01", "08"].contains(&row[2])).count()
    };
    // A socket that is closed in repair mode sends neither FIN nor reset, as after a power cut.
    let vanish = format!(
        "import socket
for n in range(100):
    s = socket.create_connection(('127.0.0.1', {}))
    s.sendall(b'{{\"level\":\"INFO\",\"message\":\"half')
    s.setsockopt(socket.IPPROTO_TCP, 19, 1)
    s.close()",
        engine.address.port()
    );
    let vanished = match Command::new("python3").args(["-c", &vanish]).output() {
        Ok(output) => output,
        Err(error) => return skip(test, &format!("python3: {error}")),
    };
    if !vanished.status.success() {
        return skip(test, &String::from_utf8_lossy(&vanished.stderr));
    }
    let ((), damage) = under("vanished", &engine, || {
        let began = Instant::now();
        while connections() > GOOD_CLIENTS {
            assert!(began.elapsed() < PATIENCE, "{} connections", connections());
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let stopped = stop(engine, &damage);
    // Where the kernel still owes the peer an acknowledgement it sends one, and is answered by a
    // reset: so the end of a few is not by timeout.
    let by_timeout = stopped.total("idle_timeouts") + stopped.total("line_timeouts");
    assert!((50..=100).contains(&by_timeout), "{by_timeout}");
    assert_eq!(stopped.total("received"), damage.good);
}

#[test]
fn clients_that_never_read_are_reset_and_cost_no_more_than_their_share() {
    let engine = start(&[("REPLY_TIMEOUT_SECS", "1"), ("REPLY_QUEUE_BYTES_MAX", "64KiB")]);
    let (sent, damage) = under("never reading", &engine, || {
        let deaf: Vec<_> = (0..2)
            .map(|client| {
                let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                // Little room in the kernel, so that this takes less than a minute.
                socket.set_recv_buffer_size(4096).unwrap();
                socket.connect(&engine.address.into()).unwrap();
                let mut stream = TcpStream::from(socket);
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                std::thread::spawn(move || {
                    let lines: String =
                        (0..500).map(|n| line(&format!("deaf {client} {n}")) + "\n").collect();
                    let mut sent = 0;
                    // Ends by the reset.
                    while stream.write_all(lines.as_bytes()).is_ok() {
                        sent += lines.len();
                    }
                    sent
                })
            })
            .collect();
        deaf.into_iter().map(|deaf| deaf.join().unwrap()).sum::<usize>()
    });
    assert!(sent > MIB, "{sent} bytes are no load");
    assert!(damage.grown_bytes < 24 * MIB, "{} bytes", damage.grown_bytes);
    let stopped = stop(engine, &damage);
    assert_eq!(stopped.total("reply_timeouts"), 2);
}

#[test]
fn who_writes_all_and_then_reads_has_it_all_or_is_reset() {
    let engine = start(&[("REPLY_TIMEOUT_SECS", "1")]);
    let (_, damage) = under("write all, then read", &engine, || {
        // Replies in runs take next to no room: nothing holds this client up.
        let lines = 50_000;
        let mut stream = engine.connect();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"{\"hello\":{\"version\":1,\"replies\":\"range\"}}\n").unwrap();
        stream
            .write_all("{\"level\":\"INFO\",\"message\":\"all\"}\n".repeat(lines).as_bytes())
            .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let answered: u64 = said
            .lines()
            .skip(1)
            .map(|reply| OwnedReply::parse(reply.as_bytes()).unwrap())
            .inspect(|reply| assert_eq!(reply.status, Status::Ok))
            .map(|reply| reply.count)
            .sum();
        assert_eq!(answered, lines as u64);
        // Replies with ids are more than sockets and queue hold: this one must read, or go.
        let mut stream = engine.connect();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let text: String = (0..300_000).map(|n| line(&n.to_string()) + "\n").collect();
        let error = stream.write_all(text.as_bytes()).unwrap_err();
        let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(kinds.contains(&error.kind()), "{error}");
    });
    assert_eq!(stop(engine, &damage).total("reply_timeouts"), 1);
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_hinder_nobody() {
    let test = "ten_thousand_idle_connections_cost_little_and_hinder_nobody";
    let wanted = connections(test, 10_000);
    let engine = start(&[]);
    let before = resident(&engine, "VmRSS");
    let (each, damage) = under("idle", &engine, || {
        let idle: Vec<_> = (0..wanted).map(|_| engine.connect()).collect();
        // The last one is served, so all were accepted.
        let last = idle.last().unwrap().try_clone().unwrap();
        assert_eq!(Client::of(last).ask(&line("last")).status, Status::Ok);
        std::thread::sleep(Duration::from_millis(300));
        let each = resident(&engine, "VmRSS").saturating_sub(before) / wanted;
        // Each of them still is.
        for stream in idle.into_iter().step_by(100) {
            assert_eq!(Client::of(stream).ask(&line("idle")).status, Status::Ok);
        }
        each
    });
    println!("{wanted} idle connections: {each} bytes each");
    assert!(each <= 8 << 10, "{each} bytes each");
    let stopped = stop(engine, &damage);
    assert!(stopped.total("connections_opened") >= wanted as u64);
    assert_eq!(stopped.total("connections_opened"), stopped.total("connections_closed"));
}

#[test]
fn a_storm_of_connections_and_of_resets_within_lines_passes() {
    let engine = start(&[]);
    let (opened, damage) = under("storm", &engine, || {
        let storms: Vec<_> = (0..3u64)
            .map(|seed| {
                let address = engine.address;
                std::thread::spawn(move || {
                    let mut rng = Rng::with_seed(seed);
                    let began = Instant::now();
                    let mut opened = 0;
                    while began.elapsed() < Duration::from_millis(1500) {
                        let Ok(mut stream) = TcpStream::connect(address) else { continue };
                        opened += 1;
                        let text = line("never whole");
                        let _ = match rng.u8(..4) {
                            0 => Ok(()),
                            1 => stream.write_all(&text.as_bytes()[..rng.usize(1..text.len())]),
                            2 => stream.write_all("[".repeat(rng.usize(1..100_000)).as_bytes()),
                            _ => stream.write_all(b"\x1f\x8b\x08\0\0\0\0\0\0"),
                        };
                        reset(stream);
                    }
                    opened
                })
            })
            .collect();
        storms.into_iter().map(|storm| storm.join().unwrap()).sum::<u64>()
    });
    println!("{opened} connections in the storm");
    assert!(opened > 300);
    assert!(damage.grown_bytes < 64 * MIB, "{} bytes", damage.grown_bytes);
    let stopped = stop(engine, &damage);
    assert_eq!(stopped.total("connections_opened"), stopped.total("connections_closed"));
    assert_eq!(stopped.total("ok"), damage.good, "half a line is no line");
}

#[test]
fn whatever_bytes_come_each_line_has_its_reply() {
    let engine = start(&[]);
    let (_, damage) = under("bytes", &engine, || {
        let deep = |bytes: usize| [&*"[".repeat(bytes), "\n", &line("behind"), "\n"].concat();
        let codes = |input: &[u8]| -> Vec<_> {
            let replies = engine.converse(input);
            replies.iter().map(|reply| reply.code.clone().unwrap_or("ok".into())).collect()
        };
        assert_eq!(codes(deep(MIB).as_bytes()), ["too_long", "ok"]);
        assert_eq!(codes(deep(250_000).as_bytes()), ["invalid_json", "ok"]);
        let nested = format!(r#"{{"level":"INFO","message":"","a":{}"#, "[".repeat(250_000));
        assert_eq!(codes(nested.as_bytes()), ["invalid_json"]);
        // The beginning of a TLS handshake, whose random part holds no newline here.
        let hello = [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".as_slice(), &[0xaa; 500]].concat();
        assert_eq!(codes(&hello), ["invalid_utf8"]);
        let seed = Rng::new().u64(..);
        println!("random bytes: seed {seed}");
        let mut rng = Rng::with_seed(seed);
        for _ in 0..30 {
            let bytes: Vec<_> = (0..rng.usize(1..100_000)).map(|_| rng.u8(..)).collect();
            let replies = engine.converse(&bytes);
            assert!(replies.iter().all(|reply| reply.status == Status::Error));
        }
    });
    let stopped = stop(engine, &damage);
    assert!(damage.grown_bytes < 24 * MIB, "{} bytes", damage.grown_bytes);
    assert!(stopped.total("error") > 30);
}

/// A gzip member of zeros, by the mebibyte: its head, and the piece to repeat for ever.
fn bomb() -> (Vec<u8>, Vec<u8>) {
    let zeros = vec![0; MIB];
    let mut deflate = Compress::new(Compression::best(), false);
    let mut piece = || {
        let mut out = Vec::with_capacity(16 << 10);
        deflate.compress_vec(&zeros, &mut out, FlushCompress::Sync).unwrap();
        out
    };
    let first = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec(), piece()].concat();
    piece();
    let (one, other) = (piece(), piece());
    assert_eq!(one, other, "a piece does not depend on its place");
    (first, one)
}

#[test]
fn a_gzip_bomb_is_cut_off_and_leaves_no_trace_in_memory() {
    let engine = start(&[]);
    let (last, damage) = under("10 GiB of zeros", &engine, || {
        let mut stream = engine.connect();
        let (first, piece) = bomb();
        assert!(MIB / piece.len() > 1000, "{} bytes", piece.len());
        let mut reader = stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let _ = stream.write_all(&first);
            (0..10 << 10).take_while(|_| stream.write_all(&piece).is_ok()).count()
        });
        let mut said = Vec::new();
        let _ = reader.read_to_end(&mut said);
        let pieces = sending.join().unwrap();
        println!("cut off after {pieces} MiB at most");
        String::from_utf8(said).unwrap().lines().last().unwrap().to_owned()
    });
    assert!(last.contains("inflated_too_large"), "{last}");
    assert!(damage.grown_bytes < 8 * MIB, "{} bytes", damage.grown_bytes);
    assert_eq!(stop(engine, &damage).total("gzip_errors"), 1);
}

#[test]
fn a_bomb_that_may_inflate_holds_neither_the_shard_nor_its_memory() {
    let engine = start(&[("INFLATE_RATIO_MAX", "100000"), ("LINE_TIMEOUT_SECS", "600")]);
    let (_, damage) = under("1 GiB of zeros, allowed", &engine, || {
        let (first, piece) = bomb();
        let mut stream = engine.connect();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&first).unwrap();
        for _ in 0..1024 {
            stream.write_all(&piece).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        let replies = replies(&stream);
        // One line that is too long; and the member is cut off.
        assert_eq!(replies[0].code.as_deref(), Some("too_long"));
        assert_eq!(fatal_code(&replies), "bad_gzip");
    });
    assert!(damage.grown_bytes < 8 * MIB, "{} bytes", damage.grown_bytes);
    let stopped = stop(engine, &damage);
    assert!(stopped.total("bytes_inflated") >= 1 << 30);
}

#[test]
fn large_unfinished_lines_of_many_stay_within_the_memory_of_all() {
    let test = "large_unfinished_lines_of_many_stay_within_the_memory_of_all";
    let many = connections(test, 400);
    let engine = start(&[("MEMORY_BYTES_MAX", "24MiB"), ("LINE_TIMEOUT_SECS", "600")]);
    let (ends, damage) = under("unfinished lines", &engine, || {
        let holders: Vec<_> = (0..many)
            .map(|_| {
                let mut stream = engine.connect();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                std::thread::spawn(move || {
                    let _ = stream.write_all(&[b'x'; 200_000]);
                    stream
                })
            })
            .collect();
        let holders: Vec<_> = holders.into_iter().map(|holder| holder.join().unwrap()).collect();
        std::thread::sleep(Duration::from_secs(1));
        let mut overloaded = 0u64;
        for stream in &holders {
            let mut said = [0; 512];
            stream.set_nonblocking(true).unwrap();
            if let Ok(bytes) = (&*stream).read(&mut said) {
                let said = String::from_utf8_lossy(&said[..bytes]);
                assert!(said.contains("overloaded"), "{said}");
                overloaded += 1;
            }
        }
        overloaded
    });
    // 80 MB of unfinished lines. The allocator keeps some of what was given back.
    assert!(ends > 100, "{ends} of {many} were closed");
    assert!(damage.grown_bytes < 48 * MIB, "{} bytes", damage.grown_bytes);
    let stopped = stop(engine, &damage);
    assert!(stopped.total("memory_kills") >= ends);
}
