//! `ckpt-db plan`: would this node's pods come back, and if not, why?
//!
//! Exit status: 0 everything that should come back would, 1 something would not, 2 the answer could not be found.

use std::io::Write;

use clap::Args;
use serde_json::json;

use ckpt_db::agent::assess;
use ckpt_db::checkpoint::images::NodeImages;
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::checkpoint::settings::ActivationPolicy;
use ckpt_db::checkpoint::verdict::Verdict;

use super::args::{StoreArgs, TargetArgs, TranslateArgs};
use super::backup::last_change;
use super::dump::say_sealed;
use super::output::{Format, document, plural};
use super::{Exit, node, say, verdicts};

/// Tell for each pod, and for the node, whether it would come back offline
#[derive(Args, Debug)]
#[command(after_help = "Exit codes, for automation:
  0   every pod that should come back would, and nothing about the node is in the way
  1   something that should come back would not (of the pods selected, if any are), the activation policy is off, or the
      store is not sound
  2   the answer could not be found
  64  wrong usage

Examples:
  ckpt-db plan                              each pod, and the node
  ckpt-db plan -n shop web                  one pod, and the node
  ckpt-db plan >&2 && shutdown -r now       only if all come back without an API server
  ckpt-db plan -o json                      for scripts: .summary has the counts")]
pub(crate) struct PlanCommand {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    translate: TranslateArgs,
    #[command(flatten)]
    target: TargetArgs,

    /// Only pods in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Only pods of these names
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

impl PlanCommand {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let keys = self.store.keys()?;
        let snapshot = self.store.snapshot(&keys)?.into_inner();
        let target = self.target.target(&self.store)?;
        let settings = self.translate.settings(&target.roots)?;
        let layout = self.store.layout()?;
        let own_name = self.translate.node_name.as_deref();
        // A copy of a store may be looked at on any machine, whose images say nothing.
        let images = if self.store.is_of_this_node() { node::images(&layout) } else { NodeImages::unknown() };
        let outcome = assess(&snapshot, &settings, own_name, node::network(&layout, &target), &images)?;
        let decision = &outcome.decision;
        let node = node::look(&layout, &target, &snapshot, outcome.settings.kubelet_version);
        let name = &outcome.settings.node_name;
        for finding in snapshot.findings() {
            say(format_args!("warning: {finding}"));
        }
        let wanted = |pod: &PodName| {
            self.namespace.as_ref().is_none_or(|namespace| pod.namespace == *namespace)
                && (self.names.is_empty() || self.names.contains(&pod.name))
        };
        say_sealed(&snapshot, &keys.tried());
        let mut unknown = 0;
        for name in &self.names {
            let known = |(pod, _, _): &(PodName, String, Verdict)| wanted(pod) && pod.name == *name;
            if !decision.verdicts.iter().any(known) {
                say(format_args!("error: no pod named {name:?} is readable in {}", path.display()));
                unknown += 1;
            }
        }
        let lost = verdicts::lost(decision, wanted);
        let (findings, problems) = (snapshot.findings().len(), node::problems(&node));
        // Under the other policies whoever is held back is so by the operator's choice of pods.
        let off = if settings.activation == ActivationPolicy::Off { verdicts::held_back(decision, wanted) } else { 0 };
        let reasons = [
            (off, format!("the activation policy is off, which holds back {off} pod{}", plural(off))),
            (lost, format!("{lost} pod{} can't come back", plural(lost))),
            (problems, format!("{problems} problem{} of the node", plural(problems))),
            (findings, format!("{findings} finding{} in the store", plural(findings))),
            (unknown, format!("{unknown} name{} of no pod", plural(unknown))),
        ];
        let against: Vec<String> =
            reasons.into_iter().filter(|(count, _)| *count > 0).map(|(_, reason)| reason).collect();
        let fine = against.is_empty();
        match self.output {
            Format::Table | Format::Wide => {
                verdicts::write(out, decision, wanted)?;
                writeln!(out, "\n{}", verdicts::summary(decision, wanted))?;
                node::write(out, name, &node)?;
                writeln!(out, "\n{}", ready(&against))?;
            }
            Format::Name => {
                for planned in decision.plan.pods.iter().filter(|planned| wanted(&planned.rendering.pod)) {
                    writeln!(out, "pod/{}", planned.rendering.pod.name)?;
                }
            }
            Format::Json | Format::Yaml => {
                let value = json!({
                    "apiVersion": "ckpt-db.io/v1alpha1",
                    "kind": "Plan",
                    "summary": verdicts::counts(decision, wanted),
                    "ready": fine,
                    "against": against,
                    "store": {"revision": snapshot.revision().0, "lastChange": last_change(&snapshot)},
                    "node": node::value(name, &node),
                    "findings": snapshot.findings().iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "pods": verdicts::values(decision, wanted),
                });
                document(out, self.output, &value)?;
            }
        }
        Ok(Exit::findings(!fine))
    }
}

/// `ready for a reboot without an API server: no (2 pods can't come back, 1 problem of the node)`
fn ready(against: &[String]) -> String {
    match against {
        [] => "ready for a reboot without an API server: yes".to_owned(),
        against => format!("ready for a reboot without an API server: no ({})", against.join(", ")),
    }
}
