//! What a reload puts into force: it is computed from the file of now, and told.

use std::path::PathBuf;

use ckpt_db::checkpoint::lifecycle::Rules;
use ckpt_db::checkpoint::settings::{ActivationPolicy, Settings};
use ckpt_db::materialize::Roots;
use ckpt_db::ops::log::{self, events};
use ckpt_db::source::api::tracker::ObjectRefresh;

use super::super::chain;
use super::super::config::{InsteadOf, Refused, Reload};
use super::super::key_look::KeyLook;
use super::Run;

/// What does not change while the process lives, and what reads the rest.
pub(in crate::cli) struct Reloading {
    reload: Option<Reload>,
    keys: KeyLook,
    roots: Roots,
    checkpointing: bool,
    require_authentication: bool,
}

/// What is in force after a reload.
pub(in crate::cli) struct InForce {
    pub(in crate::cli) settings: Settings,
    pub(in crate::cli) rules: Rules,
    pub(in crate::cli) kubeconfig: Option<PathBuf>,
    pub(in crate::cli) refresh: ObjectRefresh,
    /// Fields that have changed and take a restart.
    pub(in crate::cli) restart: Vec<&'static str>,
}

impl Run {
    /// For a process that was started with these options.
    pub(super) fn reloading(&self, keys: &KeyLook, roots: &Roots, checkpointing: bool) -> Reloading {
        Reloading {
            reload: self.reload.clone(),
            keys: keys.clone(),
            roots: roots.clone(),
            checkpointing,
            require_authentication: self.translate.requires_authentication(),
        }
    }
}

/// Says that a process has begun with the settings that held last, since its file is wrong, and keeps a copy of those with
/// which it has begun. In a line, what is wrong.
pub(super) fn began(reload: &Reload, checkpointing: bool) -> Option<String> {
    let Some(InsteadOf { wrong, path }) = reload.instead_of() else {
        if checkpointing {
            reload.keep();
        }
        return None;
    };
    for cause in wrong {
        tracing::error!(name: events::CONFIGURATION_REFUSED, cause, "{cause}");
    }
    let path = path.display();
    tracing::warn!(
        name: events::CONFIGURATION_REFUSED,
        "this start takes the settings that held last, kept at {path}: mend the file, and have it read ('systemctl reload ckpt-db')"
    );
    wrong.first().map(|first| match wrong.len() - 1 {
        0 => first.clone(),
        more => format!("{first} (and {more} more)"),
    })
}

impl Reloading {
    /// Reads the settings again, puts those of keys and of the log into force, and says what has changed.
    ///
    /// # Errors
    /// Why they can't be used, which is said; all of them stay as they were.
    pub(in crate::cli) fn again(&mut self) -> Result<Option<InForce>, String> {
        let Some(reload) = &mut self.reload else { return Ok(None) };
        let read = match reload.again() {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(None),
            Err(error) => return Err(refused(&error)),
        };
        let in_force = self.of(&read.run, read.restart.clone());
        let in_force = in_force.map_err(|error| {
            let cause = chain(&error);
            tracing::error!(name: events::CONFIGURATION_REFUSED, cause, "the settings stay as they were: {cause}");
            cause
        })?;
        if let (Some(reload), true) = (&self.reload, self.checkpointing) {
            reload.keep();
        }
        self.keys.renew(&read.run.store.unlock);
        log::set_levels(read.run.logging.levels());
        let (changed, restart) = (read.changed.join(", "), read.restart.join(", "));
        if !changed.is_empty() {
            tracing::info!(name: events::CONFIGURATION_READ, changed, "settings read again, with changes of {changed}");
        }
        if !restart.is_empty() {
            tracing::warn!(name: events::CONFIGURATION_READ, restart, "settings read again, but a restart is needed for {restart}");
        }
        Ok(Some(in_force))
    }

    fn of(&self, run: &Run, restart: Vec<&'static str>) -> anyhow::Result<InForce> {
        let rules = run.keep.rules(false)?;
        let mut settings = run.translate.settings(&self.roots)?;
        settings.own_pod = rules.own_pod.clone();
        settings.require_authentication = self.require_authentication;
        if !self.checkpointing {
            settings.activation = ActivationPolicy::Off;
        }
        Ok(InForce { settings, rules, kubeconfig: run.kubeconfig.clone(), refresh: run.refresh(), restart })
    }
}

/// Says all that is wrong; in a line, the first of it.
fn refused(error: &Refused) -> String {
    let lines = match error {
        Refused::Arguments(error) => vec![error.to_string().lines().next().unwrap_or_default().to_owned()],
        Refused::Config(error) => error.lines(),
    };
    for cause in lines {
        tracing::error!(name: events::CONFIGURATION_REFUSED, cause, "{cause}");
    }
    tracing::warn!(name: events::CONFIGURATION_REFUSED, "the settings stay as they were");
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
