//! Certificates and kubeconfigs for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// First and last year of validity.
pub(super) type Years = (i32, i32);
pub(super) const NOW: Years = (2020, 2999);
pub(super) const PAST: Years = (2020, 2021);
pub(super) const FUTURE: Years = (2998, 2999);

/// A CA of its own.
pub(super) struct Authority {
    pub(super) pem: String,
    pub(super) der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    name: String,
}

/// A certificate and its key, in PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl Authority {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self::named(&format!("ca-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2999, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
            name: name.into(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A certificate for `names` as a server, and for `CN=<common>` as a client.
    pub(super) fn issue(&self, names: &[&str], common: &str, years: Years) -> Issued {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        // In the order of Go, whose certificates kubelets have.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, common);
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem(), chain: vec![certificate.der().clone()] }
    }
}

impl Issued {
    pub(super) fn key_der(&self) -> PrivateKeyDer<'static> {
        use rustls::pki_types::pem::PemObject as _;
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    /// As users of a kubeconfig have it.
    pub(super) fn user(&self) -> String {
        let (certificate, key) = (BASE64.encode(self.certificate.as_bytes()), BASE64.encode(self.key.as_bytes()));
        format!("client-certificate-data: {certificate}, client-key-data: {key}")
    }
}

/// Writes a kubeconfig whose cluster and user have these fields, in YAML's flow form.
pub(super) fn kubeconfig(dir: &Path, cluster: &str, user: &str) -> PathBuf {
    let file = dir.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\ncontexts: [{{name: here, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    );
    fs::write(&file, text).unwrap();
    file
}

/// The cluster fields of a server and its CA.
pub(super) fn cluster(server: &str, authority: &Authority) -> String {
    format!("server: \"{server}\", certificate-authority-data: {}", BASE64.encode(authority.pem.as_bytes()))
}
