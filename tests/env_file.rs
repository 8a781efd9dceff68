//! What is written into an env file is what a kubelet reads from it, for all values that can stand in one.
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use ckpt_db::checkpoint::env_file::{append, carries};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

mod kubelet_env_file;

/// Rows of the kubelet's own test of its parser (`TestParseEnv`, 1.35): the second opinion has to be right itself.
#[test]
fn the_second_opinion_reads_as_a_kubelet_does() {
    #[rustfmt::skip]
    let rows = [
        ("   A='1'\n\t\tB='2'\n",                 "B", Ok("2")),
        ("# c\n\nA='1'\n   # c\n\nB='2'\n",        "B", Ok("2")),
        ("A='x#y'\n",                             "A", Ok("x#y")),
        ("A='   a b   '\n",                       "A", Ok("   a b   ")),
        ("A='a=b=c'\n",                           "A", Ok("a=b=c")),
        ("A='1'\nB='2' # c\n",                    "B", Ok("2")),
        ("A='$VAR ${VAR}'",                       "A", Ok("$VAR ${VAR}")),
        ("A='a \"b\" \\n'\n",                     "A", Ok("a \"b\" \\n")),
        ("A='1\n\n  2\n'\nB='3'\n",               "A", Ok("1\n\n  2\n")),
        ("A= '1'\n",                              "A", Ok("")),
        ("A='1'\nA='2'\n",                        "A", Ok("1")),
        ("A='1\r\n2'\r\n",                        "A", Ok("1\n2")),
        ("A ='1'\n",                              "A", Err("line 1: no name before the equals sign")),
        ("='1'\nB='2'\n",                         "B", Err("line 1: no name before the equals sign")),
        ("A='1'\nno\nB='2'\n",                    "B", Err("line 2: no equals sign")),
        ("A='1'\nB=2\n",                          "B", Err("line 2: no quote")),
        ("A='1'\nB=\"2\"\n",                      "B", Err("line 2: no quote")),
        ("A='1''2'\n",                            "A", Err("line 1: something behind the quote")),
        ("A='it's'\n",                            "A", Err("line 1: something behind the quote")),
        ("A='1'\nB='2\n",                         "B", Err("line 2: the quote is not closed")),
        ("A='1'\n",                               "C", Err("no such key")),
    ];
    for (file, key, want) in rows {
        let got = kubelet_env_file::value(file.as_bytes(), key);
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{file:?}");
    }
}

fn values() -> impl Strategy<Value = Vec<String>> {
    let hard = vec(
        select(vec!["'", "\r", "\n", "\r\n", "=", "#", " ", "\t", "$", "\\", "\"", "V1", "x", "\u{e9}", "\0"]),
        0..6,
    );
    let value = prop_oneof![
        4 => hard.prop_map(|parts| parts.concat()),
        1 => any::<String>(),
        1 => (32_700_usize..32_800).prop_map(|len| "x".repeat(len)),
    ];
    vec(value, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_can_be_written_is_what_is_read(values in values()) {
        let mut file = Vec::new();
        let mut written = Vec::new();
        for (n, value) in values.iter().enumerate() {
            let key = format!("V{}", n + 1);
            if append(&mut file, &key, value.as_bytes()) {
                written.push((key, value));
            }
        }
        for (key, value) in written {
            prop_assert_eq!(&kubelet_env_file::value(&file, &key).unwrap(), value);
        }
    }

    /// Nothing is refused that a file could carry: what is refused would be read as something else, or is too long.
    #[test]
    fn what_is_refused_could_not_be_read(value in values().prop_map(|mut all| all.remove(0))) {
        if !carries(value.as_bytes()) && value.len() <= 32 * 1024 && !value.contains('\0') && !value.is_empty() {
            let file = format!("V1='{value}'\n");
            prop_assert_ne!(kubelet_env_file::value(file.as_bytes(), "V1"), Ok(value));
        }
    }
}
