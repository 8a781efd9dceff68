//! Prometheus' text format, version 0.0.4: what every Prometheus, and all that reads its format, takes.

use std::fmt::Write as _;

use super::{Metric, Type};

/// `Content-Type` of a page.
pub(in crate::ops) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page under way.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a metric, whose samples come next. One without any is left out.
    pub(super) fn metric(&mut self, metric: &Metric) -> Samples<'_> {
        Samples { text: &mut self.0, metric: *metric, begun: false }
    }

    /// The whole page.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// The samples of one metric.
pub(super) struct Samples<'a> {
    text: &'a mut String,
    metric: Metric,
    begun: bool,
}

impl Samples<'_> {
    /// One sample. `labels` are the values of the metric's labels, in their order.
    pub(super) fn put(&mut self, labels: &[&str], value: f64) -> &mut Self {
        let names = self.metric.labels;
        assert_eq!(names.len(), labels.len(), "labels of {}", self.metric.name);
        self.sample("", names.iter().copied().zip(labels.iter().copied()), value)
    }

    /// The one sample of a metric without labels, if there is one.
    pub(super) fn maybe(&mut self, value: Option<f64>) -> &mut Self {
        match value {
            Some(value) => self.put(&[], value),
            None => self,
        }
    }

    /// One sample for each of the states that there are: 1 for the one that holds.
    pub(super) fn one_of<'a>(&mut self, states: impl IntoIterator<Item = &'a str>, holds: &str) {
        for state in states {
            self.put(&[state], f64::from(u8::from(state == holds)));
        }
    }

    /// A histogram: upper bounds with the count of what was at most so large and larger than the bound before, the count of
    /// all that was larger than any, and the sum.
    pub(super) fn histogram(&mut self, buckets: impl IntoIterator<Item = (f64, u64)>, above: u64, sum: f64) {
        let mut count = 0;
        for (bound, more) in buckets {
            count += more;
            self.sample("_bucket", [("le", bound.to_string().as_str())].into_iter(), count as f64);
        }
        count += above;
        self.sample("_bucket", [("le", "+Inf")].into_iter(), count as f64);
        self.sample("_sum", std::iter::empty(), sum);
        self.sample("_count", std::iter::empty(), count as f64);
    }

    fn sample<'a>(&mut self, suffix: &str, labels: impl Iterator<Item = (&'a str, &'a str)>, value: f64) -> &mut Self {
        let Metric { name, r#type, help, .. } = self.metric;
        debug_assert_eq!(suffix.is_empty(), r#type != Type::Histogram, "{name}");
        if !self.begun {
            self.begun = true;
            // Writing to a string never fails.
            let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {}", escaped(help), r#type.name());
        }
        let _ = write!(self.text, "{name}{suffix}");
        let mut sign = '{';
        for (label, value) in labels {
            let _ = write!(self.text, "{sign}{label}=\"{}\"", escaped(value).replace('"', "\\\""));
            sign = ',';
        }
        if sign == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format() {
        let gauge = Metric { name: "a", r#type: Type::Gauge, labels: &["x", "y"], help: "Back\\slash\nand line." };
        let plain = Metric { name: "b", labels: &[], help: "Plain.", ..gauge };
        let missing = Metric { name: "c", ..plain };
        let states = Metric { name: "d", labels: &["state"], ..plain };
        let histogram = Metric { name: "e", r#type: Type::Histogram, ..plain };
        let mut text = Text::default();
        text.metric(&gauge).put(&["1", "q\"u\\o\nte"], 2.0).put(&["2", ""], 0.5);
        text.metric(&plain).maybe(Some(1e10));
        text.metric(&missing).maybe(None);
        text.metric(&states).one_of(["on", "off"], "off");
        text.metric(&histogram).histogram([(0.5, 2), (1.0, 0), (2.5, 1)], 4, 12.25);
        let want = r##"# HELP a Back\\slash\nand line.
# TYPE a gauge
a{x="1",y="q\"u\\o\nte"} 2
a{x="2",y=""} 0.5
# HELP b Plain.
# TYPE b gauge
b 10000000000
# HELP d Plain.
# TYPE d gauge
d{state="on"} 0
d{state="off"} 1
# HELP e Plain.
# TYPE e histogram
e_bucket{le="0.5"} 2
e_bucket{le="1"} 2
e_bucket{le="2.5"} 3
e_bucket{le="+Inf"} 7
e_sum 12.25
e_count 7
"##;
        assert_eq!(text.finish(), want);
    }
}
