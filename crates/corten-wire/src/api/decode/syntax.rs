//! Where JSON text goes wrong, in the words of Go's scanner. Only used once a document is known to be wrong.

/// The error of the first document in `text`; `None` where this scanner finds nothing wrong.
pub(super) fn describe(text: &[u8]) -> Option<String> {
    let mut scan = Scan { text, at: 0, depth: 0 };
    match scan.value() {
        Ok(()) => None,
        Err(Wrong::End) if text.iter().all(u8::is_ascii_whitespace) => Some("EOF".to_owned()),
        Err(Wrong::End) => Some("unexpected EOF".to_owned()),
        Err(Wrong::Char(c, place)) => Some(format!("invalid character {} {place}", quote(c))),
    }
}

/// The error of a second document after the first.
pub(super) fn trailing(text: &[u8]) -> String {
    let mut scan = Scan { text, at: 0, depth: 0 };
    let _ = scan.value();
    scan.space();
    let c = scan.peek().unwrap_or(' ');
    format!("invalid character {} after top-level value", quote(c))
}

enum Wrong {
    End,
    Char(char, String),
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
}

impl Scan<'_> {
    fn peek(&self) -> Option<char> {
        let rest = &self.text[self.at.min(self.text.len())..];
        let head = &rest[..rest.len().min(4)];
        match std::str::from_utf8(head) {
            Ok(s) => s.chars().next(),
            Err(e) if e.valid_up_to() > 0 => {
                std::str::from_utf8(&head[..e.valid_up_to()]).ok()?.chars().next()
            }
            Err(_) => Some(char::from(head[0])),
        }
    }

    fn bump(&mut self) {
        self.at += self.peek().map_or(1, |c| if c.is_ascii() { 1 } else { c.len_utf8() });
    }

    fn space(&mut self) {
        while self.text.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn next(&self) -> Result<char, Wrong> {
        self.peek().ok_or(Wrong::End)
    }

    fn wrong<T>(&self, place: impl Into<String>) -> Result<T, Wrong> {
        Err(Wrong::Char(self.next()?, place.into()))
    }

    fn value(&mut self) -> Result<(), Wrong> {
        self.space();
        if self.depth > 200 {
            return Err(Wrong::End);
        }
        match self.next()? {
            '{' => self.object(),
            '[' => self.array(),
            '"' => self.string(),
            't' => self.literal("true"),
            'f' => self.literal("false"),
            'n' => self.literal("null"),
            '-' | '0'..='9' => self.number(),
            _ => self.wrong("looking for beginning of value"),
        }
    }

    fn object(&mut self) -> Result<(), Wrong> {
        self.at += 1;
        self.depth += 1;
        self.space();
        if self.next()? == '}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            if self.next()? != '"' {
                return self.wrong("looking for beginning of object key string");
            }
            self.string()?;
            self.space();
            if self.next()? != ':' {
                return self.wrong("after object key");
            }
            self.at += 1;
            self.value()?;
            self.space();
            match self.next()? {
                ',' => self.at += 1,
                '}' => {
                    self.at += 1;
                    self.depth -= 1;
                    return Ok(());
                }
                _ => return self.wrong("after object key:value pair"),
            }
        }
    }

    fn array(&mut self) -> Result<(), Wrong> {
        self.at += 1;
        self.depth += 1;
        self.space();
        if self.next()? == ']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value()?;
            self.space();
            match self.next()? {
                ',' => self.at += 1,
                ']' => {
                    self.at += 1;
                    self.depth -= 1;
                    return Ok(());
                }
                _ => return self.wrong("after array element"),
            }
        }
    }

    fn string(&mut self) -> Result<(), Wrong> {
        self.at += 1;
        loop {
            match self.next()? {
                '"' => {
                    self.at += 1;
                    return Ok(());
                }
                '\\' => {
                    self.at += 1;
                    match self.next()? {
                        'b' | 'f' | 'n' | 'r' | 't' | '\\' | '/' | '"' => self.at += 1,
                        'u' => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.next()?.is_ascii_hexdigit() {
                                    return self.wrong("in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.wrong("in string escape code"),
                    }
                }
                c if c < ' ' => return self.wrong("in string literal"),
                _ => self.bump(),
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), Wrong> {
        for want in word.chars() {
            if self.next()? != want {
                return self.wrong(format!("in literal {word} (expecting '{want}')"));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn digits(&mut self, place: &str) -> Result<(), Wrong> {
        if !self.next()?.is_ascii_digit() {
            return self.wrong(place);
        }
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Wrong> {
        if self.peek() == Some('-') {
            self.at += 1;
        }
        if self.peek() == Some('0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some('.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            self.at += 1;
            if matches!(self.peek(), Some('+' | '-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }
}

fn quote(c: char) -> String {
    match c {
        '\'' => r"'\''".to_owned(),
        '"' => "'\"'".to_owned(),
        '\\' => r"'\\'".to_owned(),
        '\n' => r"'\n'".to_owned(),
        '\r' => r"'\r'".to_owned(),
        '\t' => r"'\t'".to_owned(),
        c if c.is_control() => format!("'\\x{:02x}'", u32::from(c)),
        c => format!("'{c}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_go() {
        for (text, want) in [
            ("", "EOF"),
            ("  ", "EOF"),
            ("{", "unexpected EOF"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("tru3", "invalid character '3' in literal true (expecting 'e')"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ] {
            assert_eq!(describe(text.as_bytes()).as_deref(), Some(want), "{text}");
        }
        assert_eq!(describe(br#"{"a":[1,2.5e3,"x\u00e9"],"b":{}}"#), None);
    }
}
