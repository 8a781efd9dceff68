//! Signs of life of a server that answers nobody: what is one, and what only looks like one.

use tokio::net::TcpSocket;

use super::*;

/// An attempt that is held is given up after this.
const DIAL: Duration = Duration::from_millis(600);

fn dialler(address: std::net::SocketAddr, authority: &Authority) -> Connections {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(&format!("https://{address}"), authority);
    Connections::new(&load(dir.path(), &cluster, "token: t"), Limits { dial: DIAL, ..Limits::default() })
}

/// A port that nobody listens at, until it is told to.
fn closed() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

/// How many signs there were after one more attempt, and whether it was turned away.
async fn attempt(connections: &Connections) -> (u64, bool) {
    let failure = get(connections, "/fine").await.unwrap_err();
    assert!(matches!(failure, Failure::Unreachable(_)), "{failure:?}");
    (*connections.signs().borrow(), connections.turned_away())
}

/// As a kube-apiserver starts: its kernel takes connections long before it looks at them.
#[tokio::test]
async fn a_port_that_turned_away_and_holds_is_one() {
    let socket = closed();
    let connections = dialler(socket.local_addr().unwrap(), &Authority::new());
    assert_eq!(attempt(&connections).await, (0, true));
    assert_eq!(attempt(&connections).await, (0, true));
    let _listener = socket.listen(8).unwrap();
    let mut signs = connections.signs();
    let asking = connections.clone();
    let asking = tokio::spawn(async move { attempt(&asking).await });
    signs.changed().await.unwrap();
    assert!(!asking.is_finished(), "it is told while the connection is held, not afterwards");
    assert_eq!(asking.await.unwrap(), (1, false));
    // That it holds on is no further one.
    assert_eq!(attempt(&connections).await, (1, false));
}

/// A server that is frozen takes connections too, for as long as its kernel lives.
#[tokio::test]
async fn a_port_that_holds_from_the_beginning_is_none() {
    let socket = closed();
    let connections = dialler(socket.local_addr().unwrap(), &Authority::new());
    let _listener = socket.listen(8).unwrap();
    for _ in 0..3 {
        assert_eq!(attempt(&connections).await, (0, false));
    }
}

/// A load balancer hangs up while it has no server, and holds when it has one that does not serve yet.
#[tokio::test]
async fn a_peer_that_hung_up_and_holds_is_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connections = dialler(listener.local_addr().unwrap(), &Authority::new());
    let hangs_up = tokio::spawn(async move {
        for _ in 0..2 {
            drop(listener.accept().await.unwrap());
        }
        listener
    });
    // The first one may be asked again at once.
    assert_eq!(attempt(&connections).await, (0, true));
    assert_eq!(attempt(&connections).await, (0, true));
    let _listener = hangs_up.await.unwrap();
    assert_eq!(attempt(&connections).await, (1, false));
}

#[tokio::test]
async fn a_server_that_proves_who_it_is_and_does_not_answer_is_one() {
    let server = Server::new().await;
    let limits = Limits { progress: DIAL, ..Limits::default() };
    let connections = Connections::new(&server.credentials("token: t"), limits);
    let mut signs = connections.signs();
    let failure = get(&connections, "/silent").await.unwrap_err();
    assert!(matches!(failure, Failure::Unreachable(_)), "{failure:?}");
    assert_eq!((*signs.borrow_and_update(), connections.turned_away()), (1, false));
    // The same connection is used again.
    let _ = get(&connections, "/silent").await.unwrap_err();
    assert_eq!(*signs.borrow(), 1);
}

#[tokio::test]
async fn a_server_of_another_cluster_gives_none() {
    let server = Server::new().await;
    let connections = dialler(server.address, &Authority::new());
    for _ in 0..2 {
        let failure = get(&connections, "/fine").await.unwrap_err();
        assert!(matches!(failure, Failure::Untrusted(_)), "{failure:?}");
        assert_eq!((*connections.signs().borrow(), connections.turned_away()), (0, false));
    }
}
