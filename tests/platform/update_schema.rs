//! `docs/schema/update.json` is true of every answer to `firstmate update`, and says no to anything else.

use firstmate::server::{Answer, ChangeKind, Diff, Reply, ServiceChange, ValueChange, Verdict};
use serde_json::{Value, json};

use crate::tools::{against, all_against};

const UPDATE: &str = "docs/schema/update.json";

fn change(kind: ChangeKind, from: Option<&str>, to: Option<&str>) -> ValueChange {
    ValueChange { key: "env.LEVEL".to_owned(), kind, from: from.map(ToOwned::to_owned), to: to.map(ToOwned::to_owned) }
}

fn full() -> Value {
    let changes = vec![
        change(ChangeKind::Added, None, Some("1")),
        change(ChangeKind::Removed, Some("1"), None),
        change(ChangeKind::Changed, None, None),
    ];
    // Those that an update can come to.
    let verdicts = [
        Verdict::Started,
        Verdict::Restarted,
        Verdict::Stopped,
        Verdict::Removed,
        Verdict::Begun,
        Verdict::Failed { why: "exit code 1".to_owned() },
    ];
    let diff = Diff {
        applied: true,
        added: vec!["new".to_owned()],
        removed: vec!["old".to_owned()],
        changed: vec![ServiceChange { name: "web".to_owned(), restarted: true, changes: changes.clone() }],
        unchanged: 46,
        firstmate: changes.clone(),
        at_next_start: changes,
        notes: vec!["web has PORT 5000".to_owned()],
        warnings: vec!["warning".to_owned()],
    };
    let instances = verdicts.into_iter().map(|verdict| Answer { instance: "web.1".to_owned(), verdict }).collect();
    serde_json::to_value(Reply::Update { diff: Box::new(diff), instances }).unwrap()
}

#[test]
fn answers_to_an_update_are_as_the_schema_says_and_nothing_else_is() {
    let empty = Diff {
        applied: false,
        added: Vec::new(),
        removed: Vec::new(),
        changed: Vec::new(),
        unchanged: 0,
        firstmate: Vec::new(),
        at_next_start: Vec::new(),
        notes: Vec::new(),
        warnings: Vec::new(),
    };
    let answers = [
        full(),
        serde_json::to_value(Reply::Update { diff: Box::new(empty), instances: Vec::new() }).unwrap(),
        serde_json::to_value(Reply::BadFile { problems: vec!["error: no".to_owned()] }).unwrap(),
        serde_json::to_value(Reply::Refused { why: "an update is under way".to_owned() }).unwrap(),
        serde_json::to_value(Reply::Failed { why: "no thread".to_owned() }).unwrap(),
    ];
    all_against(UPDATE, &answers).unwrap();
    for (place, wrong) in [
        ("/result", json!("done")),
        ("/unchanged", json!(-1)),
        ("/changed/0/restarted", json!("yes")),
        ("/changed/0/changes/0/kind", json!("new")),
        ("/instances/0/outcome", json!("scaled")),
        ("/instances/0/instance", json!("web")),
        ("/more", json!(1)),
        ("/changed/0/more", json!(1)),
    ] {
        let mut broken = full();
        let (parent, key) = place.rsplit_once('/').unwrap();
        match broken.pointer_mut(parent).unwrap() {
            Value::Object(fields) => drop(fields.insert(key.to_owned(), wrong)),
            other => panic!("{place} is within {other}"),
        }
        assert!(against(UPDATE, &broken).is_err(), "{place} = {broken}");
    }
}
