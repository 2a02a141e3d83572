//! Tar archives: written for build contexts and `cp`, read and unpacked for `cp`.
//!
//! What is unpacked comes from a container and is not trusted: every entry is reached through the directory it
//! belongs to with `openat2`, beneath the destination and through no symbolic link.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use tokio::sync::mpsc;

const BLOCK: usize = 512;
/// Extended headers and long names are at most this long.
const MAX_META: u64 = 1 << 20;

/// Writes entries; `W` gets whole blocks.
pub(crate) struct Writer<W> {
    out: W,
}

/// What an entry is called and whose it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
}

fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let text = format!("{value:0width$o}");
    let start = text.len().saturating_sub(width);
    field[..width].copy_from_slice(&text.as_bytes()[start..]);
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes a header; the caller writes `size` bytes and calls [`Self::pad`].
    pub(crate) fn header(&mut self, header: &Header) -> io::Result<()> {
        let mut records = Vec::new();
        let split = split_name(&header.name);
        if split.is_none() {
            record(&mut records, "path", &header.name);
        }
        if header.link.len() > 100 {
            record(&mut records, "linkpath", &header.link);
        }
        if header.size >= 1 << 33 {
            record(&mut records, "size", header.size.to_string().as_bytes());
        }
        for (key, id) in [("uid", header.uid), ("gid", header.gid)] {
            if id >= 1 << 21 {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            let extended = Header {
                name: b"PaxHeaders.0/entry".to_vec(),
                kind: b'x',
                mode: 0o644,
                size,
                ..Header::default()
            };
            self.block(&extended, (b"", &extended.name))?;
            self.out.write_all(&records)?;
            self.pad(size)?;
        }
        let (prefix, name) = split.unwrap_or((b"", &header.name[..header.name.len().min(100)]));
        self.block(header, (prefix, name))
    }

    fn block(&mut self, header: &Header, (prefix, name): (&[u8], &[u8])) -> io::Result<()> {
        let mut b = [0u8; BLOCK];
        b[..name.len()].copy_from_slice(name);
        octal(&mut b[100..108], u64::from(header.mode & 0o7777));
        octal(&mut b[108..116], u64::from(header.uid & 0o7_777_777));
        octal(&mut b[116..124], u64::from(header.gid & 0o7_777_777));
        octal(&mut b[124..136], header.size & 0o77_777_777_777);
        octal(&mut b[136..148], u64::try_from(header.mtime).unwrap_or(0));
        b[156] = header.kind;
        let link = &header.link[..header.link.len().min(100)];
        b[157..157 + link.len()].copy_from_slice(link);
        b[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut b[329..337], u64::from(header.device.0));
        octal(&mut b[337..345], u64::from(header.device.1));
        b[345..345 + prefix.len()].copy_from_slice(prefix);
        b[148..156].fill(b' ');
        let sum: u64 = b.iter().map(|x| u64::from(*x)).sum();
        octal(&mut b[148..155], sum);
        self.out.write_all(&b)
    }

    /// Fills the last block of an entry of this size.
    pub(crate) fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if rest == 0 { Ok(()) } else { self.out.write_all(&[0u8; BLOCK][rest..]) }
    }

    /// An entry with content from memory.
    pub(crate) fn bytes(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = content.len() as u64;
        self.header(&Header { name: name.as_bytes().to_vec(), kind: b'0', mode, size, ..Header::default() })?;
        self.out.write_all(content)?;
        self.pad(size)
    }

    /// One file, directory, link or device from disk. Sockets have no tar form and are left out.
    pub(crate) fn path(
        &mut self,
        path: &Path,
        name: &[u8],
        owner: Owner,
        meta: &std::fs::Metadata,
    ) -> io::Result<()> {
        let (uid, gid) = match owner {
            Owner::Root => (0, 0),
            Owner::AsOnDisk => (meta.uid(), meta.gid()),
        };
        let mut header = Header {
            name: name.to_vec(),
            mode: meta.mode() & 0o7777,
            uid,
            gid,
            mtime: meta.mtime(),
            kind: b'0',
            ..Header::default()
        };
        match FileType::from_raw_mode(meta.mode()) {
            FileType::Directory => {
                header.kind = b'5';
                if !header.name.ends_with(b"/") {
                    header.name.push(b'/');
                }
            }
            FileType::Symlink => {
                header.kind = b'2';
                header.link = std::fs::read_link(path)?.as_os_str().as_bytes().to_vec();
            }
            FileType::Fifo => header.kind = b'6',
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                header.kind = if kind == FileType::CharacterDevice { b'3' } else { b'4' };
                header.device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            }
            FileType::RegularFile => {
                header.size = meta.len();
                let file = std::fs::File::open(path)?;
                self.header(&header)?;
                let copied = io::copy(&mut file.take(header.size), &mut self.out)?;
                // A file that shrinks while it is read is filled up: the header has promised its size.
                io::copy(&mut io::repeat(0).take(header.size - copied), &mut self.out)?;
                return self.pad(header.size);
            }
            _ => return Ok(()),
        }
        self.header(&header)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0u8; BLOCK * 2])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Whose the entries of an archive are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Root,
    AsOnDisk,
}

/// A ustar prefix and name, where the name fits into them.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let cut = (0..name.len())
        .filter(|i| name[*i] == b'/' && *i <= 155)
        .find(|i| name.len() - i - 1 <= 100 && name.len() > i + 1)?;
    Some((&name[..cut], &name[cut + 1..]))
}

fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A writer whose bytes become a request's body, made in a thread of its own.
pub(crate) struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Pipe {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(64 << 10));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 64 << 10 {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// A body made by `fill` in a thread; an error breaks the request off.
pub(crate) fn body(
    media_type: &'static str,
    fill: impl FnOnce(&mut Pipe) -> io::Result<()> + Send + 'static,
) -> corten_client::Body {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        let mut pipe = Pipe { sender: sender.clone(), buffer: Vec::new() };
        if let Err(e) = fill(&mut pipe).and_then(|()| pipe.flush()) {
            sender.blocking_send(Err(e)).ok();
        }
    });
    let receiver = std::sync::Mutex::new(receiver);
    let stream = futures_util::stream::poll_fn(move |cx| {
        receiver.lock().unwrap_or_else(std::sync::PoisonError::into_inner).poll_recv(cx)
    });
    corten_client::Body::stream(media_type, stream)
}

/// Bytes read from a channel, as a blocking reader.
pub(crate) struct ChannelReader {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl ChannelReader {
    pub(crate) fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { receiver, current: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(out.len());
        out[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// Reads entries in order.
pub(crate) struct Reader<R> {
    input: R,
    /// Bytes of the present entry's content and padding not read yet.
    left: u64,
    padding: u64,
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("archive/tar: {text}"))
}

fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x3f);
        for b in &field[1..] {
            value = value.checked_mul(256).ok_or_else(|| bad("number too large"))? | u64::from(*b);
        }
        return Ok(value);
    }
    let text: String = field.iter().map(|b| *b as char).filter(|c| *c != '\0' && *c != ' ').collect();
    if text.is_empty() { Ok(0) } else { u64::from_str_radix(&text, 8).map_err(|_| bad("invalid tar header")) }
}

fn cut(field: &[u8]) -> Vec<u8> {
    field.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0 }
    }

    /// The next entry; its content is then read from `self`.
    pub(crate) fn next(&mut self) -> io::Result<Option<Header>> {
        let (mut pax, mut long_name, mut long_link) = (Vec::new(), None, None);
        loop {
            let skip = self.left + self.padding;
            let skipped = io::copy(&mut (&mut self.input).take(skip), &mut io::sink())?;
            if skipped != skip {
                // COMPAT: docker's own archives may end without the padding of their last entry.
                return if skipped >= self.left {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
            (self.left, self.padding) = (0, 0);
            let mut b = [0u8; BLOCK];
            match self.input.read_exact(&mut b) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                other => other?,
            }
            if b.iter().all(|x| *x == 0) {
                // What follows the end is read, so that the sender is not cut off.
                io::copy(&mut self.input, &mut io::sink())?;
                return Ok(None);
            }
            let sum: u64 = b
                .iter()
                .enumerate()
                .map(|(i, x)| if (148..156).contains(&i) { 32 } else { u64::from(*x) })
                .sum();
            if number(&b[148..156])? != sum {
                return Err(bad("invalid tar header"));
            }
            let mut header = parse(&b)?;
            self.enter(header.size);
            match header.kind {
                b'x' => pax = self.meta(header.size)?,
                b'g' => {}
                b'L' => long_name = Some(cut(&self.meta(header.size)?)),
                b'K' => long_link = Some(cut(&self.meta(header.size)?)),
                _ => {
                    if let Some(name) = long_name {
                        header.name = name;
                    }
                    if let Some(link) = long_link {
                        header.link = link;
                    }
                    apply(&mut header, &pax)?;
                    if !matches!(header.kind, b'0' | b'7' | 0) {
                        header.size = 0;
                    }
                    self.enter(header.size);
                    return Ok(Some(header));
                }
            }
        }
    }

    fn enter(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn meta(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_META {
            return Err(bad("extended header is too long"));
        }
        let mut out = Vec::new();
        self.read_to_end(&mut out)?;
        Ok(out)
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        if limit == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut out[..limit])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn parse(b: &[u8; BLOCK]) -> io::Result<Header> {
    let small = |range: std::ops::Range<usize>| {
        u32::try_from(number(&b[range])?).map_err(|_| bad("number too large"))
    };
    let mut name = cut(&b[..100]);
    if &b[257..263] == b"ustar\0" && b[345] != 0 {
        let mut full = cut(&b[345..500]);
        full.push(b'/');
        full.extend_from_slice(&name);
        name = full;
    }
    Ok(Header {
        name,
        link: cut(&b[157..257]),
        kind: b[156],
        mode: small(100..108)?,
        uid: small(108..116)?,
        gid: small(116..124)?,
        size: number(&b[124..136])?,
        mtime: i64::try_from(number(&b[136..148])?).unwrap_or(0),
        device: (small(329..337).unwrap_or(0), small(337..345).unwrap_or(0)),
    })
}

fn apply(header: &mut Header, mut records: &[u8]) -> io::Result<()> {
    while !records.is_empty() {
        let space = records.iter().position(|b| *b == b' ').ok_or_else(|| bad("invalid pax record"))?;
        let length: usize = std::str::from_utf8(&records[..space])
            .ok()
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| bad("invalid pax record"))?;
        if length <= space + 1 || length > records.len() {
            return Err(bad("invalid pax record"));
        }
        let body = &records[space + 1..length - 1];
        let equals = body.iter().position(|b| *b == b'=').ok_or_else(|| bad("invalid pax record"))?;
        let (key, value) = (&body[..equals], &body[equals + 1..]);
        let integer = || {
            std::str::from_utf8(value)
                .ok()
                .and_then(|t| t.split('.').next()?.parse::<u64>().ok())
                .ok_or_else(|| bad("invalid pax record"))
        };
        match key {
            b"path" => header.name = value.to_vec(),
            b"linkpath" => header.link = value.to_vec(),
            b"size" => header.size = integer()?,
            b"uid" => header.uid = u32::try_from(integer()?).map_err(|_| bad("invalid pax record"))?,
            b"gid" => header.gid = u32::try_from(integer()?).map_err(|_| bad("invalid pax record"))?,
            b"mtime" => header.mtime = integer().map_or(0, |t| i64::try_from(t).unwrap_or(0)),
            _ => {}
        }
        records = &records[length..];
    }
    Ok(())
}

/// Unpacks an archive whose entries all lie under one first name: that name becomes `base` in `dir`.
/// An empty `base` puts the content right into `dir`.
pub(crate) fn unpack(input: impl Read, dir: &Path, base: &OsStr, owners: bool) -> io::Result<()> {
    let root = rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut reader = Reader::new(input);
    let mut times: Vec<(PathBuf, i64)> = Vec::new();
    while let Some(header) = reader.next()? {
        let Some(path) = destination(&header.name, base)? else { continue };
        entry(&root, &mut reader, &header, &path, base, owners)?;
        if header.kind == b'5' {
            times.push((path, header.mtime));
        }
    }
    // A directory's time changes with every entry made in it, so it comes last.
    for (path, mtime) in times.into_iter().rev() {
        if let Ok(fd) = beneath(&root, &path) {
            rustix::fs::utimensat(&fd, "", &stamps(mtime), AtFlags::EMPTY_PATH).ok();
        }
    }
    Ok(())
}

/// Where an entry goes, relative to the destination; `None` for the destination itself.
fn destination(name: &[u8], base: &OsStr) -> io::Result<Option<PathBuf>> {
    let mut parts = Vec::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir | Component::RootDir => {}
            _ => {
                return Err(bad(&format!(
                    "entry {:?} leaves the destination",
                    String::from_utf8_lossy(name)
                )));
            }
        }
    }
    let dotted = name.starts_with(b"./") || name == b"." || name.starts_with(b"/");
    let mut path = PathBuf::from(base);
    path.extend(parts.iter().skip(usize::from(!dotted)));
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

fn beneath(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?)
}

fn stamps(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn entry<R: Read>(
    root: &OwnedFd,
    content: &mut Reader<R>,
    header: &Header,
    path: &Path,
    base: &OsStr,
    owners: bool,
) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| bad("entry without a name"))?;
    let parent = beneath(root, path.parent().unwrap_or(Path::new("")))?;
    let mode = Mode::from_raw_mode(header.mode & 0o7777);
    let replace = || match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(io::Error::from(e)),
    };
    match header.kind {
        b'5' => match rustix::fs::mkdirat(&parent, name, mode) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(io::Error::other(format!(
                        "cannot overwrite non-directory {:?} with directory",
                        path.display().to_string()
                    )));
                }
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        },
        b'0' | b'7' | 0 => {
            replace()?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = std::fs::File::from(rustix::fs::openat(&parent, name, flags, mode)?);
            let copied = io::copy(content, &mut file)?;
            if copied != header.size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        b'1' => {
            let target = destination(&header.link, base)?.ok_or_else(|| bad("hard link to the root"))?;
            let from = beneath(root, target.parent().unwrap_or(Path::new("")))?;
            let old = target.file_name().ok_or_else(|| bad("hard link without a name"))?;
            replace()?;
            return Ok(rustix::fs::linkat(&from, old, &parent, name, AtFlags::empty())?);
        }
        b'2' => {
            replace()?;
            rustix::fs::symlinkat(OsStr::from_bytes(&header.link), &parent, name)?;
        }
        kind @ (b'3' | b'4' | b'6') => {
            replace()?;
            let kind = match kind {
                b'3' => FileType::CharacterDevice,
                b'4' => FileType::BlockDevice,
                _ => FileType::Fifo,
            };
            rustix::fs::mknodat(
                &parent,
                name,
                kind,
                mode,
                rustix::fs::makedev(header.device.0, header.device.1),
            )?;
        }
        _ => return Ok(()),
    }
    if owners {
        let (uid, gid) = (Uid::from_raw(header.uid), Gid::from_raw(header.gid));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if header.kind != b'2' {
        rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(&parent, name, &stamps(header.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("corten-cli-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&dir).ok();
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn what_is_written_can_be_read() {
        let long = format!("d/{}/{}", "x".repeat(120), "y".repeat(150));
        let mut w = Writer::new(Vec::new());
        w.bytes("d/a", 0o640, b"hello").unwrap();
        w.bytes(&long, 0o600, &[7; 1024]).unwrap();
        let tar = w.finish().unwrap();
        assert_eq!(tar.len() % 512, 0);
        let mut r = Reader::new(tar.as_slice());
        let h = r.next().unwrap().unwrap();
        assert_eq!((h.name.as_slice(), h.mode, h.size), (&b"d/a"[..], 0o640, 5));
        let h = r.next().unwrap().unwrap();
        assert_eq!((h.name, h.size), (long.into_bytes(), 1024));
        assert!(r.next().unwrap().is_none());
    }

    #[test]
    fn unpacking_renames_and_stays_inside() {
        let dir = scratch("unpack");
        let mut w = Writer::new(Vec::new());
        w.header(&Header { name: b"src/".to_vec(), kind: b'5', mode: 0o755, ..Header::default() }).unwrap();
        w.bytes("src/f", 0o644, b"1").unwrap();
        w.header(&Header {
            name: b"src/l".to_vec(),
            link: b"/etc".to_vec(),
            kind: b'2',
            mode: 0o777,
            ..Header::default()
        })
        .unwrap();
        w.bytes("src/l/evil", 0o644, b"x").unwrap();
        let tar = w.finish().unwrap();
        assert!(
            unpack(tar.as_slice(), &dir, OsStr::new("dst"), false).is_err(),
            "a symlink in the path is refused"
        );
        assert_eq!(std::fs::read(dir.join("dst/f")).unwrap(), b"1");
        assert!(!Path::new("/etc/evil").exists());
        let mut w = Writer::new(Vec::new());
        w.bytes("src/../../evil", 0o644, b"x").unwrap();
        assert!(unpack(w.finish().unwrap().as_slice(), &dir, OsStr::new("dst"), false).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
