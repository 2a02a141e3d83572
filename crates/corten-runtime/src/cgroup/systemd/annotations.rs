//! `org.systemd.property.…`: properties of the unit that a container's annotations ask for, in GVariant's notation.

use std::collections::BTreeMap;

use super::message::Value;
use super::{Property, UnitError};

const PREFIX: &str = "org.systemd.property.";

pub(super) fn properties(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>, UnitError> {
    let mut all = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        check(name).map_err(|e| UnitError::Annotation(format!("{key} name incorrect: {e}")))?;
        let wrong = |e: String| UnitError::Annotation(format!("{key}={text} value parse error: {e}"));
        let value = parse(text).map_err(wrong)?;
        // systemd's own files say seconds.
        let seconds = name.strip_suffix("Sec").filter(|n| n.ends_with(|c: char| c.is_ascii_lowercase()));
        all.push(match seconds {
            Some(name) => (format!("{name}USec"), microseconds(&value).map_err(wrong)?),
            None => (name.to_owned(), value),
        });
    }
    Ok(all)
}

fn check(name: &str) -> Result<(), &'static str> {
    if name.len() < 3 {
        return Err("too short");
    }
    if !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err("contains unacceptable character");
    }
    Ok(())
}

fn microseconds(value: &Value) -> Result<Value, String> {
    const UNIT: u64 = 1_000_000;
    let whole = match *value {
        Value::Byte(n) => u64::from(n).checked_mul(UNIT),
        Value::U16(n) => u64::from(n).checked_mul(UNIT),
        Value::U32(n) => u64::from(n).checked_mul(UNIT),
        Value::U64(n) => n.checked_mul(UNIT),
        Value::I16(n) => u64::try_from(n).ok().and_then(|n| n.checked_mul(UNIT)),
        Value::I32(n) => u64::try_from(n).ok().and_then(|n| n.checked_mul(UNIT)),
        Value::I64(n) => u64::try_from(n).ok().and_then(|n| n.checked_mul(UNIT)),
        Value::F64(n) if n >= 0.0 => Some((n * 1_000_000.0) as u64),
        _ => None,
    };
    whole.map(Value::U64).ok_or_else(|| "not a number".to_owned())
}

/// One value, and nothing after it.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text.trim() };
    let value = parser.value(None, 0)?;
    match parser.rest.trim_start() {
        "" => Ok(value),
        rest => Err(format!("unexpected text {rest:?}")),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

/// How deep lists may be in lists.
const DEPTH: usize = 8;

impl Parser<'_> {
    fn value(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, String> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next() {
            None => Err("unexpected end".into()),
            Some(quote @ ('\'' | '"')) => self.quoted(quote).and_then(|t| match kind {
                None | Some("s") => Ok(Value::Text(t)),
                Some(other) => Err(format!("a string where {other:?} is needed")),
            }),
            Some('[') if depth < DEPTH => self.list(kind, depth),
            Some('@') => {
                let signature = self.word().trim_start_matches('@').to_owned();
                self.value(Some(&signature), depth)
            }
            Some(_) => {
                let word = self.word().to_owned();
                match (word.as_str(), kind) {
                    ("true" | "false", None | Some("b")) => Ok(Value::Bool(word == "true")),
                    ("", _) => Err(format!("unexpected text {:?}", self.rest)),
                    _ => match signature(&word) {
                        Some(named) => self.value(Some(named), depth),
                        None => number(&word, kind),
                    },
                }
            }
        }
    }

    /// Up to what cannot be part of a word.
    fn word(&mut self) -> &str {
        let end = self.rest.find(|c: char| c.is_whitespace() || ",[]()".contains(c));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let (mut text, mut chars) = (String::new(), self.rest.char_indices().skip(1));
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c)) => text.push(c),
                    None => break,
                },
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err("string without an end".into())
    }

    fn list(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, String> {
        let of = match kind {
            None => None,
            Some(kind) => {
                Some(kind.strip_prefix('a').ok_or_else(|| format!("a list where {kind:?} is needed"))?)
            }
        };
        self.rest = &self.rest[1..];
        let mut all: Vec<Value> = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix(']') {
                self.rest = rest;
                break;
            }
            if !all.is_empty() {
                self.rest = self.rest.strip_prefix(',').ok_or("a comma is missing")?;
            }
            // The first decides where nobody has said.
            let first = all.first().map(Value::signature);
            all.push(self.value(of.or(first.as_deref()), depth + 1)?);
        }
        match of.map(str::to_owned).or_else(|| all.first().map(Value::signature)) {
            Some(of) => Ok(Value::List(of, all)),
            None => Err("an empty list needs its type".into()),
        }
    }
}

fn signature(word: &str) -> Option<&'static str> {
    Some(match word {
        "boolean" => "b",
        "byte" => "y",
        "int16" => "n",
        "uint16" => "q",
        "int32" => "i",
        "uint32" => "u",
        "int64" => "x",
        "uint64" => "t",
        "double" => "d",
        "string" => "s",
        _ => return None,
    })
}

fn number(word: &str, kind: Option<&str>) -> Result<Value, String> {
    let fraction = word.contains(['.', 'e', 'E']) && !word.starts_with("0x");
    let kind = kind.unwrap_or(if fraction { "d" } else { "i" });
    let wrong = || format!("{word:?} is no value of type {kind:?}");
    if kind == "d" {
        return word.parse().ok().filter(|n: &f64| n.is_finite()).map(Value::F64).ok_or_else(wrong);
    }
    let (minus, digits) = word.strip_prefix('-').map_or((false, word), |d| (true, d));
    let whole = match digits.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    let whole = whole.ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit())).ok_or_else(wrong)?;
    let whole = if minus { -whole } else { whole };
    let value = match kind {
        "y" => whole.try_into().ok().map(Value::Byte),
        "n" => whole.try_into().ok().map(Value::I16),
        "q" => whole.try_into().ok().map(Value::U16),
        "i" => whole.try_into().ok().map(Value::I32),
        "u" => whole.try_into().ok().map(Value::U32),
        "x" => whole.try_into().ok().map(Value::I64),
        "t" => whole.try_into().ok().map(Value::U64),
        _ => None,
    };
    value.ok_or_else(wrong)
}
