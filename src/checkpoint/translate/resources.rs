//! Resource requests and limits: what the copy asks for, and what `resourceFieldRef` reads of them.

use serde_json::{Map, Value};

use super::super::json::{entries, set, text};
use super::super::verdict::Reason;
use super::downward::Answer;
use super::quantity::Quantity;
use super::{Findings, Parent};

/// What the kubelet counts at admission. A copy that asks for nothing never evicts a running pod, and its parent always
/// fits beside it. (hugepages-* stay: the kernel reserves them, and their request must equal their limit.)
const COUNTED: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// Sets counted requests to an explicit zero: a dropped one would default to the limit.
pub(super) fn translate(parent: &Parent<'_>, findings: &mut Findings, resources: &mut Value) {
    if resources.get("claims").and_then(Value::as_array).is_some_and(|claims| !claims.is_empty()) {
        findings.refuse(Reason::ResourceClaims);
    }
    for list in ["limits", "requests"] {
        for (name, _) in entries(resources, list) {
            if !COUNTED.contains(&name.as_str()) && !name.starts_with("hugepages-") {
                findings.refuse(Reason::ExtendedResource(name.clone()));
            }
        }
    }
    if parent.settings.keep_requests {
        return;
    }
    let mut requests = resources.get("requests").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
    for name in COUNTED {
        if requests.contains_key(name) || resources.get("limits").is_some_and(|limits| limits.get(name).is_some()) {
            requests.insert(name.to_owned(), "0".into());
        }
    }
    if !requests.is_empty() {
        set(resources, "requests", Value::Object(requests));
    }
}

/// What a `resourceFieldRef` reads in the parent, and whether it reads the same in the copy.
///
/// `own` is the container that asks (none for volumes), `path` the selector's path for the reason.
pub(super) fn field(parent: &Parent<'_>, selector: &Value, own: Option<&Value>, path: &str) -> Result<Answer, Reason> {
    let malformed = |problem: &str| Reason::Malformed(format!("{path}: {problem}"));
    let resource = text(selector, "resource").unwrap_or_default();
    let (list, name) = match resource.split_once('.') {
        Some((list @ ("limits" | "requests"), name)) if COUNTED.contains(&name) || name.starts_with("hugepages-") => {
            (list, name)
        }
        Some(_) | None => return Err(Reason::UnknownField { field: format!("{path}.resource") }),
    };
    let container = match text(selector, "containerName") {
        Some(name) if !name.is_empty() => {
            let found = parent.pod.containers().find(|(_, container)| text(container, "name") == Some(name));
            found.map(|(_, container)| container)
        }
        Some(_) | None => own,
    }
    .ok_or_else(|| malformed("containerName names no container"))?;

    let stated = |list: &str| container.get("resources").and_then(|all| all.get(list)).and_then(|all| all.get(name));
    let amount = match list {
        // The API server makes the limit the request where none is given; a hand-written manifest may lack that.
        "requests" => stated("requests").or_else(|| stated("limits")),
        _ => stated("limits"),
    };
    let zeroed = list == "requests" && COUNTED.contains(&name) && !parent.settings.keep_requests;
    let Some(amount) = amount else {
        // An absent limit reads as the node's allocatable, which only the kubelet knows; an absent request as zero.
        let value = (list == "requests" || name.starts_with("hugepages-")).then(|| "0".to_owned());
        return Ok(Answer { same_in_copy: true, value });
    };
    let amount = Quantity::of(amount).ok_or_else(|| malformed("the container's resources are no quantity"))?;
    let divisor = match selector.get("divisor").map(Quantity::of) {
        None => Quantity::ONE,
        Some(None) => return Err(malformed("divisor is no quantity")),
        Some(Some(Quantity::ZERO)) => Quantity::ONE,
        Some(Some(divisor)) => divisor,
    };
    let value = if name == "cpu" {
        amount.in_milli().divided_by(divisor.in_milli())
    } else {
        amount.in_units().divided_by(divisor.in_units())
    };
    let value = value.ok_or_else(|| malformed("divisor is zero"))?.to_string();
    Ok(Answer { same_in_copy: !zeroed || value == "0", value: Some(value) })
}
