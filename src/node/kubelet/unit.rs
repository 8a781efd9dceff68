//! The command line with which systemd starts the kubelet: its unit, the unit's drop-ins and environment files
//! (systemd.unit(5), systemd.service(5), systemd.exec(5)), as far as kubelets' units go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::node::file::{self, below};

/// Where units lie, the strongest first.
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Where kubeadm and packages leave variables with flags, the strongest last.
const ENVIRONMENTS: [&str; 3] =
    ["/var/lib/kubelet/kubeadm-flags.env", "/etc/default/kubelet", "/etc/sysconfig/kubelet"];

/// The arguments of the next kubelet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CommandLine {
    /// Without the program.
    pub(super) arguments: Vec<String>,
    /// Whether nothing of it is missing.
    pub(super) complete: bool,
}

/// Reads it from the unit `kubelet.service`, or where there is none, or one that starts something else, from the usual
/// environment files.
///
/// # Errors
/// A file of these exists and can't be read.
pub(super) fn command_line(root: &Path) -> Result<CommandLine, String> {
    let mut service = Service::default();
    if let Some(text) = fragment(root)? {
        service.read(&text);
        for path in drop_ins(root)? {
            service.read(&file::text(&path)?.unwrap_or_default());
        }
        if let Some(command) = service.command(root)? {
            return Ok(command);
        }
    }
    let mut arguments = Vec::new();
    for path in ENVIRONMENTS {
        let text = file::text(&below(root, Path::new(path)))?.unwrap_or_default();
        let is_flags = |name: &str| name.starts_with("KUBELET_") && name.ends_with("_ARGS");
        for (_, value) in environment(&text).into_iter().filter(|(name, _)| is_flags(name)) {
            arguments.extend(words(&value));
        }
    }
    Ok(CommandLine { arguments, complete: false })
}

/// The unit itself; none if it is absent or masked (a link to `/dev/null`).
fn fragment(root: &Path) -> Result<Option<String>, String> {
    for directory in UNITS {
        let path = below(root, Path::new(directory)).join("kubelet.service");
        if is_masked(&path) {
            return Ok(None);
        }
        if let Some(text) = file::text(&path)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// Its drop-ins in the order of their names; of one name the strongest directory counts.
fn drop_ins(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for directory in UNITS {
        let directory = below(root, Path::new(directory)).join("kubelet.service.d");
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return Err(file::cannot("read", &directory, &error)),
        };
        for entry in entries {
            let path = entry.map_err(|error| file::cannot("read", &directory, &error))?.path();
            if let (Some(name), Some("conf")) = (path.file_name(), path.extension().and_then(|end| end.to_str())) {
                found.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    Ok(found.into_values().filter(|path| !is_masked(path)).collect())
}

fn is_masked(path: &Path) -> bool {
    std::fs::canonicalize(path).is_ok_and(|target| target == Path::new("/dev/null"))
}

/// What counts of the section `[Service]`.
#[derive(Debug, Default)]
struct Service {
    start: Vec<String>,
    environment: Vec<(String, String)>,
    files: Vec<String>,
}

impl Service {
    /// Lays a unit file or drop-in over what is there. An empty assignment takes back the earlier ones.
    fn read(&mut self, text: &str) {
        let mut is_service = false;
        for line in lines(text) {
            if line.starts_with('[') {
                is_service = line == "[Service]";
                continue;
            }
            let Some((name, value)) = line.split_once('=').filter(|_| is_service) else { continue };
            let value = value.trim();
            match name.trim() {
                "ExecStart" => lay_over(&mut self.start, value, |value| vec![value.to_owned()]),
                "EnvironmentFile" => lay_over(&mut self.files, value, |value| vec![value.to_owned()]),
                "Environment" => lay_over(&mut self.environment, value, |value| {
                    let pair =
                        |word: String| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
                    words(value).into_iter().filter_map(pair).collect()
                }),
                _ => {}
            }
        }
    }

    /// The arguments, if this starts a kubelet.
    fn command(&self, root: &Path) -> Result<Option<CommandLine>, String> {
        let Some(start) = self.start.last() else { return Ok(None) };
        let program = start.trim_start_matches(['@', '-', ':', '+', '!', '|']);
        let mut arguments = words(program).into_iter();
        let is_kubelet = |program: &String| Path::new(program).file_name().is_some_and(|name| name == "kubelet");
        if !arguments.next().is_some_and(|program| is_kubelet(&program)) {
            return Ok(None);
        }
        let mut complete = true;
        let mut variables: BTreeMap<String, String> = self.environment.iter().cloned().collect();
        // Values of files are stronger than those of the unit.
        for name in &self.files {
            let name = name.strip_prefix('-').unwrap_or(name);
            match file::text(&below(root, Path::new(name)))? {
                Some(text) => variables.extend(environment(&text)),
                None => complete = false,
            }
        }
        let mut expanded = Vec::new();
        for argument in arguments {
            match argument.strip_prefix('$').filter(|name| is_name(name)) {
                // A word of its own becomes the words of the value.
                Some(name) => match variables.get(name) {
                    Some(value) => expanded.extend(words(value)),
                    None => complete = false,
                },
                None => match expand(&argument, &variables) {
                    Some(argument) => expanded.push(argument),
                    None => complete = false,
                },
            }
        }
        Ok(Some(CommandLine { arguments: expanded, complete }))
    }
}

fn lay_over<T>(list: &mut Vec<T>, value: &str, parse: impl FnOnce(&str) -> Vec<T>) {
    if value.is_empty() {
        list.clear();
    } else {
        list.extend(parse(value));
    }
}

/// `${NAME}` becomes the value, `$$` and `%%` one character. None if a variable or another specifier (`%H`) is in it: what
/// it stands for is not known here.
fn expand(word: &str, variables: &BTreeMap<String, String>) -> Option<String> {
    let mut expanded = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['$', '%']) {
        let (before, after) = rest.split_at(at);
        expanded.push_str(before);
        if let Some(more) = after.strip_prefix("$$") {
            expanded.push('$');
            rest = more;
        } else if let Some(more) = after.strip_prefix("%%") {
            expanded.push('%');
            rest = more;
        } else if let Some((name, more)) = after.strip_prefix("${").and_then(|more| more.split_once('}')) {
            expanded.push_str(variables.get(name)?);
            rest = more;
        } else {
            return None;
        }
    }
    expanded.push_str(rest);
    Some(expanded)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Lines without comments and empty ones; one that ends with a backslash goes on in the next.
fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) || (line.is_empty() && open.is_none()) {
            continue;
        }
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        let whole = open.take().map_or_else(|| part.to_owned(), |before| format!("{before} {part}"));
        if goes_on {
            open = Some(whole);
        } else {
            lines.push(whole);
        }
    }
    lines.extend(open);
    lines
}

/// Words between blanks; quotes keep blanks together, a backslash takes the next character as it is.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(characters.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, Some(_) | None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The assignments of an environment file, a later one instead of an earlier.
fn environment(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in lines(text) {
        let Some((name, value)) = line.split_once('=') else { continue };
        // The value is one word; blanks inside of it stay even without quotes.
        let value = unquoted(value.trim());
        found.insert(name.trim().to_owned(), value);
    }
    found
}

fn unquoted(value: &str) -> String {
    let mut plain = String::new();
    let mut quote: Option<char> = None;
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => plain.extend(characters.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(_) | None) => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests;
