//! How often the agent allocates for an event: counted in the agent itself by glibc's own library for that, which tells the
//! sum at the end. So of three agents at the same server's contents one hears of nothing, and is what the others are
//! compared with.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PATIENCE, Scene};
use crate::Bench;
use crate::report::{Report, Target};

/// Part of the package of the C library, where that is glibc's. The loader looks for it where libraries are.
const COUNTER: &str = "libmemusage.so";

/// What an agent has allocated from its start to its end.
struct Allocated {
    calls: u64,
    bytes: u64,
}

pub(super) fn measure(bench: &Bench, report: &mut Report, directory: &Path) -> Value {
    let pods = if bench.short { 5 } else { 110 };
    let period = Duration::from_millis(if bench.short { 200 } else { 4000 });
    let run = |what: &str, each_second: u32| {
        let directory = directory.join(format!("allocations-{what}"));
        // Counted is one that finds its store: how many steps the first filling takes differs from time to time.
        let scene = Scene::with(&bench.counted, &directory, pods);
        until_quiet(&scene);
        let scene = scene.again(&bench.counted, &directory, &[("LD_PRELOAD", COUNTER)]);
        until_quiet(&scene);
        let events = scene.send(each_second, period);
        let last = (events > 0).then(|| scene.change(events));
        until_quiet(&scene);
        let Scene { agent, root, .. } = scene;
        agent.stop();
        if let Some(last) = last {
            assert!(Scene::is_stored(bench, &root, &last), "{what}: the last event was not stored");
        }
        let said = std::fs::read_to_string(directory.join("agent.log")).unwrap();
        (f64::from(events + 1), Allocated::read(&said))
    };
    let (_, Some(nothing)) = run("nothing", 0) else {
        eprintln!("  SKIPPED, not measured: allocations ({} can't be counted with {COUNTER})", bench.counted.display());
        return Value::Null;
    };
    let mut found = serde_json::Map::new();
    let rows = [("alone", "an event that comes alone", 50), ("churn", "each event of 10,000 a second", 10_000)];
    for (what, shown, each_second) in rows {
        let (events, allocated) = run(what, each_second);
        let allocated = allocated.expect("the first one was counted");
        let calls = (allocated.calls as f64 - nothing.calls as f64) / events;
        let bytes = (allocated.bytes as f64 - nothing.bytes as f64) / events;
        let basis =
            format!("{:.1} KiB, {events} events, {pods} pods; {} without an event", bytes / 1024.0, nothing.calls);
        report.row("churn", format!("allocations for {shown}"), (calls, ""), Target::None, basis);
        found.insert(what.to_owned(), json!({"events": events, "calls_per_event": calls, "bytes_per_event": bytes}));
    }
    found.into()
}

/// Waits until the agent has nothing to do any more. Asking it would count.
fn until_quiet(scene: &Scene) {
    let deadline = Instant::now() + PATIENCE;
    let mut before = scene.usage().processor;
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let now = scene.usage().processor;
        if now.saturating_sub(before) <= Duration::from_millis(10) {
            return;
        }
        assert!(Instant::now() < deadline, "the agent is busy without end");
        before = now;
    }
}

impl Allocated {
    /// Of the summary that the library writes at the end; none if there is no such summary.
    fn read(said: &str) -> Option<Self> {
        let (_, summary) = said.rsplit_once("Memory usage summary:")?;
        let plain = without_colours(summary);
        let row = |name: &str| -> Option<[u64; 2]> {
            let row = plain.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix('|'))?;
            let mut numbers = row.split_whitespace().map(|word| word.parse().ok());
            Some([numbers.next()??, numbers.next()??])
        };
        let [malloc, realloc, calloc] = [row("malloc")?, row("realloc")?, row("calloc")?];
        let sum = |at: usize| malloc[at] + realloc[at] + calloc[at];
        Some(Self { calls: sum(0), bytes: sum(1) })
    }
}

fn without_colours(text: &str) -> String {
    let mut pieces = text.split('\x1b');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |plain, piece| plain + piece.split_once('m').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read_with_its_colours() {
        let said = "ready\n\n\x1b[01;32mMemory usage summary:\x1b[0;0m heap total: 749908, heap peak: 1, stack peak: 2\n\
            \x1b[04;34m         total calls   total memory   failed calls\x1b[0m\n\
            \x1b[00;34m malloc|\x1b[0m       1569         749572              0\x1b[00;00m\n\
            \x1b[00;34mrealloc|\x1b[0m          3            184              0\x1b[00;00m  (nomove:0, dec:0, free:0)\n\
            \x1b[00;34m calloc|\x1b[0m          1            152              0\x1b[00;00m\n\
            \x1b[00;34m   free|\x1b[0m       1549         749259\n";
        let Some(Allocated { calls, bytes }) = Allocated::read(said) else { panic!("nothing was read") };
        assert_eq!((calls, bytes), (1573, 749_908));
        assert!(Allocated::read("ERROR: ld.so: object 'libmemusage.so' cannot be preloaded: ignored.\n").is_none());
    }
}
