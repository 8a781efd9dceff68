//! Measures the program against floors and peers: every figure is a ratio of medians from interleaved rounds of one run.
//!
//! `just bench` builds the program as it is shipped and runs all of it. A time alone says little, since it is that of one
//! machine in one moment; a ratio of two things that were done in turns holds elsewhere too. The table goes to standard
//! output, and with `--json FILE` everything that was measured to a file. docs/performance.md explains the figures.
//!
//! The exit code tells of wrong results only, never of times: 0, also where a target is missed.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a benchmark")]
#![allow(clippy::print_stdout, reason = "the result")]
#![allow(clippy::print_stderr, reason = "how far it is")]

mod agent;
mod binary;
mod cluster;
mod cold_start;
mod commit;
mod disk;
#[path = "../../tests/fake/mod.rs"]
mod fake;
mod fleet;
mod measure;
mod node;
mod peers;
mod poller;
mod replay;
mod report;
mod steady;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use report::Report;

/// Measure ckpt-db against floors and peers
#[derive(Parser)]
struct Options {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    sections: Vec<Section>,

    /// The program [default: `ckpt-db` beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,

    /// The same program with the machine's C library, in which allocations can be counted [default: `ckpt-db` beside this one, if
    /// there is one]
    #[arg(long, value_name = "FILE")]
    counted: Option<PathBuf>,

    /// Where stores and rendered files lie: on the disk that is to be measured [default: beside the program]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// Also write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Few rounds and small nodes: says whether it works, and nothing of times
    #[arg(long)]
    short: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// How long a change waits for durability
    Commit,
    /// From the start of the process to the last manifest
    ColdStart,
    /// From "API server dead, nothing rendered" to manifests, against a checkpointer that polls
    Poller,
    /// What a running agent takes: memory, processor, bytes written
    Steady,
    /// What many agents ask of one API server, a real one and the fake one
    Fleet,
    /// Size, start, dependencies
    Binary,
}

/// What every section needs.
struct Bench {
    program: PathBuf,
    /// The one in which allocations are counted: what is static takes no library for that.
    counted: PathBuf,
    scratch: PathBuf,
    short: bool,
}

impl Bench {
    /// How many rounds: `full`, or few where only the results count.
    fn rounds(&self, full: usize) -> usize {
        if self.short { 2 } else { full }
    }

    /// A directory on the disk that is measured. It stays until the end of all sections: see [`node::Node::unrender`].
    fn directory(&self) -> tempfile::TempDir {
        let mut directory = tempfile::tempdir_in(&self.scratch).unwrap();
        directory.disable_cleanup(true);
        directory
    }
}

fn main() {
    let options = Options::parse();
    let beside = |name| std::env::current_exe().unwrap().with_file_name(name);
    let program = options.program.unwrap_or_else(|| beside("ckpt-db"));
    assert!(program.is_file(), "there is no {}: build it with the same profile", program.display());
    let scratch = options.scratch.unwrap_or_else(|| beside("bench-scratch"));
    std::fs::create_dir_all(&scratch).unwrap();
    let scratch = tempfile::tempdir_in(scratch).unwrap();
    let program = std::fs::canonicalize(program).unwrap();
    let counted = options.counted.unwrap_or_else(|| beside("ckpt-db"));
    let counted = if counted.is_file() { counted } else { program.clone() };
    let bench = Bench { program, counted, scratch: scratch.path().to_owned(), short: options.short };
    let mut report = Report::new(&bench);
    for section in Section::value_variants() {
        if !options.sections.is_empty() && !options.sections.contains(section) {
            continue;
        }
        eprintln!("{section:?} ...");
        match section {
            Section::Commit => commit::measure(&bench, &mut report),
            Section::ColdStart => cold_start::measure(&bench, &mut report),
            Section::Poller => poller::measure(&bench, &mut report),
            Section::Steady => steady::measure(&bench, &mut report),
            Section::Fleet => fleet::measure(&bench, &mut report),
            Section::Binary => binary::measure(&bench, &mut report),
        }
    }
    print!("{}", report.table());
    if let Some(path) = options.json {
        std::fs::write(path, format!("{:#}\n", report.json())).unwrap();
    }
}
