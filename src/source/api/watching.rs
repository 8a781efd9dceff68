//! One watch: from its request to its end, and what the end means for whoever goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::body::BodyError;
use super::connect::{Connections, WatchStream};
use super::events::{Decoder, Event, EventError};
use super::reach::Failure;
use crate::checkpoint::object::Kind;

/// A watch that ends this much earlier than asked for has ended in time: clocks and networks take a moment.
const NEARLY: Duration = Duration::from_secs(5);

/// A watch that goes on for this much longer than asked for has been forgotten by the server, or by a proxy on the way that
/// still answers our pings. Nothing would ever be heard on it.
const OVERDUE: Duration = Duration::from_secs(30);

/// Why a watch is over.
#[derive(Debug)]
pub(super) enum End {
    /// The time that was asked for is up: go on from the last position.
    InTime,
    /// It was cut short, or never ended. The server restarted, lost its etcd, shed load or hangs; what it serves next may
    /// be another past, in which a watch from the old position would be silent for ever. List again.
    Early,
    /// The server no longer knows the position (410), or does not know it yet: list again.
    Lost,
    /// The request, the connection or the stream failed: list again, when there is an answer.
    Failed(Failure),
}

impl End {
    /// Whether the connection was lost, or the server behind it is going: then so are all other watches, of all nodes.
    pub(super) fn is_cut(&self) -> bool {
        match self {
            Self::Early | Self::Failed(Failure::Unreachable(_) | Failure::NoRoute(_)) => true,
            Self::InTime | Self::Lost | Self::Failed(_) => false,
        }
    }
}

/// How often watches have ended, by kind and reason.
#[derive(Debug, Default)]
pub struct WatchEnds([[AtomicU64; REASONS.len()]; WATCHED.len()]);

/// Kinds that are watched.
const WATCHED: [Kind; 4] = [Kind::Pod, Kind::ConfigMap, Kind::Secret, Kind::Node];

/// The variants of [`End`], in a word.
const REASONS: [&str; 4] = ["expired", "cut", "lost", "failed"];

impl WatchEnds {
    /// One has ended.
    pub(super) fn count(&self, kind: Kind, end: &End) {
        let reason = match end {
            End::InTime => 0,
            End::Early => 1,
            End::Lost => 2,
            End::Failed(_) => 3,
        };
        if let Some(at) = WATCHED.iter().position(|watched| *watched == kind) {
            self.0[at][reason].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each kind and reason, with how often that was.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &'static str, u64)> {
        let counts = WATCHED.into_iter().zip(&self.0);
        counts.flat_map(|(kind, counts)| {
            REASONS.into_iter().zip(counts).map(move |(reason, count)| (kind, reason, count.load(Ordering::Relaxed)))
        })
    }
}

/// An open watch.
pub(super) struct Watching {
    stream: WatchStream,
    decoder: Decoder,
    until: Instant,
    overdue: Instant,
    position: String,
}

impl Watching {
    /// Asks for it. `position` and `time` are what the path asks for.
    pub(super) async fn open(
        connections: &Connections,
        path: &str,
        kind: Kind,
        position: &str,
        time: Duration,
    ) -> Result<Self, End> {
        let now = Instant::now();
        let (until, overdue) = (now + time.saturating_sub(NEARLY), now + time + OVERDUE);
        // Apart: the task of a watch is small while the watch is open.
        match Box::pin(connections.watch(path)).await {
            Ok(stream) => {
                let decoder = Decoder::new(kind);
                Ok(Self { stream, decoder, until, overdue, position: position.to_owned() })
            }
            Err(failure) => Err(Self::sort(failure)),
        }
    }

    /// Up to where everything was told: a later watch can go on from here.
    pub(super) fn position(&self) -> &str {
        &self.position
    }

    /// The next event. An object that can't be read is an `Ok` of its own: it costs neither the others nor the stream.
    ///
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Result<Event, BodyError>, End> {
        loop {
            match self.decoder.next() {
                Some(Ok(Event::Error(status))) => return Err(Self::sort(Failure::from_event(&status))),
                Some(Ok(event)) => return self.in_order(event).map(Ok),
                Some(Err(EventError::Body(bad))) => return Ok(Err(bad)),
                Some(Err(error)) => return Err(End::Failed(Failure::garbage("watch", &error))),
                None => {}
            }
            match timeout_at(self.overdue, self.stream.chunk()).await {
                Ok(Ok(Some(bytes))) => self.decoder.push(&bytes),
                // Half an event is no event: it comes again.
                Ok(Ok(None)) if Instant::now() >= self.until => return Err(End::InTime),
                Ok(Ok(None)) | Err(_) => return Err(End::Early),
                Ok(Err(failure)) => return Err(End::Failed(failure)),
            }
        }
    }

    /// Steps on to the event's position.
    ///
    /// Within one watch positions only grow. An event from before the last one is out of order, or of a server that was
    /// restored under the watch: only a listing tells what holds. A deletion may show the version that the object had, and
    /// is proven anyway.
    fn in_order(&mut self, event: Event) -> Result<Event, End> {
        let (version, may_be_older) = match &event {
            Event::Applied(object) => (&object.resource_version, false),
            Event::Deleted(object) => (&object.resource_version, true),
            Event::Bookmark { resource_version, .. } => (resource_version, false),
            Event::Error(_) => return Ok(event),
        };
        if !is_before(version, &self.position) {
            self.position.clone_from(version);
        } else if !may_be_older {
            return Err(End::Lost);
        }
        Ok(event)
    }

    fn sort(failure: Failure) -> End {
        if failure.is_lost_position() { End::Lost } else { End::Failed(failure) }
    }
}

/// Whether both are numbers, as those of every API server with etcd, and the first is the smaller one.
pub(super) fn is_before(version: &str, other: &str) -> bool {
    matches!((version.parse::<u64>(), other.parse::<u64>()), (Ok(version), Ok(other)) if version < other)
}
