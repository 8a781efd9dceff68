//! What the command line is told over the admin socket, and what it may ask for.

use std::path::PathBuf;
use std::sync::Arc;

use store_format::Unlocker;

use super::key_slots::SlotRules;
use super::latest::Latest;
use super::shared::Shared;
use super::store_thread::KeepSlots;
use crate::checkpoint::rendering::PodName;
use crate::ops::admin::{Admin, Image, KeyChange, KeysChanged, NO_STORE};
use crate::ops::status::CheckpointerStatus;
use crate::store::{Change, SlotPolicy};

/// Answers for the agent.
pub struct Desk {
    shared: Arc<Shared>,
    latest: Arc<Latest>,
    path: PathBuf,
    clock_ms: fn() -> u64,
    /// Whether this instance is the copy of the agent's own pod, which yields to its parent.
    is_copy: bool,
    own_keys: OwnKeys,
    /// What slots this agent lets the store have.
    rules: SlotRules,
}

/// The keys that this agent has at hand now and that should have slots.
pub type OwnKeys = Box<dyn Fn() -> Vec<Unlocker> + Send + Sync>;

impl Desk {
    /// Answers from what these hold; `path` is the store.
    #[must_use]
    pub fn new(shared: Arc<Shared>, latest: Arc<Latest>, path: PathBuf, clock_ms: fn() -> u64, is_copy: bool) -> Self {
        let own_keys = Box::new(Vec::new);
        Self { shared, latest, path, clock_ms, is_copy, own_keys, rules: SlotRules::default() }
    }

    /// With keys of its own, which a new wrapping is made for as well, and rules for key slots.
    #[must_use]
    pub fn with_keys(self, own_keys: OwnKeys, rules: SlotRules) -> Self {
        Self { own_keys, rules, ..self }
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

    /// What is asked of checkpoints, where none is kept.
    fn refuse_while_off(&self, what: &str) -> Result<(), String> {
        match self.latest.checkpointing() {
            true => Ok(()),
            false => Err(format!(
                "cannot {what}: the feature gate Checkpointing is off, and this agent keeps nothing \
                 (--feature-gates=Checkpointing=true turns it on); what an earlier run has left, 'ckpt-db uninstall' removes \
                 with the agent stopped"
            )),
        }
    }

    fn why_no_store(&self) -> String {
        let why = self.shared.problem().unwrap_or_else(|| "it is being opened".to_owned());
        format!("the store {} {NO_STORE}: {why}", self.path.display())
    }
}

impl Desk {
    /// What the agent knows now.
    #[must_use]
    pub fn now(&self) -> CheckpointerStatus {
        let problem = self.shared.store().is_none().then(|| self.why_no_store());
        self.latest.status((self.clock_ms)() / 1000, problem)
    }

    /// What it answers from.
    pub(super) fn sources(&self) -> (&Shared, &Latest) {
        (&self.shared, &self.latest)
    }
}

impl Admin for Desk {
    async fn status(&self) -> Result<CheckpointerStatus, String> {
        Ok(self.now())
    }

    async fn hold(&self, pod: PodName) -> Result<String, String> {
        self.refuse_while_off(&format!("hold {pod}"))?;
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
        self.refuse_while_off(&format!("release {pod}"))?;
        self.set_held(pod.clone(), false).await?;
        Ok(format!("{pod} is released: its copy is started where it is due"))
    }

    async fn image(&self) -> Result<Image, String> {
        self.refuse_while_off("give the store")?;
        let store = self.shared.store().ok_or_else(|| self.why_no_store())?;
        let bytes = store.image().await.map_err(|error| error.to_string())?;
        Ok(Image { path: self.path.clone(), bytes })
    }

    async fn change_keys(&self, change: KeyChange) -> Result<KeysChanged, String> {
        self.refuse_while_off("change key slots")?;
        let store = self.shared.store().ok_or_else(|| self.why_no_store())?;
        let KeyChange { mut add, remove, rewrap, credential_only } = change;
        if rewrap {
            add.extend((self.own_keys)());
        }
        let policy = if credential_only { SlotPolicy::CredentialOnly } else { self.rules.policy };
        let before = store.snapshot().await.map_err(|error| error.to_string())?;
        let wanted = KeepSlots { add, remove, node_keys_max: None, policy, fresh: rewrap };
        let kept = store.keep_slots(wanted).await.map_err(|error| error.to_string())?.into_inner();
        let there = |name: &&[u8; 32]| before.get().slots().iter().any(|slot| slot.fingerprint == **name);
        let (rewrapped, added): (Vec<_>, Vec<_>) = kept.added.iter().partition(there);
        let hex = |names: Vec<&[u8; 32]>| names.into_iter().map(|name| data_encoding::HEXLOWER.encode(name)).collect();
        // Names of keys only: which, is in the log of the store too.
        tracing::info!(
            "key slots: {} added, {} wrapped anew, {} removed",
            added.len(),
            rewrapped.len(),
            kept.removed.len()
        );
        Ok(KeysChanged { added: hex(added), rewrapped: hex(rewrapped), removed: hex(kept.removed.iter().collect()) })
    }

    async fn yield_store(&self, uid: String) -> Result<String, String> {
        if !self.is_copy {
            return Err(format!("this instance is no copy, and yields to nobody (asked by the pod of UID {uid})"));
        }
        self.shared.ask_to_yield();
        Ok("the store is given up".to_owned())
    }
}
