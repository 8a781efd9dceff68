//! `docs/reference/metrics.md` lists what the code has: metrics, checks and alerts. `SNAPSHOTS=overwrite` writes the tables anew.

use std::fs;
use std::path::Path;

use ckpt_db::ops::health::Health;
use ckpt_db::ops::metrics::ALL;

use crate::alerts::alerts;
use crate::sample::status;

fn metrics() -> String {
    let rows = ALL.iter().map(|metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |\n", metric.name, metric.r#type.name(), labels.join(", "), metric.help)
    });
    format!("| metric | type | labels | meaning |\n|---|---|---|---|\n{}", rows.collect::<String>())
}

fn checks() -> String {
    let health = Health::of(&status(&[]), Some(0), false);
    let rows = health.ready.iter().map(|check| {
        let live = health.live.iter().any(|live| live.name == check.name);
        format!("| `{}` | {} |\n", check.name, if live { "`/livez`, `/readyz`" } else { "`/readyz`" })
    });
    format!("| check | part of |\n|---|---|\n{}", rows.collect::<String>())
}

fn alert_rows() -> String {
    let alerts = alerts();
    let rows = alerts.iter().map(|alert| {
        let (name, severity) = (&alert.alert, &alert.labels.severity);
        format!("| `{name}` | {severity} | {} | {} |\n", alert.lasts, alert.annotations.summary)
    });
    format!("| alert | severity | after | meaning |\n|---|---|---|---|\n{}", rows.collect::<String>())
}

#[test]
fn the_reference_page_is_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md");
    let found = fs::read_to_string(&path).unwrap();
    let mut wanted = found.clone();
    for (name, table) in [("metrics", metrics()), ("checks", checks()), ("alerts", alert_rows())] {
        let (begin, end) = (format!("<!-- begin {name}, written by a test -->\n"), format!("<!-- end {name} -->"));
        let from = wanted.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
        let to = wanted.find(&end).unwrap_or_else(|| panic!("no {end}"));
        wanted.replace_range(from..to, &format!("\n{table}\n"));
    }
    if std::env::var("SNAPSHOTS").as_deref() == Ok("overwrite") {
        fs::write(&path, &wanted).unwrap();
        return;
    }
    assert!(
        found == wanted,
        "docs/reference/metrics.md is not what the code has: SNAPSHOTS=overwrite cargo test --test metrics"
    );
}
