//! The `filters` parameter: `{"key":["value"]}`, and the older `{"key":{"value":true}}`.

use std::collections::{BTreeMap, BTreeSet};

use corten_base::Kind;
use serde_json::Value;

use super::TextMap;

/// Keys and the values wanted for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    fields: BTreeMap<String, BTreeSet<String>>,
}

/// A filter that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not JSON of either form.
    #[error("invalid filter")]
    Malformed,
    /// A key that this request does not know.
    #[error("invalid filter '{0}'")]
    UnknownKey(String),
    /// Not one boolean.
    #[error("invalid filter '{key}=[{}]'", values.join(" "))]
    NotBool {
        /// Key.
        key: String,
        /// Values.
        values: Vec<String>,
    },
    /// A value that the key does not know.
    #[error("invalid filter '{key}={value}': {why}")]
    Value {
        /// Key.
        key: String,
        /// Value.
        value: String,
        /// For a person.
        why: String,
    },
}

impl FilterError {
    /// Always the client's fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl Filters {
    /// Reads the parameter; empty text is no filter.
    ///
    /// # Errors
    /// When it has neither form.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Ok(Value::Object(map)) = serde_json::from_str(text) else { return Err(FilterError::Malformed) };
        let mut fields = BTreeMap::new();
        for (key, value) in map {
            let mut values = BTreeSet::new();
            match value {
                Value::Array(list) => {
                    for v in list {
                        let Value::String(v) = v else { return Err(FilterError::Malformed) };
                        values.insert(v);
                    }
                }
                Value::Object(set) => {
                    for (v, on) in set {
                        let Value::Bool(on) = on else { return Err(FilterError::Malformed) };
                        if on {
                            values.insert(v);
                        }
                    }
                }
                Value::Null => {}
                _ => return Err(FilterError::Malformed),
            }
            fields.insert(key, values);
        }
        Ok(Self { fields })
    }

    /// The parameter's text, for clients.
    #[must_use]
    pub fn to_json(&self) -> String {
        let map: BTreeMap<_, BTreeMap<_, bool>> =
            self.fields.iter().map(|(k, v)| (k, v.iter().map(|v| (v, true)).collect())).collect();
        serde_json::to_string(&map).unwrap_or_default()
    }

    /// One more wanted value.
    pub fn add(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.fields.entry(key.into()).or_default().insert(value.into());
    }

    /// No filter at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Is there anything for this key?
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    /// Wanted values of a key.
    pub fn get(&self, key: &str) -> impl Iterator<Item = &str> {
        self.fields.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Takes a key away and returns its values.
    pub fn remove(&mut self, key: &str) -> Vec<String> {
        self.fields.remove(key).into_iter().flatten().collect()
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// Refuses keys that are not in `known`.
    ///
    /// # Errors
    /// Naming the first unknown key.
    pub fn validate(&self, known: &[&str]) -> Result<(), FilterError> {
        match self.keys().find(|k| !known.contains(k)) {
            Some(key) => Err(FilterError::UnknownKey(key.to_owned())),
            None => Ok(()),
        }
    }

    /// The boolean of a key, `default` where it is not there.
    ///
    /// # Errors
    /// When there is more than one value, or it is neither `true`, `1`, `false` nor `0`.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool, FilterError> {
        let values: Vec<&str> = self.get(key).collect();
        let on = values.iter().any(|v| matches!(*v, "1" | "true"));
        let off = values.iter().any(|v| matches!(*v, "0" | "false"));
        match (values.is_empty(), on, off) {
            (true, ..) => Ok(default),
            (false, true, false) => Ok(true),
            (false, false, true) => Ok(false),
            _ => Err(FilterError::NotBool {
                key: key.to_owned(),
                values: values.into_iter().map(str::to_owned).collect(),
            }),
        }
    }

    /// No filter of this key, or one that is exactly `value`.
    #[must_use]
    pub fn exact_match(&self, key: &str, value: &str) -> bool {
        self.fields.get(key).is_none_or(|set| set.is_empty() || set.contains(value))
    }

    /// No filter of this key, or one that `value` begins with.
    #[must_use]
    pub fn prefix_match(&self, key: &str, value: &str) -> bool {
        self.fields
            .get(key)
            .is_none_or(|set| set.is_empty() || set.iter().any(|w| value.starts_with(w.as_str())))
    }

    /// All wanted `name` or `name=value` of the key are among `labels`.
    #[must_use]
    pub fn match_labels(&self, key: &str, labels: &TextMap) -> bool {
        self.get(key).all(|want| match want.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
            None => labels.contains_key(want),
        })
    }

    /// None of the unwanted `name` or `name=value` of the key (`label!`) is among `labels`.
    #[must_use]
    pub fn match_no_labels(&self, key: &str, labels: &TextMap) -> bool {
        self.get(key).all(|unwanted| match unwanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_none_or(|v| v != value),
            None => !labels.contains_key(unwanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        for text in [r#"{"a":["x","y"]}"#, r#"{"a":{"x":true,"y":true,"z":false}}"#] {
            let f = Filters::parse(text).unwrap();
            assert_eq!(f.get("a").collect::<Vec<_>>(), ["x", "y"]);
            assert_eq!(Filters::parse(&f.to_json()), Ok(f));
        }
        for text in ["nope", "[]", r#"{"a":1}"#, r#"{"a":[1]}"#] {
            assert_eq!(Filters::parse(text).unwrap_err().to_string(), "invalid filter");
        }
    }

    #[test]
    fn errors_in_docker_words() {
        let f = Filters::parse(r#"{"dangling":["x"]}"#).unwrap();
        assert_eq!(f.validate(&["label"]).unwrap_err().to_string(), "invalid filter 'dangling'");
        assert_eq!(f.bool_or("dangling", false).unwrap_err().to_string(), "invalid filter 'dangling=[x]'");
        assert_eq!(f.bool_or("other", true), Ok(true));
    }

    #[test]
    fn labels() {
        let labels = TextMap::from([("a".into(), "1".into())]);
        let f = Filters::parse(r#"{"label":["a","a=1"],"label!":["b"]}"#).unwrap();
        assert!(f.match_labels("label", &labels) && f.match_no_labels("label!", &labels));
        let f = Filters::parse(r#"{"label":["a=2"]}"#).unwrap();
        assert!(!f.match_labels("label", &labels));
    }
}
