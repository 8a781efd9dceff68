//! Looks for secrets in files and messages, in every form in which a program could show them by accident.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};

use super::program::{KEY, Ran, SECRETS, What, listing};

/// Something secret, and what it is.
pub(crate) struct Canary {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// Every regular file below `top`, links not followed.
pub(crate) fn below(top: &Path) -> Vec<(String, Vec<u8>)> {
    let files = listing(top).into_iter().filter_map(|(path, entry)| match entry.what {
        What::File(contents) => Some((path.to_str().unwrap().to_owned(), contents)),
        What::Link(_) | What::Directory | What::Other => None,
    });
    files.collect()
}

/// Everything that is looked for, made ready to be found in one pass.
pub(crate) struct Search {
    /// Whose, in which form, and the octets.
    needles: Vec<(&'static str, &'static str, Vec<u8>)>,
    /// Whether a needle begins with these two octets.
    begins: Vec<bool>,
}

impl Search {
    pub(crate) fn new(canaries: &[Canary]) -> Self {
        let mut needles: Vec<(&'static str, &'static str, Vec<u8>)> = Vec::new();
        for Canary { name, bytes } in canaries {
            for part in [&bytes[..12], &bytes[bytes.len() - 12..]] {
                needles.extend(forms(part).into_iter().map(|(form, needle)| (*name, form, needle)));
            }
        }
        // Both alphabets of base64 give the same text more often than not.
        let mut known = BTreeSet::new();
        needles.retain(|(name, _, needle)| known.insert((*name, needle.clone())));
        let mut begins = vec![false; 1 << 16];
        for (_, _, needle) in &needles {
            begins[usize::from(needle[0]) << 8 | usize::from(needle[1])] = true;
        }
        Self { needles, begins }
    }

    /// The names of the canaries that `place` has, and in which form.
    pub(crate) fn found(&self, place: &[u8]) -> BTreeMap<&'static str, &'static str> {
        // Lines may be folded and columns padded.
        let dense: Vec<u8> = place.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
        let mut found = BTreeMap::new();
        for text in [place, &dense] {
            for (at, pair) in text.windows(2).enumerate() {
                if self.begins[usize::from(pair[0]) << 8 | usize::from(pair[1])] {
                    let here = self.needles.iter().filter(|(_, _, needle)| text[at..].starts_with(needle));
                    found.extend(here.map(|(name, form, _)| (*name, *form)));
                }
            }
        }
        found
    }

    /// How often each needle is in `place`, by canary and form. Folded lines are not looked through.
    pub(crate) fn counts(&self, place: &[u8]) -> BTreeMap<(&'static str, &'static str), usize> {
        let mut counts = BTreeMap::new();
        for (at, pair) in place.windows(2).enumerate() {
            if self.begins[usize::from(pair[0]) << 8 | usize::from(pair[1])] {
                for (name, form, _) in self.needles.iter().filter(|(_, _, needle)| place[at..].starts_with(needle)) {
                    *counts.entry((*name, *form)).or_default() += 1;
                }
            }
        }
        counts
    }

    #[track_caller]
    pub(crate) fn assert_none(&self, place: &[u8], what: &str) {
        let found = self.found(place);
        assert!(found.is_empty(), "{what}: canaries are found: {found:?}");
    }

    /// Looks at all that a command said.
    #[track_caller]
    pub(crate) fn assert_quiet(&self, ran: &Ran) {
        self.assert_none(ran.stdout.as_bytes(), &format!("the output of {}", ran.what));
        self.assert_none(ran.stderr.as_bytes(), &format!("the messages of {}", ran.what));
        assert!(!ran.stderr.contains("panicked"), "{}: {}", ran.what, ran.stderr);
    }

    /// Looks at every file below a root but those below its secret root, and the node's key itself.
    #[track_caller]
    pub(crate) fn assert_none_outside(&self, root: &Path, why: &str) {
        let mut seen = 0;
        for (path, contents) in below(root) {
            // Names of files are no place for secrets either.
            self.assert_none(path.as_bytes(), &format!("{why}: the name {path}"));
            if path.starts_with(SECRETS) || path == KEY {
                continue;
            }
            self.assert_none(&contents, &format!("{why}: {path}"));
            seen += 1;
        }
        assert!(seen > 10, "{why}: only {seen} files were searched");
    }
}

/// How `secret` may look.
fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let escaped = |hex: fn(&[u8]) -> String| -> String {
        secret.iter().map(|octet| format!("\\u00{}", hex(&[*octet]))).collect()
    };
    let mut forms = vec![
        ("raw", secret.to_vec()),
        ("hexadecimal", HEXLOWER.encode(secret).into_bytes()),
        ("upper-case hexadecimal", HEXUPPER.encode(secret).into_bytes()),
        ("JSON escapes", escaped(|octet| HEXLOWER.encode(octet)).into_bytes()),
        ("upper-case JSON escapes", escaped(|octet| HEXUPPER.encode(octet)).into_bytes()),
        ("a list of numbers", secret.iter().map(u8::to_string).collect::<Vec<_>>().join(",").into_bytes()),
        ("escaped octets", secret.escape_ascii().to_string().into_bytes()),
    ];
    for before in 0..3 {
        for alphabet in [BASE64, BASE64URL] {
            forms.push(("base64", base64_core(secret, before, &alphabet)));
        }
    }
    forms
}

/// The digits of base64 that `secret` alone determines when it comes after `before` other octets (modulo three).
fn base64_core(secret: &[u8], before: usize, alphabet: &data_encoding::Encoding) -> Vec<u8> {
    let padded = [&vec![0; before], secret].concat();
    let text = alphabet.encode(&padded).into_bytes();
    // Octets to digits: 8 bits to 6.
    let (first, end) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
    text[first..end].to_vec()
}
