//! The short form of the benchmark: everything that it does is done, and its results are right. Times are nobody's business
//! here.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::path::Path;
use std::process::Command;

#[test]
fn every_section_comes_to_its_end_with_right_results() {
    let bench = Path::new(env!("CARGO_BIN_EXE_ckpt-db-bench"));
    // Cargo names the programs of this package only; `cargo test --workspace` builds the other one beside it.
    let program = bench.with_file_name("ckpt-db");
    if !program.exists() {
        println!("SKIPPED: {} is not built (cargo build, or cargo test --workspace)", program.display());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("bench.json");
    let mut command = Command::new(bench);
    command.args(["--short", "--json"]).arg(&json).arg("--scratch").arg(directory.path().join("scratch"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    for section in ["commit", "cold start", "poller", "steady", "binary"] {
        assert!(found[section].is_object(), "{section} is missing in {found:#}");
    }
    assert!(found["fleet"].is_array(), "fleet is missing in {found:#}");
    assert!(found["figures"].as_array().unwrap().len() > 20, "{found:#}");
}
