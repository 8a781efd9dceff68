//! The commands of a page as one session of a shell.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::markdown::{Block, Marker};

/// A script that runs the blocks of a page one after the other in one shell, and ends at the first command whose exit code is
/// not the one that the page tells: 0, or what a comment behind the command says (`# exit code 1`).
pub(crate) fn script(page: &str, blocks: &[Block]) -> String {
    let mut script = "set -o pipefail\n".to_owned();
    let mut add = |line: usize, command: &str, wanted: i32, shown: bool| {
        let told = quoted(&format!("{page}:{line}: {command}"));
        script.push_str(&format!(
            "{}{command}\n__code=$?\n[ $__code -eq {wanted} ] || {{ printf '\\nFAILED with exit code %s, not {wanted}: %s\\n' \
             \"$__code\" {told}; exit 70; }}\n",
            if shown { format!("printf '\\n$ %s\\n' {told}\n") } else { String::new() },
        ));
    };
    for block in blocks.iter().filter(|block| block.language == "sh" && block.not_run().is_none()) {
        for marker in &block.markers {
            if let Marker::Given(command) = marker {
                add(block.line, command, 0, false);
            }
        }
        for command in commands(&block.text) {
            let here = block.markers.iter().find_map(|marker| match marker {
                Marker::Exits(code, begins) if command.starts_with(begins.as_str()) => Some(*code),
                _ => None,
            });
            add(block.line, &command, here.unwrap_or_else(|| exit_code(&command)), true);
        }
        for marker in &block.markers {
            if let Marker::Then(command) = marker {
                add(block.line, command, 0, false);
            }
        }
    }
    script.push_str("printf '\\nthe page ends\\n'\n");
    script
}

/// Whether a session went to the end of its page; if not, what it has printed.
pub(crate) fn judge(page: &str, output: &std::process::Output) -> Result<(), String> {
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let ended = output.status.success() && told.contains("the page ends");
    if ended { Ok(()) } else { Err(format!("{page}: {}\n{told}", output.status)) }
}

/// The exit code that the comment behind a command tells.
fn exit_code(command: &str) -> i32 {
    let told = command.split_once("# exit code ").map(|(_, code)| code);
    told.map_or(0, |code| code.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse().unwrap())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The commands of a block: a line, or as many as the shell needs to see the end of one.
fn commands(block: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut command = String::new();
    for line in block.lines() {
        command.push_str(line);
        command.push('\n');
        if !line.ends_with('\\') && whole(&command) {
            let text = std::mem::take(&mut command);
            let text = text.trim();
            found.extend((!text.is_empty() && !text.starts_with('#')).then(|| text.to_owned()));
        }
    }
    assert!(command.trim().is_empty(), "this does not end: {command}");
    found
}

/// Whether the shell takes it as it is. It warns of a here-document that does not end.
fn whole(command: &str) -> bool {
    let mut shell = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(command.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    output.status.success() && output.stderr.is_empty()
}

#[test]
fn a_session_ends_where_the_page_is_wrong() {
    let block = |text: &str, markers: Vec<Marker>| Block { line: 7, language: "sh".into(), text: text.into(), markers };
    #[rustfmt::skip]
    let rows = [
        ("true\n",                                 vec![],                                 true),
        ("false   # exit code 1\n",                vec![],                                 true),
        ("false && true\n",                        vec![],                                 false),
        ("true    # exit code 1\n",                vec![],                                 false),
        ("false | cat\n",                          vec![],                                 false),
        ("cd /\nX=1\n# a comment\n\n[ $X$PWD = 1/ ]\n", vec![],                            true),
        ("cat >/dev/null <<X\nfalse\nX\n",         vec![],                                 true),
        ("if true; then\n  echo \\\n  yes\nfi\n",  vec![],                                 true),
        ("exit 0\n",                               vec![],                                 false),
        ("true\n",                                 vec![Marker::Given("false".to_owned())], false),
        ("true\n",                                 vec![Marker::Then("false".to_owned())], false),
        ("[ $X = 1 ]\n",                           vec![Marker::Given("X=1".to_owned())],  true),
        ("false\n",                                vec![Marker::NotRun("why".to_owned())], true),
        ("true\nfalse\n",                          vec![Marker::Exits(1, "fal".to_owned())], true),
        ("false\ntrue\n",                          vec![Marker::Exits(1, "tru".to_owned())], false),
    ];
    for (text, markers, wanted) in rows {
        let script = script("page.md", &[block(text, markers)]);
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success() && said.contains("the page ends"), wanted, "{text}: {said}");
    }
}
