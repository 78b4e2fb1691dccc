//! `docs/schema/check-config.json` is true of what `firstmate check-config --explain --json` prints, and says no to anything else.

use serde_json::{Value, json};

use crate::tools::{against, text};

const SCHEMA: &str = "docs/schema/check-config.json";

fn plan() -> Value {
    serde_json::from_str(&text("src/cli/explain/plan.json")).unwrap()
}

#[test]
fn the_plan_is_as_its_schema_says() {
    against(SCHEMA, &plan()).unwrap();
}

#[test]
fn the_schema_says_no_to_what_is_no_plan() {
    let cases: [(&str, Value); 8] = [
        ("/schema", json!(2)),
        ("/file/format", json!("yaml")),
        ("/firstmate/0/from", json!({ "kind": "file" })),
        ("/firstmate/0/from", json!({ "kind": "default", "at": "x" })),
        ("/start/0/step", json!(0)),
        ("/stop/0/signals", json!([])),
        ("/services/0/env/0", json!({ "name": "A", "from": { "kind": "default" }, "value": "a secret" })),
        ("/services/0/instances/0", json!({})),
    ];
    for (place, value) in cases {
        let mut broken = plan();
        *broken.pointer_mut(place).unwrap_or_else(|| panic!("there is no {place}")) = value;
        assert!(against(SCHEMA, &broken).is_err(), "{place}");
    }
    let mut more = plan();
    more.as_object_mut().unwrap().insert("more".to_owned(), json!(1));
    assert!(against(SCHEMA, &more).is_err());
}
