//! Reading what containers have written: the shim's `json-file` records (`local` has the same), rotated and compressed files, tail and follow.
//!
//! The shim is the only writer; we read beside it and never lock. Catching up runs on a blocking thread with large
//! buffers and ends at the size it finds; following looks at the file every [`POLL`] and ends once the container has
//! exited and the last byte is read. Rotation (`x.log` → `x.log.1` → `x.log.2.gz`) is noticed by the inode.
//!
//! ```text
//!  x.log.2.gz ─▶ x.log.1 ─▶ x.log ─▶ (follow: x.log grows, or is another file)
//!  oldest                    newest
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::json::{Next, Render};

/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(20);
/// What is read at once, and about what is sent at once.
const BLOCK: usize = 512 * 1024;
/// No entry of a log is longer than this; more without an end is garbage.
const MAX_ENTRY: usize = 16 << 20;

/// What a client asked of `GET /containers/{id}/logs`.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Lines written to stdout.
    pub stdout: bool,
    /// Lines written to stderr.
    pub stderr: bool,
    /// Go on with what is written from now on, until the container exits.
    pub follow: bool,
    /// Only the last so many lines (of both streams together, as Docker counts).
    pub tail: Option<u64>,
    /// Only lines from this time on, in nanoseconds since the epoch.
    pub since: Option<i128>,
    /// Only lines up to this time.
    pub until: Option<i128>,
    /// Put each line's time before it.
    pub timestamps: bool,
    /// Put the log driver's attributes before each line.
    pub details: bool,
}

/// Bytes of a log, ready to be sent: stdcopy frames, or raw where the container has a terminal.
pub type LogStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Everything a reader needs to know about one log.
#[derive(Debug, Clone)]
pub struct LogSource {
    /// The newest file.
    pub path: PathBuf,
    /// The container has a terminal: raw bytes instead of frames.
    pub tty: bool,
    /// The reader asked to follow, and expects a frame for each line, also where nothing is left to follow.
    pub line_frames: bool,
}

/// Starts reading. `ended` says whether the run that is followed is over; it is asked before each look at the file, so
/// that nothing written before the end is missed.
pub fn read(source: LogSource, query: &LogQuery, ended: impl Fn() -> bool + Send + 'static) -> LogStream {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(4);
    let reader = Reader {
        render: Render {
            stdout: query.stdout,
            stderr: query.stderr,
            timestamps: query.timestamps,
            details: query.details,
            framed: !source.tty,
            line_frames: source.line_frames,
            since: query.since,
            until: query.until,
        },
        path: source.path,
        sender,
    };
    let (tail, follow) = (query.tail, query.follow);
    tokio::spawn(async move {
        let caught_up = tokio::task::spawn_blocking(move || {
            let at = reader.catch_up(tail);
            (reader, at)
        })
        .await;
        let Ok((reader, at)) = caught_up else { return };
        match at {
            Ok(Some(position)) if follow => reader.follow(position, ended).await,
            Err(error) => {
                let _closed = reader.sender.send(Err(error)).await;
            }
            Ok(_) => {}
        }
    });
    Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    }))
}

/// Where following goes on.
struct Position {
    file: File,
    inode: u64,
    /// Bytes read but not yet a whole entry.
    rest: Vec<u8>,
}

struct Reader {
    render: Render,
    path: PathBuf,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

/// The reader went away, or asked for nothing more.
struct Stop;

impl Reader {
    /// Sends everything that is there. `None` where nothing is to follow: `until` reached, reader gone.
    fn catch_up(&self, tail: Option<u64>) -> io::Result<Option<Position>> {
        let mut files = vec![(self.path.clone(), false)];
        for n in 1..10_000 {
            let plain = numbered(&self.path, n, "");
            let packed = numbered(&self.path, n, ".gz");
            if plain.exists() {
                files.push((plain, false));
            } else if packed.exists() {
                files.push((packed, true));
            } else {
                break;
            }
        }
        let mut skip = Vec::new();
        if let Some(mut want) = tail {
            for (path, packed) in &files {
                let (found, start) = self.tail_of(path, *packed, want)?;
                skip.push(start);
                want -= found.min(want);
                if want == 0 {
                    break;
                }
            }
            files.truncate(skip.len());
        }
        for (n, (path, packed)) in files.iter().enumerate().rev() {
            let file = match File::open(path) {
                Ok(file) => file,
                // Rotated away between the listing and now, or nothing written yet.
                Err(e) if e.kind() == io::ErrorKind::NotFound && n > 0 => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            };
            let inode = file.metadata()?.ino();
            let skip = skip.get(n).copied().unwrap_or(0);
            if *packed {
                let mut input = flate2::read::MultiGzDecoder::new(file);
                io::copy(&mut (&mut input).take(skip), &mut io::sink())?;
                if self.pump(&mut input, &mut Vec::new()).is_err() {
                    return Ok(None);
                }
                continue;
            }
            let mut file = file;
            file.seek(SeekFrom::Start(skip))?;
            let mut rest = Vec::new();
            if self.pump(&mut file, &mut rest).is_err() {
                return Ok(None);
            }
            if n == 0 {
                return Ok(Some(Position { file, inode, rest }));
            }
        }
        Ok(None)
    }

    fn tail_of(&self, path: &Path, packed: bool, want: u64) -> io::Result<(u64, u64)> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
            Err(e) => return Err(e),
        };
        if !packed {
            return tail_lines(&mut file, want);
        }
        // A compressed file cannot be read backwards: unpack it into an unnamed temporary file.
        let mut unpacked = tempfile_in(path.parent().unwrap_or(Path::new("/")))?;
        io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut unpacked)?;
        tail_lines(&mut unpacked, want)
    }

    /// Reads to the end of `input`; what is left of an unfinished entry stays in `rest`.
    fn pump(&self, input: &mut impl Read, rest: &mut Vec<u8>) -> Result<(), Stop> {
        let mut out = Vec::with_capacity(BLOCK);
        loop {
            let filled = rest.len();
            rest.resize(filled + BLOCK, 0);
            let read = match input.read(&mut rest[filled..]) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Err(e) => {
                    let _closed = self.sender.blocking_send(Err(e));
                    return Err(Stop);
                }
            };
            rest.truncate(filled + read);
            if read == 0 {
                return Ok(());
            }
            let (used, next) = self.render.lines(rest, &mut out);
            rest.drain(..used);
            if rest.len() > MAX_ENTRY {
                rest.clear();
            }
            if !out.is_empty() {
                let full = std::mem::replace(&mut out, Vec::with_capacity(BLOCK));
                self.sender.blocking_send(Ok(Bytes::from(full))).map_err(|_| Stop)?;
            }
            if next == Next::Done {
                return Err(Stop);
            }
        }
    }

    async fn follow(self, mut position: Position, ended: impl Fn() -> bool + Send) {
        let mut timer = tokio::time::interval(POLL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                () = self.sender.closed() => return,
            }
            let over = ended() || self.render.until.is_some_and(|until| corten_base::time::now_ns() > until);
            loop {
                let mut out = Vec::new();
                // The page cache answers: what the shim wrote a moment ago is in memory.
                let (grown, next) = match self.more(&mut position, &mut out) {
                    Ok(more) => more,
                    Err(error) => {
                        let _closed = self.sender.send(Err(error)).await;
                        return;
                    }
                };
                if !out.is_empty() && self.sender.send(Ok(Bytes::from(out))).await.is_err() {
                    return;
                }
                if next == Next::Done {
                    return;
                }
                if !grown {
                    break;
                }
            }
            match self.rotated(&position) {
                Some(newer) => position = newer,
                None if over => return,
                None => {}
            }
        }
    }

    /// One block of what was appended; whether there was any.
    fn more(&self, position: &mut Position, out: &mut Vec<u8>) -> io::Result<(bool, Next)> {
        let filled = position.rest.len();
        position.rest.resize(filled + BLOCK / 8, 0);
        let read = position.file.read(&mut position.rest[filled..])?;
        position.rest.truncate(filled + read);
        if read == 0 {
            position.rest.shrink_to_fit();
            return Ok((false, Next::More));
        }
        let (used, next) = self.render.lines(&position.rest, out);
        position.rest.drain(..used);
        if position.rest.len() > MAX_ENTRY {
            position.rest.clear();
        }
        Ok((true, next))
    }

    /// The file that has taken the place of the one we are at, if there is one. Several rotations within one poll
    /// are found by their number: the file we were at is `.n`, the next to read is `.n-1`.
    fn rotated(&self, position: &Position) -> Option<Position> {
        if std::fs::metadata(&self.path).ok()?.ino() == position.inode {
            return None;
        }
        let mut next = self.path.clone();
        for n in 1..100 {
            let candidate = numbered(&self.path, n, "");
            match std::fs::metadata(&candidate) {
                Ok(meta) if meta.ino() == position.inode => break,
                Ok(_) => next = candidate,
                Err(_) => {
                    next.clone_from(&self.path);
                    break;
                }
            }
        }
        let file = File::open(&next).ok()?;
        let inode = file.metadata().ok()?.ino();
        Some(Position { file, inode, rest: Vec::new() })
    }
}

/// Name of a rotated file.
pub(crate) fn numbered(path: &Path, n: u32, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}{suffix}"));
    PathBuf::from(name)
}

/// A file without a name: gone with its last descriptor.
fn tempfile_in(dir: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    Ok(File::from(open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?))
}

/// Counts line ends backwards from the end until `want` are found: how many there are (at most `want`), and the
/// offset at which the first of them begins.
fn tail_lines(file: &mut File, want: u64) -> io::Result<(u64, u64)> {
    let size = file.seek(SeekFrom::End(0))?;
    if want == 0 {
        return Ok((0, size));
    }
    let mut block = vec![0; BLOCK / 4];
    let (mut at, mut ends) = (size, 0u64);
    while at > 0 {
        let length = usize::try_from(at.min(block.len() as u64)).unwrap_or(block.len());
        at -= length as u64;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut block[..length])?;
        let mut upto = length;
        while let Some(found) = memchr::memrchr(b'\n', &block[..upto]) {
            // The line end just before the wanted lines is one more than their number.
            if ends == want {
                return Ok((want, at + found as u64 + 1));
            }
            ends += 1;
            upto = found;
        }
    }
    Ok((ends, 0))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::StreamExt;

    use super::*;

    fn line(n: usize) -> String {
        format!("{{\"log\":\"line {n}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05.5Z\"}}\n")
    }

    fn source(path: &Path) -> LogSource {
        LogSource { path: path.to_owned(), tty: true, line_frames: false }
    }

    async fn collect(mut stream: LogStream) -> String {
        let mut all = Vec::new();
        while let Some(part) = stream.next().await {
            all.extend_from_slice(&part.unwrap());
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn tail_over_rotated_and_packed_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all((line(1) + &line(2)).as_bytes()).unwrap();
        std::fs::write(numbered(&path, 2, ".gz"), packed.finish().unwrap()).unwrap();
        std::fs::write(numbered(&path, 1, ""), line(3) + &line(4)).unwrap();
        std::fs::write(&path, line(5)).unwrap();
        for (tail, want) in [(None, 1), (Some(0), 6), (Some(1), 5), (Some(2), 4), (Some(4), 2), (Some(9), 1)]
        {
            let query = LogQuery { stdout: true, stderr: true, tail, ..LogQuery::default() };
            let got = collect(read(source(&path), &query, || true)).await;
            let expected: String = (want..6).map(|n| format!("line {n}\n")).collect();
            assert_eq!(got, expected, "tail {tail:?}");
        }
    }

    #[tokio::test]
    async fn follow_sees_appends_and_rotation_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        std::fs::write(&path, line(1)).unwrap();
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = over.clone();
        let query = LogQuery { stdout: true, stderr: true, follow: true, ..LogQuery::default() };
        let stream = read(source(&path), &query, move || flag.load(std::sync::atomic::Ordering::SeqCst));
        let reading = tokio::spawn(collect(stream));
        tokio::time::sleep(POLL * 2).await;
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let second = line(2);
        file.write_all(&second.as_bytes()[..10]).unwrap();
        tokio::time::sleep(POLL * 2).await;
        file.write_all(&second.as_bytes()[10..]).unwrap();
        std::fs::rename(&path, numbered(&path, 1, "")).unwrap();
        std::fs::write(&path, line(3)).unwrap();
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(reading.await.unwrap(), "line 1\nline 2\nline 3\n");
    }
}
