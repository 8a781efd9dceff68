//! Both ends of the admin socket, and clients and agents that don't behave.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Blocking;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};

use super::server::may_ask;
use super::*;
use crate::ops::status::{ApiServer, KIND, Known, Kubelet, KubeletState, Policy, Reach, Store};

fn pod(name: &str) -> PodName {
    PodName { namespace: "shop".to_owned(), name: name.to_owned() }
}

fn status() -> CheckpointerStatus {
    CheckpointerStatus {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        node: "edge-1".to_owned(),
        version: "0".to_owned(),
        now_unix_s: 1,
        clock_is_set: true,
        started_at_unix_s: 1,
        up_s: 0,
        policy: Policy::All,
        checkpointing: true,
        api_server: ApiServer {
            state: Reach::Answering,
            since_unix_s: 1,
            for_s: 0,
            cause: None,
            last_answer_unix_s: None,
        },
        store: Store::default(),
        bootstrap: None,
        runtime: Known { known: true, reason: None },
        kubelet: Kubelet { state: KubeletState::Unknown, for_s: None, reason: None },
        pods: Vec::new(),
        next_deadline: None,
        alarms: Vec::new(),
    }
}

/// An agent that repeats what it is asked.
#[derive(Default)]
struct Echo {
    asked: AtomicUsize,
    /// Status is answered when this says so; `None`: at once.
    gate: Option<Notify>,
}

impl Admin for Echo {
    async fn status(&self) -> Result<CheckpointerStatus, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
        Ok(status())
    }

    async fn hold(&self, pod: PodName) -> Result<String, String> {
        Ok(format!("held {pod}"))
    }

    async fn release(&self, pod: PodName) -> Result<String, String> {
        Err(format!("{pod} is not held"))
    }

    async fn image(&self) -> Result<Image, String> {
        Ok(image())
    }

    async fn yield_store(&self, uid: String) -> Result<String, String> {
        Ok(format!("yielded to {uid}"))
    }

    async fn change_keys(&self, change: KeyChange) -> Result<KeysChanged, String> {
        let removed = change.remove.iter().map(|fingerprint| data_encoding::HEXLOWER.encode(fingerprint)).collect();
        Ok(KeysChanged { removed, ..KeysChanged::default() })
    }
}

/// Larger than any buffer on the way.
fn image() -> Image {
    Image { path: "/var/lib/store.db".into(), bytes: (0..3_000_000_u32).map(|n| (n % 251) as u8).collect() }
}

fn serve(path: &Path, agent: Arc<Echo>) -> JoinHandle<std::io::Result<()>> {
    let listening = Listening::bind(path).unwrap();
    tokio::spawn(listening.serve(agent))
}

async fn asked<T: Send + 'static>(path: &Path, ask: impl FnOnce(Client) -> T + Send + 'static) -> T {
    let client = Client::new(path);
    spawn_blocking(move || ask(client)).await.unwrap()
}

#[tokio::test]
async fn each_question_has_its_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/admin.sock");
    let server = serve(&path, Arc::default());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));

    let document = asked(&path, |client| client.status()).await.unwrap();
    assert_eq!(serde_json::from_value::<CheckpointerStatus>(document).unwrap(), status());
    assert_eq!(asked(&path, |client| client.hold(&pod("web"))).await.unwrap(), "held shop/web");
    let refused = asked(&path, |client| client.release(&pod("web"))).await.unwrap_err();
    assert_eq!(refused.to_string(), "the agent says: shop/web is not held");
    assert_eq!(asked(&path, |client| client.yield_store("u2")).await.unwrap(), "yielded to u2");
    assert_eq!(asked(&path, |client| client.image()).await.unwrap(), image());
    let change = KeyChange { remove: vec![[0xab; 32]], ..KeyChange::default() };
    let changed = asked(&path, move |client| client.change_keys(&change)).await.unwrap();
    assert_eq!(changed, KeysChanged { removed: vec!["ab".repeat(32)], ..KeysChanged::default() });

    server.abort();
    let _ = server.await;
    assert!(!path.exists(), "its file goes with it");
    assert!(matches!(asked(&path, |client| client.status()).await, Err(AskError::NoAgent(_))));
}

#[test]
fn requests() {
    for request in [
        Request::Status,
        Request::Image,
        Request::Hold(pod("web")),
        Request::Release(pod("web")),
        Request::Yield { uid: "u".to_owned() },
    ] {
        let found = Request::parse(&request.line()).unwrap();
        assert_eq!(*found.line(), *request.line());
    }
    // Others may write these by hand.
    let line = br#"{"apiVersion":"ckpt-db.io/v1alpha1","yield":{"uid":"u"}}"#;
    assert!(matches!(Request::parse(line), Ok(Request::Yield { uid }) if uid == "u"));
    #[rustfmt::skip]
    let rows = [
        ("",                                                                        "can't be read"),
        ("[]",                                                                      "can't be read"),
        (r#"{"get":"status"}"#,                                                     "can't be read"),
        (r#"{"apiVersion":"ckpt-db.io/v2","get":"status"}"#,                        "this agent speaks"),
        (r#"{"apiVersion":"ckpt-db.io/v1alpha1"}"#,                                 "must ask for one thing"),
        (r#"{"apiVersion":"ckpt-db.io/v1alpha1","get":"secrets"}"#,                 "must ask for one thing"),
        (r#"{"apiVersion":"ckpt-db.io/v1alpha1","get":"status","hold":"a/b"}"#,     "must ask for one thing"),
        (r#"{"apiVersion":"ckpt-db.io/v1alpha1","get":"status","x":1}"#,            "can't be read"),
        (r#"{"apiVersion":"ckpt-db.io/v1alpha1","hold":"web"}"#,                    "NAMESPACE/NAME"),
        (r#"{"apiVersion":"ckpt-db.io/v1alpha1","hold":"a/b/c"}"#,                  "NAMESPACE/NAME"),
        (r#"{"apiVersion":"ckpt-db.io/v1alpha1","hold":"/b"}"#,                     "NAMESPACE/NAME"),
    ];
    for (line, want) in rows {
        let error = Request::parse(line.as_bytes()).err().expect(line);
        assert!(error.contains(want), "{line}: {error}");
    }
}

#[test]
fn who_may_ask() {
    for (peer, own, want) in [(0, 0, true), (0, 7, true), (7, 7, true), (7, 0, false), (8, 7, false)] {
        assert_eq!(may_ask(peer, own), want, "{peer} asks {own}");
    }
}

/// Clients that connect and say nothing, say no end, or never read: none keeps a place for longer than its deadline.
#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_is_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/admin.sock");
    let server = serve(&path, Arc::default());
    for sent in [&b""[..], b"{", br#"{"apiVersion":"#] {
        let mut silent = UnixStream::connect(&path).await.unwrap();
        silent.write_all(sent).await.unwrap();
        let mut answer = String::new();
        let began = tokio::time::Instant::now();
        silent.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("no request came within 5 seconds"), "{answer}");
        assert_eq!(began.elapsed().as_secs(), 5);
    }
    // An image that nobody reads: the connection is cut within its deadline, not kept.
    let mut deaf = UnixStream::connect(&path).await.unwrap();
    deaf.write_all(&Request::Image.line()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    let mut rest = Vec::new();
    deaf.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < image().bytes.len(), "{} octets were sent", rest.len());
    server.abort();
}

#[tokio::test]
async fn a_request_without_end_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/admin.sock");
    let server = serve(&path, Arc::default());
    let answer = spawn_blocking(move || {
        let mut stream = Blocking::connect(path).unwrap();
        // It is refused while we still write.
        let _ = stream.write_all(&vec![b' '; 10 * REQUEST_MAX_BYTES]);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    assert_eq!(answer.await.unwrap(), "{\"error\":\"the request is longer than 65536 octets\"}\n");
    server.abort();
}

/// The agent is busy: those who ask too many at a time are told so, and an answer is owed to nobody for ever.
#[tokio::test(start_paused = true)]
async fn eight_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/admin.sock");
    let agent = Arc::new(Echo { gate: Some(Notify::new()), ..Echo::default() });
    let server = serve(&path, Arc::clone(&agent));
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(&Request::Status.line()).await.unwrap();
        waiting.push(stream);
    }
    while agent.asked.load(Ordering::SeqCst) < 8 {
        tokio::task::yield_now().await;
    }
    let answer = |mut stream: UnixStream| async move {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let ninth = answer(UnixStream::connect(&path).await.unwrap()).await;
    assert!(ninth.contains("too many clients"), "{ninth}");
    agent.gate.as_ref().unwrap().notify_one();
    let mut answers = Vec::new();
    for stream in waiting {
        answers.push(answer(stream).await);
    }
    let told = |what: &str| answers.iter().filter(|answer| answer.contains(what)).count();
    assert_eq!((told("CheckpointerStatus"), told("too busy to answer")), (1, 7), "{answers:?}");
    // Their places are free again.
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(&Request::Hold(pod("web")).line()).await.unwrap();
    assert_eq!(answer(stream).await, "{\"ok\":\"held shop/web\"}\n");
    server.abort();
}

#[tokio::test]
async fn the_socket_of_a_dead_agent_is_replaced_and_that_of_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/admin.sock");
    fs::create_dir(path.parent().unwrap()).unwrap();
    // A listener that is dropped leaves its file, as a process that is killed does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = serve(&path, Arc::default());
    let error = Listening::bind(&path).unwrap_err();
    assert!(matches!(error, BindError::InUse(_)), "{error}");
    assert_eq!(asked(&path, |client| client.hold(&pod("a"))).await.unwrap(), "held shop/a");
    first.abort();
    let _ = first.await;
    drop(Listening::bind(&path).unwrap());
}

/// What is not ours stays as it is.
#[test]
fn places_that_are_not_for_us() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

    fs::create_dir(at("shared")).unwrap();
    fs::write(at("shared/theirs"), "").unwrap();
    set(&at("shared"), 0o777);
    let error = Listening::bind(&at("shared/admin.sock")).unwrap_err();
    assert!(matches!(error, BindError::OpenDirectory { mode: 0o777, .. }), "{error}");
    assert_eq!(mode(&at("shared")), 0o777);

    // As a kubelet makes a hostPath.
    fs::create_dir(at("empty")).unwrap();
    set(&at("empty"), 0o755);
    fs::write(at("empty/last-answer"), "").unwrap();
    drop(Listening::bind(&at("empty/admin.sock")).unwrap());
    assert_eq!(mode(&at("empty")), 0o700);

    fs::create_dir(at("private")).unwrap();
    set(&at("private"), 0o700);
    fs::write(at("private/admin.sock"), "precious").unwrap();
    let error = Listening::bind(&at("private/admin.sock")).unwrap_err();
    assert!(matches!(error, BindError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(at("private/admin.sock")).unwrap(), "precious");
    assert!(matches!(Listening::bind(&at("private/admin.sock/x")), Err(BindError::Io { .. })));
}

/// What listens there is hung, mute, of another kind, or cut off in the middle.
#[test]
fn answers_that_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    type Asking<'a> = &'a dyn Fn(&Client) -> AskError;
    let answer = |sent: Option<&'static [u8]>, ask: Asking<'_>| {
        let _ = fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            match sent {
                Some(sent) => {
                    let mut request = [0; 512];
                    let _ = stream.read(&mut request);
                    stream.write_all(sent).unwrap();
                }
                // Until the client has given up.
                None => drop(stream.read_to_end(&mut Vec::new())),
            }
        });
        let error = ask(&Client::new(&path).with_deadline(Duration::from_millis(50)));
        server.join().unwrap();
        error.to_string()
    };
    let status = |client: &Client| client.status().unwrap_err();
    let image = |client: &Client| client.image().unwrap_err();
    #[rustfmt::skip]
    let rows: [(Option<&'static [u8]>, Asking<'_>, &str); 7] = [
        (None,                                                &status, "may be hung"),
        (Some(b""),                                           &status, "nothing at all"),
        (Some(b"{\"ok\":"),                                   &status, "cut short"),
        (Some(b"SSH-2.0\n"),                                  &status, "can't be read"),
        (Some(b"{\"error\":\"no\"}\n"),                       &status, "the agent says: no"),
        (Some(b"{\"ok\":{\"path\":\"/s\",\"length\":4}}\nab"), &image, "ends after 2 of 4 octets"),
        (Some(b"{\"ok\":{\"path\":\"/s\",\"length\":99999999999999}}\nab"), &image, "ends after 2"),
    ];
    for (sent, ask, want) in rows {
        let error = answer(sent, ask);
        assert!(error.contains(want), "{sent:?}: {error}");
    }
}
