//! Each block of commands is run by a test, or says why it can't be.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use super::markdown::{Block, Marker, pages, split};
use super::scenes::{SCENES, Scene};
use super::session;

/// What else stands in blocks: settings and what programs print.
const OTHERS: [&str; 10] = ["text", "yaml", "json", "ini", "toml", "rust", "mermaid", "promql", "c", "python"];

/// The words that a diagram begins with.
const DIAGRAMS: [&str; 3] = ["flowchart", "sequenceDiagram", "stateDiagram-v2"];

/// What is not right about a page's blocks.
fn problems(page: &str, blocks: &[Block], scene: Option<Scene>) -> Vec<String> {
    let mut wrong = Vec::new();
    for block in blocks {
        let at = format!("{page}:{}", block.line);
        for marker in &block.markers {
            match marker {
                Marker::Unknown(text) if block.language == "sh" => wrong.push(format!("{at}: what is '{text}'?")),
                Marker::NotRun(why) if why.split(' ').count() < 3 => wrong.push(format!("{at}: why is it not run?")),
                Marker::NotRun(_) | Marker::Given(_) | Marker::Then(_) | Marker::Exits(..) | Marker::Unknown(_) => {}
            }
        }
        match block.language.as_str() {
            "sh" if block.not_run().is_none() && scene.is_none() => {
                wrong.push(format!("{at}: commands that no test runs: name the page in scenes.rs, or say why not"));
            }
            "sh" => {}
            "mermaid" => {
                if !DIAGRAMS.iter().any(|kind| block.text.trim_start().starts_with(kind)) {
                    wrong.push(format!("{at}: no diagram of a known kind"));
                }
            }
            // What describes octets names no language.
            "" if !page.starts_with("docs/") && page != "README.md" => {}
            language if OTHERS.contains(&language) => {}
            language => wrong.push(format!("{at}: '{language}' is no language of a block")),
        }
    }
    wrong
}

#[test]
fn each_block_is_run_or_says_why_not() {
    let mut wrong = Vec::new();
    let (mut run, mut not_run) = (0, 0);
    for (page, text) in pages() {
        let (blocks, _) = split(&text);
        let scene = SCENES.iter().find(|(path, _)| *path == page).map(|(_, scene)| *scene);
        wrong.extend(problems(&page, &blocks, scene));
        for block in blocks.iter().filter(|block| block.language == "sh") {
            if block.not_run().is_some() { not_run += 1 } else { run += 1 }
        }
    }
    for (page, _) in SCENES {
        if !Path::new(page).exists() {
            wrong.push(format!("scenes.rs names {page}, which is not there"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(run > not_run, "most blocks are not run: {run} are, {not_run} are not");
}

#[test]
fn what_is_wrong_with_a_block_is_seen() {
    #[rustfmt::skip]
    let rows = [
        ("<!-- not run: it needs a TPM -->\n```sh\nls\n```\n",   None,                  0),
        ("<!-- not run: no -->\n```sh\nls\n```\n",               None,                  1),
        ("```sh\nls\n```\n",                                     None,                  1),
        ("```sh\nls\n```\n",                                     Some(Scene::Checkout), 0),
        ("<!-- not run: it needs a TPM -->\ntext\n```sh\nls\n```\n", None,              1),
        ("<!-- gvien: ls -->\n```sh\nls\n```\n",                 Some(Scene::Checkout), 1),
        ("```\nls\n```\n",                                       Some(Scene::Checkout), 1),
        ("```mermaid\npie\n```\n",                               None,                  1),
    ];
    for (text, scene, wanted) in rows {
        assert_eq!(problems("docs/page.md", &split(text).0, scene).len(), wanted, "{text}");
    }
}

/// The pages for which a checkout does. `cargo run --` is the program that was built for the tests, since cargo itself would
/// wait for them; `.ci/run` runs the same commands with it.
#[test]
fn commands_in_a_checkout() {
    const CARGO: &str = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec ckpt-db \"$@\"\n";
    for (page, _) in SCENES.iter().filter(|(_, scene)| *scene == Scene::Checkout) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("bin")).unwrap();
        fs::create_dir(path("checkout")).unwrap();
        for name in ["examples", "dist", "docs"] {
            symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), path("checkout").join(name)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_ckpt-db"), path("bin/ckpt-db")).unwrap();
        fs::write(path("bin/cargo"), CARGO).unwrap();
        fs::set_permissions(path("bin/cargo"), fs::Permissions::from_mode(0o755)).unwrap();
        let script = session::script(page, &split(&fs::read_to_string(page).unwrap()).0);
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(path("checkout"))
            .env("PATH", format!("{}:{}", path("bin").display(), std::env::var("PATH").unwrap()))
            .env_remove("NODE_NAME")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        session::judge(page, &output).unwrap_or_else(|told| panic!("{told}"));
    }
}
