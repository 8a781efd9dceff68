//! `dist/prometheus/alerts.yaml`: each alert is right by promtool, names metrics that are there, and has a test in which it
//! fires and one in which it does not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ckpt_db::ops::metrics::{ALL, Type};
use serde::Deserialize;

use crate::promtool::{is_fine, promtool};

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

/// One alert.
#[derive(Deserialize)]
pub(crate) struct Alert {
    pub(crate) alert: String,
    pub(crate) expr: String,
    #[serde(rename = "for")]
    pub(crate) lasts: String,
    pub(crate) labels: Labels,
    pub(crate) annotations: Annotations,
}

#[derive(Deserialize)]
pub(crate) struct Labels {
    pub(crate) severity: String,
}

#[derive(Deserialize)]
pub(crate) struct Annotations {
    pub(crate) summary: String,
    description: String,
}

#[derive(Deserialize)]
struct Tests {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    name: String,
    #[serde(default)]
    alert_rule_test: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    alertname: String,
    #[serde(default)]
    exp_alerts: Vec<serde_json::Value>,
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/prometheus").join(name)).unwrap()
}

pub(crate) fn alerts() -> Vec<Alert> {
    let file: File = serde_saphyr::from_str(&read("alerts.yaml")).unwrap();
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

#[test]
fn promtool_checks_and_tests_them() {
    let Some(promtool) = promtool("promtool test rules") else { return };
    is_fine(&promtool, &["check", "rules", "dist/prometheus/alerts.yaml"], "");
    is_fine(&promtool, &["test", "rules", "dist/prometheus/alerts_test.yaml"], "");
}

#[test]
fn each_fires_and_does_not_fire_in_a_test() {
    let tests: Tests = serde_saphyr::from_str(&read("alerts_test.yaml")).unwrap();
    let expected = || tests.tests.iter().flat_map(|test| &test.alert_rule_test);
    let names = |fires: bool| -> BTreeSet<&str> {
        let of = expected().filter(|expected| expected.exp_alerts.is_empty() != fires);
        of.map(|expected| expected.alertname.as_str()).collect()
    };
    let alerts = alerts();
    let all: BTreeSet<&str> = alerts.iter().map(|alert| alert.alert.as_str()).collect();
    assert_eq!(all.len(), alerts.len());
    assert_eq!(names(true), all, "alerts that fire in a test");
    assert_eq!(names(false), all, "alerts that do not fire in a test");
    assert!(tests.tests.iter().all(|test| !test.name.is_empty()));
}

#[test]
fn they_name_metrics_that_there_are() {
    let mut known: BTreeSet<String> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    for metric in ALL.iter().filter(|metric| metric.r#type == Type::Histogram) {
        known.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", metric.name)));
    }
    for Alert { alert, expr, labels, annotations, lasts } in alerts() {
        let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> =
            words.filter(|word| word.starts_with("ckpt_db_") || word.starts_with("kubernetes_")).collect();
        assert!(!named.is_empty() || expr.starts_with("up{"), "{alert} names no metric");
        for name in named {
            assert!(known.contains(name), "{alert} names {name}, which there is not");
        }
        assert!(["info", "warning", "critical"].contains(&labels.severity.as_str()), "{alert}");
        assert!(alert.starts_with("CkptDb") && !lasts.is_empty(), "{alert}");
        assert!(annotations.summary.ends_with('.') && annotations.description.ends_with('.'), "{alert}");
    }
}
