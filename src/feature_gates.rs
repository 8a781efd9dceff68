//! Feature gates in Kubernetes' manner: what can be turned on, how mature it is, and what comes of what an operator sets.
//!
//! The rules are those of `k8s.io/component-base/featuregate`: a gate that is named wins over `AllAlpha` and `AllBeta`,
//! whatever their order. Settings come from `--feature-gates` ([`parse`]), and from the map `featureGates` of a file;
//! [`FeatureGates::from_map`] makes the same of both.

use std::collections::BTreeMap;
use std::fmt;

/// How mature a feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// May change or go, and is off by default.
    Alpha,
    /// Is here to stay, though details may change.
    Beta,
    /// Is on, and its gate goes.
    Ga,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
            Self::Ga => "GA",
        })
    }
}

/// What can be turned on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Checkpoints of the node's pods are kept in a file, and rendered from it. Without it everything is kept in memory
    /// only, nothing is rendered, and no pod comes back.
    Checkpointing,
}

/// One gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// What it is for.
    pub feature: Feature,
    /// Its name, as operators write it.
    pub name: &'static str,
    /// How mature that is.
    pub stage: Stage,
    /// Whether it is on unless somebody says otherwise.
    pub default: bool,
}

/// `Checkpointing=true|false (ALPHA - default=false)`
impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, stage, default, .. } = self;
        write!(f, "{name}=true|false ({stage} - default={default})")
    }
}

/// Every gate, by name.
pub const GATES: [Gate; 1] =
    [Gate { feature: Feature::Checkpointing, name: "Checkpointing", stage: Stage::Alpha, default: false }];

/// Names that stand for all gates of a stage.
const GROUPS: [(&str, Stage); 2] = [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)];

/// Why settings were refused. None of them is in force then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// There is no such gate.
    #[error("unrecognized feature gate: {name}{}; the known ones are {}", meant(.near), .known.join(", "))]
    Unknown {
        /// As it was written.
        name: String,
        /// What may have been meant.
        near: Option<&'static str>,
        /// All that could be.
        known: Vec<&'static str>,
    },
    /// A name stands alone.
    #[error("missing bool value for {name}: write {name}=true or {name}=false")]
    NoValue {
        /// The name.
        name: String,
    },
    /// A value is none.
    #[error("invalid value of {name}={value}: it is neither true nor false")]
    BadValue {
        /// The gate.
        name: String,
        /// As it was written.
        value: String,
    },
}

fn meant(near: &Option<&'static str>) -> String {
    near.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

/// Reads `Key=bool,...`, the form of the command line, in its order. Which names there are is not its business.
///
/// # Errors
/// [`GateError::NoValue`] and [`GateError::BadValue`].
pub fn parse(text: &str) -> Result<Vec<(String, bool)>, GateError> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let setting = |part: &str| {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim()),
            None => return Err(GateError::NoValue { name: part.trim().to_owned() }),
        };
        // As Go's strconv.ParseBool, which kubelets read it with.
        let value = match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(GateError::BadValue { name: name.to_owned(), value: value.to_owned() }),
        };
        Ok((name.to_owned(), value))
    };
    parts.map(setting).collect()
}

/// What is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureGates([bool; GATES.len()]);

impl Default for FeatureGates {
    /// As nobody has set anything.
    fn default() -> Self {
        Self(GATES.map(|gate| gate.default))
    }
}

impl FeatureGates {
    /// What these settings come to, later ones over earlier ones of the same name: those of a file first, then those of the
    /// command line.
    ///
    /// # Errors
    /// [`GateError::Unknown`].
    pub fn from_map(settings: impl IntoIterator<Item = (String, bool)>) -> Result<Self, GateError> {
        let on = resolve(&GATES.map(|gate| (gate.name, gate.stage, gate.default)), settings)?;
        let mut gates = Self::default();
        gates.0.copy_from_slice(&on);
        Ok(gates)
    }

    /// Whether a feature is on.
    #[must_use]
    pub fn is_on(&self, feature: Feature) -> bool {
        self.iter().any(|(gate, on)| gate.feature == feature && on)
    }

    /// Each gate, and whether it is on.
    pub fn iter(&self) -> impl Iterator<Item = (Gate, bool)> {
        GATES.into_iter().zip(self.0)
    }
}

/// The lines that help has on gates: the groups, then each gate that may still be set.
#[must_use]
pub fn help() -> String {
    let group = |(name, stage)| format!("{name}=true|false ({stage} - default=false)");
    let mut lines: Vec<String> = GROUPS.into_iter().map(group).collect();
    lines.extend(GATES.iter().filter(|gate| gate.stage != Stage::Ga).map(Gate::to_string));
    lines.join("\n")
}

/// Which of the `known` gates (name, stage, default) are on.
fn resolve(
    known: &[(&'static str, Stage, bool)],
    settings: impl IntoIterator<Item = (String, bool)>,
) -> Result<Vec<bool>, GateError> {
    let mut set = BTreeMap::new();
    for (name, on) in settings {
        let names = || GROUPS.iter().map(|(name, _)| *name).chain(known.iter().map(|(name, ..)| *name));
        if !names().any(|known| known == name) {
            return Err(GateError::Unknown { near: nearest(&name, names()), name, known: names().collect() });
        }
        set.insert(name, on);
    }
    let group = |stage| GROUPS.iter().find(|(_, of)| *of == stage).and_then(|(name, _)| set.get(*name));
    Ok(known.iter().map(|(name, stage, default)| *set.get(*name).or(group(*stage)).unwrap_or(default)).collect())
}

/// The name that is most like `name`, if one is: what may have been meant.
pub fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let name = name.to_lowercase();
    let far = |other: &str| distance(&name, &other.to_lowercase());
    known.map(|other| (far(other), other)).filter(|(far, other)| far * 3 <= other.len()).min().map(|(_, other)| other)
}

/// How many letters have to be added, taken out or replaced (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut before = std::mem::replace(&mut row[0], at + 1);
        for (to, against) in other.iter().enumerate() {
            let replaced = before + usize::from(letter != *against);
            before = row[to + 1];
            row[to + 1] = replaced.min(before + 1).min(row[to] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read() {
        let no_value = |name: &str| Err(GateError::NoValue { name: name.to_owned() });
        let bad = |name: &str, value: &str| Err(GateError::BadValue { name: name.to_owned(), value: value.to_owned() });
        type Settings<'a> = Result<&'a [(&'a str, bool)], GateError>;
        #[rustfmt::skip]
        let rows: [(&str, Settings<'_>); 20] = [
            ("",                     Ok(&[])),
            (",",                    Ok(&[])),
            ("A=true",               Ok(&[("A", true)])),
            ("A=false",              Ok(&[("A", false)])),
            ("A=1,B=0",              Ok(&[("A", true), ("B", false)])),
            ("A=t,B=f",              Ok(&[("A", true), ("B", false)])),
            ("A=T,B=F",              Ok(&[("A", true), ("B", false)])),
            ("A=True,B=False",       Ok(&[("A", true), ("B", false)])),
            ("A=TRUE,B=FALSE",       Ok(&[("A", true), ("B", false)])),
            (" A = true , B=false,", Ok(&[("A", true), ("B", false)])),
            ("A=true,A=false",       Ok(&[("A", true), ("A", false)])),
            ("=true",                Ok(&[("", true)])),
            ("A",                    no_value("A")),
            ("A=true,B",             no_value("B")),
            ("A=",                   bad("A", "")),
            ("A=yes",                bad("A", "yes")),
            ("A=on,B=true",          bad("A", "on")),
            ("A=tRUE",               bad("A", "tRUE")),
            ("A=true=true",          bad("A", "true=true")),
            ("A=true;B=true",        bad("A", "true;B=true")),
        ];
        for (text, want) in rows {
            let want = want.map(|want| want.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect::<Vec<_>>());
            assert_eq!(parse(text), want, "{text:?}");
        }
    }

    /// A table of other gates than ours, so that each stage and default is there.
    #[test]
    fn what_is_on() {
        use Stage::{Alpha, Beta, Ga};
        let known = [("A", Alpha, false), ("B", Beta, false), ("C", Beta, true), ("G", Ga, true)];
        #[rustfmt::skip]
        let rows = [
            // settings                        A      B      C      G
            ("",                              [false, false, true,  true]),
            ("A=true",                        [true,  false, true,  true]),
            ("A=true,A=false",                [false, false, true,  true]),
            ("B=true,C=false",                [false, true,  false, true]),
            ("G=false",                       [false, false, true,  false]),
            ("AllAlpha=true",                 [true,  false, true,  true]),
            ("AllAlpha=false",                [false, false, true,  true]),
            ("AllAlpha=true,AllAlpha=false",  [false, false, true,  true]),
            ("AllBeta=true",                  [false, true,  true,  true]),
            ("AllBeta=false",                 [false, false, false, true]),
            // A gate that is named wins, before the group or after it.
            ("AllAlpha=true,A=false",         [false, false, true,  true]),
            ("A=false,AllAlpha=true",         [false, false, true,  true]),
            ("AllBeta=false,C=true",          [false, false, true,  true]),
            ("C=true,AllBeta=false",          [false, false, true,  true]),
            ("AllBeta=true,AllAlpha=true",    [true,  true,  true,  true]),
        ];
        for (text, want) in rows {
            assert_eq!(resolve(&known, parse(text).unwrap()).unwrap(), want, "{text:?}");
        }
    }

    #[test]
    fn ours() {
        let checkpointing = |texts: &[&str]| {
            let settings = texts.iter().flat_map(|text| parse(text).unwrap());
            FeatureGates::from_map(settings).unwrap().is_on(Feature::Checkpointing)
        };
        #[rustfmt::skip]
        let rows: [(&[&str], bool); 8] = [
            (&[],                                               false),
            (&["Checkpointing=true"],                           true),
            (&["Checkpointing=false"],                          false),
            // Given several times, the last one counts.
            (&["Checkpointing=true", "Checkpointing=false"],    false),
            (&["Checkpointing=false", "Checkpointing=true"],    true),
            (&["AllAlpha=true"],                                true),
            (&["AllBeta=true"],                                 false),
            (&["Checkpointing=false", "AllAlpha=true"],         false),
        ];
        for (texts, want) in rows {
            assert_eq!(checkpointing(texts), want, "{texts:?}");
        }
        assert_eq!(FeatureGates::from_map([]), Ok(FeatureGates::default()));
        let mut names: Vec<&str> = GATES.iter().map(|gate| gate.name).collect();
        assert!(names.is_sorted() && GATES.iter().all(|gate| gate.stage != Stage::Alpha || !gate.default));
        names.dedup();
        assert_eq!(names.len(), GATES.len());
        let shown: Vec<_> = FeatureGates::default().iter().map(|(gate, on)| (gate.name, on)).collect();
        assert_eq!(shown, [("Checkpointing", false)]);
    }

    #[test]
    fn unknown_names_are_refused_with_what_may_have_been_meant() {
        #[rustfmt::skip]
        let rows = [
            ("checkpointing",    Some("Checkpointing")),
            ("Chekpointing",     Some("Checkpointing")),
            ("Checkpoint",       Some("Checkpointing")),
            ("Checkpointings",   Some("Checkpointing")),
            ("allalpha",         Some("AllAlpha")),
            ("AllBetas",         Some("AllBeta")),
            ("",                 None),
            ("GracefulShutdown", None),
        ];
        for (name, want) in rows {
            let known = vec!["AllAlpha", "AllBeta", "Checkpointing"];
            let error = FeatureGates::from_map([(name.to_owned(), true)]);
            assert_eq!(error, Err(GateError::Unknown { name: name.to_owned(), near: want, known }), "{name:?}");
        }
        let error = FeatureGates::from_map([("Chekpointing".to_owned(), true)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unrecognized feature gate: Chekpointing (did you mean Checkpointing?); the known ones are AllAlpha, AllBeta, \
             Checkpointing"
        );
    }

    #[test]
    fn help_has_the_words_of_kubelets() {
        assert_eq!(
            help(),
            "AllAlpha=true|false (ALPHA - default=false)\nAllBeta=true|false (BETA - default=false)\n\
             Checkpointing=true|false (ALPHA - default=false)"
        );
    }

    #[test]
    fn how_far_two_words_are_apart() {
        for (one, other, want) in
            [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (want, want), "{one} {other}");
        }
    }
}
