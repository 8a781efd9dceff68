//! The events that are said always: their names, which do not change, and their fields.
//!
//! `docs/reference/logs.md` has the same table; a test compares them.

/// A kind of line.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name, in JSON the member `event`.
    pub name: &'static str,
    /// Fields that text shows behind the message.
    pub shown: &'static [&'static str],
    /// Fields whose values stand in the message; only JSON shows them again.
    pub in_message: &'static [&'static str],
    /// Whether each one is news, however often it comes: then none is left out.
    pub each_counts: bool,
    /// What it tells.
    pub meaning: &'static str,
}

/// Something that the program says, without fields.
pub const MESSAGE: &str = "Message";
/// The same, to be taken note of.
pub const NOTE: &str = "Note";
/// A pod's checkpoint stands elsewhere.
pub const CHECKPOINT_STATE: &str = "CheckpointState";
/// A pod's checkpoint has ended.
pub const CHECKPOINT_ENDED: &str = "CheckpointEnded";
/// An object could not be stored.
pub const NOT_STORED: &str = "NotStored";
/// How the API server stands to the agent.
pub const API_SERVER: &str = "ApiServer";
/// What is followed, and with what.
pub const FOLLOWING: &str = "Following";
/// Other keys open the store.
pub const KEY_SLOTS: &str = "KeySlots";
/// What the store has is what the API server has.
pub const IN_STEP: &str = "InStep";
/// Following was interrupted.
pub const INTERRUPTED: &str = "Interrupted";
/// Settings were read again.
pub const CONFIGURATION_READ: &str = "ConfigurationRead";
/// Settings could not be read again.
pub const CONFIGURATION_REFUSED: &str = "ConfigurationRefused";
/// A pod was not rendered, a fact of the node is not known, or a record is damaged.
pub const PROBLEM: &str = "Problem";

/// All of them.
#[rustfmt::skip]
pub const EVENTS: [Known; 13] = [
    Known { name: CHECKPOINT_STATE, shown: &["uid", "revision", "state"], in_message: &["pod", "cause"], each_counts: true,
            meaning: "a pod's checkpoint stands elsewhere: its copy was started, removed, or is kept for a while" },
    Known { name: CHECKPOINT_ENDED, shown: &["uid", "revision"], in_message: &["pod", "cause"], each_counts: true,
            meaning: "a pod's checkpoint is over and goes from the store" },
    Known { name: NOT_STORED, shown: &["revision"], in_message: &["object", "cause"], each_counts: false,
            meaning: "an object can't be stored" },
    Known { name: API_SERVER, shown: &[], in_message: &["reach", "cause"], each_counts: true,
            meaning: "the API server answers, is silent, or refuses" },
    Known { name: FOLLOWING, shown: &[], in_message: &[], each_counts: false,
            meaning: "which node and API server are followed, with which credentials, and what goes wrong with it or with key slots" },
    Known { name: KEY_SLOTS, shown: &[], in_message: &[], each_counts: true,
            meaning: "other keys open the store from now on" },
    Known { name: IN_STEP, shown: &[], in_message: &["revision"], each_counts: false,
            meaning: "what the store has is what the API server has" },
    Known { name: INTERRUPTED, shown: &[], in_message: &["cause"], each_counts: false,
            meaning: "following can't go on; it is tried again until it works" },
    Known { name: CONFIGURATION_READ, shown: &[], in_message: &["changed", "restart"], each_counts: true,
            meaning: "settings were read again: which have changed, and which take a restart" },
    Known { name: CONFIGURATION_REFUSED, shown: &[], in_message: &["cause"], each_counts: false,
            meaning: "settings could not be read, and stay as they were; at a start, are those that held last" },
    Known { name: PROBLEM, shown: &[], in_message: &[], each_counts: false,
            meaning: "a pod was not rendered, a fact of the node is not known, or a record is damaged" },
    Known { name: NOTE, shown: &[], in_message: &[], each_counts: false,
            meaning: "anything else that an operator should know and need not act on" },
    Known { name: MESSAGE, shown: &[], in_message: &[], each_counts: false,
            meaning: "anything else; its level says how bad it is" },
];

/// The one of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Known> {
    EVENTS.iter().find(|known| known.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::log::Severity;
    use crate::ops::log::levels::MODULES;

    /// The reference names every event with its fields, every level and every module.
    #[test]
    fn the_reference_is_true() {
        let text = include_str!("../../../docs/reference/logs.md");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
        for known in &EVENTS {
            let fields: Vec<String> =
                known.in_message.iter().chain(known.shown).map(|field| format!("`{field}`")).collect();
            let row = format!("| `{}` | {} | {} |", known.name, known.meaning, fields.join(", "));
            assert!(rows.contains(&row.replace("|  |", "| |").as_str()), "there is no row {row}");
        }
        let levels = [Severity::Error, Severity::Warning, Severity::Notice, Severity::Info, Severity::Debug];
        for severity in levels.into_iter().chain([Severity::Trace]) {
            let row = format!("| `{}` | {} |", severity.name(), severity.priority());
            assert!(rows.iter().any(|found| found.starts_with(&row)), "there is no row {row}");
        }
        // Four rows are of the options.
        assert_eq!(rows.len(), EVENTS.len() + 6 + 4, "it has rows for what is not there");
        let modules: Vec<String> = MODULES.iter().map(|module| format!("`{module}`")).collect();
        assert!(text.contains(&modules.join(", ")), "the modules are {}", modules.join(", "));
    }
}
