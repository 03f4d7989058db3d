//! The dashboards of `deploy/`, by what can be known of Grafana without one: its own types, by
//! `deploy/grafana/check.mjs`, and whether panels fit the page. Whether their queries find anything is
//! for [`super::watched`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::support::skip;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn dashboard(name: &str) -> Value {
    let path = root().join("deploy/grafana/dashboards").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// What the check says of `files` (none: the project's own), and its exit code; None, and that is
/// told, where node or Grafana's packages are missing.
fn checked(test: &str, files: &[&Path]) -> Option<(i32, String)> {
    let check = root().join("deploy/grafana/check.mjs");
    let Ok(output) = Command::new("node").arg(check).args(files).output() else {
        skip(test, "node is not here");
        return None;
    };
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let code = output.status.code().unwrap();
    if code == 3 {
        skip(test, said.trim_end());
        return None;
    }
    Some((code, said))
}

#[test]
fn the_dashboards_fit_grafanas_own_types() {
    if let Some((code, said)) = checked("the_dashboards_fit_grafanas_own_types", &[]) {
        assert_eq!(code, 0, "{said}");
        assert!(said.starts_with("2 dashboards fit"), "{said}");
    }
}

#[test]
fn a_dashboard_that_grafana_would_misread_is_told_by_panel_and_field() {
    const NAME: &str = "a_dashboard_that_grafana_would_misread_is_told_by_panel_and_field";
    let mut board = dashboard("engine.json");
    let wrong = [
        ("/graphTooltip", json!(7)),
        ("/panels/1/fieldConfig/defaults/unit", json!(5)),
        ("/panels/1/options/colorMode", json!("rainbow")),
        ("/panels/8/fieldConfig/defaults/custom/stacking/mode", json!("stacked")),
        ("/panels/8/targets/0/legendFormat", json!(["ok"])),
    ];
    for (place, value) in &wrong {
        *board.pointer_mut(place).unwrap() = value.clone();
    }
    board["panels"][2]["gridPosition"] = json!({});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.json");
    fs::write(&path, board.to_string()).unwrap();
    let Some((code, said)) = checked(NAME, &[&path]) else { return };
    assert_eq!(code, 1, "{said}");
    for needle in
        ["the dashboard: ", "panel \"Ready\": ", "panel \"Ready\", options: ", "gridPosition"]
            .into_iter()
            .chain(["graphTooltip", "unit", "rainbow", "stacked", "legendFormat"])
    {
        assert!(said.contains(needle), "{needle} is not in {said}");
    }
    assert_eq!(said.lines().filter(|line| line.contains("wrong.json")).count(), 6, "{said}");
}

#[test]
fn panels_stand_side_by_side_within_the_page_and_below_each_other() {
    for name in ["engine.json", "generator.json"] {
        let board = dashboard(name);
        let panels = board["panels"].as_array().unwrap();
        let places: Vec<_> = panels.iter().map(|panel| (&panel["title"], place(panel))).collect();
        for (index, (title, (x, y, width, height))) in places.iter().enumerate() {
            assert!(*width > 0 && *height > 0 && x + width <= 24, "{name}: {title}");
            for (other, (left, top, wide, high)) in &places[index + 1..] {
                let apart = x + width <= *left
                    || left + wide <= *x
                    || y + height <= *top
                    || top + high <= *y;
                assert!(apart, "{name}: {title} lies on {other}");
            }
        }
    }
}

/// From the left, from above, width, height: of the 24 columns, and of rows of 30 pixels.
fn place(panel: &Value) -> (u64, u64, u64, u64) {
    let number = |name: &str| panel["gridPos"][name].as_u64().unwrap();
    (number("x"), number("y"), number("w"), number("h"))
}

#[test]
fn the_types_are_those_of_the_grafana_that_compose_starts() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let compose = read("docker-compose.yml");
    let (_, version) = compose.split_once("image: grafana/grafana:").unwrap();
    let package = format!("@grafana/schema@{} ", version.lines().next().unwrap());
    for path in ["deploy/grafana/check.mjs", "docs/guide/watching.md", ".ci/run"] {
        // The image of the tests has no .ci.
        if !root().join(path).exists() && path.starts_with(".ci") {
            continue;
        }
        assert!(read(path).contains(&package), "{path} names another than {package}");
    }
}
