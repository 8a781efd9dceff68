//! The public key in a certificate, for key files whose private key lies there without its public part.
//!
//! Nothing is verified: the certificate stands in the same file as the key, and the kubelet refuses a pair that does not
//! match. What is read here only names a key slot; it opens nothing.

/// DER tags (X.690): of a SEQUENCE, and of the explicit `[0]` that holds a certificate's version.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The SubjectPublicKeyInfo of a certificate, as it stands there (RFC 5280, section 4.1); `None` if `der` is none.
pub(super) fn public_key_info(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(der)?;
    let (fields, _) = element(certificate.of(SEQUENCE)?)?;
    let mut rest = fields.of(SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.1;
    }
    // serialNumber, signature, issuer, validity, subject
    for _ in 0..5 {
        rest = element(rest)?.1;
    }
    let (info, _) = element(rest)?;
    info.of(SEQUENCE)?;
    Some(info.whole)
}

struct Element<'a> {
    whole: &'a [u8],
    contents: &'a [u8],
}

impl<'a> Element<'a> {
    fn of(&self, tag: u8) -> Option<&'a [u8]> {
        (self.whole.first() == Some(&tag)).then_some(self.contents)
    }
}

/// The first element of `der`, and what follows it.
fn element(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&[_, short], _) = der.split_first_chunk::<2>()?;
    let (start, len) = match short {
        0..=0x7f => (2, usize::from(short)),
        0x81..=0x83 => {
            let octets = usize::from(short & 0x7f);
            let len = der.get(2..2 + octets)?.iter().fold(0, |len, &octet| len << 8 | usize::from(octet));
            (2 + octets, len)
        }
        // No length, or one that no certificate has.
        _ => return None,
    };
    let whole = der.get(..start + len)?;
    Some((Element { whole, contents: &whole[start..] }, &der[start + len..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_has_no_key() {
        // SEQUENCE { SEQUENCE { [0] {}, five NULLs, SEQUENCE { NULL } } }
        let der = b"\x30\x12\x30\x10\xa0\x00\x05\x00\x05\x00\x05\x00\x05\x00\x05\x00\x30\x02\x05\x00";
        assert_eq!(public_key_info(der), Some(&b"\x30\x02\x05\x00"[..]));
        for len in 0..der.len() {
            assert_eq!(public_key_info(&der[..len]), None, "{len}");
        }
        for at in [0, 2, 16] {
            let mut other = der.to_vec();
            other[at] = 0x31;
            assert_eq!(public_key_info(&other), None, "{at}");
        }
        assert_eq!(public_key_info(b"\x30\x84\xff\xff\xff\xff"), None);
        assert_eq!(public_key_info(b"\x30\x83\xff\xff\xff"), None);
        assert_eq!(public_key_info(b"\x30\x80\x00\x00"), None);
    }
}
