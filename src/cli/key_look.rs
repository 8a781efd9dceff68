//! Looks for keys again and again, and says once what is wrong with one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::args::StoreArgs;
use super::say;
use super::unlock::{Keys, UnlockArgs};

/// The one look of a process, however many of its parts look.
#[derive(Clone)]
pub(crate) struct KeyLook {
    arguments: Arc<Mutex<StoreArgs>>,
    told: Arc<Mutex<Told>>,
}

impl KeyLook {
    pub(crate) fn new(arguments: &StoreArgs) -> Self {
        Self { arguments: Arc::new(Mutex::new(arguments.clone())), told: Arc::default() }
    }

    /// From now on keys are looked for where these options say.
    pub(crate) fn renew(&self, unlock: &UnlockArgs) {
        self.lock().unlock.renew(unlock);
    }

    fn lock(&self) -> MutexGuard<'_, StoreArgs> {
        self.arguments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every key that can be found now.
    pub(crate) fn look(&self) -> anyhow::Result<Keys> {
        let keys = self.lock().clone().look_for_keys()?;
        let news = self.told.lock().unwrap_or_else(PoisonError::into_inner).news(&keys.warnings);
        news.iter().for_each(|warning| say(format_args!("{warning}")));
        Ok(keys)
    }

    /// The files to be watched.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.lock().key_files().unwrap_or_default()
    }
}

/// What was said of key files, and what was wrong at the last look.
#[derive(Default)]
struct Told {
    looked: bool,
    wrong: BTreeSet<String>,
    said: BTreeSet<String>,
}

impl Told {
    /// What is to be said: once, and after the first look only of what was wrong a look ago as well. A file that is being
    /// written is whole in a moment.
    fn news(&mut self, wrong: &[String]) -> Vec<String> {
        self.said.retain(|warning| wrong.contains(warning));
        let lasts = |warning: &String| !self.looked || self.wrong.contains(warning);
        let news = wrong.iter().filter(|warning| lasts(warning) && self.said.insert((*warning).clone()));
        let news = news.cloned().collect();
        self.wrong = wrong.iter().cloned().collect();
        self.looked = true;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_once() {
        #[rustfmt::skip]
        let looks: [(&[&str], &[&str]); 9] = [
            // what is wrong       what is said
            (&["a"],               &["a"]),
            (&["a"],               &[]),
            (&["a", "b"],          &[]),
            (&["a", "b"],          &["b"]),
            (&["b"],               &[]),
            (&["a", "b", "half"],  &[]),
            (&["a", "b"],          &["a"]),
            (&[],                  &[]),
            (&["half"],            &[]),
        ];
        let mut told = Told::default();
        for (at, (wrong, want)) in looks.into_iter().enumerate() {
            let wrong: Vec<String> = wrong.iter().map(|&warning| warning.to_owned()).collect();
            assert_eq!(told.news(&wrong), want, "{at}");
        }
    }
}
