//! A border that panics of a library do not cross.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Does this thread keep its panics to itself for now?
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What `work` returns, or the message that it panicked with, of which nothing is printed. Other threads' panics are printed
/// as ever. `work` must leave nothing half done that is used afterwards.
pub(super) fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it does not say why".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_messages_and_leave_the_thread_as_it_was() {
        assert_eq!(quietly(|| 3), Ok(3));
        assert_eq!(quietly(|| -> u32 { panic!("a {}", "word") }), Err("a word".to_owned()));
        let inside = quietly(|| (quietly(|| -> u32 { panic!("inner") }), QUIET.get()));
        assert_eq!(inside, Ok((Err("inner".to_owned()), true)));
        assert!(!QUIET.get());
    }
}
