//! Against a server on loopback, with TLS and HTTP/2, and against things that are none.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use self::server::{Server, relay, talker};
use super::super::credentials::Place;
use super::super::testing::{Authority, FUTURE, Issued, NOW, PAST, cluster, kubeconfig};
use super::*;

mod followers;
mod server;
mod signs;

const TOKEN: &str = "s3cret-token";
const SECRET: &str = "s3cret-value";

fn load(dir: &Path, cluster: &str, user: &str) -> Credentials {
    Credentials::load(&Place::Explicit(kubeconfig(dir, cluster, user))).unwrap_or_else(|error| panic!("{error}"))
}

/// What a request to `url` comes to, with the CA given.
async fn failure(url: &str, authority: &Authority, user: &str) -> Failure {
    let dir = tempfile::tempdir().unwrap();
    let connections = Connections::new(&load(dir.path(), &cluster(url, authority), user), Limits::default());
    let failure = connections.get("/fine?token=q", 100).await.err().expect("it must fail");
    assert!(failure.to_string().starts_with(&format!("GET /fine at {url}: ")), "{failure}");
    failure
}

fn text(failure: &Failure) -> String {
    failure.to_string().split_once(": ").unwrap().1.to_owned()
}

async fn get(connections: &Connections, path: &str) -> Result<String, Failure> {
    connections.get(path, 50_000).await.map(|body| String::from_utf8(body.expose().to_vec()).unwrap())
}

#[tokio::test]
async fn two_hundred_watches_take_three_connections_and_leave_one_for_the_rest() {
    let server = Server::new().await;
    let connections = server.connections();
    let begun = (0..200).map(|_| connections.watch("/watch?watch=1"));
    let mut watches: Vec<_> = futures_util::future::join_all(begun).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(connections.opened(), 3);
    for _ in 0..100 {
        assert_eq!(get(&connections, "/fine").await.unwrap(), "fine");
    }
    let both = futures_util::future::join_all((0..100).map(|_| get(&connections, "/fine"))).await;
    assert!(both.iter().all(|answer| answer.as_deref() == Ok("fine")));
    assert_eq!(connections.opened(), 4);
    for watch in &mut watches {
        assert_eq!(watch.chunk().await.unwrap().unwrap(), "one\n");
    }
    assert_eq!(connections.0.watches.lock().unwrap().len(), 3);

    // Renewed one by one, they stay on as many connections as they need.
    watches.truncate(60);
    for watch in &mut watches {
        *watch = connections.watch("/watch?watch=1").await.unwrap();
    }
    assert_eq!(connections.0.watches.lock().unwrap().len(), 1);
    assert_eq!(connections.opened(), 4);
    assert_eq!(server.known.accepted.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_watch_ends_or_fails_but_never_both_alike() {
    let server = Server::new().await;
    let connections = server.connections();
    let mut watch = connections.watch("/watch-ends").await.unwrap();
    let mut seen = Vec::new();
    while let Some(chunk) = watch.chunk().await.unwrap() {
        assert!(!chunk.is_empty());
        seen.extend_from_slice(&chunk);
    }
    assert_eq!(seen, b"one\ntwo\n");

    let mut watch = connections.watch("/cut?x").await.unwrap();
    assert_eq!(watch.chunk().await.unwrap().unwrap(), "begin");
    server.known.cut.notify_one();
    let failure = watch.chunk().await.unwrap_err();
    assert!(matches!(failure, Failure::Garbage(_)), "{failure:?}");
    let said = format!("watch /cut at {}: the server broke off", server.url());
    assert!(failure.to_string().starts_with(&said), "{failure}");
    assert_eq!(get(&connections, "/fine").await.unwrap(), "fine");
}

#[tokio::test]
async fn every_status_becomes_a_failure_without_its_body() {
    let server = Server::new().await;
    let connections = server.connections();
    #[rustfmt::skip]
    let table = [
        // path          code  reason               pause
        ("/forbidden",   403,  "Forbidden",         Some(7)),
        ("/gone",        410,  "Expired",           Some(7)),
        ("/odd-reason",  500,  "Internal Server Error", Some(7)),
        ("/busy",        429,  "Too Many Requests", Some(3)),
        ("/redirect",    302,  "Found",             None),
        ("/other",       404,  "Not Found",         None),
    ];
    for (path, code, reason, retry_after_s) in table {
        let expected = |verb: &str| Failure::Status {
            code,
            reason: reason.to_owned(),
            retry_after_s,
            request: format!("{verb} {path} at {}", server.url()),
            certificate: None,
        };
        assert_eq!(get(&connections, &format!("{path}?a=b")).await.unwrap_err(), expected("GET"));
        assert_eq!(connections.watch(&format!("{path}?a=b")).await.err().unwrap(), expected("watch"));
    }
}

#[tokio::test]
async fn answers_have_limits_of_size_and_time() {
    let server = Server::new().await;
    let connections = server.connections();
    for path in ["/large", "/large-unannounced"] {
        let size = connections.get(path, 100_000).await.unwrap().len();
        let failure = connections.get(path, size - 1).await.err().unwrap();
        assert_eq!(text(&failure), format!("the answer is longer than {} bytes", size - 1));
        assert!(matches!(failure, Failure::TooLong(_)));
        assert_eq!(connections.get(path, size).await.unwrap().len(), size);
    }
    let second = Duration::from_secs(1);
    let hurried = Limits { progress: second, watch_begins: 2 * second, ..Limits::default() };
    let hurried = Connections::new(&server.credentials("token: t"), hurried);
    assert_eq!(get(&hurried, "/fine").await.unwrap(), "fine");
    let table = [("/silent", "no answer within 1 s"), ("/stalls", "no more of the answer within 1 s")];
    for (path, said) in table {
        let failure = get(&hurried, path).await.unwrap_err();
        assert!(matches!(failure, Failure::Unreachable(_)), "{failure:?}");
        assert_eq!(text(&failure), said);
    }
    let failure = hurried.watch("/silent").await.err().unwrap();
    assert_eq!(text(&failure), "no answer within 2 s");
    assert_eq!(get(&hurried, "/fine").await.unwrap(), "fine");
    let total = Limits { total: second / 5, ..Limits::default() };
    let total = Connections::new(&server.credentials("token: t"), total);
    assert_eq!(text(&get(&total, "/silent").await.unwrap_err()), "no complete answer within 0.2 s");
}

#[tokio::test]
async fn requests_say_who_asks_and_below_which_path() {
    let server = Server::new().await;
    let said = get(&server.connections(), "/headers").await.unwrap();
    assert_eq!(said, format!("application/json|ckpt-db/{}|Bearer {TOKEN}", env!("CARGO_PKG_VERSION")));
    let below = cluster(&format!("{}/prefix/", server.url()), &server.authority);
    let below = Connections::new(&load(server.dir.path(), &below, "token: t"), Limits::default());
    assert_eq!(get(&below, "/fine").await.unwrap(), "with a prefix");
    assert!(matches!(get(&below, "/a b").await, Err(Failure::Garbage(_))));
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed() {
    let server = Server::new().await;
    let (address, stop) = relay(server.address).await;
    let second = Duration::from_secs(1);
    let limits = Limits { ping_interval: second / 2, ping_timeout: 2 * second, ..Limits::default() };
    let via = cluster(&format!("https://{address}"), &server.authority);
    let connections = Connections::new(&load(server.dir.path(), &via, "token: t"), limits);
    let mut watch = connections.watch("/watch").await.unwrap();
    while watch.chunk().await.unwrap().unwrap() != "two\n" {}
    // Pings alone keep a silent watch alive.
    let waited = timeout(limits.ping_interval * 3 + limits.ping_timeout, watch.chunk()).await;
    assert!(waited.is_err(), "{waited:?}");

    stop.send(true).unwrap();
    let since = Instant::now();
    let noticed = timeout(8 * second, watch.chunk()).await;
    let failure = noticed.unwrap_or_else(|_| panic!("not noticed within {:?}", since.elapsed())).unwrap_err();
    assert!(matches!(failure, Failure::Unreachable(_)), "{failure:?}");
    assert_eq!(text(&failure), "no answer to keep-alive pings: the peer or the way to it is dead");
    // By default that is 20 s at most: one interval after the last sign of life, and the time to answer.
    let default = Limits::default();
    assert!(default.ping_interval + default.ping_timeout < Duration::from_secs(30));
}

#[tokio::test]
async fn a_server_that_shuts_down_in_order_or_not_is_asked_again_on_a_new_connection() {
    let server = Server::new().await;
    let connections = server.connections();
    assert_eq!(get(&connections, "/fine").await.unwrap(), "fine");
    let mut watch = connections.watch("/watch").await.unwrap();
    assert_eq!(connections.opened(), 2);
    // GOAWAY: what is under way goes on, what is new needs a new connection.
    server.known.go_away.notify_waiters();
    for _ in 0..20 {
        assert_eq!(get(&connections, "/fine").await.unwrap(), "fine");
        tokio::task::yield_now().await;
    }
    assert_eq!(watch.chunk().await.unwrap().unwrap(), "one\n");
    let mut second = connections.watch("/watch").await.unwrap();
    assert_eq!(second.chunk().await.unwrap().unwrap(), "one\n");
    assert_eq!(connections.opened(), 4);
}

#[tokio::test]
async fn watches_that_begin_together_share_one_attempt_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let connections =
        Connections::new(&load(dir.path(), &cluster(&url, &Authority::new()), "token: t"), Limits::default());
    for round in 1..=2 {
        let begun = futures_util::future::join_all((0..80).map(|_| connections.watch("/watch"))).await;
        assert!(begun.iter().all(|watch| matches!(watch, Err(Failure::Unreachable(_)))));
        assert_eq!(accepted.load(Ordering::Relaxed), round);
    }
}

#[tokio::test]
async fn servers_that_are_not_the_api_server_or_can_t_be_judged() {
    let token = "token: t";
    let fine = Server::new().await;
    let stranger = failure(&fine.url(), &Authority::new(), token).await;
    assert_eq!(stranger, Failure::Untrusted(Cause(stranger.to_string())));
    assert_eq!(text(&stranger), "the server's certificate is not of a CA that we trust");
    // As after `kubeadm reset` and `init`: the CA has the old name and a new key.
    let anew = failure(&fine.url(), &Authority::named(fine.authority.name()), token).await;
    assert!(matches!(anew, Failure::Untrusted(_)));
    let said = "the server's certificate is of a CA with the name of ours and another key (is it another cluster?)";
    assert_eq!(text(&anew), said);

    let named = Server::with(&["kubernetes.default.svc"], NOW, &[b"h2"]).await;
    let other = failure(&named.url(), &named.authority, token).await;
    assert!(matches!(other, Failure::Untrusted(_)));
    assert_eq!(text(&other), "the server's certificate is not for 127.0.0.1 but for kubernetes.default.svc");
    let by_name = format!("{}, tls-server-name: kubernetes.default.svc", cluster(&named.url(), &named.authority));
    let by_name = Connections::new(&load(named.dir.path(), &by_name, token), Limits::default());
    assert_eq!(get(&by_name, "/fine").await.unwrap(), "fine");
    let unchecked = format!("server: \"{}\", insecure-skip-tls-verify: true", named.url());
    let unchecked = Connections::new(&load(named.dir.path(), &unchecked, token), Limits::default());
    assert_eq!(get(&unchecked, "/fine").await.unwrap(), "fine");

    let dated = [
        (PAST, "the server's certificate expired on 2021-01-01T00:00:00Z; by this node's clock it is 2"),
        (FUTURE, "the server's certificate is not valid before 2998-01-01T00:00:00Z; by this node's clock it is 2"),
    ];
    for (years, said) in dated {
        let server = Server::with(&["127.0.0.1"], years, &[b"h2"]).await;
        let dated = failure(&server.url(), &server.authority, token).await;
        assert!(matches!(dated, Failure::ClockDependent(_)), "{dated:?}");
        assert!(text(&dated).starts_with(said), "{dated}");
    }
}

#[tokio::test]
async fn peers_that_speak_something_else() {
    let authority = Authority::new();
    let old = Server::with(&["127.0.0.1"], NOW, &[b"http/1.1"]).await;
    let plain = Server::with(&["127.0.0.1"], NOW, &[]).await;
    for server in [old, plain] {
        let failure = failure(&server.url(), &server.authority, "token: t").await;
        assert!(matches!(failure, Failure::Garbage(_)), "{failure:?}");
        assert_eq!(text(&failure), "what answers does not speak HTTP/2, which every API server does");
    }

    let url = talker(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let no_tls = failure(&url, &authority, "token: t").await;
    assert!(matches!(no_tls, Failure::Untrusted(_)), "{no_tls:?}");
    assert_eq!(text(&no_tls), "what answers does not speak TLS");

    let dir = tempfile::tempdir().unwrap();
    let mute = load(dir.path(), &cluster(&talker(b"").await, &authority), "token: t");
    let hurried = Limits { dial: Duration::from_millis(200), ..Limits::default() };
    let mute = get(&Connections::new(&mute, hurried), "/fine").await.unwrap_err();
    assert!(matches!(mute, Failure::Unreachable(_)), "{mute:?}");
    assert_eq!(text(&mute), "no connection within 0.2 s");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let refused = failure(&url, &authority, "token: t").await;
    assert!(matches!(refused, Failure::Unreachable(_)), "{refused:?}");
    assert_eq!(text(&refused), "Connection refused (os error 111)");

    let unknown = failure("https://name.invalid:6443", &authority, "token: t").await;
    assert!(matches!(unknown, Failure::NoRoute(_)), "{unknown:?}");
}

#[tokio::test]
async fn tls_with_h2_and_then_garbage() {
    let authority = Authority::new();
    let issued = authority.issue(&["127.0.0.1"], "kube-apiserver", NOW);
    let config = ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(issued.chain.clone(), issued.key_der()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let Ok(mut tls) = acceptor.accept(listener.accept().await.unwrap().0).await else { continue };
            let _ = tls.write_all(&[b'x'; 100]).await;
            let _ = tls.read_to_end(&mut Vec::new()).await;
        }
    });
    let garbage = failure(&url, &authority, "token: t").await;
    assert!(matches!(garbage, Failure::Garbage(_)), "{garbage:?}");
    assert!(text(&garbage).starts_with("the server broke the rules of HTTP/2"), "{garbage}");
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate() {
    let clients = Authority::new();
    let authority = Authority::new();
    let issued = authority.issue(&["127.0.0.1"], "kube-apiserver", NOW);
    let mut roots = RootCertStore::empty();
    roots.add(clients.der.clone().into()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    let config = config.with_single_cert(issued.chain.clone(), issued.key_der()).unwrap();
    let server = Server::start(authority, config, &[b"h2"]).await;
    let node = |authority: &Authority, years| authority.issue(&[], "system:node:n1", years);
    let fine = Connections::new(&server.credentials(&node(&clients, NOW).user()), Limits::default());
    assert_eq!(get(&fine, "/fine").await.unwrap(), "fine");

    let named = |dir: &Path, years: &str| {
        let file = dir.join("kubeconfig").display().to_string();
        format!(
            "the server says that the client certificate CN=system:node:n1,O=system:nodes in {file}, valid from {years},"
        )
    };
    let table: [(Issued, &str, &str); 3] = [
        (node(&clients, PAST), "2020-01-01T00:00:00Z to 2021-01-01T00:00:00Z", "is expired"),
        (node(&Authority::new(), NOW), "2020-01-01T00:00:00Z to 2999-01-01T00:00:00Z", "is not of a CA that it trusts"),
        (
            node(&Authority::named(clients.name()), NOW),
            "2020-01-01T00:00:00Z to 2999-01-01T00:00:00Z",
            "is not accepted",
        ),
    ];
    for (issued, years, why) in table {
        let connections = Connections::new(&server.credentials(&issued.user()), Limits::default());
        let failure = get(&connections, "/fine").await.unwrap_err();
        assert!(matches!(failure, Failure::ClientRefused(_)), "{failure:?}");
        assert_eq!(text(&failure), format!("{} {why}", named(server.dir.path(), years)));
    }
    let none = get(&server.connections(), "/fine").await.unwrap_err();
    assert!(matches!(none, Failure::ClientRefused(_)), "{none:?}");
    assert_eq!(text(&none), "the server says that the client certificate (we have none) is missing");
}

#[tokio::test]
async fn a_401_names_a_certificate_that_is_expired_by_our_clock() {
    // As the API server does it: it asks for a certificate, takes any, and refuses the request.
    let server = Server::new().await;
    let file = server.dir.path().join("kubeconfig").display().to_string();
    let expired = Connections::new(
        &server.credentials(&server.authority.issue(&[], "system:node:n1", PAST).user()),
        Limits::default(),
    );
    let Failure::Status { code: 401, certificate: Some(Cause(said)), .. } = get(&expired, "/token").await.unwrap_err()
    else {
        panic!()
    };
    assert_eq!(
        said,
        format!("the client certificate CN=system:node:n1,O=system:nodes in {file} expired on 2021-01-01T00:00:00Z")
    );
    let valid = Connections::new(
        &server.credentials(&server.authority.issue(&[], "system:node:n1", NOW).user()),
        Limits::default(),
    );
    assert!(matches!(get(&valid, "/token").await, Err(Failure::Status { code: 401, certificate: None, .. })));
}

#[tokio::test]
async fn after_a_401_the_token_is_got_anew() {
    let server = Server::new().await;
    let path = server.dir.path().join("token");
    fs::write(&path, TOKEN).unwrap();
    let connections = Connections::new(&server.credentials("tokenFile: token"), Limits::default());
    assert_eq!(get(&connections, "/token").await.unwrap(), "known");
    *server.known.token.lock().unwrap() = "next".to_owned();
    fs::write(&path, "next\n").unwrap();
    let failure = get(&connections, "/token").await.unwrap_err();
    assert!(failure.refuses_credentials(), "{failure:?}");
    assert_eq!(get(&connections, "/token").await.unwrap(), "known");
    // On the connection that there was.
    assert_eq!(connections.opened(), 1);
}

fn exec(dir: &Path, script: &str) -> String {
    let file: PathBuf = dir.join("plugin.sh");
    fs::write(&file, script).unwrap();
    format!("exec: {{apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, args: [\"{}\"]}}", file.display())
}

#[tokio::test]
async fn an_exec_plugin_gives_the_token() {
    let server = Server::new().await;
    let print = exec(server.dir.path(), &format!(r#"printf '%s' '{{"status":{{"token":"{TOKEN}"}}}}'"#));
    let connections = Connections::new(&server.credentials(&print), Limits::default());
    assert_eq!(get(&connections, "/token").await.unwrap(), "known");
    let fails = exec(server.dir.path(), &format!("echo {TOKEN}; exit 1"));
    let failure = get(&Connections::new(&server.credentials(&fails), Limits::default()), "/token").await.unwrap_err();
    assert!(matches!(failure, Failure::NoToken(_)), "{failure:?}");
    let said = "exec plugin /bin/sh of the kubeconfig failed: exit status: 1; run it by hand to see why";
    assert_eq!(text(&failure), said);
}

/// Everything that is logged at TRACE by anyone, with no filter at all.
#[derive(Clone, Default)]
struct Logged(Arc<StdMutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn neither_the_token_nor_a_body_is_ever_logged() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let server = Server::new().await;
    let connections = server.connections();
    let mut said = Vec::new();
    for path in ["/broken-secret", "/token", "/forbidden", "/odd-reason", "/busy", "/other"] {
        said.extend(
            get(&connections, path)
                .await
                .err()
                .map(|failure| format!("{failure:?} {failure} {:?}", failure.reach(true))),
        );
        let watch = connections.watch(path).await;
        said.extend(watch.err().map(|failure| format!("{failure:?} {failure}")));
    }
    assert_eq!(said.len(), 8);
    let wrong = server.credentials("token: other");
    said.push(get(&Connections::new(&wrong, Limits::default()), "/token").await.unwrap_err().to_string());
    let logged = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("h2::codec") && logged.contains("hyper"), "the test hears nothing");
    for text in [logged, said.join("\n")] {
        for secret in [TOKEN, SECRET, "Bearer"] {
            assert!(!text.contains(secret), "{secret} in {}", text.lines().find(|line| line.contains(secret)).unwrap());
        }
    }
}
