//! An ordinary reboot, with the API server at hand: nothing is started twice.

use std::time::Duration;

use super::pods::{annotated, small, volumes};
use super::{Stage, copy_of, file_of, key};
use crate::node::{Options, PATIENCE};

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
    std::thread::sleep(Duration::from_secs(super::DELAY_S + 3));
    let published = stage.node.watched().files();
    let allowed = [file_of("kube-system/annotated")].into();
    assert!(published.is_subset(&allowed), "{published:?}; the agent says\n{}", stage.node.agent_log());
    assert_eq!(stage.node.watched().present(), [].into());
    stage.node.stop_agent();
}
