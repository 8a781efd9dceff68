//! Where credentials are found, what is said while there are none, and whose they are.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ckpt_db::checkpoint::object::Kind;
use rustix::process::Signal;
use serde_json::json;

use crate::fake::{Match, Options, Server};
use crate::scene::{FOLLOWING, KUBELET, KUBELET_CONF, OFF, PEM, Scene, shown};

const TRIAL: &str = "note: trial below ROOT: owners of files are not changed, and the secret root \
                     ROOT/etc/kubernetes/checkpoint-secrets is a plain directory, not memory";
const SHADOW: &str = "note: activation policy off: pods are stored and reported, and nothing is rendered";
const NO_STORE: &str = "there is no store at ROOT/var/lib/ckpt-db/checkpoint-store.db yet: it is made now";
const NO_KEY: &str =
    "note: no node key yet: Secrets are not stored until the kubelet has one (or name another with --node-key)";
const FIRST_KEY: &str = "the store has its first key: Secrets are stored from now on";
const IN_STEP: &str = "in step with the API server: ROOT/var/lib/ckpt-db/checkpoint-store.db: revision N, node node-1, \
                       1 Pod, 1 ConfigMap, 1 Secret";

/// kubeadm, k3s, RKE2, k0s (two), MicroShift, and the kubelet's own default, in the order in which they are looked for.
const KUBECONFIGS: [&str; 7] = [
    KUBELET_CONF,
    "var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "var/lib/rancher/rke2/agent/kubelet.kubeconfig",
    "run/k0s/nllb/kubeconfig.yaml",
    "var/lib/k0s/kubelet.conf",
    "var/lib/microshift/resources/kubelet/kubeconfig",
    "var/lib/kubelet/kubeconfig",
];

#[test]
fn the_kubelets_credentials_and_the_node_that_they_name() {
    let scene = Scene::new();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    agent.until("in step");
    let ended = agent.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.lines, [TRIAL, SHADOW, NO_STORE, FOLLOWING, "API server: answering", IN_STEP]);
    // The second start says what it has before it asks anybody.
    let mut agent = scene.start(&OFF);
    agent.until("in step");
    let stored = IN_STEP.replace("in step with the API server: ", "store ");
    assert_eq!(agent.stop(Signal::TERM).lines, [TRIAL, SHADOW, &stored, FOLLOWING, "API server: answering", IN_STEP]);
}

#[test]
fn every_place_where_a_kubelet_may_keep_its_kubeconfig() {
    for place in KUBECONFIGS {
        let scene = Scene::joining();
        scene.write_kubeconfig(place);
        let mut agent = scene.start(&OFF);
        agent.until("in step");
        assert_eq!(agent.lines()[3], FOLLOWING, "{place}");
        assert_eq!(scene.request(Match::list(Kind::Pod)).user.as_deref(), Some("system:node:node-1"), "{place}");
    }
}

/// A joining node gets its files one after the other, and some of them in pieces.
#[test]
fn a_joining_node_is_waited_for() {
    let scene = Scene::joining();
    scene.pod("shop", "web");
    let mut agent = scene.start(&OFF);
    let looked: Vec<String> = KUBECONFIGS.iter().map(|place| format!("ROOT/{place}")).collect();
    let waiting = format!("note: waiting for credentials: no kubeconfig yet; looked for {}", looked.join(", "));
    assert_eq!(agent.until("note: waiting"), [TRIAL, SHADOW, NO_STORE, NO_KEY, &waiting]);

    let text = scene.kubeconfig_text();
    let mut look_again = |why: &str| {
        agent.signal(Signal::HUP);
        agent.until(&format!("note: waiting for credentials: cannot use ROOT/{why}"));
    };
    scene.write(KUBELET_CONF, "");
    look_again("etc/kubernetes/kubelet.conf: it is empty");
    scene.write(KUBELET_CONF, &text[..text.len() / 2]);
    look_again("etc/kubernetes/kubelet.conf: it has no current-context (is it half-written?)");
    scene.write(KUBELET_CONF, &text);
    look_again(
        "var/lib/kubelet/pki/kubelet-client-current.pem: it can't be opened (it is named in ROOT/etc/kubernetes/kubelet.conf)",
    );
    let elsewhere = tempfile::tempdir().unwrap();
    let pem = fs::read_to_string(scene.server.swap_current_pem(elsewhere.path())).unwrap();
    let (certificate, key) = pem.split_at(pem.find("-----BEGIN EC").unwrap());
    scene.write(PEM, &certificate[..certificate.len() / 2]);
    look_again("var/lib/kubelet/pki/kubelet-client-current.pem: a PEM section of it is damaged or unfinished");
    scene.write(PEM, certificate);
    look_again("var/lib/kubelet/pki/kubelet-client-current.pem: there is no private key in it");
    scene.write(PEM, &format!("{certificate}{}", &key[..key.len() / 2]));
    look_again("var/lib/kubelet/pki/kubelet-client-current.pem: a PEM section of it is damaged or unfinished");
    assert_eq!(scene.server.connections(), 0, "nobody is asked with half a certificate");

    // The last step is noticed without a signal. The key of the certificate is the node's key, too.
    scene.write(PEM, &pem);
    let said = agent.until("in step");
    assert_eq!(said, [FIRST_KEY, FOLLOWING, "API server: answering", IN_STEP]);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_node_name_that_contradicts_the_credentials() {
    let scene = Scene::new();
    let mut agent = scene.start(&["--activation-policy", "off", "--node-name", "edge-9"]);
    let said = agent.until("error:");
    assert_eq!(
        said[3..],
        [
            "error: --node-name says edge-9, but the credentials are those of node node-1; nothing was stored. Leave the \
          option out, or give the credentials of edge-9 with --kubeconfig (tried again until it works)"
        ]
    );
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));
    assert_eq!(scene.server.connections(), 0);
    // The store has not taken the wrong name: the advice works.
    scene.start(&OFF).until("in step");
}

/// Its paths are taken as they are, not below the root.
#[test]
fn a_kubeconfig_that_is_named() {
    let scene = Scene::joining();
    let kubelet = tempfile::tempdir().unwrap();
    let path = shown(&scene.server.kubeconfig(kubelet.path()));
    let other = Server::start(Options { node_name: "other".into(), ..Options::default() });
    scene.write(KUBELET_CONF, &fs::read_to_string(other.kubeconfig(&scene.node.at(KUBELET))).unwrap());
    let mut agent = scene.start(&["--activation-policy", "off", "--kubeconfig", &path]);
    agent.until("in step");
    assert_eq!(agent.lines()[3], FOLLOWING);
    assert_eq!(other.connections(), 0);
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    fs::remove_file(&path).unwrap();
    let mut agent = scene.start(&["--activation-policy", "off", "--kubeconfig", &path]);
    let said = agent.until("note: waiting");
    assert_eq!(said.last().unwrap(), &format!("note: waiting for credentials: no kubeconfig yet; looked for {path}"));
}

/// A token names no node to us: the option does, or else the machine's own name.
#[test]
fn a_token_file() {
    let scene = Scene::joining();
    scene.pod("shop", "web");
    let kubelet = tempfile::tempdir().unwrap();
    let path = shown(&scene.server.token_kubeconfig(kubelet.path(), "first-token"));
    let options = ["--activation-policy", "off", "--generate-node-key", "--kubeconfig", &path];
    let mut agent = scene.start(&[&options[..], &["--node-name", "node-1"]].concat());
    let said = agent.until("in step");
    let following =
        format!("following https://SERVER for node node-1 as the token in {}", shown(&kubelet.path().join("token")));
    assert_eq!(said[4..], [&following, "API server: answering", IN_STEP]);

    // Renewed, and the old one is refused from the next request on.
    let mark = scene.server.mark();
    scene.server.set_tokens(&["second-token"]);
    fs::write(kubelet.path().join("token"), "second-token\n").unwrap();
    scene.server.end_watches(&Match::watch(Kind::Pod));
    scene.request(Match::list(Kind::Pod).after(mark).answered(401));
    let said = agent.until("API server: answering");
    let refusing = "warning: API server: refusing (GET /api/v1/pods at https://SERVER: 401 Unauthorized)";
    assert_eq!(said, [refusing, "API server: answering"]);
    let log = scene.server.requests(&Match::list(Kind::Pod).after(mark));
    let answers: Vec<_> = log.iter().map(|request| request.status).collect();
    assert_eq!(answers, [Some(401), Some(200)], "one refusal is enough to read the file again");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    // The store knows the name by now.
    let mut agent = scene.start(&options);
    agent.until(&following);
    agent.until("in step");
}

#[test]
fn credentials_that_name_no_node_are_this_machines() {
    let scene = Scene::joining();
    let host = rustix::system::uname().nodename().to_str().unwrap().to_lowercase();
    scene.server.set_options(|options| options.node_name.clone_from(&host));
    let kubelet = tempfile::tempdir().unwrap();
    let path = shown(&scene.server.token_kubeconfig(kubelet.path(), "token"));
    let mut agent = scene.start(&["--activation-policy", "off", "--kubeconfig", &path]);
    agent.until(&format!("following https://SERVER for node {host} as the token in "));
    agent.until("in step");
    assert_eq!(scene.request(Match::list(Kind::Pod)).node, Some(host));
}

/// It is run by the shell, so that no test waits for a file that another one's child holds open.
#[test]
fn an_exec_plugin() {
    let scene = Scene::joining();
    scene.pod("shop", "web");
    scene.server.set_tokens(&["from-the-plugin"]);
    let plugin = scene.write("plugin", "echo \"$KUBERNETES_EXEC_INFO\" >> \"$1\"\ncat \"$2\"\n");
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o644)).unwrap();
    let asked = scene.node.at("asked");
    let answer = scene.write(
        "answer",
        &json!({
            "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
            "status": {"token": "from-the-plugin"},
        })
        .to_string(),
    );
    let kubelet = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(scene.server.token_kubeconfig(kubelet.path(), "unused")).unwrap();
    scene.server.set_tokens(&["from-the-plugin"]);
    let with_exec = text.replace(
        &format!("    tokenFile: {}\n", shown(&kubelet.path().join("token"))),
        &format!(
            "    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: sh\n      args: [{}, {}, {}]\n      \
             interactiveMode: Never\n",
            shown(&plugin),
            shown(&asked),
            shown(&answer)
        ),
    );
    scene.write(KUBELET_CONF, &with_exec);
    let options = ["--activation-policy", "off", "--generate-node-key", "--node-name", "node-1"];
    let mut agent = scene.start(&options);
    let said = agent.until("in step");
    let following = "following https://SERVER for node node-1 as the token of exec plugin sh";
    assert_eq!(said[4..], [following, "API server: answering", IN_STEP]);
    let info = fs::read_to_string(asked).unwrap();
    assert_eq!(
        info,
        "{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"spec\":{\"interactive\":false}}\n",
        "once, for all connections"
    );

    // A plugin that fails is no API server that is away, but nobody was asked either.
    fs::write(&plugin, "echo from-the-plugin; echo from-the-plugin >&2; exit 3\n").unwrap();
    let mark = scene.server.mark();
    agent.signal(Signal::HUP);
    let said = agent.until("warning: API server");
    assert_eq!(
        said.last().unwrap(),
        "warning: API server: silent (GET /api/v1/pods at https://SERVER: exec plugin sh of the kubeconfig failed: exit \
         status: 3; run it by hand to see why)"
    );
    assert_eq!(scene.server.mark(), mark, "nothing was asked without a token");
    assert!(!agent.stop(Signal::TERM).lines.concat().contains("from-the-plugin"));
}

/// The directory of a pod's ServiceAccount is a fixed path, which a test leaves alone: what is shown is that it is looked
/// at, after the kubelet's credentials.
#[test]
fn inside_of_a_cluster() {
    let scene = Scene::joining();
    let command = || {
        let mut command = scene.command(&OFF);
        let address = scene.server.address();
        command.env("KUBERNETES_SERVICE_HOST", address.ip().to_string());
        command.env("KUBERNETES_SERVICE_PORT", address.port().to_string());
        command
    };
    let mut agent = scene.watch(command());
    let said = agent.until("note: waiting");
    let end = format!("ROOT/{}, /var/run/secrets/kubernetes.io/serviceaccount/token", KUBECONFIGS[6]);
    assert!(said.last().unwrap().ends_with(&end), "{said:#?}");
    assert_eq!(agent.stop(Signal::TERM).code, Some(0));

    scene.write_kubeconfig(KUBELET_CONF);
    let mut agent = scene.watch(command());
    agent.until("in step");
    assert_eq!(agent.lines()[3], FOLLOWING);
}

/// The control plane was restored from a snapshot, has lived on, and is reached at another address: a watch from the old
/// position would tell nothing of what is different.
#[test]
fn a_server_at_another_address_is_listed_anew() {
    let (scene, moved) = (Scene::joining(), Scene::joining());
    let point_at = |server: &Server| {
        server.set_tokens(&["t"]);
        let authorities = [scene.server.authority_pem(), moved.server.authority_pem()].concat();
        let authorities = data_encoding::BASE64.encode(authorities.as_bytes());
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"https://{}\", certificate-authority-data: {authorities}}}}}]\n\
             users: [{{name: u, user: {{token: t}}}}]\n",
            server.address()
        );
        let new = scene.write("etc/kubernetes/new", &text);
        fs::rename(new, scene.node.at(KUBELET_CONF)).unwrap();
    };
    let happen_elsewhere = |server: &Server, times: usize| {
        for n in 0..times {
            server.create(
                Kind::Pod,
                "shop",
                &format!("far-{n}"),
                json!({"spec": {"nodeName": "node-2", "containers": []}}),
            );
        }
    };
    happen_elsewhere(&scene.server, 20);
    scene.pod("shop", "web");
    scene.pod("shop", "only-there");
    moved.pod("shop", "web");
    happen_elsewhere(&moved.server, 60);
    point_at(&scene.server);
    let mut agent = scene.start(&["--activation-policy", "off", "--node-name", "node-1"]);
    agent.until("in step");
    point_at(&moved.server);
    agent.until("following");
    // What a listing lacks is asked for once more.
    moved.request(Match::list(Kind::Pod).named("only-there"));
    agent.stop(Signal::TERM);
}
