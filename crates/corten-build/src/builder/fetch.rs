//! Downloads: sources of `ADD`, and remote contexts.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

use corten_base::{Cancel, Digest};
use corten_image::archive::{self, PutOptions};
use rustix::fs::{Timespec, Timestamps};

use super::{Builder, Work};
use crate::error::{At, BuildError};

/// Largest download.
const LIMIT: u64 = 64 << 30;
/// Bytes that tell an archive from a text.
const HEAD: usize = 512;

/// What a remote context was.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// A Dockerfile, and no archive.
    pub(crate) is_dockerfile: bool,
    pub(crate) digest: Digest,
}

/// Whether a source of `ADD` is an address.
pub(crate) fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// File name that an address ends in.
pub(crate) fn name_of(url: &str) -> Option<&str> {
    let path = url.split(['#', '?']).next()?.split_once("://")?.1.split_once('/')?.1;
    path.rsplit('/').next().filter(|n| !n.is_empty())
}

/// Downloads into a file of mode 0600 whose time is that of `Last-Modified`, or the epoch.
pub(crate) fn download(
    inner: &super::Inner,
    url: &str,
    directory: &OwnedFd,
    name: &str,
    cancel: &Cancel,
) -> Result<(), BuildError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600)).at("create", name)?;
    let mut file = File::from(file);
    let modified = inner.runtime.block_on(async {
        let mut download = inner.registries.download(url).await?;
        let modified = download.last_modified().and_then(http_date);
        let mut length = 0;
        while let Some(bytes) = download.next().await? {
            if cancel.is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            length += bytes.len() as u64;
            if length > LIMIT {
                return Err(BuildError::invalid(format!("{url} is larger than {LIMIT} bytes")));
            }
            file.write_all(&bytes).at("write", name)?;
        }
        Ok(modified)
    })?;
    let time = Timespec { tv_sec: modified.unwrap_or(0), tv_nsec: 0 };
    rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })
        .at("set time of", name)
}

impl Builder {
    /// Brings a remote context.
    pub(crate) fn fetch_context(
        &self,
        url: &str,
        work: &Work,
        context: &OwnedFd,
        cancel: &Cancel,
    ) -> Result<Fetched, BuildError> {
        if !is_url(url) {
            return Err(BuildError::unsupported(format!("build context {url:?}: unknown kind of address")));
        }
        let directory = work.directory("remote")?;
        let name = corten_base::Id::random().short().to_owned();
        download(&self.inner, url, &directory, &name, cancel)?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, name.as_str(), flags, rustix::fs::Mode::empty());
        let mut file = File::from(file.at("open", url)?);
        let digest = super::copy::file_digest(&directory, &name)?;
        if is_archive(&mut file).at("read", url)? {
            archive::put(context.as_fd(), "/", &mut file, PutOptions::default(), cancel)?;
            return Ok(Fetched { is_dockerfile: false, digest });
        }
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::CLOEXEC;
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        let to = rustix::fs::openat(context, "Dockerfile", flags, mode).at("create", url)?;
        std::io::copy(&mut file, &mut File::from(to)).at("copy", url)?;
        Ok(Fetched { is_dockerfile: true, digest })
    }
}

/// Whether a file is a tar, compressed or not; it is read from its start again afterwards.
pub(crate) fn is_archive(file: &mut File) -> std::io::Result<bool> {
    let head = head_of(&mut *file)?;
    file.seek(SeekFrom::Start(0))?;
    let inner = if head.starts_with(&[0x1f, 0x8b]) {
        head_of(flate2::read::MultiGzDecoder::new(&mut *file)).ok()
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        zstd::stream::read::Decoder::new(&mut *file).and_then(head_of).ok()
    } else if head.starts_with(b"BZh") || head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        // We cannot look inside; unpacking says what it thinks of it.
        Some(vec![1])
    } else {
        Some(head)
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(inner.is_some_and(|h| h == [1] || is_tar_header(&h)))
}

fn head_of(mut reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The checksum of a header is the sum of its bytes, with blanks in the place of the checksum.
fn is_tar_header(head: &[u8]) -> bool {
    if head.len() < HEAD {
        return false;
    }
    let field = std::str::from_utf8(&head[148..156]).unwrap_or_default();
    let Ok(expected) = u32::from_str_radix(field.trim_matches(['\0', ' ']), 8) else { return false };
    let sum: u32 =
        head.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    sum == expected
}

/// Seconds since the epoch of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<i64> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, clock, "GMT"] = fields[..] else { return None };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|m| *m == month)? + 1;
    let (day, year): (u8, u16) = (day.parse().ok()?, year.parse().ok()?);
    let nanoseconds = corten_base::time::parse_rfc3339(&format!("{year:04}-{month:02}-{day:02}T{clock}Z"))?;
    i64::try_from(nanoseconds / 1_000_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(name_of("https://a.test/x/y.tgz?z=1"), Some("y.tgz"));
        assert_eq!(name_of("https://a.test/"), None);
        assert_eq!(name_of("https://a.test"), None);
    }

    #[test]
    fn dates() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn archives() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header, "f", &b"x"[..]).unwrap();
        let plain = builder.into_inner().unwrap();
        let zipped = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        for (bytes, want) in [
            (plain.clone(), true),
            (zipped(&plain), true),
            (zipped(b"text"), false),
            (zstd::encode_all(&plain[..], 1).unwrap(), true),
            (b"text".to_vec(), false),
            (vec![0; 1024], false),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            assert_eq!(is_archive(&mut file).unwrap(), want);
        }
    }
}
