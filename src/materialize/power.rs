//! The power goes at each step of a pass: what was synced is there, and of the rest any part. Still no reader may see a part
//! of anything, and the next pass must end where an uncut one ends.
//!
//! The steps of one pass are watched, each inode as it is before and after it. From that follows what the medium may hold
//! when the power goes after any of them. A name that was given or taken is durable when its directory has been synced since,
//! contents, owner and mode when the file has; a rename within a directory happens whole or not at all, one between two in
//! each of them or not. All that is not durable is there or not in any combination, in whatever order it was done, and
//! contents may be whole, cut short, zeros or nothing. A link is what it is to be, or not there. Journaling file systems lose far less than that.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::crash::{after, all_is_whole, pass, prepared, uncut, watched_pass};
use super::gate::{Cut, Step};
use super::sandbox::{NOW, SandBox};

/// How many media an ordinary run looks at. `CKPT_DB_RENDER_CUTS=N` makes it N.
const IMAGES: usize = 700;

type Inode = u64;

/// Mode, user and group.
type Attr = (u32, u32, u32);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory(BTreeMap<OsString, Inode>),
    File(Vec<u8>),
    Link(PathBuf),
}

/// Every inode below a directory at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Moment {
    top: Inode,
    nodes: BTreeMap<Inode, (Node, Attr)>,
}

/// A step, and the inode that it is about.
type Stepped = (Step, Option<Inode>);

/// Watches a file system change.
#[derive(Default)]
struct Watcher {
    /// As it is before each step, which step that is, and at the end.
    moments: Vec<(Moment, Option<Stepped>)>,
    /// So that no number is given to another inode meanwhile.
    held: BTreeMap<Inode, OwnedFd>,
}

impl Watcher {
    fn look(&mut self, top: &Path, step: Option<(Step, &Path)>) {
        let mut nodes = BTreeMap::new();
        let inode = self.collect(top, &mut nodes);
        let of = |path: &Path| fs::symlink_metadata(path).ok().map(|meta| meta.ino());
        self.moments.push((Moment { top: inode, nodes }, step.map(|(step, path)| (step, of(path)))));
    }

    fn collect(&mut self, path: &Path, nodes: &mut BTreeMap<Inode, (Node, Attr)>) -> Inode {
        let meta = fs::symlink_metadata(path).unwrap();
        let node = if meta.is_dir() {
            let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
            Node::Directory(entries.map(|name| (name.clone(), self.collect(&path.join(name), nodes))).collect())
        } else if meta.is_symlink() {
            Node::Link(fs::read_link(path).unwrap())
        } else {
            Node::File(fs::read(path).unwrap())
        };
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
        let hold = || rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
        self.held.entry(meta.ino()).or_insert_with(hold);
        nodes.insert(meta.ino(), (node, (meta.mode() & 0o7777, meta.uid(), meta.gid())));
        meta.ino()
    }
}

/// What a directory's entries were changed to by one step.
type Change = BTreeMap<OsString, Option<Inode>>;

/// What the medium holds for sure, and what it may hold besides.
#[derive(Clone, Default)]
struct Medium {
    entries: BTreeMap<Inode, BTreeMap<OsString, Inode>>,
    /// Of each directory, oldest first.
    changes: BTreeMap<Inode, Vec<Change>>,
    /// What each file may hold: the last is what it is to hold, and alone if that is durable.
    contents: BTreeMap<Inode, Vec<Vec<u8>>>,
    attrs: BTreeMap<Inode, Vec<Attr>>,
    links: BTreeMap<Inode, PathBuf>,
}

impl Medium {
    /// Everything at this moment is durable.
    fn durable(moment: &Moment) -> Self {
        let mut medium = Self::default();
        for (inode, (node, attr)) in &moment.nodes {
            medium.attrs.insert(*inode, vec![*attr]);
            match node {
                Node::Directory(entries) => drop(medium.entries.insert(*inode, entries.clone())),
                Node::File(contents) => drop(medium.contents.insert(*inode, vec![contents.clone()])),
                Node::Link(target) => drop(medium.links.insert(*inode, target.clone())),
            }
        }
        medium
    }

    /// What one step added to it.
    fn step(&mut self, before: &Moment, after: &Moment, step: Step, of: Option<Inode>) {
        for (inode, (node, attr)) in &after.nodes {
            let attrs = self.attrs.entry(*inode).or_default();
            if attrs.last() != Some(attr) {
                attrs.push(*attr);
            }
            match node {
                Node::Directory(now) => {
                    let was = match before.nodes.get(inode) {
                        Some((Node::Directory(was), _)) => was.clone(),
                        _ => BTreeMap::new(),
                    };
                    self.entries.entry(*inode).or_default();
                    let names: BTreeSet<_> = was.keys().chain(now.keys()).collect();
                    let change: Change = names
                        .into_iter()
                        .filter(|name| was.get(*name) != now.get(*name))
                        .map(|name| (name.clone(), now.get(name).copied()))
                        .collect();
                    if !change.is_empty() {
                        self.changes.entry(*inode).or_default().push(change);
                    }
                }
                Node::File(now) => {
                    let contents = self.contents.entry(*inode).or_default();
                    if contents.last() != Some(now) {
                        contents.push(now.clone());
                    }
                }
                Node::Link(target) => drop(self.links.insert(*inode, target.clone())),
            }
        }
        let Some(inode) = of else { return };
        if matches!(step, Step::SyncDir | Step::SyncFile) {
            match &after.nodes[&inode].0 {
                Node::Directory(now) => {
                    self.entries.insert(inode, now.clone());
                    self.changes.remove(&inode);
                }
                Node::File(now) => drop(self.contents.insert(inode, vec![now.clone()])),
                Node::Link(_) => {}
            }
            let attrs = self.attrs.get_mut(&inode).unwrap();
            attrs.drain(..attrs.len() - 1);
        }
    }

    /// How many changes may be there or not.
    fn open(&self) -> usize {
        let several = |count: usize| count.saturating_sub(1);
        self.changes.values().map(Vec::len).sum::<usize>()
            + self.contents.values().map(|all| several(all.len())).sum::<usize>()
            + self.attrs.values().map(|all| several(all.len())).sum::<usize>()
    }

    /// Writes to `path` what the medium holds, `choice` deciding wherever it may be one or the other.
    fn write(&self, inode: Inode, path: &Path, choice: &mut Choice) {
        if let Some(target) = self.links.get(&inode) {
            let (_, uid, gid) = self.attrs[&inode][0];
            symlink(target, path).unwrap();
            return lchown(path, Some(uid), Some(gid)).unwrap();
        }
        if let Some(durable) = self.entries.get(&inode) {
            let mut entries = durable.clone();
            for change in self.changes.get(&inode).into_iter().flatten() {
                if choice.of(2) == 0 {
                    continue;
                }
                for (name, inode) in change {
                    match inode {
                        Some(inode) => drop(entries.insert(name.clone(), *inode)),
                        None => drop(entries.remove(name)),
                    }
                }
            }
            if !path.exists() {
                fs::create_dir(path).unwrap();
            }
            for (name, inode) in entries {
                self.write(inode, &path.join(name), choice);
            }
        } else {
            let all = &self.contents[&inode];
            let contents = match all.split_last().unwrap() {
                (whole, []) => whole.clone(),
                (whole, _) => match choice.of(4) {
                    0 => whole.clone(),
                    1 => whole[..whole.len() / 2].to_vec(),
                    2 => vec![0; whole.len()],
                    _ => Vec::new(),
                },
            };
            fs::write(path, contents).unwrap();
        }
        let attrs = &self.attrs[&inode];
        let (mode, uid, gid) = attrs[choice.of(attrs.len())];
        chown(path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Decides between possibilities: as the bits of a number say where there are few, else by chance that can be repeated.
struct Choice {
    bits: u64,
    random: bool,
}

impl Choice {
    fn of(&mut self, count: usize) -> usize {
        let count = count as u64;
        let chosen = if self.random {
            // Xorshift; the number in it is never zero.
            self.bits ^= self.bits << 13;
            self.bits ^= self.bits >> 7;
            self.bits ^= self.bits << 17;
            (self.bits >> 20) % count
        } else if count < 2 {
            0
        } else {
            let chosen = self.bits % count;
            self.bits /= count;
            chosen
        };
        usize::try_from(chosen).unwrap()
    }
}

/// Steps of the pass that a plan's change takes, and what is durable and open after each.
fn history(sandbox: &SandBox) -> (Inode, Vec<Medium>) {
    let top = sandbox.path("");
    let watcher = Arc::new(Mutex::new(Watcher::default()));
    let (seeing, watched) = (Arc::clone(&watcher), top.clone());
    let watch = move |step, path: &Path| seeing.lock().unwrap().look(&watched, Some((step, path)));
    watched_pass(sandbox, None, NOW, Some(Box::new(watch)));
    let mut watcher = watcher.lock().unwrap();
    watcher.look(&top, None);
    let moments = &watcher.moments;
    let mut media = vec![Medium::durable(&moments[0].0)];
    for pair in moments.windows(2) {
        let [(before, Some((step, of))), (after, _)] = pair else { panic!("a step was not told") };
        let mut medium = media.last().unwrap().clone();
        medium.step(before, after, *step, *of);
        media.push(medium);
    }
    (moments[0].0.top, media)
}

/// Puts in place of what there is what the medium held.
fn boot(sandbox: &SandBox, medium: &Medium, top: Inode, choice: &mut Choice) {
    let path = sandbox.path("");
    for entry in fs::read_dir(&path).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    medium.write(top, &path, choice);
}

/// For each step, each combination that there can be, or a sample of them: `look` at every one.
fn every_loss(images: usize, mut look: impl FnMut(&SandBox, &str)) -> (usize, usize) {
    let sandbox = prepared(SandBox::fast());
    let (top, media) = history(&sandbox);
    assert!(media.len() > 100, "{}", media.len());
    let each = images / media.len();
    let mut seen = 0;
    for (step, medium) in media.iter().enumerate() {
        let open = u32::try_from(medium.open()).unwrap();
        // Twice as many, since contents have four possibilities.
        let all = 2_u64.checked_pow(2 * open).filter(|all| *all <= each as u64);
        for number in 0..all.unwrap_or(each as u64).max(2) {
            let bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(step as u64 + 1);
            let mut choice = match (all, number) {
                (Some(_), bits) => Choice { bits, random: false },
                // Nothing of what is open, and all of it.
                (None, 0) => Choice { bits: 0, random: false },
                (None, 1) => Choice { bits: u64::MAX, random: false },
                (None, _) => Choice { bits, random: true },
            };
            boot(&sandbox, medium, top, &mut choice);
            look(&sandbox, &format!("power lost after {step} steps, combination {number}"));
            seen += 1;
        }
    }
    (media.len(), seen)
}

fn images() -> usize {
    std::env::var("CKPT_DB_RENDER_CUTS").ok().map_or(IMAGES, |number| number.parse().unwrap())
}

#[test]
fn a_power_cut_at_any_step_leaves_whole_files_and_the_next_passes_end_the_same() {
    let (_, ends) = uncut();
    let (steps, seen) = every_loss(images(), |sandbox, what| {
        all_is_whole(sandbox, what);
        pass(sandbox, None, NOW);
        all_is_whole(sandbox, &format!("{what}, after the next pass"));
        // As after a failure: what waits may wait longer.
        pass(sandbox, None, NOW + 90);
        pass(sandbox, None, NOW + 180);
        assert_eq!(sandbox.listing(), ends[1], "{what}");
    });
    println!("campaign: render cuts: {seen} media after {steps} steps judged, 0 partial trees, 0 panics");
}

#[test]
fn what_was_in_memory_is_rendered_again() {
    let (_, ends) = uncut();
    let (steps, seen) = every_loss(images() / 4, |sandbox, what| {
        fs::remove_dir_all(sandbox.path("secrets")).unwrap();
        fs::create_dir(sandbox.path("secrets")).unwrap();
        // A manifest that carries values is a link to nowhere now, and one in the clear has nothing to mount: no reader finds
        // a part of what was there. The pass at boot, before the kubelet starts, brings all back.
        pass(sandbox, None, NOW);
        let want = |lines: &[String]| lines.iter().filter(|line| wanted(line)).cloned().collect::<Vec<_>>();
        assert_eq!(want(&sandbox.listing()), want(&ends[0]), "{what}");
        pass(sandbox, None, NOW + 90);
        pass(sandbox, None, NOW + 180);
        assert_eq!(sandbox.listing(), after_memory(&ends[1]), "{what}");
    });
    println!(
        "campaign: render cuts, secrets in memory: {seen} media after {steps} steps judged, 0 partial trees, 0 panics"
    );
}

/// Manifests in the kubelet's directory.
fn wanted(line: &str) -> bool {
    line.starts_with("manifests/")
}

/// Trees that are made anew begin with generation 1.
fn after_memory(lines: &[String]) -> Vec<String> {
    let renumbered = |line: &String| {
        if line.starts_with("secrets/") {
            line.replace("/..2", "/..1").replace("-> ..2", "-> ..1")
        } else {
            line.clone()
        }
    };
    lines.iter().map(renumbered).collect()
}

#[test]
fn a_power_cut_while_recovering_is_no_worse_than_one() {
    let (_, ends) = uncut();
    let (_, seen) = every_loss(images() / 4, |sandbox, what| {
        // The first pass after the power cut is killed half-way, and begun again.
        pass(sandbox, Some(Cut::From(what.len() % 40)), NOW);
        all_is_whole(sandbox, &format!("{what}, and killed"));
        pass(sandbox, None, NOW);
        pass(sandbox, None, NOW + 90);
        pass(sandbox, None, NOW + 180);
        assert_eq!(sandbox.listing(), ends[1], "{what}, and killed");
    });
    assert!(seen > 0 && !after().0.get().pods.is_empty());
    println!("campaign: render cuts while recovering: {seen} media judged, 0 partial trees, 0 panics");
}
