//! Heredocs: `RUN <<EOF`, `COPY <<a <<'b' /dst/`.

use super::split::{Quote, quote_step};

/// One heredoc and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word after `<<`.
    pub name: String,
    /// The number before `<<`, as written.
    pub descriptor: String,
    /// Whether variables in it are expanded (the word was not quoted).
    pub expand: bool,
    /// `<<-`: leading tabs are dropped.
    pub chomp: bool,
    /// Lines up to the terminator, as written.
    pub content: String,
}

impl Heredoc {
    /// The text with leading tabs dropped where that was asked for.
    #[must_use]
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|l| l.trim_start_matches('\t')).collect()
    }

    /// Whether this line ends it.
    pub(crate) fn ends_at(&self, line: &str) -> bool {
        let line = if self.chomp { line.trim_start_matches('\t') } else { line };
        line == self.name
    }

    /// Reads a word such as `3<<-"EOF"`; `None` if it is none.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let (descriptor, rest) = word.split_at(digits);
        let rest = rest.strip_prefix("<<")?;
        let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |r| (true, r));
        if rest.is_empty() || rest.contains('<') {
            return None;
        }
        let mut name = String::new();
        let mut quoted = false;
        let mut chars = rest.chars();
        while let Some(c) = chars.next() {
            match c {
                '\'' | '"' => {
                    quoted = true;
                    loop {
                        match chars.next()? {
                            end if end == c => break,
                            inner => name.push(inner),
                        }
                    }
                }
                '\\' => {
                    quoted = true;
                    name.push(chars.next()?);
                }
                c if c.is_whitespace() => return None,
                c => name.push(c),
            }
        }
        if name.is_empty() {
            return None;
        }
        Some(Self { name, descriptor: descriptor.to_owned(), expand: !quoted, chomp, content: String::new() })
    }
}

/// The heredocs that a line begins.
pub(crate) fn in_line(line: &str, escape: char) -> Vec<Heredoc> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut quote = Quote::None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if quote == Quote::None && c.is_whitespace() {
            out.extend(Heredoc::parse(&word));
            word.clear();
            continue;
        }
        word.push(c);
        if c == escape && quote != Quote::Single {
            word.extend(chars.next());
            continue;
        }
        quote = quote_step(quote, c);
    }
    out.extend(Heredoc::parse(&word));
    out
}
