//! An engine that is not the bench's own.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::schema;
use super::support::{Bench, engine, eventually};

/// An engine in service.
struct Service {
    child: Child,
    folder: tempfile::TempDir,
    port: u64,
    admin_port: u64,
}

impl Service {
    fn start() -> Service {
        let program = engine();
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let child = Command::new(program)
            .env_clear()
            .env("SERVER_HOST", "127.0.0.1")
            .env("SERVER_PORT", "0")
            .env("ADMIN_PORT", "0")
            .env("SHARDS", "1")
            .env("LOG_DIR", folder.path().join("logs"))
            .env("READY_FILE", &ready)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("an engine in service", || ready.exists());
        let ready: Value = serde_json::from_slice(&fs::read(ready).unwrap()).unwrap();
        let port = |name: &str| ready[name].as_u64().unwrap();
        Service { child, folder, port: port("port"), admin_port: port("admin_port") }
    }

    fn logs(&self) -> std::path::PathBuf {
        self.folder.path().join("logs")
    }

    fn bench(&self, arguments: &str) -> Bench {
        Bench::new(&format!("--target tcp://127.0.0.1:{} {arguments}", self.port))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_target_that_is_running_is_audited_by_run_id() {
    let service = Service::start();
    let bench = || service.bench("--tier warmup,medium_load --logs").arg(service.logs());
    bench().run().expect(0);
    // The second time there are other runs' lines in the segments.
    let ran = bench().run().expect(0);
    let report = ran.report();
    schema::check(&report);
    for (tier, total, foreign) in [(0, 100, 5100), (1, 5000, 5200)] {
        let tier = &report["tiers"][tier];
        let audit = &tier["verification"]["audit"];
        assert_eq!((&audit["stored"], &audit["missing"]), (&total.into(), &0.into()));
        assert_eq!(audit["foreign"], foreign);
        assert_eq!(tier["resources"]["engine"], Value::Null);
        assert_eq!(tier["verification"]["engine_totals"], Value::Null);
    }
    assert!(service.logs().join("shard-00").is_dir(), "somebody else's segments stay");
}

#[test]
fn a_target_says_by_its_admin_listener_what_it_costs() {
    let service = Service::start();
    let admin = format!("http://127.0.0.1:{}", service.admin_port);
    let bench = service.bench("--tier medium_load").arg("--admin").arg(&admin);
    let report = bench.run().expect(0).report();
    schema::check(&report);
    let engine = &report["tiers"][0]["resources"]["engine"];
    assert!(engine["rss_peak_bytes"].as_u64().unwrap() > 1 << 20, "{engine}");
    assert!(engine["cpu_seconds"].as_f64().is_some(), "{engine}");
    assert!(!engine["caps"]["cpus"].as_array().unwrap().is_empty(), "{engine}");
    // A port at which nobody listens costs nothing but the run.
    let ran = service.bench("--tier warmup --admin http://127.0.0.1:1").run().expect(15);
    assert!(ran.stderr().contains("ADMIN"), "{}", ran.stderr());
}

#[test]
fn without_its_segments_a_target_is_measured_and_not_audited() {
    let service = Service::start();
    let report = service.bench("--tier warmup").run().expect(0).report();
    schema::check(&report);
    assert_eq!(report["tiers"][0]["verification"]["audit"], Value::Null);
    assert_eq!(report["tiers"][0]["summary"]["load"]["ok"], 100);
}

#[test]
fn segments_of_another_engine_show_every_line_missing() {
    let service = Service::start();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(elsewhere.path().join("shard-00")).unwrap();
    let ran = service.bench("--tier warmup --logs").arg(elsewhere.path()).run().expect(12);
    assert_eq!(ran.report()["tiers"][0]["verification"]["audit"]["missing"], 100);
}

#[test]
fn segments_that_cannot_be_read_break_the_run_with_its_figures_kept() {
    let service = Service::start();
    let ran = service.bench("--tier warmup --logs").arg(Path::new("/no/where")).run().expect(1);
    let report = ran.report();
    schema::check(&report);
    assert_eq!((&report["verdict"], &report["exit_code"]), (&"broken".into(), &1.into()));
    assert!(report["trouble"].as_str().unwrap().contains("/no/where"));
    assert_eq!(report["tiers"][0]["summary"]["load"]["ok"], 100);
}

#[test]
fn a_target_that_is_not_there_is_unreachable() {
    // Taken and given back: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let ran = Bench::new(&format!("--target tcp://127.0.0.1:{port}")).run().expect(15);
    let report = ran.report();
    schema::check(&report);
    assert_eq!(report["verdict"], "unreachable");
    assert_eq!(report["tiers"].as_array().unwrap().len(), 1, "the others are not tried");
}
