//! Against a runtime of our own on a Unix socket, and against things that are none.

use std::os::unix::net::UnixListener as StdUnixListener;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use self::runtime::{Fake, OK, Reply, framed, inner, map, number, text};
use super::*;
use crate::checkpoint::look::{Container, ContainerState, Sandbox};
use crate::checkpoint::rendering::PodName;

mod events;
mod runtime;

const RUNNING: u64 = 1;

/// A `PodSandbox` as a kubelet has it made.
fn sandbox(id: &str, pod: &str, uid: &str, state: u64, created_at: u64, annotations: &[(&str, &str)]) -> Vec<u8> {
    let metadata = [text(1, pod), text(2, uid), text(3, "default"), number(4, 3)].concat();
    let labels = [
        ("io.kubernetes.pod.name", pod),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", uid),
        ("app", "web"),
    ];
    let fields = [
        text(1, id),
        inner(2, &metadata),
        number(3, state),
        number(4, created_at),
        map(5, &labels),
        map(6, annotations),
        text(7, "runc"),
    ];
    inner(1, &fields.concat())
}

/// A `Container` as a kubelet has it made.
fn container(id: &str, sandbox: &str, name: &str, attempt: u64, state: u64, labels: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        text(1, id),
        text(2, sandbox),
        inner(3, &[text(1, name), number(2, attempt)].concat()),
        inner(4, &text(1, "registry.k8s.io/pause:3.9")),
        text(5, "sha256:1"),
        number(6, state),
        number(7, 77),
        map(8, labels),
        map(9, &[("io.kubernetes.container.hash", "1")]),
        text(10, "sha256:2"),
    ];
    inner(1, &fields.concat())
}

fn seen(id: &str, pod: &str, uid: &str, ready: bool, created_at_unix_ns: i64, containers: Vec<Container>) -> Sandbox {
    let pod = PodName { namespace: "default".to_owned(), name: pod.to_owned() };
    let (id, uid) = (id.to_owned(), uid.to_owned());
    Sandbox { id, pod, uid, ready, parent_uid: None, created_at_unix_ns, containers }
}

fn seen_container(id: &str, name: &str, attempt: u32, state: ContainerState) -> Container {
    Container { id: id.to_owned(), name: name.to_owned(), state, attempt }
}

/// Answers with these containers and these sandboxes.
fn lists(containers: Vec<u8>, sandboxes: Vec<u8>) -> impl FnMut(&str) -> Reply {
    move |path| match path {
        "/runtime.v1.RuntimeService/ListContainers" => Reply::Message(containers.clone()),
        "/runtime.v1.RuntimeService/ListPodSandbox" => Reply::Message(sandboxes.clone()),
        other => panic!("{other} was asked for"),
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn known(look: Fact<Runtime>) -> Vec<Sandbox> {
    match look {
        Fact::Known(runtime) => runtime.sandboxes,
        Fact::Unknown(reason) => panic!("{reason}"),
    }
}

/// The reason, which always begins with the socket; without that.
fn unknown<T: std::fmt::Debug>(look: Fact<T>, socket: &Path) -> String {
    let Fact::Unknown(reason) = look else { panic!("{look:?}") };
    let (begin, reason) = reason.split_once(".sock: ").unwrap();
    assert_eq!(format!("{begin}.sock"), format!("container runtime at {}", socket.display()));
    reason.to_owned()
}

#[tokio::test]
async fn sandboxes_and_their_containers() {
    use ContainerState::{Created, Exited, Running, Unknown};
    let dir = directory();
    let copy = [("ckpt-db.io/parent-uid", "u-parent"), ("kubernetes.io/config.source", "file")];
    let sandboxes = [
        sandbox("s1", "web", "u1", 1, 100, &[]),
        sandbox("s2", "web", "u1", 0, 300, &[]),
        sandbox("s3", "web", "u0", 1, 200, &[]),
        // Before the clock was set back.
        sandbox("s0", "web", "u1", 1, 400, &[]),
        sandbox("s4", "copy-node", "u-hash", 0, 1 << 60, &copy),
        sandbox("s8", "old-node", "u-hash-2", 0, 1, &[("checkpointer.alpha.coreos.com/checkpoint-of", "old")]),
        // Labels win over metadata, and metadata stands in for labels.
        inner(
            1,
            &[
                text(1, "s5"),
                inner(2, &[text(1, "other"), text(2, "other"), text(3, "other")].concat()),
                map(5, &[("io.kubernetes.pod.name", "zz"), ("io.kubernetes.pod.namespace", "default")]),
                map(5, &[("io.kubernetes.pod.uid", "u5")]),
            ]
            .concat(),
        ),
        inner(1, &[text(1, "s6"), inner(2, &[text(1, "zzz"), text(2, "u6"), text(3, "default")].concat())].concat()),
        // No pod of a kubelet's.
        inner(1, &[text(1, "s7"), map(5, &[("io.kubernetes.pod.name", "nameless"), ("app", "web")])].concat()),
        inner(1, &[]),
    ];
    let containers = [
        container("c1", "s2", "main", 0, 2, &[]),
        container("c2", "s2", "main", 2, RUNNING, &[]),
        container("c3", "s2", "init", 0, 2, &[]),
        container("c4", "s1", "main", 0, 2, &[]),
        container("c5", "s4", "copy", 0, 0, &[]),
        container("c6", "s4", "side", 0, 3, &[]),
        container("c7", "s4", "tide", 0, 9, &[("io.kubernetes.container.name", "late")]),
        container("c8", "s7", "nobody's", 0, RUNNING, &[]),
    ];
    let fake = Fake::at(&dir.path().join("a.sock"), lists(containers.concat(), sandboxes.concat()));

    let c = seen_container;
    #[rustfmt::skip]
    let want = [
        Sandbox { parent_uid: Some("u-parent".to_owned()), ..seen("s4", "copy-node", "u-hash", true, 1 << 60, vec![
            c("c5", "copy", 0, Created), c("c7", "late", 0, Unknown), c("c6", "side", 0, Unknown)]) },
        // A copy that the pod-checkpointer made names its parent only.
        Sandbox { parent_uid: Some("pod-checkpointer:default/old".to_owned()), ..seen("s8", "old-node", "u-hash-2", true, 1, vec![]) },
        seen("s2", "web", "u1", true, 300, vec![
            c("c3", "init", 0, Exited), c("c2", "main", 2, Running), c("c1", "main", 0, Exited)]),
        seen("s0", "web", "u1", false, 400, vec![]),
        seen("s3", "web", "u0", false, 200, vec![]),
        seen("s1", "web", "u1", false, 100, vec![c("c4", "main", 0, Exited)]),
        seen("s5", "zz", "u5", true, 0, vec![]),
        seen("s6", "zzz", "u6", true, 0, vec![]),
    ];
    assert_eq!(known(Cri::new(fake.socket.clone()).look().await), want);
    assert_eq!(fake.asked(), ["ListContainers", "ListPodSandbox"]);
}

#[tokio::test]
async fn nothing_runs() {
    let dir = directory();
    let fake = Fake::at(&dir.path().join("a.sock"), lists(Vec::new(), Vec::new()));
    assert_eq!(known(Cri::new(fake.socket.clone()).look().await), []);
}

/// Between the two questions the pod was stopped, removed and started anew.
#[tokio::test]
async fn a_sandbox_that_went_between_the_questions_is_asked_for_once_more() {
    let dir = directory();
    let mut containers = vec![container("c2", "s2", "main", 0, RUNNING, &[]), container("c1", "s1", "main", 0, 2, &[])];
    let fake = Fake::at(&dir.path().join("a.sock"), move |path| match path.rsplit('/').next() {
        Some("ListContainers") => Reply::Message(containers.pop().unwrap()),
        _ => Reply::Message(sandbox("s2", "web", "u1", 0, 1, &[("ckpt-db.io/parent-uid", "u0")])),
    });
    let look = known(Cri::new(fake.socket.clone()).look().await);
    let want = seen("s2", "web", "u1", true, 1, vec![seen_container("c2", "main", 0, ContainerState::Running)]);
    assert_eq!(look, [Sandbox { parent_uid: Some("u0".to_owned()), ..want }]);
    assert_eq!(fake.asked(), ["ListContainers", "ListPodSandbox", "ListContainers", "ListPodSandbox"]);
}

#[tokio::test]
async fn a_container_whose_sandbox_stays_away_is_not_lost() {
    let dir = directory();
    let labels = [
        ("io.kubernetes.pod.name", "web"),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", "u1"),
    ];
    let containers = [
        container("c1", "lost", "main", 4, RUNNING, &labels),
        container("c2", "lost", "side", 0, 2, &labels),
        container("c3", "unknown", "main", 0, RUNNING, &[("io.kubernetes.pod.name", "web")]),
    ];
    let fake = Fake::at(&dir.path().join("a.sock"), lists(containers.concat(), Vec::new()));
    let containers = vec![
        seen_container("c1", "main", 4, ContainerState::Running),
        seen_container("c2", "side", 0, ContainerState::Exited),
    ];
    let look = known(Cri::new(fake.socket.clone()).look().await);
    assert_eq!(look, [seen("lost", "web", "u1", false, 77, containers)]);
    assert_eq!(fake.asked().len(), 4, "asked once more, and no more than that");
}

#[tokio::test]
async fn images() {
    let dir = directory();
    let pause = [
        text(1, "sha256:1"),
        text(2, "registry.k8s.io/pause:3.9"),
        text(2, "registry.k8s.io/pause:latest"),
        text(3, "registry.k8s.io/pause@sha256:3"),
        number(4, 700_000),
        inner(5, &number(1, 65535)),
        text(6, "nobody"),
        inner(7, &text(1, "pause")),
        number(8, 1),
    ];
    let list = [inner(1, &pause.concat()), inner(1, &text(1, "sha256:2"))].concat();
    let fake = Fake::at(&dir.path().join("a.sock"), move |path| {
        assert_eq!(path, "/runtime.v1.ImageService/ListImages");
        Reply::Message(list.clone())
    });
    let want = vec![
        Image {
            id: "sha256:1".to_owned(),
            repo_tags: vec!["registry.k8s.io/pause:3.9".to_owned(), "registry.k8s.io/pause:latest".to_owned()],
            repo_digests: vec!["registry.k8s.io/pause@sha256:3".to_owned()],
            pinned: true,
        },
        Image { id: "sha256:2".to_owned(), ..Image::default() },
    ];
    assert_eq!(Cri::new(fake.socket.clone()).images().await, Fact::Known(want));
}

#[tokio::test]
async fn a_message_may_come_in_any_pieces() {
    let dir = directory();
    let whole = framed(&sandbox("s1", "web", "u1", 0, 1, &[]));
    let fake = Fake::at(&dir.path().join("a.sock"), move |path| match path.rsplit('/').next() {
        Some("ListContainers") => Reply::Message(Vec::new()),
        _ => Reply::Pieces(whole.iter().map(|byte| vec![*byte]).collect(), OK),
    });
    assert_eq!(known(Cri::new(fake.socket.clone()).look().await), [seen("s1", "web", "u1", true, 1, vec![])]);
}

/// Answers that are none: what is said of them, after the name of the question.
#[tokio::test]
async fn answers_that_are_no_facts() {
    let message = || framed(&text(1, "x"));
    let two = [message(), message()].concat();
    let compressed = [&[1], &message()[1..]].concat();
    let cut = message()[..message().len() - 1].to_vec();
    let unavailable: Option<&[_]> = Some(&[("grpc-status", "14"), ("grpc-message", "not%20yet%0a")]);
    let old = "unknown service runtime.v1.RuntimeService";
    #[rustfmt::skip]
    let rows: Vec<(Reply, &str)> = vec![
        (Reply::Status(12, old),                           "the runtime does not serve it: CRI v1 is needed"),
        (Reply::Status(14, "server is not initialized"),   "the runtime answers with gRPC status 14 (server is not initialized)"),
        (Reply::Pieces(vec![], unavailable),               "the runtime answers with gRPC status 14 (not yet )"),
        (Reply::Pieces(vec![message()], unavailable),      "the runtime answers with gRPC status 14 (not yet )"),
        (Reply::Pieces(vec![], OK),                        "this is no answer of CRI v1 (it holds no message)"),
        (Reply::Pieces(vec![vec![0; 4]], OK),              "this is no answer of CRI v1 (it holds no message)"),
        (Reply::Pieces(vec![message()], None),             "this is no answer of CRI v1 (it ends without a gRPC status)"),
        (Reply::Pieces(vec![message()], Some(&[("grpc-status", "fine")])), "this is no answer of CRI v1 (its gRPC status is no number)"),
        (Reply::Pieces(vec![two], OK),                     "this is no answer of CRI v1 (it is compressed, cut off, or more than one message)"),
        (Reply::Pieces(vec![compressed], OK),              "this is no answer of CRI v1 (it is compressed, cut off, or more than one message)"),
        (Reply::Pieces(vec![cut], OK),                     "this is no answer of CRI v1 (it is compressed, cut off, or more than one message)"),
        (Reply::Message(vec![0xff; 30]),                   "this is no answer of CRI v1 (failed to decode"),
        (Reply::Message(sandbox("s", "p", "u", 2, 1, &[])), "this is no answer of CRI v1 (state 2 of a sandbox is none of CRI v1)"),
        (Reply::Http(404, "application/grpc"),             "this is no answer of CRI v1 (HTTP status 404)"),
        (Reply::Http(200, "text/html"),                    "this is no answer of CRI v1 (it is not gRPC)"),
        (Reply::Pieces(vec![vec![0, 0xff, 0, 0, 0]], OK),  "the answer is longer than 16 MiB"),
        (Reply::Pieces(vec![vec![0; 1 << 20]; 17], OK),    "the answer is longer than 16 MiB"),
        (Reply::Break,                                     "the connection broke ("),
    ];
    for (reply, want) in rows {
        let dir = directory();
        let mut reply = Some(reply);
        let fake = Fake::at(&dir.path().join("a.sock"), move |path| match path.rsplit('/').next() {
            Some("ListContainers") => Reply::Message(Vec::new()),
            _ => reply.take().unwrap(),
        });
        let reason = unknown(Cri::new(fake.socket.clone()).look().await, &fake.socket);
        assert!(reason.starts_with(&format!("ListPodSandbox: {want}")), "{reason}, not {want}");
        assert!(reason.contains(": ") && !reason.contains(char::is_control), "{reason}");
    }
}

#[tokio::test]
async fn an_answer_of_16_mib_is_read_and_no_byte_more() {
    for (more, readable) in [(0, true), (1, false)] {
        let dir = directory();
        let item = sandbox("s1", "web", "u1", 0, 1, &[]);
        // A field that nobody knows fills it up, after its tag and a length of four bytes.
        let filler = "x".repeat(16 * 1024 * 1024 - item.len() - 5 + more);
        let list = [item, text(2, &filler)].concat();
        assert_eq!(list.len(), 16 * 1024 * 1024 + more);
        let fake = Fake::at(&dir.path().join("a.sock"), lists(Vec::new(), list));
        // Not a matter of time: a machine under load takes longer than a look may.
        let look = Cri::new(fake.socket.clone()).runtime(Instant::now() + Duration::from_secs(60)).await;
        match look {
            Ok(runtime) => assert!(readable && runtime.sandboxes.len() == 1),
            Err(failure) => assert!(!readable && failure.to_string().contains("longer than 16 MiB"), "{failure}"),
        }
    }
}

#[tokio::test]
async fn sockets_where_no_runtime_is() {
    let dir = directory();
    let at = |name: &str| dir.path().join(name);
    drop(StdUnixListener::bind(at("dead.sock")).unwrap());
    std::fs::write(at("file.sock"), "").unwrap();
    let closes = tokio::net::UnixListener::bind(at("closes.sock")).unwrap();
    let talks = tokio::net::UnixListener::bind(at("talks.sock")).unwrap();
    tokio::spawn(async move {
        loop {
            drop(closes.accept().await.unwrap());
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = talks.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    #[rustfmt::skip]
    let rows = [
        ("missing.sock",         "connect: there is no such socket: start the container runtime"),
        ("dir.sock/below.sock",  "connect: there is no such socket: start the container runtime"),
        ("dead.sock",            "connect: nobody listens there: start the container runtime"),
        ("file.sock",            "connect: nobody listens there: start the container runtime"),
        ("closes.sock",          "ListContainers: the connection broke ("),
        ("talks.sock",           "ListContainers: the connection broke ("),
    ];
    for (name, want) in rows {
        let cri = Cri::new(at(name));
        let reason = unknown(cri.look().await, cri.socket());
        assert!(reason.starts_with(want), "{reason}, not {want}");
        let images = unknown(cri.images().await, cri.socket());
        assert!(images.starts_with(&want.replace("ListContainers", "ListImages")), "{images}");
    }
}

/// Wherever it hangs, the whole look takes two seconds, and its connection is closed.
#[tokio::test]
async fn a_runtime_that_hangs() {
    let begin = || framed(&sandbox("s1", "web", "u1", 0, 1, &[]))[..20].to_vec();
    let whole = || framed(&sandbox("s1", "web", "u1", 0, 1, &[]));
    let rows = [
        (vec![Reply::Silence], "ListContainers"),
        (vec![Reply::Stall(vec![])], "ListContainers"),
        (vec![Reply::Message(vec![]), Reply::Silence], "ListPodSandbox"),
        (vec![Reply::Message(vec![]), Reply::Stall(vec![begin()])], "ListPodSandbox"),
        (vec![Reply::Message(vec![]), Reply::Stall(vec![whole()])], "ListPodSandbox"),
    ];
    for (mut replies, want) in rows {
        let dir = directory();
        replies.reverse();
        let fake = Fake::at(&dir.path().join("a.sock"), move |_| replies.pop().unwrap());
        let cri = Cri::new(fake.socket.clone());
        let begun = Instant::now();
        let look = tokio::spawn(async move { cri.look().await });
        // With the clock stopped, time moves on to the deadline as soon as there is nothing left to do.
        fake.stalled.notified().await;
        tokio::time::pause();
        let reason = unknown(look.await.unwrap(), &fake.socket);
        assert_eq!(
            reason,
            format!("{want}: no answer within 2 s: the container runtime hangs or is overloaded, see its log")
        );
        let took = begun.elapsed();
        tokio::time::resume();
        assert!(took >= DEADLINE && took < DEADLINE + Duration::from_secs(1), "{took:?}");
        fake.closed.notified().await;
    }
}

#[tokio::test]
async fn a_runtime_that_takes_no_connection() {
    let dir = directory();
    let socket = dir.path().join("a.sock");
    let _listener = StdUnixListener::bind(&socket).unwrap();
    tokio::time::pause();
    let begun = Instant::now();
    let reason = unknown(Cri::new(socket.clone()).look().await, &socket);
    assert!(reason.contains(": no answer within 2 s"), "{reason}");
    let took = begun.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE + Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_runtime_that_is_restarted_between_looks() {
    let dir = directory();
    let socket = dir.path().join("a.sock");
    let cri = Cri::new(socket.clone());
    let one = Fake::at(&socket, lists(Vec::new(), sandbox("s1", "web", "u1", 0, 1, &[])));
    assert_eq!(known(cri.look().await).len(), 1);
    one.closed.notified().await;
    one.stop().await;
    assert!(unknown(cri.look().await, &socket).starts_with("connect: there is no such socket"));
    let _two = Fake::at(&socket, lists(Vec::new(), Vec::new()));
    assert_eq!(known(cri.look().await), []);
}

/// The cold start asks from a thread without a runtime; it must not matter if it ever gets one.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn asked_from_synchronous_code() {
    let dir = directory();
    let list = sandbox("s1", "web", "u1", 0, 1, &[]);
    let mut lists = lists(Vec::new(), list);
    let fake = Fake::at(&dir.path().join("a.sock"), move |path| match path {
        "/runtime.v1.ImageService/ListImages" => Reply::Message(inner(1, &text(1, "sha256:1"))),
        path => lists(path),
    });
    let cri = Cri::new(fake.socket.clone());
    let other = cri.clone();
    let asked = tokio::task::spawn_blocking(move || (other.look_blocking(), other.images_blocking())).await.unwrap();
    assert_eq!(known(asked.0).len(), 1);
    assert_eq!(asked.1, Fact::Known(vec![Image { id: "sha256:1".to_owned(), ..Image::default() }]));
    let missing = Cri::new(dir.path().join("missing.sock"));
    assert!(unknown(missing.look_blocking(), missing.socket()).starts_with("connect: there is no such socket"));
    assert!(unknown(missing.images_blocking(), missing.socket()).starts_with("connect: there is no such socket"));
}
