//! Owners and permissions of rendered files, as the kubelet gives them to its own volumes.

use super::Owners;

/// What a file or directory of ours must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attr {
    /// Permission bits, including setgid.
    pub(super) mode: u32,
    /// User and group; `None` leaves them as they are.
    pub(super) owner: Option<(u32, u32)>,
}

/// Roots, `<namespace>/`, `<pod>/` and what lies between: secrecy comes from here.
pub(super) fn private_dir(owners: Owners) -> Attr {
    Attr { mode: 0o700, owner: owner(owners, None) }
}

/// Manifests.
pub(super) fn private_file(owners: Owners) -> Attr {
    Attr { mode: 0o600, owner: owner(owners, None) }
}

/// The mounted directory and all below it.
pub(super) fn tree_dir(owners: Owners, fs_group: Option<u32>) -> Attr {
    // Where the group can't be set, a setgid bit would hand an unrelated group on.
    let extra = match (fs_group, owners) {
        (None, _) => 0,
        (Some(_), Owners::Root) => 0o2550,
        (Some(_), Owners::Unchanged) => 0o550,
    };
    Attr { mode: 0o755 | extra, owner: owner(owners, fs_group) }
}

/// A file of a tree whose item asks for `mode`.
pub(super) fn tree_file(owners: Owners, mode: u32, fs_group: Option<u32>) -> Attr {
    let extra = if fs_group.is_some() { 0o440 } else { 0 };
    Attr { mode: (mode & 0o777) | extra, owner: owner(owners, fs_group) }
}

fn owner(owners: Owners, group: Option<u32>) -> Option<(u32, u32)> {
    match owners {
        Owners::Root => Some((0, group.unwrap_or(0))),
        Owners::Unchanged => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_the_kubelets_volumes() {
        use Owners::{Root, Unchanged};
        let table = |owners, group, mode| {
            let (dir, file) = (tree_dir(owners, group), tree_file(owners, mode, group));
            (dir.mode, dir.owner, file.mode, file.owner)
        };
        #[rustfmt::skip]
        let rows = [
            // owners, fsGroup, mode -> dir mode, dir owner, file mode, file owner
            (Root,      None,       0o644,  (0o755,  Some((0, 0)),    0o644, Some((0, 0)))),
            (Root,      None,       0o400,  (0o755,  Some((0, 0)),    0o400, Some((0, 0)))),
            (Root,      None,       0o0,    (0o755,  Some((0, 0)),    0o0,   Some((0, 0)))),
            (Root,      None,       0o4777, (0o755,  Some((0, 0)),    0o777, Some((0, 0)))),
            (Root,      Some(2000), 0o644,  (0o2755, Some((0, 2000)), 0o644, Some((0, 2000)))),
            (Root,      Some(2000), 0o400,  (0o2755, Some((0, 2000)), 0o440, Some((0, 2000)))),
            (Root,      Some(2000), 0o600,  (0o2755, Some((0, 2000)), 0o640, Some((0, 2000)))),
            (Unchanged, None,       0o600,  (0o755,  None,            0o600, None)),
            (Unchanged, Some(2000), 0o600,  (0o755,  None,            0o640, None)),
        ];
        for (owners, group, mode, want) in rows {
            assert_eq!(table(owners, group, mode), want, "{owners:?} {group:?} {mode:o}");
        }
        assert_eq!(private_dir(Root), Attr { mode: 0o700, owner: Some((0, 0)) });
        assert_eq!(private_file(Unchanged), Attr { mode: 0o600, owner: None });
    }
}
