//! Options of keeping the node's pods: where to look at the node, and when copies are started and removed.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use ckpt_db::agent::{Keeping, LastAnswer, Sights, Target};
use ckpt_db::checkpoint::lifecycle::Rules;
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::checkpoint::settings::Settings;
use ckpt_db::node::boot::Source;

use super::args::StoreArgs;
use super::{node, usage};

/// Where the node is looked at, and when copies are started and removed.
#[derive(Args, Clone, Debug)]
pub(crate) struct KeepArgs {
    /// The container runtime's socket [default: the kubelet's, else containerd's or CRI-O's usual one]
    #[arg(long, value_name = "ENDPOINT")]
    container_runtime_endpoint: Option<PathBuf>,

    /// For how long the API server has to be silent before copies are started; annotated pods and those that are critical to
    /// the system do not wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    activation_delay: Duration,

    /// How many copies are started at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    activation_wave: u16,

    /// How long a copy, and what is kept of a pod, outlives its parent; counts while the API server answers
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    checkpoint_grace_period: Duration,

    /// File that tells one boot from another in place of the kernel's boot id, for tests
    #[arg(long, value_name = "FILE", hide = true)]
    boot_id_file: Option<PathBuf>,
}

impl KeepArgs {
    /// What to keep, and how. `break_glass`: the operator asks for the copies now.
    pub(crate) fn keeping(
        &self,
        store: &StoreArgs,
        settings: Settings,
        own_name: Option<String>,
        target: Target,
        break_glass: bool,
    ) -> anyhow::Result<Keeping> {
        let layout = store.layout()?;
        let rules = self.rules(break_glass)?;
        let sights = Sights {
            root: layout.root().to_owned(),
            manifests: target.roots.manifests.clone(),
            cri_socket: self.container_runtime_endpoint.clone(),
            boot: self.boot_id_file.clone().map_or(Source::Kernel, Source::File),
        };
        let network = {
            let (layout, target) = (layout.clone(), target.clone());
            Box::new(move || node::network(&layout, &target))
        };
        let settings = Settings { own_pod: rules.own_pod.clone(), ..settings };
        Ok(Keeping { acts: true, settings, own_name, target, rules, network, sights })
    }

    /// When copies are started and removed.
    pub(crate) fn rules(&self, break_glass: bool) -> anyhow::Result<Rules> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Ok(Rules {
            grace_ms: ms(self.checkpoint_grace_period),
            activation_delay_ms: ms(self.activation_delay),
            wave: self.activation_wave.into(),
            break_glass,
            own_pod: own_pod()?,
            ..Rules::default()
        })
    }

    /// Where it is remembered when the API server answered last.
    pub(crate) fn last_answer(&self, store: &StoreArgs) -> anyhow::Result<LastAnswer> {
        Ok(LastAnswer::at(store.admin_socket()?.parent().map(|directory| directory.join("last-answer"))))
    }
}

/// The agent's own pod, where it runs as one: `POD_NAMESPACE` and `POD_NAME` by the downward API. A copy goes by the name of
/// its parent.
fn own_pod() -> anyhow::Result<Option<PodName>> {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    match (variable("POD_NAMESPACE"), variable("POD_NAME")) {
        (Some(namespace), Some(name)) => Ok(Some(PodName { namespace, name })),
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => {
            Err(usage("POD_NAMESPACE and POD_NAME say together which pod this agent runs in: set both, or neither"))
        }
    }
}

/// Whether this process runs in the copy of the agent's own pod.
pub(crate) fn is_copy() -> bool {
    std::env::var_os("CKPT_DB_COPY_OF").is_some_and(|uid| !uid.is_empty())
}

/// `90`, `90s`, `5m`, `1h30m`: as kubelets take durations; bare numbers are seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration such as 30s, 5m or 1h30m");
    let mut rest = text;
    let mut total = 0_u64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit = match rest[digits..].chars().next() {
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            None if digits == text.len() => 1,
            Some(_) | None => return Err(bad()),
        };
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = rest.get(digits + 1..).unwrap_or_default();
    }
    Ok(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        #[rustfmt::skip]
        let rows = [
            ("0", Some(0)), ("90", Some(90)), ("90s", Some(90)), ("5m", Some(300)), ("1h30m", Some(5400)), ("1m30", None),
            ("", None), ("s", None), ("-1s", None), ("1d", None), ("1.5h", None), ("99999999999999999999", None),
            ("9999999999999999999h", None),
        ];
        for (text, want) in rows {
            assert_eq!(duration(text).ok().map(|found| found.as_secs()), want, "{text:?}");
        }
    }
}
