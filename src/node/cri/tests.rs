//! Against a runtime of our own on a Unix socket.
