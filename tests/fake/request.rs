//! What a client asks, as it stands in the log, and [`Match`], which picks requests out.

use std::fmt;
use std::sync::Arc;

use ckpt_db::checkpoint::object::Kind;

/// What a request wants of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    /// A path that is no resource, or a method that is not GET.
    Other,
}

/// One request, as the log shows it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Counts requests from 1.
    pub(crate) number: u64,
    /// Counts TCP connections from 1.
    pub(crate) connection: u64,
    pub(crate) method: String,
    pub(crate) path: String,
    /// Decoded, in the order of the request.
    pub(crate) query: Vec<(String, String)>,
    pub(crate) verb: Verb,
    /// None for a path that is no resource.
    pub(crate) kind: Option<Kind>,
    /// None for all namespaces and for cluster-wide kinds.
    pub(crate) namespace: Option<String>,
    /// Of the path, or of the selector `metadata.name=`.
    pub(crate) name: Option<String>,
    /// Of the selector `spec.nodeName=`.
    pub(crate) node: Option<String>,
    /// What is wrong with the selectors, as the server would say it.
    pub(crate) bad_selector: Option<String>,
    /// The client's common name; none if it was not recognised.
    pub(crate) user: Option<String>,
    /// The serial number of the client's certificate (counts from 1); none with a token or without credentials.
    pub(crate) certificate: Option<u64>,
    /// None while there is no answer; for ever, if the server hangs or closes.
    pub(crate) status: Option<u16>,
    /// Whether its answer is still being sent: an open watch.
    pub(crate) open: bool,
    pub(crate) at: std::time::Instant,
}

impl Request {
    pub(super) fn parse(method: &str, path: &str, query: &str) -> Self {
        let query: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let mut request = Self {
            number: 0,
            connection: 0,
            method: method.to_owned(),
            path: path.to_owned(),
            query,
            verb: Verb::Other,
            kind: None,
            namespace: None,
            name: None,
            node: None,
            bad_selector: None,
            user: None,
            certificate: None,
            status: None,
            open: false,
            at: std::time::Instant::now(),
        };
        request.read_path();
        if matches!(request.verb, Verb::List | Verb::Watch) {
            request.read_selectors();
        }
        request
    }

    /// The value of a query parameter; empty if it is not there.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.query.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    fn flag(&self, name: &str) -> bool {
        self.query.iter().any(|(field, value)| field == name && !["0", "false"].contains(&value.as_str()))
    }

    pub(super) fn allows_bookmarks(&self) -> bool {
        self.flag("allowWatchBookmarks")
    }

    fn read_path(&mut self) {
        let Some(below) = self.path.strip_prefix("/api/v1/") else { return };
        let parts: Vec<&str> = below.split('/').collect();
        let (namespace, plural, name) = match parts[..] {
            ["namespaces", namespace, plural] => (Some(namespace), plural, None),
            ["namespaces", namespace, plural, name] => (Some(namespace), plural, Some(name)),
            [plural] => (None, plural, None),
            [plural, name] => (None, plural, Some(name)),
            _ => return,
        };
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.row().plural == plural) else { return };
        // A namespaced object has its namespace in the path, and a cluster-wide one has none.
        if namespace.is_some() && !kind.row().namespaced
            || name.is_some() && namespace.is_some() != kind.row().namespaced
        {
            return;
        }
        self.kind = Some(kind);
        self.namespace = namespace.map(decoded);
        self.name = name.map(decoded);
        self.verb = match (self.method.as_str(), name) {
            ("GET", Some(_)) => Verb::Get,
            ("GET", None) if self.flag("watch") => Verb::Watch,
            ("GET", None) => Verb::List,
            _ => Verb::Other,
        };
    }

    fn read_selectors(&mut self) {
        let selector = self.parameter("fieldSelector").to_owned();
        for term in selector.split(',').filter(|term| !term.is_empty()) {
            let (field, value) = term.split_once('=').unwrap_or((term, ""));
            let value = value.strip_prefix('=').unwrap_or(value).to_owned();
            match field {
                "metadata.name" => self.name = Some(value),
                "spec.nodeName" if self.kind == Some(Kind::Pod) => self.node = Some(value),
                _ => self.bad_selector = Some(format!("field label not supported: {field}")),
            }
        }
        if !self.parameter("labelSelector").is_empty() {
            self.bad_selector = Some("the fake server knows no label selectors".to_owned());
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} c{} {} {}", self.number, self.connection, self.method, self.path)?;
        for (n, (name, value)) in self.query.iter().enumerate() {
            write!(f, "{}{name}={value}", if n == 0 { '?' } else { '&' })?;
        }
        match self.status {
            Some(status) => write!(f, " -> {status}{}", if self.open { " (open)" } else { "" }),
            None => f.write_str(" -> no answer"),
        }
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        (bytes, rest) = match (first, escaped) {
            (b'%', Some(byte)) => ([bytes, vec![byte]].concat(), &tail[2..]),
            (b'+', _) => ([bytes, vec![b' ']].concat(), tail),
            _ => ([bytes, vec![first]].concat(), tail),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Picks requests: those of a verb and kind, narrowed down further by chaining.
#[derive(Clone)]
pub(crate) struct Match(Arc<dyn Fn(&Request) -> bool + Send + Sync>);

impl Match {
    pub(crate) fn when(condition: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(condition))
    }

    pub(crate) fn any() -> Self {
        Self::when(|_| true)
    }

    pub(crate) fn get(kind: Kind) -> Self {
        Self::of(Verb::Get, kind)
    }

    pub(crate) fn list(kind: Kind) -> Self {
        Self::of(Verb::List, kind)
    }

    pub(crate) fn watch(kind: Kind) -> Self {
        Self::of(Verb::Watch, kind)
    }

    fn of(verb: Verb, kind: Kind) -> Self {
        Self::when(move |request| request.verb == verb && request.kind == Some(kind))
    }

    pub(crate) fn and(self, condition: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        Self::when(move |request| self.matches(request) && condition(request))
    }

    /// Of one object, by its path or the selector `metadata.name=`.
    pub(crate) fn named(self, name: &str) -> Self {
        let name = name.to_owned();
        self.and(move |request| request.name.as_ref() == Some(&name))
    }

    /// Of no object by name.
    pub(crate) fn unnamed(self) -> Self {
        self.and(|request| request.name.is_none())
    }

    pub(crate) fn within(self, namespace: &str) -> Self {
        let namespace = namespace.to_owned();
        self.and(move |request| request.namespace.as_ref() == Some(&namespace))
    }

    /// With exactly this value of a query parameter; empty also means that it is not there.
    pub(crate) fn with(self, parameter: &str, value: &str) -> Self {
        let (parameter, value) = (parameter.to_owned(), value.to_owned());
        self.and(move |request| request.parameter(&parameter) == value)
    }

    /// Answered with this status: of use in the log only, since a fault is chosen before the answer.
    pub(crate) fn answered(self, status: u16) -> Self {
        self.and(move |request| request.status == Some(status))
    }

    /// Later than [`super::Server::mark`] was at.
    pub(crate) fn after(self, mark: u64) -> Self {
        self.and(move |request| request.number > mark)
    }

    pub(crate) fn matches(&self, request: &Request) -> bool {
        (self.0)(request)
    }
}
