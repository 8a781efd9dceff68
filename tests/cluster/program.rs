//! The program itself, on a node below a directory, run as its service and its users run it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::gate::gate;
use crate::process::Agent;
use crate::until;

/// Far longer than anything takes but an API server that starts on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the agent says once a complete listing is durable.
pub(crate) const IN_STEP: &str = "in step with the API server: ";

/// The root of a node's file system.
pub(crate) struct Node(pub(crate) PathBuf);

impl Node {
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }

    /// `ckpt-db COMMAND --root ROOT`, cut off from the environment of whoever runs the tests.
    pub(crate) fn command(&self, command: &str) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ckpt-db"));
        program.arg(command).args(gate(command)).arg("--root").arg(&self.0);
        for variable in ["NODE_NAME", "KUBERNETES_SERVICE_HOST", "RUST_LOG"] {
            program.env_remove(variable);
        }
        program
    }

    /// `ckpt-db run --activation-policy off`, as a service would run it; not started yet. It also tells of each commit.
    pub(crate) fn agent(&self, more: &[&str]) -> Agent {
        let mut command = self.command("run");
        command.args(["--activation-policy", "off"]).args(more).env("RUST_LOG", "info");
        Agent::new(command, &self.path("agent.log"))
    }

    /// Runs a command to its end: exit code, standard output, standard error.
    pub(crate) fn tell(&self, command: &str, more: &[&str]) -> (i32, String, String) {
        let output = self.command(command).args(more).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// `ckpt-db dump -o json --reveal`; the agent must not run.
    #[track_caller]
    pub(crate) fn dump(&self) -> Value {
        let (exit, out, errors) = self.tell("dump", &["-o", "json", "--reveal"]);
        assert_eq!(exit, 0, "{errors}");
        serde_json::from_str(&out).unwrap()
    }
}

/// Waits until the agent has said `what` for the `count`th time, and counts how often it has.
#[track_caller]
pub(crate) fn said(agent: &Agent, what: &str, count: usize, patience: Duration) {
    until(&format!("{what:?}"), patience, || {
        let log = agent.log();
        if log.matches(what).count() >= count { Ok(()) } else { Err(format!("the agent says\n{log}")) }
    });
}

/// Waits until the agent has found out that nobody answers: its watch was cut, and a request after that failed too.
#[track_caller]
pub(crate) fn missed(agent: &Agent) {
    said(agent, "API server: silent (GET ", 1, PATIENCE);
}

/// Stops the agent as a service manager does.
#[track_caller]
pub(crate) fn stop(agent: &mut Agent) {
    agent.signal(Signal::TERM);
    let status = until("the agent to stop", Duration::from_secs(20), || agent.exited().ok_or_else(|| agent.log()));
    assert!(status.success(), "{status}: {}", agent.log());
}

/// How many objects the commits have removed.
pub(crate) fn removed(agent: &Agent) -> usize {
    let log = agent.log();
    log.lines()
        .filter_map(|line| line.split_once(" removed=")?.1.split_whitespace().next()?.parse::<usize>().ok())
        .sum()
}

/// Where the manifests lie that the kubelet reads.
pub(crate) fn manifests(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join("etc/kubernetes/manifests")) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
