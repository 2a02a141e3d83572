//! Messages of D-Bus: as much of them as a conversation with systemd needs.
//!
//! ```text
//!  order, kind, flags, version │ length of body │ serial │ fields a(yv) │ pad to 8 │ body
//! ```
//!
//! Both ends are on one machine, so that numbers are in its own order. Every value begins at a multiple of its
//! alignment, counted from the message's beginning; a body begins at a multiple of eight.

/// Largest message that is read.
pub(super) const MAX: usize = 1 << 20;
/// What comes before the fields.
pub(super) const FIXED: usize = 16;

const ORDER: u8 = if cfg!(target_endian = "big") { b'B' } else { b'l' };
const CALL: u8 = 1;
pub(super) const REPLY: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// A value of a message that is sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Byte(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    /// With the signature of its elements.
    List(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn signature(&self) -> String {
        match self {
            Self::Bool(_) => "b".into(),
            Self::Byte(_) => "y".into(),
            Self::I16(_) => "n".into(),
            Self::U16(_) => "q".into(),
            Self::I32(_) => "i".into(),
            Self::U32(_) => "u".into(),
            Self::I64(_) => "x".into(),
            Self::U64(_) => "t".into(),
            Self::F64(_) => "d".into(),
            Self::Text(_) => "s".into(),
            Self::List(of, _) => format!("a{of}"),
            Self::Struct(parts) => format!("({})", parts.iter().map(Self::signature).collect::<String>()),
            Self::Variant(_) => "v".into(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(b) => put_aligned(out, &u32::from(*b).to_ne_bytes()),
            Self::Byte(n) => out.push(*n),
            Self::I16(n) => put_aligned(out, &n.to_ne_bytes()),
            Self::U16(n) => put_aligned(out, &n.to_ne_bytes()),
            Self::I32(n) => put_aligned(out, &n.to_ne_bytes()),
            Self::U32(n) => put_aligned(out, &n.to_ne_bytes()),
            Self::I64(n) => put_aligned(out, &n.to_ne_bytes()),
            Self::U64(n) => put_aligned(out, &n.to_ne_bytes()),
            Self::F64(n) => put_aligned(out, &n.to_ne_bytes()),
            Self::Text(text) => {
                put_aligned(out, &length(text.len()));
                out.extend(text.as_bytes());
                out.push(0);
            }
            Self::List(of, all) => {
                put_aligned(out, &[0; 4]);
                let at = out.len() - 4;
                // The gap before the first element does not count.
                align(out, alignment(of));
                let first = out.len();
                all.iter().for_each(|v| v.put(out));
                let bytes = length(out.len() - first);
                out[at..at + 4].copy_from_slice(&bytes);
            }
            Self::Struct(parts) => {
                align(out, 8);
                parts.iter().for_each(|v| v.put(out));
            }
            Self::Variant(inner) => {
                put_signature(out, &inner.signature());
                inner.put(out);
            }
        }
    }
}

fn length(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_ne_bytes()
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// A number, at a multiple of its size.
fn put_aligned(out: &mut Vec<u8>, bytes: &[u8]) {
    align(out, bytes.len());
    out.extend(bytes);
}

fn put_signature(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend(text.as_bytes());
    out.push(0);
}

fn alignment(signature: &str) -> usize {
    match signature.bytes().next() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

/// A method, and of what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

/// The message that calls a method.
pub(super) fn call(serial: u32, method: Method<'_>, arguments: &[Value]) -> Vec<u8> {
    let mut body = Vec::new();
    arguments.iter().for_each(|v| v.put(&mut body));
    let mut out = vec![ORDER, CALL, 0, 1];
    out.extend(length(body.len()));
    out.extend(serial.to_ne_bytes());
    out.extend([0; 4]);
    for (code, kind, text) in [
        (1, "o", method.path),
        (2, "s", method.interface),
        (3, "s", method.member),
        (6, "s", method.destination),
    ] {
        align(&mut out, 8);
        out.push(code);
        put_signature(&mut out, kind);
        Value::text(text).put(&mut out);
    }
    let signature: String = arguments.iter().map(Value::signature).collect();
    if !signature.is_empty() {
        align(&mut out, 8);
        out.push(8);
        put_signature(&mut out, "g");
        put_signature(&mut out, &signature);
    }
    let fields = length(out.len() - FIXED);
    out[12..FIXED].copy_from_slice(&fields);
    align(&mut out, 8);
    out.extend(body);
    out
}

/// A message that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) member: String,
    pub(super) error: String,
    /// The call that this answers.
    pub(super) answers: u32,
    pub(super) body: Vec<u8>,
}

/// How long the message is that begins so; `None` for what cannot be one.
pub(super) fn size(fixed: &[u8; FIXED]) -> Option<usize> {
    let number = |at: usize| {
        let bytes: [u8; 4] = fixed[at..at + 4].try_into().ok()?;
        usize::try_from(u32::from_ne_bytes(bytes)).ok()
    };
    let whole = FIXED.checked_add(number(12)?)?.checked_next_multiple_of(8)?.checked_add(number(4)?)?;
    (fixed[0] == ORDER && whole <= MAX).then_some(whole)
}

/// Reads a whole message.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let fixed: &[u8; FIXED] = bytes.first_chunk()?;
    if size(fixed)? != bytes.len() {
        return None;
    }
    let mut reader = Reader::new(bytes);
    reader.at = 12;
    let end = FIXED + usize::try_from(reader.number()?).ok()?;
    let mut message = Message { kind: fixed[1], ..Message::default() };
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        let kind = reader.signature()?;
        match (code, kind.as_str()) {
            (3, "s") => message.member = reader.text()?,
            (4, "s") => message.error = reader.text()?,
            (5, "u") => message.answers = reader.number()?,
            (_, "s" | "o") => drop(reader.text()?),
            (_, "u") => drop(reader.number()?),
            (_, "g") => drop(reader.signature()?),
            _ => return None,
        }
    }
    message.body = bytes.get(end.next_multiple_of(8)..)?.to_vec();
    Some(message)
}

/// Takes values from the beginning of a body.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let count = usize::try_from(self.number()?).ok()?;
        let text = String::from_utf8_lossy(self.take(count)?).into_owned();
        self.byte()?;
        Some(text)
    }

    pub(super) fn signature(&mut self) -> Option<String> {
        let count = usize::from(self.byte()?);
        let text = String::from_utf8_lossy(self.take(count)?).into_owned();
        self.byte()?;
        Some(text)
    }
}
