//! `--feature-gates`, and what is said of a node on which `Checkpointing` is off.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;

use ckpt_db::feature_gates::{Feature, FeatureGates, GateError, help, parse};
use ckpt_db::materialize::{Roots, on_disk};

use super::output::plural;
use super::{chain, say};

/// What is turned on.
#[derive(Args, Clone, Debug)]
pub(crate) struct GateArgs {
    /// Features to turn on or off; may be given several times, the last setting of a feature counts
    #[arg(long, value_name = "KEY=BOOL,...", value_parser = settings, long_help = long_help())]
    feature_gates: Vec<Settings>,

    /// Those of the configuration file, which come before the options.
    #[arg(skip)]
    configured: Settings,
}

/// One occurrence of the option.
type Settings = Vec<(String, bool)>;

fn settings(text: &str) -> Result<Settings, GateError> {
    let settings = parse(text)?;
    FeatureGates::from_map(settings.clone())?;
    Ok(settings)
}

fn long_help() -> String {
    format!(
        "Features to turn on or off; may be given several times, the last setting of a feature counts. Options are:\n{}",
        help()
    )
}

impl GateArgs {
    /// These are what holds where no option says otherwise.
    pub(crate) fn under(&mut self, configured: &[(String, bool)]) {
        self.configured = configured.to_vec();
    }

    /// What is on.
    pub(crate) fn gates(&self) -> anyhow::Result<FeatureGates> {
        Ok(FeatureGates::from_map(self.configured.iter().chain(self.feature_gates.iter().flatten()).cloned())?)
    }

    /// Whether pods are stored, and rendered from the store.
    pub(crate) fn checkpointing(&self) -> anyhow::Result<bool> {
        Ok(self.gates()?.is_on(Feature::Checkpointing))
    }
}

/// Says that nothing is kept, and what an earlier run has left of the store and of rendered files, neither of which is
/// touched. Answers what of it does harm, for the status.
pub(crate) fn say_off(store: &Path, roots: &Roots) -> Option<String> {
    say(format_args!(
        "note: the feature gate Checkpointing is off (ALPHA - default=false): nothing is stored or rendered, and no pod comes \
         back after a power cut; --feature-gates=Checkpointing=true turns it on"
    ));
    let there = match on_disk(roots) {
        Ok(there) => there,
        Err(error) => {
            say(format_args!("warning: cannot look for what an earlier run has rendered: {}", chain(&error.into())));
            return None;
        }
    };
    if there.is_empty() {
        if std::fs::symlink_metadata(store).is_ok() {
            say(format_args!(
                "note: the store {} of an earlier run is left as it is; with the agent stopped, 'ckpt-db uninstall \
                 --delete-store' deletes it",
                store.display()
            ));
        }
        return None;
    }
    let pods: BTreeSet<_> = there.active.iter().chain(&there.prepared).chain(&there.trees).collect();
    let (pods, active) = (pods.len(), there.active.len());
    let files = format!("an earlier run has left files of {pods} pod{}", plural(pods));
    if active == 0 {
        say(format_args!(
            "note: {files}, which no kubelet reads; with the agent stopped, 'ckpt-db uninstall' removes them"
        ));
        return None;
    }
    let left = format!(
        "{files}, and copies of {active} of them run: nobody takes these away when their parents come back; with the agent \
         stopped, 'ckpt-db uninstall' does, and keeps the store"
    );
    say(format_args!("warning: {left}"));
    Some(left)
}
