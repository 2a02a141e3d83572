//! Reads `WWW-Authenticate`: `Bearer realm="…",service="…",scope="…"`, `Basic realm="…"`, several at once.

/// One challenge of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Lower case: `bearer`, `basic`.
    pub(crate) scheme: String,
    /// In order; names in lower case.
    pub(crate) parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Value of a parameter, empty where it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.parameters.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }
}

/// All challenges of one header value. What cannot be read is skipped.
pub(crate) fn parse(value: &str) -> Vec<Challenge> {
    let mut out: Vec<Challenge> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            return out;
        }
        let (word, tail) = rest.split_at(end);
        let after = tail.trim_start_matches([' ', '\t']);
        if let (Some(value), Some(challenge)) = (after.strip_prefix('='), out.last_mut()) {
            let (value, tail) = read_value(value.trim_start_matches([' ', '\t']));
            challenge.parameters.push((word.to_ascii_lowercase(), value));
            rest = tail;
        } else {
            out.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = tail;
        }
        if out.len() > 16 || out.last().is_some_and(|c| c.parameters.len() > 32) {
            return out;
        }
    }
}

const fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(
            c,
            '!' | '#' | '$' | '%' | '&' | '\'' | '*' | '+' | '-' | '.' | '^' | '_' | '`' | '|' | '~'
        )
}

fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[i + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let all = parse(
            r#"Bearer realm="https://auth.test/token",service="reg \"x\"",scope="repository:a/b:pull,push""#,
        );
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].get("realm"), "https://auth.test/token");
        assert_eq!(all[0].get("service"), "reg \"x\"");
        assert_eq!(all[0].get("scope"), "repository:a/b:pull,push");
        let two = parse("Basic realm=plain, Bearer realm=\"r\" , error=insufficient_scope");
        assert_eq!((two[0].scheme.as_str(), two[1].scheme.as_str()), ("basic", "bearer"));
        assert_eq!(two[0].get("realm"), "plain");
        assert_eq!(two[1].get("error"), "insufficient_scope");
        for odd in ["", ",,,", "=", "Bearer realm=\"open", "\u{e9}", "Basic a=b=c"] {
            let _ = parse(odd);
        }
    }
}
