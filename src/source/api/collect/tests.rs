//! Scripts of what is seen and what the collector makes of it, one line for each call.
//!
//! `MS CALL => ACTIONS`. A pod is written `name@version:objects`, an object `name@version`; letters before a version's
//! digits are its UID. `+x@1` comes with a pod, `-y` is told to be absent (`~y`: forbidden). Patience is 5000 ms. All
//! objects are Secrets; `Bad` is a name that is refused.

use serde_json::json;

use super::*;
use crate::checkpoint::object::Kind;

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "d", name).unwrap()
}

fn object(kind: Kind, name: &str, version: &str, body: &serde_json::Value) -> Object {
    let uid = version.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    Object {
        key: key(kind, name),
        uid,
        resource_version: version.to_owned(),
        body: body.to_string().into_bytes().into(),
    }
}

fn pod(text: &str) -> Object {
    let (name, rest) = text.split_once('@').unwrap();
    let (version, names) = rest.split_once(':').unwrap_or((rest, ""));
    let volumes: Vec<_> = names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| json!({"name": name, "secret": {"secretName": name}}))
        .collect();
    let body = json!({"spec": {"containers": [{"name": "c"}], "volumes": volumes}});
    object(Kind::Pod, name, version, &body)
}

fn call(collector: &mut Collector, text: &str, now_ms: u64) -> Vec<Action> {
    let words: Vec<_> = text.split_whitespace().collect();
    let answer = |name: &str, answer| Seen::Answer { key: key(Kind::Secret, name), answer };
    let seen = match words[..] {
        ["list", position, ref pods @ ..] => {
            Seen::Listed { pods: pods.iter().map(|text| pod(text)).collect(), position: position.to_owned() }
        }
        ["pod", text] => Seen::Pod(pod(text)),
        ["gone", name, uid] => Seen::PodGone { key: key(Kind::Pod, name), uid: uid.trim_matches('"').to_owned() },
        ["found", name, version] => {
            answer(name, Answer::Found(object(Kind::Secret, name, version, &json!({"data": {}}))))
        }
        ["missing", name] => answer(name, Answer::Absent(Absence::NotFound)),
        ["forbidden", name] => answer(name, Answer::Absent(Absence::Forbidden)),
        ["unseen", name] => answer(name, Answer::NotSeen),
        ["failed", name] => answer(name, Answer::Failed),
        ["tick"] => return collector.tick(now_ms),
        ["forget"] => return collector.forget(),
        _ => panic!("{text}"),
    };
    collector.see(seen, now_ms)
}

fn shown_object(object: &Object) -> String {
    format!("{}@{}", object.key.name(), object.resource_version)
}

fn shown_pod(gathered: &Gathered) -> String {
    let mut shown = shown_object(&gathered.pod);
    gathered.with.iter().for_each(|object| shown += &format!(" +{}", shown_object(object)));
    gathered.absent.iter().for_each(|(key, why)| shown += &format!(" {}", shown_absent(key, *why)));
    shown
}

fn shown_absent(key: &ObjectKey, why: Absence) -> String {
    let sign = match why {
        Absence::NotFound => '-',
        Absence::Forbidden => '~',
    };
    format!("{sign}{}", key.name())
}

fn shown(action: &Action) -> String {
    match action {
        Action::Track(key) => format!("track {}", key.name()),
        Action::Refetch(key) => format!("refetch {}", key.name()),
        Action::Untrack(key) => format!("untrack {}", key.name()),
        Action::Emit(Step::Listing { pods, position }) => {
            format!("LISTING {position} [{}]", pods.iter().map(shown_pod).collect::<Vec<_>>().join(", "))
        }
        Action::Emit(Step::Pod(gathered)) => format!("POD {}", shown_pod(gathered)),
        Action::Emit(Step::PodGone { key, uid }) => format!("GONE {} {uid:?}", key.name()),
        Action::Emit(Step::Object(object)) => format!("OBJECT {}", shown_object(object)),
        Action::Emit(Step::ObjectAbsent { key, why }) => format!("ABSENT {}", shown_absent(key, *why)),
        Action::Emit(step @ (Step::Node(_) | Step::Services { .. })) => panic!("{step:?}"),
    }
}

/// Runs a script. `due` as a call shows when the next tick is due.
fn play(script: &str) {
    let mut collector = Collector::new(5000);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (line, want) = line.split_once("=>").unwrap_or_else(|| panic!("{line}"));
        let (now_ms, text) = line.trim().split_once(' ').unwrap();
        let told = match text.trim() {
            "due" => collector.due().map_or("never".to_owned(), |due_ms| due_ms.to_string()),
            "refused" => collector.refused().map(|error| error.pod.name().to_owned()).collect::<Vec<_>>().join(", "),
            text => {
                call(&mut collector, text, now_ms.parse().unwrap()).iter().map(shown).collect::<Vec<_>>().join("; ")
            }
        };
        assert_eq!(told, want.trim(), "at {line}\nof {script}");
    }
}

#[test]
fn a_pod_waits_for_the_answers_about_its_objects() {
    play(
        "0    pod a@u1             => POD a@u1
         0    pod b@u1:x,y         => track x; track y
         0    due                  => 5000
         10   found y 1            =>
         20   pod c@u1:z           => track z
         30   missing z            => POD c@u1 -z
         40   found x 1            => POD b@u1 +x@1 +y@1
         40   due                  => never
         50   pod d@u1:x,y,z       => POD d@u1 -z
         60   pod e@u1:w           => track w
         70   forbidden w          => POD e@u1 ~w",
    );
}

#[test]
fn patience_ends_the_waiting_and_late_answers_follow() {
    play(
        "100  pod a@u1:x,y         => track x; track y
         200  found y 1            =>
         300  failed x             =>
         300  due                  => 5100
         5099 tick                 =>
         5100 tick                 => POD a@u1 +y@1
         5100 due                  => never
         5200 failed x             =>
         5300 found x 1            => OBJECT x@1
         5400 pod b@u1:z           => track z
         9999 pod c@u1             => POD c@u1
         10400 pod d@u1            => POD b@u1; POD d@u1
         10500 missing z           => ABSENT -z",
    );
}

#[test]
fn what_a_get_did_not_find_is_waited_for_no_more_and_stays_stored() {
    play(
        "0    pod a@u1:x,y         => track x; track y
         10   found y 1            =>
         20   unseen x             => POD a@u1 +y@1
         30   unseen y             =>
         40   pod a@u2:x,y         => POD a@u2
         50   found x 1            => OBJECT x@1
         60   found y 2            => OBJECT y@2",
    );
}

#[test]
fn a_newer_version_takes_the_place_of_a_waiting_one_and_keeps_its_deadline() {
    play(
        "0    pod a@u1:x,y         => track x; track y
         10   found y 1            =>
         4000 pod a@u2:x,z         => track z; untrack y
         4000 due                  => 5000
         4100 found z 1            =>
         5000 tick                 => POD a@u2 +z@1
         5100 found y 1            =>
         5200 found x 1            => OBJECT x@1",
    );
    // The version that is stored already comes back: nothing is left to wait for.
    play(
        "0    pod a@u1             => POD a@u1
         10   pod a@u2:x           => track x
         20   pod a@u1             => untrack x
         20   due                  => never
         30   pod a@u2             => POD a@u2",
    );
}

#[test]
fn what_is_unchanged_is_emitted_once() {
    play(
        "0    pod a@u1:x           => track x
         10   found x o1           => POD a@u1 +x@o1
         20   pod a@u1:x           =>
         30   found x o1           =>
         40   found x o2           => OBJECT x@o2
         50   found x p2           => OBJECT x@p2
         60   missing x            => ABSENT -x
         70   missing x            =>
         80   failed x             =>
         90   forbidden x          => ABSENT ~x
         100  found x p2           => OBJECT x@p2
         110  pod b@u1:x           => POD b@u1
         120  pod a@u2:x           => POD a@u2
         130  pod a@u1:x           => POD a@u1",
    );
}

#[test]
fn trackers_are_shared_and_end_with_the_last_pod() {
    play(
        r#"0    pod a@u1:x           => track x
         10   pod b@u1:x           =>
         20   found x 1            => POD a@u1 +x@1; POD b@u1
         30   gone a "u"           => GONE a "u"
         40   found x 2            => OBJECT x@2
         50   pod b@u2:y           => track y
         60   missing y            => POD b@u2 -y; untrack x
         70   found x 3            =>
         80   gone b "u"           => GONE b "u"; untrack y
         90   pod c@u1:x           => track x
         100  gone c "u"           => GONE c "u"; untrack x
         100  due                  => never"#,
    );
}

#[test]
fn the_newest_answer_is_held_for_those_that_wait() {
    play(
        "0    pod a@u1:x,y         => track x; track y
         10   found x 1            =>
         20   found x 2            =>
         30   missing x            =>
         40   found x 3            =>
         50   pod b@u1:x           => POD b@u1 +x@3
         60   found y 1            => POD a@u1 +y@1",
    );
}

#[test]
fn what_the_store_drops_with_a_pod_is_read_anew_for_another() {
    play(
        r#"0    pod a@u1:x           => track x
         0    found x 1            => POD a@u1 +x@1
         10   pod b@u1:x,y         => track y
         20   gone a "u"           => GONE a "u"; refetch x
         30   found y 1            =>
         40   found x 1            => POD b@u1 +x@1 +y@1"#,
    );
    // A pod that stops naming it is no different; a pod that is still there keeps it.
    play(
        "0    pod a@u1:x           => track x
         0    found x 1            => POD a@u1 +x@1
         10   pod b@u1:x,y         => track y
         20   pod a@u2             => POD a@u2; refetch x
         5010 tick                 => POD b@u1
         5020 found x 1            => OBJECT x@1
         5030 found y 1            => OBJECT y@1
         5040 pod c@u1:x,z         => track z
         5050 pod b@u2:y           => POD b@u2; refetch x",
    );
    // An absence is remembered, and what was never answered is still on its way.
    play(
        r#"0    pod a@u1:x,y         => track x; track y
         0    missing x            =>
         5000 tick                 => POD a@u1 -x
         5000 pod b@u1:x,y         =>
         5010 gone a "u"           => GONE a "u"
         5020 found y 1            => POD b@u1 +y@1 -x"#,
    );
    // What becomes ready together: those that take come before those that stop naming.
    play(
        "0    pod a@u1:x           => track x
         0    found x 1            => POD a@u1 +x@1
         10   pod a@u2:y           => track y
         20   pod b@u1:x,y         =>
         30   found y 1            => POD b@u1 +y@1; POD a@u2",
    );
}

#[test]
fn a_listing_waits_for_all_its_pods() {
    play(
        "0    list 7               => LISTING 7 []
         10   list 8 a@u1 b@u1:x c@u1:y => track x; track y
         10   due                  => 5010
         20   found x 1            =>
         30   found y 1            => LISTING 8 [a@u1, b@u1 +x@1, c@u1 +y@1]
         40   list 9 a@u1 b@u1:x c@u2:x => LISTING 9 [a@u1, b@u1, c@u2]; untrack y
         50   list 10 a@u2:z       => track z
         5050 tick                 => LISTING 10 [a@u2]
         5060 found z 1            => OBJECT z@1",
    );
    // Shared objects are carried once.
    play(
        "0    list 7 a@u1:x b@u1:x => track x
         10   found x 1            => LISTING 7 [a@u1 +x@1, b@u1]",
    );
    // The last of two of one name counts.
    play("0   list 7 a@u1:x a@u2:y => track x; track y; untrack x");
}

#[test]
fn what_is_seen_while_a_listing_waits_is_folded_into_it() {
    play(
        r#"0    pod e@u1             => POD e@u1
         0    pod f@u1             => POD f@u1
         0    list 7 a@u1:x b@u1 c@u1 e@u1 => track x
         10   pod b@u2             =>
         20   pod d@u1             =>
         30   gone c "u"           => GONE c "u"
         40   gone e "u"           => GONE e "u"
         50   pod f@u1             =>
         60   found x 1            => LISTING 7 [a@u1 +x@1, b@u2, d@u1, f@u1]
         70   pod b@u2             =>"#,
    );
    // It may be the gone one that the listing waits for.
    play(
        r#"0    list 7 a@u1:x b@u1    => track x
         10   gone a "u"           => GONE a "u"; untrack x; LISTING 7 [b@u1]"#,
    );
    // A pod that joins late keeps its own patience, and a changed one has the listing's.
    play(
        "0    list 7 a@u1:x b@u1    => track x
         4000 pod c@u1:y           => track y
         4000 pod b@u2:z           => track z
         4000 due                  => 5000
         5000 tick                 => LISTING 7 [a@u1, b@u2]
         5000 due                  => 9000
         9000 tick                 => POD c@u1",
    );
    // What waited before the listing came waits with it, as a member or after it.
    play(
        "0    pod a@u1:x           => track x
         0    pod b@u1:y           => track y
         4000 list 7 a@u1:x c@u1:z => track z
         5000 tick                 =>
         5000 due                  => 9000
         6000 found z 1            => LISTING 7 [a@u1, c@u1 +z@1]; POD b@u1",
    );
}

#[test]
fn a_listing_that_replaces_a_waiting_one_is_due_with_it() {
    play(
        "0    pod d@u1             => POD d@u1
         0    list 7 a@u1:x b@u1:y d@u1 => track x; track y
         4000 list 8 a@u1:x c@u1:z => track z
         4000 due                  => 5000
         4500 found z 1            =>
         5000 tick                 => LISTING 8 [a@u1, c@u1 +z@1]; POD b@u1
         5000 due                  => never",
    );
}

#[test]
fn a_pod_that_a_listing_lacks_stays_until_it_is_proven_gone() {
    play(
        r#"0    pod a@u1:x           => track x
         0    found x 1            => POD a@u1 +x@1
         10   list 7 b@u1          => LISTING 7 [b@u1]
         20   found x 2            => OBJECT x@2
         30   gone a "u"           => GONE a "u"; untrack x
         40   gone a "u"           => GONE a "u""#,
    );
}

#[test]
fn a_pod_that_is_made_anew_replaces_the_earlier_one() {
    play(
        r#"0    pod a@u1:x           => track x
         0    found x 1            => POD a@u1 +x@1
         10   pod a@v1:x,y         => track y
         20   gone a "u"           =>
         30   found y 1            => POD a@v1 +y@1
         40   gone a "u"           => GONE a "u"
         50   gone a "v"           => GONE a "v"; untrack x; untrack y"#,
    );
    // It goes before it was emitted: what is stored under its name had been replaced by it.
    play(
        r#"0    pod a@u1:x           => track x
         0    found x 1            => POD a@u1 +x@1
         10   pod a@v1:x,y         => track y
         20   gone a "v"           => GONE a "u"; untrack x; untrack y"#,
    );
    // An earlier run may have stored a pod that this one has never seen.
    play(
        r#"0    gone a "u"           => GONE a "u"
         10   pod a@v1:x           => track x
         20   gone a "u"           => GONE a "u"
         30   found x 1            => POD a@v1 +x@1"#,
    );
}

#[test]
fn a_pod_whose_references_cannot_be_followed_is_passed_on_without_objects() {
    play(
        r#"0    pod a@u1:Bad,x       => POD a@u1
         0    refused              => a
         10   pod a@u1:Bad,x       =>
         20   pod a@u2:x           => track x
         30   found x 1            => POD a@u2 +x@1
         30   refused              =>
         40   pod a@u3:Bad         => POD a@u3
         50   found x 2            => OBJECT x@2
         60   gone a "u"           => GONE a "u"; untrack x
         60   refused              =>"#,
    );
    // The store keeps the last version that it could take, but not one of another pod; what that named goes.
    play(
        r#"0    pod a@u1:x           => track x
         0    found x 1            => POD a@u1 +x@1
         10   pod b@u1:x,y         => track y
         20   pod a@v1:Bad         => POD a@v1; GONE a "u"; refetch x
         30   list 7 a@v1:Bad      => LISTING 7 [a@v1]
         40   found x 1            =>
         50   found y 1            => POD b@u1 +x@1 +y@1"#,
    );
}

#[test]
fn forgetting_starts_from_nothing() {
    play(
        "0    pod a@u1:x           => track x
         0    found x 1            => POD a@u1 +x@1
         10   list 7 a@u1:x b@u1:y => track y
         20   forget               => untrack x; untrack y
         20   due                  => never
         30   found x 1            =>
         40   pod a@u1:x           => track x
         50   found x 1            => POD a@u1 +x@1",
    );
}

#[test]
fn a_moved_clock_does_no_harm() {
    let mut collector = Collector::new(u64::MAX);
    assert_eq!(collector.see(Seen::Pod(pod("a@u1:x")), u64::MAX - 1).len(), 1);
    assert!(collector.tick(0).is_empty());
    assert_eq!(collector.due(), Some(u64::MAX));
}
