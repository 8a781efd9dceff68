//! A plain HTTP/2 client that knows no more of the API than lines of JSON.

use std::fs;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::fake::Server;

/// How a client says who it is.
pub(crate) enum Credentials<'a> {
    None,
    /// Of the directory that [`Server::kubeconfig`] has filled.
    Current(&'a Path),
    Token(&'a str),
}

pub(crate) struct Client {
    sender: http2::SendRequest<Empty<Bytes>>,
    /// Ends with the connection, and says how.
    pub(crate) ended: JoinHandle<hyper::Result<()>>,
    token: Option<String>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Whether the body has ended as it should.
    pub(crate) complete: bool,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        assert!(self.complete);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `namespace/name` of a listing's items.
    pub(crate) fn names(&self) -> Vec<String> {
        self.json()["items"].as_array().unwrap().iter().map(shown).collect()
    }
}

/// `namespace/name`.
pub(crate) fn shown(object: &Value) -> String {
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", field("namespace"), field("name"))
}

/// A handshake as far as TLS. The authority is what the server would write into a kubeconfig now, if none is given.
pub(crate) async fn handshake(
    server: &Server,
    credentials: &Credentials<'_>,
    authority_pem: Option<&str>,
) -> Result<TlsStream<TcpStream>, Error> {
    let authority_pem = authority_pem.map_or_else(|| server.authority_pem(), str::to_owned);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credentials {
        Credentials::Current(dir) => {
            let pem = fs::read(dir.join("pki/kubelet-client-current.pem")).unwrap();
            let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
            let key = PrivateKeyDer::from_pem_slice(&pem).unwrap();
            assert!(matches!(key, PrivateKeyDer::Sec1(_)), "not as a kubelet writes it");
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        Credentials::None | Credentials::Token(_) => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(server.address()).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await
}

impl Client {
    /// As the node, with a certificate that the server has issued.
    pub(crate) async fn new(server: &Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        server.kubeconfig(dir.path());
        Self::connect(server, &Credentials::Current(dir.path())).await.unwrap()
    }

    pub(crate) async fn connect(server: &Server, credentials: &Credentials<'_>) -> Result<Self, Error> {
        let tls = handshake(server, credentials, None).await?;
        let token = match credentials {
            Credentials::Token(token) => Some((*token).to_owned()),
            Credentials::None | Credentials::Current(_) => None,
        };
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.map_err(Error::other)?;
        Ok(Self { sender, ended: tokio::spawn(connection), token })
    }

    /// The answer's head.
    pub(crate) async fn start(&mut self, method: &str, path: &str) -> hyper::Result<http::Response<Incoming>> {
        self.sender.ready().await?;
        let mut request = Request::builder().method(method).uri(format!("https://127.0.0.1{path}"));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.sender.send_request(request.body(Empty::new()).unwrap()).await
    }

    pub(crate) async fn try_get(&mut self, path: &str) -> hyper::Result<Reply> {
        let response = self.start("GET", path).await?;
        let (head, mut body) = response.into_parts();
        let mut reply = Reply { status: head.status.as_u16(), headers: head.headers, body: Vec::new(), complete: true };
        loop {
            match body.frame().await {
                Some(Ok(frame)) => reply.body.extend(frame.into_data().unwrap()),
                Some(Err(_)) => {
                    reply.complete = false;
                    return Ok(reply);
                }
                None => return Ok(reply),
            }
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        in_time(self.try_get(path)).await.unwrap()
    }

    pub(crate) async fn watch(&mut self, path: &str) -> Events {
        let response = in_time(self.start("GET", path)).await.unwrap();
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), read: Vec::new(), searched: 0 }
    }
}

/// The stream of a watch.
pub(crate) struct Events {
    body: Incoming,
    read: Vec<u8>,
    /// So many bytes of `read` have no line's end among them.
    searched: usize,
}

/// What comes next on a stream.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Line(Vec<u8>),
    /// It ended cleanly, after these bytes.
    End(Vec<u8>),
    /// It was reset, or the connection ended, after these bytes.
    Broken(Vec<u8>),
}

impl Events {
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            if let Some(end) = self.read[self.searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.read.drain(..=self.searched + end).collect();
                self.searched = 0;
                return Next::Line(line);
            }
            self.searched = self.read.len();
            match in_time(self.body.frame()).await {
                Some(Ok(frame)) => self.read.extend(frame.into_data().unwrap()),
                Some(Err(_)) => return Next::Broken(std::mem::take(&mut self.read)),
                None => return Next::End(std::mem::take(&mut self.read)),
            }
        }
    }

    /// Some bytes of it, as they come.
    pub(crate) async fn piece(&mut self) -> Vec<u8> {
        in_time(self.body.frame()).await.unwrap().unwrap().into_data().unwrap().to_vec()
    }

    /// Whether something is there to be read.
    pub(crate) fn has_more(&mut self) -> bool {
        self.body.frame().now_or_never().is_some()
    }

    pub(crate) async fn event(&mut self) -> Value {
        match self.next().await {
            Next::Line(line) => serde_json::from_slice(&line).unwrap(),
            other => panic!("no event but {other:?}"),
        }
    }

    /// The next event as `TYPE namespace/name@resourceVersion`, the version counted from the server's first write.
    pub(crate) async fn seen(&mut self) -> String {
        let event = self.event().await;
        let version: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        let object = shown(&event["object"]);
        let name = if object == "/" { String::new() } else { format!(" {object}") };
        format!("{}{name}@{}", event["type"].as_str().unwrap(), version - crate::BASE)
    }
}

/// A test that hangs shall fail.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("an answer within a minute")
}

pub(crate) fn is_refused(error: &Error) -> bool {
    error.kind() == ErrorKind::ConnectionRefused
}
