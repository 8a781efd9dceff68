//! Reads a kubeconfig and the files that it names into credentials.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use http::Uri;
use kube::client::ConfigExt as _;
use kube::config::{AuthInfo, Cluster, ExecAuthCluster, ExecConfig, Kubeconfig, KubeconfigError};
use rustls::crypto::{CryptoProvider, ring as tls_provider};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::certificate::{self, Validity};
use super::credentials::{Credentials, CredentialsError, FILE_MAX_BYTES, Fingerprint, InCluster};
use super::token::{Plugin, Source};
use crate::clear::Clear;
use crate::crypto;
use crate::regular_file::{self, ReadError};

/// As many CAs as the store keeps.
const CA_MAX: usize = 256;

/// Reads what one kubeconfig names.
pub(super) struct Reader {
    /// The kubeconfig; all errors name it or what it names.
    file: PathBuf,
    root: Option<PathBuf>,
    /// Each file that was read, with its contents.
    read: Vec<(PathBuf, Clear)>,
    warnings: Vec<String>,
}

impl Reader {
    pub(super) fn new(file: PathBuf, root: Option<PathBuf>) -> Self {
        Self { file, root, read: Vec::new(), warnings: Vec::new() }
    }

    fn bad(&self, what: impl Into<String>) -> CredentialsError {
        CredentialsError::Bad { file: self.file.clone(), what: what.into() }
    }

    /// Reads the kubeconfig, whose file has been read.
    pub(super) fn kubeconfig(
        mut self,
        read: Result<regular_file::Regular, ReadError>,
    ) -> Result<Credentials, CredentialsError> {
        let contents = read.map_err(|error| self.bad(error.to_string()))?.contents;
        let text = std::str::from_utf8(contents.expose()).map_err(|_| self.bad("it is not UTF-8"))?;
        if text.trim().is_empty() {
            return Err(self.bad("it is empty"));
        }
        // kube's errors quote the text, which may be a key.
        let parsed = Kubeconfig::from_yaml(text).map_err(|error| {
            self.bad(match &error {
                KubeconfigError::Parse(error) => match error.location() {
                    Some(at) => format!("it is no kubeconfig (line {}, column {})", at.line(), at.column()),
                    None => "it is no kubeconfig".to_owned(),
                },
                _ => "it is no kubeconfig".to_owned(),
            })
        })?;
        self.read.push((self.file.clone(), contents));
        let (cluster, user) = self.current(parsed)?;
        self.refuse_what_is_not_supported(&cluster, &user)?;

        let server = cluster.server.as_deref().unwrap_or_default();
        let server = self.server(server)?;
        let server_name = match cluster.tls_server_name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => {
                let parsed = ServerName::try_from(name.to_owned());
                Some(parsed.map_err(|_| self.bad("tls-server-name is neither a DNS name nor an address"))?)
            }
            None => None,
        };
        let insecure = cluster.insecure_skip_tls_verify == Some(true);
        let ca = self.data_or_file(
            "certificate-authority",
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
        )?;
        let identity = self.identity(&user)?;
        let token = self.token(&cluster, &user, ca.as_ref().map(|(text, _)| text))?;
        self.finish(server, server_name, insecure, ca, identity, token)
    }

    /// Takes a pod's ServiceAccount.
    pub(super) fn in_cluster(mut self, place: &InCluster, token: PathBuf) -> Result<Credentials, CredentialsError> {
        let host = if place.host.contains(':') { format!("[{}]", place.host) } else { place.host.clone() };
        let server = self.server(&format!("https://{host}:{}", place.port))?;
        let file = self.file.clone();
        let ca = self.contents(&file)?;
        self.finish(server, None, false, Some((ca, file)), None, Source::File { path: token, until_read: None })
    }

    /// The cluster and the user of the current context.
    fn current(&self, parsed: Kubeconfig) -> Result<(Cluster, AuthInfo), CredentialsError> {
        let name = parsed.current_context.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| self.bad("it has no current-context (is it half-written?)"))?;
        let context = parsed.contexts.into_iter().find(|context| context.name == name).and_then(|named| named.context);
        let context = context.ok_or_else(|| self.bad("its current-context is not among its contexts"))?;
        let cluster = parsed.clusters.into_iter().find(|cluster| cluster.name == context.cluster);
        let cluster = cluster.and_then(|named| named.cluster);
        let cluster =
            cluster.ok_or_else(|| self.bad("the cluster of its current-context is not among its clusters"))?;
        let user = context.user.unwrap_or_default();
        let user = parsed.auth_infos.into_iter().find(|named| named.name == user).and_then(|named| named.auth_info);
        let user = user.ok_or_else(|| self.bad("the user of its current-context is not among its users"))?;
        Ok((cluster, user))
    }

    fn refuse_what_is_not_supported(&self, cluster: &Cluster, user: &AuthInfo) -> Result<(), CredentialsError> {
        let refused = [
            (cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()), "proxy-url is not supported"),
            (user.auth_provider.is_some(), "auth-provider is not supported; use an exec plugin or a token file"),
            (
                user.username.is_some() || user.password.is_some(),
                "username and password are not supported, nor are they by the API server",
            ),
            (
                user.impersonate.is_some() || user.impersonate_uid.is_some() || user.impersonate_groups.is_some(),
                "impersonation (as) is not supported; name the node's own credentials",
            ),
        ];
        match refused.into_iter().find(|(present, _)| *present) {
            Some((_, what)) => Err(self.bad(what)),
            None => Ok(()),
        }
    }

    fn server(&self, text: &str) -> Result<Uri, CredentialsError> {
        let uri: Uri = text.parse().map_err(|_| self.bad("its cluster has no server, or one that is no URL"))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(self.bad("the server's URL has a user name in it, which is not supported"));
        }
        match uri.scheme_str() {
            Some("https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
            Some("http") => {
                Err(self.bad("its server is http://; Secrets and the node's credentials would travel in clear text"))
            }
            _ => Err(self.bad("its cluster has no server of the form https://host:port")),
        }
    }

    /// Where the token comes from. A file goes before a fixed token, and that before a plugin, as in client-go.
    fn token(&self, cluster: &Cluster, user: &AuthInfo, ca: Option<&Clear>) -> Result<Source, CredentialsError> {
        let fixed = user.token.as_ref().map(|token| Clear::from(token.expose_secret().to_owned()));
        if let Some(path) = &user.token_file {
            return Ok(Source::File { path: self.resolve(path), until_read: fixed });
        }
        Ok(match (fixed, &user.exec) {
            (Some(token), _) => Source::Fixed(token),
            (None, Some(exec)) => Source::Exec(self.plugin(cluster, exec, ca)?),
            (None, None) => Source::None,
        })
    }

    fn plugin(&self, cluster: &Cluster, exec: &ExecConfig, ca: Option<&Clear>) -> Result<Plugin, CredentialsError> {
        let command = exec.command.as_deref().filter(|command| !command.is_empty());
        let command = command.ok_or_else(|| self.bad("its exec plugin has no command"))?;
        let version = exec.api_version.as_deref().ok_or_else(|| self.bad("its exec plugin has no apiVersion"))?;
        let mut spec = json!({ "interactive": false });
        if exec.provide_cluster_info {
            // The CA has been read; kube would read it once more.
            let cluster = Cluster {
                certificate_authority: None,
                certificate_authority_data: ca.map(|ca| BASE64.encode(ca.expose())),
                ..cluster.clone()
            };
            let info = ExecAuthCluster::try_from(&cluster).ok().and_then(|info| serde_json::to_value(info).ok());
            spec["cluster"] = info.ok_or_else(|| self.bad("its cluster can't be told to the exec plugin"))?;
        }
        let pair = |one: &HashMap<String, String>| Some((one.get("name")?.clone(), one.get("value")?.clone()));
        // As in client-go, a bare name is looked up in PATH.
        let command =
            if command.contains('/') { self.resolve(command).display().to_string() } else { command.to_owned() };
        Ok(Plugin {
            command,
            arguments: exec.args.clone().unwrap_or_default(),
            environment: exec.env.iter().flatten().filter_map(pair).collect(),
            info: json!({ "apiVersion": version, "kind": "ExecCredential", "spec": spec }).to_string(),
        })
    }

    /// The client certificate with its key, ready for TLS, and what the certificate says.
    fn identity(&mut self, user: &AuthInfo) -> Result<Option<Identity>, CredentialsError> {
        let certificate = self.data_or_file(
            "client-certificate",
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        )?;
        let key = user.client_key_data.as_ref().map(|key| key.expose_secret());
        let key = self.data_or_file("client-key", key, user.client_key.as_deref())?;
        let ((certificate, file), (key, key_file)) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(self.bad("its user has a client-certificate and no client-key")),
            (None, Some(_)) => return Err(self.bad("its user has a client-key and no client-certificate")),
        };
        let bad = |file: &Path, what: &str| CredentialsError::Bad { file: file.to_owned(), what: what.to_owned() };
        let chain = certificate::sections(certificate.expose())
            .ok_or_else(|| bad(&file, "a PEM section of it is damaged or unfinished"))?;
        let first = chain.first().ok_or_else(|| bad(&file, "there is no certificate in it"))?;
        let (validity, name) = certificate::client(first, file.clone())
            .ok_or_else(|| bad(&file, "the client certificate in it can't be read"))?;
        let key = private_key(key.expose()).map_err(|what| bad(&key_file, what))?;
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Ok(Some(Identity { chain, key, key_file, validity, name }))
    }

    /// Puts it together, and tries the key.
    fn finish(
        mut self,
        server: Uri,
        server_name: Option<ServerName<'static>>,
        insecure: bool,
        ca: Option<(Clear, PathBuf)>,
        identity: Option<Identity>,
        token: Source,
    ) -> Result<Credentials, CredentialsError> {
        let mut config = kube::Config::new(server.clone());
        let mut cluster_ca_sha256 = Vec::new();
        if insecure {
            config.accept_invalid_certs = true;
            self.warnings.push(format!(
                "insecure-skip-tls-verify in {}: whoever answers at {server} gets this node's credentials and can feed it any \
                 pod and Secret; name the cluster's CA instead",
                self.file.display()
            ));
        } else if let Some((text, file)) = &ca {
            let found = authorities(text.expose())
                .map_err(|what| CredentialsError::Bad { file: file.clone(), what: what.to_owned() })?;
            config.root_cert = Some(found.trusted);
            cluster_ca_sha256 = found.sha256;
        } else {
            self.warnings.push(format!(
                "{} names no certificate-authority: the server is checked against the CAs of this system",
                self.file.display()
            ));
        }
        // A program that embeds this may link several of rustls' providers; without a default rustls panics then.
        if CryptoProvider::get_default().is_none() {
            let _ = tls_provider::default_provider().install_default();
        }
        // The error may be that the system has no CAs; it has nothing of a key, since none is in `config`.
        let mut tls =
            config.rustls_client_config().map_err(|error| self.bad(format!("no TLS with its CA: {error}")))?;
        tls.alpn_protocols = vec![b"h2".to_vec()];

        let user = match (&identity, &token) {
            (Some(identity), _) => format!("{} (client certificate)", identity.validity.subject),
            (None, Source::None) => return Err(self.bad("its user has no client certificate, token, or exec plugin")),
            (None, Source::Fixed(_)) => format!("the token in {}", self.file.display()),
            (None, Source::File { path, .. }) => format!("the token in {}", path.display()),
            (None, Source::Exec(plugin)) => format!("the token of exec plugin {}", plugin.command),
        };
        let (mut client, mut node_name) = (None, None);
        if let Some(identity) = identity {
            let key_file = identity.key_file;
            let pair = CertifiedKey::from_der(identity.chain, identity.key, tls.crypto_provider());
            let pair = pair.map_err(|error| CredentialsError::Bad {
                what: match error {
                    rustls::Error::InconsistentKeys(_) => format!(
                        "the private key does not belong to the certificate in {}",
                        identity.validity.file.display()
                    ),
                    _ => "the private key is of a kind that TLS can't use here: ECDSA P-256 or P-384, Ed25519, or RSA of \
                          2048 to 8192 bits is needed"
                        .to_owned(),
                },
                file: key_file,
            })?;
            tls.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(pair));
            node_name = identity.name.as_deref().and_then(|name| name.strip_prefix("system:node:")).map(str::to_owned);
            client = Some(identity.validity);
        }
        let fingerprint = self.fingerprint(&server);
        let mut files: Vec<_> = self.read.into_iter().map(|(path, _)| path).collect();
        if let Source::File { path, .. } = &token {
            files.push(path.clone());
        }
        Ok(Credentials {
            server,
            server_name,
            tls: Arc::new(tls),
            token,
            user,
            node_name: node_name.filter(|name| !name.is_empty()),
            cluster_ca_sha256,
            client,
            files,
            warnings: self.warnings,
            fingerprint,
        })
    }

    /// Over each file's place and contents, each with its length before it.
    fn fingerprint(&self, server: &Uri) -> Fingerprint {
        let server = server.to_string();
        let mut parts: Vec<&[u8]> = vec![server.as_bytes()];
        for (path, contents) in &self.read {
            parts.push(path.as_os_str().as_encoded_bytes());
            parts.push(contents.expose());
        }
        let digests: Vec<u8> = parts.into_iter().flat_map(crypto::sha256).collect();
        Fingerprint::of(crypto::sha256(&digests))
    }

    /// Bytes that stand in the kubeconfig as base64, or in a file that it names, and where they are from. Data goes first.
    fn data_or_file(
        &mut self,
        field: &str,
        data: Option<&str>,
        file: Option<&str>,
    ) -> Result<Option<(Clear, PathBuf)>, CredentialsError> {
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            let data = Clear::new(data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect());
            let bytes = BASE64.decode(data.expose()).map_err(|_| self.bad(format!("{field}-data is no base64")))?;
            return Ok(Some((Clear::new(bytes), self.file.clone())));
        }
        let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(None) };
        let file = self.resolve(file);
        let contents = self.contents(&file)?;
        Ok(Some((contents, file)))
    }

    /// The contents of a file. One that is named twice, as the kubelet's client certificate and key often are, is read once:
    /// both halves are of one rotation.
    fn contents(&mut self, file: &Path) -> Result<Clear, CredentialsError> {
        if let Some((_, contents)) = self.read.iter().find(|(path, _)| path == file) {
            return Ok(contents.clone());
        }
        let read = regular_file::read(file, FILE_MAX_BYTES).map_err(|error| CredentialsError::Bad {
            file: file.to_owned(),
            what: if file == self.file {
                error.to_string()
            } else {
                format!("{error} (it is named in {})", self.file.display())
            },
        })?;
        self.read.push((file.to_owned(), read.contents.clone()));
        Ok(read.contents)
    }

    /// A path that stands in the kubeconfig: relative ones are relative to the kubeconfig.
    fn resolve(&self, path: &str) -> PathBuf {
        match (Path::new(path).strip_prefix("/"), &self.root) {
            (Ok(below), Some(root)) => root.join(below),
            (Ok(_), None) => PathBuf::from(path),
            (Err(_), _) => self.file.parent().unwrap_or(Path::new("/")).join(path),
        }
    }
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    key_file: PathBuf,
    validity: Validity,
    /// `CN` of the certificate.
    name: Option<String>,
}

struct Authorities {
    /// The certificates.
    trusted: Vec<Vec<u8>>,
    /// Of their public keys.
    sha256: Vec<[u8; 32]>,
}

/// The first private key of a PEM file.
fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, &'static str> {
    const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if text.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) => {
            Err("the private key in it is encrypted; the node has to use it without anybody's help")
        }
        Err(pem::Error::NoItemsFound) => {
            Err("there is no private key in it; PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY in PEM is needed")
        }
        Err(_) => Err("a PEM section of it is damaged or unfinished"),
    }
}

/// The CAs of a bundle, and the SHA-256 of their public keys. Certificates that can't be read are left out, as Go does.
fn authorities(text: &[u8]) -> Result<Authorities, &'static str> {
    let certificates = certificate::sections(text).ok_or("a PEM section of it is damaged or unfinished")?;
    let mut found = Authorities { trusted: Vec::new(), sha256: Vec::new() };
    for der in certificates {
        let Some(hash) = certificate::public_key_sha256(&der) else { continue };
        if rustls::RootCertStore::empty().add(CertificateDer::from(der.as_slice())).is_err() {
            continue;
        }
        found.trusted.push(der);
        if !found.sha256.contains(&hash) && found.sha256.len() < CA_MAX {
            found.sha256.push(hash);
        }
    }
    if found.trusted.is_empty() { Err("there is no CA certificate in it that can be used") } else { Ok(found) }
}
