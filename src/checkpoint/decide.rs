//! All examined pods weighed against each other and the node: the verdicts, and what has to be on disk.

use std::cmp::Reverse;

use super::examine::Examined;
use super::rendering::{Activity, Plan, PlannedPod, PodName, Untouched};
use super::translate::HostPort;
use super::verdict::{Note, Verdict};

/// Whether the pod network of this node works without the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// It does.
    Yes,
    /// Its CNI plug-in asks the API server.
    No,
    /// Nobody knows.
    Unknown,
}

/// What is said of the pods, and what is done.
#[derive(Clone)]
pub struct Decision {
    /// Pod, UID and verdict of every examined pod, sorted by namespace and name.
    pub verdicts: Vec<(PodName, String, Verdict)>,
    /// What has to be rendered, in the order of activation.
    pub plan: Plan,
}

/// Decides for all pods of the node at once. The order of the arguments does not matter.
///
/// Where two pods want one host port, the higher priority wins, then the annotated one, then the first name; the other
/// is prepared only, and its verdict names the winner. Only pods that are to be activated contend (under the policy `off`:
/// those that would be).
#[must_use]
pub fn decide(examined: Vec<Examined>, network: PodNetwork) -> Decision {
    let mut pods = examined;
    give_ports(&mut pods);
    for pod in &mut pods {
        wait_for_network(pod, network);
    }

    let mut verdicts: Vec<_> = pods.iter().map(|pod| (pod.pod.clone(), pod.uid.clone(), pod.verdict.clone())).collect();
    verdicts.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));

    pods.sort_by_cached_key(|pod| {
        let first = pod.annotated || pod.system_critical;
        (Reverse(first), Reverse(pod.priority), pod.pod.clone(), pod.uid.clone())
    });
    let plan = pods
        .into_iter()
        .filter_map(|pod| {
            let activity = if pod.activate { Activity::Active } else { Activity::Prepared };
            pod.rendering.map(|rendering| PlannedPod { rendering, activity })
        })
        .collect();
    let untouched = verdicts.iter().filter(|(_, _, verdict)| verdict.is_ignorance()).map(|(pod, _, _)| pod.clone());
    let untouched = Untouched::Only(untouched.collect());
    Decision { verdicts, plan: Plan { pods: plan, untouched, ..Plan::default() } }
}

fn give_ports(pods: &mut [Examined]) {
    pods.sort_by_cached_key(|pod| (Reverse(pod.priority), Reverse(pod.annotated), pod.pod.clone(), pod.uid.clone()));
    let mut taken: Vec<(HostPort, String)> = Vec::new();
    for pod in pods.iter_mut().filter(|pod| pod.contends) {
        let lost: Vec<Note> = pod
            .host_ports
            .iter()
            .filter_map(|port| {
                let (_, winner) = taken.iter().find(|(other, _)| port.conflicts_with(other))?;
                Some(Note::HostPortContested { port: port.port, winner: winner.clone() })
            })
            .collect();
        if lost.is_empty() {
            taken.extend(pod.host_ports.iter().map(|port| (port.clone(), pod.pod.to_string())));
            continue;
        }
        // It gets none of its ports, so it doesn't keep others from theirs either.
        pod.activate = false;
        match &mut pod.verdict {
            Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes } => {
                notes.extend(lost);
                notes.sort();
                notes.dedup();
            }
            Verdict::NotRecoverable { .. } | Verdict::NotMeant(_) => {}
        }
    }
}

fn wait_for_network(pod: &mut Examined, network: PodNetwork) {
    let waits = match network {
        PodNetwork::No => !pod.host_network,
        PodNetwork::Yes | PodNetwork::Unknown => false,
    };
    if let (true, Verdict::Recoverable { notes }) = (waits, &mut pod.verdict) {
        pod.verdict = Verdict::WhenNetworkIs { notes: std::mem::take(notes) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::rendering::{Manifest, Rendering};
    use super::super::translate::Protocol;
    use super::super::verdict::{NotMeant, Reason};
    use super::*;
    use crate::clear::Clear;

    fn pod(name: &str, priority: i64, annotated: bool, ports: &[u16]) -> Examined {
        let pod = PodName { namespace: "default".to_owned(), name: name.to_owned() };
        let manifest = Manifest { json: Clear::default(), carries_secret: false };
        let uid = format!("uid-{name}");
        Examined {
            rendering: Some(Rendering { pod: pod.clone(), uid: uid.clone(), manifest, trees: Vec::new() }),
            pod,
            uid,
            verdict: Verdict::Recoverable { notes: Vec::new() },
            priority,
            annotated,
            system_critical: priority >= 2_000_000_000,
            activate: true,
            contends: true,
            host_ports: ports.iter().map(|port| port_of(*port)).collect(),
            host_network: false,
            yield_first: false,
            containers: Vec::new(),
            ready: None,
        }
    }

    fn port_of(port: u16) -> HostPort {
        HostPort { port, protocol: Protocol::Tcp, host_ip: None }
    }

    /// The plan in order, with `+` for active and `-` for prepared, and what the verdicts note.
    fn shown(pods: Vec<Examined>) -> String {
        let decision = decide(pods, PodNetwork::Unknown);
        let plan = decision.plan.pods.iter().map(|planned| {
            let sign = match planned.activity {
                Activity::Active => '+',
                Activity::Prepared => '-',
                Activity::AsItIs => '=',
            };
            format!("{sign}{}", planned.rendering.pod.name)
        });
        let notes = decision.verdicts.iter().flat_map(|(pod, _, verdict)| match verdict {
            Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes } => {
                notes.iter().map(|note| format!("; {}: {note}", pod.name)).collect()
            }
            Verdict::NotRecoverable { .. } | Verdict::NotMeant(_) => Vec::new(),
        });
        plan.collect::<Vec<_>>().join(" ") + &notes.collect::<String>()
    }

    #[test]
    fn order_of_activation() {
        let pods = || {
            vec![
                pod("z", 0, false, &[]),
                pod("a", 0, false, &[]),
                pod("high", 1000, false, &[]),
                pod("asked", 0, true, &[]),
                pod("critical", 2_000_000_000, false, &[]),
            ]
        };
        let want = "+critical +asked +high +a +z";
        assert_eq!(shown(pods()), want);
        let mut reversed = pods();
        reversed.reverse();
        assert_eq!(shown(reversed), want, "the order of the arguments does not matter");
    }

    #[test]
    fn who_gets_a_contested_host_port() {
        #[rustfmt::skip]
        let rows = [
            (vec![pod("a", 0, false, &[80]), pod("b", 1, false, &[80])],   "+b -a; a: host port 80 goes to default/b"),
            (vec![pod("a", 1, false, &[80]), pod("b", 0, true,  &[80])],   "-b +a; b: host port 80 goes to default/a"),
            (vec![pod("a", 0, false, &[80]), pod("b", 0, true,  &[80])],   "+b -a; a: host port 80 goes to default/b"),
            (vec![pod("b", 0, false, &[80]), pod("a", 0, false, &[80])],   "+a -b; b: host port 80 goes to default/a"),
            (vec![pod("a", 0, false, &[80]), pod("b", 0, false, &[81])],   "+a +b"),
            // A loser doesn't keep its other ports from anyone.
            (vec![pod("a", 2, false, &[80]), pod("b", 1, false, &[80, 81]), pod("c", 0, false, &[81])],
                "+a -b +c; b: host port 80 goes to default/a"),
        ];
        for (pods, want) in rows {
            assert_eq!(shown(pods), want);
        }
    }

    #[test]
    fn a_pod_that_is_not_activated_does_not_contend() {
        let mut prepared = pod("a", 9, false, &[80]);
        (prepared.activate, prepared.contends) = (false, false);
        assert_eq!(shown(vec![prepared, pod("b", 0, false, &[80])]), "-a +b");
        // Under policy `off` nothing is rendered, but the verdicts are those of `all`.
        let mut watched = [pod("a", 9, false, &[80]), pod("b", 0, false, &[80])];
        for pod in &mut watched {
            (pod.activate, pod.rendering) = (false, None);
        }
        assert_eq!(shown(watched.into()), "; b: host port 80 goes to default/a");
    }

    #[test]
    fn which_host_ports_conflict() {
        let port =
            |port, protocol, ip: &str| HostPort { port, protocol, host_ip: (!ip.is_empty()).then(|| ip.to_owned()) };
        use Protocol::{Tcp, Udp};
        #[rustfmt::skip]
        let rows = [
            (port(80, Tcp, ""),        port(80, Tcp, ""),        true),
            (port(80, Tcp, ""),        port(81, Tcp, ""),        false),
            (port(80, Tcp, ""),        port(80, Udp, ""),        false),
            (port(80, Tcp, "10.0.0.1"), port(80, Tcp, ""),       true),
            (port(80, Tcp, "10.0.0.1"), port(80, Tcp, "10.0.0.1"), true),
            (port(80, Tcp, "10.0.0.1"), port(80, Tcp, "10.0.0.2"), false),
        ];
        for (one, other, want) in rows {
            assert_eq!(one.conflicts_with(&other), want, "{one:?} {other:?}");
            assert_eq!(other.conflicts_with(&one), want, "{other:?} {one:?}");
        }
    }

    #[test]
    fn pods_wait_for_a_network_that_needs_the_api_server() {
        use PodNetwork::{No, Unknown, Yes};
        for (network, host_network, waits) in
            [(Yes, false, false), (Unknown, false, false), (No, false, true), (No, true, false)]
        {
            let mut one = pod("a", 0, false, &[]);
            one.host_network = host_network;
            let decision = decide(vec![one], network);
            let got = matches!(decision.verdicts[0].2, Verdict::WhenNetworkIs { .. });
            assert_eq!(got, waits, "{network:?} {host_network}");
            assert_eq!(
                decision.plan.pods[0].activity,
                Activity::Active,
                "the manifest waits in the kubelet's directory"
            );
        }
    }

    #[test]
    fn what_is_only_unknown_leaves_a_copy_alone() {
        use super::super::object::{Kind, ObjectKey};
        let secret = || ObjectKey::new(Kind::Secret, "default", "s").unwrap();
        let forbidden = || Reason::Forbidden { object: secret(), field: "f".to_owned() };
        let image = || "i:1".to_owned();
        let volume = || Reason::Volume { volume: "v".to_owned(), source: "csi".to_owned() };
        #[rustfmt::skip]
        let rows = [
            (Verdict::Recoverable { notes: vec![] },                                            false),
            (Verdict::NotMeant(NotMeant::Finished),                                             false),
            (Verdict::NotRecoverable { reasons: vec![Reason::Sealed(secret())] },               true),
            (Verdict::NotRecoverable { reasons: vec![Reason::NoKeyYet(secret())] },             true),
            (Verdict::NotRecoverable { reasons: vec![forbidden()] },                            true),
            (Verdict::NotRecoverable { reasons: vec![Reason::Damaged(secret())] },              true),
            (Verdict::NotRecoverable { reasons: vec![Reason::ImageAbsent { image: image() }] }, true),
            (Verdict::NotRecoverable { reasons: vec![Reason::ImageCredentials { image: image(), with: vec![] }] }, true),
            (Verdict::NotRecoverable { reasons: vec![Reason::OwnToken { volume: "v".to_owned() }] }, false),
            (Verdict::NotRecoverable { reasons: vec![Reason::Sealed(secret()), volume()] },     false),
            (Verdict::NotRecoverable { reasons: vec![volume()] },                               false),
        ];
        for (verdict, want) in rows {
            let mut one = pod("a", 0, false, &[]);
            (one.rendering, one.activate, one.verdict) = (None, false, verdict.clone());
            let name = one.pod.clone();
            assert_eq!(decide(vec![one], PodNetwork::Yes).plan.untouched.covers(&name), want, "{verdict:?}");
        }
    }

    #[test]
    fn every_pod_has_a_verdict_and_only_rendered_ones_a_place_in_the_plan() {
        let mut gone = pod("b", 0, false, &[]);
        gone.verdict = Verdict::NotRecoverable { reasons: vec![Reason::NeverRan] };
        (gone.rendering, gone.activate) = (None, false);
        let mut done = pod("a", 0, false, &[]);
        done.verdict = Verdict::NotMeant(NotMeant::Finished);
        (done.rendering, done.activate) = (None, false);
        let decision = decide(vec![pod("c", 0, false, &[]), gone, done], PodNetwork::No);
        let names: Vec<_> = decision.verdicts.iter().map(|(pod, uid, _)| format!("{pod} {uid}")).collect();
        assert_eq!(names, ["default/a uid-a", "default/b uid-b", "default/c uid-c"]);
        assert_eq!(decision.plan.pods.len(), 1);
    }
}
