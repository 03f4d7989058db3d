//! What became of messages, in the words of the recorder.
//!
//! Owns what counts as rejected when a message was broken on purpose, and the codes of HTTP
//! statuses. Leaves when it happened to `batch`.

use proto::Code;

use crate::measure::recorder::StageRecorder;
use crate::measure::tally::Answer;

/// What became of one or more messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate<'c> {
    Answered(Answer),
    /// They were broken on purpose, and the target said so.
    Rejected,
    /// An error by this code.
    Failed(&'c str),
    /// They were broken on purpose, and the target took them.
    Accepted,
}

impl<'c> Fate<'c> {
    /// Of a message that was broken on purpose, when a sound one would have had this fate.
    pub(super) fn of_broken(self) -> Fate<'c> {
        match self {
            Fate::Answered(_) => Fate::Accepted,
            Fate::Failed(code) if is_about_content(code) => Fate::Rejected,
            other => other,
        }
    }

    /// It ended as it should: it has latencies, where any other is watched until it failed.
    pub(super) fn is_served(self) -> bool {
        matches!(self, Fate::Answered(_) | Fate::Rejected)
    }

    pub(super) fn record(self, recorder: &mut StageRecorder<'_>, n: u64) {
        match self {
            Fate::Answered(answer) => recorder.answered(answer, n),
            Fate::Rejected => recorder.malformed_rejected(n),
            Fate::Failed(code) => recorder.failed(code, n),
            Fate::Accepted => recorder.malformed_accepted(n),
        }
    }
}

/// A status of HTTP, and `http_404` for it, without an allocation.
pub(super) struct Status {
    is_success: bool,
    code: [u8; 8],
}

impl Status {
    pub(super) fn new(status: u16) -> Status {
        let mut code = *b"http_000";
        let digits = [status / 100, status / 10, status].map(|it| (it % 10) as u8);
        code.iter_mut().skip(5).zip(digits).for_each(|(at, digit)| *at += digit);
        Status { is_success: (200..300).contains(&status), code }
    }

    /// 2xx is ok, anything else an error by its code.
    pub(super) fn fate(&self) -> Fate<'_> {
        match self.is_success {
            true => Fate::Answered(Answer::Ok),
            false => Fate::Failed(std::str::from_utf8(&self.code).expect("letters and digits")),
        }
    }
}

/// An error by this code is about what the message says, not about the target's own state: so a
/// broken message is rejected. HTTP has its status at the end of the code.
fn is_about_content(code: &str) -> bool {
    let busy = [Code::Overloaded, Code::BreakerOpen, Code::StorageFailed, Code::DiskFull];
    if busy.iter().any(|it| it.as_str() == code) {
        return false;
    }
    let digits = code.len().checked_sub(3).and_then(|at| code.get(at..));
    match digits.and_then(|digits| digits.parse::<u16>().ok()) {
        Some(status) => matches!(status, 400..=499) && !matches!(status, 401 | 403 | 408 | 429),
        None => true,
    }
}
