//! An env file as a kubelet reads it, a second time: what KEP-3721 describes and `pkg/kubelet/util/env` of 1.35 does.
//!
//! On purpose without a line of the writer: it is the second opinion on what the writer makes.

/// The value of `key`; none if the file does not have it.
///
/// By lines: blank ones and those that start with `#` are passed over, blanks before a name too. Then `NAME='VALUE'`, where
/// nothing inside of the quotes means anything and lines may end; behind them blanks and a comment. The first of a
/// name counts.
///
/// # Errors
/// The line that is wrong, if that is reached before the key.
pub(crate) fn value(file: &[u8], key: &str) -> Result<String, String> {
    let text = std::str::from_utf8(file).map_err(|error| error.to_string())?;
    let mut lines = lines(text)?.into_iter().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let (name, rest) = line.split_once('=').ok_or_else(|| wrong("no equals sign"))?;
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return Err(wrong("no name before the equals sign"));
        }
        if rest.starts_with([' ', '\t']) {
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let mut rest = rest.strip_prefix('\'').ok_or_else(|| wrong("no quote"))?;
        let mut value = String::new();
        let after = loop {
            if let Some((end, after)) = rest.split_once('\'') {
                value += end;
                break after.trim_start_matches([' ', '\t']);
            }
            value += rest;
            value += "\n";
            (_, rest) = lines.next().ok_or_else(|| wrong("the quote is not closed"))?;
        };
        if !after.is_empty() && !after.starts_with('#') {
            return Err(wrong("something behind the quote"));
        }
        if name == key {
            return Ok(value);
        }
    }
    Err("no such key".to_owned())
}

/// Go's `bufio.ScanLines`: a carriage return before the line feed goes too, and a line has less than 64 KiB.
fn lines(text: &str) -> Result<Vec<&str>, String> {
    let mut all: Vec<&str> = text.split('\n').collect();
    if all.last() == Some(&"") {
        all.pop();
    }
    if all.iter().any(|line| line.len() >= 64 * 1024) {
        return Err("a line is too long".to_owned());
    }
    Ok(all.into_iter().map(|line| line.strip_suffix('\r').unwrap_or(line)).collect())
}
