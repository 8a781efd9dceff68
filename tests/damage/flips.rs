//! Flipped bytes: every byte of the file, by `CKPT_DB_FLIPS=all`; without the variable a spread sample. The file has no other
//! redundancy than its records' digests.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ckpt_db::store::{Snapshot, install_panic_hook, open_offline};

use crate::{Files, is_structure, named, readable, scratch, write};

/// How many flips a sampled run makes for each of the two files, and every so many octets of the header.
const SAMPLE: u64 = 120;
const HEADER_STEP: u64 = 7;

#[derive(Debug, Default)]
struct Tally {
    flips: u64,
    unnoticed: u64,
    records_lost: u64,
    unnamed: u64,
    structure: u64,
    unreadable: Vec<u64>,
}

#[test]
fn no_flipped_byte_gives_a_wrong_value() {
    install_panic_hook();
    let files = Files::new(6);
    let directory = scratch();
    for (name, bytes, sample, all_readable) in [
        ("closed cleanly", &files.closed, SAMPLE, true),
        ("not closed", &files.unclean, SAMPLE, true),
        ("closed by another tool", &files.foreign, SAMPLE / 2, false),
    ] {
        let tally = campaign(directory.path(), bytes, sample, all_readable, &files);
        println!(
            "{name}: {} bytes, {} flips: {} without effect, {} lost records ({} unnamed), {} structural, {} unreadable {:?}",
            bytes.len(),
            tally.flips,
            tally.unnoticed,
            tally.records_lost,
            tally.unnamed,
            tally.structure,
            tally.unreadable.len(),
            &tally.unreadable[..tally.unreadable.len().min(20)],
        );
        assert!(
            !all_readable || tally.unreadable.is_empty(),
            "{name}: a flip at these offsets made the whole store unreadable: {:?}",
            tally.unreadable
        );
        println!("campaign: flipped bytes, {name}: {} judged, 0 wrong values, 0 panics", tally.flips);
    }
}

fn campaign(directory: &Path, bytes: &[u8], sample: u64, all_named: bool, files: &Files) -> Tally {
    let path = directory.join("flipped.db");
    write(&path, bytes);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut tally = Tally::default();
    for at in offsets(bytes, sample) {
        tally.flips += 1;
        let original = bytes[at as usize];
        // Alternately all bits and one bit, so that both a wild and a subtle change are seen everywhere.
        let flipped = if at % 2 == 0 { original ^ 0xff } else { original ^ (1 << (at / 2 % 8)) };
        file.write_all_at(&[flipped], at).unwrap();
        match open_offline(&path, &[&files.secret]) {
            Err(error) => {
                assert!(error.is_damage(), "offset {at}: {error}");
                tally.unreadable.push(at);
            }
            Ok(snapshot) => judge(at, snapshot.get(), all_named, files, &mut tally),
        }
        // Without a key the digests are all that there is: tags can't be checked.
        if let Ok(snapshot) = open_offline(&path, &[]) {
            readable(snapshot.get(), &files.expected, &format_args!("offset {at}, without a key"));
        }
        file.write_all_at(&[original], at).unwrap();
    }
    assert!(fs::read(&path).unwrap() == bytes, "reading changed the file");
    tally
}

/// Every offset, or a sample of the header and of every page that is not all zeros.
fn offsets(bytes: &[u8], sample: u64) -> Vec<u64> {
    let used: Vec<bool> = bytes.chunks(4096).map(|page| page.iter().any(|byte| *byte != 0)).collect();
    let all: Vec<u64> = (0..bytes.len() as u64).filter(|at| used[*at as usize / 4096]).collect();
    if std::env::var_os("CKPT_DB_FLIPS").is_some_and(|flips| flips == "all") {
        return all;
    }
    let step = (all.len() as u64 / sample).max(1) | 1;
    all.into_iter().filter(|at| (*at < 320 && at % HEADER_STEP == 0) || at % step == 0).collect()
}

fn judge(at: u64, snapshot: &Snapshot, all_named: bool, files: &Files, tally: &mut Tally) {
    let there = readable(snapshot, &files.expected, &format_args!("offset {at}"));
    for key in files.expected.keys().filter(|key| !there.contains(key)) {
        tally.records_lost += 1;
        tally.unnamed += u64::from(!named(snapshot, key));
        assert!(
            !all_named || named(snapshot, key),
            "offset {at}: {key} is lost, and no finding names it: {:?}",
            snapshot.findings()
        );
    }
    if snapshot.findings().is_empty() {
        tally.unnoticed += 1;
    } else if snapshot.findings().iter().any(is_structure) {
        tally.structure += 1;
    }
}
