//! A container runtime in which nothing runs and every image is there: what a node finds after a power cut.

use std::path::Path;
use std::thread;

use tokio::sync::oneshot;

use crate::runtime::{Fake, Reply, inner, text};

/// Answers on its socket until it is dropped.
pub(crate) struct Containers {
    quit: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Containers {
    pub(crate) fn at(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let (quit, told) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let image = inner(1, &[text(1, "sha256:1"), text(2, "registry.example/app:1")].concat());
                let fake = Fake::at(&socket, move |path| match path {
                    "/runtime.v1.RuntimeService/Version" => Reply::Message(text(2, "containerd")),
                    "/runtime.v1.ImageService/ListImages" => Reply::Message(image.clone()),
                    "/runtime.v1.RuntimeService/GetContainerEvents" => Reply::Stall(Vec::new()),
                    // No pod sandbox, no container.
                    _ => Reply::Message(Vec::new()),
                });
                ready.send(()).unwrap();
                let _ = told.await;
                fake.stop().await;
            });
        });
        is_ready.recv().unwrap();
        Self { quit: Some(quit), thread: Some(thread) }
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        drop(self.quit.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
