//! Arrays of f32 that lie on large pages where the system has them.
//!
//! A product walks through megabytes of weights per tile of rows. With pages of 4 KiB it outruns the processor's
//! translation tables, and a miss is dear, above all in a virtual machine; pages of 2 MiB need a few entries.

use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};

/// Bytes from which an array asks for large pages: two of them, so that at least one lies inside.
const LARGE: usize = 4 << 20;

/// Zeroed values of a fixed number.
#[derive(Debug)]
pub struct Values(Storage);

#[derive(Debug)]
enum Storage {
    Heap(Vec<f32>),
    Mapped(MmapMut),
}

impl Values {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let bytes = len * size_of::<f32>();
        if bytes < LARGE {
            return Self(Storage::Heap(vec![0.0; len]));
        }
        // Without a mapping the allocator decides, which ends the program when there is no memory.
        let Ok(map) = MmapMut::map_anon(bytes) else { return Self(Storage::Heap(vec![0.0; len])) };
        // Only a wish: small pages do the same work.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Self(Storage::Mapped(map))
    }
}

impl Default for Values {
    fn default() -> Self {
        Self(Storage::Heap(Vec::new()))
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Storage::Heap(values) => values,
            Storage::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Storage::Heap(values) => values,
            Storage::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_arrays_are_zero_and_keep_what_is_written() {
        for len in [0, 3, LARGE / 4 - 1, LARGE / 4, LARGE / 2 + 1] {
            let mut values = Values::zeros(len);
            assert_eq!(values.len(), len);
            assert!(values.iter().all(|v| *v == 0.0));
            if let Some(last) = values.last_mut() {
                *last = 2.5;
                assert_eq!(values[len - 1], 2.5);
            }
        }
    }
}
