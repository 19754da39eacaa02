//! `fast-socks5`: a SOCKS server as its library's own example has it, on one thread of tokio.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use fast_socks5::server::{DnsResolveHelper, Socks5ServerProtocol, run_tcp_proxy, run_udp_proxy};
use fast_socks5::{ReplyError, Socks5Command};
use tokio::net::{TcpListener, TcpStream};

use crate::net;

const DIAL_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct FastSocksArgs {
    /// Loopback address to listen on; port 0 takes a free one. The bound address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

pub(crate) fn run(args: &FastSocksArgs) -> Result<()> {
    net::raise_descriptor_limit()?;
    let listener = net::listen(args.listen)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        crate::say_listening(address)?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(async move {
                // One connection's end is no news to anybody.
                let _ = serve(client, address.ip()).await;
            });
        }
    })
}

async fn serve(client: TcpStream, own: IpAddr) -> fast_socks5::Result<()> {
    let request = Socks5ServerProtocol::accept_no_auth(client).await?.read_command().await?;
    let (dialogue, command, target) = request.resolve_dns().await?;
    match command {
        Socks5Command::TCPConnect => {
            run_tcp_proxy(dialogue, &target, DIAL_PATIENCE, true).await?;
        }
        Socks5Command::UDPAssociate => {
            run_udp_proxy(dialogue, &target, None, own, None).await?;
        }
        Socks5Command::TCPBind => dialogue.reply_error(&ReplyError::CommandNotSupported).await?,
    }
    Ok(())
}
