//! A client that sends NDJSON: answered as an engine answers, gzip members and a hello included.
//!
//! A line is kept as `{"recorded_at":<ns since 1970>,` and what follows its own brace, so that it is
//! NDJSON still, and the replay can give it back as it was.
//! Invariant: a reply for each message, in order; `ok` only for what was kept.

use std::io::{self, Write};
use std::net::TcpStream;

use proto::{
    Bounds, Code, Durability, Flow, Frame, Hello, Origin, Record, Replies, Reply, Scratch, Step,
    Unpack, Welcome,
};

use super::{READ_BYTES, Shared, prepare, read};
use crate::plan::replay::screen::RECORDED_AT;

const BOUNDS: Bounds = Bounds { ratio_max: 1000, ratio_after_bytes: 8 << 20 };
const LINE_BYTES_MAX: usize = proto::limits::LINE_BYTES_MAX;
/// Replies that are gathered before they are written.
const REPLIES_BYTES: usize = 64 * 1024;

struct Client<'a> {
    shared: &'a Shared,
    scratch: Scratch,
    replies: Replies,
    /// A hello may come still.
    is_first: bool,
    out: Vec<u8>,
    /// Equal replies that are not written yet, where ranges are asked for.
    run: u64,
    /// Nothing more is taken.
    is_over: bool,
}

pub(super) fn serve(
    mut stream: TcpStream,
    shared: &Shared,
    is_one_too_many: bool,
) -> io::Result<()> {
    prepare(&stream)?;
    let mut client = Client {
        shared,
        scratch: Scratch::new(),
        replies: Replies::Each,
        is_first: true,
        out: Vec::new(),
        run: 0,
        is_over: false,
    };
    if is_one_too_many {
        client.end(Code::TooManyConnections, "too many connections to the recorder");
        return stream.write_all(&client.out);
    }
    let mut unpack = Unpack::new(LINE_BYTES_MAX, BOUNDS);
    let (mut chunk, mut inflated) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    while !client.is_over {
        let n = read(&mut stream, &mut chunk, shared)?;
        let mut fresh = &chunk[..n];
        loop {
            let on = |frame: Frame<'_>, origin: Origin| {
                client.take(frame, origin);
                Flow::Next
            };
            let step = match n {
                0 => unpack.finish(&mut inflated, on),
                _ => unpack.feed(std::mem::take(&mut fresh), &mut inflated, on),
            };
            if let Err(bad) = &step {
                client.end(bad.code(), &bad.to_string());
            }
            if n == 0 && step == Ok(Step::Hungry) && shared.over.is_requested() {
                client.end(Code::ShuttingDown, "the recording is over");
            }
            let is_done = client.is_over || step == Ok(Step::Hungry);
            if is_done || client.out.len() >= REPLIES_BYTES {
                client.tell_run();
                stream.write_all(&client.out)?;
                client.out.clear();
            }
            if is_done {
                break;
            }
        }
        if n == 0 {
            break;
        }
    }
    stream.shutdown(std::net::Shutdown::Write)
}

impl Client<'_> {
    fn take(&mut self, frame: Frame<'_>, origin: Origin) {
        if self.is_over {
            return;
        }
        let is_first = std::mem::take(&mut self.is_first) && origin == Origin::Plain;
        let line = match frame {
            Frame::TooLong => {
                self.shared.file.reject();
                return self.say(&Reply::error(Code::TooLong, "line is too long to be recorded"));
            }
            Frame::Line(line) => line,
        };
        if let Some(hello) = is_first.then(|| Hello::recognise(line)).flatten() {
            return self.greet(hello);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        match Record::parse(line, &mut scratch) {
            Ok(record) => match self.shared.file.keep(|out, at_ns| keep(out, line, at_ns)) {
                true if record.id.is_none() && self.replies == Replies::Range => self.run += 1,
                true => self.say(&Reply::ok().with_id(record.id)),
                false => self.end(Code::ShuttingDown, "the recording is over"),
            },
            Err(rejection) => {
                self.shared.file.reject();
                let reply = Reply::error(rejection.code, &rejection.reason);
                self.say(&reply.with_id(rejection.id));
            }
        }
        self.scratch = scratch;
    }

    fn greet(&mut self, hello: Result<Hello, proto::hello::BadHello>) {
        let hello = match hello {
            Ok(hello) => hello,
            Err(bad) => return self.end(Code::BadHello, &bad.to_string()),
        };
        self.replies = hello.replies.unwrap_or(Replies::Each);
        let welcome = Welcome {
            version: hello.version,
            replies: self.replies,
            // It is in our memory, not on a disk.
            durability: Durability::Received,
            shard: 0,
            shards: 1,
            line_bytes_max: LINE_BYTES_MAX,
        };
        welcome.write(&mut self.out);
    }

    fn say(&mut self, reply: &Reply<'_>) {
        self.tell_run();
        if self.replies != Replies::None {
            reply.write(&mut self.out);
        }
    }

    fn tell_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run > 0 {
            Reply::ok().times(run).write(&mut self.out);
        }
    }

    fn end(&mut self, code: Code, reason: &str) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.tell_run();
            Reply::fatal(code, reason).write(&mut self.out);
        }
    }
}

/// Writes a line with its time in front.
fn keep(out: &mut dyn Write, line: &[u8], at_ns: u64) -> io::Result<()> {
    let brace = line.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
    write!(out, "{{\"{RECORDED_AT}\":{at_ns},")?;
    out.write_all(&line[brace..])?;
    out.write_all(b"\n")
}
