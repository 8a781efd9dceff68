//! When copies are started, how many at once, and what is done about those that do not run.

use super::testing::{Node, annotated, name, plain};
use super::{CopyStatus, State, Why};
use crate::checkpoint::examine::Examined;
use crate::checkpoint::look::{Answers, Boot, ContainerState, Kubelet};
use crate::checkpoint::node::Fact;
use crate::checkpoint::rendering::Activity;
use crate::checkpoint::verdict::{Reason, Verdict};

fn critical(pod: &str) -> Examined {
    Examined { system_critical: true, priority: 2_000_000_000, ..plain(pod) }
}

/// The agent begins at second 0 of a new boot; nobody answers.
#[test]
fn silence_has_to_last() {
    const NEVER: u64 = 1000;
    type Row = (Option<u64>, u64, [(u64, &'static str); 4]);
    #[rustfmt::skip]
    let rows: [Row; 5] = [
        // route from  delay   what is active at which second
        (Some(0),      30,     [(0, "asked critical"), (29, "asked critical"),  (30, "asked critical web"),  (31, "asked critical web")]),
        (Some(20),     30,     [(0, "asked critical"), (49, "asked critical"),  (50, "asked critical web"),  (51, "asked critical web")]),
        (Some(100),    30,     [(0, "asked critical"), (119, "asked critical"), (120, "asked critical web"), (NEVER, "asked critical web")]),
        (None,         30,     [(0, "asked critical"), (119, "asked critical"), (120, "asked critical web"), (NEVER, "asked critical web")]),
        (None,         0,      [(0, "asked critical web"), (1, "asked critical web"), (2, "asked critical web"), (NEVER, "asked critical web")]),
    ];
    for (route_s, delay_s, cells) in rows {
        let mut node = Node::dark([plain("web"), annotated("asked"), critical("critical")]);
        node.rules.activation_delay_ms = delay_s * 1000;
        for (at_s, want) in cells {
            node.look.now_ms = at_s * 1000;
            node.look.api.routed_since_ms = route_s.filter(|since_s| at_s >= *since_s).map(|s| s * 1000);
            assert_eq!(node.active(), want, "route {route_s:?}, delay {delay_s}, at {at_s}");
        }
    }
}

#[test]
fn the_next_look_is_due_when_the_delay_ends() {
    let mut node = Node::dark([plain("web")]);
    assert_eq!(node.later(5).active(), "");
    assert_eq!(node.standing("web").why, Why::Delay { until_ms: 30_000 });
    assert_eq!(node.lives.as_ref().unwrap().next_ms, Some(30_000));
}

/// An API server that answers, or refuses, begins the silence anew; an ordinary reboot starts nothing.
#[test]
fn an_answer_in_time_starts_nothing() {
    for reach in [Answers::Answering, Answers::Refusing] {
        let mut node = Node::dark([plain("web")]);
        node.later(29).decide();
        assert_eq!(node.api(reach).later(60).active(), "", "{reach:?}");
        assert_eq!(node.api(Answers::Silent).later(29).active(), "", "{reach:?}");
        assert_eq!(node.later(1).active(), "web", "{reach:?}");
    }
}

/// A kubelet that knows its pods makes a new sandbox within seconds.
#[test]
fn a_parent_without_a_sandbox_is_given_time() {
    let mut node = Node::bright([plain("web"), annotated("asked")]);
    node.parent("web", "c1", Some(ContainerState::Running))
        .parent("asked", "c2", Some(ContainerState::Running))
        .decide();
    node.api(Answers::Silent).later(100).decide();
    node.sandboxes().clear();
    assert_eq!(node.active(), "");
    assert_eq!(node.standing("asked").why, Why::Settling { until_ms: 3_730_000 });
    assert_eq!(node.lives.as_ref().unwrap().next_ms, Some(3_730_000));
    assert_eq!(node.later(29).active(), "");
    assert_eq!(node.later(1).active(), "asked web");

    // While the API server answers only the annotated one is ours, and only once its kubelet has had the time to see it.
    let mut node = Node::dark([plain("web"), annotated("asked")]);
    node.rules.activation_delay_ms = 600_000;
    node.checkpoint("asked").held = true;
    node.look.kubelet = Fact::Known(Kubelet::Running { since_ms: 0 });
    assert_eq!(node.later(300).active(), "");
    assert_eq!(node.api(Answers::Answering).later(44).active(), "");
    assert_eq!(node.later(1).active(), "asked");
}

#[test]
fn what_is_not_known_or_not_meant_starts_nothing() {
    type Change = fn(&mut Node);
    #[rustfmt::skip]
    let rows: [(&str, Change, Why); 7] = [
        ("the runtime fails",   |n| { n.look.runtime = Fact::Unknown("?".to_owned()); n.look.boot = Fact::Known(Boot::Same); }, Why::RunningUnknown),
        ("refusing",            |n| { n.api(Answers::Refusing); },                         Why::Refusing),
        ("held",                |n| n.checkpoint("web").held = true,                        Why::Held),
        ("it runs",             |n| { n.parent("web", "c", Some(ContainerState::Running)); }, Why::ParentRuns),
        ("a sandbox",           |n| { n.parent("web", "c", None); },                       Why::ParentHeld),
        ("not to be activated", |n| n.checkpoint("web").examined.activate = false,          Why::Contested),
        ("not recoverable",     |n| {
            let examined = &mut n.checkpoint("web").examined;
            examined.rendering = None;
            examined.verdict = Verdict::NotRecoverable { reasons: vec![Reason::NeverRan] };
        },                                                                                  Why::Verdict),
    ];
    for (about, change, want) in rows {
        let mut node = Node::dark([annotated("web")]);
        change(&mut node);
        assert_eq!(node.later(300).active(), "", "{about}");
        assert_eq!(node.standing("web").why, want, "{about}");
    }
}

/// The operator knows better than the runtime, but not than what is seen.
#[test]
fn break_glass() {
    let mut node = Node::dark([plain("web"), plain("runs")]);
    node.rules.break_glass = true;
    node.look.boot = Fact::Known(Boot::Same);
    node.parent("runs", "c", Some(ContainerState::Running));
    assert_eq!(node.active(), "web");
    let mut node = Node::dark([plain("web")]);
    (node.rules.break_glass, node.look.boot) = (true, Fact::Known(Boot::Same));
    node.look.runtime = Fact::Unknown("?".to_owned());
    assert_eq!(node.active(), "web");
}

/// Ten at a time, those that are urgent besides, and the rest as the first run or have had their time.
#[test]
fn waves() {
    let many = |n: usize| (0..n).map(|n| plain(&format!("p{n:02}")));
    let count = |node: &mut Node| node.active().split_whitespace().count();
    let mut node = Node::dark(many(25));
    node.rules.wave = 10;
    node.later(30);
    assert_eq!(count(&mut node), 10);
    assert!(matches!(node.standing("p24").why, Why::Wave { .. }));
    assert_eq!(count(node.later(1)), 10, "they are starting");
    for pod in 0..4 {
        node.copy(&format!("p{pod:02}"), Some(ContainerState::Running));
    }
    assert_eq!(count(&mut node), 14, "four run");
    assert_eq!(count(node.later(14)), 20, "six have had their time, and four of the second wave are starting");
    assert_eq!(count(node.later(15)), 25);

    let mut node = Node::dark(many(25).map(|pod| Examined { annotated: true, ..pod }));
    node.rules.wave = 10;
    assert_eq!(count(&mut node), 25, "what is urgent is not started in waves");
}

/// How many copies a node takes: what its kubelet counts comes first. Whatever is too much would evict a running pod.
#[test]
fn places() {
    use ContainerState::{Exited, Running};
    let pods = || ["a", "b", "c"].map(annotated);
    type Change = fn(&mut Node);
    #[rustfmt::skip]
    let rows: [(&str, u32, Change, &str); 7] = [
        ("nothing runs",                         2, |_| (),                                                     "a b"),
        ("enough",                               3, |_| (),                                                     "a b c"),
        ("a static pod of others",               3, |n| n.rules.others = 1,                                     "a b"),
        ("a parent runs",                        3, |n| { n.parent("c", "1", Some(Running)); },                "a b"),
        ("a parent runs, and there is no place", 1, |n| { n.parent("c", "1", Some(Running)); },                ""),
        ("another pod runs",                     3, |n| {
            n.parent("c", "1", Some(Running)).sandboxes()[0].uid = "uid-other".to_owned();
            n.sandboxes()[0].pod = name("other");
        },                                                                                                      "a b"),
        // It has no sandboxes of them, but it counts them.
        ("the kubelet knows its pods",           3, |n| {
            (n.look.boot, n.look.api.last_answer_ms) = (Fact::Known(Boot::Same), Some(500_000));
            n.look.kubelet = Fact::Known(Kubelet::Running { since_ms: 1 });
            n.parent("c", "1", Some(Exited));
        },                                                                                                      ""),
    ];
    for (about, room, change, want) in rows {
        let mut node = Node::dark(pods());
        node.rules.pods_max = Some(room);
        change(&mut node);
        node.later(600).decide();
        node.look.api.since_ms = node.look.now_ms - 300_000;
        assert_eq!(node.later(100).active(), want, "{about}");
        let without = ["a", "b", "c"].into_iter().find(|pod| node.standing(pod).why == Why::NoRoom);
        assert_eq!(without.is_some(), want != "a b c" && !(room == 3 && about == "a parent runs"), "{about}");
    }
}

/// The place of a copy that goes is free when its sandbox is gone, or at once if it has none.
#[test]
fn the_place_of_a_copy_that_goes() {
    for (runs, wants) in [(true, ["", "b"]), (false, ["b", "b"])] {
        let mut node = Node::dark(["a", "b"].map(annotated));
        node.rules.pods_max = Some(1);
        assert_eq!(node.active(), "a");
        if runs {
            node.copy("a", Some(ContainerState::Running));
        }
        node.checkpoint("a").held = true;
        assert_eq!(node.active(), wants[0], "it runs: {runs}");
        node.sandboxes().clear();
        assert_eq!(node.active(), wants[1], "it runs: {runs}");
    }
}

/// A copy that comes back while its sandbox is there takes no other place.
#[test]
fn a_copy_that_comes_back_has_its_place() {
    let mut node = Node::dark(["a", "b"].map(annotated));
    node.rules.pods_max = Some(2);
    node.checkpoint("a").held = true;
    assert_eq!(node.copy("a", Some(ContainerState::Running)).active(), "b");
    node.checkpoint("a").held = false;
    assert_eq!(node.active(), "a b");
    let mut node = Node::dark(["a", "b", "c"].map(annotated));
    node.rules.pods_max = Some(2);
    assert_eq!(node.copy("a", Some(ContainerState::Running)).active(), "a b");
}

/// A copy without a sandbox is published anew after a minute, then after two, and so on up to half an hour.
#[test]
fn a_copy_that_does_not_start_is_published_anew() {
    let mut node = Node::dark([annotated("web")]);
    node.look.kubelet = Fact::Known(Kubelet::Running { since_ms: 0 });
    assert_eq!(node.active(), "web");
    let mut pauses = Vec::new();
    let mut last_s = 0;
    for second in 1..3 * 3600 {
        let before = node.checkpoints[0].republished;
        node.later(1).decide();
        if node.checkpoints[0].republished > before {
            pauses.push(second - last_s);
            last_s = second;
        }
    }
    assert_eq!(pauses, [60, 120, 240, 480, 960, 1800, 1800, 1800, 1800]);
    assert!(matches!(node.standing("web").copy, Some(CopyStatus::Failing(_) | CopyStatus::Starting)));

    // It runs at last; when its sandbox dies, it begins with a minute again.
    node.copy("web", Some(ContainerState::Running)).decide();
    assert_eq!(node.standing("web").copy, Some(CopyStatus::Running));
    node.sandboxes().clear();
    node.later(1).decide();
    let before = node.checkpoints[0].republished;
    node.later(59).decide();
    assert_eq!(node.checkpoints[0].republished, before);
    node.later(1).decide();
    assert_eq!(node.checkpoints[0].republished, before + 1);
}

/// Nothing but the deadlines that are given leads to each attempt.
#[test]
fn deadlines_lead_to_a_new_attempt() {
    let mut node = Node::dark([annotated("web")]);
    node.look.kubelet = Fact::Known(Kubelet::Running { since_ms: 0 });
    node.decide();
    for _ in 0..8 {
        node.look.now_ms = node.lives.as_ref().unwrap().next_ms.expect("a copy that does not start is looked after");
        node.decide();
    }
    assert!(node.checkpoints[0].republished >= 3, "{}", node.checkpoints[0].republished);
}

#[test]
fn without_a_kubelet_a_copy_is_not_published_anew() {
    let mut node = Node::dark([annotated("web")]);
    node.decide();
    node.later(1000).decide();
    node.later(1000).decide();
    assert_eq!(node.checkpoints[0].republished, 0);
    let why = "no kubelet runs that could start it".to_owned();
    assert_eq!(node.standing("web").copy, Some(CopyStatus::Failing(why)));

    // It starts at last, and has its time.
    node.look.kubelet = Fact::Known(Kubelet::Running { since_ms: node.look.now_ms });
    node.later(59).decide();
    assert_eq!((node.checkpoints[0].republished, &node.standing("web").copy), (0, &Some(CopyStatus::Starting)));
    node.later(1).decide();
    assert_eq!(node.checkpoints[0].republished, 1);
}

/// What runs is not restarted for a change; what does not run is brought in line.
#[test]
fn a_copy_that_runs_keeps_its_manifest() {
    let activity = |node: &mut Node| {
        node.decide();
        node.lives.as_ref().unwrap().plan.pods[0].activity
    };
    let mut node = Node::dark([annotated("web")]);
    assert_eq!(activity(&mut node), Activity::Active);
    node.copy("web", Some(ContainerState::Exited));
    assert_eq!(activity(&mut node), Activity::AsItIs);
    node.rules.break_glass = true;
    assert_eq!(activity(&mut node), Activity::AsItIs, "not by an operator in haste either");
    node.look.runtime = Fact::Unknown("?".to_owned());
    assert_eq!(activity(&mut node), Activity::Active, "who does not know whether it runs");
    (node.rules.break_glass, node.look.boot) = (false, Fact::Known(Boot::Same));
    assert_eq!(activity(&mut node), Activity::AsItIs);
    node.look.boot = Fact::Known(Boot::New { kubelet_ran: false });
    assert_eq!(activity(&mut node), Activity::Active, "nothing was started in this boot");
}

// ---- The agent's own pod ---------------------------------------------------------------------------------------------

fn with_own() -> Node {
    let mut node = Node::bright([annotated("agent"), plain("web"), annotated("asked")]);
    node.rules.own_pod = Some(name("agent"));
    node.parent("agent", "1", Some(ContainerState::Running));
    node.parent("web", "2", Some(ContainerState::Running)).parent("asked", "3", Some(ContainerState::Running));
    node
}

#[test]
fn the_agents_own_copy_is_active_beside_it() {
    let mut node = with_own();
    assert_eq!(node.active(), "agent");
    assert_eq!(node.standing("agent").state, State::SelfActive);
    assert_eq!(node.api(Answers::Silent).later(1000).active(), "agent");
    assert_eq!(node.api(Answers::Refusing).later(1000).active(), "agent");
    node.checkpoint("agent").held = true;
    assert_eq!(node.later(10).active(), "agent");
}

#[test]
fn the_agents_own_checkpoint_goes_last() {
    let mut node = with_own();
    node.decide();
    node.checkpoint("agent").gone = true;
    node.look.api.sighted.remove(&name("agent"));
    assert_eq!(node.active(), "agent");
    assert_eq!(node.later(59).active(), "agent");
    let left = |node: &Node| node.checkpoints.iter().map(|one| one.examined.pod.name.clone()).collect::<Vec<_>>();
    assert_eq!(node.later(1).active(), "agent", "all others first");
    assert_eq!(left(&node), ["agent"]);
    node.later(1).decide();
    assert_eq!(left(&node), [""; 0]);
}

#[test]
fn an_inactive_checkpoint_of_its_own_is_not_started_to_go_last() {
    let mut node = with_own();
    let own = &mut node.checkpoint("agent").examined;
    own.activate = false;
    node.checkpoint("agent").gone = true;
    node.look.api.sighted.remove(&name("agent"));
    for second in 0..70 {
        assert_eq!(node.later(1).active(), "", "{second}");
    }
    assert!(node.checkpoints.is_empty());
}
