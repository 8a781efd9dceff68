//! Whether the API server answers: `Answering`, `Silent` and `Refusing` are kept apart, since only an answer carries facts.

use std::fmt;

/// How the API server stands to us (lifecycle.md, "What is looked at").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It answers requests for the pods of this node.
    Answering,
    /// Nothing is heard of it: no route, no connection, no answer in time; or certificates can't be judged, since the
    /// clock is not set.
    Silent(Cause),
    /// It, or something in its place, answers and gives no facts: 401, 403, 429, 5xx, bad TLS, garbage.
    Refusing(Cause),
}

/// Why, in one line, fit for a log: what was attempted and what came of it. Never carries a response's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause(pub String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
