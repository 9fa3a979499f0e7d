use crate::float::Float;

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
pub(crate) fn advise_huge<T>(values: &[T]) {
    #[cfg(target_os = "linux")]
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
        for len in [0, 1, 1000, 3 << 20] {
            let mut buffer = HugeVec::<f32>::zeros(len);
            assert_eq!(buffer.values().as_ptr().addr() % HUGE, 0);
            assert!(buffer.values().len() == len && buffer.values().iter().all(|&v| v == 0.0));
            buffer.values().fill(1.0);
        }
    }

    #[test]
    fn memory_can_be_had_and_given_back_afterwards() {
        super::reuse_memory();
        for round in 0..3u8 {
            let block = vec![round; 100 << 20];
            assert!(block.iter().step_by(4096).all(|&b| b == round));
        }
    }
}
