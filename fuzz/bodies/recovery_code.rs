//! The text of a recovery code, as people copy it: any octets, and a sound code with slips of the pen.

use std::error::Error as _;

use ckpt_db::crypto::sha256;
use ckpt_db::keys::{HeldError, read_recovery_code, recovery_code};
use store_format::{RECOVERY_CODE_BYTES, RecoveryCodeError, recovery_code_text};

use super::Input;

/// What a code is written with, by value.
const SYMBOLS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Symbols before the checksum.
const CODE_SYMBOLS: usize = 32;

/// The target's body.
pub fn run(octets: &[u8]) {
    any_text(octets);
    a_slip_of_the_pen(octets);
}

fn any_text(octets: &[u8]) {
    match read_recovery_code("it", &mut &*octets) {
        Ok(secret) => {
            let code: [u8; RECOVERY_CODE_BYTES] = secret.expose().try_into().unwrap();
            let text = std::str::from_utf8(octets).unwrap();
            // Whoever reads a code aloud, or types it, means one code.
            assert_eq!(meant(text), meant(&recovery_code_text(&code, sha256)));
        }
        Err(error) => refused(&error),
    }
}

/// A code as it is written, then changed: only what still means the same is taken for it.
fn a_slip_of_the_pen(octets: &[u8]) {
    let mut input = Input(octets);
    let mut code = [0; RECOVERY_CODE_BYTES];
    for octet in &mut code {
        *octet = input.octet();
    }
    let text = recovery_code_text(&code, sha256);
    let mut symbols: Vec<u8> = text.bytes().collect();
    while !input.is_empty() {
        let at = usize::from(input.octet()) % (symbols.len() + 1);
        match input.octet() {
            0..=31 if at < symbols.len() => symbols[at] = SYMBOLS[usize::from(input.octet()) % SYMBOLS.len()],
            32..=63 if at < symbols.len() => symbols[at] = symbols[at].to_ascii_lowercase(),
            64..=95 => symbols.insert(at, b'-'),
            96..=127 => symbols.insert(at, b' '),
            128..=159 if at < symbols.len() => drop(symbols.remove(at)),
            160..=191 if at + 1 < symbols.len() => symbols.swap(at, at + 1),
            192..=223 if at < symbols.len() && symbols[at] == b'0' => symbols[at] = b'o',
            224..=255 if at < symbols.len() && symbols[at] == b'1' => symbols[at] = b'l',
            _ => {}
        }
    }
    let changed = String::from_utf8(symbols).unwrap();
    let (was, is) = (meant(&text), meant(&changed));
    match recovery_code("it", &changed) {
        Ok(secret) if was == is => assert_eq!(secret.expose(), code),
        // Twenty bits of checksum let one slip in a million pass: as another code, never as this one.
        Ok(secret) => assert!(secret.expose() != code && was[..CODE_SYMBOLS] != is[..CODE_SYMBOLS], "{changed}"),
        Err(error) => {
            assert_ne!(was, is, "{changed}");
            refused(&error);
        }
    }
}

/// The symbols that somebody means who wrote this, by the rules of `SPEC.md`.
fn meant(text: &str) -> Vec<char> {
    let read = |symbol: char| match symbol.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        other => other,
    };
    text.chars().filter(|symbol| *symbol != '-' && !symbol.is_whitespace()).map(read).collect()
}

/// It says why, in words of its own.
fn refused(error: &HeldError) {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    for message in [&error.to_string(), &source] {
        super::assert_shown(message);
    }
    let numberless: String = source.chars().filter(|symbol| !symbol.is_ascii_digit()).collect();
    let known = match error {
        HeldError::NoCode(_) => source.is_empty(),
        HeldError::Code { source: RecoveryCodeError::Symbol { .. }, .. } => {
            numberless == "character  is none that a recovery code has (digits, and letters without U)"
        }
        HeldError::Code { source: RecoveryCodeError::Length { .. }, .. } => {
            numberless == "a recovery code has  characters in  groups, this has "
        }
        HeldError::Code { source: RecoveryCodeError::Checksum, .. } => numberless.ends_with("does not match"),
        HeldError::Read { .. } => true,
        _ => false,
    };
    assert!(known, "{error}: {source}");
}
