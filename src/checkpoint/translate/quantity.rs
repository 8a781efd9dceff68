//! Kubernetes quantities (`500m`, `1Gi`, `2e3`) as numbers, as far as `resourceFieldRef` needs them.

use serde_json::Value;

/// A quantity in billionths, the precision of `resource.Quantity`; finer parts are rounded up, as there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quantity {
    nano: i128,
}

/// A whole number of some unit, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole(i128);

impl Quantity {
    pub(super) const ZERO: Self = Self { nano: 0 };
    pub(super) const ONE: Self = Self { nano: NANO };

    /// Reads a quantity from a tree: a string, or a number as hand-written manifests have it.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// `Quantity.MilliValue`.
    pub(super) fn in_milli(self) -> Whole {
        Whole(ceiling(self.nano, 1_000_000))
    }

    /// `Quantity.Value`.
    pub(super) fn in_units(self) -> Whole {
        Whole(ceiling(self.nano, NANO))
    }

    fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // Longer ones are beyond what Kubernetes stores, and would overflow below.
        if whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > 30 || fraction.contains('.') {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let (exponent, factor) = scale(suffix)?;
        // digits * factor * 10^(exponent - fraction.len()), in units of 10^-9
        let shift = 9 + exponent - i32::try_from(fraction.len()).ok()?;
        let scaled = digits.checked_mul(factor)?;
        let nano = match u32::try_from(shift) {
            Ok(up) => scaled.checked_mul(10_i128.checked_pow(up)?)?,
            Err(_) => ceiling(scaled, 10_i128.checked_pow(shift.unsigned_abs())?),
        };
        Some(Self { nano: if negative { -nano } else { nano } })
    }
}

impl Whole {
    /// The quotient rounded up; none for a zero divisor.
    pub(super) fn divided_by(self, divisor: Self) -> Option<i128> {
        (divisor.0 != 0).then(|| ceiling(self.0, divisor.0))
    }
}

const NANO: i128 = 1_000_000_000;

fn ceiling(number: i128, divisor: i128) -> i128 {
    let quotient = number / divisor;
    if number % divisor != 0 && (number < 0) == (divisor < 0) { quotient + 1 } else { quotient }
}

/// A suffix as a power of ten and a factor.
fn scale(suffix: &str) -> Option<(i32, i128)> {
    Some(match suffix {
        "" => (0, 1),
        "n" => (-9, 1),
        "u" => (-6, 1),
        "m" => (-3, 1),
        "k" => (3, 1),
        "M" => (6, 1),
        "G" => (9, 1),
        "T" => (12, 1),
        "P" => (15, 1),
        "E" => (18, 1),
        "Ki" => (0, 1 << 10),
        "Mi" => (0, 1 << 20),
        "Gi" => (0, 1 << 30),
        "Ti" => (0, 1 << 40),
        "Pi" => (0, 1 << 50),
        "Ei" => (0, 1 << 60),
        exponent => (exponent.strip_prefix(['e', 'E'])?.parse::<i8>().ok()?.into(), 1),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        #[rustfmt::skip]
        let rows = [
            // text       milli (rounded up)          units (rounded up)
            ("0",         Some((0,                    0))),
            ("500m",      Some((500,                  1))),
            ("1.5",       Some((1500,                 2))),
            (".5",        Some((500,                  1))),
            ("2.",        Some((2000,                 2))),
            ("100n",      Some((1,                    1))),
            ("1e3",       Some((1_000_000,            1000))),
            ("1E",        Some((1_000_000_000_000_000_000_000, 1_000_000_000_000_000_000))),
            ("128Mi",     Some((134_217_728_000,      134_217_728))),
            ("1.5Gi",     Some((1_610_612_736_000,    1_610_612_736))),
            ("1k",        Some((1_000_000,            1000))),
            ("-1",        Some((-1000,                -1))),
            ("",          None),
            (".",         None),
            ("1.2.3",     None),
            ("1Q",        None),
            ("one",       None),
            ("1e999999",  None),
        ];
        for (text, want) in rows {
            let got = Quantity::parse(text).map(|q| (q.in_milli().0, q.in_units().0));
            assert_eq!(got, want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-+0-9.eEkKmMgGiunTP]{0,40}") {
            if let Some(quantity) = Quantity::parse(&text) {
                let _ = (quantity.in_milli(), quantity.in_units());
            }
        }
    }
}
