//! The bytes of a manifest: canonical JSON, so that the same pod never restarts for a difference that means nothing.

use std::io::{self, Write};

use super::super::json::ClearTree;
use crate::clear::Clear;

/// Sorted keys at every level, two spaces of indentation, one trailing newline. The tree is wiped afterwards.
pub(super) fn bytes(mut tree: ClearTree) -> Clear {
    tree.0.sort_all_objects();
    let mut length = Length(0);
    serde_json::to_writer_pretty(&mut length, &tree.0)
        .expect("a tree with text keys serialises, and counting can't fail");
    // Sized at once: a growing buffer would leave parts of a secret behind.
    let mut bytes = Vec::with_capacity(length.0 + 1);
    serde_json::to_writer_pretty(&mut bytes, &tree.0).expect("a tree with text keys serialises into memory");
    bytes.push(b'\n');
    Clear::new(bytes)
}

struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_a_newline_ends_it() {
        let bytes = bytes(ClearTree(json!({"b": [{"z": 1, "a": 2}], "a": "x"})));
        let want = "{\n  \"a\": \"x\",\n  \"b\": [\n    {\n      \"a\": 2,\n      \"z\": 1\n    }\n  ]\n}\n";
        assert_eq!(bytes.expose(), want.as_bytes());
    }
}
