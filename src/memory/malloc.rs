//! How much freed memory the allocator retains.

/// Free memory at the top of a heap is returned to the system beyond this; each worker has a heap. Half of it suffices
/// for 32 concurrent uploads of 64 KiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const RETAINED: libc::c_int = 16 * 1024 * 1024;
/// Allocations of this size or more are mapped on their own, and unmapped when freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: libc::c_int = 4 * 1024 * 1024;

/// Makes glibc retain a worker's memory between uploads. By default it returns memory to the system at once and gets it
/// back with a page fault for each page: 8 % of the CPU of an upload of 64 KiB (benches/runs/NOTES.md). To be called
/// before any thread is started.
pub fn tune_malloc() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [(libc::M_TRIM_THRESHOLD, RETAINED), (libc::M_MMAP_THRESHOLD, MAPPED)]
    {
        #[expect(unsafe_code, reason = "no safe call changes the allocator's settings")]
        // SAFETY: it sets numbers inside the allocator, and no other thread allocates yet.
        let set = unsafe { libc::mallopt(parameter, value) };
        // A failure only costs speed.
        debug_assert_eq!(set, 1, "mallopt({parameter}, {value})");
    }
}
