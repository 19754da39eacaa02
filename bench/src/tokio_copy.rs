//! `tokio-copy`: the relay everybody writes first, `copy_bidirectional` with 64 KiB buffers.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

use crate::net;

const BUFFER: usize = 64 * 1024;

#[derive(Args)]
pub(crate) struct TokioCopyArgs {
    /// Loopback address to listen on; port 0 takes a free one. The bound address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where every connection is relayed to
    #[arg(long)]
    upstream: SocketAddr,
}

pub(crate) fn run(args: &TokioCopyArgs) -> Result<()> {
    net::ensure_loopback(args.upstream)?;
    net::raise_descriptor_limit()?;
    let listener = net::listen(args.listen)?;
    let upstream = args.upstream;
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        crate::say_listening(listener.local_addr()?)?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(async move {
                // One connection's end is no news to anybody.
                let _ = relay(client, upstream).await;
            });
        }
    })
}

async fn relay(mut client: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
    let mut backend = TcpStream::connect(upstream).await?;
    backend.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await?;
    Ok(())
}
