//! Reads a container's log files from the oldest undelivered record on, and keeps the cursor.
//!
//! The cursor is a file with one [`Delivered`]: the first undelivered byte, and the file it is in.
//!
//! ```text
//!   x.log.2.gz   x.log.1   x.log
//!   delivered    ####....  ........
//!                    ^ cursor
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use corten_wire::shim::Delivered;

use crate::json::{Pieces, Record};
use crate::read::numbered;

/// What is read at once.
const BLOCK: usize = 64 * 1024;
/// A line is never longer: 16 KiB of text, each byte escaped, and attributes.
const MAX_LINE: usize = 1 << 20;
const MAX_FILES: u32 = 10_000;

/// A file that is being read.
struct Open {
    input: Box<dyn Read + Send>,
    /// The file itself unless it is compressed.
    plain: Option<File>,
    identity: Option<u64>,
    /// Where `Spool::rest` begins.
    offset: u64,
    /// It has a newer one behind it: nothing will be appended.
    last_look: bool,
}

/// Records, and where the cursor stands once they are delivered.
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    cursor: Option<Delivered>,
}

/// The files of one container.
pub(crate) struct Spool {
    path: PathBuf,
    cursor: File,
    open: Option<Open>,
    /// Read, but not handed out.
    rest: Vec<u8>,
    pieces: Pieces,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Spool {
    /// Opens the files where an earlier daemon ended.
    pub(crate) fn open(path: &Path, cursor: &Path) -> io::Result<Self> {
        let cursor = File::options().read(true).write(true).create(true).truncate(false).open(cursor)?;
        let mut spool =
            Self { path: path.to_owned(), cursor, open: None, rest: Vec::new(), pieces: Pieces::default() };
        let saved = spool.saved();
        spool.open = match saved.and_then(|saved| Some((spool.find(saved.identity)?, saved.offset))) {
            Some((number, offset)) => spool.open_file(number, offset)?,
            // Nothing delivered yet, or what was delivered last has been rotated away.
            None => spool.open_oldest()?,
        };
        Ok(spool)
    }

    fn saved(&self) -> Option<Delivered> {
        let mut text = [0; 64];
        let n = self.cursor.read_at(&mut text, 0).ok()?;
        Delivered::parse(std::str::from_utf8(&text[..n]).ok()?)
    }

    /// Remembers that a batch is delivered. Not synced: after a power cut some records are delivered again.
    pub(crate) fn commit(&self, batch: &Batch) -> io::Result<()> {
        let Some(delivered) = batch.cursor else { return Ok(()) };
        self.cursor.write_all_at(delivered.to_string().as_bytes(), 0)
    }

    /// The next records, up to about one block; none where there are none yet.
    pub(crate) fn next(&mut self) -> io::Result<Batch> {
        loop {
            let Some(open) = &mut self.open else {
                self.open = self.open_oldest()?;
                if self.open.is_none() {
                    return Ok(Batch { records: Vec::new(), cursor: None });
                }
                continue;
            };
            let filled = self.rest.len();
            self.rest.resize(filled + BLOCK, 0);
            let read = open.input.read(&mut self.rest[filled..]);
            self.rest.truncate(filled + *read.as_ref().unwrap_or(&0));
            let read = read?;
            let used = memchr::memrchr(b'\n', &self.rest).map_or(0, |end| end + 1);
            if used > 0 {
                return Ok(self.batch(used));
            }
            if self.rest.len() > MAX_LINE {
                open.offset += self.rest.len() as u64;
                self.rest.clear();
            }
            if read > 0 {
                continue;
            }
            if !self.advance()? {
                self.rest.shrink_to_fit();
                return Ok(Batch { records: Vec::new(), cursor: None });
            }
        }
    }

    fn batch(&mut self, used: usize) -> Batch {
        let mut records = Vec::new();
        let mut at = 0;
        while let Some(end) = memchr::memchr(b'\n', &self.rest[at..used]) {
            // A torn line of a full disk or a power cut is no record.
            records.extend(self.pieces.record(&self.rest[at..at + end]));
            at += end + 1;
        }
        let cursor = self.open.as_mut().and_then(|open| {
            if open.identity.is_none() && open.offset == 0 {
                open.identity =
                    memchr::memchr(b'\n', &self.rest).map(|end| Delivered::identity_of(&self.rest[..end]));
            }
            open.offset += used as u64;
            open.identity.map(|identity| Delivered { identity, offset: open.offset })
        });
        self.rest.drain(..used);
        Batch { records, cursor }
    }

    /// At the end of a file: goes to the next one. False where there is none, and more may be appended here.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(open) = &mut self.open else { return Ok(false) };
        if let Some(file) = &open.plain {
            let here = file.metadata()?;
            if here.size() < open.offset {
                // Truncated in place: the only file was full.
                self.rest.clear();
                self.open = self.open_file(0, 0)?;
                return Ok(self.open.is_some());
            }
            match std::fs::metadata(&self.path) {
                Ok(current) if (current.dev(), current.ino()) == (here.dev(), here.ino()) => {
                    return Ok(false);
                }
                // Being renamed, or removed with the container.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                Ok(_) => {}
                Err(e) => return Err(e),
            }
            if !open.last_look {
                // It was rotated: what came before that, but after our last read, is still to be read.
                open.last_look = true;
                return Ok(true);
            }
        }
        let number = open.identity.and_then(|identity| self.find(identity));
        self.rest.clear();
        self.open = match number {
            Some(0) => return Ok(false),
            Some(number) => self.open_file(number - 1, 0)?,
            None => self.open_oldest()?,
        };
        Ok(self.open.is_some())
    }

    fn open_oldest(&self) -> io::Result<Option<Open>> {
        for number in (0..self.files()).rev() {
            if let Some(open) = self.open_file(number, 0)? {
                return Ok(Some(open));
            }
        }
        Ok(None)
    }

    /// How many files there are, the current one included.
    fn files(&self) -> u32 {
        let exists =
            |n: &u32| numbered(&self.path, *n, "").exists() || numbered(&self.path, *n, ".gz").exists();
        1 + (1..MAX_FILES).take_while(exists).count() as u32
    }

    /// Number of the file with this identity, 0 for the current one.
    fn find(&self, wanted: u64) -> Option<u32> {
        (0..self.files()).find(|n| {
            let open = self.open_file(*n, 0).ok().flatten();
            open.is_some_and(|open| open.identity == Some(wanted))
        })
    }

    fn open_file(&self, number: u32, offset: u64) -> io::Result<Option<Open>> {
        let absent = |e: io::Error| if e.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(e) };
        let plain = if number == 0 { self.path.clone() } else { numbered(&self.path, number, "") };
        match File::open(plain) {
            Ok(mut file) => {
                let identity = first_line(&mut file)?;
                file.seek(SeekFrom::Start(offset))?;
                let input = Box::new(file.try_clone()?);
                return Ok(Some(Open { input, plain: Some(file), identity, offset, last_look: false }));
            }
            Err(e) if number == 0 => return absent(e),
            Err(e) => drop(absent(e)?),
        }
        let packed = match File::open(numbered(&self.path, number, ".gz")) {
            Ok(file) => file,
            Err(e) => return absent(e),
        };
        let identity = first_line(&mut flate2::read::MultiGzDecoder::new(packed.try_clone()?))?;
        (&packed).seek(SeekFrom::Start(0))?;
        let mut input = flate2::read::MultiGzDecoder::new(packed);
        io::copy(&mut (&mut input).take(offset), &mut io::sink())?;
        Ok(Some(Open { input: Box::new(input), plain: None, identity, offset, last_look: true }))
    }

    /// Bytes that are not handed out; what is compressed counts as it is.
    pub(crate) fn lag(&self) -> u64 {
        let Some(open) = &self.open else { return 0 };
        let here = open.plain.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.size());
        let newer = open.identity.and_then(|identity| self.find(identity)).unwrap_or(0);
        let later = (0..newer).filter_map(|n| {
            let name = if n == 0 { self.path.clone() } else { numbered(&self.path, n, "") };
            let packed = numbered(&self.path, n, ".gz");
            Some(std::fs::metadata(name).or_else(|_| std::fs::metadata(packed)).ok()?.size())
        });
        here.saturating_sub(open.offset) + later.sum::<u64>()
    }
}

/// Identity of the first line; `None` where there is no whole one.
fn first_line(input: &mut impl Read) -> io::Result<Option<u64>> {
    let mut line = Vec::new();
    let mut block = [0; 4096];
    loop {
        let n = input.read(&mut block)?;
        if let Some(end) = memchr::memchr(b'\n', &block[..n]) {
            line.extend_from_slice(&block[..end]);
            return Ok(Some(Delivered::identity_of(&line)));
        }
        line.extend_from_slice(&block[..n]);
        if n == 0 || line.len() > MAX_LINE {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(n: u32) -> String {
        format!("{{\"log\":\"{n}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05.{n:09}Z\"}}\n")
    }

    struct Files {
        dir: tempfile::TempDir,
        path: PathBuf,
    }

    impl Files {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { path: dir.path().join("x.log"), dir }
        }

        fn spool(&self) -> Spool {
            Spool::open(&self.path, &self.dir.path().join("delivered")).unwrap()
        }

        fn append(&self, lines: std::ops::Range<u32>) {
            let mut file = File::options().create(true).append(true).open(&self.path).unwrap();
            lines.for_each(|n| file.write_all(line(n).as_bytes()).unwrap());
        }

        fn rotate(&self, keep: u32) {
            for n in (1..keep - 1).rev() {
                for tail in ["", ".gz"] {
                    std::fs::rename(numbered(&self.path, n, tail), numbered(&self.path, n + 1, tail)).ok();
                }
            }
            std::fs::rename(&self.path, numbered(&self.path, 1, "")).unwrap();
            std::fs::write(&self.path, "").unwrap();
        }

        fn pack(&self, number: u32) {
            let from = numbered(&self.path, number, "");
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(&std::fs::read(&from).unwrap()).unwrap();
            std::fs::write(numbered(&self.path, number, ".gz"), packed.finish().unwrap()).unwrap();
            std::fs::remove_file(from).unwrap();
        }
    }

    /// Everything that is there, as numbers; committed or not.
    fn drain(spool: &mut Spool, commit: bool) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            let batch = spool.next().unwrap();
            if batch.records.is_empty() && batch.cursor.is_none() {
                return all;
            }
            all.extend(
                batch.records.iter().map(|r| std::str::from_utf8(r.line()).unwrap().parse::<u32>().unwrap()),
            );
            if commit {
                spool.commit(&batch).unwrap();
            }
        }
    }

    #[test]
    fn goes_on_where_it_ended() {
        let files = Files::new();
        assert!(drain(&mut files.spool(), true).is_empty(), "no log yet");
        files.append(0..3);
        assert_eq!(drain(&mut files.spool(), false), [0, 1, 2]);
        assert_eq!(drain(&mut files.spool(), true), [0, 1, 2], "not delivered the first time");
        assert!(drain(&mut files.spool(), true).is_empty());
        files.append(3..5);
        let mut spool = files.spool();
        assert_eq!(drain(&mut spool, true), [3, 4]);
        files.append(5..6);
        assert_eq!(drain(&mut spool, true), [5], "while it is open");
    }

    #[test]
    fn follows_rotation_and_compression() {
        for reopen in [false, true] {
            let files = Files::new();
            files.append(0..2);
            let mut spool = files.spool();
            assert_eq!(drain(&mut spool, true), [0, 1]);
            files.append(2..4);
            files.rotate(5);
            files.append(4..6);
            files.rotate(5);
            files.pack(2);
            files.pack(1);
            files.append(6..8);
            if reopen {
                spool = files.spool();
            }
            assert_eq!(drain(&mut spool, true), [2, 3, 4, 5, 6, 7], "opened anew: {reopen}");
            files.rotate(5);
            if reopen {
                spool = files.spool();
            }
            assert!(drain(&mut spool, true).is_empty());
            files.append(8..9);
            assert_eq!(drain(&mut spool, true), [8]);
        }
    }

    #[test]
    fn what_is_rotated_away_is_lost_and_nothing_else() {
        let files = Files::new();
        files.append(0..2);
        drop(files.spool());
        let mut spool = files.spool();
        assert_eq!(spool.next().unwrap().records.len(), 2);
        for n in 1..5 {
            files.rotate(3);
            files.append(n * 10..n * 10 + 1);
        }
        assert_eq!(drain(&mut spool, true), [20, 30, 40], "three files are kept");
    }

    #[test]
    fn one_file_is_truncated_in_place() {
        let files = Files::new();
        files.append(0..5);
        let mut spool = files.spool();
        assert_eq!(drain(&mut spool, true), [0, 1, 2, 3, 4]);
        std::fs::write(&files.path, line(7)).unwrap();
        assert_eq!(drain(&mut spool, true), [7]);
        std::fs::write(&files.path, line(8)).unwrap();
        assert_eq!(drain(&mut files.spool(), true), [8]);
    }

    #[test]
    fn half_a_line_waits_for_the_rest() {
        let files = Files::new();
        let text = line(1) + &line(2);
        std::fs::write(&files.path, &text[..text.len() - 20]).unwrap();
        let mut spool = files.spool();
        assert_eq!(drain(&mut spool, true), [1]);
        assert!(spool.lag() > 0);
        std::fs::write(&files.path, &text).unwrap();
        assert_eq!(drain(&mut spool, true), [2]);
        assert_eq!(spool.lag(), 0);
    }
}
