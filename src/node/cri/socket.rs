//! Where the container runtime listens.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Sockets of container runtimes, below the root: containerd, CRI-O, k3s and RKE2, k0s, Docker by cri-dockerd.
const USUAL: [&str; 9] = [
    "run/containerd/containerd.sock",
    "var/run/containerd/containerd.sock",
    "run/crio/crio.sock",
    "var/run/crio/crio.sock",
    "run/k3s/containerd/containerd.sock",
    "run/k0s/containerd.sock",
    "run/k0s/containerd/containerd.sock",
    "run/cri-dockerd.sock",
    "var/run/cri-dockerd.sock",
];

/// The socket of this node's container runtime.
///
/// `configured` is the kubelet's `containerRuntimeEndpoint` or the operator's choice, `unix:///path` or a path, and is
/// taken as it is: whether somebody listens there shows when it is asked. Without it, the one socket that exists at a usual
/// place below `root` (`/` on the node itself).
///
/// # Errors
/// What is wrong with the configured one; or that there is no socket, or more than one: the answers of a runtime that the
/// kubelet does not use would say that no pod runs.
pub fn find(configured: Option<&Path>, root: &Path) -> Result<PathBuf, String> {
    if let Some(configured) = configured {
        return path(configured);
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for candidate in USUAL {
        let socket = root.join(candidate);
        if let Ok(metadata) = std::fs::metadata(&socket)
            && metadata.file_type().is_socket()
            && seen.insert((metadata.dev(), metadata.ino()))
        {
            found.push(socket);
        }
    }
    match &mut found[..] {
        [] => Err(format!(
            "no socket of a container runtime was found ({} and other usual places): start it, or name its socket",
            root.join(USUAL[0]).display()
        )),
        [socket] => Ok(std::mem::take(socket)),
        several => {
            let several: Vec<_> = several.iter().map(|socket| socket.display().to_string()).collect();
            Err(format!(
                "there is more than one socket of a container runtime ({}): name the one that the kubelet uses",
                several.join(", ")
            ))
        }
    }
}

/// The path of an endpoint. `unix:/path` is the same, as it is to the kubelet.
fn path(endpoint: &Path) -> Result<PathBuf, String> {
    let bytes = endpoint.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(b"unix:").map_or(bytes, |rest| rest.strip_prefix(b"//").unwrap_or(rest));
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(format!(
        "cannot use {} as the socket of the container runtime: it has to be `unix:///path` or an absolute path",
        endpoint.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_configured_one() {
        #[rustfmt::skip]
        let rows = [
            ("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock")),
            ("unix:/run/containerd/containerd.sock",   Some("/run/containerd/containerd.sock")),
            ("/run/my runtime.sock",                   Some("/run/my runtime.sock")),
            ("unix://run/containerd.sock",             None),
            ("run/containerd.sock",                    None),
            ("tcp://127.0.0.1:1234",                   None),
            ("npipe:////./pipe/containerd",            None),
            ("unix://",                                None),
            ("",                                       None),
        ];
        for (configured, want) in rows {
            let found = find(Some(Path::new(configured)), Path::new("/nowhere"));
            match want {
                Some(want) => assert_eq!(found.as_deref(), Ok(Path::new(want))),
                None => assert!(found.is_err_and(|why| why.contains("absolute path")), "{configured}"),
            }
        }
    }

    #[test]
    fn the_usual_places() {
        for place in USUAL {
            let root = tempfile::tempdir().unwrap();
            let socket = root.path().join(place);
            std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
            std::fs::write(&socket, "").unwrap();
            assert!(find(None, root.path()).unwrap_err().contains("no socket"), "{place} is a file");
            std::fs::remove_file(&socket).unwrap();
            let _listener = UnixListener::bind(&socket).unwrap();
            assert_eq!(find(None, root.path()), Ok(socket));
        }
    }

    #[test]
    fn one_socket_at_two_places_is_one_and_two_are_not_chosen_from() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/containerd")).unwrap();
        std::fs::create_dir_all(root.path().join("var")).unwrap();
        std::os::unix::fs::symlink("../run", root.path().join("var/run")).unwrap();
        let containerd = root.path().join("run/containerd/containerd.sock");
        let _one = UnixListener::bind(&containerd).unwrap();
        assert_eq!(find(None, root.path()), Ok(containerd));

        let _other = UnixListener::bind(root.path().join("run/cri-dockerd.sock")).unwrap();
        let why = find(None, root.path()).unwrap_err();
        assert!(why.contains("more than one") && why.contains("run/cri-dockerd.sock"), "{why}");
    }
}
