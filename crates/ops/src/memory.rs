/// Makes the allocator keep freed memory for the next tensors instead of giving each back to the
/// system, which has to clear it when it is asked for again; with volumes of many channels that takes
/// as long as the arithmetic. Call it once, at the start of a program. It concerns the C library of
/// GNU/Linux; elsewhere it does nothing.
///
/// The price: a program that has once used much memory keeps it.
pub fn reuse_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallopt takes two integers by value, has no preconditions and is safe to call from
        // any thread.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 0);
            // -1 is "never": the largest integer would still give back what is above 2 GiB.
            libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_can_be_had_and_given_back_afterwards() {
        super::reuse_memory();
        for round in 0..3u8 {
            let block = vec![round; 100 << 20];
            assert!(block.iter().step_by(4096).all(|&b| b == round));
        }
    }
}
