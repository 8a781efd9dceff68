//! Key files of any contents: PEM and the DER in it, and the files that open key slots of other kinds.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use ckpt_db::keys;
use ckpt_db::store::fingerprint;
use store_format::{NodeSecret, SymmetricSecret, Unlocker};

use super::image::scratch;

thread_local! {
    static FILE: RefCell<Option<(tempfile::TempDir, PathBuf)>> = const { RefCell::new(None) };
}

/// The target's body.
pub fn run(octets: &[u8]) {
    let keys = [NodeSecret::from_sec1(octets), NodeSecret::from_pkcs8(octets), NodeSecret::from_pkcs1(octets)];
    keys.into_iter().flatten().for_each(named);
    if let Ok(secret) = SymmetricSecret::of_file(octets) {
        assert_eq!(secret.expose(), octets);
        assert!(fingerprint(&Unlocker::KeyFile(secret)).is_some());
    }
    let path = FILE.with_borrow_mut(|file| {
        let made = || {
            let directory = scratch();
            let path = directory.path().join("key.pem");
            (directory, path)
        };
        file.get_or_insert_with(made).1.clone()
    });
    fs::write(&path, octets).unwrap();
    match keys::load(&path) {
        Ok(key) => named(key.secret),
        Err(error) => super::assert_shown(&error.to_string()),
    }
}

/// The key gives a name that does not depend on anything but itself.
fn named(key: NodeSecret) {
    assert!(key.canonical().len() >= 32);
    let key = Unlocker::NodeKey(key);
    assert_eq!(fingerprint(&key), fingerprint(&key));
}
