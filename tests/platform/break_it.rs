//! Breaking a file in memory, to see who complains.

use serde_json::Value;

/// One change of a shipped file, and the words of the complaint it must bring.
pub struct Break {
    pub place: &'static str,
    /// `None` takes the place away.
    pub to: Option<Value>,
    pub complaint: &'static str,
}

/// `place` as a JSON pointer.
pub fn set(place: &'static str, to: Value, complaint: &'static str) -> Break {
    Break { place, to: Some(to), complaint }
}

pub fn remove(place: &'static str, complaint: &'static str) -> Break {
    Break { place, to: None, complaint }
}

impl Break {
    /// The file with this change. One that would change nothing proves nothing, and is refused.
    pub fn of(&self, shipped: &Value) -> Value {
        let mut broken = shipped.clone();
        let (parent, key) = self.place.rsplit_once('/').unwrap();
        let key = key.replace("~1", "/");
        match (broken.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}")), &self.to) {
            (Value::Object(map), Some(to)) => drop(map.insert(key, to.clone())),
            (Value::Object(map), None) => drop(map.remove(&key)),
            (Value::Array(list), Some(to)) if key == "-" => list.push(to.clone()),
            (Value::Array(list), Some(to)) => list[key.parse::<usize>().unwrap()] = to.clone(),
            (Value::Array(list), None) => drop(list.remove(key.parse().unwrap())),
            (other, _) => panic!("{parent} is {other}"),
        }
        assert_ne!(&broken, shipped, "the change at {} changes nothing", self.place);
        broken
    }
}

/// Each change must bring a complaint of the judge's that has the words in it; the shipped file none at all.
pub fn each_is_noticed(shipped: &Value, breaks: &[Break], judge: impl Fn(&Value) -> Vec<String>) {
    assert_eq!(judge(shipped), Vec::<String>::new(), "the shipped file");
    for one in breaks {
        let complaints = judge(&one.of(shipped));
        assert!(
            complaints.iter().any(|complaint| complaint.contains(one.complaint)),
            "{} set to {:?}: nobody complained about {:?}, only {complaints:#?}",
            one.place,
            one.to,
            one.complaint
        );
    }
}

/// A tool as a judge.
pub fn said(verdict: Result<(), String>) -> Vec<String> {
    verdict.err().into_iter().collect()
}
