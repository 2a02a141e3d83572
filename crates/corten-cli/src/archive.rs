//! Tar archives: written for build contexts and `cp`, read and unpacked for `cp`.

mod pipe;
mod read;
mod unpack;
mod write;

pub(crate) use pipe::{ChannelReader, Pipe, body};
pub(crate) use read::Reader;
pub(crate) use unpack::unpack;
pub(crate) use write::Writer;

const BLOCK: usize = 512;

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

/// Whose the entries of an archive are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Root,
    AsOnDisk,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::path::{Path, PathBuf};

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
