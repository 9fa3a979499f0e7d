//! `reuse_memory` in a program of one thread, which a test of Rust's harness is not.

use steer3d_ops::reuse_memory;

/// Bytes of a block.
const BLOCK: usize = 256 << 20;

/// Bytes that this process has in memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: usize = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    kibibytes << 10
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn main() {
    assert!(reuse_memory() && reuse_memory());
    for round in 1..4u8 {
        let block = vec![round; BLOCK];
        assert!(block.iter().step_by(4096).all(|&byte| byte == round));
        drop(block);
        assert!((BLOCK..BLOCK + BLOCK / 2).contains(&resident()), "{}", resident());
    }
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(!reuse_memory()));
    });
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() {
    assert!(!reuse_memory());
}
