//! What the allocator keeps of what it is given back.

/// Free memory at the top of a heap goes back to the system beyond this; each worker has a heap. 32 uploads of 64 KiB
/// come and go with half of it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 16 * 1024 * 1024;
/// Allocations from here on are the system's own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: libc::c_int = 4 * 1024 * 1024;

/// Keeps a worker's memory between uploads. glibc by itself gives it back at once and takes it again a page fault at a
/// time: 8 % of the CPU of an upload of 64 KiB (benches/runs/NOTES.md). To be called before there are threads.
pub fn tune_malloc() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [(libc::M_TRIM_THRESHOLD, KEPT), (libc::M_MMAP_THRESHOLD, MAPPED)] {
        #[expect(unsafe_code, reason = "no safe call changes the allocator's settings")]
        // SAFETY: it changes numbers of the allocator's, and no other thread allocates yet.
        let set = unsafe { libc::mallopt(parameter, value) };
        // Slower without it, and no worse.
        debug_assert_eq!(set, 1, "mallopt({parameter}, {value})");
    }
}
