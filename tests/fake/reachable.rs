//! Who reaches the server, and as whom: its port, its connections, and the credentials of both sides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::certificates::{self, ClientCertificate, Login, Rotation, Validity};
use super::state::State;
use super::{Server, wire};

impl Server {
    // Connections

    /// A silent peer: the kernel takes connections and bytes, and nobody answers.
    pub(crate) fn pause(&self) {
        self.shared.gate.close();
    }

    pub(crate) fn resume(&self) {
        self.shared.gate.open();
    }

    /// Connections are refused, and those that there are have ended when this returns. The port stays ours.
    pub(crate) fn stop(&self) {
        let mut listening = self.listening.lock().unwrap();
        let Some(accepting) = listening.accepting.take() else { return };
        accepting.abort();
        self.wait_here(async {
            let _ = accepting.await;
        });
        self.close_connections();
        listening.reserved = Some(wire::reserve(self.address));
    }

    /// Listens again, on the same port.
    pub(crate) fn listen(&self) {
        let mut listening = self.listening.lock().unwrap();
        let Some(socket) = listening.reserved.take() else { return };
        let _inside = self.runtime.enter();
        let listener = socket.listen(1_024).unwrap();
        listening.accepting = Some(self.runtime.spawn(wire::accept(Arc::clone(&self.shared), listener)));
    }

    /// All connections end, as when the server's process is killed; new ones are accepted.
    pub(crate) fn close_connections(&self) {
        self.close_connections_after(|state| state.connections.keys().copied().collect());
    }

    /// GOAWAY on all connections, as when the server shuts down, or balances its load.
    pub(crate) fn go_away(&self) {
        self.shared.read(|state| state.connections.values().for_each(|connection| connection.go_away()));
    }

    pub(super) fn close_connections_after(&self, choose: impl FnOnce(&mut State) -> Vec<u64>) {
        let chosen = self.shared.change(|state| {
            let chosen = choose(state);
            let connections = chosen.iter().filter_map(|number| state.connections.get(number));
            connections.for_each(|connection| connection.close());
            chosen
        });
        let shared = Arc::clone(&self.shared);
        self.wait_here(async move {
            let mut connected = shared.connected.subscribe();
            let gone = |state: &State| !chosen.iter().any(|number| state.connections.contains_key(number));
            while !shared.read(gone) {
                connected.changed().await.expect("`shared` holds the sender");
            }
        });
    }

    /// TCP connections since the start.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.read(|state| state.opened)
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.shared.read(|state| state.connections.len())
    }

    /// Bytes that were received and sent so far, TLS included.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let traffic = &self.shared.traffic;
        (traffic.received.load(Ordering::Relaxed), traffic.sent.load(Ordering::Relaxed))
    }

    // Credentials

    /// Writes `kubelet.conf` into `dir`, and the newest client certificate behind `pki/kubelet-client-current.pem`.
    /// Returns the path of the former.
    pub(crate) fn kubeconfig(&self, dir: &Path) -> PathBuf {
        self.swap_current_pem(dir);
        certificates::write_kubeconfig(dir, self.address, &self.authority_pem(), &Login::CurrentPem)
    }

    /// Writes a kubeconfig with a token file, `token` in `dir`, which stands for this node.
    pub(crate) fn token_kubeconfig(&self, dir: &Path, token: &str) -> PathBuf {
        self.set_tokens(&[token]);
        certificates::write_kubeconfig(dir, self.address, &self.authority_pem(), &Login::Token(token))
    }

    /// Only these tokens are accepted from now on; each stands for this node.
    pub(crate) fn set_tokens(&self, tokens: &[&str]) {
        self.shared.change(|state| {
            let user = state.node_user();
            state.credentials.tokens = tokens.iter().map(|&token| (token.to_owned(), user.clone())).collect();
        });
    }

    /// The certificate of the authority that signed the server's.
    pub(crate) fn authority_pem(&self) -> String {
        self.shared.read(|state| state.credentials.authority_pem())
    }

    /// New handshakes see another certificate; connections that are open stay.
    pub(crate) fn rotate_server_certificate(&self, rotation: Rotation) {
        self.shared.change(|state| state.credentials.rotate(rotation));
    }

    /// Issues a further client certificate to this node. The files change with [`Server::swap_current_pem`].
    pub(crate) fn issue_client_certificate(&self, validity: Validity) -> ClientCertificate {
        self.shared.change(|state| {
            let user = state.node_user();
            state.credentials.issue(&user, "system:nodes", validity)
        })
    }

    /// The kubelet's rotation below `pki` in `dir`: the newest client certificate in a dated file of its own, then the
    /// link is swapped. Returns the dated file.
    pub(crate) fn swap_current_pem(&self, dir: &Path) -> PathBuf {
        let newest = self.shared.read(|state| state.credentials.newest().clone());
        certificates::write_current_pem(dir, &newest)
    }

    /// Whether every client certificate but the newest is refused: 401.
    pub(crate) fn require_newest_certificate(&self, required: bool) {
        self.shared.change(|state| state.credentials.newest_only = required);
    }
}
