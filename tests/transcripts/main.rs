//! What the program says and does at its edges, as an operator meets it: one transcript a case.

mod inspect;
mod keys;
mod opening;
mod scene;
mod source;
mod usage;
