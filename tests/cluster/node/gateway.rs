//! The way from a node's network namespace to the API server, which listens on the loopback of the host.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::machine::Network;

/// Makes `127.0.0.1:PORT` of a network namespace that of the host, for as long as it is kept.
///
/// While nobody listens on the host nobody listens here either: a client is refused, as by a machine whose API server is
/// dead. A server that is only frozen hangs here too.
pub(crate) struct Gateway {
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How often both sides are looked at. Nothing tells of either without a thread for each.
const PACE: Duration = Duration::from_millis(5);

impl Gateway {
    pub(crate) fn open(network: Network, port: u16) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        // Dials from the host's namespace, which the thread that listens has left.
        let (to_dial, clients) = std::sync::mpsc::channel::<TcpStream>();
        let alive = Arc::new(AtomicBool::new(false));
        let (dialer_alive, dialer_ended) = (Arc::clone(&alive), Arc::clone(&end));
        std::thread::spawn(move || {
            while !dialer_ended.load(Ordering::Relaxed) {
                if !dialer_alive.load(Ordering::Relaxed) {
                    dialer_alive.store(TcpStream::connect(("127.0.0.1", port)).is_ok(), Ordering::Relaxed);
                }
                let Ok(client) = clients.recv_timeout(PACE * 4) else { continue };
                match TcpStream::connect(("127.0.0.1", port)) {
                    Ok(server) => join(&client, &server),
                    Err(_) => dialer_alive.store(false, Ordering::Relaxed),
                }
            }
        });
        let thread = std::thread::spawn(move || {
            network.enter();
            let mut listener: Option<TcpListener> = None;
            while !ended.load(Ordering::Relaxed) {
                match (alive.load(Ordering::Relaxed), &listener) {
                    (true, None) => {
                        let fresh = TcpListener::bind(("127.0.0.1", port)).unwrap();
                        fresh.set_nonblocking(true).unwrap();
                        listener = Some(fresh);
                    }
                    (false, _) => listener = None,
                    (true, Some(open)) => {
                        while let Ok((client, _)) = open.accept() {
                            client.set_nonblocking(false).unwrap();
                            let _ = to_dial.send(client);
                        }
                    }
                }
                std::thread::sleep(PACE);
            }
        });
        Self { end, thread: Some(thread) }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // It holds the namespace.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn join(client: &TcpStream, server: &TcpStream) {
    for (from, to) in [(client, server), (server, client)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let _ = from.set_nodelay(true);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            // Either may be gone already.
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
}
