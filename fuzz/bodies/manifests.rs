//! Manifests of any contents: what is not taken is said on one line, and what is taken can be stored, judged and rendered.

use ckpt_db::source::manifests::{bound_to, node_name_of, parse};

use super::{assert_shown, pipeline};

/// The target's body.
pub fn run(octets: &[u8]) {
    let (objects, problems) = parse("stdin", octets);
    for problem in &problems {
        assert_shown(&problem.to_string());
    }
    let mut keys: Vec<_> = objects.iter().map(|object| object.key.clone()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), objects.len(), "one object twice");
    for object in &objects {
        assert_shown(&object.key.to_string());
        let _ = bound_to(object);
        // What is stored is JSON, and reads as the same object again.
        let (again, problems) = parse("stdin", object.body.expose());
        assert!(problems.is_empty(), "{}", problems[0]);
        assert!(again.len() == 1 && again[0].key == object.key, "{}", object.key);
    }
    let _ = node_name_of(&objects);
    if !objects.is_empty() {
        pipeline::judge(objects);
    }
}
