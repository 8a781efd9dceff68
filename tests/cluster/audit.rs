//! The API server's audit log: who asked for what, and whether that was well-mannered.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// One request. A watch is one request, however long it lasts.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `get`, `list`, `watch`, `create`, ...
    pub(crate) verb: String,
    /// The plural, empty for paths such as `/readyz`; with a subresource, `pods/status`.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    /// The object in the path, which lists do not have. For a list or watch by name some versions say it here too.
    pub(crate) name: String,
    /// Path and query as they were sent.
    pub(crate) uri: String,
    pub(crate) user: String,
    pub(crate) user_agent: String,
    /// 0 where the API server died before it answered.
    pub(crate) status: u16,
    /// When it arrived, as RFC 3339 with microseconds: texts of it compare as times do.
    pub(crate) received: String,
    /// The last stage that was logged.
    pub(crate) stage: String,
}

impl Request {
    /// The values of one query parameter, decoded.
    pub(crate) fn query(&self, parameter: &str) -> Vec<String> {
        let query = self.uri.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == parameter).map(|(_, value)| decoded(value)).collect()
    }

    /// The terms of its field selectors, such as `spec.nodeName=edge-1`.
    pub(crate) fn selectors(&self) -> Vec<String> {
        let all = self.query("fieldSelector");
        all.iter().flat_map(|one| one.split(',')).map(|term| term.replacen("==", "=", 1)).collect()
    }

    fn shown(&self) -> String {
        format!("{} {} {} by {} at {}", self.verb, self.uri, self.status, self.user, self.received)
    }
}

/// What was logged, in the order of arrival.
#[derive(Clone, Default)]
pub(crate) struct AuditLog {
    pub(crate) requests: Vec<Request>,
}

impl AuditLog {
    /// Reads a log; a request that has just been answered may not be in it yet. A line that a killed API server left
    /// unfinished is passed over.
    pub(crate) fn read(path: &Path) -> Self {
        Self::parse(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()))
    }

    /// Joins the stages of each request.
    pub(crate) fn parse(text: &str) -> Self {
        let mut requests: Vec<Request> = Vec::new();
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let field = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let status = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
            let status = u16::try_from(status).unwrap_or_default();
            let request = Request {
                verb: field("/verb"),
                resource: match field("/objectRef/subresource") {
                    none if none.is_empty() => field("/objectRef/resource"),
                    subresource => format!("{}/{subresource}", field("/objectRef/resource")),
                },
                namespace: field("/objectRef/namespace"),
                name: field("/objectRef/name"),
                uri: field("/requestURI"),
                user: field("/user/username"),
                user_agent: field("/userAgent"),
                status,
                received: field("/requestReceivedTimestamp"),
                stage: field("/stage"),
            };
            let at = *known.entry(field("/auditID")).or_insert_with(|| {
                requests.push(request.clone());
                requests.len() - 1
            });
            requests[at].stage = request.stage;
            if status != 0 {
                requests[at].status = status;
            }
        }
        requests.sort_by(|a, b| a.received.cmp(&b.received));
        Self { requests }
    }

    /// Those of one user.
    pub(crate) fn of(&self, user: &str) -> Self {
        Self { requests: self.requests.iter().filter(|request| request.user == user).cloned().collect() }
    }

    /// Those that arrived at `from` or later, and before `to`. Times are as [`Request::received`] has them.
    pub(crate) fn between(&self, from: &str, to: &str) -> Self {
        let within = |request: &&Request| request.received.as_str() >= from && request.received.as_str() < to;
        Self { requests: self.requests.iter().filter(within).cloned().collect() }
    }

    /// Those after the first `count`, for what came since an earlier reading.
    pub(crate) fn after(&self, count: usize) -> Self {
        Self { requests: self.requests.iter().skip(count).cloned().collect() }
    }

    /// How many, by verb and resource.
    pub(crate) fn counts(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for request in &self.requests {
            *counts.entry((request.verb.clone(), request.resource.clone())).or_default() += 1;
        }
        counts
    }

    /// How many, by status.
    pub(crate) fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for request in &self.requests {
            *counts.entry(request.status).or_default() += 1;
        }
        counts
    }

    /// Every request that an agent on `node` must not make, a line each: anything that writes, pods of other nodes,
    /// ConfigMaps and Secrets other than by name.
    pub(crate) fn bad_manners(&self, node: &str) -> Vec<String> {
        let bad = |request: &&Request| bad(request, node).is_some();
        let line = |request: &Request| format!("{}: {}", bad_reason(request, node), request.shown());
        self.requests.iter().filter(bad).map(line).collect()
    }
}

fn bad_reason(request: &Request, node: &str) -> &'static str {
    bad(request, node).unwrap_or_default()
}

fn bad(request: &Request, node: &str) -> Option<&'static str> {
    let reads = ["get", "list", "watch"];
    if !reads.contains(&request.verb.as_str()) {
        return Some("not a read");
    }
    let selectors = request.selectors();
    let by_path = request.verb == "get" && !request.name.is_empty();
    match request.resource.as_str() {
        "pods" if !selectors.contains(&format!("spec.nodeName={node}")) => Some("not this node's pods"),
        "secrets" | "configmaps" => {
            let named =
                selectors.iter().any(|term| term.strip_prefix("metadata.name=").is_some_and(|name| !name.is_empty()));
            (!by_path && !named || request.namespace.is_empty()).then_some("names no object")
        }
        "nodes" => {
            let own = selectors.contains(&format!("metadata.name={node}")) || by_path && request.name == node;
            (!own).then_some("not this node")
        }
        _ => None,
    }
}

/// Percent-decoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn manners() {
    let request = |verb: &str, resource: &str, name: &str, uri: &str| Request {
        verb: verb.to_owned(),
        resource: resource.to_owned(),
        namespace: if uri.contains("/namespaces/") { "a".to_owned() } else { String::new() },
        name: name.to_owned(),
        uri: uri.to_owned(),
        user: "system:node:n".to_owned(),
        user_agent: String::new(),
        status: 200,
        received: String::new(),
        stage: "ResponseComplete".to_owned(),
    };
    #[rustfmt::skip]
    let rows = [
        (request("list", "pods", "", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn&resourceVersion=0"), None),
        (request("watch", "pods", "", "/api/v1/pods?watch=1&fieldSelector=spec.nodeName=n"), None),
        (request("list", "pods", "p", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp%2Cspec.nodeName%3Dn"), None),
        (request("list", "pods", "", "/api/v1/pods"), Some("not this node's pods")),
        (request("watch", "pods", "", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnn"), Some("not this node's pods")),
        (request("get", "pods", "p", "/api/v1/namespaces/a/pods/p"), Some("not this node's pods")),
        (request("get", "secrets", "s", "/api/v1/namespaces/a/secrets/s"), None),
        (request("watch", "secrets", "s", "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Ds&watch=true"), None),
        (request("list", "configmaps", "", "/api/v1/namespaces/a/configmaps?fieldSelector=metadata.name=s"), None),
        (request("list", "configmaps", "", "/api/v1/namespaces/a/configmaps"), Some("names no object")),
        (request("list", "configmaps", "", "/api/v1/namespaces/a/configmaps?fieldSelector=metadata.name%3D"), Some("names no object")),
        (request("list", "secrets", "", "/api/v1/secrets?fieldSelector=metadata.name%3Ds"), Some("names no object")),
        (request("get", "nodes", "n", "/api/v1/nodes/n"), None),
        (request("list", "nodes", "", "/api/v1/nodes?fieldSelector=metadata.name%3Dn"), None),
        (request("list", "nodes", "", "/api/v1/nodes"), Some("not this node")),
        (request("list", "services", "", "/api/v1/services"), None),
        (request("delete", "pods", "p", "/api/v1/namespaces/a/pods/p?fieldSelector=spec.nodeName%3Dn"), Some("not a read")),
        (request("create", "pods/eviction", "p", "/api/v1/namespaces/a/pods/p/eviction"), Some("not a read")),
    ];
    for (request, want) in rows {
        assert_eq!(bad(&request, "n"), want, "{}", request.shown());
    }
}

#[test]
fn the_stages_of_a_request_are_one_request() {
    let text = [
        r#"{"auditID":"1","stage":"ResponseStarted","verb":"watch","requestReceivedTimestamp":"2026-01-01T00:00:01.000000Z","responseStatus":{"code":200},"objectRef":{"resource":"pods"},"user":{"username":"u"}}"#,
        r#"{"auditID":"2","stage":"ResponseComplete","verb":"get","requestReceivedTimestamp":"2026-01-01T00:00:00.500000Z","responseStatus":{"code":404},"objectRef":{"resource":"secrets"},"user":{"username":"u"}}"#,
        r#"{"auditID":"1","stage":"ResponseComplete","verb":"watch","requestReceivedTimestamp":"2026-01-01T00:00:01.000000Z","responseStatus":{"code":200},"objectRef":{"resource":"pods"},"user":{"username":"u"}}"#,
        r#"{"auditID":"3","stage":"Resp"#,
    ];
    let log = AuditLog::parse(&text.join("\n"));
    let shown: Vec<String> = log.requests.iter().map(|r| format!("{} {} {}", r.verb, r.status, r.stage)).collect();
    assert_eq!(shown, ["get 404 ResponseComplete", "watch 200 ResponseComplete"]);
    assert_eq!(log.between("2026-01-01T00:00:01", "2026-01-01T00:00:02").requests.len(), 1);
}
