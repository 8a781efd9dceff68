//! Key slots over the admin socket. Secrets cross it in base64; both ends wipe what they wrote and read.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};
use store_format::{Algorithm, NodeSecret, RECOVERY_CODE_BYTES, SlotKind, SymmetricSecret, Unlocker};
use zeroize::Zeroizing;

/// What is to be done with the key slots of a store that an agent has open.
#[derive(Clone, Default)]
pub struct KeyChange {
    /// What gets a slot, if it has none.
    pub add: Vec<Unlocker>,
    /// Slots that go, by fingerprint.
    pub remove: Vec<[u8; 32]>,
    /// Whether what is in `add`, and what the agent itself has at hand, is wrapped anew where it has a slot.
    pub rewrap: bool,
    /// Whether slots of files are neither made nor kept, once one of a credential is durable.
    pub credential_only: bool,
}

impl fmt::Debug for KeyChange {
    /// What is asked for, and no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> = self.add.iter().map(|unlocker| unlocker.kind().name()).collect();
        f.debug_struct("KeyChange")
            .field("add", &kinds)
            .field("remove", &self.remove.len())
            .field("rewrap", &self.rewrap)
            .field("credential_only", &self.credential_only)
            .finish()
    }
}

/// What was done, by fingerprint in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeysChanged {
    /// Slots that were made.
    pub added: Vec<String>,
    /// Slots that were there and are wrapped anew.
    pub rewrapped: Vec<String>,
    /// Slots that are gone.
    pub removed: Vec<String>,
}

/// The request as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Line<'a> {
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    add: Vec<Added<'a>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
    #[serde(default)]
    rewrap: bool,
    #[serde(default)]
    credential_only: bool,
}

/// Borrowed, so that nobody copies a secret to where it is not wiped.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Added<'a> {
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'a str>,
    secret: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    public: Option<String>,
}

const ALGORITHMS: [Algorithm; 4] = [Algorithm::P256, Algorithm::P384, Algorithm::Rsa, Algorithm::Ed25519];

impl KeyChange {
    /// The secrets in the form in which [`Self::line`] borrows them.
    pub(super) fn texts(&self) -> Vec<Zeroizing<String>> {
        self.add.iter().map(|unlocker| Zeroizing::new(BASE64.encode(unlocker.key_material()))).collect()
    }

    pub(super) fn line<'a>(&self, secrets: &'a [Zeroizing<String>]) -> Line<'a> {
        let added = |(unlocker, secret): (&Unlocker, &'a Zeroizing<String>)| {
            let (algorithm, public) = match unlocker {
                Unlocker::NodeKey(secret) => (Some(secret.algorithm().name()), secret.public_spki()),
                Unlocker::RecoveryCode(_) | Unlocker::KeyFile(_) | Unlocker::Credential(_) => (None, None),
            };
            let public = public.map(|octets| BASE64.encode(octets));
            Added { kind: unlocker.kind().name(), algorithm, secret: secret.as_str(), public }
        };
        Line {
            add: self.add.iter().zip(secrets).map(added).collect(),
            remove: self.remove.iter().map(|fingerprint| HEXLOWER.encode(fingerprint)).collect(),
            rewrap: self.rewrap,
            credential_only: self.credential_only,
        }
    }
}

impl Line<'_> {
    pub(super) fn change(self) -> Result<KeyChange, String> {
        let fingerprint = |text: String| {
            let octets = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap_or_default();
            <[u8; 32]>::try_from(octets).map_err(|_| "a fingerprint is not 64 hexadecimal digits".to_owned())
        };
        Ok(KeyChange {
            add: self.add.iter().map(Added::unlocker).collect::<Result<_, _>>()?,
            remove: self.remove.into_iter().map(fingerprint).collect::<Result<_, _>>()?,
            rewrap: self.rewrap,
            credential_only: self.credential_only,
        })
    }
}

impl Added<'_> {
    fn unlocker(&self) -> Result<Unlocker, String> {
        let kind = SlotKind::ALL.into_iter().find(|kind| kind.name() == self.kind);
        let kind = kind.ok_or("this agent knows no such kind of key slot; use the ckpt-db of its version")?;
        let bad = || format!("the secret of a {} is malformed", kind.name());
        let octets = Zeroizing::new(BASE64.decode(self.secret.as_bytes()).map_err(|_| bad())?);
        Ok(match kind {
            SlotKind::NodeKey => {
                let algorithm = ALGORITHMS.into_iter().find(|known| Some(known.name()) == self.algorithm);
                let secret = NodeSecret::from_canonical(algorithm.ok_or_else(bad)?, &octets);
                let secret = secret.map_err(|error| error.to_string())?;
                Unlocker::NodeKey(match &self.public {
                    Some(public) => secret.with_public_spki(&BASE64.decode(public.as_bytes()).map_err(|_| bad())?),
                    None => secret,
                })
            }
            SlotKind::RecoveryCode => {
                let octets = Zeroizing::new(<[u8; RECOVERY_CODE_BYTES]>::try_from(&**octets).map_err(|_| bad())?);
                Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&octets))
            }
            SlotKind::KeyFile => Unlocker::KeyFile(SymmetricSecret::of_file(&octets).map_err(|_| bad())?),
            SlotKind::Credential => Unlocker::Credential(SymmetricSecret::of_file(&octets).map_err(|_| bad())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;

    fn all_kinds() -> Vec<Unlocker> {
        let seed = NodeSecret::from_canonical(Algorithm::Ed25519, &[7; 32]).unwrap().with_public_spki(b"public");
        vec![
            Unlocker::NodeKey(seed),
            Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&[1; 20])),
            Unlocker::KeyFile(SymmetricSecret::of_file(&[2; 32]).unwrap()),
            Unlocker::Credential(SymmetricSecret::of_file(&[3; 4096]).unwrap()),
        ]
    }

    #[test]
    fn every_kind_crosses_the_socket() {
        let change = KeyChange { add: all_kinds(), remove: vec![[0xab; 32]], rewrap: true, credential_only: true };
        let Ok(Request::Keys(found)) = Request::parse(&Request::Keys(change.clone()).line()) else { panic!() };
        assert_eq!((found.remove, found.rewrap, found.credential_only), (vec![[0xab; 32]], true, true));
        for (found, want) in found.add.iter().zip(&change.add) {
            assert!(found.kind() == want.kind() && found.key_material() == want.key_material());
        }
        assert!(matches!(&found.add[0], Unlocker::NodeKey(secret) if secret.public_spki() == Some(b"public")));
        assert_eq!(found.add.len(), change.add.len());
        let Ok(Request::Keys(none)) = Request::parse(&Request::Keys(KeyChange::default()).line()) else { panic!() };
        assert!(none.add.is_empty() && none.remove.is_empty() && !none.rewrap && !none.credential_only);
    }

    /// Whatever is wrong with a request, neither the answer nor anything that is printed says a secret.
    #[test]
    fn what_is_malformed_is_said_without_it() {
        let canary = BASE64.encode(b"canary canary canary canary cana");
        let line = |keys: &str| format!("{{\"apiVersion\":\"ckpt-db.io/v1alpha1\",\"keys\":{keys}}}");
        #[rustfmt::skip]
        let rows = [
            (r#"{"add":[{"kind":"key-file","secret":"CANARY","more":1}]}"#,       "at its octet"),
            (r#"{"add":[{"kind":"key-file","secret":"CANARY\n"}]}"#,              "at its octet"),
            (r#"{"add":[{"kind":"key-file","secret":["CANARY"]}]}"#,              "at its octet"),
            (r#"{"add":[{"kind":"key-file","secret":"CANARY"}],"rewrap":"CANARY"}"#, "at its octet"),
            (r#"{"add":[{"kind":"CANARY","secret":"CANARY"}]}"#,                  "no such kind"),
            (r#"{"add":[{"kind":"key-file","secret":"CANARY!"}]}"#,               "the secret of a key-file is malformed"),
            (r#"{"add":[{"kind":"recovery-code","secret":"CANARY"}]}"#,           "the secret of a recovery-code is malformed"),
            (r#"{"add":[{"kind":"node-key","secret":"CANARY"}]}"#,                "the secret of a node-key is malformed"),
            (r#"{"add":[{"kind":"node-key","algorithm":"P-256","secret":"CANARY"}]}"#, "not on a named curve"),
            (r#"{"remove":["CANARY"]}"#,                                          "not 64 hexadecimal digits"),
        ];
        for (keys, want) in rows {
            let error = Request::parse(line(&keys.replace("CANARY", &canary)).as_bytes()).err().expect(keys);
            assert!(error.contains(want) && !error.contains(&canary[..8]), "{keys}: {error}");
        }
        let shown = format!("{:?}", KeyChange { add: all_kinds(), ..KeyChange::default() });
        assert!(shown.contains("\"credential\"") && !shown.contains("AgIC") && !shown.contains("2, 2"), "{shown}");
    }
}
