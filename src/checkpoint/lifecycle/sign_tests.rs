//! Which copies make way when the API server gives a sign of life, and when they come back if no answer follows.

use super::testing::{Node, annotated, host_network, name, plain, standing_in, yields};
use super::{State, Why};
use crate::checkpoint::examine::Examined;
use crate::checkpoint::look::{Answers, ContainerState};

use ContainerState::{Created, Running};

/// The second of the sign, the last one in which it is waited for an answer, and the next.
fn at_sign_and_after(node: &mut Node) -> [String; 3] {
    node.sign();
    [node.active(), node.later(29).active(), node.later(1).active()]
}

#[test]
fn who_makes_way() {
    let on_the_nodes_network = |pod: &str| Examined { host_network: true, ..yields(pod) };
    let in_turn = |pod: &str| Examined { yield_first: true, ..plain(pod) };
    let (goes, stays) = (["", "", "web"], ["web", "web", "web"]);
    #[rustfmt::skip]
    let rows: [(&str, Examined, Answers, [&str; 3]); 8] = [
        ("yield first",                    yields("web"),               Answers::Silent,    goes),
        ("the same, not annotated",        in_turn("web"),              Answers::Silent,    goes),
        ("nothing is in its parent's way", annotated("web"),            Answers::Silent,    stays),
        ("on the node's network",          host_network("web"),         Answers::Silent,    stays),
        // Its parent is not rejected, and the API server may need it to come up.
        ("what serves the API",            on_the_nodes_network("web"), Answers::Silent,    stays),
        // The sign was before; whoever refuses gives none.
        ("yield first, it refuses",        yields("web"),               Answers::Refusing,  goes),
        ("overlap, it refuses",            plain("web"),                Answers::Refusing,  stays),
        ("an answer says it all",          yields("web"),               Answers::Answering, ["", "", ""]),
    ];
    for (about, pod, reach, want) in rows {
        let mut node = standing_in([pod]);
        node.sign().api(reach);
        assert_eq!(at_sign_and_after(&mut node), want, "{about}");
    }
}

/// Handshakes for ever and never an answer: one gap, and no second one before there was an answer.
#[test]
fn one_gap_in_an_outage_however_long_the_signs_go_on() {
    let mut node = standing_in([yields("web")]);
    assert_eq!(at_sign_and_after(&mut node), ["", "", "web"]);
    for second in 0..3600 {
        node.copy("web", Some(Running));
        assert_eq!(node.sign().later(1).active(), "web", "{second}");
    }
    // To refuse for a while is no answer.
    node.api(Answers::Refusing).decide();
    node.later(100).api(Answers::Silent);
    assert_eq!(node.sign().later(1).active(), "web");

    assert_eq!(node.api(Answers::Answering).later(1).active(), "", "an answer is waited for by nobody");
    node.sandboxes().clear();
    assert_eq!(node.api(Answers::Silent).later(30).active(), "web");
    node.copy("web", Some(Running));
    assert_eq!(at_sign_and_after(&mut node), ["", "", "web"], "this is another outage");
}

#[test]
fn the_way_is_free_for_the_activation_delay_or_for_as_long_as_kubelets_pause() {
    for (delay_s, until_s) in [(0, 30), (5, 30), (30, 30), (31, 31), (300, 300)] {
        let mut node = standing_in([yields("web")]);
        node.rules.activation_delay_ms = delay_s * 1000;
        assert_eq!(node.sign().active(), "");
        let until_ms = node.look.now_ms + until_s * 1000;
        assert_eq!(node.standing("web").why, Why::MakesWay { until_ms }, "{delay_s}");
        assert_eq!(node.lives.as_ref().unwrap().next_ms, Some(until_ms), "that is when it is looked again");
        assert_eq!(node.later(until_s - 1).active(), "", "{delay_s}");
        assert_eq!(node.standing("web").why, Why::MakesWay { until_ms }, "{delay_s}");
        assert_eq!(node.lives.as_ref().unwrap().next_ms, Some(until_ms));
        assert_eq!(node.later(1).active(), "web", "{delay_s}");
    }
}

/// Neither a refusal nor what it makes of the activation delay keeps a copy away that ran before.
#[test]
fn what_has_made_way_for_nothing_comes_back_whoever_refuses() {
    let mut node = standing_in([plain("other"), Examined { yield_first: true, ..plain("web") }]);
    assert_eq!(node.sign().active(), "other");
    node.api(Answers::Refusing);
    assert_eq!(node.later(29).active(), "other");
    assert_eq!(node.later(1).active(), "other web");
    // Others are not started by a refusal.
    let mut node = standing_in([yields("web")]);
    node.sign().decide();
    node.checkpoints.extend([super::testing::checkpoint(annotated("new"))]);
    node.api(Answers::Refusing);
    assert_eq!(node.later(30).active(), "web");

    // The silence begins anew, and with it the delay of all others.
    let mut node = standing_in([Examined { yield_first: true, ..plain("web") }]);
    node.sign().decide();
    node.later(20).api(Answers::Refusing).decide();
    node.later(5).api(Answers::Silent);
    assert_eq!((node.later(4).active(), node.later(1).active()), (String::new(), "web".to_owned()));
}

/// A copy that is not active yet is not started into the way of its parent.
#[test]
fn nothing_is_started_in_the_way() {
    let mut node = Node::dark([yields("web"), annotated("other")]);
    assert_eq!(at_sign_and_after(&mut node), ["other", "other", "other web"]);
    // The operator knows better.
    let mut node = Node::dark([yields("web")]);
    node.rules.break_glass = true;
    assert_eq!(node.sign().active(), "web");
}

#[test]
fn the_agents_own_copy_stays() {
    let mut node = standing_in([yields("web")]);
    node.rules.own_pod = Some(name("web"));
    assert_eq!(at_sign_and_after(&mut node), ["web", "web", "web"]);
}

/// The answer comes: from then on it is a hand-over like any other.
#[test]
fn a_parent_that_comes_has_the_way_free() {
    let mut node = standing_in([yields("web")]);
    node.sign().decide();
    node.sandboxes().clear();
    assert_eq!(node.later(5).api(Answers::Answering).active(), "");
    assert!(matches!(node.standing("web").state, State::HandedOver { .. }));
    assert_eq!(node.standing("web").why, Why::HandedOver);
    assert_eq!(node.later(40).parent("web", "1", Some(Created)).active(), "");
    node.parent("web", "1", Some(Running));
    assert_eq!(node.api(Answers::Silent).later(3600).active(), "", "it runs");

    // The kubelet was told first, and nobody answers the agent.
    let mut node = standing_in([yields("web")]);
    node.sign().decide();
    node.sandboxes().clear();
    node.parent("web", "1", Some(Running));
    assert_eq!(node.later(3600).active(), "");
}

/// As many as there are pods too many if all parents come; none of those on the node's network.
#[test]
fn copies_make_way_for_want_of_room() {
    let with = |pod: &str, priority| Examined { priority, ..plain(pod) };
    let pods = || {
        let server = Examined { host_network: true, ..with("e", 0) };
        [with("a", 3), with("b", 1), with("c", 2), Examined { yield_first: true, ..with("d", 4) }, server]
    };
    #[rustfmt::skip]
    let rows = [
        // room, others, stay
        (10,     0,      "a b c e"),
        (9,      0,      "a b c e"),
        (8,      0,      "a c e"),
        (7,      0,      "a e"),
        (6,      0,      "e"),
        (5,      0,      "e"),
        (9,      1,      "a c e"),
    ];
    for (room, others, want) in rows {
        let mut node = standing_in(pods());
        (node.rules.pods_max, node.rules.others) = (Some(room), others);
        let about = format!("room for {room}, {others} others");
        assert_eq!(node.active(), "a b c d e", "{about}, and no sign");
        node.sign();
        assert_eq!(node.active(), want, "{about}");
        let gone: Vec<String> = "a b c d e".split(' ').filter(|pod| !want.contains(*pod)).map(str::to_owned).collect();
        node.sandboxes().retain(|copy| !gone.iter().any(|pod| copy.pod.name == format!("{pod}-node")));
        assert_eq!(node.later(1).active(), want, "{about}, again");
        assert_eq!(node.later(28).active(), want, "{about}, at the end");
        assert_eq!(node.later(1).active(), "a b c d e", "{about}, after it");
    }
}

/// The API server is asked with haste as long as it matters who sees it first.
#[test]
fn it_is_asked_with_haste() {
    let hasty = |node: &Node| node.lives.as_ref().unwrap().yielding;
    let mut node = standing_in([yields("web")]);
    assert!(hasty(&node));
    node.sign().decide();
    assert!(hasty(&node), "it made way");
    node.later(30).decide();
    assert!(hasty(&node), "it is back");
    node.api(Answers::Answering).decide();
    assert!(!hasty(&node));

    let mut node = standing_in([plain("a"), plain("b")]);
    assert!(!hasty(&node));
    node.rules.pods_max = Some(3);
    node.decide();
    assert!(hasty(&node), "there is no room for two parents and two copies");
}

/// What is recorded is said once.
#[test]
fn making_way_is_recorded_once() {
    let mut node = standing_in([yields("web")]);
    let said = |node: &mut Node| {
        let records = node.decide().lives.as_ref().unwrap().records.clone();
        records.into_iter().map(|record| format!("{}: {}", record.state, record.why)).collect::<Vec<_>>()
    };
    node.sign();
    assert_eq!(said(&mut node), ["HandedOver: the API server takes connections: its copy makes way before it answers"]);
    assert!(said(&mut node).is_empty());
    node.later(1);
    assert!(said(&mut node).is_empty());
    node.later(29);
    assert_eq!(said(&mut node), ["Active: its copy stands in for it"]);
}
