//! What systemd is told (sd_notify(3)): ready, a status line, alive, stopping. Telling it never fails and never waits.
//!
//! Written out instead of taken from a crate because sending must not block when nobody reads the queue, and because the
//! environment is an argument, so that tests need not change their own.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// As much of a status line as is sent. systemd reads 4096 octets of a message.
const STATUS_MAX_BYTES: usize = 1024;

/// The way to the service manager, where there is one.
///
/// Nothing here fails: what is not heard is as good as not said, and no pod comes back the later for it.
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment of this process says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    #[must_use]
    pub fn from_env() -> Self {
        Self::new(|name| std::env::var_os(name), std::process::id())
    }

    /// The same with the environment and the process id as arguments.
    #[must_use]
    pub fn new(variable: impl Fn(&str) -> Option<OsString>, process_id: u32) -> Self {
        let to = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| match open(&name) {
            Ok(to) => Some(to),
            Err(error) => {
                tracing::warn!("cannot tell the service manager anything: NOTIFY_SOCKET {name:?}: {error}");
                None
            }
        });
        let number = |name: &str| variable(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        let for_us = match variable("WATCHDOG_PID") {
            Some(_) => number("WATCHDOG_PID") == Some(u64::from(process_id)),
            None => true,
        };
        let watchdog = number("WATCHDOG_USEC").filter(|&usec| usec > 0 && for_us).map(Duration::from_micros);
        Self { to, watchdog }
    }

    /// One that nobody hears.
    #[must_use]
    pub fn silent() -> Self {
        Self { to: None, watchdog: None }
    }

    /// Whether a service manager listens.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// How often [`Self::alive`] has to be said: half of what the service manager waits for. `None`: it does not wait.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// The service is ready: what waits for it may start. Said again after [`Self::reloading`].
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\n{}", status_line(status)));
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&status_line(status));
    }

    /// Not hung.
    pub fn alive(&self) {
        self.send("WATCHDOG=1\n");
    }

    /// It is being stopped.
    pub fn stopping(&self) {
        self.send("STOPPING=1\n");
    }

    /// Everything is read again; to be followed by [`Self::ready`].
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        // `Type=notify-reload` compares it with when it sent the signal.
        let usec = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\n"));
    }

    /// Says [`Self::alive`] as often as the service manager wants to hear it, for ever. To be polled by the loop that must
    /// not hang, in its own `select!`: a task of its own would go on where that loop does not.
    pub async fn pulse(&self) -> std::convert::Infallible {
        let Some(interval) = self.watchdog_interval() else { return std::future::pending().await };
        let mut interval = tokio::time::interval(interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.alive();
        }
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!("the service manager was not told: {error}");
        }
    }
}

/// A path, or an abstract address with a leading `@`.
fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract address")),
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not stop us.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// A status of one line, since a line break would begin another assignment.
fn status_line(status: &str) -> String {
    let mut line = String::from("STATUS=");
    for c in status.chars() {
        if line.len() + c.len_utf8() > STATUS_MAX_BYTES {
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    let _ = line.write_char('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notifier(socket: &OsStr) -> Notifier {
        Notifier::new(|name| (name == "NOTIFY_SOCKET").then(|| socket.to_owned()), 1)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn what_systemd_hears() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = notifier(path.as_os_str());
        assert!(notifier.is_heard());
        #[rustfmt::skip]
        let rows: [(&dyn Fn(), &str); 5] = [
            (&|| notifier.ready("3 pods"),            "READY=1\nSTATUS=3 pods\n"),
            (&|| notifier.status("a\nREADY=0\u{7}b"), "STATUS=a READY=0 b\n"),
            (&|| notifier.status(&"é".repeat(1000)),  &format!("STATUS={}\n", "é".repeat(508))),
            (&|| notifier.alive(),                    "WATCHDOG=1\n"),
            (&|| notifier.stopping(),                 "STOPPING=1\n"),
        ];
        for (say, want) in rows {
            say();
            assert_eq!(heard(&socket), want);
        }
        notifier.reloading();
        let text = heard(&socket);
        let usec = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
        assert!(usec.parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn an_abstract_address() {
        let name = format!("ckpt-db-notify-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        notifier(OsStr::new(&format!("@{name}"))).alive();
        assert_eq!(heard(&socket), "WATCHDOG=1\n");
    }

    /// Nobody there, nobody any more, nobody who reads: each is as if nothing had been said.
    #[test]
    fn nothing_fails_and_nothing_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        for name in ["", "relative", "vsock:2:1", path.to_str().unwrap(), &"/x".repeat(200)] {
            notifier(OsStr::new(name)).ready("x");
        }
        Notifier::silent().ready("x");
        let socket = UnixDatagram::bind(&path).unwrap();
        let unread = notifier(path.as_os_str());
        for _ in 0..10_000 {
            unread.alive();
        }
        drop(socket);
        unread.alive();
    }

    #[tokio::test(start_paused = true)]
    async fn the_pulse_is_twice_as_fast_as_the_watchdog() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let variable = |name: &str| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into_os_string()),
            "WATCHDOG_USEC" => Some(OsString::from("60000000")),
            _ => None,
        };
        let notifier = Notifier::new(variable, 1);
        let ended = tokio::time::timeout(Duration::from_secs(100), notifier.pulse()).await;
        assert!(ended.is_err());
        // At 0, 30, 60 and 90 seconds.
        let beats = std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).count();
        assert_eq!(beats, 4);
        let unheard = tokio::time::timeout(Duration::from_secs(100), Notifier::silent().pulse()).await;
        assert!(unheard.is_err());
    }

    #[test]
    fn whose_watchdog_it_is() {
        #[rustfmt::skip]
        let rows = [
            // WATCHDOG_USEC     WATCHDOG_PID   interval
            (Some("60000000"),   Some("7"),     Some(30)),
            (Some("60000000"),   None,          Some(30)),
            (Some("60000000"),   Some("8"),     None),
            (Some("60000000"),   Some("x"),     None),
            (Some("0"),          Some("7"),     None),
            (Some("-1"),         Some("7"),     None),
            (Some(""),           None,          None),
            (None,               Some("7"),     None),
        ];
        for (usec, pid, want) in rows {
            let variable = |name: &str| {
                let text = match name {
                    "WATCHDOG_USEC" => usec,
                    "WATCHDOG_PID" => pid,
                    _ => None,
                };
                text.map(OsString::from)
            };
            let interval = Notifier::new(variable, 7).watchdog_interval();
            assert_eq!(interval, want.map(Duration::from_secs), "{usec:?} {pid:?}");
        }
    }
}
