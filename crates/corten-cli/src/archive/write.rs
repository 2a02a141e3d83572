//! Writing archives: ustar headers, PAX records only where a value does not fit.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FileType;

use super::{BLOCK, Header, Owner};

/// Writes entries; `W` gets whole blocks.
pub(crate) struct Writer<W> {
    out: W,
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
