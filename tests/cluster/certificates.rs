//! A certificate authority, and what it issues to the API server, the administrator and the nodes.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// From when to when a certificate is valid.
#[derive(Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) from: SystemTime,
    pub(crate) to: SystemTime,
}

impl Validity {
    /// From an hour ago until in a day.
    pub(crate) fn usual() -> Self {
        Self::until(SystemTime::now() + Duration::from_secs(86_400))
    }

    /// From an hour before now, or before `to` where that has passed already.
    pub(crate) fn until(to: SystemTime) -> Self {
        Self { from: to.min(SystemTime::now()) - Duration::from_secs(3_600), to }
    }
}

/// A certificate and its key, both PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pair {
    /// Both in one file, as the kubelet keeps them.
    pub(crate) fn combined(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params =
            params(name, None, Vec::new(), Validity::until(SystemTime::now() + Duration::from_secs(864_000)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The authority's own certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A server on loopback.
    pub(crate) fn server(&self, name: &str) -> Pair {
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let mut params = params(name, None, names.to_vec(), Validity::usual());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A client: `CN=<user>, O=<group>`.
    pub(crate) fn client(&self, user: &str, group: &str, validity: Validity) -> Pair {
        let mut params = params(user, Some(group), Vec::new(), validity);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Pair {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

fn params(name: &str, group: Option<&str>, names: Vec<String>, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = validity.from.into();
    params.not_after = validity.to.into();
    params
}
