//! The C library's allocator.

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
