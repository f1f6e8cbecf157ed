//! Memory that this process does not need: what is free in its heap, and code that only the start or a rare request runs.

#![allow(unsafe_code)]

use std::fs;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

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
/// ten megabytes. The pages of the code leave this process, too; those that are executed again come back from the page
/// cache, sixteen at a time.
pub fn trim() {
    // SAFETY: malloc_trim changes no memory that is in use (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Some(code) = code_range(&maps, trim as *const () as usize) else { return };
    // SAFETY: the range is one mapping, that of the program's code: private, of a file, neither writable nor ever
    // written, because static code needs no relocations. The kernel maps the same bytes again when they are executed
    // (MADV_DONTNEED in madvise(2)).
    if let Err(e) = unsafe { madvise(code.start as *mut _, code.len(), Advice::LinuxDontNeed) } {
        log::debug!("the pages of the code stay in memory: {e}");
    }
}

/// The mapping of a file that contains `address` and can be executed but not written. `maps`: `/proc/self/maps`
/// (proc_pid_maps(5)).
fn code_range(maps: &str, address: usize) -> Option<Range<usize>> {
    maps.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let (is_code, inode) = (words.next()? == "r-xp", words.nth(2)?);
        (is_code && inode != "0" && range.contains(&address)).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_code_is_given_back() {
        let maps = "7000-8000 r--p 00000000 fd:00 77 /x/frr-supervisor\n8000-a000 r-xp 00001000 fd:00 77 /x/frr-supervisor\n\
                    a000-b000 rw-p 00003000 fd:00 77 /x/frr-supervisor\nb000-c000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code_range(maps, 0x8010), Some(0x8000..0xa000));
        for address in [0x7010, 0xa010, 0xb010, 0xf000] {
            assert_eq!(code_range(maps, address), None, "{address:x}");
        }
        assert_eq!(code_range("", 0x8010), None);
        // This test goes on.
        trim();
        assert!(
            code_range(&fs::read_to_string("/proc/self/maps").unwrap(), trim as *const () as usize).is_some()
        );
    }
}
