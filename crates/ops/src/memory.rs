use crate::float::Float;

/// Makes the allocator keep freed memory for the next tensors instead of giving each back to the
/// system, which has to clear it when it is asked for again; with volumes of many channels that takes
/// as long as the arithmetic. Call it at the start of a program: once there is a second thread it does nothing. It
/// concerns the C library of GNU/Linux; elsewhere it does nothing. It says whether it has done so.
///
/// The price: a program that has once used much memory keeps it.
pub fn reuse_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1) {
        // SAFETY: mallopt takes two integers by value and changes settings that malloc reads without a lock, so the
        // manual of the C library calls it unsafe beside other threads (MT-Unsafe init). The kernel lists this thread
        // alone, and only this thread could start another.
        #[allow(unsafe_code)]
        return unsafe {
            // -1 is "never": the largest integer would still give back what is above 2 GiB.
            libc::mallopt(libc::M_MMAP_MAX, 0) == 1
                // One store for all threads: what one frees another takes.
                && libc::mallopt(libc::M_ARENA_MAX, 1) == 1
                && libc::mallopt(libc::M_TRIM_THRESHOLD, -1) == 1
        };
    }
    false
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// A buffer of zeros that starts at a huge page and asks the system for such pages, of which the
/// processor finds the address sooner than of many small ones.
pub(crate) struct HugeVec<T> {
    values: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Float> HugeVec<T> {
    pub(crate) fn zeros(len: usize) -> Self {
        let values = vec![T::zero(); len + HUGE / size_of::<T>()];
        let address = values.as_ptr().addr();
        let start = (address.next_multiple_of(HUGE) - address) / size_of::<T>();
        advise_huge(&values[start..]);
        Self { values, start, len }
    }

    pub(crate) fn values(&mut self) -> &mut [T] {
        &mut self.values[self.start..][..self.len]
    }
}

/// Asks for huge pages where whole ones lie in `values`; elsewhere than on Linux it does nothing.
#[cfg_attr(any(miri, not(target_os = "linux")), allow(unused_variables))]
pub(crate) fn advise_huge<T>(values: &[T]) {
    // Miri has no such call.
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        let address = values.as_ptr().addr();
        let start = address.next_multiple_of(HUGE);
        let end = (address + size_of_val(values)) / HUGE * HUGE;
        if start < end {
            // SAFETY: the range lies in `values`, which is allocated; this advice changes how it is mapped
            // and never what it holds. A refusal does not matter.
            #[allow(unsafe_code)]
            unsafe {
                let place = values.as_ptr().with_addr(start).cast_mut().cast();
                libc::madvise(place, end - start, libc::MADV_HUGEPAGE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_buffers_are_zero_and_begin_at_a_huge_page() {
        // Miri takes minutes for millions of numbers.
        for len in [0, 1, 1000, if cfg!(miri) { 3000 } else { 3 << 20 }] {
            let mut buffer = HugeVec::<f32>::zeros(len);
            assert_eq!(buffer.values().as_ptr().addr() % HUGE, 0);
            assert!(buffer.values().len() == len && buffer.values().iter().all(|&v| v == 0.0));
            buffer.values().fill(1.0);
        }
    }

    /// Tests run on threads of their own; `tests/reuse_memory.rs` is a program of one thread.
    #[test]
    fn settings_are_left_alone_beside_other_threads() {
        assert!(!super::reuse_memory());
    }
}
