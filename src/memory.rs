//! The memory allocator.

#![allow(unsafe_code)]

/// Makes all threads allocate from one heap. By default each thread has a heap of its own, which keeps what the thread
/// has freed: 100 kB on an idle node. Call it while only one thread exists.
pub fn share_heap() {
    // SAFETY: mallopt only sets a number in the allocator (mallopt(3)), and no other thread allocates.
    let is_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    if is_set == 0 {
        log::debug!("the allocator keeps one heap for each thread");
    }
}

/// Gives free memory back to the kernel, for example after a configuration change. It takes about a millisecond for each
/// ten megabytes.
pub fn trim() {
    // SAFETY: malloc_trim changes no memory that is in use (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}
