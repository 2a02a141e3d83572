//! The container's log file: Docker's `json-file` records, rotation, compression.
//!
//! Blocks as large as a pipe are split into lines, formatted without allocating, and written in one go. A line
//! of more than 16 KiB becomes several records, of which only the last one's text ends with a newline.
//!
//! With `hold` the file grows beyond its limit rather than that rotation drops what is not delivered; the shim then
//! reads no more output until that has changed, and the container waits.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use corten_sys::process::Child;
use corten_wire::shim::{Delivered, LogDriver, Logging};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;

/// Docker's copier works with a buffer of this size; a longer line is split there.
const LONGEST_LINE: usize = 16 * 1024;

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout = 0,
    Stderr = 1,
}

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    config: Logging,
    file: Option<File>,
    size: u64,
    /// Formatted records that are not written yet.
    out: Vec<u8>,
    /// Beginnings of lines, per stream.
    rest: [Vec<u8>; 2],
    /// Everything between a record's text and its time, per stream.
    middle: [Vec<u8>; 2],
    time: Vec<u8>,
    /// It would rotate, but what goes then is not delivered.
    full: bool,
    compressor: Option<Child>,
}

impl Log {
    pub(super) fn open(config: &Logging) -> io::Result<Option<Self>> {
        if config.driver == LogDriver::None {
            return Ok(None);
        }
        let mut log = Self {
            config: config.clone(),
            file: None,
            size: 0,
            out: Vec::new(),
            rest: [Vec::new(), Vec::new()],
            middle: [middle("stdout", &config.attrs), middle("stderr", &config.attrs)],
            time: Vec::with_capacity(40),
            full: false,
            compressor: None,
        };
        log.reopen()?;
        Ok(Some(log))
    }

    /// Opens the file anew by its name.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.config.path)?;
        self.size = file.metadata()?.size();
        self.file = Some(file);
        Ok(())
    }

    /// Records a block of output.
    pub(super) fn write(&mut self, stream: Stream, mut block: &[u8], now_ns: i128) {
        self.stamp(now_ns);
        while let Some(end) = find_newline(block) {
            let (line, next) = block.split_at(end + 1);
            block = next;
            if self.rest[stream as usize].is_empty() && line.len() <= LONGEST_LINE {
                self.record(stream, line);
            } else {
                self.long(stream, line);
            }
        }
        if !block.is_empty() {
            self.long(stream, block);
        }
        self.flush();
    }

    /// Joins what is left of earlier blocks with `part`, and records what is complete or too long.
    fn long(&mut self, stream: Stream, part: &[u8]) {
        let mut rest = std::mem::take(&mut self.rest[stream as usize]);
        rest.extend_from_slice(part);
        let mut done = 0;
        while rest.len() - done > LONGEST_LINE
            || rest.len() - done == LONGEST_LINE && rest.last() != Some(&b'\n')
        {
            self.record(stream, &rest[done..done + LONGEST_LINE]);
            done += LONGEST_LINE;
        }
        if done < rest.len() && rest.last() == Some(&b'\n') {
            self.record(stream, &rest[done..]);
            done = rest.len();
        }
        rest.drain(..done);
        self.rest[stream as usize] = rest;
    }

    /// Records lines that will never be complete.
    pub(super) fn finish(&mut self, now_ns: i128) {
        self.stamp(now_ns);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.rest[stream as usize]);
            if !rest.is_empty() {
                self.record(stream, &rest);
            }
        }
        self.flush();
    }

    fn stamp(&mut self, now_ns: i128) {
        self.time.clear();
        write_time(&mut self.time, now_ns);
        self.time.extend_from_slice(b"\"}\n");
    }

    fn record(&mut self, stream: Stream, text: &[u8]) {
        self.out.extend_from_slice(b"{\"log\":\"");
        escape(&mut self.out, text);
        self.out.extend_from_slice(&self.middle[stream as usize]);
        self.out.extend_from_slice(&self.time);
        if !self.full && self.config.max_size.is_some_and(|max| self.size + self.out.len() as u64 >= max) {
            self.flush();
            self.rotate();
        }
    }

    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        if let Some(file) = &mut self.file {
            match file.write_all(&self.out) {
                Ok(()) => self.size += self.out.len() as u64,
                // A full disk loses records, as with Docker, and the container goes on; what got in is taken
                // back, so that the file ends with a whole record.
                Err(_) => drop(file.set_len(self.size)),
            }
        }
        self.out.clear();
    }

    /// `log` → `log.1` → `log.2` …; what cannot be renamed is left, and we go on writing.
    fn rotate(&mut self) {
        if self.config.hold.as_deref().is_some_and(|cursor| would_lose(&self.config, cursor)) {
            self.full = true;
            return;
        }
        self.full = false;
        if self.config.max_file <= 1 {
            if self.file.as_ref().is_some_and(|f| f.set_len(0).is_ok()) {
                self.size = 0;
            }
            return;
        }
        shift(&self.config.path, self.config.max_file);
        if self.config.compress && !self.compressor.as_ref().is_some_and(runs) {
            let path = self.config.path.clone();
            // In a process of its own: it takes a while, and memory that the shim shall not keep.
            let done = || corten_sys::allocation::permit(|| i32::from(compress_all(&path).is_err()));
            self.compressor = corten_sys::process::clone_process(0, None, done).ok();
        }
        if self.reopen().is_err() {
            self.file = None;
        }
    }

    /// Whether output has to wait until more is delivered.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Looks again whether it has to.
    pub(super) fn retry(&mut self) {
        if self.full {
            self.rotate();
        }
    }
}

fn numbered(path: &Path, n: u32, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}{suffix}"));
    name.into()
}

fn runs(child: &Child) -> bool {
    let mut fds = [PollFd::new(&child.pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// Keeps rotation and compression from renaming each other's files. Held for a few renames only.
fn lock(path: &Path) -> io::Result<File> {
    let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
    Ok(directory)
}

/// Makes room for a new current file. A rotated file is plain until it is compressed: both names move.
fn shift(path: &Path, max_file: u32) {
    let _held = lock(path);
    for suffix in ["", ".gz"] {
        std::fs::remove_file(numbered(path, max_file - 1, suffix)).ok();
        for n in (1..max_file - 1).rev() {
            std::fs::rename(numbered(path, n, suffix), numbered(path, n + 1, suffix)).ok();
        }
    }
    std::fs::rename(path, numbered(path, 1, "")).ok();
}

/// Compresses all rotated files, the oldest first. They may be renamed, or removed, meanwhile.
fn compress_all(path: &Path) -> io::Result<()> {
    let plain = || {
        let count =
            (1..10_000).take_while(|n| numbered(path, *n, "").exists() || numbered(path, *n, ".gz").exists());
        let mut found = count.filter_map(|n| Some((n, File::open(numbered(path, n, "")).ok()?)));
        found.by_ref().last().map(|(_, file)| file)
    };
    loop {
        let held = lock(path)?;
        let Some(mut from) = plain() else { return Ok(()) };
        drop(held);
        let mut temp = path.as_os_str().to_owned();
        temp.push(".gz.tmp");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&temp)?, flate2::Compression::new(5));
        io::copy(&mut from, &mut encoder)?;
        encoder.finish()?;
        let inode = from.metadata()?.ino();
        let _held = lock(path)?;
        let is_it = |n: &u32| std::fs::metadata(numbered(path, *n, "")).is_ok_and(|m| m.ino() == inode);
        match (1..10_000)
            .take_while(|n| numbered(path, *n, "").exists() || numbered(path, *n, ".gz").exists())
            .find(is_it)
        {
            Some(n) => {
                std::fs::rename(&temp, numbered(path, n, ".gz"))?;
                std::fs::remove_file(numbered(path, n, ""))?;
            }
            None => std::fs::remove_file(&temp)?,
        }
    }
}

/// Whether the next rotation drops what is not delivered.
fn would_lose(config: &Logging, cursor: &Path) -> bool {
    let file = |n: u32| match n {
        0 => first_line(&config.path, false),
        n => first_line(&numbered(&config.path, n, ""), false)
            .or_else(|| first_line(&numbered(&config.path, n, ".gz"), true)),
    };
    let last = config.max_file.max(1) - 1;
    // Nothing is dropped, or nothing that can be read.
    let Some((oldest, size)) = file(last) else { return false };
    let Some(at) = std::fs::read_to_string(cursor).ok().and_then(|text| Delivered::parse(&text)) else {
        return true;
    };
    if at.identity == oldest {
        return at.offset < size;
    }
    // In a file that is gone: what came after it is still to be delivered.
    !(0..last).any(|n| file(n).is_some_and(|(identity, _)| identity == at.identity))
}

/// Identity of a log file, and its size when not compressed.
fn first_line(path: &Path, packed: bool) -> Option<(u64, u64)> {
    let mut file = File::open(path).ok()?;
    let mut size = file.metadata().ok()?.size();
    if packed {
        // The last four bytes of the format.
        let mut tail = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut tail, size.checked_sub(4)?).ok()?;
        size = u32::from_le_bytes(tail).into();
    }
    let mut line = Vec::new();
    let mut read = |input: &mut dyn io::BufRead| input.read_until(b'\n', &mut line).ok();
    if packed {
        read(&mut io::BufReader::new(flate2::read::GzDecoder::new(&mut file)))?;
    } else {
        read(&mut io::BufReader::new(&mut file))?;
    }
    (line.pop() == Some(b'\n')).then(|| (Delivered::identity_of(&line), size))
}

fn middle(stream: &str, attrs: &BTreeMap<String, String>) -> Vec<u8> {
    let attrs = match serde_json::to_string(attrs) {
        Ok(text) if !attrs.is_empty() => format!(",\"attrs\":{text}"),
        _ => String::new(),
    };
    format!("\",\"stream\":\"{stream}\"{attrs},\"time\":\"").into_bytes()
}

fn find_newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// True for bytes that stand for themselves in Docker's JSON.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0x20;
    while b < 0x7F {
        table[b] = !matches!(b as u8, b'"' | b'\\' | b'<' | b'>' | b'&');
        b += 1;
    }
    table[0x7F] = true;
    table
};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes the text as Docker's encoder does: `<`, `>`, `&` and control characters as `\u00xx`, invalid UTF-8 as
/// `\ufffd`.
fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    while !text.is_empty() {
        let plain = text.iter().position(|b| !PLAIN[*b as usize]).unwrap_or(text.len());
        out.extend_from_slice(&text[..plain]);
        text = &text[plain..];
        let Some(&byte) = text.first() else { return };
        if byte >= 0x80 {
            text = &text[escape_wide(out, text)..];
            continue;
        }
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            _ => {
                let hex = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&hex);
            }
        }
        text = &text[1..];
    }
}

/// One run of bytes from 0x80 on; gives its length.
fn escape_wide(out: &mut Vec<u8>, text: &[u8]) -> usize {
    let run = text.iter().position(|b| *b < 0x80).unwrap_or(text.len());
    for chunk in text[..run].utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\u{2028}' => out.extend_from_slice(b"\\u2028"),
                '\u{2029}' => out.extend_from_slice(b"\\u2029"),
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    run
}

/// `2026-11-21T10:00:00.123456789Z` with trailing zeros of the fraction cut, as Go's `RFC3339Nano`.
fn write_time(out: &mut Vec<u8>, ns: i128) {
    let seconds = ns.div_euclid(1_000_000_000) as i64;
    let mut fraction = ns.rem_euclid(1_000_000_000) as u32;
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since the epoch to a date, by eras of 400 years that begin on the first of March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    write!(out, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}").ok();
    if fraction > 0 {
        let mut digits = 9;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            digits -= 1;
        }
        write!(out, ".{fraction:0digits$}").ok();
    }
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, max_size: Option<u64>, compress: bool) -> (PathBuf, Logging) {
        let dir = std::env::temp_dir().join(format!("corten-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("c.log");
        (dir, Logging { path, max_size, max_file: 3, compress, ..Logging::default() })
    }

    #[test]
    fn times_are_gos() {
        for ns in [
            0,
            1_700_000_000_120_000_000,
            1_709_164_799_999_999_999,
            1_709_164_800_000_000_000,
            4_102_444_800_000_000_001,
        ] {
            let mut out = Vec::new();
            write_time(&mut out, ns);
            assert_eq!(String::from_utf8(out).unwrap(), corten_base::time::rfc3339_nano(ns));
        }
    }

    #[test]
    fn records_are_dockers() {
        let (dir, config) = config("records", None, false);
        let mut log = Log::open(&config).unwrap().unwrap();
        log.write(Stream::Stdout, b"one\ntwo", 1_700_000_000_000_000_000);
        log.write(Stream::Stderr, b"a\"\\\t<\x01\xff\xc3\xa9\xe2\x80\xa8\n", 1_700_000_000_000_000_000);
        log.write(Stream::Stdout, b"!\n", 1_700_000_000_500_000_000);
        log.write(Stream::Stdout, &[b'x'; LONGEST_LINE + 5], 1_700_000_000_500_000_000);
        log.finish(1_700_000_001_000_000_000);
        let text = std::fs::read_to_string(&config.path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], r#"{"log":"one\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}"#);
        assert_eq!(
            lines[1],
            "{\"log\":\"a\\\"\\\\\\t\\u003c\\u0001\\ufffdé\\u2028\\n\",\"stream\":\"stderr\",\"time\":\"2023-11-14T22:13:20Z\"}"
        );
        assert_eq!(lines[2], r#"{"log":"two!\n","stream":"stdout","time":"2023-11-14T22:13:20.5Z"}"#);
        let long: serde_json::Value = serde_json::from_str(lines[3]).unwrap();
        assert_eq!(long["log"].as_str().unwrap().len(), LONGEST_LINE);
        assert!(lines[4].starts_with(r#"{"log":"xxxxx","stream""#), "{}", lines[4]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let (dir, config) = config("rotate", Some(1000), false);
        let mut log = Log::open(&config).unwrap().unwrap();
        for i in 0..100 {
            log.write(Stream::Stdout, format!("line {i}\n").as_bytes(), 0);
        }
        let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["c.log", "c.log.1", "c.log.2"]);
        assert!(std::fs::metadata(dir.join("c.log.1")).unwrap().len() < 1100);
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn numbers(path: &Path, packed: bool) -> Vec<u32> {
        let mut text = String::new();
        let file = File::open(path).unwrap();
        if packed {
            io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
        } else {
            io::Read::read_to_string(&mut { file }, &mut text).unwrap();
        }
        let number = |l: &str| l.strip_prefix("{\"log\":\"")?.split('\\').next()?.parse().ok();
        text.lines().map(|l| number(l).unwrap()).collect()
    }

    /// Rotation is faster than compression, and nothing gets lost or mixed up.
    #[test]
    fn compression_while_files_move_on() {
        let (dir, config) = config("gzip", Some(20_000), false);
        let config = Logging { max_file: 1000, ..config };
        let mut log = Log::open(&config).unwrap().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    compress_all(&config.path).unwrap();
                }
            });
            for n in 0..20_000 {
                log.write(Stream::Stdout, format!("{n}\n").as_bytes(), 1);
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        compress_all(&config.path).unwrap();
        let mut all = numbers(&config.path, false);
        let mut files = 0;
        while let path = numbered(&config.path, files + 1, ".gz")
            && path.exists()
        {
            files += 1;
            all.splice(0..0, numbers(&path, true));
        }
        assert!(files > 10);
        assert_eq!(all, (0..20_000).collect::<Vec<_>>());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), files as usize + 1, "no plain file is left");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_not_delivered_is_not_dropped() {
        for (max_file, packed) in [(1, false), (3, false), (3, true)] {
            let (dir, config) = config(&format!("hold-{max_file}-{packed}"), Some(1000), false);
            let cursor = dir.join("delivered");
            let config = Logging { hold: Some(cursor.clone()), max_file, ..config };
            let mut log = Log::open(&config).unwrap().unwrap();
            let mut n = 0;
            let mut fill = |log: &mut Log| {
                while !log.is_full() {
                    log.write(Stream::Stdout, format!("{n}\n").as_bytes(), n);
                    n += 1;
                    assert!(n < 10_000, "it never waits");
                }
            };
            fill(&mut log);
            if packed {
                compress_all(&config.path).unwrap();
            }
            log.retry();
            assert!(log.is_full(), "nothing is delivered");
            let oldest = match (max_file, packed) {
                (1, _) => config.path.clone(),
                (_, false) => numbered(&config.path, 2, ""),
                (_, true) => numbered(&config.path, 2, ".gz"),
            };
            let (identity, size) = first_line(&oldest, packed).unwrap();
            std::fs::write(&cursor, Delivered { identity, offset: size - 1 }.to_string()).unwrap();
            log.retry();
            assert!(log.is_full(), "not all of it");
            std::fs::write(&cursor, Delivered { identity, offset: size }.to_string()).unwrap();
            log.retry();
            assert!(!log.is_full());
            assert!(first_line(&oldest, packed).is_none_or(|(now, _)| now != identity), "it is gone");
            // The cursor has not moved to what is the oldest now: that is not delivered.
            fill(&mut log);
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
}
