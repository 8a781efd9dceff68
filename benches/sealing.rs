//! What sealing costs at a cold start: 300 Secrets against 300 ConfigMaps of the same octets, as a ratio.
//!
//! The program itself is measured, from its start to its end, on two nodes that differ in the kind of their objects only.
//! Rounds of both are interleaved, so that whatever else the machine does meets both; the medians of one run are compared.
//! `SEALING_ROUNDS=N` (default 31) says how many; the result goes to `SEALING_JSON` too, if that names a file.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a benchmark")]
#![allow(clippy::print_stdout, reason = "the result")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::BASE64;

const PODS: usize = 30;
const OBJECTS_PER_POD: usize = 10;
const VALUE_BYTES: usize = 4096;

fn main() {
    let rounds = std::env::var("SEALING_ROUNDS").map_or(31, |rounds| rounds.parse().expect("a number of rounds"));
    // In memory, where there is such a place: syncing a disk would cover what is to be seen.
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let nodes = ["Secret", "ConfigMap"].map(|kind| prepare(&directory.path().join(kind), kind));
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (node, times) in nodes.iter().zip(&mut times) {
            let time = cold_start(node);
            // The first one fills the page cache.
            if round > 0 {
                times.push(time);
            }
        }
    }
    let [sealed, clear] = times.map(median);
    let ratio = sealed.as_secs_f64() / clear.as_secs_f64();
    let result = serde_json::json!({
        "benchmark": "cold start, sealed against clear",
        "objects": PODS * OBJECTS_PER_POD,
        "value_bytes": VALUE_BYTES,
        "rounds": rounds,
        "debug_build": cfg!(debug_assertions),
        "sealed_median_ms": millis(sealed),
        "clear_median_ms": millis(clear),
        "ratio": (ratio * 1000.0).round() / 1000.0,
    });
    println!("{result:#}");
    if let Some(path) = std::env::var_os("SEALING_JSON") {
        fs::write(path, format!("{result:#}\n")).unwrap();
    }
}

/// A node whose store holds pods that mount objects of this kind.
fn prepare(node: &Path, kind: &str) -> PathBuf {
    let source = node.join("source");
    fs::create_dir_all(&source).unwrap();
    let (field, volume, reference) =
        if kind == "Secret" { ("data", "secret", "secretName") } else { ("binaryData", "configMap", "name") };
    let mut seed = 1_u64;
    for pod in 0..PODS {
        let names: Vec<String> = (0..OBJECTS_PER_POD).map(|n| format!("object-{pod}-{n}")).collect();
        let volumes =
            names.iter().map(|name| format!("{{\"name\":\"{name}\",\"{volume}\":{{\"{reference}\":\"{name}\"}}}}"));
        let volumes = volumes.collect::<Vec<_>>().join(",");
        let mut text = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"pod-{pod}\",\"namespace\":\"bench\",\
             \"uid\":\"uid-{pod}\"}},\"spec\":{{\"nodeName\":\"edge-1\",\"containers\":[{{\"name\":\"c\",\
             \"image\":\"registry.example/app:1\"}}],\"volumes\":[{volumes}]}},\"status\":{{\"phase\":\"Running\"}}}}\n"
        );
        for name in &names {
            let value = BASE64.encode(&noise(&mut seed));
            text.push_str(&format!(
                "{{\"apiVersion\":\"v1\",\"kind\":\"{kind}\",\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"bench\"}},\
                 \"{field}\":{{\"value\":\"{value}\"}}}}\n"
            ));
        }
        fs::write(source.join(format!("pod-{pod}.json")), text).unwrap();
    }
    let root = node.join("root");
    run(&root, |command| {
        command.arg("--generate-node-key").arg("--manifests").arg(&source);
    });
    root
}

/// Octets that do not compress, the same in each run.
fn noise(seed: &mut u64) -> Vec<u8> {
    (0..VALUE_BYTES)
        .map(|_| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 56) as u8
        })
        .collect()
}

/// As after a power cut with the rendered files gone: everything is opened, judged and written from the store alone.
fn cold_start(root: &Path) -> Duration {
    fs::remove_dir_all(root.join("etc")).unwrap();
    let began = Instant::now();
    run(root, |_| {});
    began.elapsed()
}

fn run(root: &Path, options: impl FnOnce(&mut Command)) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ckpt-db"));
    command
        .args(["run", "--feature-gates=Checkpointing=true", "--once", "--secret-root-medium", "disk", "--root"])
        .arg(root);
    options(&mut command);
    let output = command.env_clear().stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rendered = fs::read_dir(root.join("etc/kubernetes/manifests")).unwrap().count();
    assert_eq!(rendered, PODS, "{}", String::from_utf8_lossy(&output.stdout));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}
