//! The agent's side of the admin socket: few connections, short requests, a deadline for each.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::geteuid;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Admin, Answer, ImageHeader, REQUEST_MAX_BYTES, Request};
use crate::lock::{Sharing, lock};
use crate::ops::clients::Clients;

/// How long a client may take to ask, the agent to answer, and the client to read each piece of the answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// How many clients are served at a time.
const CONNECTIONS_MAX: usize = 8;

/// What the agent keeps beside its socket, by file name.
const NEIGHBOURS: [&str; 2] = ["last-answer", "last-answer.new"];

/// A piece of an answer that has to be read within the deadline.
const PIECE_BYTES: usize = 256 * 1024;

/// Why the admin socket is not to be had. Nothing that others made was changed; the agent can go on without it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent of this node listens there.
    #[error("another ckpt-db agent listens on the admin socket {}; stop it first, or choose another with --admin-socket", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket has its name.
    #[error("cannot listen on {}: there is something that is no socket; move it away", .0.display())]
    NotASocket(PathBuf),
    /// Others may enter its directory, and it is not ours alone.
    #[error(
        "cannot listen on {}: its directory is open to others (mode {mode:04o}) and holds files; choose a directory of mode \
         0700 with --admin-socket", .path.display()
    )]
    OpenDirectory {
        /// The socket.
        path: PathBuf,
        /// The directory's permissions.
        mode: u32,
    },
    /// Its directory is another user's.
    #[error("cannot listen on {}: its directory belongs to user {owner}; choose another with --admin-socket", .path.display())]
    NotOurs {
        /// The socket.
        path: PathBuf,
        /// The owner of the directory.
        owner: u32,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A socket on which nobody is answered yet. Its file goes when this is dropped, or the future of [`Self::serve`] is.
#[derive(Debug)]
pub struct Listening {
    socket: std::os::unix::net::UnixListener,
    place: Place,
}

/// The socket's file, and the lock on its directory: held as long as this agent lives, however it ends.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    _lock: rustix::fd::OwnedFd,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Under the lock nobody else can have made another one.
        let _ = fs::remove_file(&self.path);
    }
}

impl Listening {
    /// Listens on `path`, mode 0600, in a directory of mode 0700, which is made if missing. The socket that an agent left
    /// which is no more is replaced.
    ///
    /// # Errors
    /// [`BindError`]; the agent can do all of its work without this socket.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| BindError::Io { action, path, source }
        };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(directory.parent().unwrap_or(directory)).map_err(io("make the directory of", directory))?;
        match fs::create_dir(directory) {
            Ok(()) => set_mode(directory, 0o700).map_err(io("set the mode of", directory))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io("make", directory)(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = open(directory, flags, Mode::empty()).map_err(|errno| io("open", directory)(errno.into()))?;
        if !lock(&held, Sharing::Exclusive).map_err(|errno| io("lock", directory)(errno.into()))? {
            return Err(BindError::InUse(path.to_owned()));
        }
        close_to_others(path, directory)?;
        // Whoever left it did not live to remove it: its lock would be held.
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                fs::remove_file(path).map_err(io("remove the old socket", path))?;
            }
            Ok(_) => return Err(BindError::NotASocket(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("look at", path)(error)),
        }
        let socket = std::os::unix::net::UnixListener::bind(path).map_err(io("listen on", path))?;
        // Until here its directory alone keeps others out.
        let place = Place { path: path.to_owned(), _lock: held };
        set_mode(path, 0o600).map_err(io("set the mode of", path))?;
        socket.set_nonblocking(true).map_err(io("prepare", path))?;
        Ok(Self { socket, place })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Answers for `agent` until it is dropped. Ends by itself only if the socket can't be used.
    ///
    /// # Errors
    /// The runtime does not take the socket.
    pub async fn serve<A: Admin>(self, agent: Arc<A>) -> io::Result<()> {
        let Self { socket, place: _place } = self;
        let listener = UnixListener::from_std(socket)?;
        let mut clients = Clients::new("admin socket", CONNECTIONS_MAX);
        loop {
            let Some((stream, _)) = clients.come(listener.accept().await).await else { continue };
            let refusal = match stream.peer_cred() {
                Ok(peer) if may_ask(peer.uid(), geteuid().as_raw()) => None,
                Ok(_) => Some("only root and the agent's own user may ask"),
                Err(_) => Some("it can't be told who asks"),
            };
            if let Some(refusal) = refusal {
                refuse(&stream, refusal);
                continue;
            }
            let Some(place) = clients.place() else {
                refuse(&stream, "too many clients ask at this moment; try again");
                continue;
            };
            let agent = Arc::clone(&agent);
            clients.serve(place, async move { answer(stream, &*agent).await });
        }
    }
}

/// Who may ask, by user id.
pub(super) fn may_ask(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A directory that was there is taken if it is ours, and closed to others if it holds nothing of theirs.
fn close_to_others(path: &Path, directory: &Path) -> Result<(), BindError> {
    let io = |action| move |source: io::Error| BindError::Io { action, path: directory.to_owned(), source };
    let metadata = fs::metadata(directory).map_err(io("look at"))?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(BindError::NotOurs { path: path.to_owned(), owner: metadata.uid() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    // A kubelet that makes a hostPath makes it 0755; a directory that others use, such as /tmp, is not ours to close.
    let own = |name: &OsStr| Some(name) == path.file_name() || NEIGHBOURS.iter().any(|neighbour| name == *neighbour);
    let others = fs::read_dir(directory)
        .map_err(io("read"))?
        .any(|entry| entry.map_or(true, |entry| !own(entry.file_name().as_os_str())));
    if others {
        return Err(BindError::OpenDirectory { path: path.to_owned(), mode });
    }
    set_mode(directory, 0o700).map_err(io("set the mode of"))
}

/// Says why, if that can be said at once.
fn refuse(stream: &UnixStream, why: &str) {
    let _ = stream.try_write(&line(&Answer::<()>::Error(why.to_owned())));
}

fn line<T: Serialize>(answer: &Answer<T>) -> Vec<u8> {
    let mut line =
        serde_json::to_vec(answer).unwrap_or_else(|_| br#"{"error":"the answer can't be written"}"#.to_vec());
    line.push(b'\n');
    line
}

async fn answer<A: Admin>(mut stream: UnixStream, agent: &A) {
    let request = match timeout(DEADLINE, read_request(&mut stream)).await {
        Ok(request) => request,
        Err(_) => Err("no request came within 5 seconds".to_owned()),
    };
    let result = match request {
        Ok(request) => timeout(DEADLINE, ask(agent, request))
            .await
            .unwrap_or_else(|_| Err("the agent is too busy to answer; try again".to_owned())),
        Err(why) => Err(why),
    };
    let pieces = match result {
        Ok(pieces) => pieces,
        Err(why) => vec![line(&Answer::<()>::Error(why))],
    };
    for piece in pieces.iter().flat_map(|bytes| bytes.chunks(PIECE_BYTES)) {
        match timeout(DEADLINE, stream.write_all(piece)).await {
            Ok(Ok(())) => {}
            // It went away, or does not read.
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let _ = timeout(DEADLINE, stream.shutdown()).await;
}

/// One line, without its end.
async fn read_request(stream: &mut UnixStream) -> Result<Request, String> {
    // All room at once, and no buffer between: it may carry secrets. One octet more than allowed tells a line that is too
    // long.
    let mut line = Zeroizing::new(vec![0; REQUEST_MAX_BYTES + 1]);
    let mut len = 0;
    while len < line.len() {
        let read =
            stream.read(&mut line[len..]).await.map_err(|error| format!("the request can't be read: {error}"))?;
        if let Some(end) = line[len..len + read].iter().position(|octet| *octet == b'\n') {
            return Request::parse(&line[..len + end]);
        }
        if read == 0 {
            return Request::parse(&line[..len]);
        }
        len += read;
    }
    Err(format!("the request is longer than {REQUEST_MAX_BYTES} octets"))
}

/// The answer's octets: one line, and after it the image if that was asked for.
async fn ask<A: Admin>(agent: &A, request: Request) -> Result<Vec<Vec<u8>>, String> {
    Ok(match request {
        Request::Status => vec![line(&Answer::Ok(agent.status().await?))],
        Request::Hold(pod) => vec![line(&Answer::Ok(agent.hold(pod).await?))],
        Request::Release(pod) => vec![line(&Answer::Ok(agent.release(pod).await?))],
        Request::Yield { uid } => vec![line(&Answer::Ok(agent.yield_store(uid).await?))],
        Request::Keys(change) => vec![line(&Answer::Ok(agent.change_keys(change).await?))],
        Request::Image => {
            let image = agent.image().await?;
            let header = ImageHeader { path: image.path, length: image.bytes.len() as u64 };
            vec![line(&Answer::Ok(header)), image.bytes]
        }
    })
}
