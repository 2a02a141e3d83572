//! Query strings and the `filters` parameter.

use std::collections::BTreeMap;

/// Parameters of a request, in the order they were added.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// No parameters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    /// Adds one unless the value is empty.
    #[must_use]
    pub fn with_text(self, key: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.with(key, value) }
    }

    /// Adds `key=1` where `on`.
    #[must_use]
    pub fn with_flag(self, key: &str, on: bool) -> Self {
        if on { self.with(key, "1") } else { self }
    }

    /// Adds `filters` unless there are none.
    #[must_use]
    pub fn with_filters(self, filters: &Filters) -> Self {
        if filters.is_empty() { self } else { self.with("filters", filters.to_json()) }
    }

    /// `?a=b&c=d`, or nothing.
    #[must_use]
    pub fn encode(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let mut out = form_urlencoded::Serializer::new(String::from("?"));
        out.extend_pairs(&self.0);
        out.finish()
    }
}

/// Filters of list and prune requests: key to set of values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeMap<String, bool>>);

impl Filters {
    /// Adds a value.
    pub fn add(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_owned()).or_default().insert(value.to_owned(), true);
    }

    /// A single filter.
    #[must_use]
    pub fn one(key: &str, value: &str) -> Self {
        let mut filters = Self::default();
        filters.add(key, value);
        filters
    }

    /// Whether a key has values.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Values of a key.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flat_map(|v| v.keys().map(String::as_str))
    }

    /// All as `key=value`.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().flat_map(|(k, values)| values.keys().map(move |v| format!("{k}={v}"))).collect()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The wire form `{"key":{"value":true}}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }
}
