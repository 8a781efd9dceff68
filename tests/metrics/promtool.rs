//! promtool, where there is one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where it is. `None`: it was said that something is skipped.
pub(crate) fn promtool(what: &str) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics/promtool.sh");
    let found = Command::new(script).arg("--cached").output().unwrap();
    if found.status.success() {
        return Some(String::from_utf8(found.stdout).unwrap().trim().into());
    }
    let why = String::from_utf8_lossy(&found.stderr).trim().to_owned();
    assert!(std::env::var_os("CKPT_DB_REQUIRE_PROMTOOL").is_none(), "{what}: {why}");
    println!("SKIPPED {what}: {why}");
    None
}

/// Asserts that it has nothing to say against it.
#[track_caller]
pub(crate) fn is_fine(promtool: &Path, arguments: &[&str], input: &str) {
    let mut command = Command::new(promtool);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}\n{}", String::from_utf8_lossy(&said));
}
