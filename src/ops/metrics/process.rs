//! What the kernel says of this process, by the names that every exporter gives to it.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};

/// This process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// CPU time, user and system, in seconds.
    pub cpu_s: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// When it was started, in milliseconds since boot (`CLOCK_BOOTTIME`).
    pub started_ms: u64,
    /// Open file descriptors; `None` where they can't be counted.
    pub open_fds: Option<u64>,
    /// How many it may have; `None` without a limit.
    pub max_fds: Option<u64>,
}

impl Process {
    /// Asks the kernel; `None` where there is no `/proc`.
    #[must_use]
    pub fn now() -> Option<Self> {
        let stat = parse(&fs::read_to_string("/proc/self/stat").ok()?, clock_ticks_per_second(), page_size() as u64)?;
        // The one that reads the directory is among them.
        let max_fds = soft_limit(&fs::read_to_string("/proc/self/limits").unwrap_or_default(), "Max open files");
        let open_fds = fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1));
        Some(Self { open_fds, max_fds, ..stat })
    }
}

/// Reads `/proc/PID/stat` (proc(5)). The name of the process, in parentheses, may have anything in it.
fn parse(stat: &str, ticks_per_s: u64, page_bytes: u64) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The first of them is the third.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = ticks_per_s.max(1);
    Some(Process {
        cpu_s: (number(14)? + number(15)?) as f64 / ticks as f64,
        started_ms: number(22)? * 1000 / ticks,
        resident_bytes: number(24)? * page_bytes,
        ..Process::default()
    })
}

/// Reads `/proc/PID/limits`. A sandbox may refuse the system call that asks for one.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes() {
        let rest = "S 1 42 42 0 -1 4194560 2005 0 0 0 150 50 0 0 20 0 4 0 12345 9000000 2500 18446744073709551615 0 0";
        let want = Process { cpu_s: 2.0, resident_bytes: 2500 * 4096, started_ms: 123_450, ..Process::default() };
        assert_eq!(parse(&format!("42 (ckpt-db) {rest}"), 100, 4096), Some(want));
        assert_eq!(parse(&format!("42 (a) b) (c) {rest}"), 100, 4096), Some(want), "a name with anything in it");
        for bad in ["", "42", "42 (ckpt-db)", "42 (ckpt-db) S 1 2", "42 (ckpt-db) S 1 2 3 x"] {
            assert_eq!(parse(bad, 100, 4096), None, "{bad:?}");
        }
    }

    #[test]
    fn limits_as_the_kernel_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max cpu time              unlimited            unlimited            seconds   \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(soft_limit(limits, "Max open files"), Some(1024));
        assert_eq!(soft_limit(limits, "Max cpu time"), None);
        assert_eq!(soft_limit("", "Max open files"), None);
    }

    #[test]
    fn this_process_is_there() {
        let now = Process::now().unwrap();
        assert!(now.resident_bytes > 100_000 && now.started_ms > 0 && now.open_fds > Some(2), "{now:?}");
        assert!(now.max_fds > Some(2), "{now:?}");
    }
}
