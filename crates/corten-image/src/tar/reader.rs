//! A streaming reader of members.
//!
//! ```text
//!   loop: next() ─▶ Some(entry) ─▶ read(&mut buf)… until 0 ─▶ next() skips what was not read
//!                └▶ None: two zero blocks, or the end of the stream at a member's boundary
//! ```
//! INVARIANT: extension headers (`x`, `g`, `L`, `K`) are sized by their own header only, and what they say applies
//! to the next member only (CVE-2025-62518: the size of a PAX record must also govern what is skipped).

use std::io::Read;

use super::header::{BLOCK, Block};
use super::pax::{self, MAX_SPECIAL, Records};
use super::{Entry, EntryKind, IdMap, TarError};

/// Reads members one after the other.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    /// Bytes of data of the present member that were not read.
    remaining: u64,
    /// Padding after them.
    padding: u64,
    done: bool,
    ids: IdMap,
}

impl<R: Read> Reader<R> {
    /// Begins at the first header.
    pub fn new(inner: R) -> Self {
        Self { inner, remaining: 0, padding: 0, done: false, ids: IdMap::default() }
    }

    /// Owners of members are those inside of this mapping.
    #[must_use]
    pub fn with_ids(mut self, ids: IdMap) -> Self {
        self.ids = ids;
        self
    }

    /// The next member; the rest of the present one is skipped.
    ///
    /// # Errors
    /// `Header`, `UnexpectedEof`, `Unsupported`, `Read`.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        if self.done {
            return Ok(None);
        }
        self.skip_rest()?;
        let (mut pax, mut long_name, mut long_link) = (Records::default(), None, None);
        loop {
            let mut raw = [0; BLOCK];
            if !self.read_header(&mut raw)? {
                self.done = true;
                // Extensions without a member: the archive was cut.
                let dangling = long_name.is_some() || long_link.is_some();
                return if dangling { Err(TarError::UnexpectedEof) } else { Ok(None) };
            }
            let block = Block(&raw);
            match block.type_flag() {
                b'x' => pax = pax::parse(&self.special(&block)?)?,
                b'g' => drop(pax::parse(&self.special(&block)?)?),
                b'L' => long_name = Some(until_nul(self.special(&block)?)),
                b'K' => long_link = Some(until_nul(self.special(&block)?)),
                flag => {
                    let mut entry = self.member(&block, flag, pax, long_name, long_link)?;
                    (entry.uid, entry.gid) = self.ids.to_outside(entry.uid, entry.gid);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Reads data of the present member; 0 at its end.
    ///
    /// # Errors
    /// `UnexpectedEof`, `Read`.
    pub fn read_data(&mut self, buf: &mut [u8]) -> Result<usize, TarError> {
        let want = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = read_some(&mut self.inner, &mut buf[..want])?;
        if n == 0 {
            return Err(TarError::UnexpectedEof);
        }
        self.remaining -= n as u64;
        Ok(n)
    }

    /// The present member's data as a `Read`.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    /// Reads to the end of the stream, so that a hash over it covers all bytes (padding after the end marker).
    ///
    /// # Errors
    /// `Read`.
    pub fn drain(mut self) -> Result<R, TarError> {
        let mut buf = [0; 8192];
        while read_some(&mut self.inner, &mut buf)? > 0 {}
        Ok(self.inner)
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let padding = self.padding;
        let mut left = self.remaining + padding;
        (self.remaining, self.padding) = (0, 0);
        let mut buf = [0; 16384];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            let n = read_some(&mut self.inner, &mut buf[..want])?;
            if n == 0 {
                // COMPAT: the docker client sends a build with a Dockerfile from outside as an archive that ends
                // right after the last member's data; Go's reader takes missing padding for the end.
                return if left <= padding { Ok(()) } else { Err(TarError::UnexpectedEof) };
            }
            left -= n as u64;
        }
        Ok(())
    }

    /// False at the end of the archive. One zero block must be followed by another or by the end of the stream.
    fn read_header(&mut self, raw: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        if !self.read_block(raw)? {
            return Ok(false);
        }
        if Block(raw).is_zero() {
            if !self.read_block(raw)? || Block(raw).is_zero() {
                return Ok(false);
            }
            return Err(TarError::Header);
        }
        Block(raw).verify()?;
        Ok(true)
    }

    fn read_block(&mut self, raw: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            match read_some(&mut self.inner, &mut raw[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(TarError::UnexpectedEof),
                n => filled += n,
            }
        }
        Ok(true)
    }

    /// Data of an extension header, whole.
    fn special(&mut self, block: &Block<'_>) -> Result<Vec<u8>, TarError> {
        let size = block.size()?;
        if size > MAX_SPECIAL {
            return Err(TarError::Limit { what: "bytes of an extended header", limit: MAX_SPECIAL });
        }
        (self.remaining, self.padding) = (size, padding(size));
        let mut data = Vec::new();
        let mut buf = [0; 4096];
        loop {
            match self.read_data(&mut buf)? {
                0 => break,
                n => data.extend_from_slice(&buf[..n]),
            }
        }
        self.skip_rest()?;
        Ok(data)
    }

    fn member(
        &mut self,
        block: &Block<'_>,
        flag: u8,
        pax: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        if pax.sparse || flag == b'S' {
            return Err(TarError::Unsupported("sparse file".into()));
        }
        let path = pax.path.or(long_name).unwrap_or_else(|| block.name());
        let kind = match flag {
            b'0' | 0 | b'7' if flag != b'7' && path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(TarError::Unsupported(format!("member type {:?}", char::from(other)))),
        };
        let stated = match pax.size {
            Some(size) => size,
            None => block.size()?,
        };
        // COMPAT: like Go, no data follows a member that is no file, whatever its size field says.
        let size = if kind == EntryKind::File { stated } else { 0 };
        (self.remaining, self.padding) = (size, padding(size));
        Ok(Entry {
            kind,
            mode: block.mode()?,
            uid: pax.uid.map_or_else(|| block.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| block.gid(), Ok)?,
            size,
            mtime: pax.mtime.map_or_else(|| block.mtime().map(|s| (s, 0)), Ok)?,
            link: pax.link.or(long_link).unwrap_or_else(|| block.link().to_vec()),
            device: if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
                block.device()?
            } else {
                (0, 0)
            },
            xattrs: pax.xattrs,
            path,
        })
    }
}

/// Data of one member as a stream.
#[derive(Debug)]
pub struct Data<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_data(buf).map_err(|e| match e {
            TarError::Read(e) => e,
            other => std::io::Error::new(std::io::ErrorKind::UnexpectedEof, other),
        })
    }
}

fn read_some(inner: &mut impl Read, buf: &mut [u8]) -> Result<usize, TarError> {
    loop {
        match inner.read(buf) {
            Ok(n) => return Ok(n),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(TarError::UnexpectedEof),
            Err(e) => return Err(TarError::Read(e)),
        }
    }
}

const fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|b| *b == 0) {
        data.truncate(end);
    }
    data
}
