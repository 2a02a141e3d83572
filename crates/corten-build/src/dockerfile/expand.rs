//! Variables: `$v ${v} ${v:-w} ${v:+w} ${v:?w} ${v#p} ${v%p} ${v/p/r}`, quotes and escapes, as in the reference's
//! shell lexer.

/// Deepest nesting of `${…${…}…}`.
const DEPTH: usize = 32;
/// Longest result; an instruction cannot grow without bound by doubling variables.
const LENGTH: usize = 1 << 20;

/// A word that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// `'` or `"` without its partner.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    Quote(&'static str),
    /// `${` without `}`.
    #[error("syntax error: missing '}}'")]
    Brace,
    /// `${}`.
    #[error("bad substitution")]
    Empty,
    /// `${v^^}`.
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    /// `${v:?message}`.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// From the Dockerfile, or the usual one.
        message: String,
    },
    /// Nested too deep or grown too long.
    #[error("variable expansion is too large")]
    Limit,
}

/// Expands words; `get` is the environment.
#[derive(Debug, Clone, Copy)]
pub struct Expander {
    /// `\` or a backtick.
    pub escape: char,
}

type Get<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Expander {
    /// One word: quotes are removed, variables replaced, nothing is split.
    ///
    /// # Errors
    /// See [`ExpandError`].
    pub fn word(&self, text: &str, get: Get<'_>) -> Result<String, ExpandError> {
        let mut scan = Scan { chars: text.chars().collect(), at: 0, escape: self.escape, get };
        let mut words = Words::default();
        scan.until(None, &mut words, 0)?;
        Ok(words.whole)
    }

    /// The same, split at blanks outside quotes; values of unquoted variables are split too.
    ///
    /// # Errors
    /// See [`ExpandError`].
    pub fn words(&self, text: &str, get: Get<'_>) -> Result<Vec<String>, ExpandError> {
        let mut scan = Scan { chars: text.chars().collect(), at: 0, escape: self.escape, get };
        let mut words = Words::default();
        scan.until(None, &mut words, 0)?;
        words.end();
        Ok(words.list)
    }

    /// A text in which quotes mean nothing (heredocs): variables and escaped dollars only.
    ///
    /// # Errors
    /// See [`ExpandError`].
    pub fn text(&self, text: &str, get: Get<'_>) -> Result<String, ExpandError> {
        let mut scan = Scan { chars: text.chars().collect(), at: 0, escape: self.escape, get };
        let mut out = String::new();
        while let Some(c) = scan.peek() {
            if c == self.escape
                && matches!(scan.chars.get(scan.at + 1), Some(n) if *n == '$' || *n == self.escape)
            {
                scan.at += 1;
                out.extend(scan.next());
            } else if c == '$' {
                out.push_str(&scan.dollar(0)?);
            } else {
                out.extend(scan.next());
            }
            if out.len() > LENGTH {
                return Err(ExpandError::Limit);
            }
        }
        Ok(out)
    }
}

/// Result in both readings.
#[derive(Default)]
struct Words {
    whole: String,
    list: Vec<String>,
    word: String,
    in_word: bool,
}

impl Words {
    /// Part of a word that is not split.
    fn push(&mut self, text: &str) {
        self.whole.push_str(text);
        self.word.push_str(text);
        self.in_word = true;
    }

    /// Value of an unquoted variable: its blanks end words.
    fn push_value(&mut self, text: &str) {
        self.whole.push_str(text);
        for c in text.chars() {
            if c.is_whitespace() {
                self.end();
            } else {
                self.word.push(c);
                self.in_word = true;
            }
        }
    }

    fn blank(&mut self, c: char) {
        self.whole.push(c);
        self.end();
    }

    fn end(&mut self) {
        if self.in_word {
            self.list.push(std::mem::take(&mut self.word));
        }
        self.in_word = false;
    }
}

struct Scan<'a> {
    chars: Vec<char>,
    at: usize,
    escape: char,
    get: Get<'a>,
}

impl Scan<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Reads up to `stop` (eaten) or the end.
    fn until(&mut self, stop: Option<char>, words: &mut Words, depth: usize) -> Result<(), ExpandError> {
        if depth > DEPTH {
            return Err(ExpandError::Limit);
        }
        while let Some(c) = self.peek() {
            if words.whole.len() > LENGTH {
                return Err(ExpandError::Limit);
            }
            if Some(c) == stop {
                self.at += 1;
                return Ok(());
            }
            match c {
                '\'' => words.push(&self.single()?),
                '"' => words.push(&self.double(depth)?),
                '$' => words.push_value(&self.dollar(depth)?),
                c if c == self.escape => {
                    self.at += 1;
                    if let Some(c) = self.next() {
                        words.push(c.encode_utf8(&mut [0; 4]));
                    }
                }
                c if c.is_whitespace() => {
                    self.at += 1;
                    words.blank(c);
                }
                c => {
                    self.at += 1;
                    words.push(c.encode_utf8(&mut [0; 4]));
                }
            }
        }
        if stop.is_some() { Err(ExpandError::Brace) } else { Ok(()) }
    }

    fn single(&mut self) -> Result<String, ExpandError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            match self.next() {
                Some('\'') => return Ok(out),
                Some(c) => out.push(c),
                None => return Err(ExpandError::Quote("single")),
            }
        }
    }

    fn double(&mut self, depth: usize) -> Result<String, ExpandError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            if out.len() > LENGTH {
                return Err(ExpandError::Limit);
            }
            match self.peek() {
                None => return Err(ExpandError::Quote("double")),
                Some('"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar(depth)?),
                Some(c) if c == self.escape => {
                    self.at += 1;
                    match self.next() {
                        None => return Err(ExpandError::Quote("double")),
                        Some(n) if n == '"' || n == '$' || n == self.escape => out.push(n),
                        Some(n) => out.extend([c, n]),
                    }
                }
                Some(c) => {
                    self.at += 1;
                    out.push(c);
                }
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if name.is_empty() && matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') && c != '$' {
                // Positional parameters of a shell; always unset here.
                self.at += 1;
                return c.to_string();
            }
            let fits = c.is_ascii_alphabetic() || c == '_' || c.is_ascii_digit();
            if !fits || (name.starts_with(|f: char| f.is_ascii_digit()) && !c.is_ascii_digit()) {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }

    /// At `$`.
    fn dollar(&mut self, depth: usize) -> Result<String, ExpandError> {
        self.at += 1;
        if self.peek() != Some('{') {
            let is_name =
                self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '@' | '*' | '#'));
            if !is_name {
                return Ok("$".to_owned());
            }
            let name = self.name();
            return Ok((self.get)(&name).unwrap_or_default());
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err(if self.peek().is_none() { ExpandError::Brace } else { ExpandError::Empty });
        }
        let value = (self.get)(&name);
        match self.next() {
            None => Err(ExpandError::Brace),
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => {
                let modifier = self.next().ok_or(ExpandError::Brace)?;
                self.conditional(&name, modifier, value.filter(|v| !v.is_empty()), true, depth)
            }
            Some(m @ ('-' | '+' | '?')) => self.conditional(&name, m, value, false, depth),
            Some(m @ ('#' | '%')) => {
                let greedy = self.peek() == Some(m);
                self.at += usize::from(greedy);
                let pattern = self.pattern('}', depth)?;
                Ok(trim(&value.unwrap_or_default(), &pattern, m == '#', greedy))
            }
            Some('/') => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let pattern = self.pattern('/', depth)?;
                let replacement = self.operand(depth)?;
                Ok(replace(&value.unwrap_or_default(), &pattern, &replacement, all)?)
            }
            Some(other) => Err(ExpandError::Modifier(other.to_string())),
        }
    }

    fn operand(&mut self, depth: usize) -> Result<String, ExpandError> {
        let mut words = Words::default();
        self.until(Some('}'), &mut words, depth + 1)?;
        Ok(words.whole)
    }

    fn conditional(
        &mut self,
        name: &str,
        modifier: char,
        value: Option<String>,
        colon: bool,
        depth: usize,
    ) -> Result<String, ExpandError> {
        if !matches!(modifier, '-' | '+' | '?') {
            return Err(ExpandError::Modifier(format!(":{modifier}")));
        }
        let operand = self.operand(depth)?;
        match (modifier, value) {
            ('+', Some(_)) => Ok(operand),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(operand),
            (_, None) => {
                let usual = if colon { "not allowed to be empty" } else { "not allowed to be unset" };
                let message = if operand.is_empty() { usual.to_owned() } else { operand };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
        }
    }

    /// A pattern up to `stop`; escapes in it stay for the pattern to read.
    fn pattern(&mut self, stop: char, depth: usize) -> Result<Vec<Glob>, ExpandError> {
        let mut out = Vec::new();
        loop {
            match self.peek() {
                None => return Err(ExpandError::Brace),
                Some(c) if c == stop => {
                    self.at += 1;
                    return Ok(out);
                }
                Some('*') => {
                    self.at += 1;
                    out.push(Glob::Many);
                }
                Some('?') => {
                    self.at += 1;
                    out.push(Glob::One);
                }
                Some('\'') => out.extend(self.single()?.chars().map(Glob::Char)),
                Some('"') => out.extend(self.double(depth)?.chars().map(Glob::Char)),
                Some('$') => out.extend(self.dollar(depth + 1)?.chars().map(Glob::Char)),
                Some(c) if c == self.escape || c == '\\' => {
                    self.at += 1;
                    out.extend(self.next().map(Glob::Char));
                }
                Some(c) => {
                    self.at += 1;
                    out.push(Glob::Char(c));
                }
            }
            if out.len() > 4096 || depth > DEPTH {
                return Err(ExpandError::Limit);
            }
        }
    }
}

/// Element of a shell pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Glob {
    Char(char),
    One,
    Many,
}

/// Lengths of prefixes of `text` that the pattern matches, ascending.
fn prefixes(text: &[char], pattern: &[Glob]) -> Vec<usize> {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for glob in pattern {
        let mut next = vec![false; text.len() + 1];
        for i in 0..=text.len() {
            next[i] = match glob {
                Glob::Many => reached[i] || (i > 0 && next[i - 1]),
                Glob::One => i > 0 && reached[i - 1],
                Glob::Char(c) => i > 0 && reached[i - 1] && text[i - 1] == *c,
            };
        }
        reached = next;
    }
    (0..=text.len()).filter(|i| reached[*i]).collect()
}

fn trim(value: &str, pattern: &[Glob], prefix: bool, greedy: bool) -> String {
    let mut text: Vec<char> = value.chars().collect();
    let mut pattern = pattern.to_vec();
    if !prefix {
        text.reverse();
        pattern.reverse();
    }
    let found = prefixes(&text, &pattern);
    let cut = if greedy { found.last() } else { found.first() }.copied().unwrap_or(0);
    let mut rest = text.split_off(cut);
    if !prefix {
        rest.reverse();
    }
    rest.into_iter().collect()
}

fn replace(value: &str, pattern: &[Glob], replacement: &str, all: bool) -> Result<String, ExpandError> {
    let text: Vec<char> = value.chars().collect();
    // Each place is tried with the whole pattern; both are bounded so that this stays cheap.
    if text.len().saturating_mul(pattern.len().max(1)) > LENGTH {
        return Err(ExpandError::Limit);
    }
    let mut out = String::new();
    let mut at = 0;
    let mut done = false;
    while at < text.len() {
        let longest = if done { 0 } else { prefixes(&text[at..], pattern).last().copied().unwrap_or(0) };
        if longest > 0 {
            out.push_str(replacement);
            at += longest;
            done = !all;
        } else {
            out.push(text[at]);
            at += 1;
        }
        if out.len() > LENGTH {
            return Err(ExpandError::Limit);
        }
    }
    Ok(out)
}
