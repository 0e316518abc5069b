//! Metrics for Prometheus: what the daemon counts anyway, put into words when somebody asks.
//!
//! Answered are `GET` requests, one for each connection, in OpenMetrics text. Few connections are
//! served at once, each for a short while, and a connection holds one text, which is as long as the
//! configuration has classes: who reads slowly, or never, costs no more than that.

mod text;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gpu_broker_device::Device;
use rustix::net::SocketType;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::config::MetricsAddress;
use crate::server::Server;
use crate::socket::{self, SocketFile};

/// Connections served at once; one more is closed.
const CONNECTIONS_MAX: usize = 8;
/// In which a connection must have asked and read.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// How long to leave the listener alone after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that listens where metrics are asked for.
#[derive(Debug)]
pub(crate) enum Bound {
    Unix { fd: OwnedFd, file: SocketFile },
    Tcp(std::net::TcpListener),
}

/// The same, with the runtime looking after it.
#[derive(Debug)]
pub(crate) enum Door {
    /// The file is removed with it.
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
    Tcp(TcpListener),
}

enum Visitor {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Bound {
    /// # Errors
    /// The socket cannot be made.
    pub(crate) fn open(address: &MetricsAddress) -> Result<Self, Box<dyn std::error::Error>> {
        Ok(match address {
            MetricsAddress::Unix { path, mode } => {
                let (fd, file) = socket::bind_at(path, *mode, SocketType::STREAM)?;
                Self::Unix { fd, file }
            }
            MetricsAddress::Loopback(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Self::Tcp(listener)
            }
        })
    }

    /// Where its file will be removed from, if it has one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Unix { file, .. } => Some(file.directory()),
            Self::Tcp(_) => None,
        }
    }

    /// Must be called inside the runtime.
    ///
    /// # Errors
    /// Of the system.
    pub(crate) fn into_door(self) -> io::Result<Door> {
        Ok(match self {
            Self::Unix { fd, file } => {
                Door::Unix { listener: UnixListener::from_std(fd.into())?, _file: file }
            }
            Self::Tcp(listener) => Door::Tcp(TcpListener::from_std(listener)?),
        })
    }
}

impl Door {
    async fn accept(&self) -> io::Result<Visitor> {
        match self {
            Self::Unix { listener, .. } => listener.accept().await.map(|(it, _)| Visitor::Unix(it)),
            Self::Tcp(listener) => listener.accept().await.map(|(it, _)| Visitor::Tcp(it)),
        }
    }
}

/// Serves for as long as it is polled.
pub(crate) async fn serve<D: Device>(server: Arc<Server<D>>, door: Door) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(visitor) = door.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let answered = tokio::time::timeout(PATIENCE, visitor.answer(&server)).await;
            tracing::trace!(?answered, "metrics were asked for");
            drop(place);
        });
    }
}

impl Visitor {
    async fn answer<D: Device>(&self, server: &Server<D>) -> io::Result<()> {
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            if request.len() >= REQUEST_BYTES_MAX {
                return self.write(b"HTTP/1.1 431 Too Large\r\nConnection: close\r\n\r\n").await;
            }
            let mut part = [0; 1024];
            match self.read(&mut part).await? {
                0 => return Ok(()),
                read => request.extend_from_slice(part.get(..read).unwrap_or_default()),
            }
        }
        if !request.starts_with(b"GET ") {
            let refusal =
                "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nConnection: close\r\n\r\n";
            return self.write(refusal.as_bytes()).await;
        }
        let body = text::render(server).map_err(io::Error::other)?;
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        self.write(head.as_bytes()).await?;
        self.write(body.as_bytes()).await
    }

    async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Unix(stream) => {
                    stream.readable().await?;
                    stream.try_read(into)
                }
                Self::Tcp(stream) => {
                    stream.readable().await?;
                    stream.try_read(into)
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Self::Unix(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
                Self::Tcp(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
