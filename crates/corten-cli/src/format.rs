//! `--format`: Go templates over JSON, with docker's functions, and tables made with them.
//!
//! Templates see maps. So that `json` keeps the order of fields as the daemon sent them, the text of every object
//! is remembered under the address of its map.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gotmpl::{MissingKey, Template, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Result, fail};
use crate::tabwriter::TabWriter;

/// JSON text as template data.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) value: Value,
    texts: Arc<HashMap<usize, String>>,
}

impl Data {
    /// Parses JSON text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut texts = HashMap::new();
        let value = from_json(text, &mut texts, 0)?;
        Ok(Self { value, texts: Arc::new(texts) })
    }

    /// From rows made here.
    pub(crate) fn from_value(value: Value) -> Self {
        Self { value, texts: Arc::default() }
    }
}

/// Nesting of JSON that we follow.
const MAX_DEPTH: usize = 100;

fn from_json(text: &str, texts: &mut HashMap<usize, String>, depth: usize) -> Result<Value> {
    if depth > MAX_DEPTH {
        return Err(fail("JSON is nested too deeply", 1));
    }
    let text = text.trim();
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(text)?;
            let mut map = BTreeMap::new();
            for (key, raw) in members {
                map.insert(Arc::from(key), from_json(raw.get(), texts, depth + 1)?);
            }
            let map = Arc::new(map);
            texts.insert(Arc::as_ptr(&map) as usize, text.to_owned());
            Value::Map(map)
        }
        Some(b'[') => {
            let items: Vec<Box<RawValue>> = serde_json::from_str(text)?;
            let values: Result<Vec<_>> =
                items.iter().map(|raw| from_json(raw.get(), texts, depth + 1)).collect();
            Value::List(values?.into())
        }
        _ => scalar(serde_json::from_str(text)?),
    })
}

fn scalar(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::Int(i),
            (None, Some(u)) => Value::Uint(u),
            _ => Value::Float(n.as_f64().unwrap_or(0.0)),
        },
        serde_json::Value::String(s) => Value::String(s.into()),
        _ => Value::Nil,
    }
}

/// An object's members in their order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    members.push(entry);
                }
                Ok(Members(members))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Members, A::Error> {
                Ok(Members(Vec::new()))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A template value as compact JSON.
fn to_json(value: &Value, texts: &HashMap<usize, String>) -> String {
    match value {
        Value::Map(map) => match texts.get(&(Arc::as_ptr(map) as usize)) {
            Some(text) => text.clone(),
            None => {
                // A row of ours: docker encodes those by Go's default, and without their methods.
                let members = map.iter().filter(|(_, v)| !v.is_function());
                let members = members.map(|(k, v)| format!("{}:{}", quote(k), to_json(v, texts)));
                html_escaped(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
            }
        },
        Value::List(list) => {
            format!("[{}]", list.iter().map(|v| to_json(v, texts)).collect::<Vec<_>>().join(","))
        }
        Value::String(s) => quote(s),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Float(f) => serde_json::json!(f).to_string(),
        _ => "null".into(),
    }
}

/// Go's encoder, left to itself, writes `<`, `>` and `&` as escapes.
pub(crate) fn html_escaped(json: String) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A parsed template.
pub(crate) struct Format {
    template: Template,
    source: String,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

fn string(text: impl Into<String>) -> Value {
    Value::String(text.into().into())
}

/// Docker's template functions; `header` is their variant for the first line of a table.
fn functions(template: Template, texts: Arc<HashMap<usize, String>>, header: bool) -> Template {
    let text = |args: &[Value], n: usize| args.get(n).map(ToString::to_string).unwrap_or_default();
    let number = |args: &[Value], n: usize| args.get(n).and_then(Value::as_int).unwrap_or(0);
    let same = move |args: &[Value], n: usize| Ok(string(text(args, n)));
    let template = template
        .func("json", move |a| {
            if header { same(a, 0) } else { Ok(string(to_json(a.first().unwrap_or(&Value::Nil), &texts))) }
        })
        .func("lower", move |a| if header { same(a, 0) } else { Ok(string(text(a, 0).to_lowercase())) })
        .func("upper", move |a| if header { same(a, 0) } else { Ok(string(text(a, 0).to_uppercase())) })
        .func("title", move |a| if header { same(a, 0) } else { Ok(string(title(&text(a, 0)))) })
        .func("println", |a| {
            let words: Vec<String> = a.iter().map(ToString::to_string).collect();
            Ok(string(format!("{}\n", words.join(" "))))
        })
        .func("pad", move |a| {
            let spaces = |n| " ".repeat(usize::try_from(number(a, n)).unwrap_or(0).min(4096));
            let body = text(a, 0);
            Ok(string(if body.is_empty() { body } else { format!("{}{body}{}", spaces(1), spaces(2)) }))
        })
        .func("truncate", move |a| {
            let length = usize::try_from(number(a, 1)).unwrap_or(0);
            Ok(if header {
                string(text(a, 0))
            } else {
                string(text(a, 0).chars().take(length).collect::<String>())
            })
        });
    template
        .func("split", move |a| {
            if header {
                return same(a, 0);
            }
            let (body, separator) = (text(a, 0), text(a, 1));
            Ok(Value::List(body.split(separator.as_str()).map(string).collect::<Vec<_>>().into()))
        })
        .func("join", move |a| match a.first() {
            Some(Value::List(items)) => {
                let words: Vec<String> = items.iter().map(ToString::to_string).collect();
                Ok(string(words.join(&text(a, 1))))
            }
            _ => same(a, 0),
        })
}

fn title(text: &str) -> String {
    let mut start = true;
    let convert = |c: char| {
        let out = if start { c.to_uppercase().collect::<String>() } else { c.to_string() };
        start = !(c.is_alphanumeric() || c == '_' || c == '\'');
        out
    };
    text.chars().map(convert).collect()
}

/// Parses a template; `texts` is what its `json` may quote.
fn compile(source: &str, data: &Data, header: bool, strict: bool) -> Result<Format> {
    let missing = if strict { MissingKey::Error } else { MissingKey::Invalid };
    let template = functions(Template::new("").missing_key(missing), Arc::clone(&data.texts), header);
    let template = template
        .parse(source)
        .map_err(|e| fail(format!("template parsing error: {}", parse_error(&e)), 64))?;
    Ok(Format { template, source: source.to_owned() })
}

fn parse_error(error: &gotmpl::TemplateError) -> String {
    match error {
        gotmpl::TemplateError::Parse { line, message, .. }
        | gotmpl::TemplateError::Lex { line, message, .. } => {
            format!("template: :{line}: {message}")
        }
        other => format!("template: :1: {other}"),
    }
}

/// What stands at the place where a key was missing: Go's `template: :1:8: executing "" at <.A.B>`.
fn place(source: &str, key: &str) -> String {
    let dotted = format!(".{key}");
    let line = source.lines().position(|l| l.contains(&dotted)).unwrap_or(0);
    let text = source.lines().nth(line).unwrap_or_default();
    let end = text.find(&dotted).unwrap_or(0);
    let is_path = |c: char| c.is_alphanumeric() || c == '.' || c == '_' || c == '$';
    let start = text[..end].rfind(|c: char| !is_path(c)).map_or(0, |i| i + 1);
    format!("template: :{}:{end}: executing \"\" at <{}{dotted}>", line + 1, &text[start..end])
}

impl Format {
    fn run(&self, data: &Value, context: Option<&str>) -> Result<String> {
        self.template.execute_to_string(data).map_err(|e| {
            let text = match &e {
                gotmpl::TemplateError::MissingKey { key } => match context {
                    Some(name) => {
                        format!("{}: can't evaluate field {key} in type {name}", place(&self.source, key))
                    }
                    None => format!("{}: map has no entry for key \"{key}\"", place(&self.source, key)),
                },
                // Go knows its functions when it parses: that is another failure, with another status.
                gotmpl::TemplateError::UndefinedFunction(name) => {
                    return fail(format!("template: :1: function {name:?} not defined"), 64);
                }
                other => format!("template: :1: {other}"),
            };
            fail(text, 1)
        })
    }
}

/// A piece of a template that is no more than a row of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Printed as it is.
    Text(&'a str),
    /// `{{.Name}}`.
    Field(&'a str),
}

/// The pieces of a template; `None` if it is more than fields and text.
pub(crate) fn pieces(template: &str) -> Option<Vec<Piece<'_>>> {
    let mut parts = template.split("{{");
    let mut pieces = vec![Piece::Text(parts.next()?)];
    for part in parts {
        let (inside, text) = part.split_once("}}")?;
        let name = inside.trim().strip_prefix('.').filter(|n| !n.is_empty())?;
        if !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        pieces.extend([Piece::Field(name), Piece::Text(text)]);
    }
    Some(pieces)
}

/// A line of a listing without running the template; `None` where that would print something else, or fail.
fn line(pieces: &[Piece<'_>], row: &Row) -> Option<String> {
    let mut line = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => line.push_str(text),
            Piece::Field(name) => match row.get(name)? {
                Value::String(text) => line.push_str(text),
                _ => return None,
            },
        }
    }
    Some(line)
}

/// Runs a template over JSON text for `inspect`.
pub(crate) fn render(source: &str, json: &str, optional: &[&str]) -> Result<String> {
    let mut data = Data::parse(json)?;
    for path in optional {
        let keys: Vec<&str> = path.split('.').collect();
        data.value = with_default(data.value, &keys);
    }
    let text = compile(source, &data, false, true)?.run(&data.value, None);
    text.map_err(|e| {
        let code = e.downcast_ref::<crate::error::Failure>().map_or(1, |f| f.code);
        fail(format!("template parsing error: {e}"), code)
    })
}

/// Adds a nil at a path whose parents exist: what Go's structs have and JSON omits.
fn with_default(value: Value, path: &[&str]) -> Value {
    let (Value::Map(map), Some((first, rest))) = (&value, path.split_first()) else { return value };
    let child = match (map.get(*first), rest.is_empty()) {
        (Some(_), true) => return value,
        (None, true) => Value::Nil,
        (Some(child), false) => {
            let new = with_default(child.clone(), rest);
            // The copy has another address: it keeps its text only while nothing was added.
            if let (Value::Map(a), Value::Map(b)) = (child, &new)
                && Arc::ptr_eq(a, b)
            {
                return value;
            }
            new
        }
        (None, false) => return value,
    };
    let mut map = BTreeMap::clone(map);
    map.insert(Arc::from(*first), child);
    Value::Map(Arc::new(map))
}

/// Makes `.Label "x"`, a method with an argument in Go, a call of the function that rows have under that name.
fn methods(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some(at) = rest.find(".Label ") {
        let (head, tail) = rest.split_at(at);
        let argument = tail[".Label ".len()..].trim_start();
        let quote = argument.chars().next().filter(|c| *c == '"' || *c == '`');
        out.push_str(head);
        match quote.and_then(|q| argument[1..].find(q)) {
            Some(end) => {
                out.push_str(&format!("(call .Label {})", &argument[..end + 2]));
                rest = &argument[end + 2..];
            }
            None => {
                out.push_str(".Label ");
                rest = &tail[".Label ".len()..];
            }
        }
    }
    out + rest
}

/// The method `Label` of a row: looks a label up.
pub(crate) fn label_method(labels: &serde_json::Value) -> Value {
    let labels = labels.clone();
    Value::Function(Arc::new(move |args: &[Value]| {
        let name = args.first().map(ToString::to_string).unwrap_or_default();
        Ok(string(labels.get(&name).and_then(serde_json::Value::as_str).unwrap_or_default()))
    }))
}

/// One line of a listing: fields that templates may use.
pub(crate) type Row = BTreeMap<&'static str, Value>;

/// A listing: its default columns and the heading of each field.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    /// Go type that errors name.
    pub(crate) context: &'a str,
    /// Template of the default table, without `table `.
    pub(crate) default: &'a str,
    /// What `-q` shows.
    pub(crate) quiet: &'a str,
    /// Name and field of the lines of `raw`.
    pub(crate) raw: &'a [(&'static str, &'static str)],
    /// Field and heading.
    pub(crate) headers: &'a [(&'static str, &'static str)],
}

/// A text field.
pub(crate) fn text(value: impl Into<String>) -> Value {
    string(value)
}

impl Table<'_> {
    /// Renders rows as the user wants them: `table`, `table TEMPLATE`, `json`, a template, or nothing.
    pub(crate) fn render(&self, format: &str, quiet: bool, rows: &[Row]) -> Result<String> {
        let is_table = format.is_empty() || format == "table" || format.starts_with("table ");
        let source = match format {
            "" | "table" if quiet => self.quiet.to_owned(),
            "" | "table" => self.default.to_owned(),
            "json" => "{{json .}}".to_owned(),
            "raw" => self.raw(quiet),
            other => other.strip_prefix("table ").unwrap_or(other).trim().to_owned(),
        };
        let source = methods(&source.replace("\\t", "\t").replace("\\n", "\n"));
        let none = Data::from_value(Value::Nil);
        let template = compile(&source, &none, false, true).map_err(|e| {
            let text = e.to_string();
            fail(text.replace("template parsing error: ", "failed to parse template: "), 1)
        })?;
        let mut out = TabWriter::new(10, 3);
        if is_table && !(quiet && (format.is_empty() || format == "table")) {
            let header = compile(&source, &none, true, true)?;
            let mut names: BTreeMap<Arc<str>, Value> =
                self.headers.iter().map(|(k, v)| (Arc::from(*k), string(*v))).collect();
            // The heading of a label is the last part of its name.
            names.insert(
                Arc::from("Label"),
                Value::Function(Arc::new(|args: &[Value]| {
                    let name = args.first().map(ToString::to_string).unwrap_or_default();
                    Ok(string(name.rsplit('.').next().unwrap_or_default().replace(['-', '_'], " ")))
                })),
            );
            out.push(&header.run(&Value::Map(Arc::new(names)), Some(self.context))?);
            out.push("\n");
        }
        let mut plain = String::new();
        let pieces = pieces(&source);
        // Every row has the same fields.
        let mut names: BTreeMap<&'static str, Arc<str>> = BTreeMap::new();
        for row in rows {
            let target = if is_table { &mut out as &mut dyn Sink } else { &mut plain };
            if let Some(line) = pieces.as_deref().and_then(|p| line(p, row)) {
                target.add(&line);
                target.add("\n");
                continue;
            }
            let mut name = |k: &'static str| Arc::clone(names.entry(k).or_insert_with(|| Arc::from(k)));
            let map = row.iter().map(|(k, v)| (name(k), v.clone())).collect();
            let line = template.run(&Value::Map(Arc::new(map)), Some(self.context)).map_err(|e| {
                match e.downcast_ref::<crate::error::Failure>() {
                    Some(f) if f.code == 64 => fail(format!("template parsing error: {e}"), 1),
                    _ => fail(format!("failed to execute template: {e}"), 1),
                }
            })?;
            target.add(&line);
            target.add("\n");
        }
        Ok(if is_table { out.finish() } else { plain })
    }

    /// The `raw` format: `name: value` lines.
    fn raw(&self, quiet: bool) -> String {
        let fields: Vec<&(&str, &str)> =
            if quiet { self.raw.iter().take(1).collect() } else { self.raw.iter().collect() };
        let line = |(name, field): &&(&str, &str)| {
            format!("{name}:{{{{if .{field}}}}} {{{{.{field}}}}}{{{{end}}}}\n")
        };
        let text: String = fields.iter().map(line).collect();
        if quiet { text.trim_end().to_owned() } else { text }
    }
}

trait Sink {
    fn add(&mut self, text: &str);
}

impl Sink for TabWriter {
    fn add(&mut self, text: &str) {
        self.push(text);
    }
}

impl Sink for String {
    fn add(&mut self, text: &str) {
        self.push_str(text);
    }
}

/// Go's `json.Indent`: the text untouched but for white space.
pub(crate) fn indent(json: &str, prefix: &str, step: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let mut opened = false;
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(prefix);
        out.extend(std::iter::repeat_n(step, depth));
    };
    for c in json.chars() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        if opened && c != '}' && c != ']' {
            newline(&mut out, depth);
        }
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !opened {
                    newline(&mut out, depth);
                }
            }
            _ => {}
        }
        opened = c == '{' || c == '[';
        out.push(c);
        match c {
            ',' => newline(&mut out, depth),
            ':' => out.push(' '),
            '"' => in_string = true,
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_order_and_spelling() {
        let json = r#"{"b":1,"a":{"z":[],"y":{},"x":"<a\"b>"}}"#;
        assert_eq!(
            render("{{json .a}} {{.b}} {{upper .a.x}}", json, &[]).unwrap(),
            r#"{"z":[],"y":{},"x":"<a\"b>"} 1 <A"B>"#
        );
        assert_eq!(render("{{json .}}", json, &[]).unwrap(), json);
        assert_eq!(
            indent(json, "", "  "),
            "{\n  \"b\": 1,\n  \"a\": {\n    \"z\": [],\n    \"y\": {},\n    \"x\": \"<a\\\"b>\"\n  }\n}"
        );
    }

    #[test]
    fn a_row_of_fields_needs_no_template() {
        assert_eq!(
            pieces("a {{ .B }}\t{{.C}}"),
            Some(vec![
                Piece::Text("a "),
                Piece::Field("B"),
                Piece::Text("\t"),
                Piece::Field("C"),
                Piece::Text("")
            ])
        );
        for more in
            ["{{.}}", "{{.A.B}}", "{{json .A}}", "{{- .A}}", "{{.A", "{{if .A}}{{end}}", "{{.Label \"x\"}}"]
        {
            assert_eq!(pieces(more), None, "{more}");
        }
        let table = Table { context: "*T", raw: &[], default: "{{.A}}\t{{.N}}", quiet: "", headers: &[] };
        let rows = [
            Row::from([("A", text("<é>")), ("N", Value::Int(3))]),
            Row::from([("A", text("")), ("N", text("x"))]),
        ];
        for (plain, run) in [("{{.A}}|{{.N}}", "{{.A}}{{\"|\"}}{{.N}}"), ("n", "{{\"n\"}}")] {
            assert_eq!(table.render(plain, false, &rows).unwrap(), table.render(run, false, &rows).unwrap());
        }
        assert_eq!(table.render("{{.A}}|{{.N}}", false, &rows).unwrap(), "<é>|3\n|x\n");
        let error = table.render("{{.A}} {{.Q}}", false, &rows).unwrap_err().to_string();
        assert!(error.contains("at <.Q>: can't evaluate field Q in type *T"), "{error}");
    }

    #[test]
    fn missing_keys() {
        let error = render("{{.a.q}}", r#"{"a":{}}"#, &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            r#"template parsing error: template: :1:4: executing "" at <.a.q>: map has no entry for key "q""#
        );
        assert_eq!(render("{{if .a.q}}x{{end}}", r#"{"a":{}}"#, &["a.q"]).unwrap(), "");
    }

    #[test]
    fn functions_as_in_docker() {
        let json = r#"{"s":"hello world","l":["a","b"]}"#;
        for (source, want) in [
            ("{{title .s}}", "Hello World"),
            ("{{join .l \", \"}}", "a, b"),
            ("{{split .s \" \"}}", "[hello world]"),
            ("{{pad .s 1 2}}|", " hello world  |"),
            ("{{truncate .s 3}}", "hel"),
            ("{{range .l}}{{println .}}{{end}}", "a\nb\n"),
            ("{{index .l 1}}{{len .l}}", "b2"),
        ] {
            assert_eq!(render(source, json, &[]).unwrap(), want, "{source}");
        }
    }

    #[test]
    fn tables() {
        let table = Table {
            context: "*formatter.X",
            raw: &[],
            default: "{{.ID}}\t{{.Name}}",
            quiet: "{{.ID}}",
            headers: &[("ID", "X ID"), ("Name", "NAME")],
        };
        let rows = [Row::from([("ID", text("1")), ("Name", text("n"))])];
        assert_eq!(table.render("", false, &rows).unwrap(), "X ID      NAME\n1         n\n");
        assert_eq!(table.render("", true, &rows).unwrap(), "1\n");
        assert_eq!(table.render("json", false, &rows).unwrap(), "{\"ID\":\"1\",\"Name\":\"n\"}\n");
        assert_eq!(
            table.render("table {{.Name}}\\t{{upper .ID}}", false, &rows).unwrap(),
            "NAME      X ID\nn         1\n"
        );
        assert!(
            table
                .render("{{.Foo}}", false, &rows)
                .unwrap_err()
                .to_string()
                .contains("can't evaluate field Foo in type *formatter.X")
        );
    }
}
