//! The node's credentials: where they lie, what they say, and whether they have changed.

use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use rustls::pki_types::ServerName;

use super::certificate::Validity;
use super::kubeconfig::Reader;
use super::token::Source;
use crate::regular_file;

/// Where kubelets keep their kubeconfig, below the root, in the order in which they are tried.
pub const KUBELET_KUBECONFIGS: [&str; 7] = [
    // kubeadm: `KubeletKubeConfigFileName` below `KubernetesDir` (kubernetes, cmd/kubeadm/app/constants).
    "etc/kubernetes/kubelet.conf",
    // k3s: `<data-dir>/agent/kubelet.kubeconfig` (k3s, pkg/agent/config).
    "var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    // RKE2 is k3s with another data directory.
    "var/lib/rancher/rke2/agent/kubelet.kubeconfig",
    // k0s with node-local load balancing: the kubelet uses this file, and the next one keeps the server that the node
    // once joined (k0s, pkg/component/worker/nllb/reconciler.go, `loadBalancedKubeconfigPath`).
    "run/k0s/nllb/kubeconfig.yaml",
    // k0s: `KubeletAuthConfigPath` (k0s, pkg/constant).
    "var/lib/k0s/kubelet.conf",
    // MicroShift: `<data-dir>/resources/kubelet/kubeconfig` (microshift, pkg/node/kubelet.go).
    "var/lib/microshift/resources/kubelet/kubeconfig",
    // EKS, AKS, GKE and most hand-made nodes: the kubelet's flag `--kubeconfig`.
    "var/lib/kubelet/kubeconfig",
];

/// Where a pod finds its ServiceAccount.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// No file of credentials is larger.
pub(super) const FILE_MAX_BYTES: usize = 1024 * 1024;

/// Where to look for credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A kubeconfig that the operator named.
    Explicit(PathBuf),
    /// The first of [`KUBELET_KUBECONFIGS`] below `root` that is there, else the pod's own ServiceAccount.
    ///
    /// Absolute paths in a kubeconfig that was found are taken below `root` as well; symbolic links are not.
    Search {
        /// `/`, or where the host's file system is mounted.
        root: PathBuf,
        /// What the environment says of the cluster, if this is a pod.
        in_cluster: Option<InCluster>,
    },
}

/// How a pod reaches the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InCluster {
    /// `KUBERNETES_SERVICE_HOST`.
    pub host: String,
    /// `KUBERNETES_SERVICE_PORT`.
    pub port: String,
    /// Directory of `token` and `ca.crt`, usually [`SERVICE_ACCOUNT`].
    pub directory: PathBuf,
}

/// Why there are no credentials. Nothing is changed by a failure; connections made with older ones go on.
/// Never carries a key, a token, or text of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// There is nothing at any place: a node that is joining gets its credentials later. Waiting is right.
    #[error("no kubeconfig yet; looked for {}", shown(.looked))]
    NotYet {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A file is there and can't be used: half-written, wrong, or with something in it that is not supported.
    #[error("cannot use {}: {what}", .file.display())]
    Bad {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// What credentials are made of. Equal when each file has the same contents; a token file is not looked at, since its
/// changes need no new connection. Can't be printed: private keys go into it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

/// Credentials and the server that they are for. Has no `Debug`: there are keys in it.
#[derive(Clone)]
pub struct Credentials {
    pub(super) server: Uri,
    pub(super) server_name: Option<ServerName<'static>>,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) token: Source,
    pub(super) user: String,
    pub(super) node_name: Option<String>,
    pub(super) cluster_ca_sha256: Vec<[u8; 32]>,
    pub(super) client: Option<Validity>,
    pub(super) files: Vec<PathBuf>,
    pub(super) warnings: Vec<String>,
    pub(super) fingerprint: Fingerprint,
}

impl Credentials {
    /// Reads the credentials at `place`. Each file is read once, so that what is used is what the fingerprint is of. Exec
    /// plugins are not run yet.
    ///
    /// # Errors
    /// [`CredentialsError`]; call again later in either case.
    pub fn load(place: &Place) -> Result<Self, CredentialsError> {
        match place {
            Place::Explicit(file) => match regular_file::read(file, FILE_MAX_BYTES) {
                Err(error) if error.is_absent() => Err(CredentialsError::NotYet { looked: vec![file.clone()] }),
                read => Reader::new(file.clone(), None).kubeconfig(read),
            },
            Place::Search { root, in_cluster } => {
                let mut looked = Vec::new();
                for below in KUBELET_KUBECONFIGS {
                    let file = root.join(below);
                    match regular_file::read(&file, FILE_MAX_BYTES) {
                        Err(error) if error.is_absent() => looked.push(file),
                        read => return Reader::new(file, Some(root.clone())).kubeconfig(read),
                    }
                }
                let Some(in_cluster) = in_cluster else { return Err(CredentialsError::NotYet { looked }) };
                let token = in_cluster.directory.join("token");
                if regular_file::read(&token, FILE_MAX_BYTES).is_err_and(|error| error.is_absent()) {
                    looked.push(token);
                    return Err(CredentialsError::NotYet { looked });
                }
                Reader::new(in_cluster.directory.join("ca.crt"), None).in_cluster(in_cluster, token)
            }
        }
    }

    /// The server's URL, `https` always.
    #[must_use]
    pub fn server(&self) -> String {
        self.server.to_string().trim_end_matches('/').to_owned()
    }

    /// The node whose kubelet's certificate this is (`CN=system:node:<name>`).
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        self.node_name.as_deref()
    }

    /// Who we are to the server, for messages.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// SHA-256 of the SubjectPublicKeyInfo of each CA certificate, in their order, each once, at most 256. Empty if the
    /// server's certificate is not checked, or checked against the CAs of the system.
    #[must_use]
    pub fn cluster_ca_sha256(&self) -> &[[u8; 32]] {
        &self.cluster_ca_sha256
    }

    /// Subject and dates of the client certificate, if there is one.
    #[must_use]
    pub fn client_validity(&self) -> Option<&Validity> {
        self.client.as_ref()
    }

    /// The files that were read, and the token file.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What an operator should know although it works.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// To be compared with that of credentials that were loaded later: if it differs, connections have to be made anew.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests;
