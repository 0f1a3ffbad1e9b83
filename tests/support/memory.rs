//! An allocator that remembers how much memory was asked for, as the allocator of the whole test binary.
#![allow(dead_code, reason = "every test binary uses another part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Watched;

/// The largest piece that was ever asked for.
static LARGEST: AtomicUsize = AtomicUsize::new(0);
/// What is in use, and the most that ever was.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST_LIVE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// What this thread has asked for less what it has given back, and the most since it was asked.
    static OWN: Cell<isize> = const { Cell::new(0) };
    static MOST_OWN: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        MOST_LIVE.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // A thread that ends has none of these any more.
        let _ = OWN.try_with(|own| {
            own.set(own.get() + layout.size() as isize);
            MOST_OWN.with(|most| most.set(most.get().max(own.get())));
        });
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        let _ = OWN.try_with(|own| own.set(own.get() - layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static MEMORY: Watched = Watched;

/// The largest piece of memory that was ever asked for, in bytes.
pub fn largest() -> usize {
    LARGEST.load(Relaxed)
}

/// The most bytes that were ever in use together.
pub fn most_live() -> usize {
    MOST_LIVE.load(Relaxed)
}

/// What `work` returns, and the most bytes that it had in use on this thread.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = OWN.get();
    MOST_OWN.set(before);
    let result = work();
    (result, (MOST_OWN.get() - before) as usize)
}
