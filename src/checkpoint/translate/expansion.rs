//! The `$(VAR)` syntax of Kubernetes (`third_party/forked/golang/expansion`): what a value refers to, and how to write a
//! value so that it refers to nothing.

use zeroize::Zeroizing;

/// `value` written so that the kubelet's expansion gives back exactly `value`: each `$` doubled.
pub(super) fn escape(value: &str) -> Zeroizing<String> {
    let dollars = value.bytes().filter(|b| *b == b'$').count();
    // Sized at once: a growing string would leave parts of a secret behind.
    let mut escaped = Zeroizing::new(String::with_capacity(value.len() + dollars));
    for part in value.split_inclusive('$') {
        escaped.push_str(part);
        if part.ends_with('$') {
            escaped.push('$');
        }
    }
    escaped
}

/// The names that an expansion of `value` looks up, in order.
pub(super) fn references(value: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('(') {
            // Without a closing parenthesis "$(" is plain text.
            match after.split_once(')') {
                Some((name, after)) => {
                    names.push(name);
                    rest = after;
                }
                None => rest = after,
            }
        } else if let Some(after) = rest.strip_prefix('$') {
            rest = after;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_those_that_the_kubelet_sees() {
        #[rustfmt::skip]
        let rows: [(&str, &[&str]); 11] = [
            ("",              &[]),
            ("plain",         &[]),
            ("$(A)",          &["A"]),
            ("x$(A)$(B)y",    &["A", "B"]),
            ("$$(A)",         &[]),
            ("$$$(A)",        &["A"]),
            ("$A",            &[]),
            ("$(A",           &[]),
            ("$",             &[]),
            ("$()",           &[""]),
            ("$($(A)",        &["$(A"]),
        ];
        for (value, want) in rows {
            assert_eq!(references(value), want, "{value}");
        }
    }

    /// The kubelet's expansion with an empty environment, as an independent check of `escape`.
    fn expand(value: &str) -> String {
        let mut out = String::new();
        let mut rest = value;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if rest.starts_with('(') {
                out.push_str("EXPANDED");
                rest = &rest[1..];
            } else {
                out.push('$');
            }
        }
        out + rest
    }

    proptest! {
        #[test]
        fn an_escaped_value_expands_to_itself(value in "[$()a\u{e9}]{0,12}") {
            let escaped = escape(&value);
            prop_assert_eq!(expand(&escaped), value);
            prop_assert!(references(&escaped).is_empty());
        }
    }
}
