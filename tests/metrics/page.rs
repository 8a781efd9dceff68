//! The page, and what it says.

use std::collections::{BTreeMap, BTreeSet};

use ckpt_db::ops::metrics::{ALL, Counters, Gathered, Type, page};

use crate::promtool::{is_fine, promtool};
use crate::sample::{pods, status, text};

/// Every sample: the name with its labels, and the value.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').map(|(name, value)| (name, value.parse().unwrap())).unwrap()).collect()
}

#[test]
fn promtool_has_nothing_to_say() {
    let Some(promtool) = promtool("promtool check metrics") else { return };
    is_fine(&promtool, &["check", "metrics"], &text(&pods()));
}

#[test]
fn every_metric_is_there_once_and_no_other() {
    let text = text(&pods());
    let shown: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let known: Vec<(&str, &str)> = ALL.iter().map(|metric| (metric.name, metric.r#type.name())).collect();
    assert_eq!(shown, known);
    for metric in ALL {
        assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
        let of = |line: &&str| {
            let rest = line.strip_prefix(metric.name);
            let rest = rest.and_then(|rest| match metric.r#type {
                Type::Histogram => ["_bucket", "_sum", "_count"].iter().find_map(|suffix| rest.strip_prefix(suffix)),
                Type::Counter | Type::Gauge => Some(rest),
            });
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        let lines: Vec<&str> = text.lines().filter(of).collect();
        assert!(!lines.is_empty(), "{} has no sample", metric.name);
        for line in lines.iter().filter(|_| metric.r#type != Type::Histogram) {
            let labels: Vec<&str> = match line.split_once('{') {
                Some((_, labels)) => labels.split("\",").map(|label| label.split_once('=').unwrap().0).collect(),
                None => Vec::new(),
            };
            assert_eq!(labels, metric.labels, "{line}");
        }
    }
}

#[test]
fn what_it_says() {
    let text = text(&pods());
    let samples = samples(&text);
    #[rustfmt::skip]
    let rows = [
        (r#"ckpt_db_build_info{version="1.2.3"}"#,                               1.0),
        (r#"kubernetes_feature_enabled{name="Checkpointing",stage="ALPHA"}"#,    1.0),
        (r#"kubernetes_feature_enabled{name="Other",stage=""}"#,                 0.0),
        (r#"kubernetes_healthcheck{name="rounds",type="livez"}"#,                1.0),
        (r#"kubernetes_healthcheck{name="store",type="readyz"}"#,                0.0),
        (r#"ckpt_db_activation_policy{policy="all"}"#,                           1.0),
        ("ckpt_db_cold_start_seconds",                                           1.25),
        ("ckpt_db_rounds_total",                                                 1.0),
        ("ckpt_db_round_failures_total",                                         1.0),
        ("ckpt_db_container_runtime_up",                                         0.0),
        ("ckpt_db_kubelet_running",                                              1.0),
        (r#"ckpt_db_api_server_state{state="Silent"}"#,                          1.0),
        (r#"ckpt_db_api_server_state{state="Answering"}"#,                       0.0),
        ("ckpt_db_api_server_silence_seconds",                                   300.0),
        ("ckpt_db_in_step",                                                      0.0),
        ("ckpt_db_last_complete_sync_age_seconds",                               300.0),
        (r#"ckpt_db_watch_restarts_total{kind="Pod",reason="cut"}"#,             7.0),
        ("ckpt_db_client_certificate_expiration_timestamp_seconds",              1_800_086_400.0),
        (r#"ckpt_db_store_objects{kind="Secret"}"#,                              4.0),
        ("ckpt_db_store_writable",                                               0.0),
        (r#"ckpt_db_store_lock_state{state="Locked"}"#,                          1.0),
        (r#"ckpt_db_store_lock_state{state="Open"}"#,                            0.0),
        ("ckpt_db_store_quarantined_records",                                    2.0),
        ("ckpt_db_store_damaged_files",                                          1.0),
        (r#"ckpt_db_commit_duration_seconds_bucket{le="0.001"}"#,                0.0),
        (r#"ckpt_db_commit_duration_seconds_bucket{le="0.0025"}"#,               1.0),
        (r#"ckpt_db_commit_duration_seconds_bucket{le="10"}"#,                   1.0),
        (r#"ckpt_db_commit_duration_seconds_bucket{le="+Inf"}"#,                 2.0),
        ("ckpt_db_commit_duration_seconds_sum",                                  60.0015),
        ("ckpt_db_commit_changes_sum",                                           5003.0),
        ("ckpt_db_commit_written_bytes_total",                                   4097.0),
        ("ckpt_db_commit_failures_total",                                        1.0),
        ("ckpt_db_objects_rejected_total",                                       2.0),
        (r#"ckpt_db_key_slots{kind="node-key"}"#,                                2.0),
        (r#"ckpt_db_key_slots{kind="key-file"}"#,                                0.0),
        (r#"ckpt_db_key_slot_oldest_age_seconds{kind="node-key"}"#,              10_000.0),
        (r#"ckpt_db_key_slot_newest_age_seconds{kind="node-key"}"#,              1_000.0),
        (r#"ckpt_db_key_slot_newest_age_seconds{kind="credential"}"#,            0.0),
        (r#"ckpt_db_pods{verdict="Recoverable"}"#,                               7.0),
        (r#"ckpt_db_pods{verdict="WhenNetworkIs"}"#,                             1.0),
        (r#"ckpt_db_pods{verdict="NotRecoverable"}"#,                            2.0),
        (r#"ckpt_db_pods{verdict="NotMeant"}"#,                                  1.0),
        (r#"ckpt_db_pods_not_recoverable{reason="MissingObject"}"#,              2.0),
        (r#"ckpt_db_pods_not_recoverable{reason="Sealed"}"#,                     1.0),
        (r#"ckpt_db_pods_health{health="Down"}"#,                                1.0),
        (r#"ckpt_db_pods_health{health="ParentRuns"}"#,                          3.0),
        (r#"ckpt_db_checkpoints{state="Active"}"#,                               2.0),
        (r#"ckpt_db_active_copies{state="failing"}"#,                            1.0),
        (r#"ckpt_db_active_copies{state="unknown"}"#,                            1.0),
        ("ckpt_db_pods_held",                                                    1.0),
        (r#"ckpt_db_alarms{code="NotRendered"}"#,                                2.0),
        (r#"ckpt_db_alarms{code="LeftOver"}"#,                                   0.0),
        (r#"ckpt_db_alarms{code="RestartNeeded"}"#,                              0.0),
        ("ckpt_db_activations_total",                                            4.0),
        ("ckpt_db_hand_overs_total",                                             3.0),
        ("ckpt_db_checkpoints_ended_total",                                      2.0),
        ("ckpt_db_rejected_parents_total",                                       1.0),
        (r#"ckpt_db_bootstrap_failures_total{operation="remove"}"#,              2.0),
        (r#"ckpt_db_bootstrap_failures_total{operation="read"}"#,                1.0),
        ("process_resident_memory_bytes",                                        17_000_000.0),
        ("process_start_time_seconds",                                           1_799_999_000.0),
    ];
    for (name, value) in rows {
        assert_eq!(samples.get(name), Some(&value), "{name}");
    }
    let sum = |name: &str| {
        samples.iter().filter(|(key, _)| key.starts_with(&format!("{name}{{"))).map(|(_, v)| v).sum::<f64>()
    };
    for all in ["ckpt_db_pods", "ckpt_db_pods_health", "ckpt_db_checkpoints"] {
        assert_eq!(sum(all), 11.0, "{all} counts each pod once");
    }
    assert_eq!((sum("ckpt_db_active_copies"), sum("ckpt_db_alarms")), (4.0, 3.0));
}

/// Ten thousand nodes of a hundred pods each must not make a million series.
#[test]
fn the_number_of_series_does_not_depend_on_the_pods() {
    let names = |text: &str| samples(text).into_keys().map(str::to_owned).collect::<BTreeSet<String>>();
    let many: Vec<_> = (0..20).flat_map(|_| pods()).collect();
    let (few, many) = (text(&pods()), text(&many));
    assert_eq!(names(&few), names(&many));
    assert!(names(&few).len() < 200, "{} series", names(&few).len());
    for name in ["shop", "node-1", "lost-too"] {
        assert!(!few.contains(name), "{name} is on the page");
    }
}

/// As before the first round, with the feature gate off and no `/proc`.
#[test]
fn what_is_not_known_is_left_out() {
    let mut status = status(&[]);
    status.bootstrap = None;
    let gathered = Gathered {
        status,
        inventory: None,
        health: Default::default(),
        features: Vec::new(),
        watch_ends: Vec::new(),
        file_bytes: None,
        available_bytes: None,
        process: None,
        now_ms: 0,
    };
    let text = page(&gathered, &Counters::default());
    let samples = samples(&text);
    for absent in
        ["cold_start", "last_complete_sync", "certificate", "store_file", "slot_oldest", "bootstrap", "process_"]
    {
        assert!(!samples.keys().any(|name| name.contains(absent)), "{absent}");
    }
    assert_eq!(samples["ckpt_db_in_step"], 0.0);
}
