//! What many agents ask of one API server: when they start, in steady state, and when all have lost it at the same time.
//!
//! Agents as processes follow a real API server ([`real`]); a thousand of them, which this machine has no room for as
//! processes, are the library's feeds in one process and follow the fake one ([`many`]).

mod many;
mod real;

use std::time::Duration;

use serde_json::{Value, json};

use crate::Bench;
use crate::report::{Report, Target};

/// Pods of one node, each with a Secret and a ConfigMap of its own: a small node at the edge.
const PODS: usize = 5;

/// Its Secrets and ConfigMaps.
const OBJECTS: usize = 2 * PODS;

/// The pods, the Node and each Secret and ConfigMap.
const WATCHES: usize = OBJECTS + 2;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let directory = bench.directory();
    let window = Duration::from_secs(if bench.short { 1 } else { 60 });
    let mut phases = Vec::new();
    // In the short form this machine may be any, and tests/cluster has shown the same with one agent.
    let real = if bench.short { None } else { real::Real::start(bench, directory.path(), &[1, 10, 50], &mut phases) };
    let many = many::Many::start(bench, directory.path(), &mut phases);
    // All of them at the same time: they do nothing.
    let before = (real.as_ref().map(real::Real::marks), many.mark());
    std::thread::sleep(window);
    if let (Some(real), Some(marks)) = (&real, before.0) {
        real.steady(marks, window, &mut phases);
    }
    many.steady(before.1, window, &mut phases);
    if let Some(real) = real {
        real.reconnect(&mut phases);
    }
    many.reconnect(&mut phases);
    phases.sort_by_key(|phase| phase.agents);
    phases.iter().for_each(|phase| phase.tell(report));
    report.details("fleet", phases.iter().map(Phase::json).collect());
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    List,
    Watch,
    Other,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Since some moment before the first one.
    pub(crate) at_s: f64,
    pub(crate) verb: Verb,
    /// Whether it is for the node's pods.
    pub(crate) pods: bool,
}

/// What one fleet asked for in one phase.
pub(crate) struct Phase {
    pub(crate) agents: usize,
    pub(crate) what: &'static str,
    /// In their order.
    pub(crate) requests: Vec<Asked>,
    /// Bytes to the server, TLS included.
    pub(crate) sent: u64,
    /// Bytes from it.
    pub(crate) received: u64,
    /// Opened during the phase.
    pub(crate) opened: usize,
    /// Open at its end.
    pub(crate) open: usize,
    /// How long it was looked at, where nothing is waited for.
    pub(crate) window: Option<Duration>,
    /// Whether all agents have lost the server at once, so that it matters how their return is spread.
    pub(crate) herd: bool,
}

impl Phase {
    fn count(&self, of: impl Fn(&&Asked) -> bool) -> usize {
        self.requests.iter().filter(of).count()
    }

    fn tell(&self, report: &mut Report) {
        let each = |count: usize| count as f64 / self.agents as f64;
        let (lists, watches) = (self.count(|r| r.verb == Verb::List), self.count(|r| r.verb == Verb::Watch));
        let who = if self.agents == 1 { "1 agent".to_owned() } else { format!("{} agents", self.agents) };
        let kib = |bytes: u64| bytes as f64 / self.agents as f64 / 1024.0;
        let within = match self.window {
            Some(window) => format!("in {} s", window.as_secs()),
            None => format!("within {:.1} s", duration_s(&self.requests)),
        };
        let basis = format!(
            "{:.1} lists, {:.1} watches {within}; {:.1} connections opened, {:.1} open; {:.1} KiB sent, {:.1} KiB received",
            each(lists),
            each(watches),
            each(self.opened),
            each(self.open),
            kib(self.sent),
            kib(self.received),
        );
        let what = format!("{who}, {}: requests of each", self.what);
        report.row("fleet", what, (each(self.requests.len()), ""), Target::None, basis);
        if self.herd && self.agents > 1 {
            let busiest = busiest(&self.requests, 1.0);
            let pods: Vec<Asked> = self.requests.iter().filter(|r| r.pods && r.verb == Verb::List).copied().collect();
            let basis = format!(
                "{:.1} of each agent; of the lists of pods {} in the busiest 0.1 s",
                each(busiest),
                self::busiest(&pods, 0.1)
            );
            let what = format!("{who}, {}: requests in the busiest second", self.what);
            report.row("fleet", what, (busiest as f64, ""), Target::None, basis);
        }
    }

    fn json(&self) -> Value {
        let mut seconds: Vec<usize> = Vec::new();
        let first = self.requests.first().map_or(0.0, |request| request.at_s);
        for request in &self.requests {
            let second = (request.at_s - first) as usize;
            seconds.resize(seconds.len().max(second + 1), 0);
            seconds[second] += 1;
        }
        json!({
            "agents": self.agents, "phase": self.what, "requests": self.requests.len(),
            "lists": self.count(|r| r.verb == Verb::List), "watches": self.count(|r| r.verb == Verb::Watch),
            "connections_opened": self.opened, "connections_open": self.open,
            "sent_bytes": self.sent, "received_bytes": self.received,
            "busiest_second": busiest(&self.requests, 1.0), "requests_by_second": seconds,
            "window_s": self.window.map(|window| window.as_secs()),
        })
    }
}

/// From the first request to the last.
fn duration_s(requests: &[Asked]) -> f64 {
    match requests {
        [first, .., last] => last.at_s - first.at_s,
        _ => 0.0,
    }
}

/// The most requests that arrived within any `span_s`.
fn busiest(requests: &[Asked], span_s: f64) -> usize {
    let mut from = 0;
    let within = requests.iter().enumerate().map(|(at, request)| {
        while request.at_s - requests[from].at_s >= span_s {
            from += 1;
        }
        at + 1 - from
    });
    within.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_may_begin_anywhere() {
        let at = |times: &[f64]| {
            let asked = |at_s: &f64| Asked { at_s: *at_s, verb: Verb::List, pods: false };
            times.iter().map(asked).collect::<Vec<_>>()
        };
        #[rustfmt::skip]
        let rows = [
            (&[][..],                     0),
            (&[0.0],                      1),
            (&[0.0, 1.0, 2.0],            1),
            (&[0.0, 0.9, 1.1, 1.8, 3.0],  3),
            (&[0.5, 0.5, 0.5],            3),
        ];
        for (times, want) in rows {
            assert_eq!(busiest(&at(times), 1.0), want, "{times:?}");
        }
    }
}
