//! The memory of the program: where the system has none left, it ends with one line and exit code 2, not by a signal.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write as _;

/// The system's allocator, which never gives nothing.
#[derive(Clone, Copy, Debug)]
pub struct OrExit;

// SAFETY: each call is passed to the system's allocator as it came, with what the caller guarantees, and what that gives
// is returned as it is; where it gives nothing, nothing returns.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for OrExit {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        or_exit(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        or_exit(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        or_exit(unsafe { System.realloc(old, layout, size) }, size)
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}

fn or_exit(found: *mut u8, bytes: usize) -> *mut u8 {
    if !found.is_null() {
        return found;
    }
    let mut line = [0; 160];
    let mut rest = &mut line[..];
    let _ = writeln!(
        rest,
        "steer3d: error: out of memory: the system has no {bytes} bytes more; use a smaller batch or smaller volumes, \
         or free memory"
    );
    let left = rest.len();
    let _ = std::io::stderr().write_all(&line[..line.len() - left]);
    exit()
}

/// Without what runs at the end of a process, which may want memory.
fn exit() -> ! {
    #[cfg(unix)]
    // SAFETY: it takes an integer and does not return.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(2)
    }
    #[cfg(not(unix))]
    std::process::exit(2)
}
