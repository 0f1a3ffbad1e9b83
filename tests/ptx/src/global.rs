//! The arrays of a GPU: what lies outside of them is no memory.

use std::sync::atomic::{AtomicU32, Ordering};

/// An array's first address and its bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Region {
    pub start: u64,
    pub bytes: u64,
}

/// Arrays in the order of their addresses.
#[derive(Debug, Clone, Copy)]
pub struct Global<'a> {
    regions: &'a [Region],
}

impl<'a> Global<'a> {
    /// # Safety
    /// The regions are memory that nobody else touches but by atomic operations, in rising order, apart from each other,
    /// each on a multiple of 4.
    pub unsafe fn new(regions: &'a [Region]) -> Self {
        Self { regions }
    }

    /// The words at an address on a multiple of 4. `last` is the place of the region that was used last.
    pub fn words(&self, address: u64, bytes: usize, last: &mut usize) -> Result<&'a [AtomicU32], String> {
        let holds = |region: &Region| {
            region.start <= address && address.saturating_add(bytes as u64) <= region.start + region.bytes
        };
        if !self.regions.get(*last).is_some_and(holds) {
            let next = self.regions.partition_point(|region| region.start <= address);
            *last = next.wrapping_sub(1);
            let region = self.regions.get(*last);
            if !region.is_some_and(holds) {
                return Err(match region {
                    Some(region) => {
                        let (behind, bytes) = (address - region.start, region.bytes);
                        format!("global address {address:#x} is in no array: byte {behind} of one of {bytes} bytes")
                    }
                    None => format!("global address {address:#x} is in no array"),
                });
            }
        }
        // SAFETY: the words lie in a region, which is memory by the promise of `new`.
        Ok(unsafe { std::slice::from_raw_parts(address as *const AtomicU32, bytes / 4) })
    }
}

pub fn read(word: &AtomicU32) -> u32 {
    word.load(Ordering::Relaxed)
}

pub fn write(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Relaxed);
}
