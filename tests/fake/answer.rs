//! Answers requests as the API server does, unless a fault strikes.

use std::sync::Arc;

use ckpt_db::checkpoint::object::Kind;
use data_encoding::BASE64URL_NOPAD;
use http::{HeaderValue, Response, header};
use serde_json::{Map, Value, json};

use super::authorize;
use super::body::{Abort, Body, Exchange, Outbox};
use super::faults::{Fault, Stage, event_line, status_body};
use super::request::{Request, Verb};
use super::store::Key;
use super::watch::{Watch, WatchStart};
use super::wire::Connection;
use super::{Gone, Shared, State};

/// A whole answer.
pub(super) struct Answer {
    code: u16,
    content_type: &'static str,
    body: Vec<u8>,
    retry_after_s: Option<u32>,
}

impl Answer {
    fn json(body: &Value) -> Self {
        Self { code: 200, content_type: "application/json", body: body.to_string().into_bytes(), retry_after_s: None }
    }

    fn status(code: u16, message: &str, request: &Request) -> Self {
        Self::status_after(code, message, request, None)
    }

    fn status_after(code: u16, message: &str, request: &Request, retry_after_s: Option<u32>) -> Self {
        let on = request.kind.zip(request.name.as_deref());
        let body = status_body(code, message, on, retry_after_s);
        Self { code, retry_after_s, ..Self::json(&body) }
    }
}

/// What the server would say, were it not for faults.
enum Decision {
    Answer(Answer),
    Watch(WatchStart),
}

pub(super) async fn answer(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    request: Request,
) -> Result<Response<Body>, Abort> {
    let mut exchange = Exchange::new(shared, connection, request);
    match exchange.fault(Stage::Answer) {
        None => {}
        Some(Fault::Status { code, message, retry_after_s }) => {
            let answer = Answer::status_after(code, &message, &exchange.request, retry_after_s);
            return Ok(whole(exchange, answer));
        }
        Some(Fault::Page { code, content_type, body }) => {
            return Ok(whole(exchange, Answer { code, content_type, body, retry_after_s: None }));
        }
        Some(Fault::Hang) => return exchange.never().await,
        Some(Fault::Close) => return exchange.close_connection().await,
        Some(Fault::Reset) => return exchange.reset_connection().await,
        Some(Fault::ResetStream) => return Err(Abort),
        Some(_) => unreachable!("another stage"),
    }
    let decision = exchange.shared.read(|state| decide(state, &exchange.request));
    match decision {
        Decision::Answer(mut answer) => {
            if answer.code == 200 {
                answer.body = exchange.content(answer.body);
            }
            Ok(whole(exchange, answer))
        }
        Decision::Watch(start) => {
            exchange.answered(200);
            let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
            Ok(response.body(Watch::body(exchange, start)).expect("a status and one header are valid"))
        }
    }
}

fn whole(mut exchange: Exchange, answer: Answer) -> Response<Body> {
    exchange.answered(answer.code);
    let mut response = Response::builder().status(answer.code).header(header::CONTENT_TYPE, answer.content_type);
    if let Some(seconds) = answer.retry_after_s {
        response = response.header(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    let mut outbox = Outbox::default();
    let length = answer.body.len();
    let undisturbed = answer.code != 200 || !exchange.deliver(&mut outbox, answer.body.clone());
    if answer.code != 200 {
        outbox.push(answer.body);
    }
    if undisturbed {
        response = response.header(header::CONTENT_LENGTH, length);
    }
    outbox.end_unless_cut();
    response.body(outbox.into_body(exchange)).expect("a status and three headers are valid")
}

fn decide(state: &State, request: &Request) -> Decision {
    let refused = |code, message: &str| Decision::Answer(Answer::status(code, message, request));
    if request.user.is_none() {
        return refused(401, "Unauthorized");
    }
    if let Some(why) = authorize::refusal(&state.options, &state.store.objects, request) {
        return refused(403, &why);
    }
    let answer = match (request.kind, request.verb) {
        (Some(kind), Verb::Get) => get(state, request, kind),
        (Some(kind), Verb::List) => list(state, request, kind),
        (Some(kind), Verb::Watch) => match watch(state, request, kind) {
            Ok(start) => return Decision::Watch(start),
            Err(answer) => Err(answer),
        },
        (None, _) if request.method == "GET" => elsewhere(request),
        _ => Err(Answer::status(405, "the fake server only reads", request)),
    };
    let (Ok(answer) | Err(answer)) = answer;
    Decision::Answer(answer)
}

fn elsewhere(request: &Request) -> Result<Answer, Answer> {
    match request.path.as_str() {
        "/version" => Ok(Answer::json(&json!({"major": "1", "minor": "37", "gitVersion": "v1.37.0-fake"}))),
        "/livez" | "/readyz" | "/healthz" => {
            Ok(Answer { content_type: "text/plain; charset=utf-8", body: b"ok".to_vec(), ..Answer::json(&Value::Null) })
        }
        _ => Err(Answer::status(404, "the server could not find the requested resource", request)),
    }
}

fn get(state: &State, request: &Request, kind: Kind) -> Result<Answer, Answer> {
    let version = version_asked_for(state, request)?;
    let name = request.name.clone().unwrap_or_default();
    let key: Key = (kind, request.namespace.clone().unwrap_or_default(), name);
    match state.store.at(version).get(&key) {
        Some(object) => Ok(Answer::json(&on_the_wire(kind, object))),
        None => Err(Answer::status(404, &format!("{} \"{}\" not found", kind.row().plural, key.2), request)),
    }
}

fn list(state: &State, request: &Request, kind: Kind) -> Result<Answer, Answer> {
    selectors(request)?;
    let (version, after) = match request.parameter("continue") {
        "" => (version_asked_for(state, request)?, None),
        token => {
            let (version, after) = read_token(kind, token)
                .ok_or_else(|| Answer::status(400, "continue key is not valid: it is none of ours", request))?;
            (version, Some(after))
        }
    };
    if version < state.store.floor && (after.is_some() || request.parameter("resourceVersionMatch") == "Exact") {
        return Err(Answer::status(
            410,
            "The provided continue parameter is too old to display a consistent list result.",
            request,
        ));
    }
    // As the server's cache does, which ignores the limit of a listing from "0".
    let limit = match request.parameter("resourceVersion") {
        "0" => None,
        _ => request.parameter("limit").parse().ok().filter(|&limit: &usize| limit > 0),
    };
    let objects = state.store.at(version);
    // From the first one that can be meant to the last: a thousand agents ask for one of ten thousand each.
    let namespace = request.namespace.as_deref();
    let name = request.name.as_deref().filter(|_| namespace.is_some());
    let first: Key = (kind, namespace.unwrap_or_default().to_owned(), name.unwrap_or_default().to_owned());
    let mut found = objects
        .range(first..)
        .take_while(|(key, _)| key.0 == kind && namespace.is_none_or(|namespace| key.1 == namespace))
        .filter(|(key, object)| selects(request, kind, key, object))
        .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
    let page: Vec<_> = found.by_ref().take(limit.unwrap_or(usize::MAX)).collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let (Some((last, _)), Some(_)) = (page.last(), found.next()) {
        metadata["continue"] = json!(token(version, last));
    }
    let items: Vec<&Value> = page.iter().map(|(_, object)| object.as_ref()).collect();
    let kind = format!("{kind}List");
    Ok(Answer::json(&json!({"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": items})))
}

fn watch(state: &State, request: &Request, kind: Kind) -> Result<WatchStart, Answer> {
    selectors(request)?;
    if !request.parameter("sendInitialEvents").is_empty() {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature \
                       gate is enabled";
        return Err(Answer::status(422, message, request));
    }
    let store = &state.store;
    let mut first = Vec::new();
    let mut gone = None;
    let from = match request.parameter("resourceVersion") {
        version @ ("" | "0") => {
            let version = if version.is_empty() { store.version } else { state.cached_version() };
            for (_, object) in store.at(version).iter().filter(|(key, object)| selects(request, kind, key, object)) {
                first.push(event_line("ADDED", &on_the_wire(kind, object)));
            }
            version
        }
        // A version that is still to come is no error: everything up to it will be left out.
        version => number(version, request)?,
    };
    if from < store.floor {
        let message = format!("too old resource version: {from} ({})", store.floor);
        match state.options.gone {
            Gone::Status => return Err(Answer::status(410, &message, request)),
            Gone::Event => gone = Some(event_line("ERROR", &status_body(410, &message, None, None))),
        }
    }
    let timeout_s: Option<u64> = request.parameter("timeoutSeconds").parse().ok();
    Ok(WatchStart {
        from,
        first,
        gone,
        position: store.position_after(from),
        present: store.journal.len(),
        epoch: store.epoch,
        ends_at_ms: timeout_s.map(|seconds| state.clock_ms + seconds * 1_000),
    })
}

fn selectors(request: &Request) -> Result<(), Answer> {
    match &request.bad_selector {
        Some(message) => Err(Answer::status(400, message, request)),
        None => Ok(()),
    }
}

fn number(version: &str, request: &Request) -> Result<u64, Answer> {
    let message = format!("resourceVersion: Invalid value: {version:?}: strconv.ParseUint: invalid syntax");
    version.parse().map_err(|_| Answer::status(400, &message, request))
}

/// The version at which a get or list is answered: "" is the latest, "0" whatever the cache has, a number at least that
/// (or exactly that).
fn version_asked_for(state: &State, request: &Request) -> Result<u64, Answer> {
    let (latest, cached) = (state.store.version, state.cached_version());
    match request.parameter("resourceVersion") {
        "" => Ok(latest),
        "0" => Ok(cached),
        version => {
            let version = number(version, request)?;
            if version > latest {
                let message = format!("Too large resource version: {version}, current: {latest}");
                return Err(Answer::status_after(504, &message, request, Some(1)));
            }
            match request.parameter("resourceVersionMatch") {
                "Exact" => Ok(version),
                _ if version <= cached => Ok(cached),
                _ => Ok(latest),
            }
        }
    }
}

/// Whether an object is among those that the request asks for.
pub(super) fn selects(request: &Request, kind: Kind, key: &Key, object: &Value) -> bool {
    key.0 == kind
        && request.namespace.as_ref().is_none_or(|namespace| key.1 == *namespace)
        && request.name.as_ref().is_none_or(|name| key.2 == *name)
        && request.node.as_ref().is_none_or(|node| object["spec"]["nodeName"].as_str().unwrap_or_default() == node)
}

/// The object with `kind` and `apiVersion`, which items of a listing lack.
pub(super) fn on_the_wire(kind: Kind, object: &Value) -> Value {
    let mut whole = Map::new();
    whole.insert("kind".into(), json!(kind.row().name));
    whole.insert("apiVersion".into(), json!(kind.row().api_version));
    whole.extend(object.as_object().expect("objects are stored").clone());
    Value::Object(whole)
}

fn token(version: u64, (_, namespace, name): &Key) -> String {
    BASE64URL_NOPAD.encode(format!("{version}/{namespace}/{name}").as_bytes())
}

fn read_token(kind: Kind, token: &str) -> Option<(u64, Key)> {
    let text = String::from_utf8(BASE64URL_NOPAD.decode(token.as_bytes()).ok()?).ok()?;
    let mut parts = text.splitn(3, '/');
    let version = parts.next()?.parse().ok()?;
    Some((version, (kind, parts.next()?.to_owned(), parts.next()?.to_owned())))
}
