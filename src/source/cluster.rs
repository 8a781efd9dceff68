//! Which cluster manifests come from, where they tell it. Pure.

use std::collections::BTreeSet;

use super::api::certificate::{public_key_sha256, sections};
use crate::checkpoint::data::data;
use crate::checkpoint::object::{Kind, Object};

/// What kube-controller-manager puts into each namespace: the CAs that its API server is trusted by.
const ROOT_CA: &str = "kube-root-ca.crt";

/// SHA-256 of the public keys (SubjectPublicKeyInfo, DER) of the CAs of the cluster that `objects` come from; empty where they
/// do not tell.
#[must_use]
pub fn cluster_cas(objects: &[Object]) -> BTreeSet<[u8; 32]> {
    let root_cas = objects.iter().filter(|object| object.key.kind() == Kind::ConfigMap && object.key.name() == ROOT_CA);
    let bundles = root_cas.filter_map(|object| data(object).ok()?.remove("ca.crt"));
    let certificates = bundles.flat_map(|bundle| sections(bundle.expose()).unwrap_or_default());
    certificates.filter_map(|der| public_key_sha256(&der)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::object::ObjectKey;

    #[test]
    fn the_cas_of_every_namespace_count() {
        let ca = |name: &str| {
            let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        let map = |namespace: &str, name: &str, text: &str| Object {
            key: ObjectKey::new(Kind::ConfigMap, namespace, name).unwrap(),
            uid: String::new(),
            resource_version: String::new(),
            body: serde_json::json!({"data": {"ca.crt": text}}).to_string().into(),
        };
        let (one, two) = (ca("one"), ca("two"));
        let both = format!("{one}{two}");
        #[rustfmt::skip]
        let rows = [
            (vec![],                                                        0),
            (vec![map("a", "other", &one)],                                 0),
            (vec![map("a", ROOT_CA, "no certificate")],                     0),
            (vec![map("a", ROOT_CA, &one)],                                 1),
            (vec![map("a", ROOT_CA, &one), map("b", ROOT_CA, &one)],        1),
            (vec![map("a", ROOT_CA, &one), map("b", ROOT_CA, &both)],       2),
        ];
        for (objects, want) in rows {
            assert_eq!(cluster_cas(&objects).len(), want);
        }
    }
}
