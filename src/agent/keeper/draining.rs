//! Copies that were started before the policy was `off`: no other is started, and these go as ever, when their parents take
//! over. Nobody else would take them away, and two of one pod would run.

use std::collections::BTreeSet;

use crate::agent::pass::leave_the_lost;
use crate::checkpoint::lifecycle::{Checkpoint, Standing};
use crate::checkpoint::rendering::{Plan, PodName, Untouched};
use crate::checkpoint::settings::ActivationPolicy;
use crate::materialize::{OnDisk, Roots, on_disk};
use crate::store::Snapshot;

/// So many of them are named where they are told of.
const NAMED: usize = 5;

/// What is left of another policy.
#[derive(Default)]
pub(super) struct Draining {
    there: OnDisk,
    /// Pods whose manifests have gone, and whose trees wait until no container has them mounted.
    leaving: BTreeSet<PodName>,
}

impl Draining {
    /// Looks at what lies below `roots`. What can't be looked at is left alone.
    pub(super) fn look(&mut self, roots: &Roots) {
        self.there = on_disk(roots).unwrap_or_else(|error| {
            tracing::info!("cannot look for copies of before the policy was off: {error}");
            OnDisk::default()
        });
        let OnDisk { active, prepared, trees } = &self.there;
        self.leaving = trees.iter().filter(|pod| !active.contains(pod) && !prepared.contains(pod)).cloned().collect();
    }

    /// There is another policy.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// Whether there is anything to do.
    pub(super) fn goes_on(&self) -> bool {
        !self.there.active.is_empty() || !self.leaving.is_empty()
    }

    /// Whatever lies there of a pod that is stored stays, until it is decided that its copy goes. Of others the parents are
    /// gone.
    pub(super) fn spare(&self, plan: &mut Plan, checkpoints: &[Checkpoint], stored: &Snapshot) {
        let known: BTreeSet<&PodName> = checkpoints.iter().map(|checkpoint| &checkpoint.examined.pod).collect();
        let there = self.there.active.iter().chain(&self.there.prepared).chain(&self.there.trees);
        let stay = there.filter(|pod| known.contains(pod) && !self.leaving.contains(pod));
        plan.untouched = Untouched::Only(stay.cloned().collect());
        leave_the_lost(plan, stored, ActivationPolicy::All);
    }

    /// What an operator should know of it, if copies run.
    pub(super) fn told(&self, standings: &[Standing]) -> Option<String> {
        let run: Vec<String> = standings
            .iter()
            .filter(|standing| standing.state.is_active() && self.there.active.contains(&standing.pod))
            .map(|standing| standing.pod.to_string())
            .collect();
        let named = run.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = match run.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!run.is_empty()).then(|| {
            format!(
                "the activation policy is off, and copies that were started before still run ({named}{more}): each goes when \
                 its parent takes over, and no other is started. To take them away now, stop the agent and run 'ckpt-db \
                 uninstall', which keeps the store"
            )
        })
    }
}
