//! Memory of the process itself: the C library's allocator, and the pages of the program.

use std::ffi::{c_int, c_void};

/// Lets the allocator keep at most this many arenas. Each thread that allocates while all are busy would otherwise
/// get one of its own, and keep what it ever used. Returns whether the allocator agreed.
#[must_use]
pub fn cap_arenas(count: i32) -> bool {
    // SAFETY: mallopt only stores numbers; it has no preconditions.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, count) == 1 }
}

/// From which size on memory is taken from, and returned to, the kernel directly. Setting it also keeps the
/// allocator from raising it by itself. Returns whether the allocator agreed.
#[must_use]
pub fn map_from(bytes: i32) -> bool {
    // SAFETY: as above.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, bytes) == 1 && libc::mallopt(libc::M_TRIM_THRESHOLD, bytes) == 1
    }
}

/// Gives unused memory back to the kernel.
pub fn trim() {
    // SAFETY: malloc_trim has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// For a process that goes idle: [`trim`], and the pages of the program and its libraries that are only read leave the
/// resident set. They stay in the page cache, which every process of the program shares; what is called again is
/// mapped again, 64 kB at a time.
pub fn rest() {
    trim();
    // SAFETY: the callback has the type that is wanted, ignores the data, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

/// Releases what one object has mapped from its file and never writes to.
unsafe extern "C" fn release(object: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr(3) passes a valid object, whose headers are an array of that length.
    let (object, headers) = unsafe {
        let object = &*object;
        (object, std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)))
    };
    let page = rustix::param::page_size() as u64;
    for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let first = (object.dlpi_addr + header.p_vaddr) & !(page - 1);
        let length = object.dlpi_addr + header.p_vaddr + header.p_memsz - first;
        // SAFETY: these pages are a private mapping of a file without writes, so that they are read from it again with
        // the same content. What is not (the vDSO) is refused or unchanged.
        unsafe { libc::madvise(first as *mut c_void, length as usize, libc::MADV_DONTNEED) };
    }
    0
}
