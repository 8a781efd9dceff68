//! Key slots of any contents in an otherwise sound store: only the slot that was made opens it, and to nothing else than
//! what was sealed.
//!
//! The input is a sequence of slots: an octet of flags, the record's key unless it is the right one, and its payload with
//! its length before it.

use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::store::{LockState, open_image};
use store_format::{Frame, KeySlot, Table, Unlocker, meta_key};

use super::image::{self, Row};
use super::{Input, pipeline};

/// Flag: the payload is changed from the sound slot's, one octet each: where, and what it becomes.
const PATCHED: u8 = 1;
/// Flag: it goes to the mirror in the table `meta`.
const MIRROR: u8 = 2;
/// Flag: a key of its own.
const OTHER_KEY: u8 = 4;
/// Flag: a frame of its own, instead of one whose digest is right.
const OTHER_FRAME: u8 = 8;
/// Flag: the sound slot stays beside it.
const KEPT: u8 = 16;

const SLOTS_MAX: usize = 8;

/// The target's body.
pub fn run(octets: &[u8]) {
    let sound = image::sound();
    let is_slot = |row: &&Row| row.table == Table::Slots || row.key[0].starts_with(meta_key::SLOT_MIRROR);
    let right = sound.rows.iter().find(|row| row.table == Table::Slots).unwrap();
    let payload = Frame::decode(&right.bytes).unwrap().payload;
    let mut rows: Vec<Row> = sound.rows.iter().filter(|row| !is_slot(row)).cloned().collect();
    let mut input = Input(octets);
    let mut is_there = false;
    let mut put = 0;
    while !input.is_empty() && put < SLOTS_MAX {
        put += 1;
        let flags = input.octet();
        let key = if flags & OTHER_KEY == 0 { right.key[0].clone() } else { input.text() };
        let key = if flags & MIRROR == 0 { key } else { format!("{}{key}", meta_key::SLOT_MIRROR) };
        let bytes = input.blob();
        let slot = if flags & PATCHED == 0 {
            bytes.to_vec()
        } else {
            let mut slot = payload.to_vec();
            for patch in bytes.chunks_exact(2) {
                let at = usize::from(patch[0]) % slot.len();
                slot[at] = patch[1];
            }
            slot
        };
        if let Ok(read) = KeySlot::decode(&slot) {
            assert_eq!(read.encode(), slot);
        }
        let table = if flags & MIRROR == 0 { Table::Slots } else { Table::Meta };
        if flags & OTHER_FRAME == 0 {
            is_there |= opens(&slot, payload);
            rows.push(Row::framed(table, vec![key], &slot));
        } else {
            is_there |= Frame::decode(&slot).is_ok_and(|frame| opens(frame.payload, payload));
            rows.push(Row { table, key: vec![key], bytes: slot });
        }
        if flags & KEPT != 0 {
            is_there = true;
            rows.extend(sound.rows.iter().filter(is_slot).cloned());
        }
    }
    let image = image::of(&rows);
    let right = image::unlocker();
    let same_octets = |of: fn(store_format::SymmetricSecret) -> Unlocker| {
        of(store_format::SymmetricSecret::of_file(right.key_material()).unwrap())
    };
    for unlocker in [&right, &same_octets(Unlocker::Credential)] {
        let Ok(snapshot) = open_image(image.clone(), &[unlocker]) else { continue };
        let snapshot = snapshot.get();
        if snapshot.lock_state() == LockState::Open {
            assert!(is_there && unlocker.kind() == right.kind(), "opened by something else");
            for object in &sound.objects {
                assert!(matches!(snapshot.get(&object.key), Lookup::Found(found) if found.body == object.body));
            }
        }
        pipeline::walk(snapshot);
    }
}

/// Whether a slot holds what opens: all that is bound or used must be the same. Its time is not.
fn opens(slot: &[u8], right: &[u8]) -> bool {
    let (Ok(mut slot), Ok(right)) = (KeySlot::decode(slot), KeySlot::decode(right)) else { return false };
    slot.created_at_unix_ms = right.created_at_unix_ms;
    slot == right
}
