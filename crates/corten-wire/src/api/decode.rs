//! JSON as Go's `encoding/json` reads it: keys in any case, `null` means "not given", unknown keys are ignored,
//! and errors in Go's words.
//!
//! [`GoValue`] is a serde deserializer over a parsed document; it compares the document's keys with the names
//! that the type declares, so no list of names is kept anywhere else.

mod syntax;

use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde_json::{Map, Value};

/// What is wrong with the body of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not JSON, or not of the right type.
    #[error("invalid JSON: {0}")]
    Json(JsonError),
    /// More than one document.
    #[error("unexpected content after JSON")]
    Trailing,
}

/// What is wrong with a document, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    text: String,
    path: String,
    root: &'static str,
    go_type: Option<&'static str>,
}

impl JsonError {
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), path: String::new(), root: "", go_type: None }
    }

    fn mismatch(found: &Value, go_type: &'static str) -> Self {
        let found = match found {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if matches!(go_type, "string" | "bool") || go_type.contains(['[', '{']) => {
                let _ = n;
                "number".to_owned()
            }
            Value::Number(n) => format!("number {n}"),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        Self { go_type: Some(go_type), ..Self::text(found) }
    }

    fn within(mut self, root: &'static str, field: &str) -> Self {
        self.root = root;
        self.path = if self.path.is_empty() { field.to_owned() } else { format!("{field}.{}", self.path) };
        self
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.go_type {
            None => f.write_str(&self.text),
            Some(go) if self.path.is_empty() => {
                write!(f, "json: cannot unmarshal {} into Go value of type {go}", self.text)
            }
            Some(go) => write!(
                f,
                "json: cannot unmarshal {} into Go struct field {}.{} of type {go}",
                self.text, self.root, self.path
            ),
        }
    }
}

impl std::error::Error for JsonError {}

impl de::Error for JsonError {
    fn custom<T: fmt::Display>(msg: T) -> Self {
        Self::text(msg.to_string())
    }
}

/// Reads a document.
///
/// # Errors
/// Go's words for what is wrong with it.
pub fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    match GoValue::parse(text)? {
        (value, true) => value.read(),
        (_, false) => Err(JsonError::text(syntax::trailing(text))),
    }
}

/// Reads the body of a request.
///
/// # Errors
/// The message for the client.
pub fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    Ok(GoValue::parse_body(body)?.read()?)
}

/// A parsed document that can be read as any type.
#[derive(Debug, Clone)]
pub struct GoValue(Value);

impl From<Value> for GoValue {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

impl GoValue {
    /// The first document of `text`, and whether nothing follows it.
    fn parse(text: &[u8]) -> Result<(Self, bool), JsonError> {
        let mut stream = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
        match stream.next() {
            None => Err(JsonError::text("EOF")),
            Some(Err(e)) => Err(JsonError::text(syntax::describe(text).unwrap_or_else(|| e.to_string()))),
            Some(Ok(value)) => {
                let rest = &text[stream.byte_offset()..];
                Ok((Self(value), rest.iter().all(u8::is_ascii_whitespace)))
            }
        }
    }

    /// Reads the body of a request, which is exactly one document.
    ///
    /// # Errors
    /// The message for the client.
    pub fn parse_body(body: &[u8]) -> Result<Self, DecodeError> {
        match Self::parse(body).map_err(DecodeError::Json)? {
            (value, true) => Ok(value),
            (_, false) => Err(DecodeError::Trailing),
        }
    }

    /// The document, to be changed before it is read.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.0
    }

    /// `{}`, or nothing but nulls.
    #[must_use]
    pub fn is_empty_object(&self) -> bool {
        match &self.0 {
            Value::Null => true,
            Value::Object(map) => map.values().all(Value::is_null),
            _ => false,
        }
    }

    /// The document as a `T`.
    ///
    /// # Errors
    /// The message for the client.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, JsonError> {
        T::deserialize(self.clone())
    }
}

impl From<JsonError> for DecodeError {
    fn from(e: JsonError) -> Self {
        Self::Json(e)
    }
}

macro_rules! integer {
    ($($method:ident => $go:literal),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            match &self.0 {
                Value::Null => visitor.visit_u64(0),
                Value::Number(n) => {
                    let out = match (n.as_u64(), n.as_i64()) {
                        (Some(u), _) => visitor.visit_u64(u),
                        (None, Some(i)) => visitor.visit_i64(i),
                        (None, None) => return Err(JsonError::mismatch(&self.0, $go)),
                    };
                    out.map_err(|_: JsonError| JsonError::mismatch(&self.0, $go))
                }
                other => Err(JsonError::mismatch(other, $go)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for GoValue {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(b),
            Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(u), ..) => visitor.visit_u64(u),
                (None, Some(i), _) => visitor.visit_i64(i),
                (None, None, f) => visitor.visit_f64(f.unwrap_or_default()),
            },
            Value::String(s) => visitor.visit_string(s),
            Value::Array(list) => visit_array(list, visitor),
            Value::Object(map) => visit_map(map, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(b) => visitor.visit_bool(b),
            other => Err(JsonError::mismatch(&other, "bool")),
        }
    }

    integer! {
        deserialize_i8 => "int8", deserialize_i16 => "int16", deserialize_i32 => "int", deserialize_i64 => "int64",
        deserialize_u8 => "uint8", deserialize_u16 => "uint16", deserialize_u32 => "uint", deserialize_u64 => "uint64"
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_f64(0.0),
            Value::Number(n) => visitor.visit_f64(n.as_f64().unwrap_or_default()),
            other => Err(JsonError::mismatch(&other, "float64")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_string(String::new()),
            Value::String(s) => visitor.visit_string(s),
            other => Err(JsonError::mismatch(&other, "string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visit_array(Vec::new(), visitor),
            Value::Array(list) => visit_array(list, visitor),
            other => Err(JsonError::mismatch(&other, "[]string")),
        }
    }

    /// Go's arrays take what is there and leave the rest zero.
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visit_array(vec![Value::Null; len], visitor),
            Value::Array(mut list) => {
                list.resize(len, Value::Null);
                visit_array(list, visitor)
            }
            other => Err(JsonError::mismatch(&other, "[2]uint")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visit_map(Map::new(), visitor),
            Value::Object(map) => visit_map(map, visitor),
            other => Err(JsonError::mismatch(&other, "map[string]string")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        let map = match self.0 {
            Value::Null => Map::new(),
            Value::Object(map) => map,
            other => return Err(JsonError::mismatch(&other, "struct{}")),
        };
        // Exact names win over names in another case, whatever their order in the document.
        let mut known: Vec<(&'static str, Value)> = Vec::with_capacity(map.len());
        let (mut exact, mut folded) = (Vec::new(), Vec::new());
        for (key, value) in map {
            if value.is_null() {
                continue;
            }
            match fields.iter().find(|f| **f == key) {
                Some(field) => exact.push((*field, value)),
                None => {
                    if let Some(field) = fields.iter().find(|f| f.eq_ignore_ascii_case(&key)) {
                        folded.push((*field, value));
                    }
                }
            }
        }
        for (field, value) in exact.into_iter().chain(folded) {
            if !known.iter().any(|(f, _)| *f == field) {
                known.push((field, value));
            }
        }
        visitor.visit_map(Fields { name, rest: known.into_iter(), value: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.0.deserialize_enum(name, variants, visitor).map_err(|e| JsonError::text(e.to_string()))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct tuple_struct identifier }
}

impl IntoDeserializer<'_, JsonError> for GoValue {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn visit_array<'de, V: Visitor<'de>>(list: Vec<Value>, visitor: V) -> Result<V::Value, JsonError> {
    visitor.visit_seq(de::value::SeqDeserializer::new(list.into_iter().map(GoValue)))
}

fn visit_map<'de, V: Visitor<'de>>(map: Map<String, Value>, visitor: V) -> Result<V::Value, JsonError> {
    visitor.visit_map(de::value::MapDeserializer::new(map.into_iter().map(|(k, v)| (k, GoValue(v)))))
}

/// The known keys of an object.
struct Fields {
    name: &'static str,
    rest: std::vec::IntoIter<(&'static str, Value)>,
    value: Option<(&'static str, Value)>,
}

impl<'de> de::MapAccess<'de> for Fields {
    type Error = JsonError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, JsonError> {
        let Some((field, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((field, value));
        seed.deserialize(field.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, JsonError> {
        let (field, value) = self.value.take().unwrap_or(("", Value::Null));
        seed.deserialize(GoValue(value)).map_err(|e| e.within(self.name, field))
    }
}

#[cfg(test)]
mod tests {
    use super::super::container::{ContainerConfig, CreateRequest};
    use super::super::network::NetworkCreateRequest;
    use super::*;

    #[test]
    fn keys_in_any_case_and_nulls_dropped() {
        let got: ContainerConfig = decode_body(
            br#"{"image":"a","CMD":"sh","entrypoint":["x",null],"Env":null,"labels":{"K":null},"bogus":[1],"Tty":true,"tty":false}"#,
        )
        .unwrap();
        assert_eq!(got.image, "a");
        assert_eq!(got.cmd, Some(vec!["sh".into()]));
        assert_eq!(got.entrypoint, Some(vec!["x".into(), String::new()]));
        assert_eq!(got.env, None);
        assert_eq!(got.labels.unwrap()["K"], "");
        assert!(got.tty, "the exact name wins");
    }

    #[test]
    fn create_reads_both_halves() {
        let got = CreateRequest::decode(
            br#"{"Image":"a","HostConfig":{"Memory":5,"PortBindings":{"80/TCP":[{"HostPort":"1"}],"81":null},"ConsoleSize":[1]},
                "NetworkingConfig":{"EndpointsConfig":{"n":null}}}"#,
        )
        .unwrap()
        .unwrap();
        assert_eq!(got.host_config.memory, 5);
        let ports: Vec<_> = got.host_config.port_bindings.keys().map(|p| p.as_str().to_owned()).collect();
        assert_eq!(ports, ["80/tcp", "81/tcp"]);
        assert_eq!(got.host_config.console_size, [1, 0]);
        assert_eq!(got.networking_config.endpoints_config["n"], None);
        assert_eq!(CreateRequest::decode(b"{}"), Ok(None));
    }

    #[test]
    fn errors_in_the_words_of_go() {
        for (body, want) in [
            ("", "invalid JSON: EOF"),
            ("{nope", "invalid JSON: invalid character 'n' looking for beginning of object key string"),
            ("{\"a\":", "invalid JSON: unexpected EOF"),
            ("{}{}", "unexpected content after JSON"),
            (
                r#"{"Tty":"x"}"#,
                "invalid JSON: json: cannot unmarshal string into Go struct field ContainerConfig.Tty of type bool",
            ),
            (
                r#"{"ExposedPorts":{"99999/tcp":{}}}"#,
                "invalid JSON: invalid port '99999': value out of range",
            ),
        ] {
            assert_eq!(
                decode_body::<ContainerConfig>(body.as_bytes()).unwrap_err().to_string(),
                want,
                "{body}"
            );
        }
        let bad = br#"{"IPAM":{"Config":[{"Subnet":"10.0.0.0/99"}]}}"#;
        assert_eq!(
            decode_body::<NetworkCreateRequest>(bad).unwrap_err().to_string(),
            r#"invalid JSON: netip.ParsePrefix("10.0.0.0/99"): prefix length out of range"#
        );
        assert_eq!(
            decode::<super::super::TextMap>(b"nope").unwrap_err().to_string(),
            "invalid character 'o' in literal null (expecting 'u')"
        );
    }
}
