//! `.dockerignore`: which paths of a build context are left out, as moby's pattern matcher decides.
//!
//! Patterns are Go's `filepath.Match` with `**`. A pattern that matches a directory covers everything below it;
//! `!` takes paths back in; the last pattern that covers a path decides. Matching takes time proportional to
//! pattern × path, whatever the pattern.

/// A list of patterns. Paths are relative to the context, with `/`, without leading `./`.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

/// A pattern that cannot be understood. `Display` is Docker's wording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// `!` alone.
    #[error("illegal exclusion pattern: \"!\"")]
    EmptyException,
    /// An open class, a trailing backslash.
    #[error("syntax error in pattern")]
    Syntax,
}

#[derive(Debug, Clone)]
struct Pattern {
    tokens: Vec<Token>,
    is_exception: bool,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Many,
    /// `**/` (or `**` within): nothing, or anything that ends in a slash.
    Directories,
    /// `**` at the end.
    Rest,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Reads the file's text.
    ///
    /// # Errors
    /// The first line that is no pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|l| !l.starts_with('#')).map(str::trim).filter(|l| !l.is_empty());
        Self::from_patterns(lines)
    }

    /// Takes patterns as they are (`--exclude`).
    ///
    /// # Errors
    /// The first one that is no pattern.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidPattern> {
        let patterns = patterns.into_iter().map(Pattern::parse).collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether there are no patterns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether this path is left out.
    #[must_use]
    pub fn excludes(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        let mut excluded = false;
        for pattern in &self.patterns {
            // A pattern that would not change the verdict need not be tried.
            if pattern.is_exception == excluded && pattern.covers(path) {
                excluded = !pattern.is_exception;
            }
        }
        excluded
    }

    /// Whether something below an excluded directory may be taken back in, so that a walk must enter it.
    #[must_use]
    pub fn may_include_below(&self, directory: &str) -> bool {
        let directory = format!("{}/", directory.trim_matches('/'));
        self.patterns.iter().filter(|p| p.is_exception).any(|p| {
            let fixed = p.text.find(['*', '?', '[', '\\']).map_or(p.text.as_str(), |i| &p.text[..i]);
            fixed.len() < p.text.len() || fixed.starts_with(&directory) || directory.starts_with(fixed)
        })
    }
}

impl Pattern {
    fn parse(line: &str) -> Result<Self, InvalidPattern> {
        let (is_exception, text) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        if is_exception && text.is_empty() {
            return Err(InvalidPattern::EmptyException);
        }
        let text = clean(text);
        Ok(Self { tokens: tokens(&text)?, is_exception, text })
    }

    /// Matches the path or one of the directories it is in.
    fn covers(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(i, _)| i).chain([path.len()]);
        ends.into_iter().any(|end| self.matches(&path[..end]))
    }

    fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        // reached[i]: the tokens so far can match the first i characters.
        let mut reached = vec![false; path.len() + 1];
        reached[0] = true;
        for token in &self.tokens {
            let mut next = vec![false; path.len() + 1];
            match token {
                Token::Char(_) | Token::One | Token::Class { .. } => {
                    for i in 0..path.len() {
                        next[i + 1] = reached[i] && token.accepts(path[i]);
                    }
                }
                Token::Many => {
                    next[0] = reached[0];
                    for i in 0..path.len() {
                        next[i + 1] = reached[i + 1] || (next[i] && path[i] != '/');
                    }
                }
                Token::Rest => {
                    let first = reached.iter().position(|r| *r).unwrap_or(usize::MAX);
                    for (i, n) in next.iter_mut().enumerate() {
                        *n = i >= first;
                    }
                }
                Token::Directories => {
                    let first = reached.iter().position(|r| *r).unwrap_or(usize::MAX);
                    for i in 0..=path.len() {
                        next[i] = reached[i] || (i > first && path[i - 1] == '/');
                    }
                }
            }
            reached = next;
        }
        reached[path.len()]
    }
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One => c != '/',
            Self::Class { negated, ranges } => {
                c != '/' && ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != *negated
            }
            Self::Many | Self::Rest | Self::Directories => false,
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, InvalidPattern> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_none() { Token::Rest } else { Token::Directories }
            }
            '*' => Token::Many,
            '?' => Token::One,
            '\\' => Token::Char(chars.next().ok_or(InvalidPattern::Syntax)?),
            '[' => class(&mut chars)?,
            c => Token::Char(c),
        });
    }
    Ok(out)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, InvalidPattern> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next() {
        Some('\\') => chars.next().ok_or(InvalidPattern::Syntax),
        Some(c) => Ok(c),
        None => Err(InvalidPattern::Syntax),
    };
    loop {
        if chars.peek() == Some(&']') && !ranges.is_empty() {
            chars.next();
            return Ok(Token::Class { negated, ranges });
        }
        let low = one(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { one(chars)? } else { low };
        ranges.push((low, high));
    }
}

/// Go's `path.Clean` without the leading slash.
fn clean(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.last().is_some_and(|p| *p != "..") {
                    parts.pop();
                } else if !text.starts_with('/') {
                    parts.push("..");
                }
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_decides() {
        for (patterns, path, want) in [
            ("*.log", "a.log", true),
            ("*.log", "d/a.log", false),
            ("**/*.log", "d/e/a.log", true),
            ("**/*.log", "a.log", true),
            ("*.log\n!keep.log", "keep.log", false),
            ("!keep.log\n*.log", "keep.log", true),
            ("sub/**/x", "sub/d/x", true),
            ("sub/**/x", "sub/x", true),
            ("sub/**/x", "sub/d/y", false),
            ("node_modules", "node_modules/a/b", true),
            ("/node_modules/", "node_modules/a", true),
            ("a/../b", "b", true),
            ("docs\n!docs/README.md", "docs/README.md", false),
            ("docs\n!docs/README.md", "docs/other", true),
            ("**", "any/thing", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("# comment\n\n  spaced  ", "spaced", true),
            ("*", ".hidden", true),
            ("a**b", "axyb", false),
            ("a**b", "ab", true),
            ("a**b", "ax/b", true),
        ] {
            assert_eq!(Ignore::parse(patterns).unwrap().excludes(path), want, "{patterns:?} {path}");
        }
        assert_eq!(Ignore::parse("!").unwrap_err(), InvalidPattern::EmptyException);
        assert_eq!(Ignore::parse("[a").unwrap_err(), InvalidPattern::Syntax);
        assert!(Ignore::parse("docs\n!docs/keep").unwrap().may_include_below("docs"));
        assert!(!Ignore::parse("docs\n!other/keep").unwrap().may_include_below("docs"));
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let pattern = "*a".repeat(200);
        assert!(!Ignore::parse(&pattern).unwrap().excludes(&"a".repeat(150)));
    }
}
