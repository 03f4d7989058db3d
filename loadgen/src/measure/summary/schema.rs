//! The JSON Schema of the summary, from the types themselves.
//!
//! Invariant: strict. A field that the schema does not name is none that a summary has, wherever
//! the names are fixed; `config` has the knobs of its version, and is left open.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema as _, Schema};
use serde_json::Value;

use super::{SCHEMA_VERSION, Summary};

/// The schema (draft 2020-12) of [`Summary`] as it is written.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Summary>();
    let mut strict = RecursiveTransform(close);
    strict.transform(&mut schema);
    let mut schema = schema.to_value();
    schema["title"] = Value::from("Summary of a run of logboom-loadgen");
    schema["properties"]["schema_version"]["const"] = Value::from(SCHEMA_VERSION);
    schema["properties"]["config"]["type"] = Value::from("object");
    debug_assert_eq!(Summary::schema_name(), "Summary");
    schema
}

/// An object whose names are known has no others.
fn close(schema: &mut Schema) {
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
        schema.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_description_and_objects_are_closed() {
        let schema = schema();
        let definitions = schema["$defs"].as_object().unwrap().values();
        for object in definitions.chain([&schema]) {
            let Some(properties) = object["properties"].as_object() else { continue };
            assert_eq!(object["additionalProperties"], false, "{object}");
            for (name, property) in properties {
                let is_told = property["description"].is_string() || property["$ref"].is_string();
                assert!(is_told, "{name}: {property}");
            }
        }
        assert!(schema["properties"]["latency"].is_object());
    }
}
