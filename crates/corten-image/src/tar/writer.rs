//! A streaming writer: ustar, with PAX records where a value does not fit.

use std::io::{Read, Write};

use super::header::{BLOCK, checksums};
use super::{Entry, EntryKind, TarError, pax};

/// Writes members one after the other.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Nothing is written yet.
    pub fn new(inner: W) -> Self {
        Self { inner, buffer: Vec::new() }
    }

    /// Writes a header and `entry.size` bytes from `data`.
    ///
    /// # Errors
    /// `Write`; `Read` and `UnexpectedEof` of `data` (a file that shrinks meanwhile is filled with zeros instead,
    /// see [`Writer::append_racy`]).
    pub fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), TarError> {
        self.header(entry)?;
        if self.copy(data, entry.size)? != 0 {
            return Err(TarError::UnexpectedEof);
        }
        self.pad(entry.size)
    }

    /// As `append` for a file that may change while it is read: it is cut at its announced size, and filled with
    /// zeros to it, so that the archive stays well formed.
    ///
    /// # Errors
    /// `Write`, `Read`.
    pub fn append_racy(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), TarError> {
        self.header(entry)?;
        let missing = self.copy(data, entry.size)?;
        self.copy(&mut std::io::repeat(0), missing)?;
        self.pad(entry.size)
    }

    /// Writes a member without data.
    ///
    /// # Errors
    /// `Write`.
    pub fn append_empty(&mut self, entry: &Entry) -> Result<(), TarError> {
        self.append(entry, &mut std::io::empty())
    }

    /// Writes a whole file from memory.
    ///
    /// # Errors
    /// `Write`.
    pub fn append_bytes(
        &mut self,
        path: &str,
        mode: u32,
        mtime: (i64, u32),
        bytes: &[u8],
    ) -> Result<(), TarError> {
        let entry = Entry { mtime, ..Entry::file(path, mode, bytes.len() as u64) };
        self.append(&entry, &mut &bytes[..])
    }

    /// Writes the end marker.
    ///
    /// # Errors
    /// `Write`.
    pub fn finish(mut self) -> Result<W, TarError> {
        self.inner.write_all(&[0; 2 * BLOCK]).map_err(TarError::Write)?;
        self.inner.flush().map_err(TarError::Write)?;
        Ok(self.inner)
    }

    /// Copies up to `size` bytes; says how many were missing.
    fn copy(&mut self, data: &mut dyn Read, size: u64) -> Result<u64, TarError> {
        if size == 0 {
            return Ok(0);
        }
        self.buffer.resize(64 << 10, 0);
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let n = match data.read(&mut self.buffer[..want]) {
                Ok(0) => return Ok(left),
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(TarError::Read(e)),
            };
            self.inner.write_all(&self.buffer[..n]).map_err(TarError::Write)?;
            left -= n as u64;
        }
        Ok(0)
    }

    fn pad(&mut self, size: u64) -> Result<(), TarError> {
        let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.inner.write_all(&[0; BLOCK][..padding]).map_err(TarError::Write)
    }

    fn header(&mut self, entry: &Entry) -> Result<(), TarError> {
        let records = records(entry);
        if !records.is_empty() {
            let name = [b"PaxHeaders.0/", last_component(&entry.path)].concat();
            let mut raw = block(&Entry::file(name, 0o644, records.len() as u64), b'x');
            finish(&mut raw);
            self.inner.write_all(&raw).map_err(TarError::Write)?;
            self.inner.write_all(&records).map_err(TarError::Write)?;
            self.pad(records.len() as u64)?;
        }
        let flag = match entry.kind {
            EntryKind::File => b'0',
            EntryKind::HardLink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::CharDevice => b'3',
            EntryKind::BlockDevice => b'4',
            EntryKind::Directory => b'5',
            EntryKind::Fifo => b'6',
        };
        let mut raw = block(entry, flag);
        finish(&mut raw);
        self.inner.write_all(&raw).map_err(TarError::Write)
    }
}

const MAX_SIZE: u64 = 0o77_777_777_777;
const MAX_ID: u32 = 0o7_777_777;

/// PAX records for what the header cannot hold.
fn records(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    if entry.path.len() > 100 && split(&entry.path).is_none() || !entry.path.is_ascii() {
        pax::write(&mut out, b"path", &entry.path);
    }
    if entry.link.len() > 100 || !entry.link.is_ascii() {
        pax::write(&mut out, b"linkpath", &entry.link);
    }
    if entry.size > MAX_SIZE {
        pax::write(&mut out, b"size", entry.size.to_string().as_bytes());
    }
    if entry.uid > MAX_ID {
        pax::write(&mut out, b"uid", entry.uid.to_string().as_bytes());
    }
    if entry.gid > MAX_ID {
        pax::write(&mut out, b"gid", entry.gid.to_string().as_bytes());
    }
    let (seconds, nanos) = entry.mtime;
    if nanos != 0 || !(0..=MAX_SIZE.cast_signed()).contains(&seconds) {
        pax::write(&mut out, b"mtime", time_text(seconds, nanos).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        pax::write(&mut out, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    out
}

fn time_text(seconds: i64, nanos: u32) -> String {
    let (sign, whole, nanos) = match (seconds < 0, nanos) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, n) => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - n),
        (false, n) => ("", seconds.unsigned_abs(), n),
    };
    let text = format!("{sign}{whole}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Where a long name is cut into ustar's prefix and name.
fn split(path: &[u8]) -> Option<usize> {
    let body = path.strip_suffix(b"/").unwrap_or(path);
    let from = path.len().saturating_sub(101);
    (from..body.len().min(156)).find(|i| path[*i] == b'/' && *i > 0)
}

fn last_component(path: &[u8]) -> &[u8] {
    let body = path.strip_suffix(b"/").unwrap_or(path);
    let name = body.rsplit(|b| *b == b'/').next().unwrap_or(body);
    &name[..name.len().min(80)]
}

fn block(entry: &Entry, flag: u8) -> [u8; BLOCK] {
    let mut raw = [0; BLOCK];
    let mut put = |at: usize, max: usize, bytes: &[u8]| {
        let n = bytes.len().min(max);
        raw[at..at + n].copy_from_slice(&bytes[..n]);
    };
    match split(&entry.path) {
        Some(cut) if entry.path.len() > 100 => {
            put(345, 155, &entry.path[..cut]);
            put(0, 100, &entry.path[cut + 1..]);
        }
        _ => put(0, 100, &entry.path),
    }
    let octal = |n: u64, width: usize| format!("{n:0width$o}\0").into_bytes();
    put(100, 8, &octal(u64::from(entry.mode & 0o7777), 7));
    put(108, 8, &octal(u64::from(if entry.uid > MAX_ID { 0 } else { entry.uid }), 7));
    put(116, 8, &octal(u64::from(if entry.gid > MAX_ID { 0 } else { entry.gid }), 7));
    put(124, 12, &octal(if entry.size > MAX_SIZE { 0 } else { entry.size }, 11));
    let seconds = u64::try_from(entry.mtime.0).ok().filter(|s| *s <= MAX_SIZE).unwrap_or(0);
    put(136, 12, &octal(seconds, 11));
    put(156, 1, &[flag]);
    put(157, 100, &entry.link);
    put(257, 8, b"ustar\x0000");
    if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
        put(329, 8, &octal(u64::from(entry.device.0), 7));
        put(337, 8, &octal(u64::from(entry.device.1), 7));
    }
    raw
}

fn finish(raw: &mut [u8; BLOCK]) {
    let (sum, _) = checksums(raw);
    raw[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
