//! What pages name of the program is there: subcommands and their options, recipes of the justfile.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::markdown::{pages, spans, split};

/// The help of each subcommand that was asked for; `None` where there is no such subcommand.
#[derive(Default)]
struct Help(BTreeMap<Vec<String>, Option<String>>);

impl Help {
    fn of(&mut self, subcommand: &[String]) -> Option<&str> {
        let ask = || {
            let output = Command::new(env!("CARGO_BIN_EXE_ckpt-db")).args(subcommand).arg("--help").output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        };
        self.0.entry(subcommand.to_owned()).or_insert_with(ask).as_deref()
    }

    /// What is not right about one command line.
    fn problem(&mut self, words: &[&str]) -> Option<String> {
        let mut subcommand = Vec::new();
        let mut rest = words;
        while let [word, after @ ..] = rest {
            let mut longer = subcommand.clone();
            longer.push((*word).to_owned());
            // A value is no subcommand of one that has none.
            let group =
                self.of(&subcommand).is_some_and(|help| help.contains("<COMMAND>") || help.contains("[COMMAND]"));
            if word.starts_with('-') || !group {
                break;
            }
            if self.of(&longer).is_none() {
                return subcommand.is_empty().then(|| format!("there is no subcommand '{word}'"));
            }
            (subcommand, rest) = (longer, after);
        }
        let help = self.of(&subcommand)?;
        let options = rest.iter().filter(|word| word.starts_with("--") && word.len() > 2);
        let mut names = options.map(|word| word.split(['=', ',']).next().unwrap_or(word));
        let named = |name: &str| {
            help.match_indices(name)
                .any(|(at, _)| !help[at + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '-'))
        };
        let missing = names.find(|name| !named(name) && *name != "--version");
        missing.map(|name| format!("'ckpt-db {}' has no option {name}", subcommand.join(" ")))
    }
}

/// The command lines of `ckpt-db` in a text, each without the program's name.
fn command_lines(text: &str) -> Vec<Vec<&str>> {
    let joined =
        text.split(['\n', ';', '|', '(', ')']).flat_map(|part| part.split("&&")).flat_map(|part| part.split(" -- "));
    let words = joined.map(|part| part.split_whitespace().take_while(|word| *word != "#").collect::<Vec<_>>());
    let of_ours = words.filter_map(|words| match words[..] {
        ["ckpt-db" | "/ckpt-db" | "/usr/local/bin/ckpt-db", ref rest @ ..] => Some(rest.to_vec()),
        _ => None,
    });
    of_ours.collect()
}

#[test]
fn commands_and_options_are_there() {
    let mut help = Help::default();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (page, text) in pages() {
        // Of what was, and of what the program says of itself.
        if ["CHANGELOG.md", "docs/reference/cli.md"].contains(&page.as_str()) {
            continue;
        }
        let (blocks, prose) = split(&text);
        let spans =
            prose.iter().flat_map(|(line, text)| spans(text).into_iter().map(move |span| (*line, span.to_owned())));
        let shown = blocks.iter().filter(|block| block.language == "sh");
        let shown = shown.map(|block| (block.line, block.text.replace("\\\n", " ")));
        for (line, text) in spans.chain(shown) {
            for words in command_lines(&text) {
                seen += 1;
                wrong.extend(help.problem(&words).map(|problem| format!("{page}:{line}: {problem}")));
            }
        }
    }
    assert!(seen > 50, "the commands were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_command_that_is_none_is_named() {
    let mut help = Help::default();
    #[rustfmt::skip]
    let rows = [
        ("ckpt-db plan --root demo",                       0),
        ("ckpt-db key add --recovery-code",                0),
        ("systemctl stop ckpt-db; ckpt-db plam",           1),
        ("ckpt-db plan --rooot demo",                      1),
        ("ckpt-db plan --roo demo",                        1),
        ("kubectl exec x -- /ckpt-db status --whatever",   1),
        ("ckpt-db hold shop/web",                          0),
        ("ckpt-db key rotate --whatever && ckpt-db nothing", 2),
        ("the ckpt-db program",                            0),
    ];
    for (text, wanted) in rows {
        let found = command_lines(text).iter().filter(|words| help.problem(words).is_some()).count();
        assert_eq!(found, wanted, "{text}");
    }
}

#[test]
fn recipes_are_there() {
    let justfile = fs::read_to_string("justfile").unwrap();
    let recipe = |name: &str| {
        justfile
            .lines()
            .any(|line| line.split([' ', ':']).next() == Some(name) && line.contains(':') && !line.starts_with(' '))
    };
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        let (blocks, prose) = split(&text);
        let spans =
            prose.iter().flat_map(|(_, line)| spans(line)).flat_map(|span| span.split("; ").collect::<Vec<_>>());
        let shown = blocks.iter().filter(|block| block.language == "sh").flat_map(|block| block.text.lines());
        for command in spans.chain(shown) {
            if let ["just", name, ..] = command.split_whitespace().collect::<Vec<_>>()[..]
                && !recipe(name.trim_end_matches(';'))
            {
                wrong.push(format!("{page}: the justfile has no recipe {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
