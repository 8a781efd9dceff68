//! Whole store files: any octets, a sound file with some changed, and sound files with rows of any contents.
//!
//! None makes the reader panic, hang or take memory without bound. From a changed file that its key opens, no object is
//! read that differs from what was stored: a record that was not made with the key is left out and named.

use ckpt_db::checkpoint::lookup::{Lookup, Objects as _};
use ckpt_db::store::{LockState, open_image};
use store_format::Table;

use super::image::{self, Row};
use super::{Input, pipeline};

/// The target's body. The first octet says which of the three.
pub fn run(octets: &[u8]) {
    // As the program does: panics of redb inside of the boundary are not reported.
    ckpt_db::store::install_panic_hook();
    let mut input = Input(octets);
    match input.octet() % 4 {
        0 => drop(opened(input.0.to_vec())),
        1 => changed(input),
        2 => rows(input, image::keyless()),
        _ => rows(input, image::sound()),
    }
}

fn opened(image: Vec<u8>) -> bool {
    let unlocker = image::unlocker();
    match open_image(image, &[&unlocker]) {
        Ok(snapshot) => {
            let snapshot = snapshot.get();
            if snapshot.lock_state() == LockState::Open {
                for object in &image::sound().objects {
                    if let Lookup::Found(found) = snapshot.get(&object.key) {
                        assert!(found.body == object.body, "{} has another value", object.key);
                    }
                }
                let known = |stored: &ckpt_db::store::StoredObject<'_>| {
                    image::sound().objects.iter().any(|object| object.key == *stored.key)
                };
                assert!(snapshot.objects().all(|stored| known(&stored)), "an object from nowhere");
            }
            pipeline::walk(snapshot);
            true
        }
        Err(error) => {
            super::assert_shown(&error.to_string());
            false
        }
    }
}

/// Pieces of the sound file are overwritten: where (in three octets), a length, and so many octets.
fn changed(mut input: Input<'_>) {
    let mut image = image::sound().image.clone();
    let cut = input.octet();
    if cut != 0 {
        // In steps of a quarter of a page: torn and lengthened files.
        let len = (usize::from(cut) << 10).max(1);
        image.resize(len.min(image.len() + 8192), 0xa5);
    }
    while !input.is_empty() {
        let at = usize::from(input.octet()) | usize::from(input.octet()) << 8 | usize::from(input.octet()) << 16;
        let len = input.octet().into();
        let at = at % image.len();
        for (place, octet) in image[at..].iter_mut().zip(input.take(len)) {
            *place = *octet;
        }
    }
    opened(image);
}

/// Rows are put into a store's tables, in frames whose digest is right or as they are.
fn rows(mut input: Input<'_>, base: &image::Sound) {
    let mut rows = base.rows.clone();
    let mut put = 0;
    while !input.is_empty() && put < 16 {
        put += 1;
        let what = input.octet();
        let table = Table::ALL[usize::from(what & 0x0f) % Table::ALL.len()];
        // The key of a row that is there, so that links and pods find one another; or one of the input's own.
        let own = what & 0x10 == 0;
        let there: Vec<&Row> = base.rows.iter().filter(|row| row.table == table).collect();
        let key = if own && !there.is_empty() {
            there[usize::from(input.octet()) % there.len()].key.clone()
        } else {
            let parts = match table {
                Table::Meta | Table::Slots | Table::Log => 1,
                Table::Pods => 2,
                Table::Objects => 3,
            };
            (0..parts).map(|_| input.text()).collect()
        };
        let bytes = input.blob();
        match what >> 6 {
            0 | 1 => rows.push(Row::framed(table, key, bytes)),
            2 => rows.push(Row { table, key, bytes: bytes.to_vec() }),
            _ => rows.retain(|row| row.table != table || row.key != key),
        }
    }
    let image = image::of(&rows);
    // The file is in order, so that something of it always reads, unless it says that it is newer or has no record at all.
    opened(image);
}
