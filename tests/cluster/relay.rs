//! A relay to the API server that counts: how many bytes go each way, and over how many connections.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Listens on loopback for as long as the test program runs. It passes bytes on and reads none of them: they are TLS.
pub(crate) struct Relay {
    port: u16,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    opened: AtomicUsize,
    /// Both sides of each connection that there is.
    open: Mutex<BTreeMap<usize, [TcpStream; 2]>>,
}

/// What has gone over a relay so far, TLS included, TCP and IP not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes to the API server.
    pub(crate) sent: u64,
    /// Bytes from it.
    pub(crate) received: u64,
    /// Connections that were opened, those of which have ended too.
    pub(crate) opened: usize,
}

impl Traffic {
    /// What came since.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            received: self.received - earlier.received,
            opened: self.opened - earlier.opened,
        }
    }
}

impl Relay {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), counts: Arc::default() };
        let counts = Arc::clone(&relay.counts);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Nobody there: the client learns it by losing its connection.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for one in [&client, &server] {
                    one.set_nodelay(true).unwrap();
                }
                let number = counts.opened.fetch_add(1, Ordering::Relaxed);
                let sides = [&client, &server].map(|one| one.try_clone().unwrap());
                counts.open.lock().unwrap().insert(number, sides);
                pass(&client, &server, number, &counts, |counts| &counts.sent);
                pass(&server, &client, number, &counts, |counts| &counts.received);
            }
        });
        relay
    }

    /// Where clients go.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        self.counts.open.lock().unwrap().len()
    }

    /// All connections end at once, as when a load balancer fails; new ones are passed on.
    pub(crate) fn cut(&self) {
        for side in self.counts.open.lock().unwrap().values().flatten() {
            // It may be gone already.
            let _ = side.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.counts.sent.load(Ordering::Relaxed),
            received: self.counts.received.load(Ordering::Relaxed),
            opened: self.counts.opened.load(Ordering::Relaxed),
        }
    }
}

/// Passes on what comes until one side is gone, and then ends both.
fn pass(from: &TcpStream, to: &TcpStream, number: usize, counts: &Arc<Counts>, of: fn(&Counts) -> &AtomicU64) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let counts = Arc::clone(counts);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            of(&counts).fetch_add(length as u64, Ordering::Relaxed);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        // Either may be gone already.
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        counts.open.lock().unwrap().remove(&number);
    });
}

#[test]
fn what_goes_over_a_relay_is_counted() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::to(server.local_addr().unwrap().port());
    let mut client = TcpStream::connect(("127.0.0.1", relay.port())).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    client.write_all(b"to the server").unwrap();
    let mut read = [0; 13];
    accepted.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"to the server");
    accepted.write_all(b"back").unwrap();
    drop(accepted);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"back");
    let Traffic { sent, received, opened } = relay.traffic();
    assert_eq!((sent, received, opened), (13, 4, 1));
}

#[test]
fn a_cut_ends_both_sides_and_later_connections_are_passed_on() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::to(server.local_addr().unwrap().port());
    let mut client = TcpStream::connect(("127.0.0.1", relay.port())).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    client.write_all(b"x").unwrap();
    accepted.read_exact(&mut [0]).unwrap();
    assert_eq!(relay.open(), 1);
    relay.cut();
    assert_eq!((client.read(&mut [0]).unwrap(), accepted.read(&mut [0]).unwrap()), (0, 0));
    let mut again = TcpStream::connect(("127.0.0.1", relay.port())).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    // A connection is counted before anything goes over it.
    again.write_all(b"x").unwrap();
    accepted.read_exact(&mut [0]).unwrap();
    assert_eq!(relay.traffic().opened, 2);
}
