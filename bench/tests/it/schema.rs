//! report.json against its schema.

use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};

fn validator() -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("report.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[track_caller]
pub(super) fn check(report: &Value) {
    let errors: Vec<String> = validator()
        .iter_errors(report)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Objects whose members are others' business, or names from the outside.
const OPEN: [&str; 5] = ["config", "environment", "errors", "engine_env", "series"];

/// Nothing may be added to a report that the schema doesn't know, and nothing be left out.
pub(super) fn check_that_it_is_strict(report: &Value) {
    let validator = validator();
    let mut objects = Vec::new();
    collect(report, String::new(), &mut objects);
    assert!(objects.len() > 20, "{objects:?}");
    for pointer in &objects {
        let mut more = report.clone();
        more.pointer_mut(pointer).unwrap()["surprise"] = json!("x");
        assert!(!validator.is_valid(&more), "{pointer} takes a member that the schema lacks");
        for key in report.pointer(pointer).unwrap().as_object().unwrap().keys() {
            if key == "lower_bounds" {
                continue;
            }
            let mut less = report.clone();
            less.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key);
            assert!(!validator.is_valid(&less), "{pointer} does without {key}");
        }
    }
    let mut wrong = report.clone();
    wrong["verdict"] = json!("splendid");
    assert!(!validator.is_valid(&wrong));
}

fn collect(value: &Value, pointer: String, objects: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                // The bench's own configuration is closed.
                if !OPEN.contains(&key.as_str()) || (key == "config" && pointer.is_empty()) {
                    collect(value, format!("{pointer}/{key}"), objects);
                }
            }
            objects.push(pointer);
        }
        // Like tiers of one run are alike: the first will do.
        Value::Array(items) => {
            if let Some(first) = items.first() {
                collect(first, format!("{pointer}/0"), objects);
            }
        }
        _ => {}
    }
}
