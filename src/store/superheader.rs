//! The little that is known here of redb's own file header (redb 4.x, `docs/design.md`, "Super-header"): enough to notice
//! that it points at the wrong commit, and to read a file whose header is damaged. Only ever applied to an overlay.

use std::io;

use redb::{Database, StorageBackend as _};

use super::overlay::{Base, Overlay};

/// Magic number, god byte, padding, page size and region geometry.
const FIXED_BYTES: usize = 24;
/// Everything up to the first octet of the first commit slot, which is that slot's version.
const REFERENCE_BYTES: usize = SLOTS_AT as usize + 1;
const GOD_BYTE: usize = 9;
const PRIMARY_BIT: u8 = 1;
const RECOVERY_REQUIRED: u8 = 2;
const SLOTS_AT: u64 = 64;
const SLOT_BYTES: u64 = 128;
/// Inside a commit slot: the id of the transaction that wrote it, little-endian.
const TRANSACTION_ID_AT: u64 = 104;

/// The version of redb's file format that this program reads and writes.
pub(super) const VERSION: u8 = 3;

/// A later version of redb's file format, if that is what the file is of: its first octets are right, and both commits name
/// that version. A damaged octet is in one of them.
pub(super) fn newer(base: &Base) -> Option<u32> {
    let mut head = [0; (SLOTS_AT + SLOT_BYTES) as usize + 1];
    if base.len().ok()? < head.len() as u64 {
        return None;
    }
    base.read_exact_at(&mut head, 0).ok()?;
    let (first, second) = (head[SLOTS_AT as usize], head[head.len() - 1]);
    (is_magic(&head) && first == second && first > VERSION).then_some(first.into())
}

/// How long the file was by its own header, if that is not what it is: its end was cut off, or something was put behind it.
/// Pages that are gone then read as zeros, and cost what was on them.
pub(super) fn length_by_header(base: &Base) -> Option<u64> {
    /// No store of a node is longer; a damaged header may say anything.
    const LEN_MAX_BYTES: u64 = 16 << 30;
    const PAGE_BYTES: u64 = 4096;
    let mut head = [0; 32];
    base.read_exact_at(&mut head, 0).ok()?;
    let field = |at: usize| head[at..at + 4].try_into().map(u32::from_le_bytes).map(u64::from).ok();
    let (page, header_pages, region_pages) = (field(12)?, field(16)?, field(20)?);
    let (full_regions, trailing_pages) = (field(24)?, field(28)?);
    let trailing = if trailing_pages > 0 { header_pages + trailing_pages } else { 0 };
    let pages = full_regions.checked_mul(header_pages + region_pages)?.checked_add(1 + trailing)?;
    let len = pages.checked_mul(PAGE_BYTES)?;
    (is_magic(&head) && page == PAGE_BYTES && len != base.len().ok()? && len <= LEN_MAX_BYTES).then_some(len)
}

/// Whether these are the first octets of a database.
pub(super) fn is_magic(head: &[u8]) -> bool {
    head.starts_with(b"redb\x1a\x0a\xa9\x0d\x0a")
}

/// Whether a file that was closed cleanly names as current a commit that is not its newest.
///
/// In a file that was not closed cleanly this is no sign of damage: a commit that was being written is not yet valid.
pub(super) fn points_at_older_commit(overlay: &Overlay) -> bool {
    let mut god = [0];
    if overlay.read(GOD_BYTE as u64, &mut god).is_err() || god[0] & RECOVERY_REQUIRED != 0 {
        return false;
    }
    let id = |slot: u64| {
        let mut octets = [0; 8];
        overlay.read(SLOTS_AT + slot * SLOT_BYTES + TRANSACTION_ID_AT, &mut octets).map(|()| u64::from_le_bytes(octets))
    };
    let primary = u64::from(god[0] & PRIMARY_BIT);
    matches!((id(primary), id(1 - primary)), (Ok(current), Ok(other)) if other > current)
}

/// Sets the fixed fields to what this version of redb writes, and asks it to choose the commit by slot checksums.
///
/// # Errors
/// The file is too short to have a header.
pub(super) fn rebuild(overlay: &Overlay) -> io::Result<()> {
    let mut reference = reference()?;
    // Recovery derives the layout from the file's length; without the two-phase bit the newest slot whose checksum and
    // pages verify is taken, in place of the one that the god byte names.
    reference[GOD_BYTE] = RECOVERY_REQUIRED;
    overlay.patch(0, &reference[..FIXED_BYTES])?;
    // A wrong version would refuse the file before the slot's checksum is looked at.
    for slot in 0..2 {
        overlay.patch(SLOTS_AT + slot * SLOT_BYTES, &reference[SLOTS_AT as usize..])?;
    }
    Ok(())
}

/// The header as a new database has it.
fn reference() -> io::Result<[u8; REFERENCE_BYTES]> {
    let file = rustix::fs::memfd_create("ckpt-db-header", rustix::fs::MemfdFlags::CLOEXEC)?;
    let file = std::fs::File::from(file);
    let db = Database::builder().set_cache_size(0).create_file(file.try_clone()?).map_err(io::Error::other)?;
    drop(db);
    let mut reference = [0; REFERENCE_BYTES];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut reference, 0)?;
    Ok(reference)
}
