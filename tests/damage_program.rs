//! Flipped octets in the store, through the program: no panic, no hang, no wrong value printed or rendered, and a pod that
//! lost anything it needs is not rendered.

#![allow(clippy::print_stdout, reason = "the figures of the campaign")]
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::program::{Entry, Listing, MARKER, Node, Ran, STORE, What};
use serde_json::Value;

/// So many in an ordinary run; `CKPT_DB_FLIPS=N` makes more.
const FLIPS: u64 = 40;
/// Given with every failure; another one may be tried by `CKPT_DB_SEED`.
const SEED: u64 = 0x5eed_0001;

/// How long one command may take. They take a tenth of a second, but for a damaged reference to a page, which can claim
/// gigabytes that are filled with zeros: on a machine with other work to do that takes half a minute.
const HANG: Duration = Duration::from_secs(180);

/// Spread over the file, and the head of every page; the halves run side by side.
#[test]
fn flips_at_even_places() {
    flips(0);
}

#[test]
fn flips_at_odd_places() {
    flips(1);
}

fn flips(first: usize) {
    let seed = std::env::var("CKPT_DB_SEED").ok().map_or(SEED, |seed| seed.parse().expect("a seed is a number"));
    let node = Node::with_example();
    let sound = Sound::of(&node);
    let mut random = Random(seed);
    let mut tally = Tally::default();
    for offset in offsets(&sound.store, &mut random).into_iter().skip(first).step_by(2) {
        let mut damaged = sound.store.clone();
        // A wild change and a subtle one in turn.
        let mask = if random.below(2) == 0 { 0xff } else { 1 << random.below(8) };
        damaged[offset] ^= mask;
        fs::write(node.at(STORE), &damaged).unwrap();
        let what = format!("octet {offset} changed by {mask:#04x}, CKPT_DB_SEED={seed}");
        judge(&node, &sound, &what, &mut tally);
        assert!(fs::read(node.at(STORE)).unwrap() == damaged, "{what}: the evidence was touched");
    }
    let mut messages = std::io::stderr();
    let _ = writeln!(messages, "\nCKPT_DB_SEED={seed}: {tally:?}");
    assert!(tally.flips >= flips_wanted() / 2);
    assert!(tally.objects_lost > 5 && tally.pods_lost > 2, "flips that cost nothing show nothing: {tally:?}");
    assert_eq!(tally.unreadable, 0, "one flip costs the records that it touches: {tally:?}");
}

fn flips_wanted() -> u64 {
    std::env::var("CKPT_DB_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(FLIPS)
}

/// More than flips: the file is judged as it lies there, then its source is told again, which rebuilds it.
#[test]
fn a_store_is_rebuilt_from_what_is_left_of_it_and_its_source() {
    const PAGE: usize = 4096;
    let node = Node::with_example();
    let sound = Sound::of(&node);
    let mut random = Random(SEED);
    let used = |page: &usize| sound.store[page * PAGE..(page + 1) * PAGE].iter().any(|octet| *octet != 0);
    let pages: Vec<usize> = (1..sound.store.len() / PAGE).filter(used).collect();
    let mut tally = Tally::default();
    for case in 0..flips_wanted() / 5 {
        let mut damaged = sound.store.clone();
        let mut page = || pages[random.below(pages.len() as u64) as usize] * PAGE;
        let (first, second) = (page(), page());
        match case % 7 {
            0 => damaged[first..first + PAGE].fill(0),
            1 => {
                damaged[first..first + PAGE].copy_from_slice(&sound.store[second..second + PAGE]);
                damaged[second..second + PAGE].copy_from_slice(&sound.store[first..first + PAGE]);
            }
            2 => damaged.truncate(first),
            3 => damaged.truncate(first + 1000),
            4 => damaged[first..first + PAGE].iter_mut().for_each(|octet| *octet = random.below(256) as u8),
            5 => damaged[..PAGE].fill(0),
            _ => damaged.extend((0..5000).map(|_| random.below(256) as u8)),
        }
        fs::write(node.at(STORE), &damaged).unwrap();
        let what = format!("case {case}, at {first}");
        let lost = tally.objects_lost;
        judge(&node, &sound, &what, &mut tally);
        assert!(fs::read(node.at(STORE)).unwrap() == damaged, "{what}: the evidence was touched");
        assert!(case % 7 != 6 || tally.objects_lost == lost, "{what}: what lies behind the end costs nothing");

        let ran = node.run_source();
        let kept = ckpt_db::store::kept_beside(&node.at(STORE));
        assert_eq!(ran.code, Some(0), "{what}: {}", ran.stderr);
        assert_eq!(ran.stderr.contains("was damaged"), !kept.is_empty(), "{what}: {}", ran.stderr);
        assert!(kept.iter().all(|kept| fs::read(kept).unwrap() == damaged), "{what}: the evidence is gone");
        assert!(objects(&node.dump()) == sound.objects, "{what}: not everything is there again");
        let verified = node.ran("verify", &[]);
        assert!(kept.is_empty() || verified.code == Some(0), "{what}: {}", verified.stdout);
        common::program::assert_same(&node.rendered(), &sound.rendered, &what);
        tally.rebuilt += kept.len();
        kept.iter().for_each(|kept| fs::remove_file(kept).unwrap());
    }
    let _ = writeln!(std::io::stderr(), "\n{tally:?}");
    assert!(tally.rebuilt >= 4, "{tally:?}");
}

/// The node before any damage.
struct Sound {
    store: Vec<u8>,
    /// By kind, namespace and name.
    objects: BTreeMap<[String; 3], Value>,
    /// Everything below `etc`.
    rendered: Listing,
    /// What each rendered pod needs, as its own text says.
    needs: BTreeMap<[String; 3], BTreeSet<[String; 3]>>,
}

impl Sound {
    fn of(node: &Node) -> Self {
        let objects = objects(&node.dump());
        let rendered = node.rendered();
        let pods = objects.iter().filter(|(key, _)| key[0] == "Pod");
        let needs = pods.map(|(key, pod)| {
            let mut needed = BTreeSet::from([key.clone()]);
            collect_needs(&pod["spec"], &key[1], &mut needed);
            needed.retain(|key| objects.contains_key(key));
            (key.clone(), needed)
        });
        Self { store: fs::read(node.at(STORE)).unwrap(), needs: needs.collect(), objects, rendered }
    }
}

#[derive(Debug, Default)]
struct Tally {
    flips: u64,
    unnoticed: u64,
    objects_lost: usize,
    pods_lost: usize,
    unreadable: u64,
    rebuilt: usize,
    /// Manifests that lack the variables of a lost Service, and nothing else.
    without_a_service: u64,
}

fn judge(node: &Node, sound: &Sound, what: &str, tally: &mut Tally) {
    tally.flips += 1;
    let run = |subcommand, args: &[&str]| guarded(node.command(subcommand, args), what);
    let verify = run("verify", &[]);
    let dump = run("dump", &["-o", "json", "--reveal"]);
    node.remove_rendered();
    let started = run("run", &["--once"]);
    let rendered = node.rendered();

    let found = if dump.stdout.is_empty() { BTreeMap::new() } else { objects(&dump.json()) };
    for (key, object) in &found {
        if is_sealed(object) {
            continue;
        }
        assert!(sound.objects.get(key) == Some(object), "{what}: a wrong {key:?} was printed");
    }
    let lost: BTreeSet<&[String; 3]> =
        sound.objects.keys().filter(|key| found.get(*key).is_none_or(is_sealed)).collect();
    if dump.code == Some(2) {
        let _ = writeln!(std::io::stderr(), "{what}: {}", dump.stderr.trim_end());
        tally.unreadable += 1;
    }
    tally.objects_lost += lost.len();
    tally.unnoticed += u64::from(verify.code == Some(0));
    // Whoever lost something is told.
    assert!(lost.is_empty() || verify.code != Some(0), "{what}: {lost:?} is lost, and verify finds nothing");

    for (path, entry) in &rendered {
        assert!(!path.ends_with(MARKER), "{what}: nothing was active before");
        let original = sound.rendered.get(path).unwrap_or_else(|| panic!("{what}: {path:?} out of nowhere"));
        if entry != original {
            assert_lacks_only_services(entry, original, &lost, &format!("{what}: {}", path.display()));
            tally.without_a_service += 1;
        }
    }
    let mut all_there = true;
    for (pod, needed) in &sound.needs {
        let manifest = format!("{}_{}.json", pod[1], pod[2]);
        let places =
            ["kubernetes/manifests", "kubernetes/inactive-manifests"].map(|at| PathBuf::from(at).join(&manifest));
        if !places.iter().any(|path| sound.rendered.contains_key(path)) {
            continue;
        }
        let is_there = places.iter().any(|path| rendered.contains_key(path));
        let missing: Vec<_> = needed.iter().filter(|key| lost.contains(key)).collect();
        assert!(missing.is_empty() || !is_there, "{what}: {pod:?} was rendered without {missing:?}");
        all_there &= is_there;
        tally.pods_lost += usize::from(!is_there);
    }
    assert!(all_there || started.code != Some(0), "{what}: a pod is lost, and run says that all is fine");
}

/// A Service that is lost takes its environment variables with it, as it does for a pod that starts before its Services:
/// that keeps no pod from coming back. Everything else must be as it was.
fn assert_lacks_only_services(found: &Entry, original: &Entry, lost: &BTreeSet<&[String; 3]>, what: &str) {
    assert_eq!(found.mode, original.mode, "{what}");
    let parse = |entry: &Entry| match &entry.what {
        What::File(bytes) => serde_json::from_slice::<Value>(bytes).ok(),
        What::Link(_) | What::Directory | What::Other => None,
    };
    let (Some(found), Some(mut want)) = (parse(found), parse(original)) else {
        panic!("{what} was rendered wrongly");
    };
    let services = lost.iter().filter(|key| key[0] == "Service").map(|key| key[2].to_uppercase().replace('-', "_"));
    let prefixes: Vec<String> =
        services.flat_map(|name| [format!("{name}_SERVICE_"), format!("{name}_PORT")]).collect();
    for list in ["containers", "initContainers"] {
        for container in want["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(variables) = container.get_mut("env").and_then(Value::as_array_mut) {
                variables.retain(|variable| {
                    let name = variable["name"].as_str().unwrap_or_default();
                    !prefixes.iter().any(|prefix| name.starts_with(prefix))
                });
            }
        }
    }
    assert!(found == want, "{what} was rendered wrongly");
}

/// Runs a command that must end by itself, soon, and without a panic.
fn guarded(mut command: Command, what: &str) -> Ran {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |from: &mut dyn std::io::Read| {
        let mut text = String::new();
        from.read_to_string(&mut text).expect("output is UTF-8");
        text
    };
    let (id, done) = (child.id(), std::sync::mpsc::channel::<()>());
    let arguments: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let (stdout, stderr, status) = std::thread::scope(|scope| {
        let out = scope.spawn(|| read(&mut stdout));
        let err = scope.spawn(|| read(&mut stderr));
        let guard = scope.spawn(move || {
            // Its end comes as the sender's; only a hang lets the time pass.
            if done.1.recv_timeout(HANG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let pid = rustix::process::Pid::from_raw(id as i32).expect("a process has a number");
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        });
        let status = child.wait().unwrap();
        drop(done.0);
        guard.join().unwrap();
        (out.join().unwrap(), err.join().unwrap(), status)
    });
    let ran = Ran { what: arguments.join(" "), code: status.code(), stdout, stderr };
    assert!(begun.elapsed() < HANG, "{what}: {} hangs", ran.what);
    assert!(matches!(ran.code, Some(0..=2)), "{what}: {} ended with {:?}: {}", ran.what, status, ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{what}: {}: {}", ran.what, ran.stderr);
    // What can't be done is said.
    assert!(ran.code != Some(2) || ran.stderr.contains("error: "), "{what}: {} says nothing", ran.what);
    ran
}

/// The items of a list, by kind, namespace and name.
fn objects(list: &Value) -> BTreeMap<[String; 3], Value> {
    let items = list["items"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let key = |item: &Value| {
        let metadata = &item["metadata"];
        [text(&item["kind"]), text(&metadata["namespace"]), text(&metadata["name"])]
    };
    let objects: BTreeMap<_, _> = items.iter().map(|item| (key(item), item.clone())).collect();
    assert_eq!(objects.len(), items.len(), "each object is listed once");
    objects
}

fn is_sealed(object: &Value) -> bool {
    object["metadata"]["annotations"]["ckpt-db.io/sealed"] == "true"
}

/// The ConfigMaps and Secrets that a pod's spec names anywhere, but for image credentials and what is optional.
fn collect_needs(value: &Value, namespace: &str, needs: &mut BTreeSet<[String; 3]>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_needs(item, namespace, needs)),
        Value::Object(members) => {
            for (member, value) in members {
                let kind = match member.as_str() {
                    "secret" | "secretRef" | "secretKeyRef" => "Secret",
                    "configMap" | "configMapRef" | "configMapKeyRef" => "ConfigMap",
                    "imagePullSecrets" => continue,
                    _ => {
                        collect_needs(value, namespace, needs);
                        continue;
                    }
                };
                let name = value["secretName"].as_str().or(value["name"].as_str());
                if let Some(name) = name.filter(|_| value["optional"] != true) {
                    needs.insert([kind.to_owned(), namespace.to_owned(), name.to_owned()]);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Offsets spread over the header and the pages that are in use: one somewhere in each of as many equal parts, and the
/// first octet of each page, which says what the page is.
fn offsets(store: &[u8], random: &mut Random) -> Vec<usize> {
    let used = |page: &&[u8]| page.iter().any(|octet| *octet != 0);
    let pages = store.chunks(4096).enumerate().filter(|(_, page)| used(page));
    let pages: Vec<usize> = pages.map(|(number, _)| number * 4096).collect();
    // Of the first page only the header's 320 octets mean anything.
    let within = |start: &usize| *start..*start + if *start == 0 { 320 } else { 4096 };
    let all: Vec<usize> = pages.iter().flat_map(within).filter(|at| *at < store.len()).collect();
    let wanted = flips_wanted().min(all.len() as u64);
    let part = all.len() as u64 / wanted;
    let spread = (0..wanted).map(|n| all[(n * part + random.below(part)) as usize]);
    let heads = if wanted > FLIPS { 1 } else { 2 };
    spread.chain(pages.iter().copied().step_by(heads)).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// The reference that what is found is compared with has to name what pods need.
#[test]
fn needs_are_found() {
    let node = Node::with_example();
    let sound = Sound::of(&node);
    let named = |kind: &str, namespace: &str, name: &str| [kind, namespace, name].map(str::to_owned);
    let orders = &sound.needs[&named("Pod", "shop", "orders-api-6b5f4d7c98-tn2vw")];
    let want = [
        named("ConfigMap", "shop", "kube-root-ca.crt"),
        named("ConfigMap", "shop", "orders-assets"),
        named("ConfigMap", "shop", "orders-config"),
        named("ConfigMap", "shop", "orders-files"),
        named("Pod", "shop", "orders-api-6b5f4d7c98-tn2vw"),
        named("Secret", "shop", "orders-db"),
        named("Secret", "shop", "orders-tls"),
        named("Secret", "shop", "payment-gateway"),
    ];
    assert_eq!(*orders, BTreeSet::from(want));
    assert!(sound.rendered.values().any(|entry| matches!(entry.what, What::File(_))));
}
