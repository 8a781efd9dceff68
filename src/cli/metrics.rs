//! Options of metrics and health: where they are served, and whether to others than this node.

use std::net::SocketAddr;

use clap::{ArgAction, Args};

use ckpt_db::feature_gates::{FeatureGates, Stage};
use ckpt_db::ops::endpoints::Address;
use ckpt_db::ops::metrics::Feature;

use super::say;

/// Where metrics and health are served.
#[derive(Args, Clone, Debug)]
pub(crate) struct MetricsArgs {
    /// Where /metrics, /livez and /readyz are served over HTTP; 0 for nowhere [default: 127.0.0.1:10271; with --root, 0]
    ///
    /// An address of this node alone, such as 127.0.0.1:10271 or [::1]:10271. One that is taken is a warning, and is tried
    /// again; everything else goes on meanwhile.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["manifests", "once"])]
    metrics_bind_address: Option<Address>,

    /// Serve them to other machines too, where --metrics-bind-address says so: in clear, to whoever asks
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    expose_metrics_without_authentication: bool,
}

impl MetricsArgs {
    /// Where to listen, if anywhere. An address that others could ask, where nobody says that they may, is said, and is none: no
    /// node stays dark for it. `trial`: everything lies below a `--root` of its own, beside which there may be others.
    pub(crate) fn address(&self, trial: bool) -> Option<SocketAddr> {
        let address = match self.metrics_bind_address {
            Some(address) => address,
            None if trial => Address::Off,
            None => Address::default(),
        };
        address.checked(self.expose_metrics_without_authentication).unwrap_or_else(|error| {
            say(format_args!("error: metrics and health are not served, and all else goes on: {error}"));
            None
        })
    }
}

/// The gates as Kubernetes components tell them: what is generally available has no stage.
pub(super) fn features(gates: &FeatureGates) -> Vec<Feature> {
    let feature = |(gate, on): (ckpt_db::feature_gates::Gate, bool)| Feature {
        name: gate.name,
        stage: match gate.stage {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
            Stage::Ga => "",
        },
        on,
    };
    gates.iter().map(feature).collect()
}
