//! The target of this binary's name, fed by libFuzzer.

#![no_main]

#[path = "../tests/support/targets.rs"]
mod targets;

use std::cell::RefCell;

thread_local! {
    static READ: RefCell<targets::Read> = RefCell::new(targets::named(env!("CARGO_BIN_NAME")).read);
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    READ.with_borrow_mut(|read| read(bytes));
});
