//! What the agent sees of the node: the container runtime, the kubelet, this boot, the images.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::checkpoint::images::NodeImages;
use crate::checkpoint::look::{ApiServer, Boot, Kubelet, Look};
use crate::checkpoint::node::Fact;
use crate::node::boot;
use crate::node::cri::{Cri, Ended, find};
use crate::node::kubelet::configuration;
use crate::node::kubelet::pull_records;
use crate::node::kubelet::watch::Watch;

/// How long what is known of images is good for: they come and go slowly, and only the verdict needs them.
const IMAGES_AGAIN: Duration = Duration::from_secs(60);

/// The same of not knowing.
const IMAGES_SOON: Duration = Duration::from_secs(5);

/// Before a runtime's events are asked for again.
const EVENTS_AGAIN: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Clone, Debug)]
pub struct Sights {
    /// The node's root directory; `/` on the node itself.
    pub root: PathBuf,
    /// Our static pod directory.
    pub manifests: PathBuf,
    /// The container runtime's socket, where the operator says it.
    pub cri_socket: Option<PathBuf>,
    /// What tells one boot from another.
    pub boot: boot::Source,
}

/// Looks at the node.
pub(super) struct Eyes {
    sights: Sights,
    kubelet: Watch,
    boot: Fact<Boot>,
    boot_id: Fact<String>,
    images: Option<(Instant, NodeImages)>,
}

impl Eyes {
    /// Opens them. `stored_boot_id` is that of the last commit, as the store was found.
    #[must_use]
    pub(super) fn new(sights: Sights, stored_boot_id: &str) -> Self {
        let mut kubelet = Watch::new(&sights.root, &sights.manifests);
        let boot_id = boot::id(&sights.root, &sights.boot);
        let runs = kubelet.look(boot::now_ms());
        let boot = boot::compare(stored_boot_id, &boot_id, || boot::kubelet_ran(&sights.root, &sights.boot, &runs));
        Self { sights, kubelet, boot, boot_id, images: None }
    }

    /// The identity of this boot, if it is known.
    #[must_use]
    pub(super) fn boot_id(&self) -> Option<&str> {
        match &self.boot_id {
            Fact::Known(id) => Some(id),
            Fact::Unknown(_) => None,
        }
    }

    /// Looks at the node now. The kubelet's directory is for the materializer to look at.
    pub(super) async fn look(&mut self, api: ApiServer) -> Look {
        let runtime = match self.cri() {
            Ok(cri) => cri.look().await,
            Err(why) => Fact::Unknown(why),
        };
        let now_ms = boot::now_ms();
        let kubelet = self.kubelet.look(now_ms);
        // One that was seen has run, whatever its traces said at the start.
        if let (Fact::Known(Kubelet::Running { .. }), Fact::Known(Boot::New { kubelet_ran })) =
            (&kubelet, &mut self.boot)
        {
            *kubelet_ran = true;
        }
        let manifests = Fact::Unknown("nobody has looked".to_owned());
        Look { now_ms, api, runtime, kubelet, boot: self.boot.clone(), manifests }
    }

    /// What is known of images, at most a minute old.
    pub(super) async fn images(&mut self) -> NodeImages {
        if let Some((until, images)) = &self.images
            && Instant::now() < *until
        {
            return images.clone();
        }
        let present = match self.cri() {
            Ok(cri) => cri.images().await,
            Err(why) => Fact::Unknown(why),
        };
        let good_for = match present {
            Fact::Known(_) => IMAGES_AGAIN,
            // A runtime that comes up after the agent is asked soon.
            Fact::Unknown(_) => IMAGES_SOON,
        };
        let images = images(&self.sights.root, &present);
        self.images = Some((Instant::now() + good_for, images.clone()));
        images
    }

    fn cri(&self) -> Result<Cri, String> {
        cri(&self.sights.root, self.sights.cri_socket.as_deref())
    }
}

/// The container runtime of the node below `root`: where the operator says, else where the kubelet finds it, else in the
/// usual places.
///
/// # Errors
/// There is none; the sentence says where it was looked for.
pub fn cri(root: &Path, socket: Option<&Path>) -> Result<Cri, String> {
    let of_kubelet = match configuration::used(root).container_runtime_endpoint {
        Fact::Known(endpoint) if socket.is_none() => endpoint.map(|endpoint| below(root, &endpoint)),
        Fact::Known(_) | Fact::Unknown(_) => None,
    };
    find(socket.or(of_kubelet.as_deref()), root).map(Cri::new)
}

/// A path of the node, as seen from here; one that lies below the root already is of a node that was laid out there.
fn below(root: &Path, endpoint: &str) -> PathBuf {
    let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    if path.starts_with(root) { path.to_owned() } else { root.join(path.strip_prefix("/").unwrap_or(path)) }
}

/// What is known of images: those that the runtime has, and the kubelet's records of them.
#[must_use]
pub fn images(root: &Path, present: &Fact<Vec<crate::checkpoint::look::Image>>) -> NodeImages {
    let used = configuration::used(root);
    let kubelet_root = root.join(used.root_dir.strip_prefix("/").unwrap_or(&used.root_dir));
    NodeImages::new(present, &pull_records::read(&kubelet_root), &used.image_verification)
}

/// Tells `changed` of every event of the container runtime, for ever. Where it has none, nothing is told.
pub(super) async fn watch_runtime(sights: Sights, changed: Arc<Notify>) {
    loop {
        if let Ok(cri) = cri(&sights.root, sights.cri_socket.as_deref()) {
            match cri.watch(&changed).await {
                Ended::NotOffered(why) => {
                    tracing::info!("no events: {why}");
                    // It may be another runtime one day.
                    sleep(EVENTS_AGAIN * 30).await;
                }
                Ended::Lost(why) => tracing::info!("events of the container runtime have ended: {why}"),
            }
        }
        sleep(EVENTS_AGAIN).await;
    }
}
