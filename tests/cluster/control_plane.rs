//! One control plane on loopback: etcd and kube-apiserver below a temporary directory, which can be killed, started
//! again and set back to an earlier state.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use http::Method;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::api::{Api, collection};
use super::audit::AuditLog;
use super::certificates::{Authority, Pair, Validity};
use super::process::Process;
use super::random::Random;
use super::{directory, until};

/// How long a start may take on a machine that is busy compiling.
const START: Duration = Duration::from_secs(120);

/// What one control plane does differently from the next.
#[derive(Default)]
pub(crate) struct Options {
    /// Further arguments of kube-apiserver; the last one of a name counts.
    pub(crate) apiserver: Vec<String>,
}

/// A running control plane. Dropping it kills its processes and removes its files, unless `CKPT_DB_KEEP_CLUSTER` is set.
pub(crate) struct Cluster {
    directory: TempDir,
    port: u16,
    authority: Authority,
    etcd: Mutex<Process>,
    etcd_port: u16,
    apiserver: Mutex<Process>,
    admin: Api,
}

/// The state of etcd at one time.
pub(crate) struct EtcdSnapshot(PathBuf);

impl Cluster {
    /// Starts a control plane and waits until it is ready. `None` where the machine has no binaries for it, which is
    /// said on standard error.
    ///
    /// # Panics
    /// If it does not become ready; without binaries, if `CKPT_DB_REQUIRE_CLUSTER=1`.
    pub(crate) fn start(options: Options) -> Option<Self> {
        let binaries = binaries()?;
        let directory = directory("cluster");
        let at = |name: &str| directory.path().join(name);
        let [etcd_port, peer_port, port] = free_ports();
        let authority = Authority::new("ckpt-db test cluster");
        fs::write(at("ca.pem"), authority.pem()).unwrap();
        let write = |name: &str, pair: &Pair| {
            fs::write(at(&format!("{name}.pem")), &pair.certificate).unwrap();
            fs::write(at(&format!("{name}.key")), &pair.key).unwrap();
        };
        write("apiserver", &authority.server("kube-apiserver"));
        let tokens = rcgen::KeyPair::generate().unwrap();
        fs::write(at("tokens.pub"), tokens.public_key_pem()).unwrap();
        fs::write(at("tokens.key"), tokens.serialize_pem()).unwrap();
        fs::write(at("audit-policy.yaml"), AUDIT_POLICY).unwrap();
        let admin = authority.client(ADMIN, "system:masters", Validity::usual());
        fs::write(at("admin-client.pem"), admin.combined()).unwrap();
        fs::write(at("admin.conf"), kubeconfig_text(port, &authority, ADMIN, &client_files(&at("admin-client.pem"))))
            .unwrap();

        let etcd = Process::new(etcd_command(&binaries, directory.path(), etcd_port, peer_port), &at("etcd.log"));
        let mut command = apiserver_command(&binaries, directory.path(), etcd_port, port);
        command.args(options.apiserver);
        let apiserver = Process::new(command, &at("apiserver.log"));
        let cluster = Self {
            admin: Api::new(&at("admin.conf")),
            directory,
            port,
            authority,
            etcd: Mutex::new(etcd),
            etcd_port,
            apiserver: Mutex::new(apiserver),
        };
        cluster.start_etcd();
        cluster.start_apiserver();
        Some(cluster)
    }

    /// The administrator (`system:masters`), whose requests are not in the audit log.
    pub(crate) fn admin(&self) -> &Api {
        &self.admin
    }

    /// The kubeconfig of the administrator, for kubectl.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.conf")
    }

    /// The API server's version, such as `v1.20.2`.
    pub(crate) fn version(&self) -> String {
        self.admin.get("/version").ok()["gitVersion"].as_str().unwrap().to_owned()
    }

    /// The port of the API server, the same over all restarts.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The cluster's certificate authority.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Every request so far, except the administrator's and the API server's own.
    pub(crate) fn audit(&self) -> AuditLog {
        AuditLog::read(&self.audit_file())
    }

    /// Where it lies.
    pub(crate) fn audit_file(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }

    /// The process that serves.
    pub(crate) fn apiserver_pid(&self) -> i32 {
        self.apiserver.lock().unwrap().pid().as_raw_nonzero().get()
    }

    /// SIGKILL, and nothing listens until [`Cluster::start_apiserver`].
    pub(crate) fn kill_apiserver(&self) {
        self.apiserver.lock().unwrap().kill();
    }

    /// Starts the API server on its port and waits until it is ready.
    pub(crate) fn start_apiserver(&self) {
        self.launch_apiserver();
        self.wait_ready();
    }

    /// Starts the API server and does not wait.
    pub(crate) fn launch_apiserver(&self) {
        self.apiserver.lock().unwrap().start();
    }

    /// Waits until the API server is ready and has made its first namespaces.
    pub(crate) fn wait_ready(&self) {
        until("the API server", START, || {
            let mut process = self.apiserver.lock().unwrap();
            if let Some(status) = process.exited() {
                panic!("kube-apiserver ended with {status}:\n{}", tail(&process.log()));
            }
            drop(process);
            for path in ["/readyz", "/api/v1/namespaces/default"] {
                let answer = self.admin.send(Method::GET, path, None)?;
                if answer.status != 200 {
                    return Err(format!("{path}: {} {}", answer.status, answer.body));
                }
            }
            Ok(())
        });
    }

    /// SIGSTOP: connections stay open, and nothing answers until [`Cluster::thaw_apiserver`].
    pub(crate) fn freeze_apiserver(&self) {
        self.apiserver.lock().unwrap().signal(Signal::STOP);
    }

    pub(crate) fn thaw_apiserver(&self) {
        self.apiserver.lock().unwrap().signal(Signal::CONT);
    }

    /// SIGKILL.
    pub(crate) fn kill_etcd(&self) {
        self.etcd.lock().unwrap().kill();
    }

    /// Starts etcd on its port and waits until it takes connections.
    pub(crate) fn start_etcd(&self) {
        self.etcd.lock().unwrap().start();
        until("etcd", START, || {
            let mut process = self.etcd.lock().unwrap();
            if let Some(status) = process.exited() {
                panic!("etcd ended with {status}:\n{}", tail(&process.log()));
            }
            std::net::TcpStream::connect(("127.0.0.1", self.etcd_port)).map(drop).map_err(|error| error.to_string())
        });
    }

    /// Keeps etcd's present state, without an interruption that a client would see.
    ///
    /// The frozen process's files are what a SIGKILL would have left, which etcd recovers from; no etcdctl is needed,
    /// and `KUBEBUILDER_ASSETS` has none.
    pub(crate) fn snapshot_etcd(&self) -> EtcdSnapshot {
        static TAKEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = TAKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let to = self.directory.path().join(format!("snapshot-{number}"));
        let etcd = self.etcd.lock().unwrap();
        etcd.signal(Signal::STOP);
        copy_tree(&self.etcd_data(), &to);
        etcd.signal(Signal::CONT);
        EtcdSnapshot(to)
    }

    /// Sets the cluster back to a snapshot, as an operator does after losing etcd: both processes are killed and
    /// started again, and revisions continue from the snapshot's.
    pub(crate) fn restore_etcd(&self, snapshot: &EtcdSnapshot) {
        self.kill_apiserver();
        self.kill_etcd();
        fs::remove_dir_all(self.etcd_data()).unwrap();
        copy_tree(&snapshot.0, &self.etcd_data());
        self.start_etcd();
        self.start_apiserver();
    }

    fn etcd_data(&self) -> PathBuf {
        self.directory.path().join("etcd")
    }

    /// Writes what a node's kubelet has below `directory`: `kubelet.conf`, which names `pki/kubelet-client-current.pem`,
    /// a link to a dated file that holds certificate and key. Returns the kubeconfig.
    pub(crate) fn kubeconfig(&self, node: &str, directory: &Path) -> PathBuf {
        self.rotate(node, directory, Validity::usual());
        let current = client_files(&directory.join("pki/kubelet-client-current.pem"));
        let path = directory.join("kubelet.conf");
        fs::write(&path, kubeconfig_text(self.port, &self.authority, &node_user(node), &current)).unwrap();
        path
    }

    /// Lays out a node below `root` as `kubeadm join` does: `kubelet.conf` below `etc/kubernetes`, and what it names, with
    /// the paths that a node has, below `var/lib/kubelet/pki`. `port` is the API server's, or that of a relay to it.
    pub(crate) fn join(&self, node: &str, root: &Path, port: u16) {
        self.rotate(node, &root.join("var/lib/kubelet"), Validity::usual());
        let current = client_files(Path::new("/var/lib/kubelet/pki/kubelet-client-current.pem"));
        let configuration = root.join("etc/kubernetes");
        fs::create_dir_all(&configuration).unwrap();
        let text = kubeconfig_text(port, &self.authority, &node_user(node), &current);
        fs::write(configuration.join("kubelet.conf"), text).unwrap();
    }

    /// Issues a new client certificate and swaps the link, as the kubelet does; the old dated file stays. Returns the new one.
    pub(crate) fn rotate(&self, node: &str, directory: &Path, validity: Validity) -> PathBuf {
        let pki = directory.join("pki");
        fs::create_dir_all(&pki).unwrap();
        let pair = self.authority.client(&node_user(node), "system:nodes", validity);
        let number = fs::read_dir(&pki).unwrap().count();
        let dated = pki.join(format!("kubelet-client-2026-11-21-08-00-{number:02}.pem"));
        fs::write(&dated, pair.combined()).unwrap();
        let fresh = pki.join("kubelet-client-updated.pem");
        // Relative, so that it leads there from the node's own root too.
        symlink(dated.file_name().expect("it has a name"), &fresh).unwrap();
        fs::rename(&fresh, pki.join("kubelet-client-current.pem")).unwrap();
        dated
    }

    /// Writes `agent.conf` with the token of a ServiceAccount that has the predecessor's Role: pods and nodes can be
    /// got, listed and watched, Services got and listed, ConfigMaps and Secrets only got. The token is a file beside it.
    pub(crate) fn role_kubeconfig(&self, name: &str, directory: &Path) -> PathBuf {
        self.role_kubeconfig_over(name, directory, self.port)
    }

    /// As [`Cluster::role_kubeconfig`], over a relay.
    pub(crate) fn role_kubeconfig_over(&self, name: &str, directory: &Path, port: u16) -> PathBuf {
        let rule =
            |resources: &[&str], verbs: &[&str]| json!({"apiGroups": [""], "resources": resources, "verbs": verbs});
        let rules = json!([
            rule(&["pods"], &["get", "list", "watch"]),
            rule(&["nodes"], &["get", "list", "watch"]),
            rule(&["services"], &["get", "list"]),
            rule(&["secrets", "configmaps"], &["get"]),
        ]);
        let role = json!({"metadata": {"name": name}, "rules": rules});
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "kube-system"}],
        });
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let accounts = collection("serviceaccounts", "kube-system");
        self.admin.create(&accounts, &json!({"metadata": {"name": name}})).ok();
        self.admin.create(&format!("{rbac}/clusterroles"), &role).ok();
        self.admin.create(&format!("{rbac}/clusterrolebindings"), &binding).ok();
        fs::create_dir_all(directory).unwrap();
        let token = directory.join("token");
        self.new_token(name, &token);
        let path = directory.join("agent.conf");
        let user = format!("    tokenFile: {}\n", token.display());
        fs::write(&path, kubeconfig_text(port, &self.authority, name, &user)).unwrap();
        path
    }

    /// Writes a new token for a ServiceAccount of kube-system, valid for an hour.
    pub(crate) fn new_token(&self, name: &str, file: &Path) {
        fs::write(file, self.token(name)).unwrap();
    }

    fn token(&self, name: &str) -> String {
        let path = format!("{}/{name}/token", collection("serviceaccounts", "kube-system"));
        let answer = self.admin.create(&path, &json!({"spec": {"expirationSeconds": 3600}})).ok();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Writes a kubeconfig with a token of a ServiceAccount of kube-system in it, and only root may read it.
    pub(crate) fn token_kubeconfig(&self, name: &str, file: &Path) {
        let user = format!("    token: {}\n", self.token(name));
        fs::write(file, kubeconfig_text(self.port, &self.authority, name, &user)).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

const ADMIN: &str = "test-admin";

/// The user that a node's certificate names.
pub(crate) fn node_user(node: &str) -> String {
    format!("system:node:{node}")
}

/// The administrator and the API server's own loops are left out: they are not what is looked at, and many.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: None
  users: ["test-admin", "system:apiserver"]
- level: Metadata
"#;

fn etcd_command(binaries: &Path, directory: &Path, port: u16, peer_port: u16) -> Command {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new(binaries.join("etcd"));
    command.args(["--name", "test", "--logger", "zap", "--log-level", "warn"]);
    // A lone member elects itself after this time, at each start.
    command.args(["--heartbeat-interval", "20", "--election-timeout", "200"]);
    command.arg("--data-dir").arg(directory.join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("test={peer}")]);
    command
}

fn apiserver_command(binaries: &Path, directory: &Path, etcd_port: u16, port: u16) -> Command {
    let file = |name: &str| directory.join(name).display().to_string();
    let mut command = Command::new(binaries.join("kube-apiserver"));
    #[rustfmt::skip]
    let flags = [
        ("etcd-servers", format!("http://127.0.0.1:{etcd_port}")),
        ("bind-address", "127.0.0.1".to_owned()),
        ("secure-port", port.to_string()),
        ("advertise-address", "127.0.0.1".to_owned()),
        // An endpoint on loopback is refused, and nobody here needs one.
        ("endpoint-reconciler-type", "none".to_owned()),
        ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
        ("tls-cert-file", file("apiserver.pem")),
        ("tls-private-key-file", file("apiserver.key")),
        ("client-ca-file", file("ca.pem")),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("service-account-key-file", file("tokens.pub")),
        ("service-account-signing-key-file", file("tokens.key")),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        // No controller makes the default ServiceAccounts and their tokens that this plugin waits for.
        ("disable-admission-plugins", "ServiceAccount".to_owned()),
        // What current API servers have.
        ("http2-max-streams-per-connection", "100".to_owned()),
        ("audit-policy-file", file("audit-policy.yaml")),
        ("audit-log-path", file("audit.log")),
        // Never rotated while a test reads it.
        ("audit-log-maxsize", "4000".to_owned()),
        ("event-ttl", "1m".to_owned()),
        ("profiling", "false".to_owned()),
        ("cert-dir", file("unused")),
    ];
    command.args(flags.map(|(name, value)| format!("--{name}={value}")));
    command
}

fn client_files(combined: &Path) -> String {
    format!("    client-certificate: {0}\n    client-key: {0}\n", combined.display())
}

fn kubeconfig_text(port: u16, authority: &Authority, user: &str, credentials: &str) -> String {
    let authority = data_encoding::BASE64.encode(authority.pem().as_bytes());
    format!(
        "apiVersion: v1\nkind: Config\npreferences: {{}}\nclusters:\n- name: default-cluster\n  cluster:\n    \
         certificate-authority-data: {authority}\n    server: https://127.0.0.1:{port}\nusers:\n- name: default-auth\n  \
         user:\n{credentials}contexts:\n- name: default-context\n  context:\n    cluster: default-cluster\n    \
         namespace: default\n    user: default-auth\ncurrent-context: default-context\n# for {user}\n"
    )
}

/// Where the binaries are: `KUBEBUILDER_ASSETS`, or what `components.sh` has put into its cache.
pub(crate) fn binaries() -> Option<PathBuf> {
    // The benchmarks use this file too, from a package below this one.
    let mut packages = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let script = packages.find_map(|at| Some(at.join("tests/cluster/components.sh")).filter(|script| script.is_file()));
    let script = script.expect("it is part of the checkout");
    let output = Command::new("bash").arg(script).arg("--cached").output().unwrap();
    if output.status.success() {
        return Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end()));
    }
    let why = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    let required = std::env::var_os("CKPT_DB_REQUIRE_CLUSTER").is_some_and(|value| value == "1");
    assert!(!required, "CKPT_DB_REQUIRE_CLUSTER=1, but {why}");
    // The harness captures what `eprintln` writes by a test that passes, and a skipped test passes.
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "\nSKIPPED, not tested: {why}");
    None
}

/// Ports below the range from which the kernel takes those of clients: a client that dials a dead server's port from
/// that very port would reach itself, and nobody could start the server again.
fn free_ports<const N: usize>() -> [u16; N] {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let mut random = Random::new(u64::from(seed) << 32 | u64::from(std::process::id()));
    let mut held = Vec::new();
    while held.len() < N {
        let port = u16::try_from(10_000 + random.below(20_000)).unwrap();
        held.extend(std::net::TcpListener::bind(("127.0.0.1", port)));
    }
    std::array::from_fn(|n| held[n].local_addr().unwrap().port())
}

fn copy_tree(from: &Path, to: &Path) {
    // etcd allocates its log in 64 MB pieces, nearly all zeros.
    let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cannot copy {}", from.display());
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
