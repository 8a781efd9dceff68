//! Whatever was stored is in the copy, and in the store that the copy is put back as.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::checkpoint::object::Kind;
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{
    Backend as _, Change, Existing, Missing, NewStore, RedbStore, SlotsWanted, Snapshot, StoreCopy, install_panic_hook,
    open_image, open_offline,
};
use proptest::prelude::*;
use store_format::{Lifecycle, Unlocker};

use crate::common;
use crate::raw::{damage, raw};

/// One commit.
#[derive(Clone, Debug)]
enum Step {
    /// The source lists this many pods.
    List(usize),
    Decided(usize, Lifecycle),
    Hold(usize, bool),
    Gone(usize),
    Boot(u8),
    Slot,
}

fn step() -> impl Strategy<Value = Step> {
    let lifecycle = prop_oneof![
        Just(Lifecycle::Inactive),
        Just(Lifecycle::Active),
        (0..100_u32).prop_map(|left_s| Lifecycle::ActiveGrace { left_s }),
    ];
    prop_oneof![
        (0..8_usize).prop_map(Step::List),
        (0..8_usize, lifecycle).prop_map(|(pod, lifecycle)| Step::Decided(pod, lifecycle)),
        (0..8_usize, any::<bool>()).prop_map(|(pod, held)| Step::Hold(pod, held)),
        (0..8_usize).prop_map(Step::Gone),
        any::<u8>().prop_map(Step::Boot),
        Just(Step::Slot),
    ]
}

fn apply(store: &mut RedbStore, own: &Unlocker, step: &Step, now: u64) {
    let name = |n: usize| (if n.is_multiple_of(2) { "default" } else { "shop" }, format!("p{n}"));
    let pod = |n: usize| PodName { namespace: name(n).0.to_owned(), name: name(n).1 };
    let change = match step {
        Step::List(pods) => {
            let objects = common::objects(*pods);
            Change::Reset { objects, kinds: Kind::ALL.to_vec(), missing: Missing::Delete }
        }
        Step::Decided(n, lifecycle) => Change::Decided {
            pod: pod(*n),
            uid: format!("uid-{n}"),
            lifecycle: *lifecycle,
            republished: 0,
            why: "told".to_owned(),
        },
        Step::Hold(n, held) => Change::Hold { pod: pod(*n), held: *held },
        Step::Gone(n) => {
            let (namespace, name) = name(*n);
            let key = ckpt_db::checkpoint::object::ObjectKey::new(Kind::Pod, namespace, &name).unwrap();
            Change::Gone { key, uid: String::new() }
        }
        Step::Boot(boot) => Change::Boot(format!("boot-{boot}")),
        Step::Slot => {
            let another = common::secret();
            let _ = store.keep_slots(&SlotsWanted { add: &[own, &another], ..SlotsWanted::default() }, now);
            return;
        }
    };
    // A listing without any pod is refused once there are some.
    let _ = store.update(vec![change], now);
}

/// Everything that a snapshot tells.
fn told(snapshot: &Snapshot) -> Vec<String> {
    let mut told = vec![
        format!("{:?} {} {:?}", snapshot.identity(), snapshot.revision(), snapshot.lock_state()),
        format!("{:?} {:?} {}", snapshot.source_position(), snapshot.boot_id(), snapshot.populated()),
        format!("{:?} {:?}", snapshot.slots(), snapshot.findings()),
    ];
    for object in snapshot.objects() {
        let body = match snapshot.get(object.key) {
            Lookup::Found(found) => data_encoding::BASE64.encode(found.body.expose()),
            _ => "not to be had".to_owned(),
        };
        told.push(format!("{object:?} {body}"));
        let key = object.key;
        told.push(format!("{:?} {} {}", snapshot.lifecycle(key), snapshot.gone(key), snapshot.held(key)));
    }
    told.extend(snapshot.log().map(|record| format!("{record:?}")));
    told
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_record_comes_back(keyed: bool, steps in proptest::collection::vec(step(), 0..12), others in proptest::collection::vec(step(), 0..4)) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let secret = common::secret();
        let new = || NewStore { identity: common::identity(), secret: keyed.then_some(&secret) };
        let (path, backup, target) = (at("store.db"), at("backup.db"), at("target.db"));
        let mut store = RedbStore::create(&path, new(), Box::new(SystemEntropy)).unwrap();
        steps.iter().zip(common::NOW..).for_each(|(step, now)| apply(&mut store, &secret, step, now));
        let image = store.image().unwrap();
        let live = StoreCopy::of_image(&path, image, &[]).unwrap();
        drop(store);
        let octets = fs::read(&path).unwrap();
        let want = raw(&path);
        let snapshot = told(open_offline(&path, &[&secret]).unwrap().get());

        // From the file, with the key; from an image, without.
        let copy = StoreCopy::of_file(&path, &[&secret]).unwrap();
        prop_assert_eq!(told(copy.snapshot()), snapshot.clone());
        let saved = copy.save(&backup, Existing::Refuse).unwrap().into_inner();
        prop_assert_eq!(saved.octets, fs::metadata(&backup).unwrap().len());
        prop_assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o7777, 0o600);
        prop_assert_eq!(&raw(&backup), &want);
        prop_assert_eq!(told(open_offline(&backup, &[&secret]).unwrap().get()), snapshot.clone());
        live.save(&backup, Existing::Replace).unwrap().into_inner();
        prop_assert_eq!(&raw(&backup), &want);
        let piped = copy.octets().unwrap();
        prop_assert_eq!(told(open_image(piped.clone(), &[&secret]).unwrap().get()), snapshot.clone());
        fs::write(at("piped.db"), piped).unwrap();
        prop_assert_eq!(&raw(&at("piped.db")), &want);
        prop_assert!(fs::read(&path).unwrap() == octets, "the store was written to");

        // Over another store, which is kept.
        let mut other = RedbStore::create(&target, new(), Box::new(SystemEntropy)).unwrap();
        others.iter().zip(common::NOW..).for_each(|(step, now)| apply(&mut other, &secret, step, now));
        drop(other);
        let before = fs::read(&target).unwrap();
        let put = StoreCopy::of_file(&backup, &[]).unwrap().put_in_place(&target, 5).unwrap().into_inner();
        prop_assert_eq!(put.kept_at.clone(), Some(at("target.db.replaced-5")));
        prop_assert_eq!(&raw(&target), &want);
        prop_assert!(fs::read(put.kept_at.unwrap()).unwrap() == before);
        prop_assert_eq!(names(directory.path()), ["backup.db", "piped.db", "store.db", "target.db", "target.db.replaced-5"]);

        // And what was put back goes on from there.
        let mut again = RedbStore::open(&target, &[&secret], Box::new(SystemEntropy)).unwrap();
        let revision = again.snapshot().unwrap().get().revision();
        let boot = again.update(vec![Change::Boot("another".to_owned())], common::NOW).unwrap();
        prop_assert_eq!(boot.get().revision.0, revision.0 + 1);
    }
}

#[test]
fn where_there_was_no_store_it_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let (path, target) = (directory.path().join("store.db"), directory.path().join("var/lib/target.db"));
    drop(common::store_with(&path, common::objects(2), &common::secret()));
    let copy = StoreCopy::of_file(&path, &[]).unwrap();
    assert_eq!(copy.put_in_place(&target, 5).unwrap().get().kept_at, None);
    assert_eq!(raw(&target), raw(&path));
    assert_eq!(fs::metadata(target.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o700);
}

/// The same second twice, and a file of somebody else under the next name.
#[test]
fn what_was_replaced_is_never_replaced_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (path, target) = (directory.path().join("store.db"), directory.path().join("target.db"));
    drop(common::store_with(&path, common::objects(2), &common::secret()));
    fs::write(&target, "no store at all").unwrap();
    fs::write(directory.path().join("target.db.replaced-5"), "somebody's").unwrap();
    let copy = StoreCopy::of_file(&path, &[]).unwrap();
    let kept = || copy.put_in_place(&target, 5).unwrap().into_inner().kept_at.unwrap();
    assert_eq!(fs::read_to_string(kept()).unwrap(), "no store at all");
    assert_eq!(kept(), directory.path().join("target.db.replaced-5-2"));
    assert_eq!(fs::read_to_string(directory.path().join("target.db.replaced-5")).unwrap(), "somebody's");
}

#[test]
fn a_damaged_record_is_copied_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (path, backup) = (directory.path().join("store.db"), directory.path().join("backup.db"));
    let secret = common::secret();
    drop(common::store_with(&path, common::objects(3), &secret));
    damage(&path, ("Secret", "default", "s0"));
    let copy = StoreCopy::of_file(&path, &[&secret]).unwrap();
    assert_eq!(copy.snapshot().findings().len(), 1);
    let _ = copy.save(&backup, Existing::Refuse).unwrap();
    assert_eq!(raw(&backup), raw(&path));
    let read = |path: &Path| told(open_offline(path, &[&secret]).unwrap().get());
    assert_eq!(read(&backup), read(&path));
}

/// A copy of a file whose structure is damaged has everything that reads, in a structure that is sound; what is lost is named
/// there too.
#[test]
fn what_reads_of_a_damaged_file_is_copied() {
    install_panic_hook();
    let directory = tempfile::tempdir().unwrap();
    let (path, backup) = (directory.path().join("store.db"), directory.path().join("backup.db"));
    let secret = common::secret();
    drop(common::store_with(&path, common::objects(40), &secret));
    let whole = fs::read(&path).unwrap();
    let (mut copied, mut lost) = (0, 0);
    for page in (4096..whole.len()).step_by(4096).filter(|at| whole[*at..*at + 4096].iter().any(|octet| *octet != 0)) {
        let mut damaged = whole.clone();
        damaged[page + 2] ^= 0x55;
        fs::write(&path, &damaged).unwrap();
        let Ok(copy) = StoreCopy::of_file(&path, &[&secret]) else { continue };
        let _ = copy.save(&backup, Existing::Replace).unwrap();
        let after = open_offline(&backup, &[&secret]).unwrap().into_inner();
        let objects = |snapshot: &Snapshot| snapshot.objects().map(|object| format!("{object:?}")).collect::<Vec<_>>();
        assert_eq!(objects(&after), objects(copy.snapshot()), "page at {page}");
        let is_lost = objects(&after).len() < 121;
        assert!(!is_lost || !after.findings().is_empty(), "page at {page}: nobody notices what is lost");
        copied += usize::from(!copy.snapshot().findings().is_empty());
        lost += usize::from(is_lost);
    }
    assert!(copied > 5 && lost > 0, "{copied} copies of damaged files, of which {lost} had lost something");
}
