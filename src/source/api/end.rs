//! Why a connection ended: kept beside it, since HTTP/2 tells its streams only that it did.

use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::certificate::Validity;
use super::classify;
use super::reach::Failure;

/// The cause of a connection's end, once it is known.
pub(super) struct End {
    cause: Mutex<Option<Failure>>,
    /// The certificate that we showed.
    client: Option<Validity>,
}

impl End {
    pub(super) fn new(client: Option<Validity>) -> Self {
        Self { cause: Mutex::default(), client }
    }

    /// Takes down an error of the connection. The first one is the cause, unless it only says that the connection is gone.
    pub(super) fn note(&self, error: &(dyn Error + 'static)) {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*cause, None | Some(Failure::Unreachable(_) | Failure::NoRoute(_))) {
            let failure = classify::sort(error, self.client.as_ref());
            if cause.is_none() || !matches!(failure, Failure::Unreachable(_) | Failure::NoRoute(_)) {
                *cause = Some(failure);
            }
        }
    }

    /// Why a stream failed: the connection's end if it has ended, else the stream's own error.
    pub(super) fn why(&self, error: &(dyn Error + 'static), client: Option<&Validity>) -> Failure {
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cause.unwrap_or_else(|| classify::sort(error, client))
    }
}

/// A stream whose errors are taken down.
pub(super) struct Noted<T> {
    inner: T,
    end: Arc<End>,
}

impl<T> Noted<T> {
    pub(super) fn new(inner: T, end: Arc<End>) -> Self {
        Self { inner, end }
    }

    fn seen<R>(&self, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if let Poll::Ready(Err(error)) = &polled {
            self.end.note(error);
        }
        polled
    }
}

impl<T: Read + Unpin> Read for Noted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.seen(polled)
    }
}

impl<T: Write + Unpin> Write for Noted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.seen(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.seen(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.seen(polled)
    }
}
