//! Bodies piece by piece: what is to be sent, when, and how it ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use tokio::sync::watch;

use super::Shared;
use super::faults::{End, Fault, Stage};
use super::request::Request;
use super::wire::Connection;

type Pieces = Pin<Box<dyn stream::Stream<Item = Result<Frame<Bytes>, Abort>> + Send>>;
pub(super) type Body = StreamBody<Pieces>;

/// Makes the stream end with RST_STREAM.
#[derive(Debug, thiserror::Error)]
#[error("a fault: the stream is reset")]
pub(super) struct Abort;

/// A request that is being answered. Its end, for whatever reason, is noted in the log.
pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Arc<Connection>,
    pub(super) request: Request,
    changed: watch::Receiver<u64>,
}

impl Exchange {
    pub(super) fn new(shared: Arc<Shared>, connection: Arc<Connection>, request: Request) -> Self {
        let changed = shared.changed.subscribe();
        Self { shared, connection, request, changed }
    }

    pub(super) fn fault(&self, stage: Stage) -> Option<Fault> {
        self.shared.lock().faults.take(&self.request, stage)
    }

    pub(super) fn answered(&mut self, status: u16) {
        self.shared.log(self.request.number, |request| request.status = Some(status));
    }

    /// The bytes after a fault in their content, if there is one.
    pub(super) fn content(&self, bytes: Vec<u8>) -> Vec<u8> {
        match self.fault(Stage::Content) {
            Some(Fault::Content(rewrite)) => rewrite(bytes),
            _ => bytes,
        }
    }

    /// Puts bytes into the outbox, disturbed in their delivery if there is such a fault. Returns whether there is.
    pub(super) fn deliver(&self, outbox: &mut Outbox, bytes: Vec<u8>) -> bool {
        match self.fault(Stage::Delivery) {
            Some(Fault::Cut(end)) => {
                outbox.push(bytes[..bytes.len() / 2].to_vec());
                outbox.end = Some(end);
                true
            }
            Some(Fault::Drip { bytes: size, every }) => {
                let (now, every) = (self.shared.read(|state| state.clock_ms), every.as_millis() as u64);
                for (piece, n) in bytes.chunks(size).zip(0..) {
                    outbox.pieces.push_back((now + n * every, piece.to_vec()));
                }
                true
            }
            _ => {
                outbox.push(bytes);
                false
            }
        }
    }

    /// Looks whether `found` has something; if not, waits for any change of the store or the clock and looks again.
    pub(super) async fn until<T>(&mut self, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        loop {
            self.changed.borrow_and_update();
            if let Some(found) = found(self) {
                return found;
            }
            if self.changed.changed().await.is_err() {
                return pending().await; // the server is gone, and this with it
            }
        }
    }

    pub(super) async fn never<T>(self) -> T {
        match pending::<Infallible>().await {}
    }

    pub(super) async fn close_connection<T>(self) -> T {
        self.connection.close();
        self.never().await
    }

    pub(super) async fn reset_connection<T>(self) -> T {
        self.connection.reset();
        self.never().await
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.log(self.request.number, |request| request.open = false);
    }
}

/// What is still to be sent of one body.
#[derive(Default)]
pub(super) struct Outbox {
    /// Each with the time on the server's clock before which it isn't sent.
    pieces: VecDeque<(u64, Vec<u8>)>,
    /// After the last piece; none while more may come.
    end: Option<End>,
}

impl Outbox {
    /// Adds to what is to be sent; nothing comes after an end.
    pub(super) fn push(&mut self, bytes: Vec<u8>) {
        if self.end.is_none() {
            self.pieces.push_back((0, bytes));
        }
    }

    pub(super) fn end_unless_cut(&mut self) {
        self.end.get_or_insert(End::Clean);
    }

    pub(super) fn is_done(&self) -> bool {
        self.pieces.is_empty() && self.end.is_none()
    }

    /// The next frame; none at a clean end. To be asked only when there is something left.
    pub(super) async fn next(&mut self, exchange: &mut Exchange) -> Option<Result<Frame<Bytes>, Abort>> {
        if let Some((due_ms, bytes)) = self.pieces.pop_front() {
            exchange.until(|exchange| exchange.shared.read(|state| (state.clock_ms >= due_ms).then_some(()))).await;
            return Some(Ok(Frame::data(bytes.into())));
        }
        match self.end.expect("nothing left to be sent") {
            End::Clean => None,
            // A reset drops what is still queued; what is left of the cut body shall arrive.
            End::Stream => {
                exchange.connection.flush().await;
                Some(Err(Abort))
            }
            End::Connection => {
                exchange.connection.flush().await;
                exchange.connection.close();
                pending().await
            }
        }
    }

    pub(super) fn into_body(self, exchange: Exchange) -> Body {
        let pieces = stream::unfold((self, exchange), |(mut outbox, mut exchange)| async move {
            let frame = outbox.next(&mut exchange).await?;
            Some((frame, (outbox, exchange)))
        });
        StreamBody::new(Box::pin(pieces))
    }
}
