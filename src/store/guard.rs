//! The panic boundary around redb: on a damaged file it may panic, and that is damage, not the end of the process.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Code behind the boundary panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panicked;

/// Runs `f` and turns a panic of it into a value.
///
/// What `f` worked on must not be used any further after a panic.
pub(super) fn guard<T>(f: impl FnOnce() -> T) -> Result<T, Panicked> {
    let before = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f)).map_err(|_| Panicked);
    INSIDE.set(before);
    result
}

/// Keeps panics behind the boundary out of standard error; all others are reported as before.
///
/// To be called once by a program's `main`. Without it the boundary works as well, only noisily.
pub fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !INSIDE.get() {
                report(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_value() {
        install_panic_hook();
        assert_eq!(guard(|| 1), Ok(1));
        assert_eq!(guard(|| -> u8 { panic!("inside the boundary") }), Err(Panicked));
        assert!(!INSIDE.get());
    }
}
