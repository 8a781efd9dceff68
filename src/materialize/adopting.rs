//! What the pod-checkpointer left active and mounted, taken over: cut at each step, and against plans of every kind.

use std::fs;
use std::sync::{Arc, Mutex};

use super::gate::{Cut, Gate, Script};
use super::sandbox::*;
use super::*;
use crate::checkpoint::named_parent;
use crate::checkpoint::rendering::{Activity, Untouched};

const THEIRS: &str = "manifests/default-web.json";
const OURS: &str = "manifests/default_web.json";
const MARKER: &str = "prepared/.ckpt-db.adopted.default_web.json";

/// A copy as the pod-checkpointer makes it.
fn copy(says: &str) -> String {
    format!(
        r#"{{"kind":"Pod","metadata":{{"annotations":{{"checkpointer.alpha.coreos.com/checkpoint-of":"web"}},"labels":{{"says":"{says}"}}}}}}"#
    )
}

fn evidence(pod: &str) -> Committed<PodName> {
    Committed::pretended(name(pod))
}

fn adopted() -> SandBox {
    let sandbox = SandBox::fast();
    sandbox.write(THEIRS, &copy("v1"));
    assert_eq!(sandbox.open().adopt_manifest(&evidence("web")).unwrap(), Published::Created);
    sandbox
}

fn web(activity: Activity) -> Committed<Plan> {
    plan(vec![pod("web", activity, "ours", vec![])])
}

#[test]
fn what_becomes_of_a_manifest_that_was_taken_over() {
    let unsure = |plan: Plan| Plan { unsure: [name("web")].into(), ..plan };
    let untouched = || Plan { untouched: Untouched::Only([name("web")].into()), ..Plan::default() };
    #[rustfmt::skip]
    let rows = [
        // plan                                                                     theirs  ours active, prepared
        ("as it is",    web(Activity::AsItIs),                                      true,   false, false),
        ("not sure",    web(Activity::Active).map(unsure),                          true,   false, false),
        ("untouched",   Committed::pretended(untouched()),                          true,   false, false),
        ("all of them", Committed::pretended(Plan { untouched: Untouched::All, ..Plan::default() }), true, false, false),
        ("active",      web(Activity::Active),                                      false,  true,  false),
        ("prepared",    web(Activity::Prepared),                                    false,  false, true),
        ("gone",        plan(vec![]),                                               false,  false, false),
    ];
    for (about, plan, theirs, active, prepared) in rows {
        let sandbox = adopted();
        for _ in 0..2 {
            fine(&sandbox.open().reconcile(&plan, &Shelf::default(), NOW));
            assert_eq!(sandbox.exists(THEIRS), theirs, "{about}");
            assert_eq!(sandbox.exists(MARKER), theirs, "{about}");
            assert_eq!(sandbox.exists(OURS), active, "{about}");
            assert_eq!(sandbox.exists("prepared/default_web.json"), prepared, "{about}");
        }
        if theirs {
            assert_eq!(sandbox.read(THEIRS), copy("v1"));
            let want = [(name("web"), named_parent("default", "web"))].into();
            assert_eq!(sandbox.open().active().unwrap(), want);
            assert_eq!(on_disk(&sandbox.roots()).unwrap().active, [name("web")].into());
            assert!(sandbox.open().take_down(&evidence("web"), NOW).unwrap());
            assert!(!sandbox.exists(THEIRS) && !sandbox.exists(MARKER));
        } else {
            assert_eq!(sandbox.open().active().unwrap().contains_key(&name("web")), active);
        }
    }
}

/// Not adopted, or another file since: it is somebody else's, and no plan touches it.
#[test]
fn what_was_not_taken_over_stays_somebody_elses() {
    let other = adopted();
    other.write(THEIRS, &copy("v2"));
    let never = SandBox::fast();
    never.write(THEIRS, &copy("v1"));
    for sandbox in [other, never] {
        let before = sandbox.read(THEIRS);
        for plan in [web(Activity::Prepared), plan(vec![])] {
            fine(&sandbox.open().reconcile(&plan, &Shelf::default(), NOW));
            assert_eq!(sandbox.read(THEIRS), before);
        }
        // Beside it the kubelet would have two manifests of one pod.
        let report = sandbox.open().reconcile(&web(Activity::Active), &Shelf::default(), NOW);
        assert!(
            matches!(failure(&report, "web"), MaterializeError::Conflict { path, .. } if path.ends_with("default-web.json"))
        );
        assert!(sandbox.read(THEIRS) == before && !sandbox.exists(OURS));
        assert!(sandbox.open().active().unwrap().is_empty());
        assert!(!sandbox.open().take_down(&evidence("web"), NOW).unwrap());
    }
}

#[test]
fn only_a_copy_of_theirs_is_taken_over() {
    #[rustfmt::skip]
    let rows = [
        ("nothing",              None),
        ("a pod of others",      Some(r#"{"kind":"Pod","metadata":{"name":"web"}}"#.to_owned())),
        ("a copy of ours",       Some(json("ours"))),
        ("no JSON",              Some("kind: Pod".to_owned())),
        // Two pods can have one file name.
        ("another pod's",        Some(copy("v1").replace(":\"web\"", ":\"other\""))),
    ];
    for (about, file) in rows {
        let sandbox = SandBox::fast();
        let materializer = sandbox.open();
        if let Some(file) = file {
            sandbox.write(THEIRS, &file);
        }
        assert!(materializer.adopt_manifest(&evidence("web")).is_err(), "{about}");
        assert!(!sandbox.exists(MARKER), "{about}");
    }
    // Ours is active already: the kubelet has two pods of one name as it is.
    let sandbox = SandBox::fast();
    fine(&sandbox.open().reconcile(&web(Activity::Active), &Shelf::default(), NOW));
    sandbox.write(THEIRS, &copy("v1"));
    assert!(sandbox.open().adopt_manifest(&evidence("web")).is_err());
}

/// Whatever step fails: a name reads the same at every moment, and the next attempt ends where an uncut one ends.
#[test]
fn a_directory_that_is_mounted_reads_the_same_at_every_step() {
    let fresh = || {
        let sandbox = SandBox::fast();
        for (key, value) in [("a", "A"), ("b.c", "B"), (".hidden", "H")] {
            sandbox.write(&format!("configmaps/default/web/conf/{key}"), value);
        }
        sandbox.write("configmaps/default/web/conf/.123", "half");
        drop(sandbox.open());
        sandbox
    };
    let reads = |sandbox: &SandBox| {
        ["a", "b.c", ".hidden", ".123"].map(|key| sandbox.read(&format!("configmaps/default/web/conf/{key}")))
    };
    let want = ["A", "B", "H", "half"];
    let adopt = |sandbox: &SandBox, cut: Option<Cut>| {
        let script = Arc::new(Mutex::new(Script::default()));
        let materializer = sandbox.open_with(&Gate { script: Some(script.clone()) });
        script.lock().unwrap().cut = cut;
        let adopted = materializer.adopt_tree(&evidence("web"), TreeRoot::ConfigMaps, "conf");
        let steps = script.lock().unwrap().log.len();
        (adopted, steps)
    };
    let uncut = fresh();
    let inode = fs::metadata(uncut.path("configmaps/default/web/conf"))
        .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
        .unwrap();
    let (result, steps) = adopt(&uncut, None);
    assert_eq!(result.unwrap(), Published::Replaced);
    assert_eq!(reads(&uncut), want);
    let is = fs::metadata(uncut.path("configmaps/default/web/conf"))
        .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
        .unwrap();
    assert_eq!(is, inode, "whoever has it mounted sees the old directory");
    let end = uncut.listing();
    assert_eq!(adopt(&uncut, None).0.unwrap(), Published::Unchanged);
    for cut in (0..steps).flat_map(|step| [Cut::From(step), Cut::Only(step)]) {
        let sandbox = fresh();
        let _ = adopt(&sandbox, Some(cut));
        assert_eq!(reads(&sandbox), want, "{cut:?}");
        adopt(&sandbox, None).0.unwrap_or_else(|error| panic!("{cut:?}: {error}"));
        assert_eq!(reads(&sandbox), want, "{cut:?}");
        assert_eq!(sandbox.listing(), end, "{cut:?}");
    }
    // From now on it is a tree as any other: published over, and removed; what is left over in it stays.
    let plan_of =
        |value: &str| plan(vec![pod("web", Activity::Prepared, "v", vec![config("conf", &[&format!("a:{value}")])])]);
    fine(&uncut.open().reconcile(&plan_of("new"), &Shelf::default(), NOW));
    assert_eq!(uncut.read("configmaps/default/web/conf/a"), "new");
    assert!(!uncut.exists("configmaps/default/web/conf/b.c") && uncut.exists("configmaps/default/web/conf/.123"));
}

/// What is no value keeps the directory as it is: nobody knows what it is for.
#[test]
fn a_directory_with_anything_else_in_it_is_left_alone() {
    type Arrange = fn(&SandBox);
    let rows: [(&str, Arrange); 4] = [
        ("a directory", |s| s.write("configmaps/default/web/conf/sub/x", "x")),
        ("a link", |s| std::os::unix::fs::symlink("/etc/passwd", s.path("configmaps/default/web/conf/l")).unwrap()),
        ("no key", |s| s.write("configmaps/default/web/conf/no key", "x")),
        ("a late file", |s| {
            let _ = s.open().adopt_tree(&evidence("web"), TreeRoot::ConfigMaps, "conf").unwrap();
            s.write("configmaps/default/web/conf/late", "x");
        }),
    ];
    for (about, arrange) in rows {
        let sandbox = SandBox::fast();
        sandbox.write("configmaps/default/web/conf/a", "A");
        drop(sandbox.open());
        arrange(&sandbox);
        let before = sandbox.listing();
        let adopted = sandbox.open().adopt_tree(&evidence("web"), TreeRoot::ConfigMaps, "conf");
        assert!(matches!(adopted, Err(MaterializeError::Conflict { .. })), "{about}: {adopted:?}");
        assert_eq!(sandbox.listing(), before, "{about}");
    }
    let sandbox = SandBox::fast();
    drop(sandbox.open());
    assert_eq!(
        sandbox.open().adopt_tree(&evidence("web"), TreeRoot::ConfigMaps, "conf").unwrap(),
        Published::Unchanged
    );
}

/// Names that are no plain names lead nowhere, and links on the way are not followed.
#[test]
fn a_leftover_is_removed_where_it_lies() {
    let sandbox = SandBox::fast();
    for path in ["top/a/b/file", "top/a/kept", "top/c/d/e/f", "elsewhere/file"] {
        sandbox.write(path, "x");
    }
    std::os::unix::fs::symlink(sandbox.path("elsewhere"), sandbox.path("top/link")).unwrap();
    let remove = |below: &[&str]| {
        let below = below.iter().map(|name| (*name).to_owned()).collect();
        remove_leftover(&sandbox.path("top"), &Committed::pretended(below))
    };
    for below in [&[][..], &[".."], &["a", "..", "..", "elsewhere"], &["a/b"], &["link", "file"]] {
        assert!(remove(below).is_err(), "{below:?}");
    }
    assert!(!remove(&["a", "no", "file"]).unwrap() && !remove(&["nothing"]).unwrap());
    assert!(remove(&["a", "b", "file"]).unwrap());
    assert!(!sandbox.exists("top/a/b") && sandbox.exists("top/a/kept"));
    assert!(remove(&["c", "d"]).unwrap());
    assert!(!sandbox.exists("top/c") && sandbox.exists("top/a"));
    assert!(remove(&["link"]).unwrap());
    assert!(sandbox.exists("elsewhere/file"));
    assert!(!remove_leftover(&sandbox.path("no-such"), &Committed::pretended(vec!["a".to_owned()])).unwrap());
}
