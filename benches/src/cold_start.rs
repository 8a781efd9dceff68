//! From the start of the process to the last manifest: `run --once` on a node that has a store and nothing rendered, against
//! writing the same files.
//!
//! Two floors write what the agent renders. One syncs each file and directory by itself, one after the other. The other one
//! writes everything, has all of it synced by a few threads at once, and then gives the names: nothing durable is faster, and
//! it is the one that counts.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Bench;
use crate::agent::{Agent, Watch};
use crate::measure::{Contender, Times, interleaved, millis, ratio};
use crate::node::Node;
use crate::report::{Report, Target};

/// So many threads sync at once: as the agent does.
const SYNCING: usize = 8;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let directory = bench.directory();
    let sizes: &[usize] = if bench.short { &[5, 10] } else { &[30, 110, 500, 1000] };
    let mut details = serde_json::Map::new();
    let mut medians: Vec<(usize, [f64; 2])> = Vec::new();
    for &pods in sizes {
        let node = Node::with_pods(bench, directory.path(), pods);
        let rounds = bench.rounds(if pods > 200 { 5 } else { 11 });
        cold_start(bench, &node, directory.path());
        let rendered = Rendered::of(&node);
        let (times, phases) = {
            let phases = Mutex::new(Vec::new());
            let mut contenders: Vec<Contender<'_>> = vec![
                Box::new(|_| {
                    let phase = cold_start(bench, &node, directory.path());
                    phases.lock().unwrap().push(phase);
                    phase.published
                }),
                Box::new(|_| rendered.write(directory.path(), SYNCING)),
                Box::new(|_| rendered.write(directory.path(), 1)),
            ];
            let times = interleaved(rounds, &mut contenders);
            drop(contenders);
            (times, phases.into_inner().unwrap())
        };
        let [own, floor, serial] = &times[..] else { unreachable!("three contenders") };
        let target = if pods == 110 { Target::AtMost(1.5) } else { Target::None };
        let basis = format!("{:.1} ms against {:.1} ms", millis(own.median()), millis(floor.median()));
        report.row("cold start", format!("{pods} pods"), (ratio(own.median(), floor.median()), "x"), target, basis);
        let basis = format!("against {:.1} ms", millis(serial.median()));
        let what = format!("{pods} pods, synced one by one");
        report.row("cold start", what, (ratio(own.median(), serial.median()), "x"), Target::None, basis);
        let of = |take: fn(&Phases) -> Duration| Times::new(phases.iter().map(take).collect());
        let split = [
            ("open, check, judge", of(|p| p.first_tree)),
            ("trees, to the first manifest", of(|p| p.first_manifest.saturating_sub(p.first_tree))),
            ("manifests", of(|p| p.published.saturating_sub(p.first_manifest))),
            ("durable, said, ended", of(|p| p.ended.saturating_sub(p.published))),
        ];
        let shown: Vec<String> = split.iter().map(|(what, t)| format!("{what} {:.1} ms", millis(t.median()))).collect();
        eprintln!("    {}", shown.join("; "));
        medians.push((pods, [own, floor].map(|times| times.median().as_secs_f64() * 1000.0)));
        let split: serde_json::Map<String, Value> =
            split.iter().map(|(what, times)| ((*what).to_owned(), times.json())).collect();
        details.insert(
            format!("{pods} pods"),
            json!({
                "ckpt-db": own.json(), "floor": floor.json(), "floor_one_by_one": serial.json(), "phases": split,
                "files": rendered.files.len(), "directories": rendered.directories.len(), "links": rendered.links.len(),
            }),
        );
        drop(node);
    }
    let [own, floor] = [0, 1].map(|who| {
        let slope = |two: &[(usize, [f64; 2])]| (two[1].1[who] - two[0].1[who]) / (two[1].0 - two[0].0) as f64;
        medians.windows(2).map(slope).collect::<Vec<f64>>()
    });
    if let ([first, .., last], [floor_first, .., floor_last]) = (&own[..], &floor[..]) {
        let shown = |slopes: &[f64]| slopes.iter().map(|slope| format!("{slope:.3}")).collect::<Vec<_>>().join(", ");
        let basis = format!("ms for each further pod: {}; the floor: {}", shown(&own), shown(&floor));
        let value = (last / first, "x");
        report.row("cold start", "growth at 1,000 pods against that at 30", value, Target::AtMost(1.2), basis);
        let value = ((last / first) / (floor_last / floor_first), "x");
        report.row("cold start", "growth, against the floor's own", value, Target::None, "");
    }
    report.details("cold start", details.into());
}

/// Times since the start of the process.
#[derive(Clone, Copy)]
pub(crate) struct Phases {
    first_tree: Duration,
    first_manifest: Duration,
    pub(crate) published: Duration,
    ended: Duration,
}

pub(crate) fn cold_start(bench: &Bench, node: &Node, directory: &Path) -> Phases {
    node.unrender();
    let (mut manifests, mut trees) = (Watch::new(&node.manifests()), Watch::new(&node.configmaps()));
    let agent = Agent::start(node.command(bench, &["--once"]), &directory.join("agent.log"));
    let began = agent.began;
    let since = |at: Instant| at - began;
    let first_tree = since(trees.until(1));
    let first_manifest = since(manifests.until(1));
    let published = since(manifests.until(node.pods));
    agent.end();
    let ended = since(Instant::now());
    assert_eq!(node.rendered(), node.pods);
    Phases { first_tree, first_manifest, published, ended }
}

/// What the agent has rendered.
struct Rendered {
    /// Each with whether it lies in memory.
    directories: Vec<(PathBuf, bool)>,
    files: Vec<(PathBuf, bool, Vec<u8>)>,
    links: Vec<(PathBuf, bool, PathBuf)>,
    manifests: Vec<(PathBuf, Vec<u8>)>,
}

impl Rendered {
    fn of(node: &Node) -> Self {
        let mut found = Self { directories: Vec::new(), files: Vec::new(), links: Vec::new(), manifests: Vec::new() };
        found.walk(&node.configmaps(), Path::new("trees"), false);
        found.walk(&node.secret_root(), Path::new("trees"), true);
        for entry in fs::read_dir(node.manifests()).unwrap().map(Result::unwrap) {
            let bytes = fs::read(entry.path()).unwrap();
            found.manifests.push((Path::new("manifests").join(entry.file_name()), bytes));
        }
        found
    }

    fn walk(&mut self, directory: &Path, name: &Path, memory: bool) {
        self.directories.push((name.to_owned(), memory));
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => self.walk(&path, &name, memory),
                kind if kind.is_symlink() => self.links.push((name, memory, fs::read_link(path).unwrap())),
                _ => self.files.push((name, memory, fs::read(path).unwrap())),
            }
        }
    }

    /// Writes it again, durably where it lies on a disk, with so many threads that sync.
    fn write(&self, directory: &Path, syncing: usize) -> Duration {
        // It stays, as what was rendered does: see `Node::unrender`.
        let mut disk = tempfile::tempdir_in(directory).unwrap();
        disk.disable_cleanup(true);
        let memory = Path::new("/dev/shm");
        let memory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        rustix::fs::syncfs(File::open(disk.path()).unwrap()).unwrap();
        let at = |path: &Path, in_memory: bool| if in_memory { memory.path() } else { disk.path() }.join(path);
        let began = Instant::now();
        let mut syncs = Syncs { threads: syncing, files: Vec::new() };
        let mut directories = Vec::new();
        for (path, in_memory) in &self.directories {
            fs::create_dir(at(path, *in_memory)).unwrap();
            if !in_memory {
                directories.push(at(path, false));
            }
        }
        for (path, in_memory, bytes) in &self.files {
            let mut file = File::create(at(path, *in_memory)).unwrap();
            file.write_all(bytes).unwrap();
            if !in_memory {
                syncs.add(file);
            }
        }
        for (path, in_memory, target) in &self.links {
            symlink(target, at(path, *in_memory)).unwrap();
        }
        directories.iter().for_each(|path| syncs.add(File::open(path).unwrap()));
        syncs.all();
        let manifests = disk.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        for (path, bytes) in &self.manifests {
            let mut file = File::create(disk.path().join(path).with_extension("new")).unwrap();
            file.write_all(bytes).unwrap();
            syncs.add(file);
        }
        syncs.all();
        for (path, _) in &self.manifests {
            let path = disk.path().join(path);
            fs::rename(path.with_extension("new"), path).unwrap();
        }
        syncs.add(File::open(manifests).unwrap());
        syncs.all();
        began.elapsed()
    }
}

/// Syncs, now or together.
struct Syncs {
    threads: usize,
    files: Vec<File>,
}

impl Syncs {
    fn add(&mut self, file: File) {
        if self.threads == 1 {
            return file.sync_all().unwrap();
        }
        self.files.push(file);
        if self.files.len() >= 256 {
            self.all();
        }
    }

    fn all(&mut self) {
        let files = Mutex::new(self.files.drain(..));
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    loop {
                        let Some(file) = files.lock().unwrap().next() else { return };
                        file.sync_all().unwrap();
                    }
                });
            }
        });
    }
}
