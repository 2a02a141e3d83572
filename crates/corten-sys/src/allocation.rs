//! Asking for memory, and where that is forbidden.
//!
//! A process that was cloned to become a container's has to make do with what its maker prepared: [`forbid`] says so,
//! and a program whose global allocator is [`Guarded`] ends such a process where it asks for memory all the same.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// The system's allocator, with a look at [`forbid`]. Giving memory back is always allowed.
#[derive(Debug)]
pub struct Guarded;

// SAFETY: everything is done by the system's allocator; what is added neither unwinds nor touches the memory.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        look();
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        look();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        look();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

fn look() {
    if FORBIDDEN.swap(false, Ordering::Relaxed) {
        let place = std::backtrace::Backtrace::force_capture();
        let text = format!("memory was asked for between clone and exec:\n{place}\n");
        // Nobody may be there to read it; the signal says enough.
        rustix::io::write(rustix::stdio::stderr(), text.as_bytes()).ok();
        std::process::abort();
    }
}

/// From now on this process may not ask for memory.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

/// Does something that cannot do without memory.
pub fn permit<T>(work: impl FnOnce() -> T) -> T {
    let before = FORBIDDEN.swap(false, Ordering::Relaxed);
    let result = work();
    FORBIDDEN.store(before, Ordering::Relaxed);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{clone_process, wait};
    use std::os::fd::AsFd;

    #[test]
    fn a_clone_that_asks_for_memory_ends_there() {
        let takes = || Vec::<u8>::with_capacity(10).capacity() as i32 + 1;
        let ended = |child: &dyn Fn() -> i32| {
            let child = clone_process(0, None, || {
                // What the guard says would be part of the tests' output.
                let null = std::fs::File::options().write(true).open("/dev/null");
                null.and_then(|null| crate::process::duplicate_to(null.as_fd(), 2)).ok();
                child()
            });
            wait(child.unwrap().pidfd.as_fd()).unwrap().code()
        };
        assert_eq!(ended(&|| 7), 7);
        assert_eq!(ended(&|| permit(takes)), 11);
        assert_eq!(ended(&takes), 128 + 6);
    }
}
