//! The suite against the real engine.

use std::fs;

use serde_json::Value;

use super::schema;
use super::support::Bench;

const TOTALS: [(&str, u64); 5] = [
    ("warmup", 100),
    ("baseline", 1_000),
    ("medium_load", 5_000),
    ("high_load", 10_000),
    ("stress_test", 50_000),
];

#[test]
fn the_audit_finds_every_line_in_segments_that_are_packed() {
    let arguments = "--peak-secs 0 --tier high_load --scale 40 --keep-logs \
                     --engine-env SEGMENT_COMPRESSION=zstd --engine-env SEGMENT_BYTES_MAX=1MiB \
                     --engine-env COMMIT_BYTES_MAX=512KiB";
    let ran = Bench::with_engine(arguments).run().expect(0);
    let tier = &ran.report()["tiers"][0];
    let audit = &tier["verification"]["audit"];
    assert_eq!((&audit["stored"], &audit["missing"]), (&400_000.into(), &0.into()));
    assert_eq!((&audit["duplicated"], &audit["damaged"]), (&0.into(), &0.into()));
    fn count(folder: &std::path::Path) -> usize {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let count = |path: std::path::PathBuf| match path.is_dir() {
            true => count(&path),
            false => usize::from(path.to_str().unwrap().ends_with(".ndjson.zst")),
        };
        entries.map(count).sum()
    }
    let packed = count(ran.bench.folder());
    assert!(packed > 1, "{packed} segments were packed before the audit");
}

#[test]
fn five_tiers_pass_and_every_line_is_found_on_disk() {
    let ran = Bench::with_engine("--peak-secs 0").run().expect(0);
    let report = ran.report();
    schema::check(&report);
    schema::check_that_it_is_strict(&report);
    assert_eq!((&report["verdict"], &report["exit_code"]), (&"pass".into(), &0.into()));
    let tiers = report["tiers"].as_array().unwrap();
    assert_eq!(tiers.len(), 5);
    for (tier, (name, total)) in tiers.iter().zip(TOTALS) {
        assert_eq!((&tier["name"], &tier["total_logs"]), (&name.into(), &total.into()));
        assert_eq!(tier["summary"]["load"]["ok"], total);
        let verification = &tier["verification"];
        let audit = &verification["audit"];
        assert_eq!((&audit["stored"], &audit["acknowledged"]), (&total.into(), &total.into()));
        assert_eq!((&audit["missing"], &audit["foreign"]), (&0.into(), &0.into()));
        assert_eq!(verification["engine_totals"]["ok"], total);
        assert_eq!(verification["pass"], true);
        for side in ["engine", "generator"] {
            let resources = &tier["resources"][side];
            assert!(resources["cpu_seconds"].as_f64().unwrap() > 0.0, "{name} {side}");
            assert!(resources["rss_peak_bytes"].as_u64().unwrap() > 1 << 20, "{name} {side}");
            assert!(resources["samples"].as_array().unwrap().len() >= 2, "{name} {side}");
        }
    }
    let cores = &report["host"]["cores"];
    if report["host"]["cpus_allowed"].as_array().unwrap().len() > 1 {
        let engine = cores["engine"].as_array().unwrap();
        let generator = cores["generator"].as_array().unwrap();
        assert!(engine.iter().all(|cpu| !generator.contains(cpu)), "{cores}");
        let used = &tiers[4]["summary"]["environment"]["cpu_list"];
        assert_eq!(used, &cores["generator"], "the generator runs where it was put");
    }
    ran.expect_nothing_left();
    let text = ran.stdout();
    let last = text.lines().rev().nth(1).unwrap();
    assert!(last.starts_with("PASS  Logboom took 50,000 lines in "), "{text}");
    assert!(last.ends_with("every acknowledged line was found on disk."), "{text}");
    for (name, _) in TOTALS {
        assert!(ran.stderr().contains(name), "progress tells the tier");
    }
}

#[test]
fn a_peak_has_no_total_and_lasts_its_time() {
    let ran = Bench::with_engine("run tiers --tier peak --peak-secs 1500ms").run().expect(0);
    let report = ran.report();
    schema::check(&report);
    let tier = &report["tiers"][0];
    assert_eq!((&tier["name"], &tier["total_logs"]), (&"peak".into(), &Value::Null));
    assert_eq!(tier["verification"]["min_rps"], Value::Null);
    let seconds = tier["summary"]["duration_ns"].as_u64().unwrap() as f64 / 1e9;
    assert!((1.4..10.0).contains(&seconds), "{seconds}");
    assert_eq!(tier["verification"]["audit"]["stored"], tier["summary"]["load"]["ok"]);
    let progress = ran.stderr();
    let progress = progress.lines().find(|line| line.contains("/s  errors 0")).unwrap();
    assert!(progress.starts_with("peak"), "one line a second, the tier in front: {progress}");
    ran.expect_nothing_left();
}

#[test]
fn with_json_to_stdout_the_text_goes_to_stderr() {
    let ran = Bench::with_engine("--tier warmup --json -").run().expect(0);
    let document: Value = serde_json::from_str(&ran.stdout()).unwrap();
    assert_eq!(document, ran.report());
    assert!(ran.stderr().contains("PASS  Logboom took 100 lines"));
}

#[test]
fn a_json_file_is_written_besides() {
    let ran = Bench::with_engine("--tier warmup --json copy.json --results a/b").run().expect(0);
    let copy = fs::read_to_string(ran.bench.folder().join("copy.json")).unwrap();
    let folder = fs::read_dir(ran.bench.folder().join("a/b")).unwrap().next().unwrap().unwrap();
    assert_eq!(copy, fs::read_to_string(folder.path().join("report.json")).unwrap());
}

#[test]
fn filtered_messages_are_answered_and_not_stored() {
    let ran =
        Bench::with_engine("--tier baseline --engine-env MIN_LOG_LEVEL=ERROR").run().expect(0);
    let report = ran.report();
    let tier = &report["tiers"][0];
    let load = &tier["summary"]["load"];
    let (ok, filtered) = (load["ok"].as_u64().unwrap(), load["filtered"].as_u64().unwrap());
    assert!(ok > 0 && filtered > ok && ok + filtered == 1000, "{load}");
    assert_eq!(tier["verification"]["audit"]["stored"], ok);
    assert_eq!(tier["verification"]["engine_totals"]["filtered"], filtered);
    assert_eq!(report["config"]["engine_env"]["MIN_LOG_LEVEL"], "ERROR");
}

#[test]
fn an_engine_that_stores_nothing_is_not_audited() {
    let ran = Bench::with_engine("--tier warmup --engine-env ENABLE_PERSISTENCE=false").run();
    let report = ran.expect(0).report();
    schema::check(&report);
    assert_eq!(report["tiers"][0]["verification"]["audit"], Value::Null);
    assert!(report["sentence"].as_str().unwrap().contains("was not assessed"));
}

#[test]
fn the_durability_that_is_asked_for_is_granted() {
    let ran = Bench::with_engine("--tier warmup --durability durable").run().expect(0);
    let report = ran.report();
    schema::check(&report);
    assert_eq!(report["tiers"][0]["summary"]["environment"]["granted"]["durability"], "durable");
}

#[test]
fn kept_segments_are_named() {
    let ran = Bench::with_engine("--tier warmup --keep-logs").run().expect(0);
    let stderr = ran.stderr();
    let line = stderr.lines().find(|line| line.starts_with("segments")).unwrap();
    let folder = line.rsplit(' ').next().unwrap();
    let segment = format!("{folder}/warmup/logs/shard-00/000000000001.ndjson");
    assert_eq!(fs::read_to_string(segment).unwrap().lines().count(), 100);
}

#[test]
fn a_tier_below_the_rate_asked_for_fails() {
    let ran = Bench::with_engine("--tier warmup --min-rps 1000M").run().expect(10);
    let report = ran.report();
    assert_eq!(report["verdict"], "fail");
    assert_eq!(report["tiers"][0]["verification"]["failures"][0]["kind"], "too_slow");
    assert!(ran.stdout().contains("FAIL  Logboom failed warmup: "));
}
