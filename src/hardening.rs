//! What keeps the memory of a process its own: no core file, no other process that looks into it, no page in swap.
//!
//! Each measure is taken where the system allows it; none of them is ever a reason not to do the work.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// What became of each measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardening {
    /// `RLIMIT_CORE` is 0, for this process and its children: no core file is written.
    pub no_core: Result<(), Errno>,
    /// Not dumpable (`PR_SET_DUMPABLE`): no core is piped to a handler either, which the limit does not forbid, and nobody
    /// without `CAP_SYS_PTRACE` attaches to the process or reads its memory.
    pub not_dumpable: Result<(), Errno>,
    /// Whether pages may be written to swap.
    pub memory: Memory,
}

/// Whether pages of this process may be written to swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Every page is locked as soon as it is used (`mlockall`).
    Locked,
    /// They are not locked, because `RLIMIT_MEMLOCK` holds for this process: at the limit an allocation would fail, and with
    /// it the process.
    Limited {
        /// The limit, in bytes.
        bytes: u64,
    },
    /// The system refused.
    Refused(Errno),
}

/// Takes every measure that is allowed, once in the life of the process; later calls only answer what became of it.
///
/// To be called first thing in a program's `main`: pages that were in use before are locked as well, but a core file or a
/// look from outside may come at any moment.
pub fn harden() -> &'static Hardening {
    static DONE: OnceLock<Hardening> = OnceLock::new();
    DONE.get_or_init(|| Hardening {
        no_core: setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }),
        not_dumpable: set_dumpable_behavior(DumpableBehavior::NotDumpable),
        memory: lock_memory(),
    })
}

/// Locks memory, unless there is a limit on that which holds for this process.
fn lock_memory() -> Memory {
    let unlimited = Rlimit { current: None, maximum: None };
    // Who may not raise it keeps what there is, which is looked at next.
    let _ = setrlimit(Resource::Memlock, unlimited);
    if let Some(bytes) = getrlimit(Resource::Memlock).current
        && !is_above_the_limit()
    {
        return Memory::Limited { bytes };
    }
    // On fault: what is mapped and never used, such as the rest of a thread's stack, costs nothing.
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => Memory::Locked,
        Err(error) => Memory::Refused(error),
    }
}

/// Whether the kernel asks this process for no limit on locked memory: it has `CAP_IPC_LOCK` in the first user namespace,
/// whose inode number is fixed (`PROC_USER_INIT_INO`). In any other one the capability does not count here.
fn is_above_the_limit() -> bool {
    let first = std::fs::read_link("/proc/self/ns/user").is_ok_and(|link| link == Path::new("user:[4026531837]"));
    first && capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::IPC_LOCK))
}

/// One line for a log.
impl fmt::Display for Hardening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measure = |result: &Result<(), Errno>| match result {
            Ok(()) => "yes".to_owned(),
            Err(error) => format!("refused ({error})"),
        };
        let (no_core, not_dumpable) = (measure(&self.no_core), measure(&self.not_dumpable));
        write!(f, "no core files: {no_core}; not dumpable: {not_dumpable}; memory locked: {}", self.memory)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("yes"),
            Self::Limited { bytes } => {
                write!(f, "no, since RLIMIT_MEMLOCK is {bytes} bytes (LimitMEMLOCK=infinity in a unit raises it)")
            }
            Self::Refused(error) => write!(f, "refused ({error})"),
        }
    }
}
