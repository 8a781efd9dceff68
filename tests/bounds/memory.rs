//! Memory over a million events: no more at the end than after a tenth of them.

use std::collections::HashMap;
use std::time::Instant;

use ckpt_db::checkpoint::object::Kind;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats};

use crate::common::random::Random;
use crate::fake::{Options, Server};
use crate::follower::Follower;
use crate::scene::{pod, secret};
use crate::{alone, amount};

/// Pods, each with a Secret and a ConfigMap.
const PODS: usize = 20;

/// So many events, and then everything is waited for.
const ROUND: usize = 1_000;

/// Live heap may be so much larger at the end: what is on its way differs from moment to moment.
pub(crate) const SLACK_BYTES: usize = 1 << 20;

/// Memory of the process may be so much larger at the end than after a tenth: an allocator keeps pages.
pub(crate) const SLACK_RESIDENT_KIB: usize = 8 << 10;

pub(crate) fn live(stats: &Stats) -> isize {
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize
}

/// `VmRSS` of this process, in KiB.
pub(crate) fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What the server has of what was changed since the last look; none of what is gone.
type Wanted = HashMap<(Kind, String), Option<Value>>;

fn create(server: &Server, name: &str, wanted: &mut Wanted) -> usize {
    wanted.insert((Kind::Secret, name.to_owned()), Some(server.create(Kind::Secret, "shop", name, secret("first"))));
    let config = json!({"data": {"config": "x".repeat(500)}});
    wanted.insert((Kind::ConfigMap, name.to_owned()), Some(server.create(Kind::ConfigMap, "shop", name, config)));
    wanted.insert((Kind::Pod, name.to_owned()), Some(server.create(Kind::Pod, "shop", name, pod(&[name], &[name]))));
    3
}

#[test]
fn a_million_events_leave_nothing_behind() {
    let _turn = alone();
    let events = amount(1_000_000, 10_000);
    let mut random = Random::new(5);
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(Options::default());
    server.create(Kind::Node, "", "node-1", json!({"status": {"nodeInfo": {"kubeletVersion": "v1.37.0"}}}));
    let mut names: Vec<String> = (0..PODS).map(|n| format!("p{n}")).collect();
    let mut wanted = Wanted::new();
    names.iter().for_each(|name| assert_eq!(create(&server, name, &mut wanted), 3));
    let follower = Follower::start(&server, directory.path());
    follower.until(&wanted);
    let (mut sent, mut born, mut begin) = (0, PODS, None);
    let began = Instant::now();
    let measure = || (live(&INSTRUMENTED_SYSTEM.stats()), resident_kib());
    while sent < events {
        wanted.clear();
        let until = (sent + ROUND).min(events);
        while sent < until {
            let at = random.below(PODS);
            let name = names[at].clone();
            sent += match random.below(100) {
                // A pod that never was before, in the place of one that goes: names and UIDs without end.
                0 => {
                    for kind in [Kind::Pod, Kind::Secret, Kind::ConfigMap] {
                        server.delete(kind, "shop", &name);
                        wanted.remove(&(kind, name.clone()));
                    }
                    // Nobody is told of what only it named.
                    wanted.insert((Kind::Pod, name), None);
                    born += 1;
                    names[at] = format!("p{born}");
                    3 + create(&server, &names[at], &mut wanted)
                }
                1..=30 => {
                    let touched = server.modify(Kind::Pod, "shop", &name, |pod| {
                        pod["metadata"]["annotations"]["touched"] = json!(sent.to_string());
                    });
                    wanted.insert((Kind::Pod, name), Some(touched));
                    1
                }
                n => {
                    let kind = if n % 2 == 0 { Kind::Secret } else { Kind::ConfigMap };
                    let body = match kind {
                        Kind::Secret => secret(&sent.to_string().repeat(1 + random.below(100))),
                        _ => json!({"data": {"config": sent.to_string().repeat(1 + random.below(100))}}),
                    };
                    wanted.insert((kind, name.clone()), Some(server.replace(kind, "shop", &name, body)));
                    1
                }
            };
        }
        follower.until(&wanted);
        // The server is in this process as well, and must not be what grows.
        server.forget_history();
        if begin.is_none() && sent >= events / 10 {
            begin = Some(measure());
        }
    }
    wanted.clear();
    let (begin, end) = (begin.unwrap(), measure());
    eprintln!(
        "{events} watch events ({} pods that came and went) in {:.1?}, {} transactions: live heap {} bytes after a tenth, {} \
         at the end; resident {} KiB after a tenth, {} at the end",
        born - PODS,
        began.elapsed(),
        follower.batches(),
        begin.0,
        end.0,
        begin.1,
        end.1
    );
    assert!(end.0 - begin.0 <= SLACK_BYTES as isize, "live heap grows: {} bytes", end.0 - begin.0);
    assert!(end.1 <= begin.1 + SLACK_RESIDENT_KIB, "the process grows: {} KiB", end.1 - begin.1);
    eprintln!(
        "campaign: bounds, memory: {events} events, live heap {} bytes after a tenth of them, {} at the end",
        begin.0, end.0
    );
}
