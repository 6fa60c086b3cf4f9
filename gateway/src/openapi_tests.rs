//! What the published schemas say must hold of what is sent and taken.

use super::*;

/// Every place of a document, with the pointer to it.
fn walk(value: &Value, pointer: &str, see: &mut impl FnMut(&str, &Value)) {
    see(pointer, value);
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, part)| walk(part, &format!("{pointer}/{name}"), see));
        }
        Value::Array(parts) => {
            let parts = parts.iter().enumerate();
            parts.for_each(|(index, part)| walk(part, &format!("{pointer}/{index}"), see));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn no_schema_demands_what_nothing_can_be() {
    // An inlined field with words of its own becomes `allOf` of its type and an object.
    let documents = [
        serde_json::to_value(document()).expect("JSON"),
        serde_json::to_value(crate::asyncapi::document()).expect("JSON"),
    ];
    for document in &documents {
        walk(document, "", &mut |pointer, value| {
            assert!(value.get("allOf").is_none(), "{pointer}: {value}");
        });
    }
    let schemas = schemas();
    for name in ["Task", "Agent", "Operation", "Queue", "SubmitTask", "RegisterAgent"] {
        assert!(schemas.contains_key(name), "{name}");
    }
}

#[test]
fn no_default_is_refused_by_its_schema() {
    let document = serde_json::to_value(document()).expect("JSON");
    walk(&document, "", &mut |pointer, value| {
        let Some(default) = value.get("default").filter(|_| !pointer.ends_with("/properties"))
        else {
            return;
        };
        let null_twice = value.get("oneOf").is_some() && default.is_null();
        assert!(!null_twice || !value.to_string().contains("schemas/Json"), "{pointer}: {value}");
    });
}

#[test]
fn a_change_says_which_fields_null_clears() {
    let schemas = schemas();
    let field = |schema: &str, name: &str| schemas[schema]["properties"][name].clone();
    assert_eq!(field("UpdateTask", "title")["type"], "string");
    assert_eq!(field("UpdateTask", "capabilities")["type"], "array");
    assert_eq!(field("UpdateTask", "description")["type"], serde_json::json!(["string", "null"]));
    for name in ["title", "payload", "priority", "labels", "due_at"] {
        assert!(field("UpdateTask", name).get("default").is_none(), "{name}");
    }
    assert_eq!(field("UpdateTask", "payload")["$ref"], "#/components/schemas/Json");
    assert_eq!(field("UpdateAgent", "slots")["type"], "integer");
}

#[test]
fn a_command_of_a_path_is_described() {
    let document = serde_json::to_value(document()).expect("JSON");
    let start = &document["paths"]["/v1/tasks/{id}/{command}"]["post"];
    let names = start["parameters"].as_array().expect("a list").iter();
    let names = names.filter(|parameter| parameter["name"] == "command");
    let names = names.map(|parameter| parameter["schema"]["enum"].to_string()).collect::<String>();
    assert!(names.contains("\"complete\"") && !names.contains("expire_lease"), "{names}");
    let bodies = &start["requestBody"]["content"]["application/json"]["schema"]["anyOf"];
    assert!(bodies.to_string().contains("lease_token"), "{bodies}");
    let all = document.to_string();
    for part in all.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().expect("a pointer");
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}
