//! Length-prefixed field lists: the unambiguous input of digests, tags, associated data and key derivation.
//!
//! Each field is its length in octets as an unsigned 64-bit little-endian integer, then the octets. Two different lists of
//! the same number of fields never give the same bytes, which plain concatenation would allow.

/// A field list under construction.
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    /// Starts a list with room for `capacity` octets.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Appends one field.
    pub(crate) fn push(mut self, field: &[u8]) -> Self {
        self = self.start(field.len());
        self.0.extend_from_slice(field);
        self
    }

    /// Appends the length of a field whose octets the caller appends.
    pub(crate) fn start(mut self, octets: usize) -> Self {
        self.0.extend_from_slice(&(octets as u64).to_le_bytes());
        self
    }

    /// The list's bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Fields;

    #[test]
    fn a_field_is_its_length_and_its_octets() {
        let bytes = Fields::with_capacity(0).push(b"ab").push(b"").push(b"c").finish();
        assert_eq!(bytes, b"\x02\0\0\0\0\0\0\0ab\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0c");
    }
}
