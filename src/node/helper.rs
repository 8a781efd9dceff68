//! Whether a program can run where there is nothing but itself: the helper that writes the env files of copies.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Component, Path};

use crate::checkpoint::env_file::NoHelper;

/// The program at `path` as a helper: absolute, executable for every user, and linked statically.
///
/// # Errors
/// What stands in its way.
pub fn look(path: &Path) -> Result<String, NoHelper> {
    let text = named(path)?;
    let cannot =
        |error: &io::Error| NoHelper::Unusable(format!("{text} can't be read as the program that writes it: {error}"));
    let metadata = std::fs::metadata(path).map_err(|error| cannot(&error))?;
    // The container may have any user, and a directory that is closed to it does not matter: a mount steps over it.
    if !metadata.is_file() || metadata.mode() & 0o001 == 0 {
        return Err(NoHelper::Unusable(format!("{text} is no program that every user may run")));
    }
    let file = File::open(path).map_err(|error| cannot(&error))?;
    match wants_interpreter(|buffer, at| file.read_exact_at(buffer, at)) {
        Ok(false) => Ok(text),
        Ok(true) => Err(NoHelper::NotStatic),
        Err(error) => Err(cannot(&error)),
    }
}

/// The program at a path of the node that can't be looked at from here.
///
/// # Errors
/// The path is none that a manifest can name.
pub fn named(path: &Path) -> Result<String, NoHelper> {
    let fine = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    match path.to_str() {
        Some(text) if fine => Ok(text.to_owned()),
        Some(_) | None => {
            Err(NoHelper::Unusable(format!("{} is no absolute path without '..' in UTF-8", path.display())))
        }
    }
}

/// Whether an ELF file names a dynamic loader (`PT_INTERP`); position-independent static programs don't (elf(5)).
fn wants_interpreter(read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<bool> {
    const PT_INTERP: u64 = 3;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "it is no ELF file");
    let mut ident = [0; 16];
    read(&mut ident, 0)?;
    let (wide, little) = match &ident {
        [0x7f, b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2), ..] => (*class == 2, *order == 1),
        _ => return Err(bad()),
    };
    let number = |at: u64, len: usize| -> io::Result<u64> {
        let mut bytes = [0; 8];
        read(&mut bytes[..len], at)?;
        if !little {
            bytes[..len].reverse();
        }
        Ok(u64::from_le_bytes(bytes))
    };
    // e_phoff, e_phentsize, e_phnum
    let (table, size, count) = if wide {
        (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?)
    } else {
        (number(0x1c, 4)?, number(0x2a, 2)?, number(0x2c, 2)?)
    };
    for index in 0..count {
        let at = table.checked_add(index * size).ok_or_else(bad)?;
        if number(at, 4)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A header and program headers of these types.
    fn elf(wide: bool, little: bool, types: &[u32]) -> Vec<u8> {
        let size = if wide { 56 } else { 32 };
        let header = if wide { 64 } else { 52 };
        let mut bytes = vec![0; header + size * types.len()];
        let mut put = |at: usize, len: usize, number: u64| {
            let le = number.to_le_bytes();
            let mut field = le[..len].to_vec();
            if !little {
                field.reverse();
            }
            bytes[at..at + len].copy_from_slice(&field);
        };
        let (table, entry, count, word) = if wide { (0x20, 0x36, 0x38, 8) } else { (0x1c, 0x2a, 0x2c, 4) };
        put(table, word, header as u64);
        put(entry, 2, size as u64);
        put(count, 2, types.len() as u64);
        for (n, kind) in types.iter().enumerate() {
            put(header + n * size, 4, u64::from(*kind));
        }
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, if little { 1 } else { 2 }]);
        bytes
    }

    fn interpreter(bytes: &[u8]) -> Result<bool, io::ErrorKind> {
        let read = |buffer: &mut [u8], at: u64| {
            let at = usize::try_from(at).unwrap();
            let found = bytes.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(found);
            Ok(())
        };
        wants_interpreter(read).map_err(|error| error.kind())
    }

    #[test]
    fn a_dynamic_program_names_its_loader() {
        for (wide, little) in [(true, true), (true, false), (false, true), (false, false)] {
            // PT_LOAD, PT_DYNAMIC, PT_GNU_STACK: a static program may have all of them.
            assert_eq!(interpreter(&elf(wide, little, &[1, 2, 0x6474_e551])), Ok(false));
            assert_eq!(interpreter(&elf(wide, little, &[6, 3, 1])), Ok(true));
            assert_eq!(interpreter(&elf(wide, little, &[])), Ok(false));
        }
        let whole = elf(true, true, &[1, 3]);
        for len in 0..whole.len() {
            assert!(interpreter(&whole[..len]).is_err() || len >= 64 + 56 + 4, "{len}");
        }
        assert_eq!(interpreter(b"#!/bin/sh\nexec true\n"), Err(io::ErrorKind::InvalidData));
    }

    #[test]
    fn what_can_help() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ckpt-db");
        let put = |bytes: &[u8], mode: u32| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            look(&path)
        };
        let (fixed, dynamic) = (elf(true, true, &[1]), elf(true, true, &[3, 1]));
        assert_eq!(put(&fixed, 0o755), Ok(path.to_str().unwrap().to_owned()));
        assert_eq!(put(&dynamic, 0o755), Err(NoHelper::NotStatic));
        assert!(matches!(put(&fixed, 0o700), Err(NoHelper::Unusable(text)) if text.contains("every user")));
        assert!(matches!(put(b"#!/bin/sh -e\nexit", 0o755), Err(NoHelper::Unusable(text)) if text.contains("no ELF")));
        assert!(matches!(look(directory.path()), Err(NoHelper::Unusable(_))));
        assert!(matches!(look(&directory.path().join("none")), Err(NoHelper::Unusable(_))));
        for path in ["ckpt-db", "/usr/../bin/ckpt-db"] {
            assert!(matches!(named(Path::new(path)), Err(NoHelper::Unusable(_))), "{path}");
        }
        assert_eq!(named(Path::new("/opt/ckpt-db")), Ok("/opt/ckpt-db".to_owned()));
    }
}
