//! A thread that answers on the admin socket as it was told to, whatever it is asked.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::scene::Scene;

/// The default socket of a trial below `node`.
const SOCKET: &str = "node/run/ckpt-db/admin.sock";

pub(crate) struct FakeAgent {
    requests: Receiver<String>,
}

impl FakeAgent {
    /// One that gives these answers, one a connection, and then is gone with its socket.
    pub(crate) fn start(scene: &Scene, answers: Vec<Vec<u8>>) -> Self {
        let path = scene.path(SOCKET);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, requests) = channel();
        std::thread::spawn(move || serve(&listener, path, answers, |request| drop(sender.send(request))));
        Self { requests }
    }

    /// One that has one line to say.
    pub(crate) fn says(scene: &Scene, answer: &Value) -> Self {
        Self::start(scene, vec![line(answer)])
    }

    /// What it was asked; waits until it has answered that.
    pub(crate) fn asked(&self) -> String {
        self.requests.recv_timeout(Duration::from_secs(30)).expect("it was asked")
    }
}

/// An answer as it goes over the socket.
pub(crate) fn line(answer: &Value) -> Vec<u8> {
    format!("{answer}\n").into_bytes()
}

fn serve(listener: &UnixListener, path: PathBuf, answers: Vec<Vec<u8>>, asked: impl Fn(String)) {
    let count = answers.len();
    for (number, answer) in answers.into_iter().enumerate() {
        let (stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        // Before the last answer, so that whoever asks again finds nobody.
        if number + 1 == count {
            fs::remove_file(&path).unwrap();
        }
        let _ = (&stream).write_all(&answer);
        asked(request.trim_end().to_owned());
    }
}
