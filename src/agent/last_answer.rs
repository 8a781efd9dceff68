//! When the API server answered last in this boot, for the next process of this boot: a kubelet that was started after that
//! knows no pods of the API.

use std::fs;
use std::path::PathBuf;

/// A file in memory (`/run`). It is a help, not a promise: without it nothing is known.
pub struct LastAnswer(Option<PathBuf>);

impl LastAnswer {
    /// Kept at `path`, or nowhere.
    #[must_use]
    pub fn at(path: Option<PathBuf>) -> Self {
        Self(path)
    }

    /// What an earlier process of the same boot knew, in milliseconds since boot. One that ended while the API server
    /// answered has seen answers until now, for all that is known.
    #[must_use]
    pub fn read(&self, boot_id: Option<&str>, now_ms: u64) -> Option<u64> {
        let text = fs::read_to_string(self.0.as_ref()?).ok()?;
        parse(&text, boot_id?, now_ms)
    }

    /// Writes down that the API server answers, or when it did last.
    pub fn write(&self, boot_id: Option<&str>, last_ms: Option<u64>) {
        let (Some(path), Some(boot_id)) = (&self.0, boot_id) else { return };
        let when = last_ms.map_or("answering".to_owned(), |last_ms| last_ms.to_string());
        let new = path.with_extension("new");
        let written = fs::write(&new, format!("{boot_id} {when}\n")).and_then(|()| fs::rename(&new, path));
        if let Err(error) = written {
            tracing::info!("cannot write {}: {error}", path.display());
        }
    }
}

fn parse(text: &str, boot_id: &str, now_ms: u64) -> Option<u64> {
    let (of, when) = text.trim_end().split_once(' ')?;
    match when {
        _ if of != boot_id => None,
        "answering" => Some(now_ms),
        // A time that is yet to come was not written by us.
        when => Some(when.parse::<u64>().map_or(now_ms, |at_ms| at_ms.min(now_ms))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_process_knew() {
        #[rustfmt::skip]
        let rows = [
            ("boot-1 400\n",       Some(400)),
            ("boot-1 1400\n",      Some(1000)),
            ("boot-1 answering\n", Some(1000)),
            ("boot-1 x\n",         Some(1000)),
            ("boot-2 400\n",       None),
            ("boot-1",             None),
            ("",                   None),
        ];
        for (text, want) in rows {
            assert_eq!(parse(text, "boot-1", 1000), want, "{text:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = LastAnswer::at(Some(directory.path().join("last-answer")));
        assert_eq!(file.read(Some("b"), 9), None);
        file.write(Some("b"), Some(7));
        assert_eq!(file.read(Some("b"), 9), Some(7));
        file.write(Some("b"), None);
        assert_eq!(file.read(Some("b"), 9), Some(9));
        assert_eq!(file.read(Some("other"), 9), None);
        assert_eq!(LastAnswer::at(None).read(Some("b"), 9), None);
    }
}
