//! One open watch: reads the journal from where it stands, and writes events.

use ckpt_db::checkpoint::object::Kind;
use futures_util::stream;
use http_body_util::StreamBody;
use serde_json::{Value, json};

use super::State;
use super::answer::{on_the_wire, selects};
use super::body::{Body, Exchange, Outbox};
use super::faults::{Fault, Stage, event_line};
use super::store::{Change, Entry};

/// Where a watch begins.
pub(super) struct WatchStart {
    /// Changes up to this version are not its business.
    pub(super) from: u64,
    /// Events that are no changes: what there is.
    pub(super) first: Vec<Vec<u8>>,
    /// It begins too far back: this, and no more.
    pub(super) gone: Option<Vec<u8>>,
    /// In the journal.
    pub(super) position: usize,
    /// The journal's length at the start: bookmarks before it are of the past.
    pub(super) present: usize,
    pub(super) epoch: u64,
    /// On the server's clock.
    pub(super) ends_at_ms: Option<u64>,
}

/// What comes next.
enum Next {
    Line(Vec<u8>),
    End,
}

pub(super) struct Watch {
    exchange: Exchange,
    start: WatchStart,
    kind: Kind,
    /// An event that is to be sent after the next one.
    held: Option<Vec<u8>>,
    outbox: Outbox,
}

impl Watch {
    pub(super) fn body(exchange: Exchange, mut start: WatchStart) -> Body {
        let kind = exchange.request.kind.expect("only resources are watched");
        let first = std::mem::take(&mut start.first);
        let gone = start.gone.take();
        let mut watch = Self { exchange, start, kind, held: None, outbox: Outbox::default() };
        first.into_iter().for_each(|line| watch.send(line));
        if let Some(line) = gone {
            watch.send(line);
            watch.outbox.end_unless_cut();
        }
        let pieces = stream::unfold(watch, |mut watch| async move {
            while watch.outbox.is_done() {
                watch.fill().await;
            }
            let frame = watch.outbox.next(&mut watch.exchange).await?;
            Some((frame, watch))
        });
        StreamBody::new(Box::pin(pieces))
    }

    /// Takes the next thing that concerns this watch, and waits for it if there is none.
    async fn fill(&mut self) {
        let Self { exchange, start, kind, .. } = self;
        let next = exchange.until(|exchange| {
            let state = exchange.shared.lock();
            next(&state, exchange, start, *kind)
        });
        match next.await {
            Next::Line(line) => self.send(line),
            Next::End => {
                if let Some(held) = self.held.take() {
                    self.outbox.push(held); // there is no next one
                }
                self.outbox.end_unless_cut();
            }
        }
    }

    /// Puts one event into the outbox, through the faults.
    fn send(&mut self, line: Vec<u8>) {
        let line = self.exchange.content(line);
        match self.exchange.fault(Stage::Event) {
            Some(Fault::Lost) => return,
            Some(Fault::Later) if self.held.is_none() => {
                self.held = Some(line);
                return;
            }
            Some(Fault::Twice) => self.outbox.push(line.clone()),
            _ => {}
        }
        self.exchange.deliver(&mut self.outbox, line);
        if let Some(held) = self.held.take() {
            self.outbox.push(held);
        }
    }
}

/// Steps on in the journal up to the next thing that concerns this watch.
fn next(state: &State, exchange: &Exchange, start: &mut WatchStart, kind: Kind) -> Option<Next> {
    if start.epoch != state.store.epoch {
        return None; // of the time before a restore: its connection is being closed
    }
    let request = &exchange.request;
    while let Some(entry) = state.store.journal.get(start.position) {
        let of_the_past = start.position < start.present;
        start.position += 1;
        match entry {
            Entry::Change(change) if change.version > start.from => {
                let selected = |object: &Value| selects(request, kind, &change.key, object);
                if let Some(line) = event_of(kind, change, selected) {
                    return Some(Next::Line(line));
                }
            }
            Entry::Bookmark { version } if !of_the_past && request.allows_bookmarks() && *version >= start.from => {
                return Some(Next::Line(bookmark(kind, *version)));
            }
            Entry::Line { to, line } if to.contains(&request.number) => return Some(Next::Line(line.clone())),
            Entry::End { of } if of.contains(&request.number) => return Some(Next::End),
            Entry::Change(_) | Entry::Bookmark { .. } | Entry::Line { .. } | Entry::End { .. } => {}
        }
    }
    start.ends_at_ms.filter(|&end_ms| state.clock_ms >= end_ms).map(|_| Next::End)
}

/// What the change is to somebody who sees only what is selected.
fn event_of(kind: Kind, change: &Change, selected: impl Fn(&Value) -> bool) -> Option<Vec<u8>> {
    let before = change.before.as_ref().filter(|object| selected(object));
    let after = change.after.as_ref().filter(|object| selected(object));
    match (before, after) {
        (None, None) => None,
        (None, Some(after)) => Some(event_line("ADDED", &on_the_wire(kind, after))),
        (Some(_), Some(after)) => Some(event_line("MODIFIED", &on_the_wire(kind, after))),
        (Some(before), None) => {
            let mut last = on_the_wire(kind, before);
            last["metadata"]["resourceVersion"] = json!(change.version.to_string());
            Some(event_line("DELETED", &last))
        }
    }
}

fn bookmark(kind: Kind, version: u64) -> Vec<u8> {
    let mut object = json!({
        "kind": kind.row().name, "apiVersion": kind.row().api_version,
        "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
    });
    // The zero value of the type, as Go writes it.
    match kind {
        Kind::Pod => {
            object["spec"] = json!({"containers": null});
            object["status"] = json!({});
        }
        Kind::Service => {
            object["spec"] = json!({});
            object["status"] = json!({"loadBalancer": {}});
        }
        Kind::Node => {
            object["spec"] = json!({});
            object["status"] = json!({"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": {}});
        }
        Kind::ConfigMap | Kind::Secret => {}
    }
    event_line("BOOKMARK", &object)
}
