//! Arrays of f32 that begin with a cache line, and lie on large pages where the system has them.
//!
//! A vector of AVX-512 is a whole line: one that crosses two costs two loads.
//!
//! A product walks through megabytes of weights per tile of rows. With pages of 4 KiB it outruns the processor's
//! translation tables, and a miss is dear, above all in a virtual machine; pages of 2 MiB need a few entries.

use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};

/// Bytes from which an array asks for large pages: two of them, so that at least one lies inside.
const LARGE: usize = 4 << 20;

/// Values of a parallel task that goes through them one by one.
pub const CHUNK: usize = 16_384;

/// Zeroed values of a fixed number.
#[derive(Debug)]
pub struct Values {
    storage: Storage,
    len: usize,
}

#[derive(Debug)]
enum Storage {
    Heap(Vec<Line>),
    Mapped(MmapMut),
}

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

// SAFETY: 16 values of four bytes fill the 64 without padding, and any bits are values.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// Values in a line.
const LINE: usize = 16;

impl Values {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let bytes = len * size_of::<f32>();
        let heap = || Storage::Heap(vec![Line([0.0; LINE]); len.div_ceil(LINE)]);
        if bytes < LARGE {
            return Self { storage: heap(), len };
        }
        // Without a mapping the allocator decides, which ends the program when there is no memory.
        let Ok(map) = MmapMut::map_anon(bytes) else { return Self { storage: heap(), len } };
        // Only a wish: small pages do the same work.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Self { storage: Storage::Mapped(map), len }
    }
}

impl Default for Values {
    fn default() -> Self {
        Self { storage: Storage::Heap(Vec::new()), len: 0 }
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let values: &[f32] = match &self.storage {
            Storage::Heap(lines) => bytemuck::cast_slice(lines),
            Storage::Mapped(map) => bytemuck::cast_slice(map),
        };
        &values[..self.len]
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        let values: &mut [f32] = match &mut self.storage {
            Storage::Heap(lines) => bytemuck::cast_slice_mut(lines),
            Storage::Mapped(map) => bytemuck::cast_slice_mut(map),
        };
        &mut values[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_arrays_are_zero_and_keep_what_is_written() {
        for len in [3, LARGE / 4 - 1, LARGE / 4, LARGE / 2 + 1] {
            let mut values = Values::zeros(len);
            assert_eq!(values.len(), len);
            assert!(values.iter().all(|v| *v == 0.0));
            assert!(values.as_ptr().addr().is_multiple_of(64));
            if let Some(last) = values.last_mut() {
                *last = 2.5;
                assert_eq!(values[len - 1], 2.5);
            }
        }
    }
}
