//! When a copy goes, once the API server answers again; what remains of it, and what is said of it.

use super::testing::{Node, annotated, host_network, name, plain, standing_in, yields};
use super::{Alarm, Class, HANDED_OVER_MS, State, Why};
use crate::checkpoint::examine::Examined;
use crate::checkpoint::look::{Answers, ContainerState, Kubelet, Sandbox};
use crate::checkpoint::node::Fact;
use crate::checkpoint::verdict::{NotMeant, Note, Reason, Verdict};

use ContainerState::{Created, Exited, Running};

/// What of the parent makes which copy go, at the look at which it is seen first and ten seconds later.
#[test]
fn the_three_classes() {
    type Step = fn(&mut Node);
    let classes = [
        (Class::YieldFirst, yields as fn(&str) -> Examined),
        (Class::HostNetwork, host_network),
        (Class::Overlap, annotated),
    ];
    let (stays, goes) = (["web", "web"], ["", ""]);
    #[rustfmt::skip]
    let rows: [(&str, Step, [[&str; 2]; 3]); 9] = [
        //                                                                            yield first  host network  overlap
        ("nothing is heard",        |_| (),                                           [stays,      stays,        stays]),
        ("it refuses",              |n| { n.api(Answers::Refusing); },               [stays,      stays,        stays]),
        ("it is named",             |n| { n.api(Answers::Answering); },              [goes,       stays,        stays]),
        // What an emptied etcd looks like.
        ("nobody is named",         |n| n.api(Answers::Answering).look.api.sighted.clear(), [stays, stays,       stays]),
        ("before it is stored",     |n| n.api(Answers::Answering).look.api.in_step = false, [goes, stays,        stays]),
        ("a sandbox",               |n| { n.api(Answers::Answering).parent("web", "1", None); },          [goes, stays, stays]),
        ("a container",             |n| { n.api(Answers::Answering).parent("web", "1", Some(Created)); }, [goes, goes,  stays]),
        ("it crashed",              |n| { n.api(Answers::Answering).parent("web", "1", Some(Exited)); },  [goes, goes,  stays]),
        ("it runs",                 |n| { n.api(Answers::Answering).parent("web", "1", Some(Running)); }, [goes, goes,  ["web", ""]]),
    ];
    for (about, step, wants) in rows {
        for ((class, pod), want) in classes.iter().zip(wants) {
            let mut node = standing_in([pod("web")]);
            assert_eq!(node.standing("web").class, *class);
            step(&mut node);
            let found = [node.active(), node.later(10).active()];
            assert_eq!(found, want, "{about}: {class:?}");
            let handed_over = matches!(node.standing("web").state, State::HandedOver { .. });
            assert_eq!(handed_over, found[1].is_empty(), "{about}: {class:?}");
        }
    }
}

/// Whatever else is known: a parent that runs is not doubled, with or without an API server.
#[test]
fn a_parent_that_runs_in_silence_takes_over() {
    for (pod, seconds) in [(yields as fn(&str) -> Examined, 0), (host_network, 0), (annotated, 10)] {
        let mut node = standing_in([pod("web")]);
        node.parent("web", "1", Some(Running)).decide();
        assert_eq!(node.later(seconds).active(), "");
    }
}

#[test]
fn an_overlapping_copy_waits_for_a_parent_that_runs_well() {
    let mut node = standing_in([plain("web")]);
    node.api(Answers::Answering).parent("web", "1", Some(Running)).decide();
    assert_eq!(node.later(9).active(), "web");
    assert_eq!(node.lives.as_ref().unwrap().next_ms, Some(node.look.now_ms + 1000), "that is when it is looked again");
    // A restart begins anew.
    assert_eq!(node.parent("web", "2", Some(Running)).later(1).active(), "web");
    assert_eq!(node.later(9).active(), "web");
    assert_eq!(node.later(1).active(), "");

    // Its second container does not run yet.
    let mut node = standing_in([Examined { containers: vec!["c".to_owned(), "d".to_owned()], ..plain("web") }]);
    node.api(Answers::Answering).parent("web", "1", Some(Running)).decide();
    assert_eq!(node.later(100).active(), "web");
}

/// The API server's "ready" is of the containers that run, or it is of those before the power went.
#[test]
fn ready_counts_for_these_very_containers() {
    for (ready, want) in [("1", ""), ("of-before", "web")] {
        let mut node = standing_in([plain("web")]);
        node.checkpoint("web").examined.ready = Some([ready.to_owned()].into());
        assert_eq!(node.api(Answers::Answering).parent("web", "1", Some(Running)).active(), want, "{ready}");
    }
}

/// Nothing runs either way, so there is no gap to avoid.
#[test]
fn a_copy_that_crashes_gives_way_to_a_parent_that_crashes() {
    let mut node = standing_in([plain("web")]);
    node.copy("web", Some(Exited)).api(Answers::Answering).parent("web", "1", Some(Exited));
    assert_eq!(node.active(), "");
}

// ---- A host-network parent that was there before ---------------------------------------------------------------------

/// A container that was there before the API server answered is no sign of a kubelet that knows the pod: the copy of an API
/// server would go for a parent that never comes.
#[test]
fn a_container_of_before_is_no_sign_of_the_parent() {
    let mut node = Node::bright([host_network("web")]);
    node.parent("web", "1", Some(Running)).decide();
    node.api(Answers::Silent).later(100).decide();
    // The kubelet starts anew, and the parent dies.
    node.look.kubelet = Fact::Known(Kubelet::Running { since_ms: node.look.now_ms });
    assert_eq!(
        node.parent("web", "1", Some(Exited)).later(1).active(),
        "web",
        "it is not held back by what is left of it"
    );
    assert_eq!(node.copy("web", Some(Running)).api(Answers::Answering).later(5).active(), "web");
    assert_eq!(node.later(25).active(), "web");
    assert_eq!(node.parent("web", "2", Some(Exited)).active(), "");

    // An agent that has just started knows no better.
    let mut node = standing_in([host_network("web")]);
    node.timeline = super::Timeline::default();
    assert_eq!(node.api(Answers::Answering).parent("web", "1", Some(Exited)).active(), "web");
    assert_eq!(node.parent("web", "2", Some(Exited)).active(), "");
}

/// A kubelet that was started while the API server answered for a moment may know nothing.
#[test]
fn a_held_parent_is_not_held_for_ever() {
    let mut node = Node::bright([plain("web")]);
    node.parent("web", "1", Some(Exited)).decide();
    node.api(Answers::Silent);
    assert_eq!(node.later(359).active(), "");
    assert_eq!(node.standing("web").why, Why::ParentHeld);
    assert_eq!(node.lives.as_ref().unwrap().next_ms, Some(node.look.now_ms + 1000));
    node.later(1).decide();
    assert_eq!(node.later(30).active(), "web");

    // One that is tried again is in good hands.
    let mut node = Node::bright([plain("web")]);
    node.parent("web", "1", Some(Exited)).decide();
    node.api(Answers::Silent);
    for attempt in 2..20 {
        assert_eq!(node.parent("web", &attempt.to_string(), Some(Exited)).later(300).active(), "");
    }
}

// ---- After a hand-over -----------------------------------------------------------------------------------------------

#[test]
fn after_a_hand_over_the_parent_is_left_alone() {
    let mut node = standing_in([yields("web")]);
    assert_eq!(node.api(Answers::Answering).active(), "");
    assert_eq!(node.standing("web").state, State::HandedOver { left_ms: HANDED_OVER_MS });
    for second in 1..360 {
        assert_eq!(node.later(1).active(), "", "{second}");
    }
    assert_eq!(node.standing("web").state, State::HandedOver { left_ms: 1000 });

    // Its sandbox is there, and nobody answers any more.
    let mut node = standing_in([host_network("web")]);
    assert_eq!(node.api(Answers::Answering).parent("web", "1", Some(Exited)).active(), "");
    node.api(Answers::Silent);
    assert_eq!(node.later(350).active(), "");
    // Nothing is left of it.
    node.sandboxes().clear();
    node.decide();
    assert_eq!(node.later(30).active(), "web");
}

/// Its going takes the API server away, and so the parent never comes: it must not come and go for ever.
#[test]
fn a_copy_that_serves_the_api_waits_for_its_parent_the_second_time() {
    let mut node = standing_in([Examined { host_network: true, ..yields("etcd") }]);
    assert_eq!(node.api(Answers::Answering).active(), "");
    node.sandboxes().clear();
    assert_eq!(node.api(Answers::Silent).later(5).active(), "etcd");
    node.copy("etcd", Some(Running)).later(10).api(Answers::Answering);
    assert_eq!(node.active(), "etcd");
    assert_eq!(node.later(59).active(), "etcd");
    assert_eq!(node.lives.as_ref().unwrap().next_ms, Some(node.look.now_ms + 1000));
    // The kubelet has seen it meanwhile.
    assert_eq!(node.parent("etcd", "1", Some(Created)).active(), "");

    // What needs its host port for itself does not wait: its parent would be rejected.
    let mut node = standing_in([yields("web")]);
    node.api(Answers::Answering).decide();
    node.sandboxes().clear();
    assert_eq!(node.api(Answers::Silent).later(5).active(), "web");
    assert_eq!(node.api(Answers::Answering).later(1).active(), "");
}

/// What the API server names at last was there before: its container is no sign of it either.
#[test]
fn a_container_of_a_successor_that_is_not_stored_may_be_of_before() {
    let mut node = standing_in([host_network("web")]);
    let dead = |node: &mut Node, id: &str| {
        node.parent("web", id, Some(Exited));
        let dead = node.sandboxes().pop().unwrap();
        node.sandboxes().push(Sandbox { uid: "uid-new".to_owned(), ..dead });
    };
    dead(&mut node, "1");
    node.decide();
    node.api(Answers::Answering).look.api.sighted.insert(name("web"), "uid-new".to_owned());
    assert_eq!(node.later(20).active(), "web");
    node.sandboxes().retain(|sandbox| sandbox.uid != "uid-new");
    dead(&mut node, "2");
    assert_eq!(node.active(), "");
}

// ---- Room ------------------------------------------------------------------------------------------------------------

/// As many as there are pods too many, the lowest priority first; those that go anyway count.
#[test]
fn copies_make_room_for_parents() {
    let with = |pod: &str, priority| Examined { priority, ..plain(pod) };
    let pods = || [with("a", 3), with("b", 1), with("c", 2), Examined { yield_first: true, ..with("d", 4) }];
    #[rustfmt::skip]
    let rows = [
        (8, 0, "a b c"),
        (7, 0, "a b c"),
        (6, 0, "a c"),
        (5, 0, "a"),
        (4, 0, ""),
        (7, 1, "a c"),
        (1, 0, ""),
    ];
    for (room, others, want) in rows {
        let mut node = standing_in(pods());
        (node.rules.pods_max, node.rules.others) = (Some(room), others);
        assert_eq!(node.api(Answers::Answering).active(), want, "room for {room}, {others} others");
        // The rest find their places.
        assert_eq!(node.later(1).active(), want, "room for {room}, {others} others, again");
    }
    // A copy that has learned to be patient goes all the same.
    let mut node = standing_in([Examined { host_network: true, ..yields("etcd") }]);
    node.api(Answers::Answering).decide();
    node.sandboxes().clear();
    assert_eq!(node.api(Answers::Silent).later(5).active(), "etcd");
    node.rules.pods_max = Some(1);
    assert_eq!(node.api(Answers::Answering).later(1).active(), "");

    let mut node = standing_in(pods());
    node.rules.pods_max = Some(5);
    node.api(Answers::Answering).look.api.in_step = false;
    assert_eq!(node.active(), "a", "what the API server names is enough");

    // A pod that is gone takes its place as long as it has a sandbox.
    for (gone_has_sandbox, want) in [(false, "left right"), (true, "left")] {
        let mut node = standing_in([plain("left"), plain("right")]);
        node.rules.pods_max = Some(3);
        node.api(Answers::Answering).checkpoint("left").gone = true;
        node.look.api.sighted.remove(&name("left"));
        if gone_has_sandbox {
            node.parent("left", "p", Some(ContainerState::Running));
        }
        assert_eq!(node.active(), want, "the one that is gone has a sandbox: {gone_has_sandbox}");
    }
}

// ---- A parent that is gone, or over ----------------------------------------------------------------------------------

#[test]
fn a_grace_period_is_of_answering_time() {
    let mut node = standing_in([plain("web")]);
    node.api(Answers::Answering).look.api.sighted.clear();
    node.checkpoint("web").gone = true;
    assert_eq!(node.active(), "web");
    assert_eq!(node.later(20).active(), "web");
    let left = |node: &Node| match node.standing("web").state {
        State::ActiveGrace { left_ms } => left_ms / 1000,
        state => panic!("{state}"),
    };
    assert_eq!(left(&node), 40);
    assert_eq!(node.api(Answers::Silent).later(500).active(), "web");
    assert_eq!((left(&node), node.standing("web").why.clone()), (40, Why::GraceStopped));
    // It answers again between two looks: what was before does not count.
    node.later(500).api(Answers::Answering).look.api.sighted.clear();
    assert_eq!(node.later(5).active(), "web");
    assert_eq!(left(&node), 35);
    assert_eq!(node.later(35).active(), "");
    assert!(node.checkpoints.is_empty());
}

/// What is stored says nothing of now before a listing of this time of answering is durable.
#[test]
fn what_is_stored_counts_when_it_is_in_step() {
    let mut node = standing_in([plain("web")]);
    node.api(Answers::Answering).look.api.sighted.clear();
    node.look.api.in_step = false;
    node.checkpoint("web").gone = true;
    assert_eq!(node.later(1000).active(), "web");
    assert_eq!(node.standing("web").state, State::Active);
    node.look.api.in_step = true;
    assert_eq!(node.active(), "web");
    assert_eq!(node.standing("web").state, State::ActiveGrace { left_ms: 60_000 });
}

/// What is recorded is at most ten seconds old, so that a crash costs no more.
#[test]
fn what_is_left_is_recorded_now_and_then() {
    let mut node = standing_in([plain("web")]);
    node.api(Answers::Answering).look.api.sighted.clear();
    node.checkpoint("web").gone = true;
    node.decide();
    let mut recorded = Vec::new();
    for _ in 0..25 {
        node.later(1).decide();
        recorded.extend(node.lives.as_ref().unwrap().records.iter().map(|record| record.state));
    }
    assert_eq!(recorded, [State::ActiveGrace { left_ms: 50_000 }, State::ActiveGrace { left_ms: 40_000 }]);
}

/// A removal that could not be stored is no removal: the pod may be back.
#[test]
fn a_removal_that_was_not_stored_is_decided_again() {
    let mut node = standing_in([plain("web")]);
    node.api(Answers::Answering).look.api.sighted.clear();
    node.checkpoint("web").gone = true;
    node.decide();
    let kept = node.checkpoints.clone();
    assert_eq!(node.later(60).active(), "");
    // The store was read-only.
    node.checkpoints = kept;
    node.api(Answers::Silent).later(1).decide();
    assert_eq!(node.checkpoints.len(), 1, "silence removes nothing");
    node.checkpoint("web").gone = false;
    node.api(Answers::Answering).later(1).decide();
    assert_eq!(node.checkpoints.len(), 1, "it is there again");
    assert_eq!(node.standing("web").state, State::Inactive);
}

/// What is seen of a pod is newer than what is stored of it.
#[test]
fn what_is_named_is_not_gone() {
    let mut node = standing_in([yields("web")]);
    node.checkpoint("web").gone = true;
    node.api(Answers::Answering).look.api.sighted.insert(name("web"), "uid-new".to_owned());
    assert_eq!(node.active(), "", "its successor gets the port");
    assert!(matches!(node.standing("web").state, State::HandedOver { .. }));
}

/// A pod that was made anew has another UID; its predecessor's copy is handed over to it.
#[test]
fn a_successor_takes_over_the_copy() {
    let mut node = standing_in([plain("web")]);
    let copy_of = node.checkpoint("web").examined.uid.clone();
    let successor = &mut node.checkpoint("web").examined;
    successor.uid = "uid-new".to_owned();
    successor.rendering = None;
    successor.verdict = Verdict::NotRecoverable { reasons: vec![Reason::NeverRan] };
    node.checkpoint("web").state = State::Active;
    assert_eq!(node.api(Answers::Answering).active(), "web", "the copy of {copy_of} runs on");
    node.parent("web", "1", Some(Running)).decide();
    assert_eq!(node.later(10).active(), "");
}

#[test]
fn a_rejected_parent_is_an_alarm_and_keeps_its_copy_for_a_while() {
    #[rustfmt::skip]
    let rows = [
        ("Failed: OutOfcpu", true), ("Failed: OutOfpods", true), ("Failed: NodePorts", true), ("Failed: NodeAffinity", true),
        ("Failed: UnexpectedAdmissionError", true), ("Failed: Evicted", false), ("Failed", false), ("Succeeded", false),
    ];
    for (ended, alarms) in rows {
        let mut node = standing_in([plain("web")]);
        node.api(Answers::Answering).look.api.sighted.clear();
        let web = node.checkpoint("web");
        web.ended = Some(ended.to_owned());
        (web.examined.verdict, web.examined.rendering) = (Verdict::NotMeant(NotMeant::Finished), None);
        assert_eq!(node.active(), "web", "{ended}");
        let alarm = Alarm::ParentRejected { pod: name("web"), uid: "uid-web".to_owned(), ended: ended.to_owned() };
        assert_eq!(node.lives.as_ref().unwrap().alarms.contains(&alarm), alarms, "{ended}");
        assert_eq!(node.later(59).active(), "web", "{ended}");
        assert_eq!(node.later(1).active(), "", "{ended}");
        assert_eq!(node.standing("web").state, State::Inactive, "the API server has it still");
        assert_eq!(node.api(Answers::Silent).later(1000).active(), "", "finished work is not run again");
    }
}

// ---- The operator ----------------------------------------------------------------------------------------------------

#[test]
fn a_hold_lasts_until_the_api_server_answers() {
    let mut node = standing_in([plain("web")]);
    node.checkpoint("web").held = true;
    assert_eq!(node.active(), "");
    assert_eq!(node.later(1000).active(), "");
    assert!(node.checkpoints[0].held);
    // What answers with nothing is no answer.
    assert_eq!(node.api(Answers::Refusing).later(1000).active(), "");
    assert!(node.checkpoints[0].held);
    assert_eq!(node.api(Answers::Answering).active(), "");
    assert_eq!(node.lives.as_ref().unwrap().released, [name("web")]);

    // While it answers a hold stops nothing: it would be over at once.
    let mut node = standing_in([plain("web")]);
    node.api(Answers::Answering).checkpoint("web").held = true;
    assert_eq!(node.active(), "web");
}

/// What an operator reads, in the place of each case, with the first thing to do.
#[test]
fn what_is_said() {
    type Change = fn(&mut Node);
    let contested = || Verdict::Recoverable { notes: vec![Note::StatefulSetNotActivated] };
    let annotate = "not activated: StatefulSet pod without annotation; annotate it \
                    checkpointer.alpha.coreos.com/checkpoint=true to have it";
    #[rustfmt::skip]
    let rows: [(&str, Change, Option<&str>); 12] = [
        ("its copy stands in for it",                             |_| (),                                        None),
        ("the parent has taken over",                             |n| { n.api(Answers::Answering).parent("web", "1", Some(Running)).decide().later(10); }, None),
        ("the parent is gone: grace period",                      |n| { n.api(Answers::Answering).checkpoint("web").gone = true; n.look.api.sighted.clear(); }, None),
        ("held by the operator (ckpt-db release ends it)",        |n| n.checkpoint("web").held = true,           Some("ckpt-db release default/web")),
        ("the API server answers: its kubelet starts it",         |n| { *n = Node::bright([plain("web")]); },    None),
        ("the kubelet knows the parent and restarts it",          |n| { *n = Node::bright([plain("web")]); n.parent("web", "1", None); }, None),
        ("the parent runs",                                       |n| { *n = Node::bright([plain("web")]); n.parent("web", "1", Some(Running)); }, None),
        ("the API server has not been silent for long enough",    |n| *n = Node::dark([plain("web")]),           None),
        ("the API server refuses, which is not silence",          |n| { *n = Node::dark([plain("web")]); n.api(Answers::Refusing); },
            Some("mend what answers in the API server's place, or run `ckpt-db run --feature-gates=Checkpointing=true --once` to start the copies now")),
        ("whether the parent runs is not known",                  |n| { *n = Node::bright([plain("web")]); n.look.runtime = Fact::Unknown("?".to_owned()); },
            Some("make the container runtime answer, or run `ckpt-db run --feature-gates=Checkpointing=true --once` if the pod does not run")),
        ("the node takes no more pods (allocatable.pods)",        |n| { *n = Node::dark([annotated("web")]); n.rules.pods_max = Some(0); },
            Some("raise the kubelet's maxPods, or hold another copy")),
        ("rendered, but not to be activated",                     |n| { *n = Node::dark([plain("web")]); n.checkpoint("web").examined.activate = false; }, Some("")),
    ];
    for (why, change, todo) in rows {
        let mut node = standing_in([plain("web")]);
        change(&mut node);
        let verdict = if todo == Some("") { contested() } else { node.checkpoint("web").examined.verdict.clone() };
        let todo = todo.map(|todo| if todo.is_empty() { annotate } else { todo });
        node.decide();
        assert_eq!(node.standing("web").why.to_string(), why);
        assert_eq!(node.standing("web").todo(&verdict).as_deref(), todo, "{why}");
    }
}

/// In shadow mode every pod of a dark node is down, and the reason is one setting.
#[test]
fn a_policy_that_is_off_is_named() {
    let node = standing_in([plain("web")]);
    let standing = super::Standing { why: Why::Verdict, copy: None, ..node.standing("web").clone() };
    let todo = |why| standing.todo(&Verdict::NotMeant(why));
    assert!(todo(NotMeant::PolicyOff).is_some_and(|todo| todo.contains("activationPolicy")));
    assert_eq!(todo(NotMeant::OptedOut), None);
}
