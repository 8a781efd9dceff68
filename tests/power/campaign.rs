//! Cuts the power of machines, looks at what could have been left, and switches them on again.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use store_format::Unlocker;

use crate::disk::{self, FILE_SYSTEM_BYTES, MARK_SECTOR};
use crate::images::{Replay, Unflushed, lying_disk};
use crate::judge::{Told, judge};
use crate::log_writes::{self, Operation};
use crate::machine::{Machine, Parts, Start};
use crate::random::Random;
use crate::restoring::{self, Backups};
use crate::steps::{self, TOKEN, TOKEN_ENCODED};

/// What the machines do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// The agent follows a source.
    Follow,
    /// One backup after the other is put in the place of the store.
    Restore,
}

/// How much is done.
pub(crate) struct Plan {
    pub(crate) work: Work,
    pub(crate) cuts: usize,
    /// How many images are made of each, beside the one that the machine goes on with.
    pub(crate) images: usize,
    /// Whether there is one more for each flush: what is there when nothing but what was flushed before is.
    pub(crate) every_flush: bool,
    /// Decides everything but when exactly the machine is killed.
    pub(crate) seed: usize,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Tally {
    /// How often the power was cut, and how often of that before the agent had done anything new.
    pub(crate) cuts: usize,
    early: usize,
    /// Steps that the machines acknowledged.
    pub(crate) acknowledged: usize,
    writes: usize,
    flushes: usize,
    /// Images that were judged, and how many of these had lost or torn writes.
    pub(crate) images: usize,
    incomplete: usize,
    /// How long the machines waited for that.
    looking: Duration,
    /// Logs whose last entries were missing.
    cut_short: usize,
    /// Disks that did not keep what they had flushed, and how often that was noticed.
    pub(crate) lies: usize,
    pub(crate) lies_noticed: usize,
    pub(crate) wrong: Vec<String>,
    seconds: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "power: {} machine power cuts ({} of them before the first new step), {} steps acknowledged, {} writes, \
             {} flushes; {} images judged ({} with writes lost or torn), {} wrong; a disk that lies about flushes noticed \
             {} of {} times; {} logs cut short; {} s, {} ms an image",
            self.cuts,
            self.early,
            self.acknowledged,
            self.writes,
            self.flushes,
            self.images,
            self.incomplete,
            self.wrong.len(),
            self.lies_noticed,
            self.lies,
            self.cut_short,
            self.seconds,
            self.looking.as_millis() / self.images.max(1) as u128
        )
    }
}

/// A run of the test.
pub(crate) struct Campaign {
    plan: Plan,
    parts: Parts,
    key: Unlocker,
    backups: Backups,
    directory: tempfile::TempDir,
    left: AtomicUsize,
    tally: Mutex<Tally>,
}

/// How ext4 is mounted: as it is everywhere, and so that it promises less of what was not synced.
const MOUNT_OPTIONS: [&str; 3] = ["rw", "rw", "data=writeback"];

impl Campaign {
    pub(crate) fn new(plan: Plan, components: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("power-").tempdir_in(scratch()).unwrap();
        let parts = Parts::collect(components, directory.path());
        let key = ckpt_db::keys::load(&parts.node_key).unwrap().secret.into();
        let backups = Backups::new(directory.path(), &parts.node_key);
        let left = AtomicUsize::new(plan.cuts);
        Self { plan, parts, key, backups, directory, left, tally: Mutex::default() }
    }

    /// Carries it out, a machine for each processor. Where something is wrong its disks and logs are kept.
    pub(crate) fn run(self) -> Tally {
        let begun = Instant::now();
        let enough = match self.plan.work {
            Work::Follow => self.plan.cuts,
            // So that each is switched on again.
            Work::Restore => self.plan.cuts / 2,
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(enough).max(1);
        let Plan { work, cuts, seed, .. } = self.plan;
        eprintln!("power: {work:?}, {cuts} cuts on {workers} machines, CKPT_DB_POWER_SEED={seed}");
        let panics = std::thread::scope(|scope| {
            let campaign = &self;
            let running: Vec<_> = (0..workers).map(|worker| scope.spawn(move || campaign.work(worker))).collect();
            running.into_iter().map(|worker| worker.join()).filter(Result::is_err).count()
        });
        let mut tally = self.tally.into_inner().unwrap();
        // Its message is above; a poisoned tally would have said so before.
        tally.wrong.extend((0..panics).map(|_| "the test itself panicked".to_owned()));
        tally.seconds = begun.elapsed().as_secs();
        if !tally.wrong.is_empty() {
            eprintln!("power: kept {}", self.directory.keep().display());
        }
        tally
    }

    fn work(&self, worker: usize) {
        let mut random = Random::new((self.plan.seed as u64) << 8 | worker as u64);
        while self.left.load(Ordering::SeqCst) > 0 {
            let directory = self.directory.path().join(format!("{worker}-{}", random.next() % 1_000_000));
            fs::create_dir(&directory).unwrap();
            let mut node = Node::new(directory.clone(), &mut random);
            let cuts = match self.plan.work {
                Work::Follow => 1 + random.below(15),
                Work::Restore => 2 + random.below(3),
            };
            for cut in 0..cuts {
                let one_less = |left: usize| left.checked_sub(1);
                if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err() {
                    break;
                }
                let wrong = self.cut(&mut node, &mut random);
                if !wrong.is_empty() {
                    let place = directory.display();
                    let mut tally = self.tally.lock().unwrap();
                    tally.wrong.extend(wrong.into_iter().map(|what| format!("{place}, cut {cut}: {what}")));
                    self.left.store(0, Ordering::SeqCst);
                    return;
                }
            }
            fs::remove_dir_all(&directory).unwrap();
        }
    }

    /// Switches the machine on, cuts its power, and judges what could have been left. Says what was wrong.
    fn cut(&self, node: &mut Node, random: &mut Random) -> Vec<String> {
        let mut wrong = Vec::new();
        let before = node.directory.join("disk-before");
        fs::copy(node.disk(), &before).unwrap();
        let log = node.directory.join("log");
        let disk = node.disk();
        let start = Start {
            directory: &node.directory,
            disk: &disk,
            log: &log,
            mount_options: node.mount_options,
            work: match self.plan.work {
                Work::Follow => "follow",
                Work::Restore => "restore",
            },
            files: self.files(node.stored),
        };
        let mut machine = Machine::start(&self.parts, &start);
        // On a new disk there is nothing to recover, and nothing to lose.
        let early = node.acknowledged > 0 && random.below(3) == 0;
        let steps = match self.plan.work {
            Work::Follow => 2 + random.below(20),
            Work::Restore => 1 + random.below(RESTORES / 2),
        };
        wait_for_a_moment(&mut machine, early, steps, random);
        let said = machine.cut();
        fs::write(node.directory.join("serial"), said.join("\n")).unwrap();
        wrong.extend(complaints(&said, node.stored));

        let log = log_writes::read(&log).unwrap();
        let operations = &log.operations;
        let mut told = Told { acknowledged: node.acknowledged, begun: node.stored + 1, stored: node.stored };
        let marks: Vec<(usize, u64)> = operations.iter().enumerate().filter_map(mark).collect();
        let told_at = |at: usize| match marks.iter().rfind(|(index, _)| *index < at) {
            Some((_, step)) => Told { acknowledged: *step, begun: step + 1, ..told },
            None => told,
        };
        let count = said.iter().filter(|line| line.starts_with(ACKNOWLEDGED)).count();
        if marks.len() + 1 < count && !log.cut_short {
            wrong.push(format!("{count} steps were acknowledged, and the log has marks of {}", marks.len()));
        }
        if shows_the_token(operations) {
            wrong.push("a Secret's value was written to the disk in clear text".to_owned());
        }

        let mut medium = fs::read(&before).unwrap();
        medium.truncate(usize::try_from(FILE_SYSTEM_BYTES).unwrap());
        let mut incomplete = 0;
        let mut replay = Replay::new(medium.clone(), operations);
        let moments = moments(operations, &self.plan, random);
        let (images, looking) = (moments.len() + 1, Instant::now());
        for (at, unflushed) in moments {
            let image = replay.cut(at, unflushed, random);
            let (_, problems) = self.look(&image, told_at(at), node, false);
            incomplete += usize::from(unflushed != Unflushed::Kept);
            let told = told_at(at);
            wrong.extend(problems.into_iter().map(|what| format!("{what} (operation {at}, {unflushed:?}, {told:?})")));
            if !wrong.is_empty() {
                // One is enough to look into, and its traces are not written over.
                return wrong;
            }
        }

        let looking = looking.elapsed();

        // A disk that does not keep its word must be noticed, or nothing here would notice anything.
        let (mut lies, mut lies_noticed) = (0, 0);
        if marks.len() > 2 && self.plan.work == Work::Follow {
            lies = 1;
            let image = lying_disk(medium, operations, 8, random);
            let (_, problems) = self.look(&image, told_at(operations.len()), node, true);
            lies_noticed = usize::from(!problems.is_empty());
        }

        // What it goes on with. Here everything counts that came over the serial line.
        let unflushed = Unflushed::ALL[random.below(Unflushed::ALL.len())];
        let image = replay.cut(operations.len(), unflushed, random);
        told = told_at(operations.len());
        if !log.cut_short {
            told.acknowledged = acknowledged(&said).unwrap_or(told.acknowledged);
            told.begun = told.begun.max(told.acknowledged + 1);
        }
        let (stored, problems) = self.look(&image, told, node, false);
        wrong.extend(problems.into_iter().map(|what| format!("{what} (at the end, {unflushed:?}, {told:?})")));
        (node.stored, node.acknowledged) = (stored, told.acknowledged);
        if wrong.is_empty() {
            node.put(image);
        }

        let mut tally = self.tally.lock().unwrap();
        let flushes = operations.iter().filter(|operation| **operation == Operation::Flush).count();
        tally.cuts += 1;
        tally.early += usize::from(early);
        tally.acknowledged += count;
        tally.writes += operations.len() - flushes;
        tally.flushes += flushes;
        tally.images += images;
        tally.looking += looking;
        tally.incomplete += incomplete + usize::from(unflushed != Unflushed::Kept);
        tally.cut_short += usize::from(log.cut_short);
        tally.lies += lies;
        tally.lies_noticed += lies_noticed;
        if tally.cuts.is_multiple_of(20) {
            eprintln!("{tally}");
        }
        wrong
    }

    /// What the machine is given to do after step `stored`.
    fn files(&self, stored: u64) -> Vec<(String, Vec<u8>)> {
        match self.plan.work {
            Work::Follow => {
                let steps = stored + 1..=stored + 100;
                steps.map(|step| (format!("steps/{step}.json"), steps::source(step).into_bytes())).collect()
            }
            Work::Restore => {
                let steps = stored + 1..=stored + RESTORES as u64;
                steps.map(|step| (format!("backups/{step}.db"), self.backups.of(step))).collect()
            }
        }
    }

    /// Recovers an image and judges what is on it.
    fn look(&self, image: &[u8], told: Told, node: &Node, at_any_price: bool) -> (u64, Vec<String>) {
        let file = node.directory.join("image");
        let files = node.directory.join("files");
        fs::write(&file, image).unwrap();
        if let Err(problem) = disk::recover(&file) {
            if !at_any_price {
                return (0, vec![problem]);
            }
            disk::recover_at_any_price(&file);
        }
        disk::extract(&file, &files);
        let judged = match self.plan.work {
            Work::Follow => judge(&files, told, &self.key),
            Work::Restore => restoring::judge(&files, told, &self.key),
        };
        if judged.1.is_empty() || at_any_price {
            fs::remove_dir_all(&files).unwrap();
        }
        judged
    }
}

/// Where disks, logs and images lie: in memory where there is room, as gigabytes are written in all.
fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if free > SCRATCH_BYTES { memory.to_owned() } else { std::env::temp_dir() }
}

/// What the machines of a few processors use.
const SCRATCH_BYTES: u64 = 2 << 30;

/// A machine's disk between two starts.
struct Node {
    directory: PathBuf,
    mount_options: &'static str,
    /// The step that its store holds.
    stored: u64,
    /// The last step that was acknowledged.
    acknowledged: u64,
}

impl Node {
    fn new(directory: PathBuf, random: &mut Random) -> Self {
        let mount_options = MOUNT_OPTIONS[random.below(MOUNT_OPTIONS.len())];
        let node = Self { directory, mount_options, stored: 0, acknowledged: 0 };
        disk::make(&node.disk());
        node
    }

    fn disk(&self) -> PathBuf {
        self.directory.join("disk")
    }

    fn put(&self, mut image: Vec<u8>) {
        image.resize(image.len() + 4096, 0);
        fs::write(self.disk(), image).unwrap();
    }
}

const ACKNOWLEDGED: &str = "ACKNOWLEDGED ";

/// How many backups a machine is given at each start.
const RESTORES: usize = 8;

/// Waits for a random moment of a machine's life: an `early` one is before it can have acknowledged anything, others are after
/// so many `steps` or in the middle of one that follows.
fn wait_for_a_moment(machine: &mut Machine, early: bool, steps: usize, random: &mut Random) {
    let milliseconds = |random: &mut Random, below| Duration::from_millis(random.below(below) as u64);
    if early {
        // The file system and the store are being recovered, or the agent starts.
        machine.wait_for(if random.below(2) == 0 { "MOUNTING" } else { "STORED" }, 1);
        machine.run_for(milliseconds(random, 1500));
    } else {
        machine.wait_for(ACKNOWLEDGED, 1);
        let begun = Instant::now();
        machine.wait_for(ACKNOWLEDGED, 1 + steps);
        // Somewhere in a step, or in the one after it.
        let step = usize::try_from(begun.elapsed().as_millis()).unwrap() / steps;
        machine.run_for(milliseconds(random, 2 * step + 1));
    }
}

/// What a machine said that it should not have.
fn complaints(said: &[String], stored: u64) -> Vec<String> {
    let bad = ["FAILED", "panicked", "Kernel panic", "EXT4-fs error", "NOT SOUND", "error:"];
    let mut wrong: Vec<String> = said
        .iter()
        .filter(|line| bad.iter().any(|word| line.contains(word)))
        .map(|line| format!("the machine said: {line}"))
        .collect();
    for line in said.iter().filter(|line| line.starts_with("VERIFIED ") && !line.starts_with("VERIFIED 0 sound")) {
        wrong.push(format!("the machine said: {line}"));
    }
    let found = said.iter().find_map(|line| line.strip_prefix("STORED "));
    if found.is_some_and(|found| found != stored.to_string()) {
        wrong.push(format!("the machine found another step than {stored} in its store: {found:?}"));
    }
    wrong
}

/// The last step that came over the serial line.
fn acknowledged(said: &[String]) -> Option<u64> {
    said.iter().rev().find_map(|line| line.strip_prefix(ACKNOWLEDGED)?.parse().ok())
}

/// The step that this operation marks as acknowledged.
fn mark((index, operation): (usize, &Operation)) -> Option<(usize, u64)> {
    match operation {
        Operation::Write { sector: MARK_SECTOR, data } => {
            let text = std::str::from_utf8(data).ok()?.trim_end_matches('\0').trim_end();
            Some((index, text.strip_prefix(ACKNOWLEDGED)?.parse().ok()?))
        }
        Operation::Write { .. } | Operation::Flush => None,
    }
}

/// Moments of a log in their order: half of them right before or after a flush, the others anywhere.
fn moments(operations: &[Operation], plan: &Plan, random: &mut Random) -> Vec<(usize, Unflushed)> {
    let flushes: Vec<usize> =
        operations.iter().enumerate().filter(|(_, op)| **op == Operation::Flush).map(|(index, _)| index).collect();
    let mut moments: Vec<(usize, Unflushed)> = (0..plan.images)
        .map(|n| {
            let at = match (n % 4, flushes.as_slice()) {
                (0, [_, ..]) => flushes[random.below(flushes.len())],
                (1, [_, ..]) => flushes[random.below(flushes.len())] + 1,
                _ => random.below(operations.len() + 1),
            };
            (at, Unflushed::ALL[random.below(Unflushed::ALL.len())])
        })
        .collect();
    if plan.every_flush {
        moments.extend(flushes.iter().map(|flush| (*flush, Unflushed::Lost)));
    }
    moments.sort_by_key(|(at, _)| *at);
    moments
}

/// Whether the Secret's value was ever written, as it is or as the API has it.
fn shows_the_token(operations: &[Operation]) -> bool {
    operations.iter().any(|operation| match operation {
        Operation::Write { data, .. } => [TOKEN, TOKEN_ENCODED.as_bytes()]
            .iter()
            .any(|canary| data.windows(canary.len()).any(|part| part == *canary)),
        Operation::Flush => false,
    })
}
