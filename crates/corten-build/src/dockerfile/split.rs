//! Splitting lines into words: flags, JSON arrays, words with quotes, `name=value` pairs.

/// Where in quotes a scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quote {
    None,
    Single,
    Double,
}

/// State after one more character.
pub(crate) const fn quote_step(quote: Quote, c: char) -> Quote {
    match (quote, c) {
        (Quote::None, '\'') => Quote::Single,
        (Quote::None, '"') => Quote::Double,
        (Quote::Single, '\'') | (Quote::Double, '"') => Quote::None,
        (other, _) => other,
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

/// Name of the instruction in lower case, its `--flags`, and the rest.
pub(crate) fn split_command(line: &str, escape: char) -> (String, Vec<String>, &str) {
    let line = line.trim();
    let (name, rest) = line.split_once(is_blank).unwrap_or((line, ""));
    let (flags, rest) = flags(rest.trim(), escape);
    (name.to_ascii_lowercase(), flags, rest)
}

fn flags(line: &str, escape: char) -> (Vec<String>, &str) {
    let mut out = Vec::new();
    let mut rest = line;
    while rest.starts_with("--") {
        let mut word = String::new();
        let mut quote = Quote::None;
        let mut end = rest.len();
        let mut chars = rest.char_indices();
        while let Some((i, c)) = chars.next() {
            if quote == Quote::None && is_blank(c) {
                end = i;
                break;
            }
            if c == escape && quote != Quote::Single {
                word.extend(chars.next().map(|(_, c)| c));
                continue;
            }
            let next = quote_step(quote, c);
            if next == quote {
                word.push(c);
            }
            quote = next;
        }
        rest = rest[end..].trim_start();
        if word == "--" {
            break;
        }
        out.push(word);
    }
    (out, rest)
}

/// An array of strings in JSON; `None` where it is no JSON array, an error where its elements are no strings.
pub(crate) fn json(rest: &str) -> Result<Option<Vec<String>>, String> {
    let rest = rest.trim();
    if !rest.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(rest) else { return Ok(None) };
    let strings = values.into_iter().map(|v| match v {
        serde_json::Value::String(s) => Ok(s),
        _ => Err("When using JSON array syntax, arrays must be comprised of strings only.".to_owned()),
    });
    strings.collect::<Result<_, _>>().map(Some)
}

/// Words between blanks, quotes not looked at.
pub(crate) fn blanks(rest: &str) -> Vec<String> {
    rest.split(is_blank).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

/// Words between blanks outside quotes; quotes and escapes stay in the words.
pub(crate) fn words(rest: &str, escape: char) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut quote = Quote::None;
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        if quote == Quote::None && c.is_whitespace() {
            if !word.is_empty() {
                out.push(std::mem::take(&mut word));
            }
            continue;
        }
        word.push(c);
        if c == escape && quote != Quote::Single {
            word.extend(chars.next());
            continue;
        }
        quote = quote_step(quote, c);
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

/// `name=value …`, or the old `name value`.
pub(crate) fn pairs(rest: &str, name: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let words = words(rest, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let Some((key, value)) = rest.split_once(is_blank) else {
            return Err(format!("{name} must have two arguments"));
        };
        return Ok(vec![(key.to_owned(), value.trim_start_matches(is_blank).to_owned())]);
    }
    words
        .iter()
        .map(|word| {
            let pair = word.split_once('=').ok_or_else(|| {
                format!("Syntax error - can't find = in {}. Must be of the form: name=value", go_quote(word))
            })?;
            Ok((pair.0.to_owned(), pair.1.to_owned()))
        })
        .collect()
}

/// Go's `%q`.
pub(crate) fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
