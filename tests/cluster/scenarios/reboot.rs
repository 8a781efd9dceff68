//! Ordinary reboots, and those at which something was missed: nothing is started twice, and nothing that is gone.

use std::time::{Duration, Instant};

use super::pods::{annotated, sleeper, small, volumes};
use super::{DELAY_S, GRACE, Stage, copy_of, file_of, key};
use crate::api::one;
use crate::node::{Options, PATIENCE};
use crate::{full, until};

#[test]
fn no_copy_of_an_unannotated_pod_is_ever_published() {
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let objects = [volumes(), annotated(), small(1).to_vec(), small(2).to_vec()].concat();
    stage.run(&objects);
    stage.node.shut_down();
    stage.boot();
    let pods: Vec<String> = objects.iter().filter(|object| object["kind"] == "Pod").map(key).collect();
    for pod in &pods {
        stage.node.until_running(pod, PATIENCE);
        stage.until_handed_over(pod);
    }
    for pod in pods.iter().filter(|pod| !pod.ends_with("/annotated")) {
        stage.node.assert_never_running(&copy_of(pod), Duration::from_millis(1));
    }
    // Longer than the delay.
    std::thread::sleep(Duration::from_secs(DELAY_S + 3));
    let published = stage.node.watched().files();
    let allowed = [file_of("kube-system/annotated")].into();
    assert!(published.is_subset(&allowed), "{published:?}; the agent says\n{}", stage.node.agent_log());
    assert_eq!(stage.node.watched().present(), [].into());
    stage.node.stop_agent();
}

#[test]
fn a_pod_that_was_deleted_while_the_node_was_off() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let names = ["stays", "leaves", "leaves-later"];
    stage.run(&names.map(sleeper));

    // The API server is there at the boot: nothing starts that it has forgotten.
    stage.node.power_cut();
    stage.cluster.admin().delete(&one("pods", "default", "leaves")).ok();
    stage.boot();
    stage.node.until_running("default/stays", PATIENCE);
    until("its checkpoint to go", PATIENCE, || {
        let status = stage.node.status()?;
        if status["pods"].to_string().contains("\"leaves\"") { Err(status["pods"].to_string()) } else { Ok(()) }
    });
    assert_eq!(stage.node.watched().files(), [].into(), "{}", stage.node.agent_log());

    // It is not: nobody can know, and the copy runs, until it answers and the grace period is over.
    stage.node.power_cut();
    stage.cluster.admin().delete(&one("pods", "default", "leaves-later")).ok();
    stage.cluster.kill_apiserver();
    stage.boot();
    stage.until_copied("default/stays");
    stage.until_copied("default/leaves-later");
    stage.cluster.start_apiserver();
    let answered = Instant::now();
    stage.until_handed_over("default/stays");
    stage.node.until_gone(&copy_of("default/leaves-later"), PATIENCE);
    assert!(answered.elapsed() >= GRACE, "{:?}", answered.elapsed());
    assert_eq!(stage.node.running().len(), 1);
    stage.node.stop_agent();
}

#[test]
fn the_agent_was_absent_for_a_boot() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    stage.run(&[sleeper("one"), sleeper("two")]);

    // With the API server: then it comes to a node on which all runs already.
    stage.node.power_cut();
    stage.node.boot();
    stage.node.start_containerd();
    stage.node.start_kubelet();
    for pod in ["default/one", "default/two"] {
        stage.node.until_running(pod, PATIENCE);
    }
    let before = stage.node.running();
    stage.cluster.kill_apiserver();
    stage.start_agent();
    stage.node.until_ready();
    std::thread::sleep(Duration::from_secs(DELAY_S + 5));
    assert_eq!(stage.node.watched().files(), [].into(), "{}", stage.node.agent_log());
    assert_eq!(stage.node.running(), before);
    stage.node.stop_agent();

    // Without it: the kubelet has waited in vain, until the agent comes.
    stage.node.power_cut();
    stage.node.boot();
    stage.node.start_containerd();
    stage.node.start_kubelet();
    stage.node.assert_never_running("default/one", Duration::from_secs(5));
    assert_eq!(stage.node.running(), []);
    stage.start_agent();
    for pod in ["default/one", "default/two"] {
        stage.until_copied(pod);
    }
    stage.cluster.start_apiserver();
    for pod in ["default/one", "default/two"] {
        stage.until_handed_over(pod);
    }
    stage.node.stop_agent();
}
