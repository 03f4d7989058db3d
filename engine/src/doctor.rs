//! What this machine allows the engine, and what to do about each thing that is short.
//!
//! `facts` asks the machine, `judge` judges what it said, and [`Report`] prints one item a line.
//! Invariants: nothing is left behind (the file that tries LOG_DIR is removed), and the report is
//! unfit exactly when the engine could not start and store here.

mod facts;
mod judge;

use std::fmt;
use std::path::Path;

/// What this machine allows, item by item.
#[derive(Debug)]
pub struct Report {
    items: Vec<Item>,
}

impl Report {
    /// Whether the engine can start and store here. What is merely short costs speed or room.
    pub fn is_fit(&self) -> bool {
        self.items.iter().all(|item| !matches!(item.verdict, Verdict::Missing(_)))
    }
}

impl fmt::Display for Report {
    /// One line an item: verdict, name, what was found, and behind an arrow what to do about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Item { name, found, verdict } in &self.items {
            match verdict {
                Verdict::Ok => writeln!(f, "ok       {name:<11}  {found}")?,
                Verdict::Short(remedy) => writeln!(f, "short    {name:<11}  {found} -> {remedy}")?,
                Verdict::Missing(remedy) => {
                    writeln!(f, "missing  {name:<11}  {found} -> {remedy}")?;
                }
            }
        }
        let short =
            self.items.iter().filter(|item| matches!(item.verdict, Verdict::Short(_))).count();
        match (self.is_fit(), short) {
            (false, _) => writeln!(f, "logboom-engine cannot start here"),
            (true, 0) => writeln!(f, "logboom-engine can start here, and nothing is short"),
            (true, _) => writeln!(f, "logboom-engine can start here; {short} short"),
        }
    }
}

#[derive(Debug)]
struct Item {
    name: &'static str,
    found: String,
    verdict: Verdict,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Ok,
    /// The engine starts; what to do for the rest.
    Short(String),
    /// The engine cannot start; what to do.
    Missing(String),
}

/// Asks the machine what it allows an engine that stores below `log_dir`, and judges it.
///
/// Starts one small executor where io_uring is allowed, and writes and removes a file in `log_dir`,
/// or in its nearest parent that exists.
pub fn examine(log_dir: &Path) -> Report {
    judge::judge(&facts::gather(log_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_examined_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let report = examine(&dir.path().join("logs"));
        assert!(report.is_fit(), "{report}");
        assert!(report.to_string().contains("through the linker wrap"), "{report}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let report = examine(&file);
        assert!(!report.is_fit(), "{report}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
