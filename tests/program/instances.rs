//! Two instances on one node: a service and a pod, a copy and its parent. One works, and the other takes over when it ends.

use std::process::Command;

use rustix::process::Signal;

use crate::agent::Agent;
use crate::scene::Scene;

const OTHER: &str = "note: another instance has the store ROOT/var/lib/ckpt-db/checkpoint-store.db: waiting for it";

/// `run` as in the pod `kube-system/ckpt-db-x7k2p`, or, as translation tells it, in its copy.
fn in_pod(scene: &Scene, copy: bool) -> Command {
    let mut command = scene.command::<&str>(&[]);
    command.env("POD_NAMESPACE", "kube-system").env("POD_NAME", "ckpt-db-x7k2p").env("NODE_NAME", "node-1");
    if copy {
        command.env("CKPT_DB_COPY_OF", "uid-1");
    }
    command
}

fn scene() -> Scene {
    let scene = Scene::new();
    scene.pod("shop", "web");
    scene
}

fn service(scene: &Scene) -> Agent {
    let mut agent = scene.start::<&str>(&[]);
    agent.until("in step");
    agent
}

#[test]
fn a_second_service_says_who_has_the_store_and_ends() {
    let scene = scene();
    let first = service(&scene);
    let second = scene.start::<&str>(&[]).stop_by_itself();
    assert_eq!(second.code, Some(2));
    let said = second.lines.last().unwrap();
    assert!(said.contains("ROOT/var/lib/ckpt-db/checkpoint-store.db is in use"), "{said}");
    assert_eq!(first.stop(Signal::TERM).code, Some(0));
    // When it is gone, the next start of the second one works.
    service(&scene).stop(Signal::TERM);
}

#[test]
fn a_pod_waits_for_the_service_and_takes_over() {
    for end in [Signal::TERM, Signal::KILL] {
        let scene = scene();
        let service = service(&scene);
        let mut pod = scene.start_command(in_pod(&scene, false));
        pod.until(OTHER);
        // It keeps nothing from the one that works.
        assert_ne!(scene.node.ran("status", &[]).code, Some(2));
        service.stop(end);
        pod.until("in step");
        assert_eq!(pod.stop(Signal::TERM).code, Some(0));
    }
}

#[test]
fn a_copy_yields_to_its_parent_and_takes_over_when_that_ends() {
    let scene = scene();
    let mut copy = scene.start_command(in_pod(&scene, true));
    // With the node and a Service.
    copy.in_step(5);
    for (end, [first, second]) in [(Signal::TERM, ["a", "b"]), (Signal::KILL, ["c", "d"])] {
        let mut parent = scene.start_command(in_pod(&scene, false));
        parent.until("in step");
        scene.pod("shop", first);
        parent.stored(3, 0);
        parent.stop(end);
        scene.pod("shop", second);
        copy.stored(3, 0);
    }
    assert_eq!(copy.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_copy_waits_for_its_parent_and_takes_over() {
    let scene = scene();
    let mut parent = scene.start_command(in_pod(&scene, false));
    parent.until("in step");
    let mut copy = scene.start_command(in_pod(&scene, true));
    copy.until(OTHER);
    parent.stop(Signal::KILL);
    copy.until("in step");
    assert_eq!(copy.stop(Signal::TERM).code, Some(0));
}
