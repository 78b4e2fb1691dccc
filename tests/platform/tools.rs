//! The schema tools, as `tests/setup platform` installs them. One that is missing is a failure, never a test less.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// The oldest Kubernetes the example is meant for, and the newest whose schema the tool brings.
pub const KUBERNETES: [&str; 2] = ["1.28.0", "1.37.0"];

pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

/// A file in the temporary directory, gone when it is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str, text: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("firstmate-platform-{}-{number}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `Err` with everything the tool said, where it did not end with 0.
fn run(tool: &str, words: &[&str]) -> Result<String, String> {
    let path = file("target/platform-tools/bin").join(tool);
    assert!(path.exists(), "cannot find {}; install the schema tools with `tests/setup platform`", path.display());
    let output = Command::new(&path).args(words).output().unwrap_or_else(|error| panic!("cannot execute {}: {error}", path.display()));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(out);
    }
    Err(format!("{tool}: {out}{}", String::from_utf8_lossy(&output.stderr)))
}

fn python(words: &[&str]) -> Result<String, String> {
    let script = file("tests/platform/tools.py");
    run("python", &[&[script.to_str().unwrap()], words].concat())
}

/// Every document of a YAML file, or what is wrong with it.
pub fn try_documents(path: &str) -> Result<Vec<Value>, String> {
    let text = python(&["json", file(path).to_str().unwrap()])?;
    Ok(serde_json::from_str(&text).unwrap())
}

/// Every document of a YAML file.
pub fn documents(path: &str) -> Vec<Value> {
    try_documents(path).unwrap_or_else(|said| panic!("{path}: {said}"))
}

/// The only document of a YAML file.
pub fn document(path: &str) -> Value {
    let mut all = documents(path);
    assert_eq!(all.len(), 1, "{path}");
    all.remove(0)
}

/// Does the schema of every one of these versions know every key, and each its type?
pub fn kubernetes(value: &Value) -> Result<(), String> {
    let scratch = Scratch::new("kubernetes.yaml", &value.to_string());
    KUBERNETES.iter().try_for_each(|version| run("kubernetes-validate", &["--strict", "-k", version, scratch.path()]).map(drop))
}

/// Would the AWS command line send it? Keys and types, no ranges.
pub fn botocore(value: &Value) -> Result<(), String> {
    let scratch = Scratch::new("register.json", &value.to_string());
    python(&["register", scratch.path()]).map(drop)
}

/// Does CloudFormation's schema take it? Knows the pairs of cpu and memory too, and what is required.
pub fn cfn_lint(value: &Value) -> Result<(), String> {
    let definition = Scratch::new("definition.json", &value.to_string());
    let template = Scratch::new("template.json", &python(&["template", definition.path()]).unwrap());
    run("cfn-lint", &["--", template.path()]).map(drop)
}

/// The schema of the Compose specification.
pub fn compose(value: &Value) -> Result<(), String> {
    let scratch = Scratch::new("compose.yaml", &value.to_string());
    run("check-jsonschema", &["--builtin-schema", "vendor.compose-spec", scratch.path()]).map(drop)
}

/// Is it what this schema of the repository's own describes?
pub fn against(schema: &str, value: &Value) -> Result<(), String> {
    let scratch = Scratch::new("instance.json", &value.to_string());
    run("check-jsonschema", &["--schemafile", file(schema).to_str().unwrap(), scratch.path()]).map(drop)
}

/// Is each of them?
pub fn all_against(schema: &str, values: &[Value]) -> Result<(), String> {
    let scratches: Vec<Scratch> = values.iter().map(|value| Scratch::new("instance.json", &value.to_string())).collect();
    let schema = file(schema);
    let words: Vec<&str> = ["--schemafile", schema.to_str().unwrap()].into_iter().chain(scratches.iter().map(Scratch::path)).collect();
    run("check-jsonschema", &words).map(drop)
}

/// Of each of them: is it? One process for all, since its start takes longer than the work.
pub fn accepted(schema: &str, values: &[Value]) -> Vec<bool> {
    let scratches: Vec<Scratch> = values.iter().map(|value| Scratch::new("instance.json", &value.to_string())).collect();
    let schema = file(schema);
    let options = ["-o", "json", "--schemafile", schema.to_str().unwrap()];
    let words: Vec<&str> = options.into_iter().chain(scratches.iter().map(Scratch::path)).collect();
    let Err(said) = run("check-jsonschema", &words) else { return vec![true; values.len()] };
    let report = said.trim_start_matches("check-jsonschema: ");
    let report: Value = serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {said}"));
    let refused: Vec<&str> = report["errors"].as_array().unwrap().iter().map(|error| error["filename"].as_str().unwrap()).collect();
    assert!(!refused.is_empty() && report["parse_errors"].as_array().is_some_and(Vec::is_empty), "{said}");
    scratches.iter().map(|scratch| !refused.contains(&scratch.path())).collect()
}
