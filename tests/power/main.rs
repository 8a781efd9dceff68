//! The power of a real machine is cut, again and again: nothing that was acknowledged is lost, nothing is seen in part.
//!
//! In the machine (QEMU, software emulation; Debian's kernel; ext4) the agent follows a source that changes step by step,
//! and each step that it has stored and rendered is acknowledged over the serial line. At a random moment the machine is
//! killed. Everything that it did to its disk was logged; from the log come images of what a power cut could have left at
//! that moment, at each flush and in between: writes that were not flushed are lost, reordered or torn. Each image is
//! recovered by e2fsck and judged here; one of them is the disk that the machine is started with again, so that the kernel
//! and the agent recover it too, and can be cut off in the middle of that.
//!
//! In a second leg the machine restores one backup after the other instead, and its log is replayed to each flush.
//!
//! Skipped, loudly, where `components.sh` finds something missing; `CKPT_DB_REQUIRE_QEMU=1` forbids that. A few cuts by
//! default; `CKPT_DB_POWER_CUTS=200` for more (`just power`), `CKPT_DB_POWER_IMAGES=N` images of each, and with
//! `CKPT_DB_POWER_EVERY_FLUSH=1` one of each flush besides; `CKPT_DB_POWER_RESTORES=N` cuts in restores.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]
#![allow(clippy::print_stderr, reason = "what is skipped, and the counts, are said")]

mod campaign;
mod disk;
#[path = "../common/gate.rs"]
mod gate;
mod images;
mod initramfs;
mod judge;
mod judge_tests;
mod log_writes;
mod machine;
#[path = "../common/random.rs"]
mod random;
mod restoring;
mod steps;

use campaign::{Campaign, Plan, Tally, Work};

/// A sample that takes a quarter of a minute: one cut for each of two processors.
const CUTS: usize = 2;
const IMAGES: usize = 8;

/// One machine, whose power is cut twice while it restores backups.
const RESTORES: usize = 2;
const IMAGES_OF_RESTORES: usize = 4;

#[test]
fn nothing_acknowledged_is_lost() {
    let cuts = number("CKPT_DB_POWER_CUTS").unwrap_or(CUTS);
    let images = number("CKPT_DB_POWER_IMAGES").unwrap_or(IMAGES);
    let every_flush = std::env::var_os("CKPT_DB_POWER_EVERY_FLUSH").is_some();
    let Some(tally) = run(Plan { work: Work::Follow, cuts, images, every_flush, seed: seed() }) else { return };
    assert!(tally.lies_noticed * 2 > tally.lies, "a disk that loses what it has flushed goes unnoticed");
    eprintln!(
        "campaign: machine power cuts: {} cuts, {} images judged, 0 acknowledged changes lost, 0 partial trees, 0 panics",
        tally.cuts, tally.images
    );
}

/// The store is that of before or the restored one, whole, whenever the power goes: at random moments, and after each flush.
#[test]
fn a_restore_that_is_cut_off_leaves_the_old_store_or_the_new_one() {
    let cuts = number("CKPT_DB_POWER_RESTORES").unwrap_or(RESTORES);
    let images = number("CKPT_DB_POWER_IMAGES").unwrap_or(IMAGES_OF_RESTORES);
    let Some(tally) = run(Plan { work: Work::Restore, cuts, images, every_flush: true, seed: seed() }) else { return };
    eprintln!(
        "campaign: machine power cuts, restore: {} cuts, {} images judged, 0 stores lost, 0 stores in part",
        tally.cuts, tally.images
    );
}

/// Carries it out; `None` where there is no machine, which is said.
fn run(plan: Plan) -> Option<Tally> {
    let components = match machine::components() {
        Ok(components) => components,
        Err(why) => {
            let required = std::env::var_os("CKPT_DB_REQUIRE_QEMU").is_some();
            assert!(!required, "CKPT_DB_REQUIRE_QEMU is set, but there is no machine to cut the power of: {why}");
            eprintln!("SKIPPED: no power is cut: {why}");
            return None;
        }
    };
    // redb panics on some damaged files; the store catches that, and a disk that lies leaves such files.
    ckpt_db::store::install_panic_hook();
    let tally = Campaign::new(plan, &components).run();
    eprintln!("{tally}");
    assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n"));
    assert!(tally.acknowledged > 0, "the machine was never told that a step was stored: nothing was shown");
    Some(tally)
}

fn seed() -> usize {
    number("CKPT_DB_POWER_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        usize::try_from(now.as_secs()).unwrap()
    })
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}
