//! The JSON Schema of recipe files.

use serde_json::{Map, Value, json};

use crate::Recipe;

/// The JSON Schema (2020-12) of a recipe file, for editors and other tools.
///
/// It is that of one file among those that make a recipe: what another file may bring, `[image]` and its name, is not
/// required; and wherever a value may stand, a parameter (`"${name}"`) may.
#[must_use]
pub fn schema() -> Value {
    let mut schema = strict();
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), "imgbuild recipe".into());
        root.remove("required");
    }
    if let Some(image) = schema.pointer_mut("/$defs/Image").and_then(Value::as_object_mut) {
        image.remove("required");
    }
    allow_parameters(&mut schema);
    schema
}

/// The schema of a merged recipe, as the types have it.
pub(crate) fn strict() -> Value {
    let mut schema = schemars::schema_for!(Recipe).to_value();
    tidy(&mut schema);
    schema
}

/// TOML has no null, and a description is prose of one paragraph.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(object) => {
            object.values_mut().for_each(tidy);
            without_null(object);
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            // Rust's names of number types mean nothing to others; their bounds stand beside them.
            if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                object.remove("format");
            }
        }
        _ => {}
    }
}

fn without_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice != &json!({ "type": "null" }));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
}

/// Lets a string with a parameter stand for whatever is not any string already.
fn allow_parameters(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(allow_parameters),
        Value::Object(object) => {
            let integer = object.get("type").is_some_and(|kind| kind == "integer");
            let pattern = object.contains_key("pattern");
            let names = object.get("oneOf").and_then(Value::as_array).is_some_and(|choices| {
                choices.iter().any(|choice| choice.get("const").is_some() || choice.get("pattern").is_some())
            });
            if integer || pattern || names {
                let description = object.remove("description");
                let default = object.remove("default");
                let plain = Value::Object(std::mem::take(object));
                object.insert(
                    "anyOf".to_owned(),
                    json!([plain, { "type": "string", "pattern": "\\$\\{[A-Za-z0-9_-]+\\}" }]),
                );
                object.extend(description.map(|text| ("description".to_owned(), text)));
                object.extend(default.map(|value| ("default".to_owned(), value)));
            } else {
                object.values_mut().for_each(allow_parameters);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::load::{TABLES, TOP_LEVEL};

    /// What is read and what the schema says must be the same.
    #[test]
    fn the_schema_has_the_keys_that_are_read() {
        let schema = strict();
        let keys =
            |table: &Value| -> BTreeSet<String> { table["properties"].as_object().unwrap().keys().cloned().collect() };
        assert_eq!(keys(&schema), TOP_LEVEL.iter().map(ToString::to_string).collect());
        assert_eq!(schema["additionalProperties"], false);
        let mut tables: BTreeMap<&str, &[&str]> = TABLES.iter().copied().collect();
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            if definition["type"] == "object" {
                let read = tables.remove(name.as_str()).unwrap_or_else(|| panic!("{name} is not read"));
                assert_eq!(keys(definition), read.iter().map(ToString::to_string).collect(), "{name}");
                assert_eq!(definition["additionalProperties"], false, "{name}");
            }
        }
        assert!(tables.is_empty(), "not in the schema: {tables:?}");
    }

    #[test]
    fn the_schema_is_one_of_toml_files() {
        let text = schema().to_string();
        assert!(!text.contains("null"), "TOML has no null");
        assert!(!text.contains("uint"), "types of Rust");
        let schema = schema();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(schema.get("required").is_none());
        assert_eq!(schema["$defs"]["Tmpfs"]["required"], json!(["path", "size"]));
        assert_eq!(schema["$defs"]["Layer"]["oneOf"][0], json!({ "required": ["oci"] }));
        assert_eq!(schema["$defs"]["Arch"]["anyOf"][1]["type"], "string");
    }
}
