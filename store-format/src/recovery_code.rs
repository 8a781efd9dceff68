//! Recovery codes as people write them: 20 octets as 32 symbols, and 4 symbols that tell a slip of the pen.
//!
//! Base 32 with the symbols of Crockford (<https://www.crockford.com/base32.html>), the first octet's highest bit first. The
//! checksum is the first 20 bits of SHA-256 over [`recovery_code_checksum_input`]. It keeps typing errors from being taken for
//! a wrong code, and protects nothing.

use zeroize::Zeroizing;

use crate::RECOVERY_CODE_BYTES;
use crate::fields::Fields;

/// Symbols of five bits each, by their value.
const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Symbols that hold the octets: 160 bits.
const CODE_SYMBOLS: usize = 32;
/// Symbols that hold the checksum: 20 bits.
const CHECKSUM_SYMBOLS: usize = 4;
/// Symbols of a group.
const GROUP: usize = 4;

/// Why a text is no recovery code. No variant carries anything of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryCodeError {
    /// A character that is no symbol.
    #[error("character {position} is none that a recovery code has (digits, and letters without U)")]
    Symbol {
        /// Which one, counted from 1; hyphens and white space count.
        position: usize,
    },
    /// Not 36 symbols.
    #[error("a recovery code has 36 characters in 9 groups, this has {found}")]
    Length {
        /// How many symbols there are.
        found: usize,
    },
    /// The checksum does not match.
    #[error("a character of the recovery code is wrong, or two have changed places: its checksum does not match")]
    Checksum,
}

impl RecoveryCodeError {
    /// The stable name of the broken rule, as `SPEC.md` and the vectors name it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Symbol { .. } => "recovery-code.symbol",
            Self::Length { .. } => "recovery-code.length",
            Self::Checksum => "recovery-code.checksum",
        }
    }
}

/// What the checksum of a recovery code is the SHA-256 of.
#[must_use]
pub fn recovery_code_checksum_input(octets: &[u8; RECOVERY_CODE_BYTES]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Fields::with_capacity(64).push(b"ckpt-db recovery code 1").push(octets).finish())
}

/// The text of a recovery code: nine groups of four symbols, with hyphens between. `sha256` is that hash.
#[must_use]
pub fn recovery_code_text(octets: &[u8; RECOVERY_CODE_BYTES], sha256: impl Fn(&[u8]) -> [u8; 32]) -> Zeroizing<String> {
    let checksum = sha256(&recovery_code_checksum_input(octets));
    let bits = |octets: &[u8], first: usize| {
        let bit = |at: usize| octets.get(at / 8).map_or(0, |octet| usize::from(octet >> (7 - at % 8) & 1));
        (first..first + 5).fold(0, |value, at| value << 1 | bit(at))
    };
    let code = (0..CODE_SYMBOLS).map(|symbol| bits(octets, 5 * symbol));
    let check = (0..CHECKSUM_SYMBOLS).map(|symbol| bits(&checksum, 5 * symbol));
    // All room at once, so that no part of the code is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(2 * (CODE_SYMBOLS + CHECKSUM_SYMBOLS)));
    for (at, value) in code.chain(check).enumerate() {
        if at > 0 && at % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(SYMBOLS[value]));
    }
    text
}

/// The octets of a recovery code. Case does not matter, nor do hyphens and white space; I and L are read as 1, O as 0.
/// `sha256` is that hash.
///
/// # Errors
/// `recovery-code.*`: a slip in typing or copying.
pub fn recovery_code_octets(
    text: &str,
    sha256: impl Fn(&[u8]) -> [u8; 32],
) -> Result<Zeroizing<[u8; RECOVERY_CODE_BYTES]>, RecoveryCodeError> {
    let mut octets = Zeroizing::new([0; RECOVERY_CODE_BYTES]);
    let mut checksum = 0_u32;
    let mut found = 0;
    for (index, character) in text.chars().enumerate() {
        if character == '-' || character.is_whitespace() {
            continue;
        }
        let value = value_of(character).ok_or(RecoveryCodeError::Symbol { position: index + 1 })?;
        if found < CODE_SYMBOLS {
            for bit in 0..5 {
                let at = 5 * found + bit;
                octets[at / 8] |= (value >> (4 - bit) & 1) << (7 - at % 8);
            }
        } else {
            checksum = checksum << 5 | u32::from(value);
        }
        found += 1;
    }
    if found != CODE_SYMBOLS + CHECKSUM_SYMBOLS {
        return Err(RecoveryCodeError::Length { found });
    }
    let [first, second, third, ..] = sha256(&recovery_code_checksum_input(&octets));
    let expected = u32::from_be_bytes([0, first, second, third]) >> 4;
    if checksum == expected { Ok(octets) } else { Err(RecoveryCodeError::Checksum) }
}

fn value_of(character: char) -> Option<u8> {
    let symbol = match character.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        other => other,
    };
    SYMBOLS.iter().position(|known| char::from(*known) == symbol).and_then(|value| u8::try_from(value).ok())
}
