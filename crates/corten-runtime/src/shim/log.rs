//! What a container writes, recorded as Docker's `json-file` does: one JSON object a line.
//!
//! ```text
//! {"log":"text\n","stream":"stdout","attrs":{…},"time":"2026-11-21T10:00:00.123456789Z"}
//! ```
//! A line longer than 16 KiB is cut into records without `\n`; so is a last line without one. Rotation is by
//! rename (`x` → `x.1` → `x.2` …, from `.2` on `.gz` where compression is asked for), before the record that
//! would start beyond `max_size`. A record is never torn: what cannot be written whole is taken back.
//!
//! COMPAT: moby `daemon/logger/jsonfilelog/jsonlog` for order, escapes and the replacement of invalid UTF-8.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use corten_wire::shim::{LogDriver, Logging};

/// The longest piece of a line in one record. COMPAT: moby `logger.defaultBufSize`.
const MAX_PIECE: usize = 16 * 1024;
/// Records are gathered up to this size before they are written.
const FLUSH: usize = 256 * 1024;

/// Which of the container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Also all output of a terminal.
    Stdout,
    /// Never with a terminal.
    Stderr,
}

/// Appends records; owned by the shim, the only writer of the file.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    max_file: u32,
    compress: bool,
    /// Between `stream` and `time`: empty, or `"attrs":{…},`.
    attrs: Vec<u8>,
    pending: [Vec<u8>; 2],
    out: Vec<u8>,
}

impl LogWriter {
    /// Opens the file for appending; `None` for the driver `none`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn open(logging: &Logging) -> io::Result<Option<Self>> {
        if logging.driver == LogDriver::None {
            return Ok(None);
        }
        let file = open_append(&logging.path)?;
        let size = file.metadata()?.len();
        let mut attrs = Vec::new();
        if !logging.attrs.is_empty() {
            attrs.extend_from_slice(b"\"attrs\":");
            serde_json::to_writer(&mut attrs, &logging.attrs)?;
            attrs.push(b',');
        }
        Ok(Some(Self {
            path: logging.path.clone(),
            file,
            size,
            max_size: logging.max_size.unwrap_or(u64::MAX),
            max_file: logging.max_file.max(1),
            compress: logging.compress,
            attrs,
            pending: [Vec::new(), Vec::new()],
            out: Vec::new(),
        }))
    }

    /// Records what was read at `now_ns`; complete lines are on disk when it returns.
    ///
    /// # Errors
    /// When the disk refuses; the records of this call are then lost, the file stays whole, and the next call
    /// tries again.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8], now_ns: i128) -> io::Result<()> {
        let tail = self.tail(stream, now_ns);
        while !bytes.is_empty() {
            let held = self.pending[stream as usize].len();
            let room = MAX_PIECE - held;
            let window = &bytes[..bytes.len().min(room)];
            let (piece, complete) = match memchr::memchr(b'\n', window) {
                Some(end) => (&bytes[..=end], true),
                None if window.len() == room => (window, true),
                None => (window, false),
            };
            bytes = &bytes[piece.len()..];
            if !complete {
                self.pending[stream as usize].extend_from_slice(piece);
            } else if held == 0 {
                self.record(piece, &tail)?;
            } else {
                let mut line = std::mem::take(&mut self.pending[stream as usize]);
                line.extend_from_slice(piece);
                self.record(&line, &tail)?;
                line.clear();
                self.pending[stream as usize] = line;
            }
        }
        self.flush()
    }

    /// The stream has ended: records a last line that has no end.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn finish(&mut self, stream: Stream, now_ns: i128) -> io::Result<()> {
        let line = std::mem::take(&mut self.pending[stream as usize]);
        if line.is_empty() {
            return Ok(());
        }
        let tail = self.tail(stream, now_ns);
        self.record(&line, &tail)?;
        self.flush()
    }

    /// Opens the path anew: somebody has moved the file.
    ///
    /// # Errors
    /// When the file cannot be made; the old one is then kept.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.flush()?;
        self.file = open_append(&self.path)?;
        self.size = self.file.metadata()?.len();
        Ok(())
    }

    fn tail(&self, stream: Stream, now_ns: i128) -> Vec<u8> {
        let name: &[u8] = match stream {
            Stream::Stdout => b"\",\"stream\":\"stdout\",",
            Stream::Stderr => b"\",\"stream\":\"stderr\",",
        };
        let time = corten_base::time::rfc3339_nano(now_ns);
        [name, &self.attrs, b"\"time\":\"", time.as_bytes(), b"\"}\n"].concat()
    }

    fn record(&mut self, line: &[u8], tail: &[u8]) -> io::Result<()> {
        if self.size + self.out.len() as u64 >= self.max_size {
            self.flush()?;
            self.rotate()?;
        } else if self.out.len() >= FLUSH {
            self.flush()?;
        }
        self.out.extend_from_slice(b"{\"log\":\"");
        escape(line, &mut self.out);
        self.out.extend_from_slice(tail);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.out);
        match &written {
            Ok(()) => self.size += self.out.len() as u64,
            // A full disk: take back what got in, so that the file ends with a whole record.
            Err(_) => drop(self.file.set_len(self.size)),
        }
        self.out.clear();
        self.out.shrink_to(FLUSH);
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.max_file == 1 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        let name = |n: u32, gz: bool| {
            let mut name = self.path.clone().into_os_string();
            name.push(if gz { format!(".{n}.gz") } else { format!(".{n}") });
            PathBuf::from(name)
        };
        let last = self.max_file - 1;
        for gz in [false, true] {
            std::fs::remove_file(name(last, gz)).or_else(absent_is_fine)?;
        }
        for n in (1..last).rev() {
            std::fs::rename(name(n, true), name(n + 1, true)).or_else(absent_is_fine)?;
            if self.compress && name(n, false).exists() {
                gzip(&name(n, false), &name(n + 1, true))?;
            } else {
                std::fs::rename(name(n, false), name(n + 1, false)).or_else(absent_is_fine)?;
            }
        }
        std::fs::rename(&self.path, name(1, false))?;
        self.file = open_append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn absent_is_fine(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

/// Compresses `from` into `to` and removes `from`.
fn gzip(from: &Path, to: &Path) -> io::Result<()> {
    let temp = to.with_extension("tmp");
    let mut encoder = flate2::write::GzEncoder::new(File::create(&temp)?, flate2::Compression::fast());
    io::copy(&mut File::open(from)?, &mut encoder)?;
    encoder.finish()?;
    std::fs::rename(&temp, to)?;
    std::fs::remove_file(from)
}

/// Appends the text of a JSON string, escaped as moby escapes it; invalid UTF-8 becomes U+FFFD.
fn escape(mut bytes: &[u8], out: &mut Vec<u8>) {
    while !bytes.is_empty() {
        let clean = bytes.iter().position(|b| !PLAIN[usize::from(*b)]).unwrap_or(bytes.len());
        out.extend_from_slice(&bytes[..clean]);
        bytes = &bytes[clean..];
        let Some(&byte) = bytes.first() else { return };
        if byte < 0x80 {
            escape_ascii(byte, out);
            bytes = &bytes[1..];
            continue;
        }
        let multi = &bytes[..bytes.iter().position(u8::is_ascii).unwrap_or(bytes.len())];
        for chunk in multi.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\u{2028}' => out.extend_from_slice(b"\\u2028"),
                    '\u{2029}' => out.extend_from_slice(b"\\u2029"),
                    _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            for _ in chunk.invalid() {
                out.extend_from_slice(b"\\ufffd");
            }
        }
        bytes = &bytes[multi.len()..];
    }
}

fn escape_ascii(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

/// Bytes that stand for themselves in a JSON string of moby's.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut b = 0x20;
    while b < 0x80 {
        plain[b] = !matches!(b as u8, b'"' | b'\\' | b'<' | b'>' | b'&');
        b += 1;
    }
    plain
};

#[cfg(test)]
mod tests;
