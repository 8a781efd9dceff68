//! A small blocking client of the API server: JSON in, JSON out, and watches line by line.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::runtime::Runtime;

/// How long one request may take; a server that is being killed may leave one without an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// One user's view of the API server. Calls block; the connections live on a runtime of their own, so that they may be
/// made from anywhere.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
    runtime: Arc<Background>,
}

/// A runtime that may be dropped anywhere, inside of another runtime too.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a successful answer.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.message());
        self.body
    }

    /// What a `Status` says.
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// The items of a list.
    #[track_caller]
    pub(crate) fn items(self) -> Vec<Value> {
        self.ok()["items"].as_array().cloned().expect("it is a list")
    }
}

impl Api {
    /// The user of a kubeconfig, whose files are read now.
    pub(crate) fn new(kubeconfig: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let client = runtime.block_on(async {
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
            // Tests want to see each answer, and decide themselves what to repeat.
            config.default_retry = false;
            kube::Client::try_from(config).unwrap()
        });
        Self { client, runtime: Arc::new(Background(Some(runtime))) }
    }

    /// Sends one request. `Err` means that no whole answer came back: whether it had an effect is unknown.
    pub(crate) fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        let content_type = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let request = request.header("accept", "application/json").body(body.into_bytes().into()).unwrap();
        let client = self.client.clone();
        let exchange = async move {
            let response = client.send(request).await.map_err(|error| shown(&error))?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.map_err(|error| shown(&error))?.to_bytes();
            // Health endpoints answer in plain text.
            let body = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
            Ok(Answer { status, body })
        };
        self.wait(async move { tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer".to_owned())? })
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.must(Method::GET, path, None)
    }

    #[track_caller]
    pub(crate) fn create(&self, path: &str, body: &Value) -> Answer {
        self.must(Method::POST, path, Some(body))
    }

    #[track_caller]
    pub(crate) fn replace(&self, path: &str, body: &Value) -> Answer {
        self.must(Method::PUT, path, Some(body))
    }

    /// A JSON merge patch; `path` may end in `/status`.
    #[track_caller]
    pub(crate) fn patch(&self, path: &str, body: &Value) -> Answer {
        self.must(Method::PATCH, path, Some(body))
    }

    /// Deletes at once, without a grace period.
    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.must(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), None)
    }

    #[track_caller]
    fn must(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let what = format!("{method} {path}");
        self.send(method, path, body).unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Opens a watch; `path` is the one to list with. A refusal is the answer.
    pub(crate) fn watch(&self, path: &str) -> Result<Watch, Answer> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let request = Request::get(format!("{path}{separator}watch=1")).header("accept", "application/json");
        let request = request.body(Vec::new().into()).unwrap();
        let client = self.client.clone();
        let (sender, events) = mpsc::channel();
        self.wait(async move {
            let response = client.send(request).await.unwrap_or_else(|error| panic!("watch: {}", shown(&error)));
            let status = response.status().as_u16();
            let mut body = response.into_body();
            if status != 200 {
                let bytes = body.collect().await.unwrap().to_bytes();
                return Err(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or_default() });
            }
            tokio::spawn(async move {
                let mut line = Vec::new();
                while let Some(Ok(frame)) = body.frame().await {
                    for byte in frame.into_data().unwrap_or_default() {
                        if byte != b'\n' {
                            line.push(byte);
                        } else if sender.send(serde_json::from_slice(&std::mem::take(&mut line)).unwrap()).is_err() {
                            return;
                        }
                    }
                }
            });
            Ok(Watch { events })
        })
    }

    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, answer) = mpsc::channel();
        let runtime = self.runtime.0.as_ref().expect("it goes with its last user");
        runtime.spawn(async move {
            let _ = sender.send(work.await);
        });
        answer.recv().expect("the task does not panic")
    }
}

/// What a watch sent.
#[derive(Debug)]
pub(crate) enum Next {
    Event(Value),
    /// Nothing within the time that was given.
    Quiet,
    /// The stream has ended, cleanly or not.
    Ended,
}

impl Next {
    /// `ADDED name`, `BOOKMARK `, `ERROR 410`, `quiet` or `ended`.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Event(event) if event["type"] == "ERROR" => format!("ERROR {}", event["object"]["code"]),
            Self::Event(event) => {
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
                format!("{} {name}", event["type"].as_str().unwrap_or_default())
            }
            Self::Quiet => "quiet".to_owned(),
            Self::Ended => "ended".to_owned(),
        }
    }
}

/// An open watch; dropping it closes it at the next event.
pub(crate) struct Watch {
    events: mpsc::Receiver<Value>,
}

impl Watch {
    pub(crate) fn next(&self, patience: Duration) -> Next {
        match self.events.recv_timeout(patience) {
            Ok(event) => Next::Event(event),
            Err(mpsc::RecvTimeoutError::Timeout) => Next::Quiet,
            Err(mpsc::RecvTimeoutError::Disconnected) => Next::Ended,
        }
    }
}

/// An error with its causes.
fn shown(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// The collection of a kind in a namespace: `/api/v1/namespaces/NS/secrets`.
pub(crate) fn collection(plural: &str, namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{plural}")
}

/// One object: `/api/v1/namespaces/NS/secrets/NAME`.
pub(crate) fn one(plural: &str, namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(plural, namespace))
}

/// One object as a list of at most one: `/api/v1/namespaces/NS/secrets?fieldSelector=metadata.name=NAME`.
pub(crate) fn listed(plural: &str, namespace: &str, name: &str) -> String {
    format!("{}?fieldSelector=metadata.name%3D{name}", collection(plural, namespace))
}

/// The pods of a node, in all namespaces.
pub(crate) fn pods_of(node: &str) -> String {
    format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}")
}
