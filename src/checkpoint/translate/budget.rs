//! How much one pod may make of the objects that it names. Naming costs little: a pod of a few kilobytes can mount one
//! ConfigMap a thousand times, or hand it to a thousand containers, and what is rendered for it shares memory and disks with
//! all other pods of the node.

use super::super::verdict::Reason;

/// Files in all volumes that are rendered for one pod. The secret root's mount unit has room for 65,536.
const FILES_MAX: usize = 16_384;
/// Their contents: half of what the secret root's mount unit has room for.
const FILES_MAX_BYTES: usize = 32 << 20;
/// The kubelet reads no larger manifest (`maxConfigLength` in `pkg/kubelet/config/file.go`).
pub(super) const MANIFEST_MAX_BYTES: usize = 10 << 20;
/// Bodies of objects, each as often as it is named: a pod must not keep the node busy with reading.
const READ_MAX_BYTES: usize = 256 << 20;

/// What a translation has used so far.
#[derive(Default)]
pub(super) struct Budget {
    files: usize,
    file_bytes: usize,
    variable_bytes: usize,
    read_bytes: usize,
    spent: bool,
}

impl Budget {
    /// Whether nothing more is to be had: the pod is refused already.
    pub(super) fn is_spent(&self) -> bool {
        self.spent
    }

    /// One more file; the reason to refuse the pod if that is too much.
    pub(super) fn file(&mut self, bytes: usize) -> Option<Reason> {
        self.files += 1;
        if self.files > FILES_MAX { self.over("more than 16384 files in its volumes") } else { self.contents(bytes) }
    }

    /// More contents for files.
    pub(super) fn contents(&mut self, bytes: usize) -> Option<Reason> {
        self.file_bytes = self.file_bytes.saturating_add(bytes);
        if self.file_bytes > FILES_MAX_BYTES { self.over("more than 32 MiB in the files of its volumes") } else { None }
    }

    /// One more variable, its name and value so long together.
    pub(super) fn variable(&mut self, bytes: usize) -> Option<Reason> {
        self.variable_bytes = self.variable_bytes.saturating_add(bytes);
        if self.variable_bytes > MANIFEST_MAX_BYTES { self.manifest() } else { None }
    }

    /// The manifest is larger than a kubelet reads.
    pub(super) fn manifest(&mut self) -> Option<Reason> {
        self.over("a manifest of more than 10 MiB, which no kubelet reads")
    }

    /// One more object, its body so long.
    pub(super) fn read(&mut self, bytes: usize) -> Option<Reason> {
        self.read_bytes = self.read_bytes.saturating_add(bytes);
        if self.read_bytes > READ_MAX_BYTES {
            return self.over("more than 256 MiB of ConfigMaps and Secrets to read, each as often as it is named");
        }
        None
    }

    /// Said once.
    fn over(&mut self, what: &'static str) -> Option<Reason> {
        let first = !self.spent;
        self.spent = true;
        first.then_some(Reason::TooLarge(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_over_a_limit_says_so_once() {
        type Use = fn(&mut Budget) -> Option<Reason>;
        #[rustfmt::skip]
        let rows: [(Use, usize, &str); 4] = [
            (|budget| budget.file(0),            FILES_MAX,                      "more than 16384 files in its volumes"),
            (|budget| budget.file(1 << 20),      32,                             "more than 32 MiB in the files of its volumes"),
            (|budget| budget.variable(1 << 20),  10,                             "a manifest of more than 10 MiB, which no kubelet reads"),
            (|budget| budget.read(1 << 20),      256,
                "more than 256 MiB of ConfigMaps and Secrets to read, each as often as it is named"),
        ];
        for (take, fine, want) in rows {
            let mut budget = Budget::default();
            assert!((0..fine).all(|_| take(&mut budget).is_none()) && !budget.is_spent(), "{want}");
            assert_eq!(take(&mut budget), Some(Reason::TooLarge(want)));
            assert!(budget.is_spent() && take(&mut budget).is_none(), "{want}");
        }
    }
}
