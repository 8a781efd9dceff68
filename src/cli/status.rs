//! `ckpt-db status`: what the running agent knows, in as many lines as one reads at 3 a.m.
//!
//! Exit status: 0 all is well, 1 something that should run does not, 2 no agent answers.

use std::io::{self, IsTerminal as _, Write};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use serde_json::Value;

use ckpt_db::date::utc;
use ckpt_db::ops::admin::AskError;
use ckpt_db::ops::status::{
    Alarm, Bootstrap, CheckpointerStatus, CopyState, Deadline, Health, KubeletState, Lock, ParentRunning, Pod, Policy,
    Reach,
};

use super::args::AgentArgs;
use super::output::{Format, document, line, plural};
use super::{Exit, table};

/// The plain form fits a small terminal.
const LINES_MAX: usize = 20;

/// What there is to know, and to do, while the feature gate is off.
const GATE_OFF: &str = "gate         Checkpointing=false: nothing is stored or rendered, and no pod comes back; start the agent with \
                        --feature-gates=Checkpointing=true";

/// Alarms that the plain form names; the others are counted.
const ALARMS_MAX: usize = 3;

/// Ask the running agent: is the API server there, what runs as a copy, what does not and what to do first
#[derive(Args, Debug)]
#[command(after_help = "Exit codes:
  0   all is well
  1   something that should run does not, or the agent has an alarm
  2   no agent answers
  64  wrong usage

Examples:
  ckpt-db status                  at most 20 lines: how the node stands
  ckpt-db status -o wide          and a row for each pod
  ckpt-db status --watch          again and again
  ckpt-db status -o json          for scripts")]
pub(crate) struct StatusCommand {
    #[command(flatten)]
    agent: AgentArgs,

    /// Output format; without it, at most 20 lines
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Shape>,

    /// Ask again every 2 seconds, or as many as given, until the agent ends
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// A row for each pod
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl StatusCommand {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let client = self.agent.client()?;
        let answer = client.status().map_err(no_answer)?;
        let mut exit = self.show(out, &answer)?;
        let Some(seconds) = self.watch else { return Ok(exit) };
        loop {
            out.flush()?;
            sleep(Duration::from_secs(seconds));
            let answer = match client.status() {
                Ok(answer) => answer,
                Err(AskError::NoAgent(_)) => return Ok(exit),
                Err(error) => return Err(error.into()),
            };
            // What was asked for is a screen that changes; a file or pipe gets one document after the other.
            if io::stdout().is_terminal() {
                write!(out, "\u{1b}[H\u{1b}[2J")?;
            } else {
                writeln!(out)?;
            }
            exit = self.show(out, &answer)?;
        }
    }

    fn show(&self, out: &mut dyn Write, answer: &Value) -> anyhow::Result<Exit> {
        // A document is passed on whole, whatever this program makes of it.
        let format = match self.output {
            None | Some(Shape::Wide) => None,
            Some(Shape::Json) => Some(Format::Json),
            Some(Shape::Yaml) => Some(Format::Yaml),
        };
        if let Some(format) = format {
            document(out, format, answer)?;
        }
        let status: CheckpointerStatus = serde::Deserialize::deserialize(answer).with_context(|| {
            let version = answer.get("version").and_then(Value::as_str).unwrap_or("unknown");
            format!(
                "the agent's answer can't be read (it has version {version}, this program {}); restart it, or try -o json",
                env!("CARGO_PKG_VERSION")
            )
        })?;
        if format.is_none() {
            match self.output {
                Some(Shape::Wide) => wide(out, &status)?,
                None | Some(Shape::Json | Shape::Yaml) => plain(out, &status)?,
            }
        }
        Ok(Exit::findings(status.has_findings()))
    }
}

/// Without an agent there is no status, but there is something to do.
fn no_answer(error: AskError) -> anyhow::Error {
    match error {
        AskError::NoAgent(path) => anyhow!(
            "no ckpt-db agent runs on this node (nobody listens on {}); start it with 'systemctl start ckpt-db', or see \
             'journalctl -u ckpt-db' for why it ended. What the store would bring back: 'ckpt-db plan'",
            path.display()
        ),
        AskError::NoAnswer { .. } => anyhow!(
            "{error}; see 'journalctl -u ckpt-db' and start it anew with 'systemctl restart ckpt-db', which stops no pod"
        ),
        AskError::Forbidden(_) | AskError::Refused(_) | AskError::Garbled { .. } | AskError::Io { .. } => error.into(),
    }
}

/// At most [`LINES_MAX`] lines.
fn plain(out: &mut dyn Write, status: &CheckpointerStatus) -> anyhow::Result<()> {
    let head = head(status, ALARMS_MAX);
    for text in &head {
        line(out, format_args!("{text}"))?;
    }
    let troubled = status.troubled();
    if troubled.is_empty() {
        return Ok(());
    }
    // An empty line and the header.
    let room = LINES_MAX.saturating_sub(head.len() + 2).max(1);
    let shown = if troubled.len() > room { room - 1 } else { troubled.len() };
    writeln!(out)?;
    let rows: Vec<Vec<String>> =
        troubled[..shown].iter().map(|pod| vec![pod.full_name(), health(pod).to_owned(), advice(pod)]).collect();
    table::write(out, &["NOT RUNNING", "STATE", "WHY, AND FIRST THING TO DO"], &rows)?;
    if troubled.len() > shown {
        writeln!(out, "and {} more: ckpt-db status -o wide", troubled.len() - shown)?;
    }
    Ok(())
}

/// The same head, and a row for each pod.
fn wide(out: &mut dyn Write, status: &CheckpointerStatus) -> anyhow::Result<()> {
    for text in head(status, usize::MAX) {
        line(out, format_args!("{text}"))?;
    }
    writeln!(out)?;
    let mut pods: Vec<&Pod> = status.pods.iter().collect();
    pods.sort_by_key(|pod| (&pod.namespace, &pod.name));
    let rows: Vec<Vec<String>> = pods
        .into_iter()
        .map(|pod| {
            vec![
                pod.namespace.clone(),
                pod.name.clone(),
                state(pod),
                copy(pod),
                parent(pod.parent_running).to_owned(),
                pod.verdict.join(","),
                pod.deadline.as_ref().map(due).unwrap_or_default(),
                advice(pod),
            ]
        })
        .collect();
    let header = ["NAMESPACE", "NAME", "STATE", "COPY", "PARENT RUNS", "VERDICT", "NEXT", "WHY, AND FIRST THING TO DO"];
    table::write(out, &header, &rows)?;
    Ok(())
}

/// What there is to say of the node, one subject a line.
fn head(status: &CheckpointerStatus, alarms_max: usize) -> Vec<String> {
    let mut lines = vec![node(status)];
    if !status.checkpointing {
        lines.push(GATE_OFF.to_owned());
    }
    lines.extend([api_server(status), store(status)]);
    if !status.runtime.known {
        let reason = status.runtime.reason.as_deref().unwrap_or("nobody knows why");
        lines.push(format!("runtime      DOES NOT ANSWER, so that nothing is activated on its account: {reason}"));
    }
    lines.push(kubelet(status));
    lines.push(pods(status));
    lines.extend(status.bootstrap.as_ref().map(bootstrap));
    let alarms = status.alarms.len();
    // The last line of those that fit says how many don't.
    let shown = if alarms > alarms_max { alarms_max - 1 } else { alarms };
    for Alarm { code, pod, message } in &status.alarms[..shown] {
        let pod = pod.as_ref().map(|pod| format!(" {pod}")).unwrap_or_default();
        lines.push(format!("ALARM        {code}{pod}: {message}"));
    }
    if alarms > shown {
        lines.push(format!("ALARM        and {} more: ckpt-db status -o wide", alarms - shown));
    }
    if let Some(next) = &status.next_deadline {
        let pod = next.pod.as_ref().map(|pod| format!("{pod}: ")).unwrap_or_default();
        lines.push(format!("next         in {}: {pod}{}", duration(next.in_s), next.what));
    }
    lines
}

fn node(status: &CheckpointerStatus) -> String {
    let name = if status.node.is_empty() { "name not known yet" } else { &status.node };
    let policy = match status.policy {
        Policy::Off => "off (store and report only)",
        Policy::Annotated => "annotated",
        Policy::All => "all",
    };
    let clock = if status.clock_is_set { "" } else { "; the node's CLOCK IS NOT SET" };
    let up = duration(status.up_s);
    format!("node         {name}; agent {} up {up}, activation policy {policy}{clock}", status.version)
}

fn api_server(status: &CheckpointerStatus) -> String {
    let api = &status.api_server;
    let lasted = duration(api.for_s);
    // A date by a clock that is not set misleads.
    let since = if status.clock_is_set { format!(" (since {})", utc(api.since_unix_s)) } else { String::new() };
    let cause = api.cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
    match api.state {
        Reach::Answering => format!("API server   answers, for {lasted}{since}"),
        Reach::Silent => format!("API server   SILENT for {lasted}{since}{cause}"),
        Reach::Refusing => format!("API server   REFUSES, for {lasted}{since}{cause}"),
    }
}

fn store(status: &CheckpointerStatus) -> String {
    let store = &status.store;
    if let Some(problem) = &store.problem {
        return format!("store        NOT USED: {problem}");
    }
    let place = if status.checkpointing { "" } else { "none; in memory " };
    let mut text =
        format!("store        {place}revision {}, {} object{}", store.revision, store.objects, plural(store.objects));
    if !store.populated {
        text.push_str("; no complete listing yet");
    }
    if store.read_only {
        text.push_str("; READ-ONLY: what changes now is not kept (disk full, or mounted read-only?)");
    }
    match store.lock {
        Lock::Open => {}
        Lock::Keyless => text.push_str("; no node key yet, so no Secrets"),
        Lock::Locked => text.push_str("; LOCKED: no key at hand opens its Secrets"),
    }
    if store.findings > 0 {
        text.push_str(&format!("; {} DAMAGED record{}: ckpt-db verify", store.findings, plural(store.findings)));
    }
    if let Some(last) = store.damaged_files.last() {
        text.push_str(&format!("; WAS DAMAGED and rebuilt, see ckpt-db log; the damaged file is {last}"));
    }
    text
}

fn kubelet(status: &CheckpointerStatus) -> String {
    let kubelet = &status.kubelet;
    let why = kubelet.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    match (kubelet.state, kubelet.for_s) {
        (KubeletState::Running, Some(for_s)) => format!("kubelet      runs, for {}", duration(for_s)),
        (KubeletState::Running, None) => "kubelet      runs".to_owned(),
        (KubeletState::NotRunning, _) => "kubelet      NOT RUNNING: nothing is started before it is".to_owned(),
        (KubeletState::Unknown, _) => format!("kubelet      unknown{why}"),
    }
}

fn pods(status: &CheckpointerStatus) -> String {
    let down = status.count(Health::CopyFails) + status.count(Health::Down) + status.count(Health::NobodyKnows);
    let counts = [
        (status.count(Health::CopyRuns), "copies running"),
        (status.count(Health::CopyStarts), "copies starting"),
        (status.count(Health::ParentRuns), "running themselves"),
        (status.count(Health::Held), "held by the operator"),
        (status.count(Health::NotMeant), "not meant to run"),
        (down, "NOT RUNNING"),
    ];
    let told: String =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("; {what}: {count}")).collect();
    let known = if status.checkpointing { "stored" } else { "followed" };
    format!("pods         {} {known}{told}", status.pods.len())
}

fn bootstrap(bootstrap: &Bootstrap) -> String {
    let (files, failures) = (bootstrap.files, bootstrap.failures);
    let mut text = format!("bootstrap    {files} checkpoint{} in {}", plural(files), bootstrap.path);
    match &bootstrap.problem {
        Some(problem) => text.push_str(&format!("; NOT AS THEY SHOULD BE, {failures} failures so far: {problem}")),
        None if failures > 0 => {
            text.push_str(&format!("; {failures} failure{} so far, made good", plural_of(failures)))
        }
        None => {}
    }
    text
}

fn plural_of(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn health(pod: &Pod) -> &'static str {
    match pod.health() {
        Health::CopyFails => "copy fails",
        Health::Down => "down",
        Health::NobodyKnows => "not known",
        Health::Held => "held",
        Health::CopyStarts => "copy starts",
        Health::CopyRuns => "copy runs",
        Health::ParentRuns => "runs itself",
        Health::NotMeant => "not meant to run",
    }
}

/// Why, and after an arrow what to do.
fn advice(pod: &Pod) -> String {
    let reason = pod.copy.as_ref().and_then(|copy| copy.reason.as_deref()).unwrap_or_default();
    let why = if pod.why.is_empty() { reason } else { &pod.why };
    let wait = pod.deadline.as_ref().map(|deadline| format!("wait: {}", due(deadline)));
    match pod.todo.as_ref().or(wait.as_ref()).filter(|_| pod.health().is_finding() || pod.todo.is_some()) {
        Some(todo) if why.is_empty() => format!("-> {todo}"),
        Some(todo) => format!("{why} -> {todo}"),
        None => why.to_owned(),
    }
}

fn due(deadline: &Deadline) -> String {
    format!("{} in {}", deadline.what, duration(deadline.in_s))
}

fn state(pod: &Pod) -> String {
    let state = pod.state.name();
    if pod.held { format!("{state},held") } else { state.to_owned() }
}

fn copy(pod: &Pod) -> String {
    let Some(copy) = &pod.copy else { return "-".to_owned() };
    let state = match copy.state {
        CopyState::Starting => "starting",
        CopyState::Running => "running",
        CopyState::Failing => "failing",
        CopyState::Unknown => "not known",
    };
    match &copy.reason {
        Some(reason) => format!("{state}: {reason}"),
        None => state.to_owned(),
    }
}

fn parent(parent: ParentRunning) -> &'static str {
    match parent {
        ParentRunning::Yes => "yes",
        ParentRunning::Held => "held",
        ParentRunning::No => "no",
        ParentRunning::Unknown => "not known",
    }
}

/// The two largest units, as people say it.
pub(crate) fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let first = UNITS.iter().position(|(size, _)| seconds >= *size).unwrap_or(UNITS.len() - 1);
    let (size, unit) = UNITS[first];
    let text = format!("{} {unit}", seconds / size);
    match UNITS.get(first + 1) {
        Some((smaller, name)) if seconds % size / smaller > 0 => format!("{text} {} {name}", seconds % size / smaller),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        #[rustfmt::skip]
        let rows = [
            (0, "0 s"), (59, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3_600, "1 h"), (7_530, "2 h 5 min"), (3_601, "1 h"),
            (86_400, "1 d"), (100_000, "1 d 3 h"), (u64::MAX, "213503982334601 d 7 h"),
        ];
        for (seconds, want) in rows {
            assert_eq!(duration(seconds), want);
        }
    }

    /// However bad it is, and whatever is wrong at a time.
    #[test]
    fn never_more_than_twenty_lines() {
        for pods in [0, 1, 8, 9, 10, 11, 12, 13, 500] {
            for alarms in [0, 1, 3, 4, 50] {
                let status = worst(pods, alarms);
                let mut out = Vec::new();
                plain(&mut out, &status).unwrap();
                let text = String::from_utf8(out).unwrap();
                let lines = text.lines().count();
                assert!(lines <= LINES_MAX, "{pods} pods, {alarms} alarms: {lines} lines\n{text}");
                let named = text.lines().filter(|line| line.starts_with("a/p")).count();
                let more = text.lines().find_map(|line| line.strip_prefix("and ")?.split(' ').next()?.parse().ok());
                assert_eq!(named + more.unwrap_or(0), pods, "each is named or counted\n{text}");
                assert!(pods == 0 || named > 0, "{text}");
            }
        }
    }

    fn worst(pods: usize, alarms: usize) -> CheckpointerStatus {
        let pods: Vec<Value> = (0..pods)
            .map(|n| {
                serde_json::json!({"namespace": "a", "name": format!("p{n}"), "uid": "u", "state": "Inactive",
                    "parentRunning": "No", "meantToRun": true, "why": "w\nw", "todo": "t\nt"})
            })
            .collect();
        let alarms = vec![serde_json::json!({"code": "C", "message": "m\nm"}); alarms];
        serde_json::from_value(serde_json::json!({
            "apiVersion": "a", "kind": "k", "node": "n", "version": "0", "nowUnixS": 1, "startedAtUnixS": 1, "upS": 0,
            "policy": "all", "store": {}, "pods": pods, "alarms": alarms,
            "apiServer": {"state": "Silent", "sinceUnixS": 1, "forS": 0, "cause": "a\nb"},
            "runtime": {"known": false, "reason": "r\nr"}, "kubelet": {"state": "Unknown", "reason": "r\nr"},
            "nextDeadline": {"what": "x", "inS": 1},
        }))
        .unwrap()
    }
}
