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

/// A handle of redb whose closing can't panic: also where an earlier panic unwinds, and a second one would be the end of the
/// process.
pub(super) struct Closing<T>(Option<T>);

impl<T> Closing<T> {
    pub(super) fn new(handle: T) -> Self {
        Self(Some(handle))
    }
}

impl<T> Drop for Closing<T> {
    fn drop(&mut self) {
        let handle = self.0.take();
        let _ = guard(move || drop(handle));
    }
}

impl<T> std::ops::Deref for Closing<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("the handle is taken out by drop only")
    }
}

impl<T> std::ops::DerefMut for Closing<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("the handle is taken out by drop only")
    }
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

    struct Bad;

    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("on closing");
        }
    }

    #[test]
    fn handles_may_panic_on_closing_while_a_panic_unwinds() {
        install_panic_hook();
        let several = || {
            let _open = (Closing::new(Bad), Closing::new(Bad));
            panic!("inside the boundary")
        };
        assert_eq!(guard::<u8>(several), Err(Panicked));
    }
}
