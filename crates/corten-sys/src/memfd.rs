//! Files in memory that nobody can change any more.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

const ALL: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

fn create(name: &str, executable: bool) -> io::Result<std::fs::File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // LINUX 6.3: without one of the two flags a sysctl decides whether the file may be executed.
    let wanted = flags | if executable { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL };
    let fd = match rustix::fs::memfd_create(name, wanted) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        other => other?,
    };
    Ok(fd.into())
}

/// A sealed copy of a program, for [`crate::process::spawn`]. Whoever runs it cannot be made to overwrite the
/// original through `/proc/self/exe` (CVE-2019-5736).
///
/// # Errors
/// Those of reading the source and of memfd_create(2).
pub fn sealed_program(name: &str, source: &mut impl Read) -> io::Result<OwnedFd> {
    let mut file = create(name, true)?;
    io::copy(source, &mut file)?;
    rustix::fs::fcntl_add_seals(&file, ALL)?;
    Ok(file.into())
}

/// A sealed copy of some bytes, positioned at the start.
///
/// # Errors
/// Those of memfd_create(2) and write(2).
pub fn sealed_bytes(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = create(name, false)?;
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&file, ALL)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
}

/// An empty file in memory that can be written.
///
/// # Errors
/// Those of memfd_create(2).
pub fn scratch(name: &str) -> io::Result<std::fs::File> {
    create(name, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_means_sealed() {
        let fd = sealed_bytes("t", b"abc").unwrap();
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }
}
