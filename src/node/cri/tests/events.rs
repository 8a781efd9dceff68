//! The stream of events: what it tells, and how it ends.

use super::*;

fn version(name: &str, version: &str) -> Vec<u8> {
    [text(1, "0.1.0"), text(2, name), text(3, version), text(4, "v1")].concat()
}

/// Answers the question for the version, and then for events.
fn offers(name: &'static str, of: &'static str, events: Reply) -> impl FnMut(&str) -> Reply {
    let mut events = Some(events);
    move |path| match path {
        "/runtime.v1.RuntimeService/Version" => Reply::Message(version(name, of)),
        "/runtime.v1.RuntimeService/GetContainerEvents" => events.take().unwrap(),
        other => panic!("{other} was asked for"),
    }
}

#[tokio::test]
async fn each_event_is_told_until_the_stream_ends() {
    let dir = directory();
    let (send, events) = mpsc::unbounded_channel();
    let fake = Fake::at(&dir.path().join("a.sock"), offers("containerd", "v2.1.0", Reply::Events(events)));
    let changed = std::sync::Arc::new(Notify::new());
    let (cri, told) = (Cri::new(fake.socket.clone()), std::sync::Arc::clone(&changed));
    let watch = tokio::spawn(async move { cri.watch(&told).await });
    for _ in 0..3 {
        send.send(()).unwrap();
        changed.notified().await;
    }
    assert!(!watch.is_finished());
    drop(send);
    let reason = format!("container runtime at {}: GetContainerEvents: the stream has ended", fake.socket.display());
    assert_eq!(watch.await.unwrap(), Ended::Lost(reason));
}

#[tokio::test]
async fn dropping_a_watch_ends_it() {
    let dir = directory();
    let (send, events) = mpsc::unbounded_channel();
    let fake = Fake::at(&dir.path().join("a.sock"), offers("cri-o", "1.34.0", Reply::Events(events)));
    let changed = Notify::new();
    let cri = Cri::new(fake.socket.clone());
    send.send(()).unwrap();
    tokio::select! {
        ended = cri.watch(&changed) => panic!("{ended:?}"),
        () = changed.notified() => {}
    }
    fake.closed.notified().await;
}

#[tokio::test]
async fn how_a_watch_ends() {
    let events = || Reply::Pieces(vec![framed(&text(1, "c"))], OK);
    #[rustfmt::skip]
    let rows = [
        // runtime      version      events                               offered  reason
        ("containerd",  "1.7.2",     Reply::Silence,                      false, "GetContainerEvents: before containerd 2.0, listening takes events away from the kubelet"),
        ("containerd",  "v1.6.20",   Reply::Silence,                      false, "GetContainerEvents: before containerd 2.0, listening takes events away from the kubelet"),
        ("cri-o",       "1.34.0",    Reply::Pieces(vec![], OK),           false, "GetContainerEvents: the stream ends without an event (CRI-O: `enable_pod_events` is off)"),
        ("docker",      "27.0.1",    Reply::Status(12, "not implemented"), false, "GetContainerEvents: the runtime does not have it"),
        ("cri-o",       "1.34.0",    events(),                            true,  "GetContainerEvents: the stream has ended"),
        ("containerd",  "2.0.0",     events(),                            true,  "GetContainerEvents: the stream has ended"),
        ("containerd",  "v12.0.0",   Reply::Status(14, "going away"),     true,  "GetContainerEvents: the runtime answers with gRPC status 14 (going away)"),
        ("containerd",  "2.0.0",     Reply::Break,                        true,  "GetContainerEvents: the connection broke ("),
        ("containerd",  "2.0.0",     Reply::Http(200, "text/html"),       true,  "GetContainerEvents: this is no answer of CRI v1 ("),
    ];
    for (name, of, events, offered, want) in rows {
        let dir = directory();
        let fake = Fake::at(&dir.path().join("a.sock"), offers(name, of, events));
        let ended = Cri::new(fake.socket.clone()).watch(&Notify::new()).await;
        let (was_offered, reason) = match ended {
            Ended::NotOffered(reason) => (false, reason),
            Ended::Lost(reason) => (true, reason),
        };
        assert_eq!(was_offered, offered, "{reason}");
        let want = format!("container runtime at {}: {want}", fake.socket.display());
        assert!(reason.starts_with(&want), "{reason}, not {want}");
    }
}

#[tokio::test]
async fn a_watch_without_a_runtime_or_without_cri_v1() {
    let dir = directory();
    let cri = Cri::new(dir.path().join("a.sock"));
    let missing = cri.watch(&Notify::new()).await;
    assert!(
        matches!(&missing, Ended::Lost(reason) if reason.contains(": connect: there is no such socket")),
        "{missing:?}"
    );
    let _old = Fake::at(cri.socket(), |_| Reply::Status(12, "unknown service runtime.v1.RuntimeService"));
    let old = cri.watch(&Notify::new()).await;
    assert!(
        matches!(&old, Ended::NotOffered(reason) if reason.contains(": Version: the runtime does not serve it")),
        "{old:?}"
    );
}

#[tokio::test]
async fn a_watch_of_a_runtime_that_hangs_before_the_stream() {
    let dir = directory();
    let fake = Fake::at(&dir.path().join("a.sock"), |_| Reply::Silence);
    let cri = Cri::new(fake.socket.clone());
    let watch = tokio::spawn(async move { cri.watch(&Notify::new()).await });
    fake.stalled.notified().await;
    tokio::time::pause();
    let ended = watch.await.unwrap();
    assert!(matches!(&ended, Ended::Lost(reason) if reason.contains(": Version: no answer within 2 s")), "{ended:?}");
}
