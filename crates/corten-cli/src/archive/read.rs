//! Reading archives: ustar, PAX and GNU's long names. Sizes of what is read into memory are limited.

use std::io::{self, Read};

use super::{BLOCK, Header};

/// Extended headers and long names are at most this long.
const MAX_META: u64 = 1 << 20;

/// Reads entries in order.
pub(crate) struct Reader<R> {
    input: R,
    /// Bytes of the present entry's content and padding not read yet.
    left: u64,
    padding: u64,
}

pub(super) fn bad(text: &str) -> io::Error {
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
