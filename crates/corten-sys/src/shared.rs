//! Two numbers that two processes see: what one says, and that the other has heard it. For where a process may make
//! no system call any more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const LENGTH: usize = 4096;

/// A page of a file in memory, mapped into every process that opens it.
#[derive(Debug)]
pub struct Shared {
    page: NonNull<[AtomicU32; 2]>,
    file: OwnedFd,
}

impl Shared {
    /// A new page of zeros.
    ///
    /// # Errors
    /// Those of memfd_create(2) and mmap(2).
    pub fn new() -> io::Result<Self> {
        let file = crate::memfd::scratch("shared")?;
        file.set_len(LENGTH as u64)?;
        Self::of(file.into())
    }

    /// The page of somebody else, by its file.
    ///
    /// # Errors
    /// Those of fstat(2) and mmap(2); `InvalidInput` for a file that is too short.
    pub fn of(file: OwnedFd) -> io::Result<Self> {
        if rustix::fs::fstat(&file)?.st_size < LENGTH as i64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = rustix::mm::MapFlags::SHARED;
        let access = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that is long enough.
        let page = unsafe { rustix::mm::mmap(std::ptr::null_mut(), LENGTH, access, flags, &file, 0) }?;
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { page, file })
    }

    fn words(&self) -> &[AtomicU32; 2] {
        // SAFETY: the mapping is page-aligned, longer than two words, lives as long as `self`, and is only ever used
        // through atomics, here and in the other process.
        unsafe { self.page.as_ref() }
    }

    /// Says a number (not 0) and waits until it was heard, without a system call; gives up after the time.
    pub fn say(&self, number: u32, patience: Duration) -> bool {
        let [said, heard] = self.words();
        said.store(number, Ordering::Release);
        let until = Instant::now() + patience;
        while heard.load(Ordering::Acquire) == 0 {
            if Instant::now() > until {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }

    /// What was said, if it was.
    #[must_use]
    pub fn said(&self) -> Option<u32> {
        Some(self.words()[0].load(Ordering::Acquire)).filter(|n| *n != 0)
    }

    /// Lets the other one go on.
    pub fn heard(&self) {
        self.words()[1].store(1, Ordering::Release);
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), LENGTH) }.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_says_the_other_hears() {
        let page = Shared::new().unwrap();
        let other = Shared::of(page.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(other.said(), None);
        assert!(!page.say(7, Duration::from_millis(1)));
        assert_eq!(other.said(), Some(7));
        other.heard();
        assert!(page.say(8, Duration::from_secs(10)));
    }
}
