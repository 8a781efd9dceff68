//! What is said beyond what is said always: `--v` and `--vmodule` as Kubernetes' components have them, or `RUST_LOG`.

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The modules that `--vmodule` can name: the rooms of this program.
pub const MODULES: [&str; 8] = ["agent", "cli", "keys", "materialize", "node", "ops", "source", "store"];

/// Up to which level records are written, by module.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels(Targets);

/// Levels that can't be told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// Not `MODULE=LEVEL`.
    #[error("{0:?} is not MODULE=LEVEL, for example source=4")]
    Form(String),
    /// The level is no number.
    #[error("the level of {0:?} is no number from 0 to 10, for example source=4")]
    Number(String),
    /// There is no such module.
    #[error("there is no module {0:?}; there are {all}, and what lies below them (source::api)", all = MODULES.join(", "))]
    Module(String),
}

impl Default for Levels {
    fn default() -> Self {
        Self::new(0, &[])
    }
}

impl Levels {
    /// As `--v` and `--vmodule` say it; modules are those of [`module`].
    #[must_use]
    pub fn new(verbosity: u8, modules: &[(String, u8)]) -> Self {
        let targets = Targets::new().with_default(level(verbosity));
        let modules = modules.iter().map(|(module, verbosity)| (format!("ckpt_db::{module}"), level(*verbosity)));
        Self(targets.with_targets(modules))
    }

    /// As `RUST_LOG` says it: `warn,ckpt_db::source=debug`. `None` if it can't be understood.
    #[must_use]
    pub fn from_rust_log(text: &str) -> Option<Self> {
        let targets: Targets = text.parse().ok()?;
        // Whatever has no level of its own.
        let named = targets.default_level().is_some();
        Some(Self(if named { targets } else { targets.with_default(LevelFilter::WARN) }))
    }

    /// Whether records of this module at this level are written.
    #[must_use]
    pub fn wants(&self, target: &str, level: &Level) -> bool {
        self.0.would_enable(target, level)
    }
}

/// What a number means, which follows Kubernetes' usage: 2 the steady state, 4 debugging, 6 and above everything.
const fn level(verbosity: u8) -> LevelFilter {
    match verbosity {
        0 | 1 => LevelFilter::WARN,
        2 | 3 => LevelFilter::INFO,
        4 | 5 => LevelFilter::DEBUG,
        6.. => LevelFilter::TRACE,
    }
}

/// One `MODULE=LEVEL` of `--vmodule`.
///
/// # Errors
/// [`LevelError`].
pub fn module(text: &str) -> Result<(String, u8), LevelError> {
    let (module, level) = text.split_once('=').ok_or_else(|| LevelError::Form(text.to_owned()))?;
    let level = level.parse().ok().filter(|level| *level <= 10).ok_or_else(|| LevelError::Number(text.to_owned()))?;
    let room = module.split("::").next().unwrap_or_default();
    if !MODULES.contains(&room) {
        return Err(LevelError::Module(module.to_owned()));
    }
    Ok((module.to_owned(), level))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written of a module of ours, or of a library.
    fn wanted(levels: &Levels, module: &str) -> [bool; 5] {
        let target = if module == "h2" { module.to_owned() } else { format!("ckpt_db::{module}") };
        [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE].map(|level| levels.wants(&target, &level))
    }

    #[test]
    fn numbers_are_levels() {
        #[rustfmt::skip]
        let table = [
            (0,  [true, true, false, false, false]),
            (1,  [true, true, false, false, false]),
            (2,  [true, true, true,  false, false]),
            (3,  [true, true, true,  false, false]),
            (4,  [true, true, true,  true,  false]),
            (5,  [true, true, true,  true,  false]),
            (6,  [true, true, true,  true,  true]),
            (10, [true, true, true,  true,  true]),
        ];
        for (verbosity, expected) in table {
            assert_eq!(wanted(&Levels::new(verbosity, &[]), "store"), expected, "{verbosity}");
        }
    }

    #[test]
    fn modules_have_levels_of_their_own() {
        let levels = Levels::new(0, &[module("source=4").unwrap(), module("source::api::feed=0").unwrap()]);
        assert_eq!(wanted(&levels, "store"), [true, true, false, false, false]);
        assert_eq!(wanted(&levels, "source::api"), [true, true, true, true, false]);
        assert_eq!(wanted(&levels, "source::api::feed"), [true, true, false, false, false]);
        let levels = Levels::new(6, &[module("store=0").unwrap()]);
        assert_eq!(wanted(&levels, "store::redb_store"), [true, true, false, false, false]);
        assert_eq!(wanted(&levels, "agent"), [true; 5]);
    }

    #[test]
    fn what_is_no_level_is_refused() {
        #[rustfmt::skip]
        let table = [
            ("",            LevelError::Form(String::new())),
            ("source",      LevelError::Form("source".to_owned())),
            ("source=",     LevelError::Number("source=".to_owned())),
            ("source=-1",   LevelError::Number("source=-1".to_owned())),
            ("source=11",   LevelError::Number("source=11".to_owned())),
            ("source=warn", LevelError::Number("source=warn".to_owned())),
            ("sorce=4",     LevelError::Module("sorce".to_owned())),
            ("=4",          LevelError::Module(String::new())),
            ("kube=4",      LevelError::Module("kube".to_owned())),
        ];
        for (text, error) in table {
            assert_eq!(module(text), Err(error), "{text:?}");
        }
        let all = LevelError::Module("sorce".to_owned()).to_string();
        assert!(all.contains("agent, cli, keys"), "{all}");
    }

    #[test]
    fn rust_log() {
        let levels = Levels::from_rust_log("ckpt_db=info").unwrap();
        assert_eq!(wanted(&levels, "store"), [true, true, true, false, false]);
        assert_eq!(wanted(&levels, "h2"), [true, true, false, false, false]);
        assert_eq!(wanted(&Levels::from_rust_log("trace").unwrap(), "cli"), [true; 5]);
        assert_eq!(wanted(&Levels::from_rust_log("error").unwrap(), "cli"), [true, false, false, false, false]);
        assert_eq!(Levels::from_rust_log("ckpt_db=loud"), None);
    }
}
