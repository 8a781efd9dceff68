//! Boots, made up and real.

use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;

const RUNNING: Fact<Kubelet> = Fact::Known(Kubelet::Running { since_ms: 1 });
const NOT_RUNNING: Fact<Kubelet> = Fact::Known(Kubelet::NotRunning);

fn unknown<T>() -> Fact<T> {
    Fact::Unknown("why".to_owned())
}

#[test]
fn the_clock_counts_since_boot() {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let up_s: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
    let off_s = now_ms() as f64 / 1000.0 - up_s;
    assert!((-0.1..60.0).contains(&off_s), "{off_s}");
}

#[test]
fn identities() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("id");
    let source = Source::File(file.clone());
    assert!(matches!(id(root.path(), &source), Fact::Unknown(why) if why.contains("there is no such file")));
    #[rustfmt::skip]
    let rows: [(&[u8], Option<&str>); 8] = [
        (b"3f0c5bd4-9d0f-4a39-8d3e-000000000001\n", Some("3f0c5bd4-9d0f-4a39-8d3e-000000000001")),
        (b"one",                                    Some("one")),
        (b"  two \r\n",                             Some("two")),
        (b"",                                       None),
        (b" \n",                                    None),
        (b"a b",                                    None),
        (b"\xff",                                   None),
        (&[b'x'; 200],                              None),
    ];
    for (text, want) in rows {
        std::fs::write(&file, text).unwrap();
        let found = id(root.path(), &source);
        match want {
            Some(want) => assert_eq!(found, Fact::Known(want.to_owned())),
            None => assert!(matches!(found, Fact::Unknown(_)), "{found:?}"),
        }
    }
    let kernel = root.path().join("proc/sys/kernel/random");
    std::fs::create_dir_all(&kernel).unwrap();
    std::fs::write(kernel.join("boot_id"), "kernel\n").unwrap();
    assert_eq!(id(root.path(), &Source::Kernel), Fact::Known("kernel".to_owned()));
    let this = id(Path::new("/"), &Source::Kernel);
    assert!(matches!(&this, Fact::Known(id) if id.len() == 36), "{this:?}");
    assert_eq!(id(Path::new("/"), &Source::Kernel), this);
}

#[test]
fn this_boot_and_that_of_the_last_commit() {
    let known = |id: &str| Fact::Known(id.to_owned());
    let same = Fact::Known(Boot::Same);
    let new = |kubelet_ran| Fact::Known(Boot::New { kubelet_ran });
    #[rustfmt::skip]
    let rows = [
        // stored  now          a kubelet ran
        ("",       known("a"),  Fact::Known(false),  same.clone()),
        ("",       unknown(),   Fact::Known(false),  same.clone()),
        ("a",      known("a"),  Fact::Known(false),  same.clone()),
        ("a",      known("a"),  unknown(),           same.clone()),
        ("a",      unknown(),   Fact::Known(false),  unknown()),
        ("a",      known("b"),  Fact::Known(false),  new(false)),
        ("a",      known("b"),  Fact::Known(true),   new(true)),
        ("a",      known("b"),  unknown(),           new(true)),
    ];
    for (stored, now, ran, want) in rows {
        assert_eq!(compare(stored, &now, || ran.clone()), want, "{stored} {now:?} {ran:?}");
    }
    assert_eq!(compare("a", &known("a"), || panic!("nobody needs it")), same);
}

/// Everything that must hold together before it is said that no kubelet ran, and each thing alone that speaks against it.
#[test]
fn traces_of_a_kubelet() {
    const HOUR: i64 = 3_600_000;
    // The boot began at 100 h by every clock, and it is 101 h now.
    let clean = || Traces {
        cgroup: Fact::Known(false),
        touched_ms: Fact::Known(90 * HOUR),
        began_ms: Fact::Known(100 * HOUR),
        began_by_now_ms: 100 * HOUR,
        now_ms: 101 * HOUR,
    };
    let touched = |ms| Traces { touched_ms: Fact::Known(ms), ..clean() };
    // The clock has been set since: what was the beginning by the clock of then, and is by that of now.
    let set = |touched, began, by_now, now| Traces {
        touched_ms: Fact::Known(touched),
        began_ms: Fact::Known(began),
        began_by_now_ms: by_now,
        now_ms: now,
        ..clean()
    };
    #[rustfmt::skip]
    let rows = [
        (clean(),                                               Some(false), "older than the boot"),
        (Traces { cgroup: Fact::Known(true), ..clean() },       Some(true),  "its cgroup is there"),
        (Traces { cgroup: unknown(), ..clean() },               None,        "nobody knows of its cgroup"),
        (Traces { touched_ms: unknown(), ..clean() },           None,        "no sockets"),
        (Traces { began_ms: unknown(), ..clean() },             None,        "no beginning"),
        (touched(100 * HOUR + HOUR / 2),                        Some(true),  "touched in this boot"),
        (touched(101 * HOUR),                                   Some(true),  "touched now"),
        (touched(102 * HOUR),                                   None,        "touched in the future"),
        (touched(100 * HOUR),                                   None,        "touched as it began"),
        (touched(100 * HOUR - MARGIN_MS),                       None,        "just before it began"),
        (touched(100 * HOUR - MARGIN_MS - 1),                   Some(false), "before it began"),
        (touched(100 * HOUR + MARGIN_MS),                       None,        "just after it began"),
        (touched(100 * HOUR + MARGIN_MS + 1),                   Some(true),  "after it began"),
        // No battery: the boot began in 1970 by its clock.
        (set(90 * HOUR, 0, 100 * HOUR, 101 * HOUR),             None,        "1970, set since; sockets of an earlier boot"),
        (set(HOUR / 2, 0, 100 * HOUR, 101 * HOUR),              None,        "1970, set since; sockets made before that"),
        (set(90 * HOUR, 0, 0, HOUR),                            None,        "1970, not set yet; sockets of an earlier boot"),
        (set(HOUR / 2, 0, 0, HOUR),                             Some(true),  "1970, not set; sockets of this boot"),
        (set(HOUR / 2, 100 * HOUR, 100 * HOUR, 101 * HOUR),     Some(false), "an earlier boot was in 1970"),
        // Two hours ahead at first, then set back.
        (set(100 * HOUR + 60_000, 102 * HOUR, 100 * HOUR, 101 * HOUR), None, "set back; sockets made after that"),
        (set(99 * HOUR, 102 * HOUR, 100 * HOUR, 101 * HOUR),    Some(false), "set back; sockets of an earlier boot"),
        // Two hours behind at first, then set forward.
        (set(98 * HOUR + 60_000, 98 * HOUR, 100 * HOUR, 101 * HOUR), None,   "set forward; sockets made before that"),
        (set(97 * HOUR, 98 * HOUR, 100 * HOUR, 101 * HOUR),     Some(false), "set forward; sockets of an earlier boot"),
    ];
    for (traces, want, what) in rows {
        match (judge(&traces), want) {
            (Fact::Known(found), Some(want)) => assert_eq!(found, want, "{what}"),
            (Fact::Unknown(_), None) => {}
            (found, want) => panic!("{what}: {found:?}, not {want:?}"),
        }
    }
}

/// A node below a temporary directory, whose kubelet has left its sockets; the boot began when the file was written.
struct Node {
    root: tempfile::TempDir,
    boot: PathBuf,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["device-plugins", "pod-resources"] {
            let directory = root.path().join("var/lib/kubelet").join(directory);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("kubelet.sock"), "").unwrap();
        }
        let boot = root.path().join("boot");
        std::fs::write(&boot, "b").unwrap();
        Self { root, boot }
    }

    fn began(&self, time: SystemTime) {
        std::fs::File::options().write(true).open(&self.boot).unwrap().set_modified(time).unwrap();
    }

    fn ran(&self, kubelet: &Fact<Kubelet>) -> Fact<bool> {
        kubelet_ran(self.root.path(), &Source::File(self.boot.clone()), kubelet)
    }
}

#[test]
fn a_kubelet_in_a_boot_that_began_when_a_file_was_written() {
    let node = Node::new();
    let now = SystemTime::now();
    let later = now + Duration::from_secs(10);
    node.began(later);
    assert_eq!(node.ran(&NOT_RUNNING), Fact::Known(false));
    assert_eq!(node.ran(&RUNNING), Fact::Known(true));
    assert!(matches!(node.ran(&unknown()), Fact::Unknown(_)));
    node.began(now - Duration::from_secs(3600));
    assert_eq!(node.ran(&NOT_RUNNING), Fact::Known(true));
    node.began(now);
    assert!(matches!(node.ran(&NOT_RUNNING), Fact::Unknown(_)));

    node.began(later);
    std::fs::remove_dir_all(node.root.path().join("var/lib/kubelet/pod-resources")).unwrap();
    std::fs::remove_file(node.root.path().join("var/lib/kubelet/device-plugins/kubelet.sock")).unwrap();
    assert_eq!(node.ran(&NOT_RUNNING), Fact::Known(false), "the directory tells");
    std::fs::remove_dir_all(node.root.path().join("var/lib/kubelet")).unwrap();
    assert!(matches!(node.ran(&NOT_RUNNING), Fact::Unknown(why) if why.contains("no trace of a kubelet")));
    std::fs::remove_file(&node.boot).unwrap();
    assert!(matches!(node.ran(&NOT_RUNNING), Fact::Unknown(_)));
}

#[test]
fn cgroups_of_pods() {
    #[rustfmt::skip]
    let rows: [(&[&str], Option<bool>); 9] = [
        (&[],                                                  None),
        (&["system.slice/a.service", "user.slice"],            Some(false)),
        (&["system.slice", "kubepods.slice"],                  Some(true)),
        (&["kubepods/besteffort"],                             Some(true)),
        (&["cpu/kubepods", "memory"],                          Some(true)),
        (&["systemd/kubepods.slice"],                          Some(true)),
        (&["kubelet.slice/kubelet-kubepods.slice"],            Some(true)),
        (&["cpu/x/kubepods"],                                  Some(false)),
        (&["kube"],                                            Some(false)),
    ];
    for (directories, want) in rows {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(pods_cgroup(root.path()), Fact::Unknown(_)), "no cgroups mounted");
        std::fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
        for directory in directories {
            std::fs::create_dir_all(root.path().join("sys/fs/cgroup").join(directory)).unwrap();
        }
        std::fs::write(root.path().join("sys/fs/cgroup/cgroup.procs"), "").unwrap();
        let namespace = root.path().join("proc/self/ns/cgroup");
        std::fs::create_dir_all(namespace.parent().unwrap()).unwrap();
        for link in [None, Some("cgroup:[4026531835]")] {
            if let Some(link) = link {
                symlink(link, &namespace).unwrap();
            }
            match (pods_cgroup(root.path()), want) {
                (Fact::Known(found), Some(want)) => assert_eq!(found, want, "{directories:?}"),
                (Fact::Unknown(_), None) => {}
                (found, want) => panic!("{directories:?}: {found:?}, not {want:?}"),
            }
        }
        std::fs::remove_file(&namespace).unwrap();
        symlink("cgroup:[4026532000]", &namespace).unwrap();
        assert!(matches!(pods_cgroup(root.path()), Fact::Unknown(why) if why.contains("namespace")));
    }
}

/// The oldest entry, by the time that nobody can set back.
#[test]
fn the_beginning_by_what_lies_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(oldest(directory.path()), Fact::Unknown(why) if why.contains("is empty")));
    assert!(matches!(beginning(&directory.path().join("none")), Fact::Unknown(_)));
    let before = unix_ms(SystemTime::now());
    let file = std::fs::File::create(directory.path().join("a")).unwrap();
    file.set_modified(UNIX_EPOCH).unwrap();
    symlink("nowhere", directory.path().join("b")).unwrap();
    let found = oldest(directory.path());
    let after = unix_ms(SystemTime::now());
    assert!(matches!(found, Fact::Known(ms) if (before - 50..=after).contains(&ms)), "{before} {found:?} {after}");
}

/// On a machine that runs, never a wrong answer and no failure.
#[test]
fn this_machine() {
    for kubelet in [RUNNING, NOT_RUNNING, unknown()] {
        let _ = kubelet_ran(Path::new("/"), &Source::Kernel, &kubelet);
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(kubelet_ran(empty.path(), &Source::Kernel, &NOT_RUNNING), Fact::Unknown(_)));
}
