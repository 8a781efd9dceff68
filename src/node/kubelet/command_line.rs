//! The flags of a kubelet that say where it reads its configuration and static pods.

/// Flags as given; none if not given. Of one that is given twice the last counts, as in the kubelet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`
    pub config: Option<String>,
    /// `--config-dir`
    pub config_dir: Option<String>,
    /// `--pod-manifest-path`
    pub pod_manifest_path: Option<String>,
    /// `--container-runtime-endpoint`
    pub container_runtime_endpoint: Option<String>,
    /// `--root-dir`
    pub root_dir: Option<String>,
    /// `--hostname-override`
    pub hostname_override: Option<String>,
    /// `--max-pods`
    pub max_pods: Option<String>,
    /// `--feature-gates`
    pub feature_gates: Option<String>,
}

impl Flags {
    /// Reads them as the kubelet does: `--name value` or `--name=value`, `_` for `-`, nothing after `--`. Words that are
    /// none of these flags are passed over.
    #[must_use]
    pub fn parse<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut flags = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                break;
            }
            let Some(flag) = argument.strip_prefix("--") else { continue };
            let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            let Some(place) = flags.place(&name.replace('_', "-")) else { continue };
            *place = value.or_else(|| arguments.next()).map(str::to_owned);
        }
        flags
    }

    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "config" => &mut self.config,
            "config-dir" => &mut self.config_dir,
            "pod-manifest-path" => &mut self.pod_manifest_path,
            "container-runtime-endpoint" => &mut self.container_runtime_endpoint,
            "root-dir" => &mut self.root_dir,
            "hostname-override" => &mut self.hostname_override,
            "max-pods" => &mut self.max_pods,
            "feature-gates" => &mut self.feature_gates,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_command_line() {
        let some = |value: &str| Some(value.to_owned());
        let none = Flags::default;
        #[rustfmt::skip]
        let rows: [(&[&str], Flags); 14] = [
            (&[],                                              none()),
            (&["--config=/c"],                                 Flags { config: some("/c"), ..none() }),
            (&["--config", "/c"],                              Flags { config: some("/c"), ..none() }),
            (&["--config", "/a", "--config=/b"],               Flags { config: some("/b"), ..none() }),
            (&["--config=/a=b"],                               Flags { config: some("/a=b"), ..none() }),
            (&["--config"],                                    none()),
            (&["-config=/c"],                                  none()),
            (&["config=/c", "--configure=/c"],                 none()),
            (&["--", "--config=/c"],                           none()),
            (&["--pod_manifest_path=/m", "--root_dir", "/r"],  Flags { pod_manifest_path: some("/m"), root_dir: some("/r"), ..none() }),
            (&["--pod-manifest-path="],                        Flags { pod_manifest_path: some(""), ..none() }),
            (&["--v=2", "--config-dir", "/d", "-h"],           Flags { config_dir: some("/d"), ..none() }),
            (&["--max-pods=5", "--hostname-override", "n"],    Flags { max_pods: some("5"), hostname_override: some("n"), ..none() }),
            (&["--container-runtime-endpoint=unix:///r", "--feature-gates=A=true"],
                Flags { container_runtime_endpoint: some("unix:///r"), feature_gates: some("A=true"), ..none() }),
        ];
        for (arguments, want) in rows {
            assert_eq!(Flags::parse(arguments.iter().copied()), want, "{arguments:?}");
        }
    }
}
