//! Certificates of the fake cluster and the files in which a kubelet keeps its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    /// Since yesterday, for a year.
    pub(crate) fn now() -> Self {
        let now = SystemTime::now();
        Self { not_before: now - DAY, not_after: now + 365 * DAY }
    }

    /// Since the day before yesterday, until yesterday.
    pub(crate) fn expired() -> Self {
        let now = SystemTime::now();
        Self { not_before: now - 2 * DAY, not_after: now - DAY }
    }

    /// From tomorrow on.
    pub(crate) fn not_yet() -> Self {
        let now = SystemTime::now();
        Self { not_before: now + DAY, not_after: now + 365 * DAY }
    }

    fn includes(&self, time: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&time)
    }
}

/// What [`super::Server::rotate_server_certificate`] changes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rotation {
    /// The certificate alone.
    Certificate(Validity),
    /// The authority that signs it, too: whoever trusts the old one refuses it.
    Authority(Validity),
}

/// A client certificate that the server has issued.
#[derive(Clone)]
pub(crate) struct ClientCertificate {
    /// Counts from 1; the newest has the highest.
    pub(crate) serial: u64,
    pub(crate) validity: Validity,
    /// Certificate and key in one file, the key as SEC1, as a kubelet writes them.
    pub(crate) pem: String,
    user: String,
    der: CertificateDer<'static>,
}

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) certificate: Option<u64>,
}

/// Everything of the cluster that is signed or secret.
pub(super) struct Credentials {
    authority: CertifiedIssuer<'static, KeyPair>,
    issued: Vec<ClientCertificate>,
    /// Tokens and whose they are.
    pub(super) tokens: Vec<(String, String)>,
    /// Whether only the newest client certificate is accepted.
    pub(super) newest_only: bool,
    pub(super) tls: Arc<rustls::ServerConfig>,
}

impl Credentials {
    pub(super) fn new() -> Self {
        let authority = authority();
        let tls = server_config(&authority, Validity::now());
        Self { authority, issued: Vec::new(), tokens: Vec::new(), newest_only: false, tls }
    }

    /// The certificate of the authority that signed the server's.
    pub(super) fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    pub(super) fn rotate(&mut self, rotation: Rotation) {
        let (Rotation::Certificate(validity) | Rotation::Authority(validity)) = rotation;
        if matches!(rotation, Rotation::Authority(_)) {
            self.authority = authority();
        }
        self.tls = server_config(&self.authority, validity);
    }

    pub(super) fn issue(&mut self, user: &str, group: &str, validity: Validity) -> ClientCertificate {
        let serial = self.issued.len() as u64 + 1;
        let key = KeyPair::generate().unwrap();
        let mut params = params(user, validity);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let pem = certificate.pem() + &sec1_pem(&key);
        let issued = ClientCertificate { serial, validity, pem, user: user.to_owned(), der: certificate.der().clone() };
        self.issued.push(issued.clone());
        issued
    }

    /// The newest client certificate.
    pub(super) fn newest(&self) -> &ClientCertificate {
        self.issued.last().expect("the server starts with one")
    }

    /// Who presents this; none if it is not acceptable now.
    pub(super) fn who(&self, certificate: Option<&CertificateDer<'_>>, token: Option<&str>) -> Option<Identity> {
        let by_certificate = self.issued.iter().find(|issued| Some(&issued.der) == certificate).filter(|issued| {
            issued.validity.includes(SystemTime::now()) && (!self.newest_only || issued.serial == self.newest().serial)
        });
        let by_token = self.tokens.iter().find(|(known, _)| Some(known.as_str()) == token);
        by_certificate
            .map(|issued| Identity { user: issued.user.clone(), certificate: Some(issued.serial) })
            .or_else(|| by_token.map(|(_, user)| Identity { user: user.clone(), certificate: None }))
    }
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).expect("after 1970");
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970(validity.not_before);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(validity.not_after);
    params
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params("kubernetes", Validity::now());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn server_config(authority: &CertifiedIssuer<'static, KeyPair>, validity: Validity) -> Arc<rustls::ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let mut params = params("kube-apiserver", validity);
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    params.subject_alt_names = CertificateParams::new(names).unwrap().subject_alt_names;
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(AskForCertificate(provider)))
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// As the API server does: asks for a certificate, takes any, and leaves the judgement to each request's 401.
#[derive(Debug)]
struct AskForCertificate(Arc<CryptoProvider>);

impl ClientCertVerifier for AskForCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A P-256 key as `EC PRIVATE KEY`. ring writes PKCS#8 of a fixed layout: the scalar and the public point end it.
fn sec1_pem(key: &KeyPair) -> String {
    let pkcs8 = key.serialize_der();
    let (rest, point) = pkcs8.split_at(pkcs8.len() - 65);
    let scalar = &rest[rest.len() - 5 - 32..rest.len() - 5]; // a1 44 03 42 00 stands between
    assert_eq!((point[0], &rest[rest.len() - 5..]), (4, &[0xa1, 0x44, 0x03, 0x42, 0x00][..]), "not as ring writes it");
    let p256 = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42, 0x00];
    let der = [&[0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20], scalar, &p256, point].concat();
    let mut pem = "-----BEGIN EC PRIVATE KEY-----\n".to_owned();
    for line in BASE64.encode(&der).as_bytes().chunks(64) {
        pem += &(String::from_utf8_lossy(line) + "\n");
    }
    pem + "-----END EC PRIVATE KEY-----\n"
}

/// How a kubeconfig says who one is.
pub(super) enum Login<'a> {
    /// The kubelet's certificate and key, in one file behind a link.
    CurrentPem,
    /// A file with this token.
    Token(&'a str),
}

/// Writes `kubelet.conf` as kubeadm leaves it. The credentials are those below `pki` in `dir`.
pub(super) fn write_kubeconfig(
    dir: &Path,
    address: std::net::SocketAddr,
    authority_pem: &str,
    login: &Login,
) -> PathBuf {
    let authority = BASE64.encode(authority_pem.as_bytes());
    let user = match login {
        Login::CurrentPem => {
            let pem = current_pem(dir);
            format!("    client-certificate: {0}\n    client-key: {0}\n", pem.display())
        }
        Login::Token(token) => {
            let path = dir.join("token");
            fs::write(&path, token).unwrap();
            format!("    tokenFile: {}\n", path.display())
        }
    };
    let text = format!(
        "apiVersion: v1\nkind: Config\n\
         clusters:\n- name: default-cluster\n  cluster:\n    certificate-authority-data: {authority}\n    server: https://{address}\n\
         contexts:\n- name: default-context\n  context:\n    cluster: default-cluster\n    namespace: default\n    user: default-auth\n\
         current-context: default-context\npreferences: {{}}\n\
         users:\n- name: default-auth\n  user:\n{user}"
    );
    let path = dir.join("kubelet.conf");
    fs::write(&path, text).unwrap();
    path
}

/// The kubelet's rotation: a new dated file beside the old ones, then the link changes in one step.
pub(super) fn write_current_pem(dir: &Path, certificate: &ClientCertificate) -> PathBuf {
    let pki = dir.join("pki");
    fs::create_dir_all(&pki).unwrap();
    let dated = pki.join(format!("kubelet-client-2026-01-01-00-00-{:02}.pem", certificate.serial));
    fs::write(&dated, &certificate.pem).unwrap();
    let updated = pki.join("kubelet-client-updated.pem");
    symlink(&dated, &updated).unwrap();
    fs::rename(&updated, current_pem(dir)).unwrap();
    dated
}

fn current_pem(dir: &Path) -> PathBuf {
    dir.join("pki/kubelet-client-current.pem")
}
