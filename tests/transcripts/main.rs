//! What the program says and does at its edges, as an operator meets it: one transcript a case.

mod keys;
mod inspect;
mod opening;
mod scene;
mod source;
mod usage;
