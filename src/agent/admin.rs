//! What the command line is told over the admin socket, and what it may ask for.

use std::path::PathBuf;
use std::sync::Arc;

use super::latest::Latest;
use super::shared::Shared;
use crate::checkpoint::rendering::PodName;
use crate::ops::admin::{Admin, Image};
use crate::ops::status::CheckpointerStatus;
use crate::store::Change;

/// Answers for the agent.
pub struct Desk {
    shared: Arc<Shared>,
    latest: Arc<Latest>,
    path: PathBuf,
    clock_ms: fn() -> u64,
    /// Whether this instance is the copy of the agent's own pod, which yields to its parent.
    is_copy: bool,
}

impl Desk {
    /// Answers from what these hold; `path` is the store.
    #[must_use]
    pub fn new(shared: Arc<Shared>, latest: Arc<Latest>, path: PathBuf, clock_ms: fn() -> u64, is_copy: bool) -> Self {
        Self { shared, latest, path, clock_ms, is_copy }
    }

    async fn set_held(&self, pod: PodName, held: bool) -> Result<(), String> {
        let store = self.shared.store().ok_or_else(|| self.why_no_store())?;
        let change = Change::Hold { pod: pod.clone(), held };
        let update = store.update(vec![change]).await.map_err(|error| error.to_string())?;
        if let Some(rejected) = update.get().rejected.first() {
            return Err(format!("cannot {} {pod}: {}", if held { "hold" } else { "release" }, rejected.problem));
        }
        self.shared.ring();
        Ok(())
    }

    fn why_no_store(&self) -> String {
        let why = self.shared.problem().unwrap_or_else(|| "it is being opened".to_owned());
        format!("the store {} can't be written to now: {why}", self.path.display())
    }
}

impl Admin for Desk {
    async fn status(&self) -> Result<CheckpointerStatus, String> {
        let problem = self.shared.store().is_none().then(|| self.why_no_store());
        Ok(self.latest.status((self.clock_ms)() / 1000, problem))
    }

    async fn hold(&self, pod: PodName) -> Result<String, String> {
        if self.latest.is_answered() {
            return Err(format!(
                "cannot hold {pod}: the API server answers, which ends every hold; delete the pod there, or annotate it \
                 ckpt-db.io/checkpoint=false"
            ));
        }
        self.set_held(pod.clone(), true).await?;
        Ok(format!(
            "{pod} is held: its copy, if one runs, is removed within a second or two; until `ckpt-db release {pod}`, or until the \
             API server answers"
        ))
    }

    async fn release(&self, pod: PodName) -> Result<String, String> {
        self.set_held(pod.clone(), false).await?;
        Ok(format!("{pod} is released: its copy is started where it is due"))
    }

    async fn image(&self) -> Result<Image, String> {
        let store = self.shared.store().ok_or_else(|| self.why_no_store())?;
        let bytes = store.image().await.map_err(|error| error.to_string())?;
        Ok(Image { path: self.path.clone(), bytes })
    }

    async fn yield_store(&self, uid: String) -> Result<String, String> {
        if !self.is_copy {
            return Err(format!("this instance is no copy, and yields to nobody (asked by the pod of UID {uid})"));
        }
        self.shared.ask_to_yield();
        Ok("the store is given up".to_owned())
    }
}
