//! Locks that keep other processes out, taken with a little patience.
//!
//! A program that this process starts (an `exec` credential plugin, say) has every descriptor of it between fork and exec, and
//! with them its locks, flock(2). A lock that was just given up can so seem taken for a moment.

use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How often it is tried again, and after what time: far longer than what lies between fork and exec.
const AGAIN: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Whether a lock is for one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// With others that share it.
    Shared,
    /// Nobody else.
    Exclusive,
}

/// Locks a file or directory for as long as it is open; whether that succeeded, or somebody else has a lock on it.
///
/// # Errors
/// What flock(2) says, except that it is locked. Then it is not locked by us.
pub(crate) fn lock(file: impl AsFd, sharing: Sharing) -> Result<bool, Errno> {
    let operation = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    for _ in 0..AGAIN {
        match flock(&file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => sleep(PAUSE),
            Err(errno) => return Err(errno),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn one_alone_or_several_together() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(place.path()).unwrap();
        let (first, second, third) = (open(), open(), open());
        assert_eq!(lock(&first, Sharing::Shared), Ok(true));
        assert_eq!(lock(&second, Sharing::Shared), Ok(true));
        assert_eq!(lock(&third, Sharing::Exclusive), Ok(false), "others share it");
        drop((first, second));
        assert_eq!(lock(&third, Sharing::Exclusive), Ok(true));
        assert_eq!(lock(open(), Sharing::Shared), Ok(false), "it is somebody's alone");
    }

    #[test]
    fn a_lock_that_is_given_up_within_moments_is_waited_for() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let held = File::open(place.path()).unwrap();
        assert_eq!(lock(&held, Sharing::Exclusive), Ok(true));
        let (tell, told) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            tell.send(()).unwrap();
            drop(held);
        });
        told.recv().unwrap();
        assert_eq!(lock(File::open(place.path()).unwrap(), Sharing::Exclusive), Ok(true));
        other.join().unwrap();
    }
}
