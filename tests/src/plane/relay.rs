//! Carries connections from the machine's network namespace to the API server inside.
//!
//! **Architecture invariant**: the listener was made outside, since a socket keeps the namespace it was made in; bytes pass
//! through unread, TLS is between client and API server.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

/// Accepts on `outside` for ever, and connects each connection to `inside`.
pub async fn relay(outside: TcpListener, inside: SocketAddr) {
    loop {
        match outside.accept().await {
            Ok((client, _)) => {
                tokio::spawn(carry(client, inside));
            }
            Err(error) => {
                // Out of file descriptors, most likely: connections that close will free some.
                tracing::warn!(%error, "accepting a connection from outside");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn carry(mut client: TcpStream, inside: SocketAddr) {
    match TcpStream::connect(inside).await {
        Ok(mut server) => {
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            // Either side may close in the middle; both are closed then.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
        Err(error) => tracing::debug!(%error, "the API server does not accept connections"),
    }
}
