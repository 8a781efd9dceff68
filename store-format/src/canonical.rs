//! The canonical secret of a node's private key, the same for every encoding of one key.
//!
//! A kubelet key may lie on disk as SEC1 (RFC 5915), PKCS#8 (RFC 5208, RFC 5958) or PKCS#1 (RFC 8017); tools convert between
//! them. A key slot must open with any, so that the wrapping key is derived from these octets and not from the file:
//!
//! - EC: the DER element of the curve's object identifier (tag, length, contents), then the scalar as a big-endian integer
//!   of the field's size (32 or 48 octets);
//! - RSA: the RSAPrivateKey of RFC 8017 in DER, version 0, with its nine integers minimal;
//! - Ed25519: the 32 octets of the seed (RFC 8032).

use zeroize::Zeroizing;

use crate::der::{Reader, element, tag, whole_octets};

/// Contents of the object identifier `rsaEncryption`, 1.2.840.113549.1.1.1.
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// Contents of `id-ecPublicKey`, 1.2.840.10045.2.1.
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// Contents of `secp256r1`, 1.2.840.10045.3.1.7.
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// Contents of `secp384r1`, 1.3.132.0.34.
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
/// Contents of `id-Ed25519`, 1.3.101.112.
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// The shortest RSA modulus taken, in bits.
const RSA_MIN_BITS: usize = 2048;
/// Length of an Ed25519 seed, and of its public key.
const ED25519_BYTES: usize = 32;

/// Order of the group of P-256 (FIPS 186-4 D.1.2.3), big-endian.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, //
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// Order of the group of P-384 (FIPS 186-4 D.1.2.4), big-endian.
const P384_ORDER: [u8; 48] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, //
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf, //
    0x58, 0x1a, 0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a, 0xcc, 0xc5, 0x29, 0x73,
];

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on NIST P-256, what kubelets make.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// RSA of at least 2048 bits.
    Rsa,
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// The name users know.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Rsa => "RSA",
            Self::Ed25519 => "Ed25519",
        }
    }
}

/// Why a private key can't be used. No variant carries anything of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not DER, or not the elements of this kind of key.
    #[error("the private key is not valid DER: {0}")]
    Der(&'static str),
    /// A version number that the standard does not define for this content.
    #[error("the private key has an unknown version, or content that does not belong to its version")]
    Version,
    /// Neither EC nor RSA nor Ed25519.
    #[error("the private key is of an unsupported algorithm; use an ECDSA, RSA or Ed25519 key")]
    UnsupportedAlgorithm,
    /// An EC key on another curve, or one that does not say on which.
    #[error("the EC private key is not on a named curve that is supported; use P-256 or P-384")]
    UnsupportedCurve,
    /// The algorithm's parameters are not what the standard prescribes.
    #[error("the private key's algorithm has parameters that it must not have")]
    Parameters,
    /// The scalar of an EC key is zero, or not less than the order of the group.
    #[error("the EC private key is out of range; the file is damaged")]
    ScalarRange,
    /// A number of an RSA key is zero.
    #[error("a number of the RSA private key is zero; the file is damaged")]
    RsaZero,
    /// An RSA modulus below 2048 bits.
    #[error("the RSA private key has {bits} bits; at least 2048 are needed")]
    RsaBits {
        /// Length of the modulus.
        bits: usize,
    },
    /// An RSA key of more than two primes.
    #[error("the RSA private key has more than two primes, which is not supported")]
    RsaMultiPrime,
    /// An Ed25519 seed or public key that is not 32 octets.
    #[error("the Ed25519 key does not have 32 octets; the file is damaged")]
    Ed25519Length,
    /// The same fact is stated twice, differently.
    #[error("the private key states its curve or its public key twice, and differently; the file is damaged")]
    Contradiction,
    /// The public key of an EC key is not a point encoding of its curve.
    #[error("the EC private key comes with a public key that is not a point of its curve's size; the file is damaged")]
    Point,
}

impl KeyError {
    /// The stable name of the broken rule, as `SPEC.md` and the vectors name it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Der(_) => "key.der",
            Self::Version => "key.version",
            Self::UnsupportedAlgorithm => "key.algorithm",
            Self::UnsupportedCurve => "key.curve",
            Self::Parameters => "key.parameters",
            Self::ScalarRange => "key.scalar",
            Self::RsaZero => "key.rsa_zero",
            Self::RsaBits { .. } => "key.rsa_bits",
            Self::RsaMultiPrime => "key.rsa_primes",
            Self::Ed25519Length => "key.ed25519_length",
            Self::Contradiction => "key.contradiction",
            Self::Point => "key.point",
        }
    }
}

/// A private key in canonical form. Wiped on drop; neither printable nor comparable.
#[derive(Clone)]
pub struct NodeSecret {
    algorithm: Algorithm,
    canonical: Zeroizing<Vec<u8>>,
    public_spki: Option<Vec<u8>>,
}

impl NodeSecret {
    /// Reads an ECPrivateKey (RFC 5915), the contents of a PEM section `EC PRIVATE KEY`.
    ///
    /// # Errors
    /// `key.*`: see `SPEC.md`.
    pub fn from_sec1(der: &[u8]) -> Result<Self, KeyError> {
        ec(der, None, None)
    }

    /// Reads a PrivateKeyInfo (RFC 5208) or OneAsymmetricKey (RFC 5958), the contents of a PEM section `PRIVATE KEY`.
    ///
    /// # Errors
    /// `key.*`: see `SPEC.md`.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let mut key = Reader::only(der, tag::SEQUENCE)?;
        let version = key.small_integer()?;
        let mut algorithm = Reader::new(key.take(tag::SEQUENCE)?);
        let private = key.take(tag::OCTET_STRING)?;
        // Attributes are for the user of the file; they are not part of the key.
        let _attributes = key.take_if(tag::CONTEXT_0_CONSTRUCTED)?;
        let public = outer_public(&mut key)?;
        key.end()?;
        match (version, public) {
            (0, None) | (1, _) => {}
            _ => return Err(KeyError::Version),
        }

        match algorithm.take(tag::OID)? {
            OID_EC => {
                let curve = Curve::named(&mut algorithm)?;
                algorithm.end()?;
                ec(private, Some(curve), public)
            }
            OID_RSA => {
                // RFC 8017 appendix A.1 prescribes NULL; some writers leave it out.
                if algorithm.take_if(tag::NULL)?.is_some_and(|null| !null.is_empty()) || algorithm.end().is_err() {
                    return Err(KeyError::Parameters);
                }
                Self::from_pkcs1(private)
            }
            OID_ED25519 => {
                algorithm.end().map_err(|_| KeyError::Parameters)?;
                ed25519(private, public)
            }
            _ => Err(KeyError::UnsupportedAlgorithm),
        }
    }

    /// Reads an RSAPrivateKey (RFC 8017), the contents of a PEM section `RSA PRIVATE KEY`.
    ///
    /// # Errors
    /// `key.*`: see `SPEC.md`.
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let mut key = Reader::only(der, tag::SEQUENCE)?;
        match key.small_integer()? {
            0 => {}
            1 => return Err(KeyError::RsaMultiPrime),
            _ => return Err(KeyError::Version),
        }
        // n, e, d, p, q, d mod (p-1), d mod (q-1), the inverse of q mod p.
        let mut numbers: [&[u8]; 8] = [&[]; 8];
        for number in &mut numbers {
            *number = key.integer()?;
            if *number == [0] {
                return Err(KeyError::RsaZero);
            }
        }
        key.end()?;
        let [modulus, exponent, ..] = numbers;
        let bits = bit_len(modulus);
        if bits < RSA_MIN_BITS {
            return Err(KeyError::RsaBits { bits });
        }

        let mut public_key = Vec::new();
        element(&mut public_key, tag::INTEGER, &[modulus]);
        element(&mut public_key, tag::INTEGER, &[exponent]);
        let mut sequence = Vec::new();
        element(&mut sequence, tag::SEQUENCE, &[&public_key]);

        // All room at once, so that no half-filled copy of the key is left behind by growing.
        let mut fields = Zeroizing::new(Vec::with_capacity(der.len()));
        element(&mut fields, tag::INTEGER, &[&[0]]);
        for number in numbers {
            element(&mut fields, tag::INTEGER, &[number]);
        }
        let mut canonical = Zeroizing::new(Vec::with_capacity(der.len() + 16));
        element(&mut canonical, tag::SEQUENCE, &[&fields]);
        Ok(Self {
            algorithm: Algorithm::Rsa,
            canonical,
            public_spki: Some(spki(OID_RSA, Some((tag::NULL, &[])), &sequence)),
        })
    }

    /// Takes [`Self::canonical`] octets back, as a key of `algorithm`. Its public part is filled in with
    /// [`Self::with_public_spki`], but for RSA, where it follows.
    ///
    /// # Errors
    /// They are not what [`Self::canonical`] gives of such a key.
    pub fn from_canonical(algorithm: Algorithm, octets: &[u8]) -> Result<Self, KeyError> {
        let curve = match algorithm {
            Algorithm::P256 => Curve::P256,
            Algorithm::P384 => Curve::P384,
            Algorithm::Rsa => return Self::from_pkcs1(octets),
            Algorithm::Ed25519 if octets.len() == ED25519_BYTES => {
                return Ok(Self { algorithm, canonical: Zeroizing::new(octets.to_vec()), public_spki: None });
            }
            Algorithm::Ed25519 => return Err(KeyError::Ed25519Length),
        };
        let mut head = Vec::new();
        element(&mut head, tag::OID, &[curve.oid()]);
        let scalar = octets.strip_prefix(head.as_slice()).ok_or(KeyError::UnsupportedCurve)?;
        let order = curve.order();
        if scalar.len() != order.len() || scalar >= order || scalar.iter().all(|octet| *octet == 0) {
            return Err(KeyError::ScalarRange);
        }
        Ok(Self { algorithm, canonical: Zeroizing::new(octets.to_vec()), public_spki: None })
    }

    /// Fills in the SubjectPublicKeyInfo (DER) where the key did not bring its own, e.g. from the certificate beside it.
    #[must_use]
    pub fn with_public_spki(mut self, spki: &[u8]) -> Self {
        self.public_spki.get_or_insert_with(|| spki.to_vec());
        self
    }

    /// What the key is for.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The canonical octets: input key material of the slot's key derivation. Secret.
    #[must_use]
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// The SubjectPublicKeyInfo in DER, whose SHA-256 is the fingerprint; absent where the key came without its public
    /// part (or with an EC point in another form than uncompressed) and none was filled in.
    #[must_use]
    pub fn public_spki(&self) -> Option<&[u8]> {
        self.public_spki.as_deref()
    }
}

/// A supported curve.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    /// The curve that ECParameters (RFC 5480 section 2.1.1) name.
    fn named(parameters: &mut Reader<'_>) -> Result<Self, KeyError> {
        // Curves spelled out, or inherited from elsewhere, have other tags than an object identifier.
        match parameters.take_if(tag::OID)? {
            Some(OID_P256) => Ok(Self::P256),
            Some(OID_P384) => Ok(Self::P384),
            Some(_) | None => Err(KeyError::UnsupportedCurve),
        }
    }

    const fn algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::P256,
            Self::P384 => Algorithm::P384,
        }
    }

    const fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => OID_P256,
            Self::P384 => OID_P384,
        }
    }

    const fn order(self) -> &'static [u8] {
        match self {
            Self::P256 => &P256_ORDER,
            Self::P384 => &P384_ORDER,
        }
    }
}

/// An ECPrivateKey, with what a PKCS#8 wrapper says about it.
fn ec(der: &[u8], outer_curve: Option<Curve>, outer_point: Option<&[u8]>) -> Result<NodeSecret, KeyError> {
    let mut key = Reader::only(der, tag::SEQUENCE)?;
    if key.small_integer()? != 1 {
        return Err(KeyError::Version);
    }
    let scalar = key.take(tag::OCTET_STRING)?;
    let inner_curve = match key.take_if(tag::CONTEXT_0_CONSTRUCTED)? {
        Some(parameters) => {
            let mut parameters = Reader::new(parameters);
            let curve = Curve::named(&mut parameters)?;
            parameters.end()?;
            Some(curve)
        }
        None => None,
    };
    let inner_point = match key.take_if(tag::CONTEXT_1_CONSTRUCTED)? {
        Some(public) => {
            let mut public = Reader::new(public);
            let point = public.bit_string()?;
            public.end()?;
            Some(point)
        }
        None => None,
    };
    key.end()?;

    let curve = one_of(outer_curve, inner_curve)?.ok_or(KeyError::UnsupportedCurve)?;
    let scalar = minimal(scalar);
    let order = curve.order();
    // How long this takes tells at most that the key is longer than any key may be.
    if scalar.is_empty() || scalar.len() > order.len() || (scalar.len() == order.len() && scalar >= order) {
        return Err(KeyError::ScalarRange);
    }
    let point = match one_of(outer_point, inner_point)? {
        Some(point @ [4, ..]) if point.len() == 1 + 2 * order.len() => Some(point),
        // A compressed point is right, but its other coordinate is not known here.
        Some(&[2 | 3, ref x @ ..]) if x.len() == order.len() => None,
        Some(_) => return Err(KeyError::Point),
        None => None,
    };

    let mut canonical = Zeroizing::new(Vec::with_capacity(2 + curve.oid().len() + order.len()));
    element(&mut canonical, tag::OID, &[curve.oid()]);
    let padded = canonical.len() + order.len() - scalar.len();
    canonical.resize(padded, 0);
    canonical.extend_from_slice(scalar);
    Ok(NodeSecret {
        algorithm: curve.algorithm(),
        canonical,
        public_spki: point.map(|point| spki(OID_EC, Some((tag::OID, curve.oid())), point)),
    })
}

/// A CurvePrivateKey (RFC 8410) of Ed25519.
fn ed25519(private: &[u8], public: Option<&[u8]>) -> Result<NodeSecret, KeyError> {
    let mut key = Reader::new(private);
    let seed = key.take(tag::OCTET_STRING)?;
    key.end()?;
    if seed.len() != ED25519_BYTES || public.is_some_and(|public| public.len() != ED25519_BYTES) {
        return Err(KeyError::Ed25519Length);
    }
    Ok(NodeSecret {
        algorithm: Algorithm::Ed25519,
        canonical: Zeroizing::new(seed.to_vec()),
        public_spki: public.map(|public| spki(OID_ED25519, None, public)),
    })
}

/// The public key at the end of a OneAsymmetricKey: `[1]` implicit, as RFC 5958 says, or explicit, as ring once wrote.
fn outer_public<'a>(key: &mut Reader<'a>) -> Result<Option<&'a [u8]>, KeyError> {
    if let Some(contents) = key.take_if(tag::CONTEXT_1)? {
        return whole_octets(contents).map(Some);
    }
    let Some(contents) = key.take_if(tag::CONTEXT_1_CONSTRUCTED)? else { return Ok(None) };
    let mut explicit = Reader::new(contents);
    let public = explicit.bit_string()?;
    explicit.end()?;
    Ok(Some(public))
}

/// What two places say, if they don't contradict each other.
fn one_of<T: PartialEq>(outer: Option<T>, inner: Option<T>) -> Result<Option<T>, KeyError> {
    match (outer, inner) {
        (Some(outer), Some(inner)) if outer != inner => Err(KeyError::Contradiction),
        (outer, inner) => Ok(outer.or(inner)),
    }
}

/// A SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
fn spki(oid: &[u8], parameters: Option<(u8, &[u8])>, public: &[u8]) -> Vec<u8> {
    let mut fields = Vec::new();
    element(&mut fields, tag::OID, &[oid]);
    if let Some((tag, contents)) = parameters {
        element(&mut fields, tag, &[contents]);
    }
    let mut contents = Vec::new();
    element(&mut contents, tag::SEQUENCE, &[&fields]);
    element(&mut contents, tag::BIT_STRING, &[&[0], public]);
    let mut der = Vec::new();
    element(&mut der, tag::SEQUENCE, &[&contents]);
    der
}

/// A big-endian number without leading zero octets.
fn minimal(number: &[u8]) -> &[u8] {
    let leading = number.iter().take_while(|octet| **octet == 0).count();
    number.get(leading..).unwrap_or_default()
}

/// How many bits a big-endian number has.
fn bit_len(number: &[u8]) -> usize {
    match minimal(number) {
        [] => 0,
        [first, rest @ ..] => 8 * rest.len() + (8 - first.leading_zeros() as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ed25519 key of version 0: seed only.
    const WITHOUT_PUBLIC: &[u8] = &[
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20, 1, 2, 3, 4, 5,
        6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
    ];

    #[test]
    fn a_missing_public_part_can_be_filled_in_once() {
        let secret = NodeSecret::from_pkcs8(WITHOUT_PUBLIC).unwrap();
        assert_eq!(secret.public_spki(), None);
        let secret = secret.with_public_spki(b"from the certificate");
        assert_eq!(secret.public_spki(), Some(b"from the certificate".as_slice()));
        // The key's own part goes before what somebody says about it.
        assert_eq!(secret.with_public_spki(b"another").public_spki(), Some(b"from the certificate".as_slice()));
    }

    #[test]
    fn canonical_octets_are_taken_back() {
        let p256 = [&[0x06, 0x08][..], OID_P256, &[1; 32]].concat();
        let p384 = [&[0x06, 0x05][..], OID_P384, &[1; 48]].concat();
        let order = [&[0x06, 0x08][..], OID_P256, &P256_ORDER].concat();
        let zero = [&[0x06, 0x08][..], OID_P256, &[0; 32]].concat();
        #[rustfmt::skip]
        let rows: [(Algorithm, &[u8], bool); 12] = [
            (Algorithm::P256,    &p256,        true),
            (Algorithm::P384,    &p384,        true),
            (Algorithm::Ed25519, &[7; 32],     true),
            (Algorithm::P256,    &p384,        false),
            (Algorithm::P384,    &p256,        false),
            (Algorithm::P256,    &p256[..41],  false),
            (Algorithm::P256,    &order,       false),
            (Algorithm::P256,    &zero,        false),
            (Algorithm::P256,    &[],          false),
            (Algorithm::Ed25519, &[7; 31],     false),
            (Algorithm::Ed25519, &[],          false),
            (Algorithm::Rsa,     &p256,        false),
        ];
        for (algorithm, octets, fits) in rows {
            let found = NodeSecret::from_canonical(algorithm, octets);
            assert_eq!(found.is_ok(), fits, "{algorithm:?} {octets:02x?}");
            if let Ok(secret) = found {
                assert_eq!((secret.algorithm(), secret.canonical()), (algorithm, octets));
            }
        }
    }

    #[test]
    fn bits_of_a_number() {
        let table: [(&[u8], usize); 6] =
            [(&[], 0), (&[0, 0], 0), (&[1], 1), (&[0, 0x80], 8), (&[1, 0], 9), (&[0x7f, 0xff], 15)];
        for (number, bits) in table {
            assert_eq!(bit_len(number), bits, "{number:02x?}");
        }
    }
}
