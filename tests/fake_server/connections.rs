//! TCP, TLS and HTTP/2: streams, silence, stops, certificates, and the clock.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ckpt_db::checkpoint::object::Kind;

use crate::client::{Client, Credentials, Next, handshake, in_time, is_refused};
use crate::fake::{Fault, Match, Options, Rotation, Server, Times, Validity, clock};
use crate::{filled_server, pod};

const PODS: &str = "/api/v1/pods";
const WATCH: &str = "/api/v1/pods?watch=1&resourceVersion=1004";

/// The request that would be one too many waits for as long as twenty answers on another connection take, and is sent when
/// a stream ends.
#[tokio::test]
async fn a_connection_has_as_many_streams_as_it_is_said() {
    let server = filled_server();
    let mut elsewhere = Client::new(&server).await;
    for streams in [100, 3] {
        server.set_options(|options| options.streams_per_connection = streams);
        let mut client = Client::new(&server).await;
        client.get(PODS).await; // by now the SETTINGS have come
        let mark = server.mark();
        let mut open = Vec::new();
        for _ in 0..streams {
            open.push(client.watch(WATCH).await);
        }
        {
            let mut one_too_many = std::pin::pin!(client.get("/api/v1/services"));
            tokio::select! {
                biased;
                _ = &mut one_too_many => panic!("an answer"),
                () = async { for _ in 0..20 { elsewhere.get(PODS).await; } } => {}
            }
            drop(open.pop());
            assert_eq!(one_too_many.await.status, 200);
        }
        let on_it = Match::watch(Kind::Pod).after(mark);
        assert_eq!(server.requests(&on_it).len(), streams as usize);
        assert!(server.requests(&on_it).iter().all(|watch| watch.connection == server.connections()));
    }
    assert_eq!(server.connections(), 3);
}

/// For as long as twenty answers of another server take, this one gives none.
#[tokio::test]
async fn a_silent_peer() {
    let (server, other) = (filled_server(), filled_server());
    let (mut client, mut elsewhere) = (Client::new(&server).await, Client::new(&other).await);
    let mut events = client.watch(WATCH).await;
    server.pause();
    server.create(Kind::Pod, "a", "p4", pod("node-1"));
    {
        let request = client.start("GET", PODS);
        let event = events.next();
        let newcomer = handshake(&server, &Credentials::None, None);
        tokio::select! {
            biased;
            _ = request => panic!("an answer"),
            _ = event => panic!("an event"),
            _ = newcomer => panic!("a handshake"),
            () = async { for _ in 0..20 { elsewhere.get(PODS).await; } } => {}
        }
    }
    assert_eq!(server.requests(&Match::list(Kind::Pod)).len(), 0);
    server.resume();
    assert_eq!(events.seen().await, "ADDED a/p4@5");
    assert_eq!(client.get(PODS).await.status, 200);
}

#[tokio::test]
async fn it_can_be_closed_while_it_is_silent() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    client.get(PODS).await;
    server.pause();
    server.close_connections();
    assert_eq!(server.open_connections(), 0);
    let _ = in_time(client.ended).await;
}

#[tokio::test]
async fn stop_and_start_on_the_same_port() {
    let server = filled_server();
    let dir = tempfile::tempdir().unwrap();
    server.kubeconfig(dir.path());
    for _ in 0..3 {
        let mut client = Client::connect(&server, &Credentials::Current(dir.path())).await.unwrap();
        let mut events = client.watch(WATCH).await;
        server.stop();
        server.stop(); // no more than once
        assert_eq!(server.open_connections(), 0);
        assert_eq!(events.next().await, Next::Broken(Vec::new()));
        let refused = Client::connect(&server, &Credentials::None).await.err().unwrap();
        assert!(is_refused(&refused), "{refused:?}");
        server.listen();
    }
    assert_eq!(server.connections(), 3);
    let address = server.address();
    drop(server);
    assert!(is_refused(&tokio::net::TcpStream::connect(address).await.unwrap_err()));
}

#[tokio::test]
async fn goaway_lets_watches_end_in_peace() {
    let server = filled_server();
    let mut client = Client::new(&server).await;
    let mut events = client.watch(WATCH).await;
    server.go_away();
    server.create(Kind::Pod, "a", "p4", pod("node-1"));
    assert_eq!(events.seen().await, "ADDED a/p4@5");
    server.end_watches(&Match::any());
    assert_eq!(events.next().await, Next::End(Vec::new()));
    in_time(client.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn server_certificates() {
    let server = filled_server();
    let none = Credentials::None;
    let mut client = Client::new(&server).await;
    let old_authority = server.authority_pem();

    server.rotate_server_certificate(Rotation::Certificate(Validity::now()));
    assert_eq!(server.authority_pem(), old_authority);
    handshake(&server, &none, None).await.unwrap();
    for (rotation, complaint) in [
        (Rotation::Certificate(Validity::expired()), "Expired"),
        (Rotation::Certificate(Validity::not_yet()), "NotValidYet"),
    ] {
        server.rotate_server_certificate(rotation);
        let error = format!("{:?}", handshake(&server, &none, None).await.unwrap_err());
        assert!(error.contains(complaint), "{error}");
    }
    server.rotate_server_certificate(Rotation::Authority(Validity::now()));
    assert_ne!(server.authority_pem(), old_authority);
    handshake(&server, &none, None).await.unwrap();
    let error = format!("{:?}", handshake(&server, &none, Some(&old_authority)).await.unwrap_err());
    assert!(error.contains("InvalidCertificate"), "{error}");
    assert_eq!(client.get(PODS).await.status, 200, "a connection that is open stays");
}

#[tokio::test]
async fn client_certificates() {
    let server = Server::start(Options { node_name: "edge-7".into(), node_authorizer: false, ..Options::default() });
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig(dir.path());
    let status = async || {
        let client = Client::connect(&server, &Credentials::Current(dir.path())).await;
        client.unwrap().get(PODS).await.status
    };
    assert_eq!(status().await, 200);
    assert_eq!(server.log()[0].user.as_deref(), Some("system:node:edge-7"));

    // Rotated as the kubelet does: a dated file more, and the link leads there.
    let link = dir.path().join("pki/kubelet-client-current.pem");
    let first = fs::read_link(&link).unwrap();
    let mut open = Client::connect(&server, &Credentials::Current(dir.path())).await.unwrap();
    let issued = server.issue_client_certificate(Validity::now());
    assert_eq!((issued.serial, fs::read_link(&link).unwrap()), (2, first.clone()), "issued, and not yet in place");
    server.require_newest_certificate(true);
    assert_eq!(status().await, 401);
    assert_eq!(open.get(PODS).await.status, 401, "each request is judged, not the connection");
    let second = server.swap_current_pem(dir.path());
    assert_eq!(fs::read_link(&link).unwrap(), second);
    assert_eq!(fs::read_to_string(&link).unwrap(), issued.pem);
    assert!(first.exists() && first != second && second.is_absolute());
    assert_eq!(fs::read_dir(dir.path().join("pki")).unwrap().count(), 3);
    assert_eq!(status().await, 200);
    assert_eq!(server.log().last().unwrap().certificate, Some(2));
    server.require_newest_certificate(false);
    assert_eq!(open.get(PODS).await.status, 200);

    for validity in [Validity::expired(), Validity::not_yet()] {
        server.issue_client_certificate(validity);
        server.swap_current_pem(dir.path());
        assert_eq!(status().await, 401, "after the handshake, as an API server says it");
    }
    let mut nobody = Client::connect(&server, &Credentials::None).await.unwrap();
    assert_eq!(nobody.get(PODS).await.status, 401);
    assert_eq!(server.log().last().unwrap().user, None);
    assert_kubeconfig(&kubeconfig, &server, &format!("client-certificate: {}", link.display()));
}

#[tokio::test]
async fn tokens() {
    let server = filled_server();
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = server.token_kubeconfig(dir.path(), "t1");
    assert_eq!(fs::read_to_string(dir.path().join("token")).unwrap(), "t1");
    assert_kubeconfig(&kubeconfig, &server, &format!("tokenFile: {}", dir.path().join("token").display()));
    let mut client = Client::connect(&server, &Credentials::Token("t1")).await.unwrap();
    assert_eq!(client.get(PODS).await.status, 200);
    server.set_tokens(&["t2"]);
    assert_eq!(client.get(PODS).await.status, 401);
    let mut client = Client::connect(&server, &Credentials::Token("t2")).await.unwrap();
    assert_eq!(client.get(PODS).await.status, 200);
    assert_eq!(server.log()[2].user.as_deref(), Some("system:node:node-1"));
}

fn assert_kubeconfig(path: &Path, server: &Server, login: &str) {
    let text = fs::read_to_string(path).unwrap();
    let authority = data_encoding::BASE64.encode(server.authority_pem().as_bytes());
    for line in
        [login, &format!("server: https://{}", server.address()), &format!("certificate-authority-data: {authority}")]
    {
        assert!(text.lines().any(|other| other.trim() == line), "{line} is not in {text}");
    }
    let config = kube::config::Kubeconfig::read_from(path).unwrap();
    assert_eq!(config.current_context.as_deref(), Some("default-context"));
}

/// What [`clock::Stopped`] is for: with a paused clock alone, the timeout would strike before any answer can come.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_that_stands_still() {
    let server = filled_server();
    let stopped = clock::Stopped::new();
    let mut client = Client::new(&server).await;
    for _ in 0..20 {
        tokio::time::timeout(Duration::from_millis(1), client.get(PODS)).await.expect("no time passes");
    }
    server.fault(Match::list(Kind::Pod), Fault::Hang, Times::Once);
    let asked = async { tokio::time::timeout(Duration::from_secs(30), client.get(PODS)).await };
    let (answer, ()) = tokio::join!(asked, async {
        server.wait_for_requests(Match::list(Kind::Pod), 21).await;
        tokio::time::advance(Duration::from_secs(31)).await;
    });
    assert!(answer.is_err(), "only now");
    drop(stopped);
    tokio::time::sleep(Duration::from_secs(3_600)).await; // jumps again
}
