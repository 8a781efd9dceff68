//! The vectors of `store-format/vectors/crypto`: what a second implementation wrapped, sealed and tagged opens here, and is
//! written here octet for octet.

use std::collections::BTreeSet;
use std::path::Path;

use data_encoding::HEXLOWER as HEX;
use store_format::{Frame, NodeSecret, SymmetricSecret, recovery_code_octets, recovery_code_text};

use super::*;
use crate::crypto::{CryptoError, sha256};
use crate::store::record;

/// The salt of a vector, in place of fresh octets.
struct Fixed([u8; 32]);

impl Entropy for Fixed {
    fn fill(&self, octets: &mut [u8]) -> Result<(), CryptoError> {
        octets.copy_from_slice(&self.0);
        Ok(())
    }
}

struct Vector {
    name: String,
    fields: Vec<(String, String)>,
    octets: Vec<u8>,
}

impl Vector {
    fn all() -> Vec<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("store-format/vectors/crypto");
        let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| Self::read(&path)).collect()
    }

    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let (header, body) = text.split_once("\n\n").unwrap();
        let field = |line: &str| {
            let (key, value) = line.split_once(':').unwrap();
            (key.to_owned(), value.trim_start().to_owned())
        };
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let octets = body.lines().flat_map(|line| HEX.decode(line.as_bytes()).unwrap()).collect();
        Self { name, fields: header.lines().map(field).collect(), octets }
    }

    fn all_of(&self, field: &str) -> Vec<&str> {
        self.fields.iter().filter(|(key, _)| key == field).map(|(_, value)| value.as_str()).collect()
    }

    fn text(&self, field: &str) -> &str {
        match self.all_of(field).as_slice() {
            [value] => value,
            other => panic!("{}: {} values of {field}", self.name, other.len()),
        }
    }

    fn octets_of(&self, field: &str) -> Vec<u8> {
        HEX.decode(self.text(field).as_bytes()).unwrap()
    }

    fn store_id(&self) -> StoreId {
        StoreId(self.octets_of("store-id").try_into().unwrap())
    }

    fn vault(&self) -> Vault {
        Vault::new(self.store_id(), Key::new(self.octets_of("data-key").try_into().unwrap()))
    }

    fn unlocker(&self) -> Unlocker {
        let (kind, value) = self.text("unlocker").split_once(' ').unwrap();
        let file = || SymmetricSecret::of_file(&HEX.decode(value.as_bytes()).unwrap()).unwrap();
        match kind {
            "node-key" => {
                let der = HEX.decode(value.strip_prefix("pkcs8 ").unwrap().as_bytes()).unwrap();
                let secret = NodeSecret::from_pkcs8(&der).unwrap();
                Unlocker::NodeKey(if let Ok(seed) = <&[u8; 32]>::try_from(secret.canonical()) {
                    let spki = [&HEX.decode(b"302a300506032b6570032100").unwrap()[..], &crypto::ed25519_public(seed)];
                    secret.clone().with_public_spki(&spki.concat())
                } else {
                    secret
                })
            }
            "recovery-code" => {
                Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&recovery_code_octets(value, sha256).unwrap()))
            }
            "key-file" => Unlocker::KeyFile(file()),
            "credential" => Unlocker::Credential(file()),
            other => panic!("{}: {other}", self.name),
        }
    }

    fn context<'a>(&'a self, store_id: &'a StoreId) -> RecordContext<'a> {
        RecordContext {
            store_id,
            kind: self.text("kind"),
            namespace: self.text("namespace"),
            name: self.text("name"),
            uid: self.text("uid"),
            resource_version: self.text("resource-version"),
        }
    }

    fn check(&self) {
        let (name, accept) = (&self.name, self.text("expect") == "accept");
        match self.text("decoder") {
            "wrap" => {
                let (slot, unlocker) = (KeySlot::decode(&self.octets).unwrap(), self.unlocker());
                let opened = Vault::unlock(self.store_id(), &slot, &unlocker);
                assert_eq!(opened.is_ok(), accept, "{name}");
                if accept {
                    let (vault, at) = (self.vault(), self.text("created-at-unix-ms").parse().unwrap());
                    assert!(opened.is_ok_and(|opened| opened.is(&vault)), "{name}: another data key");
                    let again = vault.slot(&unlocker, at, &Fixed(slot.salt)).unwrap();
                    assert_eq!(again.encode(), self.octets, "{name}");
                }
            }
            "seal" => {
                let (vault, store_id) = (self.vault(), self.store_id());
                let opened = vault.open(&self.context(&store_id), &self.octets);
                assert_eq!(opened.is_ok(), accept, "{name}");
                if let Ok(clear) = opened {
                    assert_eq!(clear.expose(), self.octets_of("clear"), "{name}");
                    let salt = Fixed(SealedBody::decode(&self.octets).unwrap().salt);
                    assert_eq!(vault.seal(&self.context(&store_id), &clear, &salt).unwrap(), self.octets, "{name}");
                }
            }
            "tag" => {
                let table = store_format::Table::ALL.into_iter().find(|table| table.name() == self.text("table"));
                let (table, key) = (table.unwrap(), self.all_of("key-part"));
                let checked = record::check(table, &key, &self.octets, Some(&self.vault()));
                assert_eq!(checked.is_ok_and(|checked| checked.authenticated), accept, "{name}");
                if accept {
                    let frame = Frame::decode(&self.octets).unwrap();
                    assert_eq!(frame.tag, Some(self.vault().tag(&frame.digest)), "{name}");
                }
            }
            "recovery-code" => {
                let typed = std::str::from_utf8(&self.octets).unwrap();
                match recovery_code_octets(typed, sha256) {
                    Ok(octets) => {
                        assert!(accept && octets[..] == self.octets_of("octets"), "{name}");
                        assert_eq!(*recovery_code_text(&octets, sha256), self.text("text"), "{name}");
                    }
                    Err(error) => assert_eq!(self.text("expect"), format!("reject {}", error.code()), "{name}"),
                }
            }
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn every_vector_with_cryptography_holds() {
    let vectors = Vector::all();
    vectors.iter().for_each(Vector::check);
    let decoders: BTreeSet<&str> = vectors.iter().map(|vector| vector.text("decoder")).collect();
    assert_eq!(decoders, BTreeSet::from(["recovery-code", "seal", "tag", "wrap"]));
}
