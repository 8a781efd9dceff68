//! Descriptors over ten thousand reconnects, whichever way connections end: as many at the end as at the beginning.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use ckpt_db::checkpoint::object::Kind;
use serde_json::json;

use crate::agent::at_once;
use crate::fake::{Fault, Match, Options, Server, Times, Verb};
use crate::follower::Follower;
use crate::scene::{pod, secret};
use crate::{alone, amount};

/// How a connection ends.
const WAYS: [&str; 5] = ["closed", "reset", "sent away", "hung, then closed", "refused"];

/// What is open, by what it is: sockets, epoll and inotify descriptors, files.
pub(crate) fn descriptors(pid: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        // The descriptor of the directory itself is closed when it is looked at.
        let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let what = match target.split_once(':') {
            Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
            Some(("anon_inode", kind)) => kind.trim_matches(['[', ']']).to_owned(),
            Some(_) | None => "file".to_owned(),
        };
        *found.entry(what).or_default() += 1;
    }
    found
}

fn watches() -> Match {
    Match::when(|request| request.verb == Verb::Watch)
}

#[test]
fn ten_thousand_reconnects_leave_nothing_open() {
    let _turn = alone();
    let reconnects = amount(10_000, 200);
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(Options::default());
    server.create(Kind::Node, "", "node-1", json!({"status": {"nodeInfo": {"kubeletVersion": "v1.37.0"}}}));
    server.create(Kind::Secret, "shop", "web", secret("first"));
    let web = server.create(Kind::Pod, "shop", "web", pod(&["web"], &[]));
    let follower = Follower::start(&server, directory.path());
    follower.until(&HashMap::from([((Kind::Pod, "web".to_owned()), Some(web))]));
    // Pods, the Node, and the Secret.
    let watched = || at_once("all watches", || server.open_watches(&watches()).len() == 3);
    watched();
    // Other tests run in this process as well, unless it is the long form.
    let settled = || {
        at_once("connections that were given up to be closed", || server.open_connections() <= 2);
        descriptors("self")
    };
    let (mut begin, began) = (None, Instant::now());
    for round in 0..reconnects {
        let before = server.connections();
        match WAYS[round % WAYS.len()] {
            "closed" => server.close_connections(),
            "reset" => {
                server.fault(Match::any(), Fault::Reset, Times::Once);
                server.close_connections();
            }
            "sent away" => {
                server.go_away();
                server.end_watches(&watches());
            }
            "hung, then closed" => {
                let mark = server.mark();
                server.fault(Match::any(), Fault::Hang, Times::Once);
                server.close_connections();
                at_once("a request that hangs", || !server.requests(&Match::any().after(mark)).is_empty());
                server.close_connections();
            }
            "refused" => {
                server.stop();
                server.listen();
            }
            other => unreachable!("{other}"),
        }
        at_once("another connection", || server.connections() > before);
        let changed = server.replace(Kind::Secret, "shop", "web", secret(&round.to_string()));
        follower.until(&HashMap::from([((Kind::Secret, "web".to_owned()), Some(changed))]));
        watched();
        server.forget_history();
        if round + 1 == reconnects / 10 {
            begin = Some(settled());
        }
    }
    let (begin, end) = (begin.unwrap(), settled());
    let connections = server.connections();
    eprintln!(
        "{reconnects} reconnects ({connections} connections) in {:.1?}: open after a tenth {begin:?}, at the end {end:?}",
        began.elapsed()
    );
    let count = |found: &BTreeMap<String, usize>| found.values().sum::<usize>();
    // A connection for single requests may be there or not, with an end in each of the two sides.
    assert!(count(&end) <= count(&begin) + 4, "descriptors are left open");
    eprintln!(
        "campaign: bounds, descriptors: {reconnects} reconnects, {} open after a tenth of them, {} at the end",
        count(&begin),
        count(&end)
    );
}
