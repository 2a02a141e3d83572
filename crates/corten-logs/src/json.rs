//! Turns lines of a `json-file` log into what clients get: stdcopy frames, or raw bytes for a terminal.
//!
//! The shim writes `{"log":"…\n","stream":"stdout","time":"…"}`, one object per line, in this order of members
//! (`attrs` may stand before `time`). The fast path relies on the order and copies whole runs of bytes; a line that
//! looks different goes through serde. A line that is no JSON at all is skipped: a torn write after a power cut must
//! not make the rest of the log unreadable.

use memchr::{memchr, memchr2};

/// What to keep of the log, and how to present it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Render {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) timestamps: bool,
    pub(crate) details: bool,
    /// Frames carry the stream's number; a terminal has one stream and no frames.
    pub(crate) framed: bool,
    /// A frame for each line, as clients that follow and read by frames expect; otherwise lines share them.
    pub(crate) line_frames: bool,
    /// Nanoseconds; lines before are left out.
    pub(crate) since: Option<i128>,
    /// Nanoseconds; the first line after ends the log.
    pub(crate) until: Option<i128>,
}

/// Whether to go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    More,
    /// A line after `until` was seen.
    Done,
}

/// The frame at the end of the output, to which the next line of its stream is added.
#[derive(Debug, Clone, Copy)]
struct Frame {
    start: usize,
    stderr: bool,
}

/// A frame is closed when it has grown to this.
const MAX_FRAME: usize = 32 * 1024;

/// One line of a log, borrowed from the file's bytes where nothing is escaped.
#[derive(Debug)]
struct Line<'a> {
    /// JSON string contents, still escaped.
    log: &'a [u8],
    stderr: bool,
    time: &'a [u8],
    /// The raw JSON object of `attrs`, empty if there is none.
    attrs: &'a [u8],
}

impl Render {
    /// Renders all complete lines of `input` into `out`; returns how many bytes of `input` were used.
    pub(crate) fn lines(&self, input: &[u8], out: &mut Vec<u8>) -> (usize, Next) {
        let mut at = 0;
        let mut frame = None;
        while let Some(end) = memchr(b'\n', &input[at..]) {
            let line = &input[at..at + end];
            at += end + 1;
            if self.line(line, out, &mut frame) == Next::Done {
                return (at, Next::Done);
            }
        }
        (at, Next::More)
    }

    fn line(&self, line: &[u8], out: &mut Vec<u8>, frame: &mut Option<Frame>) -> Next {
        match split(line) {
            Some(parts) => self.emit(&parts, out, frame),
            None => self.slow_line(line, out, frame),
        }
    }

    /// Members in another order, or something that is no log line.
    fn slow_line(&self, line: &[u8], out: &mut Vec<u8>, frame: &mut Option<Frame>) -> Next {
        #[derive(serde::Deserialize)]
        struct Entry<'a> {
            #[serde(borrow, default)]
            log: Option<&'a serde_json::value::RawValue>,
            #[serde(default)]
            stream: String,
            #[serde(default)]
            time: String,
            #[serde(borrow, default)]
            attrs: Option<&'a serde_json::value::RawValue>,
        }
        let Ok(entry) = serde_json::from_slice::<Entry<'_>>(line) else { return Next::More };
        let log = entry.log.map_or("", |raw| raw.get()).as_bytes();
        let log = log.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\"")).unwrap_or_default();
        let parts = Line {
            log,
            stderr: entry.stream == "stderr",
            time: entry.time.as_bytes(),
            attrs: entry.attrs.map_or(&b""[..], |raw| raw.get().as_bytes()),
        };
        self.emit(&parts, out, frame)
    }

    fn emit(&self, line: &Line<'_>, out: &mut Vec<u8>, frame: &mut Option<Frame>) -> Next {
        if self.since.is_some() || self.until.is_some() {
            let time = parse_time(line.time).unwrap_or(0);
            if self.until.is_some_and(|until| time > until) {
                return Next::Done;
            }
            if self.since.is_some_and(|since| time < since) {
                return Next::More;
            }
        }
        if !(if line.stderr { self.stderr } else { self.stdout }) {
            return Next::More;
        }
        let start = match *frame {
            // Lines of one stream share a frame: a client then writes once, not once a line.
            Some(Frame { start, stderr })
                if !self.line_frames && stderr == line.stderr && out.len() - start < MAX_FRAME =>
            {
                start
            }
            _ => {
                let start = out.len();
                if self.framed {
                    out.extend_from_slice(&[if line.stderr { 2 } else { 1 }, 0, 0, 0, 0, 0, 0, 0]);
                    *frame = Some(Frame { start, stderr: line.stderr });
                }
                start
            }
        };
        if self.timestamps {
            push_fixed_time(line.time, out);
            out.push(b' ');
        }
        if self.details {
            push_attrs(line.attrs, out);
            out.push(b' ');
        }
        unescape(line.log, out);
        if self.framed {
            let length = u32::try_from(out.len() - start - 8).unwrap_or(u32::MAX);
            out[start + 4..start + 8].copy_from_slice(&length.to_be_bytes());
        }
        Next::More
    }
}

/// The members of a line in the shim's own order, or `None`.
fn split(line: &[u8]) -> Option<Line<'_>> {
    let rest = line.strip_prefix(b"{\"log\":\"")?;
    let mut end = 0;
    loop {
        let found = end + memchr2(b'"', b'\\', &rest[end..])?;
        if rest[found] == b'"' {
            end = found;
            break;
        }
        end = found + 2;
        if end > rest.len() {
            return None;
        }
    }
    let log = &rest[..end];
    let rest = rest[end..].strip_prefix(b"\",\"stream\":\"std")?;
    let (stderr, rest) = match rest.strip_prefix(b"out\",") {
        Some(rest) => (false, rest),
        None => (true, rest.strip_prefix(b"err\",")?),
    };
    let (attrs, rest) = match rest.strip_prefix(b"\"attrs\":") {
        None => (&b""[..], rest),
        Some(rest) => {
            let mut stream =
                serde_json::Deserializer::from_slice(rest).into_iter::<&serde_json::value::RawValue>();
            let raw = stream.next()?.ok()?;
            let used = stream.byte_offset();
            (raw.get().as_bytes(), rest[used..].strip_prefix(b",")?)
        }
    };
    let rest = rest.strip_prefix(b"\"time\":\"")?;
    let end = memchr(b'"', rest)?;
    (rest[end..] == *b"\"}").then_some(Line { log, stderr, time: &rest[..end], attrs })
}

/// One record, as a receiver gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// What the container wrote, line end included.
    pub(crate) text: Vec<u8>,
    pub(crate) stderr: bool,
    /// Nanoseconds since the epoch.
    pub(crate) time_ns: i128,
    /// It is a piece of a longer line.
    pub(crate) part: Option<Part>,
}

/// Which piece of a long line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 1.
    pub(crate) ordinal: u32,
    pub(crate) last: bool,
}

/// The shim splits longer lines into pieces of this length.
const LONGEST_LINE: usize = 16 * 1024;

impl Record {
    /// Without the line end.
    pub(crate) fn line(&self) -> &[u8] {
        self.text.strip_suffix(b"\n").unwrap_or(&self.text)
    }
}

/// Counts the pieces of long lines, per stream.
#[derive(Debug, Default)]
pub(crate) struct Pieces([u32; 2]);

impl Pieces {
    /// The record in a line of the log; `None` where it is none.
    pub(crate) fn record(&mut self, line: &[u8]) -> Option<Record> {
        let parts = split(line)?;
        let mut text = Vec::with_capacity(parts.log.len());
        unescape(parts.log, &mut text);
        let pieces = &mut self.0[usize::from(parts.stderr)];
        let more = text.len() >= LONGEST_LINE && text.last() != Some(&b'\n');
        let part = (more || *pieces > 0).then(|| Part { ordinal: *pieces + 1, last: !more });
        *pieces = if more { *pieces + 1 } else { 0 };
        Some(Record { text, stderr: parts.stderr, time_ns: parse_time(parts.time)?, part })
    }
}

/// Appends the text of a JSON string's contents.
fn unescape(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr(b'\\', text) {
        out.extend_from_slice(&text[..at]);
        let Some(&escape) = text.get(at + 1) else { return };
        text = &text[at + 2..];
        match escape {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'u' => {
                let mut code = hex4(text);
                text = text.get(4..).unwrap_or_default();
                if (0xd800..0xdc00).contains(&code) && text.starts_with(b"\\u") {
                    let low = hex4(&text[2..]);
                    if (0xdc00..0xe000).contains(&low) {
                        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                        text = text.get(6..).unwrap_or_default();
                    }
                }
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => out.push(other),
        }
    }
    out.extend_from_slice(text);
}

fn hex4(text: &[u8]) -> u32 {
    text.get(..4)
        .and_then(|t| std::str::from_utf8(t).ok())
        .and_then(|t| u32::from_str_radix(t, 16).ok())
        .unwrap_or(0xfffd)
}

/// Docker prints log times with nine digits of fraction; files have them trimmed.
fn push_fixed_time(time: &[u8], out: &mut Vec<u8>) {
    let Some(body) = time.strip_suffix(b"Z") else {
        out.extend_from_slice(time);
        return;
    };
    let (whole, fraction) = match memchr(b'.', body) {
        Some(dot) => (&body[..dot], &body[dot + 1..]),
        None => (body, &b""[..]),
    };
    out.extend_from_slice(whole);
    out.push(b'.');
    out.extend_from_slice(fraction);
    for _ in fraction.len()..9 {
        out.push(b'0');
    }
    out.push(b'Z');
}

/// `a=b,c=d` in the order of the keys, as `--details` shows them.
pub(crate) fn push_attrs(attrs: &[u8], out: &mut Vec<u8>) {
    if attrs.is_empty() {
        return;
    }
    let map: std::collections::BTreeMap<String, String> = serde_json::from_slice(attrs).unwrap_or_default();
    for (n, (key, value)) in map.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key.as_bytes());
        out.push(b'=');
        out.extend_from_slice(value.as_bytes());
    }
}

/// Nanoseconds of `2026-11-21T10:00:00.5Z`, without allocation; other RFC 3339 forms by the library.
pub(crate) fn parse_time(text: &[u8]) -> Option<i128> {
    fn number(digits: &[u8]) -> Option<i64> {
        digits.iter().try_fold(0i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    }
    let plain = (|| {
        let body = text.strip_suffix(b"Z")?;
        if body.len() < 19
            || body[4] != b'-'
            || body[7] != b'-'
            || body[10] != b'T'
            || body[13] != b':'
            || body[16] != b':'
        {
            return None;
        }
        let (year, month, day) = (number(&body[..4])?, number(&body[5..7])?, number(&body[8..10])?);
        let (hour, minute, second) = (number(&body[11..13])?, number(&body[14..16])?, number(&body[17..19])?);
        let fraction = match &body[19..] {
            [] => 0,
            [b'.', digits @ ..] if !digits.is_empty() && digits.len() <= 9 => {
                number(digits)? * 10i64.pow(9 - u32::try_from(digits.len()).ok()?)
            }
            _ => return None,
        };
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
        Some(i128::from(seconds) * 1_000_000_000 + i128::from(fraction))
    })();
    plain.or_else(|| corten_base::time::parse_rfc3339(std::str::from_utf8(text).ok()?))
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(r: &Render, input: &str) -> String {
        let mut out = Vec::new();
        let (used, _) = r.lines(input.as_bytes(), &mut out);
        format!("{used}:{}", String::from_utf8_lossy(&out).escape_debug())
    }

    const TWO: &str = "{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05.5Z\"}\n\
                       {\"log\":\"b\\u00e9\\ud83d\\ude00\\\"\\n\",\"stream\":\"stderr\",\"time\":\"2026-01-02T03:04:06Z\"}\n{\"log";

    #[test]
    fn frames_and_raw() {
        let both = Render { stdout: true, stderr: true, framed: true, ..Render::default() };
        assert_eq!(
            render(&both, TWO),
            "146:\\u{1}\\0\\0\\0\\0\\0\\0\\u{2}a\\n\\u{2}\\0\\0\\0\\0\\0\\0\\tbé😀\\\"\\n"
        );
        let raw = Render { framed: false, stdout: false, ..both.clone() };
        assert_eq!(render(&raw, TWO), "146:bé😀\\\"\\n");
        let stamped = Render { framed: false, timestamps: true, details: true, stderr: false, ..both };
        assert_eq!(render(&stamped, TWO), "146:2026-01-02T03:04:05.500000000Z  a\\n");
    }

    #[test]
    fn other_orders_attrs_and_garbage() {
        let r = Render { stdout: true, stderr: true, details: true, ..Render::default() };
        let input = "garbage\n{\"time\":\"2026-01-02T03:04:05Z\",\"stream\":\"stdout\",\"log\":\"x\\n\"}\n\
                     {\"log\":\"y\\n\",\"stream\":\"stdout\",\"attrs\":{\"b\":\"2\",\"a\":\"1\"},\"time\":\"2026-01-02T03:04:05Z\"}\n";
        let framed = Render { framed: true, stdout: true, ..Render::default() };
        let twice = format!("{0}{0}", TWO.lines().next().map(|l| format!("{l}\n")).unwrap());
        assert!(render(&framed, &twice).ends_with("\\u{1}\\0\\0\\0\\0\\0\\0\\u{4}a\\na\\n"));
        assert!(render(&r, input).ends_with(": x\\na=1,b=2 y\\n"));
    }

    #[test]
    fn since_and_until() {
        let base = Render { stdout: true, stderr: true, ..Render::default() };
        let t = corten_base::time::parse_rfc3339("2026-01-02T03:04:06Z");
        assert_eq!(render(&Render { since: t, ..base.clone() }, TWO), "146:bé😀\\\"\\n");
        let mut out = Vec::new();
        let until = Render { until: t.map(|t| t - 1), ..base };
        assert_eq!(until.lines(TWO.as_bytes(), &mut out).1, Next::Done);
        assert_eq!(out, b"a\n");
    }

    #[test]
    fn times() {
        for text in [
            "2026-01-02T03:04:05.5Z",
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59.123456789Z",
            "2026-01-02T03:04:05+02:00",
        ] {
            assert_eq!(parse_time(text.as_bytes()), corten_base::time::parse_rfc3339(text), "{text}");
        }
        assert_eq!(parse_time(b"x"), None);
    }
}
