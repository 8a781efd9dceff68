//! Every form in which a node key lies on real nodes gives the same secret and the fingerprint that openssl computes.
//!
//! The files under `tests/data/keys/` were made with openssl 3 and say of themselves that they open nothing.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests: a failed unwrap is a failed test.

use std::path::{Path, PathBuf};

use ckpt_db::keys::{KeyFileError, KeySearch, NodeKey, find, load};
use ckpt_db::store::fingerprint;
use proptest::prelude::*;
use store_format::Algorithm;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/keys/test-only-{name}.pem"))
}

fn text(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).unwrap()
}

/// Loads `text` from a file of its own.
fn load_text(text: &[u8]) -> Result<NodeKey, KeyFileError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    std::fs::write(&path, text).unwrap();
    load(&path)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The fingerprint is what `openssl pkey -pubout -outform DER | sha256sum` prints.
#[test]
fn each_form_of_a_key_gives_its_fingerprint() {
    const P256: &str = "61c55646251dd88e6481798c29bb35b665da86d01e5e9a23bd2e98939e03b0f4";
    const P384: &str = "410b4b12dccdc185cdb5774a1cfe2310bb3762d11f4bfbc3ac95638869f6dbf0";
    const RSA: &str = "c2df87280e79682baec5b50ab42cdb8f5fdd37bdb04c0529d7b87953acef6276";
    const ED25519: &str = "a53c53160f8b890e6658f6d9ec30d52d3d92168efa660d41304ba1d9b439b88d";
    #[rustfmt::skip]
    let rows = [
        ("p256-kubelet",                        Algorithm::P256,    Some(P256)),
        ("p256-pkcs8",                          Algorithm::P256,    Some(P256)),
        ("p256-sec1-after-parameters",          Algorithm::P256,    Some(P256)),
        ("p256-kubelet-without-public-part",    Algorithm::P256,    Some(P256)),
        ("p256-sec1-without-public-part",       Algorithm::P256,    None),
        ("p384-sec1",                           Algorithm::P384,    Some(P384)),
        ("p384-key-beside-p256-certificate",    Algorithm::P384,    None),
        ("rsa2048-pkcs1",                       Algorithm::Rsa,     Some(RSA)),
        ("rsa2048-pkcs8",                       Algorithm::Rsa,     Some(RSA)),
        ("ed25519-pkcs8",                       Algorithm::Ed25519, Some(ED25519)),
    ];
    for (name, algorithm, want) in rows {
        let key = load(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(key.secret.algorithm() == algorithm, "{name}");
        assert_eq!(fingerprint(&key.secret.clone().into()).map(|print| hex(&print)).as_deref(), want, "{name}");
        assert_eq!(key.source, file(name));
    }
}

#[test]
fn all_encodings_of_one_key_give_one_secret() {
    let secret = |name: &str| load(&file(name)).ok().unwrap().secret.canonical().to_vec();
    let p256 = secret("p256-kubelet");
    for name in [
        "p256-pkcs8",
        "p256-sec1-after-parameters",
        "p256-kubelet-without-public-part",
        "p256-sec1-without-public-part",
    ] {
        assert!(secret(name) == p256, "{name}");
    }
    assert!(secret("rsa2048-pkcs1") == secret("rsa2048-pkcs8"));
    assert!(secret("p384-sec1") == secret("p384-key-beside-p256-certificate"));

    let pem = text("p256-kubelet");
    let lines = |separator: &str| String::from_utf8(pem.clone()).unwrap().replace('\n', separator).into_bytes();
    let key_only = text("p256-sec1-after-parameters");
    let damaged = String::from_utf8(pem.clone()).unwrap().replacen("MII", "M!!", 1).into_bytes();
    assert_ne!(damaged, pem);
    #[rustfmt::skip]
    let rows = [
        ("CRLF",                            lines("\r\n")),
        ("blank lines between",             [&b"\n\n"[..], &pem, b"\n\n"].concat()),
        ("text around",                     [&b"Bag Attributes\n  x: y\n"[..], &pem, b"text\n"].concat()),
        ("no newline at the end",           pem.trim_ascii_end().to_vec()),
        ("two keys, the first counts",      [&pem[..], &text("p384-sec1")].concat()),
        ("key before certificate",          [&key_only[..], &text("certificate-only")].concat()),
        ("damaged certificate",             damaged),
        ("unfinished section behind",       [&pem[..], b"-----BEGIN CERTIFICATE-----\naGk=\n"].concat()),
    ];
    for (name, text) in rows {
        let key = load_text(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(key.secret.canonical() == p256, "{name}");
    }
}

#[test]
fn what_opens_nothing_is_refused_by_name() {
    let pem = String::from_utf8(text("p256-sec1-after-parameters")).unwrap();
    let cut = &pem[..pem.len() - 60];
    #[rustfmt::skip]
    let rows = [
        (text("p256-encrypted-pkcs8"),          "the private key in F is encrypted"),
        (text("p256-encrypted-sec1"),           "the private key in F is encrypted"),
        (text("p521-sec1"),                     "cannot use the private key in F"),
        (text("certificate-only"),              "F holds only CERTIFICATE; a section EC PRIVATE KEY, PRIVATE KEY or RSA PRIVATE KEY is needed"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\naGk=\n-----END OPENSSH PRIVATE KEY-----\n".to_vec(), "F holds only OPENSSH PRIVATE KEY;"),
        (b"-----BEGIN \x1b[31m-----\n-----END \x1b[31m-----\n".to_vec(), "F holds no PEM section;"),
        (cut.as_bytes().to_vec(),               "node key F has a damaged or unfinished PEM section"),
        (b"-----BEGIN EC PRIVATE KEY-----\naGk=\n-----END EC PRIVATE KEY-----\n".to_vec(), "cannot use the private key in F"),
        (b"\0\xff\x01garbage".to_vec(),         "F holds no PEM section;"),
        (vec![],                                "F holds no PEM section;"),
        (vec![b'x'; 1024 * 1024 + 1],           "cannot read node key F"),
    ];
    for (text, want) in rows {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        std::fs::write(&path, &text).unwrap();
        let error = load(&path).err().expect(want);
        let message = error.to_string().replace(&path.display().to_string(), "F");
        assert!(message.starts_with(want), "{want}: {message}");
        assert!(!error.is_absent());
    }
}

#[test]
fn a_file_that_others_may_read_is_told_and_a_fifo_is_never_waited_for() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::copy(file("p256-kubelet"), path("key.pem")).unwrap();
    // The kubelet's `-current` file is a link.
    symlink("key.pem", path("current.pem")).unwrap();
    for (mode, want) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
        std::fs::set_permissions(path("key.pem"), std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(load(&path("current.pem")).ok().unwrap().open_to_others, want, "{mode:o}");
    }
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for name in ["fifo", "."] {
        let error = load(&path(name)).err().unwrap();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.ends_with("not a regular file"), "{cause}");
    }
    symlink("current2.pem", path("current2.pem")).unwrap();
    assert!(!load(&path("current2.pem")).err().unwrap().is_absent(), "a link to itself is not an absent file");
}

#[test]
fn a_search_gives_each_key_once_and_the_rest_with_its_reason() {
    let names = ["certificate-only", "p256-kubelet", "p256-pkcs8", "rsa2048-pkcs8", "absent", "rsa2048-pkcs1"];
    let found = find(&KeySearch { explicit: vec![file("ed25519-pkcs8")], defaults: names.map(file).to_vec() });
    let sources: Vec<_> = found.keys.iter().map(|key| key.source.clone()).collect();
    assert_eq!(sources, ["ed25519-pkcs8", "p256-kubelet", "rsa2048-pkcs8"].map(file));
    let tried: Vec<_> = found.tried.iter().map(|(path, error)| (path.clone(), error.is_absent())).collect();
    assert_eq!(tried, [(file("certificate-only"), false), (file("absent"), true)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// No damage makes the reader panic, and no error shows what stands in the file.
    #[test]
    fn a_damaged_file_gives_a_key_or_an_error_without_contents(
        name in proptest::sample::select(vec!["p256-kubelet", "p256-pkcs8", "rsa2048-pkcs1", "ed25519-pkcs8"]),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut pem = text(name);
        for (at, octet) in damage {
            let at = at.index(pem.len());
            pem[at] = octet;
        }
        if let Some(cut) = cut {
            pem.truncate(cut.index(pem.len()));
        }
        if let Err(error) = load_text(&pem) {
            let mut told = format!("{error} {error:?}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                told = format!("{told} {error} {error:?}");
                cause = error.source();
            }
            // Lines of base64: all others of these files have a space.
            let lines = pem.split(|&b| b == b'\n').filter(|line| line.len() >= 12 && !line.contains(&b' '));
            for line in lines {
                prop_assert!(!told.as_bytes().windows(12).any(|part| line.windows(12).any(|own| own == part)), "{told}");
            }
        }
    }
}
