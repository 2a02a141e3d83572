//! Compression of layers: found by the first bytes, decoded in a stream, with a guard against bombs.

mod ahead;
mod gzip;

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use self::ahead::read_ahead;
pub(crate) use self::gzip::GzipWriter;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    /// Read only; not for layers.
    Bzip2,
    /// Read only; not for layers.
    Xz,
}

/// Decompressed bytes that are always allowed; beyond them the ratio counts.
const FREE_BYTES: u64 = 1 << 30;
/// Largest ratio of decompressed to compressed bytes. Real layers stay below 30; gzip cannot exceed 1032.
const MAX_RATIO: u64 = 250;

/// Looks at the first bytes and decodes what follows.
pub(crate) fn decoder<'a>(source: impl Read + 'a) -> io::Result<(Compression, Box<dyn Read + 'a>)> {
    let taken = Arc::new(AtomicU64::new(0));
    let mut source =
        BufReader::with_capacity(128 << 10, Counting { inner: source, taken: Arc::clone(&taken) });
    let first = fill(&mut source)?;
    let compression = sniff(&first);
    let inner: Box<dyn Read + 'a> = match compression {
        Compression::None => return Ok((compression, Box::new(source))),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            // 128 MiB: what `zstd --ultra` makes at most; more would be memory for an attacker.
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        // As with zstd, in KiB.
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, 144 << 10)),
    };
    Ok((compression, Box::new(Guard { inner, taken, given: 0 })))
}

/// What the first bytes of a stream say about it.
pub(crate) fn sniff(first: &[u8]) -> Compression {
    match first {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame begins zstd:chunked and seekable files.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Compression::Xz,
        _ => Compression::None,
    }
}

/// Up to six bytes, without taking them. A pipe may give fewer at a time than there are.
fn fill<R: Read>(source: &mut BufReader<R>) -> io::Result<[u8; 6]> {
    let mut first = [0; 6];
    let buffer = source.fill_buf()?;
    let n = buffer.len().min(6);
    first[..n].copy_from_slice(&buffer[..n]);
    Ok(first)
}

struct Counting<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // The first read should give enough to recognise the format.
        let mut n = self.inner.read(buf)?;
        while n > 0 && n < 6 && self.taken.load(Ordering::Relaxed) == 0 {
            match self.inner.read(&mut buf[n..])? {
                0 => break,
                more => n += more,
            }
        }
        self.taken.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Stops a stream that grows out of all proportion.
struct Guard<R> {
    inner: R,
    taken: Arc<AtomicU64>,
    given: u64,
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.given += n as u64;
        if self.given > FREE_BYTES && self.given / MAX_RATIO > self.taken.load(Ordering::Relaxed) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("decompressed data exceeds the limit of {MAX_RATIO} times the compressed size"),
            ));
        }
        Ok(n)
    }
}

/// Level of the layers we make. COMPAT: every puller reads gzip; level 1 compresses six times faster than the
/// default 6 for about a tenth more bytes, and commit and build wait for it.
const GZIP_LEVEL: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn formats_and_bombs() {
        let mut gz = Vec::new();
        for part in ["one", "two"] {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            e.write_all(part.as_bytes()).unwrap();
            gz.extend(e.finish().unwrap());
        }
        let zst = zstd::encode_all(&b"onetwo"[..], 1).unwrap();
        // Made by Python: two streams of bzip2, one of xz.
        let bz2 = hex::decode(concat!(
            "425a6839314159265359bb701b1000000101000201a000219819816177245385090bb701b100",
            "425a6839314159265359cddc8d9a0000008180000084802000219819846177245385090cddc8d9a0"
        ));
        let xz = hex::decode(concat!(
            "fd377a585a000004e6d6b4460200210116000000742fe5a30100056f6e6574776f000000f28004e9",
            "6237c5ce00011e06c12fa41d1fb6f37d010000000004595a"
        ));
        let packed = [b"onetwo".to_vec(), gz, zst, bz2.unwrap(), xz.unwrap()];
        for bytes in packed {
            let mut out = String::new();
            decoder(&bytes[..]).unwrap().1.read_to_string(&mut out).unwrap();
            assert_eq!(out, "onetwo");
        }
        let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        let block = vec![0; 1 << 20];
        for _ in 0..1100 {
            bomb.write_all(&block).unwrap();
        }
        let bomb = bomb.finish().unwrap();
        let failed = io::copy(&mut decoder(&bomb[..]).unwrap().1, &mut io::sink()).unwrap_err();
        assert!(failed.to_string().contains("exceeds the limit"), "{failed}");
    }
}
