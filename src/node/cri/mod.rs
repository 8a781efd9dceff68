//! The container runtime, asked over its Unix socket (Kubernetes' container runtime interface, CRI v1).
//!
//! Each question has a connection of its own: on a Unix socket that costs next to nothing, and so none can have gone stale,
//! outlive the runtime that it was made to, or be held up by another question. It decides nothing, and every failure is a
//! value.

mod connection;
mod failure;
mod join;
mod messages;
mod socket;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::socket::find;

use self::connection::{Connection, RpcMethod};
use self::failure::{Failure, Problem};
use crate::checkpoint::look::{Image, Runtime};
use crate::checkpoint::node::Fact;

/// For all that is asked at once, connecting included.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// The longest answer that is read: what kubelets take, and what containerd sends at most.
const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;

const VERSION: RpcMethod = RpcMethod { name: "Version", path: "/runtime.v1.RuntimeService/Version" };
const LIST_POD_SANDBOX: RpcMethod =
    RpcMethod { name: "ListPodSandbox", path: "/runtime.v1.RuntimeService/ListPodSandbox" };
const LIST_CONTAINERS: RpcMethod =
    RpcMethod { name: "ListContainers", path: "/runtime.v1.RuntimeService/ListContainers" };
const GET_CONTAINER_EVENTS: RpcMethod =
    RpcMethod { name: "GetContainerEvents", path: "/runtime.v1.RuntimeService/GetContainerEvents" };
const LIST_IMAGES: RpcMethod = RpcMethod { name: "ListImages", path: "/runtime.v1.ImageService/ListImages" };

/// The container runtime behind a socket. Nothing is held open between questions.
#[derive(Clone, Debug)]
pub struct Cri {
    socket: PathBuf,
}

/// Why there are no more events. Each carries the reason for whoever reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This runtime has no events for us: ask it again and again instead. Asking for events again is of no use until it is
    /// another one.
    NotOffered(String),
    /// The runtime is away, or the stream broke. Begin anew after a while, and ask again and again meanwhile.
    Lost(String),
}

impl Cri {
    /// The runtime that listens at `socket` ([`find`]). Connects to nothing.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Every sandbox and every container, within [`DEADLINE`] (`ListContainers` and `ListPodSandbox`).
    ///
    /// Must be used within a tokio runtime with timers and I/O; dropping the future ends the question. Unknown with the
    /// socket, what was attempted, what came of it and what to do.
    pub async fn look(&self) -> Fact<Runtime> {
        self.fact(self.runtime(Instant::now() + DEADLINE).await)
    }

    /// As [`look`](Self::look), for callers without a tokio runtime. Blocks the thread for [`DEADLINE`] at most.
    #[must_use]
    pub fn look_blocking(&self) -> Fact<Runtime> {
        self.blocking(self.look())
    }

    /// Every image of the node, within [`DEADLINE`] (`ListImages`). Otherwise as [`look`](Self::look).
    pub async fn images(&self) -> Fact<Vec<Image>> {
        self.fact(self.list_images(Instant::now() + DEADLINE).await)
    }

    /// As [`images`](Self::images), for callers without a tokio runtime. Blocks the thread for [`DEADLINE`] at most.
    #[must_use]
    pub fn images_blocking(&self) -> Fact<Vec<Image>> {
        self.blocking(self.images())
    }

    /// Tells `changed` of each event of the runtime until there are no more (`GetContainerEvents`). Dropping the future ends
    /// it.
    ///
    /// Nothing tells when the stream has begun, a runtime that hangs sends nothing, and events may be lost: look once in a
    /// while all the same. Containers' starts and ends come as events, each with no more than that something has changed.
    pub async fn watch(&self, changed: &Notify) -> Ended {
        match self.events(changed).await {
            Ok(ended) => ended,
            Err(failure) => {
                let reason = self.reason(&failure);
                match failure.problem {
                    Problem::Unimplemented => Ended::NotOffered(reason),
                    _ => Ended::Lost(reason),
                }
            }
        }
    }

    async fn runtime(&self, deadline: Instant) -> Result<Runtime, Failure> {
        let mut connection = Connection::open(&self.socket, deadline).await?;
        let mut repeated = false;
        loop {
            // Containers first: what holds a container that is listed was there before, so that a container that runs is
            // missing its sandbox only if that was removed between the two questions.
            let containers: messages::ListContainersResponse = connection.ask(LIST_CONTAINERS, deadline).await?;
            let sandboxes: messages::ListPodSandboxResponse = connection.ask(LIST_POD_SANDBOX, deadline).await?;
            let (containers, sandboxes) = (containers.containers, sandboxes.items);
            // Then its pod may run in a new sandbox, whose containers are not on the list: once more. A runtime that lost
            // a sandbox and kept its container gives this answer each time; that must not make the whole node unknown,
            // and the container's own labels say of which pod it is.
            if !repeated && join::misses_sandbox(&containers, &sandboxes) {
                repeated = true;
                continue;
            }
            let joined = join::join(containers, sandboxes);
            return joined.map_err(|problem| Failure { attempted: LIST_POD_SANDBOX.name, problem });
        }
    }

    async fn list_images(&self, deadline: Instant) -> Result<Vec<Image>, Failure> {
        let mut connection = Connection::open(&self.socket, deadline).await?;
        let list: messages::ListImagesResponse = connection.ask(LIST_IMAGES, deadline).await?;
        let image = |image: messages::Image| Image {
            id: image.id,
            repo_tags: image.repo_tags,
            repo_digests: image.repo_digests,
            pinned: image.pinned,
        };
        Ok(list.images.into_iter().map(image).collect())
    }

    async fn events(&self, changed: &Notify) -> Result<Ended, Failure> {
        let deadline = Instant::now() + DEADLINE;
        let mut connection = Connection::open(&self.socket, deadline).await?;
        let version: messages::VersionResponse = connection.ask(VERSION, deadline).await?;
        // Until 2.0, each event goes to one of those who listen: a kubelet with `EventedPLEG` would miss what we take
        // (containerd issue 7318).
        if version.runtime_name == "containerd" && version.runtime_version.trim_start_matches('v').starts_with("1.") {
            return Ok(self.not_offered("before containerd 2.0, listening takes events away from the kubelet"));
        }
        let failed = |problem| Failure { attempted: GET_CONTAINER_EVENTS.name, problem };
        let mut answer = match connection.begin(GET_CONTAINER_EVENTS).await {
            Err(Problem::Unimplemented) => return Ok(self.not_offered("the runtime does not have it")),
            begun => begun.map_err(failed)?,
        };
        let mut any = false;
        while answer.piece().await.map_err(failed)?.is_some() {
            any = true;
            changed.notify_one();
        }
        // CRI-O ends the stream at once where events are off, which they are by default.
        Ok(match any {
            false => self.not_offered("the stream ends without an event (CRI-O: `enable_pod_events` is off)"),
            true => Ended::Lost(format!("{}: {}: the stream has ended", self.shown(), GET_CONTAINER_EVENTS.name)),
        })
    }

    fn not_offered(&self, why: &str) -> Ended {
        Ended::NotOffered(format!("{}: {}: {why}", self.shown(), GET_CONTAINER_EVENTS.name))
    }

    /// On a thread of its own, since a thread that belongs to a tokio runtime may not wait for another one.
    fn blocking<T: Send>(&self, question: impl Future<Output = Fact<T>> + Send) -> Fact<T> {
        let cannot = |why: &dyn std::fmt::Display| Fact::Unknown(format!("cannot ask {}: {why}", self.shown()));
        let ask = || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(question),
            Err(error) => cannot(&error),
        };
        std::thread::scope(|scope| {
            match std::thread::Builder::new().name("container-runtime".to_owned()).spawn_scoped(scope, ask) {
                Ok(asking) => asking.join().unwrap_or_else(|_| cannot(&"its thread panicked")),
                Err(error) => cannot(&error),
            }
        })
    }

    fn fact<T>(&self, found: Result<T, Failure>) -> Fact<T> {
        found.map_or_else(|failure| Fact::Unknown(self.reason(&failure)), Fact::Known)
    }

    fn reason(&self, failure: &Failure) -> String {
        format!("{}: {failure}", self.shown())
    }

    fn shown(&self) -> String {
        format!("container runtime at {}", self.socket.display())
    }
}

#[cfg(test)]
mod tests;
