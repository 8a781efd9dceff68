//! Env files: the syntax in which a kubelet reads environment values from a file, and what stands in its way.
//!
//! Since Kubernetes 1.35 (`EnvFiles`, on by default; KEP-3721) a variable may come from a file of an emptyDir volume
//! (`valueFrom.fileKeyRef`), also in static pods. So a value of a Secret need not stand in the manifest, which the
//! kubelet uploads as the mirror pod.
//!
//! ```text
//! V1='first value'
//! V2='a value
//! of two lines'
//! ```
//! The kubelet's parser (`pkg/kubelet/util/env`, `ParseEnv`, of 1.35) takes what stands between single quotes as it is,
//! line feeds too, and there is no way to write a single quote. It reads by lines (`bufio.Scanner`), which drops a
//! carriage return before a line feed. It answers an absent key with an empty text, which the kubelet takes for absence
//! (`pkg/kubelet/kubelet_pods.go`, `makeEnvironmentVariables`), and it refuses values of more than 32 KiB. The KEP limits
//! a file to 64 KiB. A value from a file is never expanded, but a later `$(VAR)` finds it.

use std::fmt;

use super::settings::KubeletVersion;

/// Largest value, in bytes: what the kubelet takes.
pub const VALUE_BYTES_MAX: usize = 32 * 1024;

/// Largest env file, in bytes (KEP-3721, "Size Limit").
pub const FILE_BYTES_MAX: usize = 64 * 1024;

/// Name of the env file inside of its volume.
pub const FILE_NAME: &str = "secrets";

/// How many bytes a line of `key` takes beside its value.
#[must_use]
pub fn overhead_bytes(key: &str) -> usize {
    key.len() + "=''\n".len()
}

/// Whether the kubelet would read exactly `value` from an env file.
///
/// An empty value is none that a file can carry: the kubelet takes it for an absent key.
#[must_use]
pub fn carries(value: &[u8]) -> bool {
    !value.is_empty()
        && value.len() <= VALUE_BYTES_MAX
        && !value.contains(&b'\'')
        && !value.contains(&0)
        && !value.windows(2).any(|pair| pair == b"\r\n")
        && std::str::from_utf8(value).is_ok()
}

/// Whether `key` may stand before the equals sign. Stricter than the kubelet: `[A-Za-z_][A-Za-z0-9_]*`, 128 at most.
#[must_use]
pub fn is_key(key: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    key.len() <= 128 && key.bytes().next().is_some_and(first) && key.bytes().all(|b| first(b) || b.is_ascii_digit())
}

/// Appends the line of one key to `file`. False, and nothing appended, if it can't be written or `file` would become
/// larger than [`FILE_BYTES_MAX`].
#[must_use]
pub fn append(file: &mut Vec<u8>, key: &str, value: &[u8]) -> bool {
    let fits = file.len() + overhead_bytes(key) + value.len() <= FILE_BYTES_MAX;
    if !(is_key(key) && carries(value) && fits) {
        return false;
    }
    for part in [key.as_bytes(), b"='", value, b"'\n"] {
        file.extend_from_slice(part);
    }
    true
}

/// Why values of Secrets can't reach a pod through an env file. Names variables, never values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoEnvFile {
    /// The kubelet is too old.
    Kubelet(KubeletVersion),
    /// Nobody knows the kubelet's version, and an older one would refuse the manifest.
    KubeletUnknown,
    /// There is no program that the init container could run.
    Helper(NoHelper),
    /// A value has something that the syntax of env files can't express, or is too long.
    Value {
        /// The container, as a JSON path in the pod.
        container: String,
        /// Name of the variable.
        variable: String,
    },
    /// All values together are longer than an env file may be.
    TooLarge,
}

impl fmt::Display for NoEnvFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubelet(KubeletVersion { major, minor }) => {
                write!(f, "the kubelet is {major}.{minor}, and reads env files since 1.35")
            }
            Self::KubeletUnknown => {
                f.write_str("the kubelet's version is not known, and it reads env files since 1.35")
            }
            Self::Helper(problem) => write!(f, "{problem}"),
            Self::Value { container, variable } => write!(
                f,
                "the value of variable {variable} of {container} can't stand in one (a single quote, a CR LF, or over 32 KiB)"
            ),
            Self::TooLarge => f.write_str("the values have over 64 KiB together"),
        }
    }
}

/// Why there is no program for the init container that writes the env file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoHelper {
    /// Nobody said where it is.
    NotGiven,
    /// This program runs in a pod, and knows its own path there only.
    InPod,
    /// It needs a C library, which the pod's image may lack.
    NotStatic,
    /// It can't be used; the text says why and names no more than its path.
    Unusable(String),
}

impl fmt::Display for NoHelper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGiven => f.write_str("no program is given that could write it (--env-file-helper)"),
            Self::InPod => f.write_str(
                "the agent runs in a pod and does not know where the node has a static ckpt-db (--env-file-helper)",
            ),
            Self::NotStatic => {
                f.write_str("this ckpt-db is not linked statically, and has to run in the pod's own image")
            }
            Self::Unusable(problem) => f.write_str(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_env_file_can_carry() {
        let long = vec![b'x'; VALUE_BYTES_MAX];
        let longer = vec![b'x'; VALUE_BYTES_MAX + 1];
        #[rustfmt::skip]
        let rows: [(&[u8], bool); 17] = [
            (b"plain",              true),
            (b" spaces\tand tabs ", true),
            (b"\"double\" `back`",  true),
            (b"$VAR ${VAR} $(VAR)", true),
            (b"back\\slash\\",      true),
            (b"# no comment",       true),
            (b"a=b",                true),
            (b"two\nlines\n",       true),
            (b"\n",                 true),
            (b"a lone\rreturn\r",   true),
            ("\u{e9}\u{1F600}".as_bytes(), true),
            (&long,                 true),
            (&longer,               false),
            (b"",                   false),
            (b"it's",               false),
            (b"two\r\nlines",       false),
            (b"\xff",               false),
        ];
        for (value, want) in rows {
            assert_eq!(carries(value), want, "{:?}", String::from_utf8_lossy(&value[..value.len().min(20)]));
        }
        assert!(!carries(b"a\0b"));
    }

    #[test]
    fn keys() {
        for (key, want) in [("V1", true), ("_", true), ("", false), ("1", false), ("a-b", false), ("..data", false)] {
            assert_eq!(is_key(key), want, "{key}");
        }
        assert!(is_key(&"k".repeat(128)) && !is_key(&"k".repeat(129)));
    }

    #[test]
    fn a_file_stops_at_its_limit_and_a_refused_line_leaves_no_trace() {
        let mut file = Vec::new();
        assert!(append(&mut file, "V1", b"a\nb"));
        assert!(!append(&mut file, "V2", b"it's"));
        assert!(!append(&mut file, "V 2", b"x"));
        assert_eq!(file, b"V1='a\nb'\n");

        let value = vec![b'x'; VALUE_BYTES_MAX - overhead_bytes("V1")];
        let mut file = Vec::new();
        assert!(append(&mut file, "V1", &value) && append(&mut file, "V2", &value));
        assert_eq!(file.len(), FILE_BYTES_MAX);
        assert!(!append(&mut file, "V3", b"x"));
    }
}
