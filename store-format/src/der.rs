//! A strict reader and a small writer of DER (X.690), as far as private key files need it.
//!
//! The reader takes definite, minimal lengths and one-octet tags only. It never looks beyond the octets it was given,
//! and its errors name the rule, never the contents.

use crate::KeyError;

/// Tag octets (X.690 section 8.1.2) that occur in private keys.
pub(crate) mod tag {
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const NULL: u8 = 0x05;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const SEQUENCE: u8 = 0x30;
    /// `[1] IMPLICIT` of a primitive type.
    pub(crate) const CONTEXT_1: u8 = 0x81;
    /// `[0]` constructed.
    pub(crate) const CONTEXT_0_CONSTRUCTED: u8 = 0xa0;
    /// `[1]` constructed.
    pub(crate) const CONTEXT_1_CONSTRUCTED: u8 = 0xa1;
}

/// A position in DER octets.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts at the first of `octets`.
    pub(crate) const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// The single element of tag `tag` that `octets` consist of, from its contents on.
    pub(crate) fn only(octets: &'a [u8], tag: u8) -> Result<Self, KeyError> {
        let mut reader = Self::new(octets);
        let contents = reader.take(tag)?;
        reader.end()?;
        Ok(Self::new(contents))
    }

    /// The contents of the next element, which must have the tag `tag`.
    pub(crate) fn take(&mut self, tag: u8) -> Result<&'a [u8], KeyError> {
        let (&found, rest) = self.0.split_first().ok_or(KeyError::Der("an element is missing"))?;
        if found != tag {
            return Err(KeyError::Der("an element has an unexpected tag"));
        }
        let (len, rest) = length(rest)?;
        let (contents, rest) = rest.split_at_checked(len).ok_or(KeyError::Der("an element ends early"))?;
        self.0 = rest;
        Ok(contents)
    }

    /// The contents of the next element, if that has the tag `tag`.
    pub(crate) fn take_if(&mut self, tag: u8) -> Result<Option<&'a [u8]>, KeyError> {
        if self.0.first() == Some(&tag) { self.take(tag).map(Some) } else { Ok(None) }
    }

    /// The octets of a BIT STRING of whole octets.
    pub(crate) fn bit_string(&mut self) -> Result<&'a [u8], KeyError> {
        whole_octets(self.take(tag::BIT_STRING)?)
    }

    /// The contents of an INTEGER that is minimal and not negative: two's complement, so that a leading zero octet may
    /// be there for the sign.
    pub(crate) fn integer(&mut self) -> Result<&'a [u8], KeyError> {
        let contents = self.take(tag::INTEGER)?;
        match contents {
            [] => Err(KeyError::Der("an INTEGER is empty")),
            [0x80..=0xff, ..] => Err(KeyError::Der("an INTEGER is negative")),
            [0, 0..=0x7f, ..] => Err(KeyError::Der("an INTEGER is not minimal")),
            [..] => Ok(contents),
        }
    }

    /// An INTEGER of one octet, such as a version.
    pub(crate) fn small_integer(&mut self) -> Result<u8, KeyError> {
        match self.integer()? {
            &[value] => Ok(value),
            _ => Err(KeyError::Version),
        }
    }

    /// That nothing follows.
    pub(crate) fn end(self) -> Result<(), KeyError> {
        if self.0.is_empty() { Ok(()) } else { Err(KeyError::Der("octets follow the last element")) }
    }
}

/// The octets of a BIT STRING's contents, if no bits of the last one are unused.
pub(crate) fn whole_octets(contents: &[u8]) -> Result<&[u8], KeyError> {
    match contents {
        [0, octets @ ..] => Ok(octets),
        _ => Err(KeyError::Der("a BIT STRING is not of whole octets")),
    }
}

/// A length (X.690 section 10.1): definite, and in the fewest octets.
fn length(octets: &[u8]) -> Result<(usize, &[u8]), KeyError> {
    const WRONG: KeyError = KeyError::Der("a length is indefinite, not minimal or absurd");
    let (&first, rest) = octets.split_first().ok_or(KeyError::Der("an element has no length"))?;
    if first < 0x80 {
        return Ok((usize::from(first), rest));
    }
    // Three octets (16 MiB) are far beyond any key.
    let (value, rest) = match (first, rest) {
        (0x81, &[a, ref rest @ ..]) if a >= 0x80 => (usize::from(a), rest),
        (0x82, &[a, b, ref rest @ ..]) if a != 0 => (usize::from(u16::from_be_bytes([a, b])), rest),
        _ => return Err(WRONG),
    };
    Ok((value, rest))
}

/// Appends one element: tag, minimal length, the concatenation of `parts`.
pub(crate) fn element(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(tag);
    let octets = len.to_be_bytes();
    let leading = octets.iter().take_while(|octet| **octet == 0).count();
    let minimal = octets.get(leading..).unwrap_or_default();
    match minimal {
        [] => out.push(0),
        &[short @ 0..0x80] => out.push(short),
        long => {
            // A usize has at most eight octets.
            out.push(0x80 | long.len() as u8);
            out.extend_from_slice(long);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_definite_and_minimal() {
        let table: [(&[u8], Option<usize>); 11] = [
            (&[0x00], Some(0)),
            (&[0x7f], Some(127)),
            (&[0x80], None),
            (&[0x81, 0x7f], None),
            (&[0x81, 0x80], Some(128)),
            (&[0x81], None),
            (&[0x82, 0x00, 0xff], None),
            (&[0x82, 0x01, 0x00], Some(256)),
            (&[0x82, 0xff, 0xff], Some(65535)),
            (&[0x83, 0x01, 0x00, 0x00], None),
            (&[], None),
        ];
        for (octets, expected) in table {
            assert_eq!(length(octets).ok().map(|(len, _)| len), expected, "{octets:02x?}");
        }
    }

    #[test]
    fn integers_are_minimal_and_not_negative() {
        let table: [(&[u8], bool); 7] = [
            (&[2, 0], false),
            (&[2, 1, 0], true),
            (&[2, 1, 0x7f], true),
            (&[2, 1, 0x80], false),
            (&[2, 2, 0, 0x80], true),
            (&[2, 2, 0, 0x7f], false),
            (&[2, 2, 0, 0], false),
        ];
        for (octets, good) in table {
            assert_eq!(Reader::new(octets).integer().is_ok(), good, "{octets:02x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(len in prop_oneof![0usize..300, 65_500usize..65_536]) {
            let contents = vec![7; len];
            let mut der = Vec::new();
            element(&mut der, tag::OCTET_STRING, &[&contents]);
            let mut reader = Reader::new(&der);
            prop_assert_eq!(reader.take(tag::OCTET_STRING), Ok(contents.as_slice()));
            prop_assert!(reader.end().is_ok());
        }
    }
}
