//! Physical lines to logical ones: parser directives, comments, continuations, heredocs.

use super::heredoc::{self, Heredoc};
use super::parse::ParseError;
use super::split::{self, split_command};

/// Longest physical line, as in the reference.
const LINE_LIMIT: usize = 65_535;
/// Largest Dockerfile.
const FILE_LIMIT: usize = 4 << 20;

/// Parser directives at the top of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `\` or a backtick.
    pub escape: char,
    /// Front-end image; informative, ours is built in.
    pub syntax: String,
    /// Lint settings.
    pub check: String,
}

impl Default for Directives {
    fn default() -> Self {
        Self { escape: '\\', syntax: String::new(), check: String::new() }
    }
}

/// A logical line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Of its first physical line, from 1.
    pub(crate) number: usize,
    /// Of its last physical line, heredocs included.
    pub(crate) end: usize,
    /// Continuations joined, without the texts of heredocs.
    pub(crate) text: String,
    pub(crate) heredocs: Vec<Heredoc>,
}

/// Splits a file.
pub(crate) fn split(bytes: &[u8]) -> Result<(Directives, Vec<Line>), ParseError> {
    if bytes.len() > FILE_LIMIT {
        return Err(ParseError::file(format!("dockerfile larger than {FILE_LIMIT} bytes")));
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let physical: Vec<&str> = text.split_inclusive('\n').collect();
    if physical.iter().any(|l| l.len() > LINE_LIMIT) {
        return Err(ParseError::file(format!(
            "dockerfile line greater than maximum allowed size of {LINE_LIMIT}"
        )));
    }
    let directives = directives(&physical)?;
    let mut reader = Reader { physical, next: 0, escape: directives.escape };
    let mut out = Vec::new();
    while let Some(line) = reader.logical()? {
        out.push(line);
    }
    Ok((directives, out))
}

fn directives(physical: &[&str]) -> Result<Directives, ParseError> {
    let mut found = Directives::default();
    let mut seen: Vec<String> = Vec::new();
    for (i, line) in physical.iter().enumerate() {
        let Some((key, value)) = directive(line) else { break };
        if seen.contains(&key) {
            return Err(ParseError::file(format!("only one {key} parser directive can be used")));
        }
        match key.as_str() {
            "escape" => match value {
                "\\" => found.escape = '\\',
                "`" => found.escape = '`',
                other => {
                    return Err(ParseError::file(format!(
                        "invalid ESCAPE token '{other}' does not match ` or \\"
                    )));
                }
            },
            "syntax" => value.clone_into(&mut found.syntax),
            "check" => value.clone_into(&mut found.check),
            _ => break,
        }
        seen.push(key);
        if i > 16 {
            break;
        }
    }
    Ok(found)
}

/// `# key = value`.
fn directive(line: &str) -> Option<(String, &str)> {
    let rest = line.trim_start().strip_prefix('#')?.trim();
    let (key, value) = rest.split_once('=')?;
    let (key, value) = (key.trim_end(), value.trim());
    let is_name =
        key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.bytes().all(|b| b.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

struct Reader<'a> {
    physical: Vec<&'a str>,
    next: usize,
    escape: char,
}

impl<'a> Reader<'a> {
    fn take(&mut self) -> Option<&'a str> {
        let line = self.physical.get(self.next)?;
        self.next += 1;
        Some(line.strip_suffix('\n').map_or(*line, |l| l.strip_suffix('\r').unwrap_or(l)))
    }

    fn logical(&mut self) -> Result<Option<Line>, ParseError> {
        loop {
            let Some(first) = self.take() else { return Ok(None) };
            let number = self.next;
            if is_comment(first) {
                continue;
            }
            let (start, mut is_end) = self.without_continuation(first.trim_start());
            let mut text = start.to_owned();
            if is_end && text.trim().is_empty() {
                continue;
            }
            while !is_end {
                let Some(more) = self.take() else { break };
                if is_comment(more) || more.trim().is_empty() {
                    continue;
                }
                let (part, end) = self.without_continuation(more);
                text.push_str(part);
                is_end = end;
            }
            let text = text.trim().to_owned();
            if text.is_empty() {
                continue;
            }
            let heredocs = self.heredocs(&text)?;
            return Ok(Some(Line { number, end: self.next, text, heredocs }));
        }
    }

    /// The line without the escape character and blanks at its end; whether the line ends there.
    fn without_continuation(&self, line: &'a str) -> (&'a str, bool) {
        let trimmed = line.trim_end_matches([' ', '\t']);
        trimmed.strip_suffix(self.escape).map_or((line, true), |rest| (rest, false))
    }

    fn heredocs(&mut self, text: &str) -> Result<Vec<Heredoc>, ParseError> {
        if !text.contains("<<") || !can_have_heredoc(text, self.escape) {
            return Ok(Vec::new());
        }
        let mut found = heredoc::in_line(text, self.escape);
        for heredoc in &mut found {
            loop {
                let Some(line) = self.take() else {
                    return Err(ParseError::file("unterminated heredoc".into()));
                };
                if heredoc.ends_at(line) {
                    break;
                }
                heredoc.content.push_str(line);
                heredoc.content.push('\n');
            }
        }
        Ok(found)
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn can_have_heredoc(text: &str, escape: char) -> bool {
    let (mut name, _, mut rest) = split_command(text, escape);
    if name == "onbuild" {
        (name, _, rest) = split_command(rest, escape);
    }
    matches!(name.as_str(), "run" | "copy" | "add") && !matches!(split::json(rest), Ok(Some(_)))
}
