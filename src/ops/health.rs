//! Health in the manner of Kubernetes components: `/livez` says whether a restart would help, `/readyz` whether this agent
//! could bring its pods back now.
//!
//! Whether the API server answers is part of neither: this agent is there for when it does not.

use std::fmt::Write as _;

use super::status::{CheckpointerStatus, Lock, Policy};

/// How long the task that keeps the pods may go on without a word, in milliseconds: as long as the service manager waits.
const SILENT_MAX_MS: u64 = 90_000;

/// Something that is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name in paths.
    pub name: &'static str,
    /// Why it fails, if it does.
    pub outcome: Result<(), String>,
}

/// All checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Those of `/livez`.
    pub live: Vec<Check>,
    /// Those of `/readyz`.
    pub ready: Vec<Check>,
}

impl Health {
    /// What `status` says. `silent_ms`: for how long nothing was heard of the task that keeps the pods; `None` if nothing
    /// ever was. `in_step`: whether what is stored is in step with the API server.
    #[must_use]
    pub fn of(status: &CheckpointerStatus, silent_ms: Option<u64>, in_step: bool) -> Self {
        let check = |name, outcome| Check { name, outcome };
        let rounds = match silent_ms {
            Some(ms) if ms <= SILENT_MAX_MS => Ok(()),
            Some(ms) => Err(format!("the last round ended {} s ago", ms / 1000)),
            None => Err("no round was made yet".to_owned()),
        };
        let live = vec![check("ping", Ok(())), check("rounds", rounds)];
        let mut ready = live.clone();
        // With the feature gate off nothing is kept, and nothing has to work for that.
        if status.checkpointing {
            let store = &status.store;
            ready.push(check(
                "store",
                match &store.problem {
                    Some(problem) => Err(problem.clone()),
                    None if store.read_only => Err("it can't be written to".to_owned()),
                    None => Ok(()),
                },
            ));
            ready.push(check(
                "secrets",
                match store.lock {
                    Lock::Open => Ok(()),
                    Lock::Locked => Err("no key at hand opens the store".to_owned()),
                    Lock::Keyless => Err("the store has no key yet: Secrets are not stored".to_owned()),
                },
            ));
            // A node that has no pods has nothing to store.
            let populated = match store.populated || in_step {
                true => Ok(()),
                false => Err("the store never held a complete listing of this node's pods".to_owned()),
            };
            ready.push(check("populated", populated));
            // In shadow mode nothing is started, whatever runs.
            if status.policy != Policy::Off {
                let runtime = match &status.runtime.reason {
                    _ if status.runtime.known => Ok(()),
                    Some(why) => Err(why.clone()),
                    None => Err("it does not answer".to_owned()),
                };
                ready.push(check("container-runtime", runtime));
            }
        }
        Self { live, ready }
    }

    /// The same for others than this node: which checks fail, and not why.
    #[must_use]
    pub fn without_reasons(self) -> Self {
        let withheld =
            |check: Check| Check { outcome: check.outcome.map_err(|_| "reason withheld".to_owned()), ..check };
        Self {
            live: self.live.into_iter().map(withheld).collect(),
            ready: self.ready.into_iter().map(withheld).collect(),
        }
    }

    /// Both, by the names of their paths.
    #[must_use]
    pub fn endpoints(&self) -> [(&'static str, &[Check]); 2] {
        [("livez", &self.live), ("readyz", &self.ready)]
    }

    /// Answers `/livez` or `/readyz`, or one check of it, as kube-apiserver does: whether all is well, and what to say.
    /// `None`: there is no such path. Unlike it, this tells why a check fails, where nobody but this node can ask.
    #[must_use]
    pub fn answer(&self, path: &str, query: &str) -> Option<(bool, String)> {
        let mut path = path.trim_start_matches('/').splitn(2, '/');
        let endpoint = path.next()?;
        let (name, checks) = self.endpoints().into_iter().find(|(name, _)| *name == endpoint)?;
        match path.next().map(|one| one.trim_end_matches('/')).filter(|one| !one.is_empty()) {
            None => Some(all(name, checks, query)),
            Some(one) => match &checks.iter().find(|check| check.name == one)?.outcome {
                Ok(()) => Some((true, "ok".to_owned())),
                Err(why) => Some((false, format!("{one} check failed: {}\n", one_line(why)))),
            },
        }
    }
}

fn all(name: &str, checks: &[Check], query: &str) -> (bool, String) {
    let parameters = || query.split('&').map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
    let excluded: Vec<&str> = parameters().filter(|(key, _)| *key == "exclude").map(|(_, value)| value).collect();
    let mut text = String::new();
    let mut well = true;
    for Check { name, outcome } in checks {
        // Writing to a string never fails.
        let _ = match outcome {
            _ if excluded.contains(name) => writeln!(text, "[+]{name} excluded: ok"),
            Ok(()) => writeln!(text, "[+]{name} ok"),
            Err(why) => {
                well = false;
                writeln!(text, "[-]{name} failed: {}", one_line(why))
            }
        };
    }
    // What was asked for is not repeated: it may be anything.
    if excluded.iter().any(|excluded| !checks.iter().any(|check| check.name == *excluded)) {
        text.push_str("warn: some health checks cannot be excluded: there are none of these names\n");
    }
    match well {
        false => (false, format!("{text}{name} check failed\n")),
        true if parameters().any(|(key, _)| key == "verbose") => (true, format!("{text}{name} check passed\n")),
        true => (true, "ok".to_owned()),
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::status;
    use super::*;

    fn failing(checks: &[Check]) -> Vec<&'static str> {
        checks.iter().filter(|check| check.outcome.is_err()).map(|check| check.name).collect()
    }

    #[test]
    fn what_is_checked() {
        type Change = fn(&mut CheckpointerStatus);
        type Names<'a> = &'a [&'a str];
        #[rustfmt::skip]
        let rows: [(&str, Change, Option<u64>, Names<'_>, Names<'_>); 14] = [
            // what,            the status,                                         silent for,   live,        ready
            ("well",            |_| {},                                             Some(0),      &[],         &[]),
            ("just in time",    |_| {},                                             Some(90_000), &[],         &[]),
            ("hangs",           |_| {},                                             Some(90_001), &["rounds"], &["rounds"]),
            ("never began",     |_| {},                                             None,         &["rounds"], &["rounds"]),
            ("API server away", |s| s.api_server.state = crate::ops::status::Reach::Silent, Some(0), &[],      &[]),
            ("store problem",   |s| s.store.problem = Some("full".to_owned()),      Some(0),      &[],         &["store"]),
            ("read only",       |s| s.store.read_only = true,                       Some(0),      &[],         &["store"]),
            ("locked",          |s| s.store.lock = Lock::Locked,                    Some(0),      &[],         &["secrets"]),
            ("keyless",         |s| s.store.lock = Lock::Keyless,                   Some(0),      &[],         &["secrets"]),
            ("new node",        |s| s.store.populated = false,                      Some(0),      &[],         &["populated"]),
            ("no runtime",      |s| s.runtime.known = false,                        Some(0),      &[],         &["container-runtime"]),
            ("shadow mode",     |s| (s.runtime.known, s.policy) = (false, Policy::Off), Some(0),  &[],         &[]),
            ("findings",        |s| s.store.findings = 3,                           Some(0),      &[],         &[]),
            ("gate off",        |s| (s.checkpointing, s.store.populated, s.runtime.known) = (false, false, false),
                                                                                    Some(0),      &[],         &[]),
        ];
        for (what, change, silent_ms, live, ready) in rows {
            let mut status = status();
            change(&mut status);
            let health = Health::of(&status, silent_ms, false);
            assert_eq!((&failing(&health.live)[..], &failing(&health.ready)[..]), (live, ready), "{what}");
        }
        let mut without_pods = status();
        without_pods.store.populated = false;
        assert_eq!(failing(&Health::of(&without_pods, Some(0), true).ready), Vec::<&str>::new());
    }

    #[test]
    fn what_is_answered() {
        let check = |name, outcome: Result<(), &str>| Check { name, outcome: outcome.map_err(str::to_owned) };
        let health = Health {
            live: vec![check("ping", Ok(())), check("rounds", Ok(()))],
            ready: vec![check("ping", Ok(())), check("store", Err("no\nroom")), check("secrets", Ok(()))],
        };
        const VERBOSE: &str = "[+]ping ok\n[+]rounds ok\nlivez check passed\n";
        const FAILED: &str = "[+]ping ok\n[-]store failed: no room\n[+]secrets ok\nreadyz check failed\n";
        const WARNED: &str = "[+]ping ok\n[-]store failed: no room\n[+]secrets ok\n\
                              warn: some health checks cannot be excluded: there are none of these names\nreadyz check failed\n";
        #[rustfmt::skip]
        let rows = [
            ("/livez",            "",                        Some((true,  "ok"))),
            ("/livez/",           "",                        Some((true,  "ok"))),
            ("/livez",            "verbose",                 Some((true,  VERBOSE))),
            ("/livez",            "verbose=true",            Some((true,  VERBOSE))),
            ("/livez",            "exclude=ping",            Some((true,  "ok"))),
            ("/livez",            "verbose&exclude=ping",    Some((true,  "[+]ping excluded: ok\n[+]rounds ok\nlivez check passed\n"))),
            ("/livez/ping",       "",                        Some((true,  "ok"))),
            ("/livez/store",      "",                        None),
            ("/readyz",           "",                        Some((false, FAILED))),
            ("/readyz",           "exclude=x",               Some((false, WARNED))),
            ("/readyz",           "exclude=store",           Some((true,  "ok"))),
            ("/readyz",           "exclude=ping&exclude=store&verbose",
                Some((true, "[+]ping excluded: ok\n[+]store excluded: ok\n[+]secrets ok\nreadyz check passed\n"))),
            ("/readyz/store",     "",                        Some((false, "store check failed: no room\n"))),
            ("/readyz/secrets",   "",                        Some((true,  "ok"))),
            ("/readyz/a/b",       "",                        None),
            ("/healthz",          "",                        None),
            ("/",                 "",                        None),
            ("",                  "",                        None),
        ];
        for (path, query, want) in rows {
            let want = want.map(|(well, text)| (well, text.to_owned()));
            assert_eq!(health.answer(path, query), want, "{path}?{query}");
        }
    }
}
