//! The listing of flags under `--help`.

use super::{Flag, FlagSet, Kind};

/// The word after a flag that stands for its value.
pub(crate) fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "",
        Kind::Text => "string",
        Kind::Int | Kind::Int64 => "int",
        Kind::Uint => "uint",
        Kind::Uint16 => "uint16",
        Kind::Bytes | Kind::SwapBytes => "bytes",
        Kind::Cpus => "decimal",
        Kind::Duration => "duration",
        Kind::Ip => "string",
        Kind::Ulimit => "ulimit",
        Kind::Mount => "mount",
        Kind::Network => "network",
        Kind::Gpus => "gpu-request",
        Kind::Filter => "filter",
        Kind::Env | Kind::List => "list",
        Kind::Strings => "strings",
        Kind::Map => "map",
        Kind::Pairs => "stringToString",
    }
}

/// What help says about a flag's default.
pub(crate) fn default_note(f: &Flag) -> String {
    match f.kind {
        Kind::Bool if f.default == "true" => " (default true)".into(),
        Kind::Text if !f.default.is_empty() => format!(" (default {:?})", f.default),
        _ if !f.default.is_empty() && f.kind != Kind::Bool => format!(" (default {})", f.default),
        _ => String::new(),
    }
}

/// Two columns: flags and what they do, the second wrapped to `width`.
pub(crate) fn flag_help(set: FlagSet, width: usize) -> String {
    let mut flags: Vec<&Flag> = set.iter().flat_map(|part| part.iter()).filter(|f| !f.hidden).collect();
    flags.sort_by_key(|f| f.long);
    let left = |f: &Flag| {
        let short = f.short.map_or_else(|| "    ".to_owned(), |c| format!("-{c}, "));
        format!("  {short}--{} {}", f.long, type_name(f.kind)).trim_end().to_owned()
    };
    let column = flags.iter().map(|f| left(f).chars().count()).max().unwrap_or(0) + 3;
    let mut out = String::new();
    for f in flags {
        let text = format!("{}{}", f.help, default_note(f));
        let left = left(f);
        for (i, line) in wrap(&text, width.saturating_sub(column).max(24)).into_iter().enumerate() {
            let head = if i == 0 { left.as_str() } else { "" };
            out.push_str(format!("{head:column$}{line}").trim_end());
            out.push('\n');
        }
    }
    out
}

/// Breaks a text at spaces into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}
