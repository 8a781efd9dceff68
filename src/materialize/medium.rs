//! What the secret root is made of: memory, as it should be, or a disk, which the operator must have chosen.
//!
//! The decision is a pure function of what was seen; mounting is a few lines below it. Nothing is ever unmounted or
//! remounted: running pods would stay on the old file system.

use std::fmt::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::dir::{Dir, medium_of};
use super::error::{MaterializeError, NoMount, SecretRootError};
use super::gate::Gate;
use super::{Medium, SecretRootPolicy};

/// Opens the secret root, and mounts a tmpfs there if that is needed and right.
///
/// # Errors
/// [`MaterializeError::SecretRoot`] if the root is not what the policy asks for; nothing was mounted then.
pub(super) fn open(path: &Path, policy: SecretRootPolicy, gate: &Gate) -> Result<Dir, MaterializeError> {
    let dir = Dir::open_root(path, gate.clone())?;
    let refuse = |why| SecretRootError { path: path.to_owned(), why, unit: mount_unit(path) };
    match choose(policy, &look(&dir)?) {
        Choice::Use => Ok(dir),
        Choice::Refuse(why) => Err(refuse(why).into()),
        Choice::Mount => {
            mount(&dir).map_err(|errno| refuse(NoMount::Refused(errno)))?;
            // The open descriptor still shows the directory underneath.
            let mounted = Dir::open_root(path, gate.clone())?;
            match mounted.medium() {
                Medium::Memory => Ok(mounted),
                Medium::Disk => Err(refuse(NoMount::MountPoint).into()),
            }
        }
    }
}

/// What the secret root would be at a start of the agent, found out without making or mounting anything.
///
/// # Errors
/// Why it could not be used, as a sentence with the remedy.
pub fn probe(path: &Path, policy: SecretRootPolicy) -> Result<Medium, String> {
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let seen = match opened.and_then(|fd| medium_of(&fd)) {
        Ok(medium) => Seen {
            medium,
            namespace: namespace(),
            mount_point: false,
            empty: std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()),
        },
        Err(Errno::NOENT) => Seen { medium: Medium::Disk, namespace: namespace(), mount_point: false, empty: true },
        Err(errno) => return Err(format!("cannot look at {path:?}: {errno}")),
    };
    match choose(policy, &seen) {
        Choice::Use => Ok(seen.medium),
        Choice::Mount => Ok(Medium::Memory),
        Choice::Refuse(why) => Err(SecretRootError { path: path.to_owned(), why, unit: mount_unit(path) }.to_string()),
    }
}

/// Everything that the decision depends on.
#[derive(Clone, Copy, Debug)]
struct Seen {
    medium: Medium,
    namespace: Namespace,
    mount_point: bool,
    empty: bool,
}

/// Whose mount namespace this process lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    /// That of PID 1, which the kubelet is taken to share.
    Host,
    Own,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Use,
    Mount,
    Refuse(NoMount),
}

fn choose(policy: SecretRootPolicy, seen: &Seen) -> Choice {
    match (seen.medium, policy) {
        (Medium::Memory, _) | (Medium::Disk, SecretRootPolicy::AllowDisk) => Choice::Use,
        (Medium::Disk, SecretRootPolicy::RequireMemory) => match seen.namespace {
            Namespace::Own => Choice::Refuse(NoMount::OwnNamespace),
            Namespace::Unknown => Choice::Refuse(NoMount::UnknownNamespace),
            Namespace::Host if seen.mount_point => Choice::Refuse(NoMount::MountPoint),
            Namespace::Host if !seen.empty => Choice::Refuse(NoMount::NotEmpty),
            Namespace::Host => Choice::Mount,
        },
    }
}

fn look(dir: &Dir) -> Result<Seen, MaterializeError> {
    Ok(Seen {
        medium: dir.medium(),
        namespace: namespace(),
        mount_point: is_mount_point(dir),
        empty: dir.names()?.is_empty(),
    })
}

fn namespace() -> Namespace {
    let read = |path: &str| std::fs::read_link(path).ok();
    whose(std::process::id(), read("/proc/self/ns/mnt"), read("/proc/1/ns/mnt"))
}

/// Judges by this process's number and by the mount namespaces of itself and of process 1.
fn whose(pid: u32, own: Option<PathBuf>, first: Option<PathBuf>) -> Namespace {
    match (own, first) {
        // The program of a container without the host's processes. No init system is this program.
        _ if pid == 1 => Namespace::Own,
        (Some(own), Some(first)) if own == first => Namespace::Host,
        (Some(_), Some(_)) => Namespace::Own,
        (None, _) | (_, None) => Namespace::Unknown,
    }
}

/// Where the kernel can't tell, the answer is yes: then nothing is mounted over it.
fn is_mount_point(dir: &Dir) -> bool {
    rustix::fs::statx(dir.fd(), "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_or(true, |stat| {
        !stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
            || stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    })
}

/// Mounts a tmpfs over `dir`. The descriptor names exactly the directory that was looked at.
fn mount(dir: &Dir) -> Result<(), Errno> {
    // Files of a volume may be programs, so it is not noexec, as the kubelet's own volumes are not.
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let target = format!("/proc/self/fd/{}", dir.fd().as_raw_fd());
    // Without `noswap` (before Linux 6.4) pages may reach a swap device; `ckpt-db plan` reports swap.
    match rustix::mount::mount("ckpt-db", &target, "tmpfs", flags, c"mode=0700,size=64m,nr_inodes=64k,noswap") {
        Err(Errno::INVAL) => {
            rustix::mount::mount("ckpt-db", &target, "tmpfs", flags, c"mode=0700,size=64m,nr_inodes=64k")
        }
        other => other,
    }
}

/// The name of the systemd mount unit for `path` (systemd.unit(5), "String escaping for inclusion in unit names").
fn mount_unit(path: &Path) -> String {
    let mut unit = String::new();
    for component in path.components().skip(1) {
        if !unit.is_empty() {
            unit.push('-');
        }
        for (at, byte) in component.as_os_str().as_bytes().iter().enumerate() {
            match byte {
                b'.' if at == 0 && unit.is_empty() => unit.push_str("\\x2e"),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => unit.push(char::from(*byte)),
                byte => write!(unit, "\\x{byte:02x}").expect("a String takes all that is written to it"),
            }
        }
    }
    if unit.is_empty() {
        unit.push('-');
    }
    unit + ".mount"
}

#[cfg(test)]
mod tests {
    use super::super::sandbox::{SandBox, is_root};
    use super::*;

    #[test]
    fn memory_is_used_mounted_or_missed() {
        use Choice::{Mount, Refuse, Use};
        use Medium::{Disk, Memory};
        use Namespace::{Host, Own, Unknown};
        use SecretRootPolicy::{AllowDisk, RequireMemory};
        #[rustfmt::skip]
        let rows = [
            // medium, policy, namespace, mount point, empty -> choice
            (Memory, RequireMemory, Own,     true,  false, Use),
            (Memory, RequireMemory, Host,    true,  true,  Use),
            (Memory, RequireMemory, Unknown, false, true,  Use),
            (Memory, AllowDisk,     Own,     true,  false, Use),
            (Disk,   AllowDisk,     Host,    false, true,  Use),
            (Disk,   AllowDisk,     Own,     true,  false, Use),
            (Disk,   RequireMemory, Host,    false, true,  Mount),
            (Disk,   RequireMemory, Host,    false, false, Refuse(NoMount::NotEmpty)),
            (Disk,   RequireMemory, Host,    true,  true,  Refuse(NoMount::MountPoint)),
            (Disk,   RequireMemory, Host,    true,  false, Refuse(NoMount::MountPoint)),
            (Disk,   RequireMemory, Own,     false, true,  Refuse(NoMount::OwnNamespace)),
            (Disk,   RequireMemory, Unknown, false, true,  Refuse(NoMount::UnknownNamespace)),
        ];
        for (medium, policy, namespace, mount_point, empty, want) in rows {
            let seen = Seen { medium, namespace, mount_point, empty };
            assert_eq!(choose(policy, &seen), want, "{policy:?} {seen:?}");
        }
    }

    #[test]
    fn the_only_process_of_a_container_is_not_on_the_host() {
        let [one, other] = ["mnt:[4026531841]", "mnt:[4026532999]"].map(|name| Some(PathBuf::from(name)));
        #[rustfmt::skip]
        let rows = [
            // its number, its namespace, that of process 1
            (700, one.clone(),   one.clone(), Namespace::Host),
            (700, other.clone(), one.clone(), Namespace::Own),
            (700, one.clone(),   None,        Namespace::Unknown),
            (700, None,          one.clone(), Namespace::Unknown),
            (700, None,          None,        Namespace::Unknown),
            (1,   other.clone(), other,       Namespace::Own),
            (1,   one.clone(),   None,        Namespace::Own),
            (1,   None,          None,        Namespace::Own),
        ];
        for (pid, own, first, want) in rows {
            assert_eq!(whose(pid, own.clone(), first.clone()), want, "{pid} {own:?} {first:?}");
        }
    }

    #[test]
    fn the_unit_is_called_as_systemd_escape_calls_it() {
        #[rustfmt::skip]
        let rows = [
            ("/etc/kubernetes/checkpoint-secrets", r"etc-kubernetes-checkpoint\x2dsecrets.mount"),
            ("/.hidden/a.b", r"\x2ehidden-a.b.mount"),
            ("/a b", r"a\x20b.mount"),
            ("/", "-.mount"),
        ];
        for (path, want) in rows {
            assert_eq!(mount_unit(Path::new(path)), want);
        }
    }

    #[test]
    fn a_tmpfs_is_mounted_over_the_very_directory() {
        let sandbox = SandBox::new();
        let path = sandbox.path("secrets");
        let dir = Dir::open_root(&path, Gate::default()).unwrap();
        if dir.medium() == Medium::Memory || !is_root() || mount(&dir).is_err() {
            return; // Not allowed here, or nothing to be shown.
        }
        let mounted = Dir::open_root(&path, Gate::default()).unwrap();
        let seen = look(&mounted).unwrap();
        let mode = mounted.own_meta().unwrap().mode;
        drop(mounted);
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(seen.medium == Medium::Memory && seen.mount_point && seen.empty && mode == 0o700, "{seen:?} {mode:o}");
        assert!(!look(&dir).unwrap().mount_point);
    }
}
