//! The program itself: its size, its start, what it is made of.

use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::Bench;
use crate::measure::{Contender, interleaved, millis, ratio};
use crate::report::{Report, Target};

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let bytes = std::fs::metadata(&bench.program).unwrap().len();
    let mib = bytes as f64 / f64::from(1 << 20);
    let shown = String::from_utf8(run("file", &["-bL", bench.program.to_str().unwrap()])).unwrap_or_default();
    // What is not stripped, or links a C library, is another program than the one that is shipped.
    let shipped = shown.contains("static") && shown.contains("stripped") && !shown.contains("not stripped");
    let target = if shipped { Target::AtMost(14.0) } else { Target::None };
    let details = match shipped {
        true if has_glibc(&bench.program) => "stripped and static, with glibc; what `make` builds by default has musl",
        true => "stripped and static, with musl",
        false => "not the shipped form, which is stripped and static",
    };
    report.row("binary", "size", (mib, "MiB"), target, details);
    let start = |program: &std::path::Path| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stdin(Stdio::null()).env_clear();
        let began = Instant::now();
        assert!(command.status().unwrap().success());
        began.elapsed()
    };
    let least = std::path::Path::new("/bin/true");
    let mut contenders: Vec<Contender<'_>> = vec![Box::new(|_| start(&bench.program)), Box::new(|_| start(least))];
    let times = interleaved(bench.rounds(100), &mut contenders);
    drop(contenders);
    let value = (ratio(times[0].median(), times[1].median()), "x");
    let basis = format!("{:.2} ms against {:.2} ms of /bin/true", millis(times[0].median()), millis(times[1].median()));
    report.row("binary", "start to --version", value, Target::None, basis);
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let tree =
        run("cargo", &["tree", "--manifest-path", manifest, "-p", "ckpt-db", "-e", "normal", "--prefix", "none"]);
    let text = String::from_utf8_lossy(&tree);
    let crates: std::collections::BTreeSet<&str> =
        text.lines().filter_map(|line| line.split(" (").next()).filter(|line| !line.is_empty()).collect();
    if !crates.is_empty() {
        report.row("binary", "crates", (crates.len() as f64, ""), Target::None, "with versions, itself included");
    }
    report.details(
        "binary",
        json!({"bytes": bytes, "start": times[0].json(), "bin_true": times[1].json(), "crates": crates.len()}),
    );
}

/// Whether the C library in a static program is glibc, which says so.
fn has_glibc(program: &std::path::Path) -> bool {
    let says = b"GNU C Library";
    std::fs::read(program).unwrap().windows(says.len()).any(|window| window == says)
}

/// What a tool says; nothing where it is not there.
fn run(tool: &str, options: &[&str]) -> Vec<u8> {
    Command::new(tool).args(options).output().map(|output| output.stdout).unwrap_or_default()
}
