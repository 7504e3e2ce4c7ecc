//! Accepts connections: checks the address's share, then does the TLS handshake, of which an
//! address may have so many a second.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::Protocol;
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::http::{Connection, ConnectionLimits, Connections};
use crate::pipeline::Gateway;

/// Timeout of a TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);

/// Accepts a connection. Fails if its address has too many, or if the TLS handshake fails or takes
/// too long.
pub(super) async fn accept(
    stream: TcpStream,
    limits: Arc<ConnectionLimits>,
    connections: Rc<Connections>,
    tls: Option<(TlsAcceptor, Arc<Gateway>)>,
) -> io::Result<(Connection<Transport>, Protocol, Option<SocketAddr>)> {
    let peer = stream.peer_addr()?;
    let share = limits.admit(peer.ip())?;
    stream.set_nodelay(true)?;
    let transport = match tls {
        None => Transport::Plain(stream),
        Some((acceptor, gateway)) => {
            // A proxy's have no share, and carry the requests of many.
            if share.is_some()
                && !gateway.rate_limits.check_handshake(peer.ip(), gateway.clock.now())
            {
                return Err(io::Error::other("the address begins too many connections"));
            }
            let handshake = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await;
            Transport::Tls(Box::new(handshake.map_err(|_| io::ErrorKind::TimedOut)??))
        }
    };
    let connection = Connection::new(transport, share, limits);
    connections.add(&connection.state());
    Ok((connection, Protocol::Http1, Some(peer)))
}

/// What HTTP runs on: TCP or TLS.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
