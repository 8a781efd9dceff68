//! The server as clients meet it: what is answered, what is refused, and what it does with those that are slow or many.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::health::Check;
use super::*;

struct Fixed {
    ready: AtomicBool,
    /// Looking takes until something comes.
    hangs: Option<std::sync::Mutex<mpsc::Receiver<()>>>,
}

/// Longer than anything takes here that goes well.
const FAILED_AFTER: Duration = Duration::from_secs(30);

impl Fixed {
    fn new() -> Arc<Self> {
        Arc::new(Self { ready: AtomicBool::new(true), hangs: None })
    }
}

impl Pages for Fixed {
    fn metrics(&self) -> String {
        if let Some(hangs) = &self.hangs {
            let _ = hangs.lock().unwrap().recv();
        }
        "# TYPE a gauge\na 1\n".to_owned()
    }

    fn health(&self) -> Health {
        let outcome = match self.ready.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("away".to_owned()),
        };
        let ping = Check { name: "ping", outcome: Ok(()) };
        Health { live: vec![ping.clone()], ready: vec![ping, Check { name: "store", outcome }] }
    }
}

/// Serves until the test ends.
async fn server(pages: Arc<Fixed>) -> SocketAddr {
    server_at("127.0.0.1:0", pages).await
}

async fn server_at(address: &str, pages: Arc<Fixed>) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { match serve_on(listener, pages).await {} });
    address
}

/// Sends it as it stands; everything that comes back until the connection is closed.
async fn say(address: SocketAddr, request: &str) -> String {
    let said = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A server that has heard enough may close before the end.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    timeout(FAILED_AFTER, said).await.expect("an answer, or the end of the connection")
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = say(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn what_is_asked_is_answered() {
    let pages = Fixed::new();
    let address = server(Arc::clone(&pages)).await;
    let ok = |text: &str| (200, text.to_owned());
    assert_eq!(get(address, "/metrics").await, ok("# TYPE a gauge\na 1\n"));
    assert_eq!(get(address, "/livez").await, ok("ok"));
    assert_eq!(get(address, "/readyz?verbose").await, ok("[+]ping ok\n[+]store ok\nreadyz check passed\n"));
    pages.ready.store(false, Ordering::Relaxed);
    assert_eq!(get(address, "/livez").await, ok("ok"));
    let failed = "[+]ping ok\n[-]store failed: away\nreadyz check failed\n";
    assert_eq!(get(address, "/readyz").await, (500, failed.to_owned()));
    assert_eq!(get(address, "/readyz/store").await.0, 500);
    assert_eq!(get(address, "/readyz/ping").await, ok("ok"));
    assert_eq!(get(address, "/readyz?exclude=store").await, ok("ok"));
    for path in ["/", "/metrics/", "/metric", "/livezz", "/livez/store", "/debug/pprof"] {
        let (status, text) = get(address, path).await;
        assert!(status == 404 && text.contains("/metrics"), "{path}: {status} {text}");
    }
}

/// Reasons name files and nodes.
#[tokio::test]
async fn other_machines_learn_no_reasons() {
    let pages = Fixed::new();
    pages.ready.store(false, Ordering::Relaxed);
    let port = server_at("0.0.0.0:0", pages).await.port();
    let near = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let failed = "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n";
    assert_eq!(get(near, "/readyz").await, (500, failed.to_owned()));
    assert_eq!(get(near, "/readyz/store").await, (500, "store check failed: reason withheld\n".to_owned()));
    assert_eq!(get(near, "/livez").await, (200, "ok".to_owned()));
}

#[tokio::test]
async fn headers_are_those_of_a_page_for_machines() {
    let address = server(Fixed::new()).await;
    let answer = say(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.to_lowercase();
    for want in [
        "content-type: text/plain; version=0.0.4; charset=utf-8",
        "x-content-type-options: nosniff",
        "connection: close",
    ] {
        assert!(answer.contains(want), "{want}: {answer}");
    }
    let head = say(address, "HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    let address = server(Fixed::new()).await;
    let long = "x".repeat(20_000);
    #[rustfmt::skip]
    let rows = [
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned(),  "HTTP/1.1 405"),
        ("DELETE /livez HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),                          "HTTP/1.1 405"),
        ("nonsense\r\n\r\n".to_owned(),                                                   "HTTP/1.1 400"),
        (format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),                "HTTP/1.1 431"),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),                              "HTTP/1.1 4"),
    ];
    for (request, want) in rows {
        let answer = say(address, &request).await;
        // One that goes on talking may find the connection gone, and the answer with it.
        assert!(
            answer.starts_with(want) || answer.is_empty() && request.len() > REQUEST_MAX_BYTES,
            "{request:.40}: {answer}"
        );
    }
    assert_eq!(get(address, "/livez").await.0, 200, "and others are served");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_slow_is_cut_off() {
    let address = server(Fixed::new()).await;
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HT").await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(DONE_WITHIN * 2, stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "it is served for ever");
    assert!((ASK_WITHIN..=DONE_WITHIN).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn there_are_few_at_a_time() {
    let address = server(Fixed::new()).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /livez HT").await.unwrap();
        held.push(stream);
    }
    assert_eq!(say(address, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await, "", "one more is closed");
    for stream in &mut held {
        stream.write_all(b"TP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // The places of those are free a moment after they have their answers.
    let begun = std::time::Instant::now();
    while say(address, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.is_empty() {
        assert!(begun.elapsed() < FAILED_AFTER, "no place is free again");
        tokio::task::yield_now().await;
    }
}

/// As with a store on a disk that hangs.
#[tokio::test]
async fn looking_that_takes_too_long_is_an_answer_too() {
    let (go_on, hangs) = mpsc::channel();
    let hangs = Some(std::sync::Mutex::new(hangs));
    let pages = Arc::new(Fixed { ready: AtomicBool::new(true), hangs });
    let address = server(Arc::clone(&pages)).await;
    let asked = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stream
    };
    let mut stream = asked().await;
    // Health is asked meanwhile.
    assert_eq!(get(address, "/livez").await.0, 200);
    tokio::time::pause();
    let read = async |stream: &mut TcpStream| {
        let mut answer = String::new();
        // Time does not go on by itself while a thread is looking.
        let passes = async {
            let begun = std::time::Instant::now();
            while begun.elapsed() < FAILED_AFTER {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            read = stream.read_to_string(&mut answer) => drop(read.unwrap()),
            () = passes => {}
        }
        assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("a disk may hang"), "{answer}");
    };
    read(&mut stream).await;
    // Nobody waits for those that look any more, and there are not more and more of them.
    for _ in 0..2 * LOOKS_MAX {
        let mut stream = asked().await;
        read(&mut stream).await;
    }
    // Each has them in hand, beside the server and this test; a connection that is over gives them back in a moment.
    let begun = std::time::Instant::now();
    while Arc::strong_count(&pages) > LOOKS_MAX + 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} look", Arc::strong_count(&pages) - 2);
        tokio::task::yield_now().await;
    }
    drop(go_on);
}

/// Another process has the port: it is tried again, and nothing else waits for it.
#[tokio::test(start_paused = true)]
async fn a_taken_port_is_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let served = tokio::spawn(async move { match serve(address, Fixed::new()).await {} });
    tokio::time::sleep(AGAIN_AFTER * 3).await;
    assert!(!served.is_finished());
    drop(taken);
    tokio::time::sleep(AGAIN_AFTER * 2).await;
    tokio::time::resume();
    assert_eq!(get(address, "/livez").await.0, 200);
}
