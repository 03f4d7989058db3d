//! The documents say what the code says.
//!
//! The tables of knobs, tiers and metrics are made from the programs' own code:
//! `UPDATE_DOCS=1 cargo test -p logboom-benches --test docs` writes them anew, without it they are
//! compared. Owns nothing but that; whether a sentence is true is for readers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every document: those at the root, the wire, and the guides.
fn documents() -> Vec<String> {
    let mut documents: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "proto/PROTOCOL.md"]
            .map(str::to_owned)
            .into();
    for entry in std::fs::read_dir(root().join("docs/guide")).unwrap() {
        let name = entry.unwrap().file_name();
        documents.push(format!("docs/guide/{}", name.to_str().unwrap()));
    }
    documents
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between `<!-- name -->` and `<!-- /name -->`.
fn section<'d>(document: &'d str, name: &str) -> &'d str {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let begin = document.find(&open).unwrap_or_else(|| panic!("{open} is missing")) + open.len();
    let length = document[begin..].find(&close).unwrap_or_else(|| panic!("{close} is missing"));
    &document[begin..begin + length]
}

/// The knobs of a program as a table: one row for each flag that --help shows.
fn knobs(mut command: clap::Command) -> String {
    command.build();
    let mut table = "| flag | environment | default | meaning |\n|---|---|---|---|\n".to_owned();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        if matches!(arg.get_id().as_str(), "help" | "version") {
            continue;
        }
        let mut flags: Vec<_> =
            arg.get_short().map(|short| format!("`-{short}`")).into_iter().collect();
        flags.extend(arg.get_long().map(|long| format!("`--{long}`")));
        let aliases = arg.get_visible_aliases().unwrap_or_default();
        flags.extend(aliases.iter().map(|alias| format!("`--{alias}`")));
        let environment =
            arg.get_env().map_or("–".into(), |name| format!("`{}`", name.to_str().unwrap()));
        // Where the default is no fixed value, the help text says it in words.
        let help = arg.get_help().unwrap_or_else(|| panic!("{arg} has no help")).to_string();
        let (meaning, words) = match help.split_once(" [default: ") {
            Some((meaning, words)) => (meaning, words.strip_suffix(']').unwrap_or(words)),
            None => (&*help, "–"),
        };
        let fixed: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
        let default = match fixed.as_slice() {
            [] => words.to_owned(),
            values => format!("`{}`", values.join(",")),
        };
        let cells = [flags.join(" "), environment, default, meaning.to_owned()];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        writeln!(table, "| {} |", cells.join(" | ")).unwrap();
    }
    table
}

/// The tiers as a table.
fn tiers() -> String {
    let mut table = "| tier | messages | at most | connections |\n|---|---|---|---|\n".to_owned();
    for tier in bench::suite::tiers::suite(1, Duration::from_secs(5)).tiers {
        let total = tier.total_logs.map_or("–".into(), |total| total.to_string());
        let seconds = tier.duration.as_secs();
        writeln!(table, "| {} | {total} | {seconds} s | {} |", tier.name, tier.concurrency)
            .unwrap();
    }
    table
}

/// Compares a section of a document with what was made, or writes it anew.
fn hold(document: &str, name: &str, made: &str) {
    let text = read(document);
    let stands = section(&text, name);
    if stands == made {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let open = format!("<!-- {name} -->\n");
        let anew = text.replacen(&format!("{open}{stands}"), &format!("{open}{made}"), 1);
        return std::fs::write(root().join(document), anew).unwrap();
    }
    for line in stands.lines().filter(|line| !made.lines().any(|other| other == *line)) {
        eprintln!("stands in {document}, but is not so: {line}");
    }
    for line in made.lines().filter(|line| !stands.lines().any(|other| other == *line)) {
        eprintln!("is so, but is missing in {document}: {line}");
    }
    panic!("{name}: run with UPDATE_DOCS=1 to write {document} anew");
}

/// One test, so that two don't write the file at once.
#[test]
fn the_documents_have_the_tiers_the_metrics_and_the_knobs_of_all_three_programs() {
    for command in [engine::config::command(), loadgen::config::command(), bench::config::command()]
    {
        hold("README.md", &format!("knobs: {}", command.get_name()), &knobs(command));
    }
    hold("docs/guide/bench.md", "tiers", &tiers());
    hold("docs/guide/engine.md", "metrics", &engine::metrics::table());
    hold("docs/guide/generator.md", "metrics: logboom-loadgen", &loadgen::metrics::table());
}

#[test]
fn the_readme_has_every_exit_code() {
    let source = read("proto/runtime/src/exit_code.rs");
    let codes: BTreeSet<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.strip_suffix(';')?.split(" = ").nth(1))
        .collect();
    assert!(codes.contains("143"), "{codes:?}");
    let readme = read("README.md");
    let told: BTreeSet<&str> = section(&readme, "exit codes")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next())
        .filter(|cell| cell.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    assert_eq!(told, codes);
}

/// The map: two spaces of indentation a level, a path in front of each line.
#[test]
fn every_path_on_the_map_exists_and_every_module_is_on_it() {
    let document = read("ARCHITECTURE.md");
    let mut folders: Vec<(usize, PathBuf)> = Vec::new();
    let mut mapped = BTreeSet::new();
    for line in section(&document, "map").lines().filter(|line| !line.starts_with("```")) {
        let Some(name) = line.split_whitespace().next() else { continue };
        let indentation = line.len() - line.trim_start().len();
        folders.retain(|(depth, _)| *depth < indentation);
        let path = folders.last().map_or_else(PathBuf::new, |(_, path)| path.clone()).join(name);
        assert!(root().join(&path).exists(), "on the map, but not there: {}", path.display());
        assert_eq!(root().join(&path).is_dir(), name.ends_with('/'), "{}", path.display());
        if name.ends_with('/') {
            folders.push((indentation, path));
        } else {
            mapped.insert(path);
        }
    }
    for package in ["proto", "proto/runtime", "engine", "loadgen", "bench"] {
        let sources = Path::new(package).join("src");
        for entry in std::fs::read_dir(root().join(&sources)).unwrap() {
            let path = sources.join(entry.unwrap().file_name());
            let is_module = path.extension().is_some_and(|ending| ending == "rs");
            assert!(!is_module || mapped.contains(&path), "not on the map: {}", path.display());
        }
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for document in &documents() {
        let text = read(document);
        let folder = root().join(document).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(folder.join(target).exists(), "{document} links to {target}");
        }
    }
}

fn is_of_target(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter == '-'
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(": ")?.0.split(' ').next())
        .filter(|name| !name.contains(|letter| !is_of_target(letter)))
        .collect();
    for document in &documents() {
        let text = read(document);
        let named = text.split("make ").skip(1).zip(text.split("make "));
        for (behind, before) in named {
            // In code only: behind a backtick, or at the beginning of an indented line.
            if !before.ends_with('`') && !before.ends_with("    ") {
                continue;
            }
            let end = behind.find(|letter| !is_of_target(letter));
            let name = &behind[..end.unwrap_or(behind.len())];
            assert!(targets.contains(name), "{document} names `make {name}`");
        }
    }
}
