//! The node stays up while the API server is away: a copy stands in where nobody else would start the pod again, and
//! nowhere else.

use std::time::Duration;

use serde_json::json;

use super::pods::{annotate, object, pod, sleeper};
use super::{DELAY_S, Stage, copy_of, file_of};
use crate::api::one;
use crate::node::{Options, PATIENCE};
use crate::{full, until};

/// Long enough for the agent to have acted, had it meant to.
const LONG: Duration = Duration::from_secs(DELAY_S + 10);

/// The same where it would have let a parent be for 30 s, in which a kubelet starts again what has died.
const LONGER: Duration = Duration::from_secs(DELAY_S + 40);

#[test]
fn only_what_the_kubelet_has_forgotten_is_copied() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let mut loops = pod("loops", "sleep 2; exit 1", annotate);
    loops["spec"]["restartPolicy"] = "Always".into();
    let (steady, dies) = (sleeper("steady"), sleeper("dies"));
    stage.run(&[steady, dies, loops]);

    stage.cluster.kill_apiserver();
    // The kubelet knows its pods, and starts again what dies, if not at once: it pauses after crashes, ever longer, and here it
    // does not even get to it for a while.
    let first = stage.node.until_running("default/dies", PATIENCE);
    stage.node.freeze_kubelet();
    stage.node.kill_container("default/dies", "c");
    std::thread::sleep(LONGER);
    assert_eq!(stage.node.running_of("default/dies"), []);
    assert_eq!(stage.node.watched().files(), [].into(), "{}", stage.node.agent_log());
    stage.node.thaw_kubelet();
    let second =
        until("the kubelet to start it again", PATIENCE, || match stage.node.until_running("default/dies", PATIENCE) {
            same if same.id == first.id => Err("it is the same".to_owned()),
            other => Ok(other),
        });
    assert_eq!(stage.node.watched().files(), [].into(), "{}", stage.node.agent_log());

    // Another kubelet, which nobody tells of them: what runs goes on, what dies stays dead, and so it is copied.
    stage.node.kill_kubelet();
    stage.node.start_kubelet();
    assert_eq!(stage.node.until_running("default/dies", PATIENCE), second);
    stage.node.kill_container("default/dies", "c");
    stage.until_copied("default/dies");
    stage.until_copied("default/loops");
    std::thread::sleep(LONG);
    let copied = [file_of("default/dies"), file_of("default/loops")].into();
    assert_eq!(stage.node.watched().files(), copied, "{}", stage.node.agent_log());
    assert_eq!(stage.node.running_of("default/steady").len(), 1);

    stage.cluster.start_apiserver();
    for pod in ["default/steady", "default/dies"] {
        stage.until_handed_over(pod);
    }
    until("no manifest to be left", PATIENCE, || match stage.node.watched().present() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}; the agent says\n{}", stage.node.agent_log())),
    });
    stage.node.until_gone(&copy_of("default/loops"), PATIENCE);
    stage.node.stop_agent();
}

#[test]
fn a_rotated_secret_reaches_the_copy_and_then_the_parent() {
    if !full() {
        return;
    }
    let Some(mut stage) = Stage::set(&Options::default()) else { return };
    let script = "while true; do cat /secret/password; echo; sleep 0.2; done";
    let reader = pod("reader", script, |pod| {
        pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "rotated"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "s", "mountPath": "/secret"}]);
    });
    stage.run(&[object("Secret", "rotated", json!({"password": "old"})), reader]);
    stage.cluster.kill_apiserver();
    stage.node.power_cut();
    stage.boot();
    let copy = stage.until_copied("default/reader");
    until("it to read", PATIENCE, || {
        let log = stage.node.log_of(&copy);
        if log.ends_with("old\n") { Ok(()) } else { Err(log) }
    });

    // No kubelet that could start the parent.
    stage.node.stop_kubelet();
    stage.cluster.start_apiserver();
    let secret = object("Secret", "rotated", json!({"password": "new"}));
    stage.cluster.admin().replace(&one("secrets", "default", "rotated"), &secret).ok();
    until("the running copy to read the new value", PATIENCE, || {
        let log = stage.node.log_of(&copy);
        if log.ends_with("new\n") { Ok(()) } else { Err(format!("{log}; the agent says\n{}", stage.node.agent_log())) }
    });
    assert_eq!(stage.node.running_of(&copy_of("default/reader")), [copy], "it was not restarted");

    stage.node.start_kubelet();
    stage.until_handed_over("default/reader");
    let parent = stage.node.until_running("default/reader", PATIENCE);
    until("it to read", PATIENCE, || {
        let log = stage.node.log_of(&parent);
        if log.ends_with("new\n") && !log.contains("old") { Ok(()) } else { Err(log) }
    });
    stage.node.stop_agent();
}
