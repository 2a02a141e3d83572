//! Progress streams of pull, push, build, load and import: several lines rewritten in place on a terminal, plain
//! lines elsewhere.

use std::collections::HashMap;
use std::io::{self, Write};

use corten_base::units;
use corten_client::JsonLines;
use serde_json::Value;

use crate::error::{Result, fail};
use crate::term;

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    Stderr,
    /// Read to its end for errors and results, but not shown.
    Nowhere,
}

/// Shows a stream to its end. `aux` sees the results that are not for people.
///
/// Fails with the error that the stream reports.
pub(crate) async fn show(mut stream: JsonLines, target: Target, aux: &mut dyn FnMut(&Value)) -> Result {
    let mut display = Display::new(target);
    while let Some(message) = stream.next().await? {
        if let Some(value) = message.get("aux").filter(|v| !v.is_null()) {
            aux(value);
            continue;
        }
        display.message(&message)?;
    }
    Ok(())
}

/// State of the lines on the terminal.
#[derive(Debug)]
pub(crate) struct Display {
    target: Target,
    terminal: bool,
    width: usize,
    lines: HashMap<String, usize>,
}

impl Display {
    pub(crate) fn new(target: Target) -> Self {
        let terminal = match target {
            Target::Stdout => term::stdout_is_tty(),
            Target::Stderr => term::stderr_is_tty(),
            Target::Nowhere => false,
        };
        Self {
            target,
            terminal,
            width: term::size().map_or(200, |(_, columns)| usize::from(columns)),
            lines: HashMap::new(),
        }
    }

    /// Shows one message, or fails with the error it carries.
    pub(crate) fn message(&mut self, message: &Value) -> Result {
        if let Some(error) = error_of(message) {
            return Err(error);
        }
        let text = self.render(message);
        match self.target {
            Target::Stdout => io::stdout().lock().write_all(text.as_bytes())?,
            Target::Stderr => io::stderr().lock().write_all(text.as_bytes())?,
            Target::Nowhere => {}
        }
        Ok(())
    }

    fn render(&mut self, message: &Value) -> String {
        let field = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
        let id = field("id");
        let detail = message.get("progressDetail").filter(|d| d.is_object());
        let mut out = String::new();
        let mut up = 0;
        if !id.is_empty() && detail.is_some() {
            let count = self.lines.len();
            let line = *self.lines.entry(id.to_owned()).or_insert(count);
            if line == count && self.terminal {
                out.push('\n');
            }
            up = self.lines.len() - line;
            if self.terminal && up > 0 {
                out.push_str(&format!("\x1b[{up}A"));
            }
        } else {
            self.lines.clear();
        }
        out.push_str(&self.body(message, detail));
        if self.terminal && !id.is_empty() && up > 0 {
            out.push_str(&format!("\x1b[{up}B"));
        }
        out
    }

    fn body(&self, message: &Value, detail: Option<&Value>) -> String {
        let field = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
        let stream = field("stream");
        let progress = detail.map(|d| bar(d, self.width)).unwrap_or_default();
        let mut out = String::new();
        let mut end = "";
        if self.terminal && stream.is_empty() && detail.is_some() {
            out.push_str("\x1b[2K\r");
            end = "\r";
        } else if !progress.is_empty() {
            return out;
        }
        if !field("id").is_empty() {
            out.push_str(&format!("{}: ", field("id")));
        }
        if !field("from").is_empty() {
            out.push_str(&format!("(from {}) ", field("from")));
        }
        match () {
            () if detail.is_some() && self.terminal => {
                out.push_str(&format!("{} {progress}{end}", field("status")))
            }
            () if !field("progress").is_empty() => {
                out.push_str(&format!("{} {}{end}", field("status"), field("progress")))
            }
            () if !stream.is_empty() => out.push_str(&format!("{stream}{end}")),
            () => out.push_str(&format!("{}{end}\n", field("status"))),
        }
        out
    }
}

/// The error of a message, with the code a failed build step has.
fn error_of(message: &Value) -> Option<anyhow::Error> {
    let detail = message.get("errorDetail").filter(|d| d.is_object());
    let text = detail.and_then(|d| d.get("message")).or_else(|| message.get("error"))?.as_str()?.to_owned();
    let code = detail.and_then(|d| d.get("code")).and_then(Value::as_i64).filter(|c| *c != 0).unwrap_or(1);
    Some(fail(text, i32::try_from(code).unwrap_or(1)))
}

/// `[====>   ]  1.2MB/3MB`.
fn bar(detail: &Value, width: usize) -> String {
    let number = |name: &str| detail.get(name).and_then(Value::as_i64).unwrap_or(0);
    let (current, total) = (number("current"), number("total"));
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    let size = |n: i64| {
        if detail.get("units").and_then(Value::as_str).is_some_and(|u| !u.is_empty()) {
            n.to_string()
        } else {
            units::human_size(n as f64)
        }
    };
    if current <= 0 && total <= 0 {
        return String::new();
    }
    if total <= 0 {
        return format!("{:>8}", size(current));
    }
    let half = usize::try_from((current.saturating_mul(100) / total) / 2).unwrap_or(0).min(50);
    let mut out = String::new();
    if width > 110 {
        out.push_str(&format!("[{}>{}] ", "=".repeat(half), " ".repeat(50 - half)));
    }
    if detail.get("hidecounts").and_then(Value::as_bool) != Some(true) {
        out.push_str(&format!("{:>8}", size(current)));
        if current <= total {
            out.push_str(&format!("/{}", size(total)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(terminal: bool, messages: &[Value]) -> String {
        let mut display = Display { target: Target::Nowhere, terminal, width: 200, lines: HashMap::new() };
        messages.iter().map(|m| display.render(m)).collect()
    }

    #[test]
    fn plain_output_has_no_bars() {
        let got = shown(
            false,
            &[
                json!({"status": "Pulling from x", "id": "latest"}),
                json!({"status": "Downloading", "id": "a", "progressDetail": {"current": 1, "total": 2}}),
                json!({"status": "Pull complete", "id": "a", "progressDetail": {}}),
                json!({"stream": "Step 1/1 : FROM x\n"}),
            ],
        );
        assert_eq!(got, "latest: Pulling from x\na: Pull complete\nStep 1/1 : FROM x\n");
    }

    #[test]
    fn terminal_output_moves_the_cursor() {
        let got = shown(
            true,
            &[
                json!({"status": "D", "id": "a", "progressDetail": {"current": 1, "total": 2}}),
                json!({"status": "D", "id": "b", "progressDetail": {}}),
                json!({"status": "E", "id": "a", "progressDetail": {}}),
            ],
        );
        let bar = format!("[{}>{}]       1B/2B", "=".repeat(25), " ".repeat(25));
        let want = format!(
            "\n\x1b[1A\x1b[2K\ra: D {bar}\r\x1b[1B\n\x1b[1A\x1b[2K\rb: D \r\x1b[1B\x1b[2A\x1b[2K\ra: E \r\x1b[2B"
        );
        assert_eq!(got, want);
    }
}
