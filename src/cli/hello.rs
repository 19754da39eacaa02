//! `arus hello`: the demo backend as a program of its own.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;

use crate::config::plan::{Level, LogFormat};
use crate::control::{hello, logging};

/// Run the demo backend (HTTP/1.1 and h2c)
///
/// It answers every request with who was served through whom.
///
/// Example: arus hello --listen 127.0.0.1:62801
#[derive(Debug, clap::Args)]
pub(super) struct HelloArgs {
    /// Address to listen on; with port 0 the kernel chooses, and the log says which
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Expect a PROXY protocol header (v1 or v2) on every connection, and take the client's address from it; without
    /// one, a connection is dropped
    #[arg(long)]
    accept_proxy: bool,
}

pub(super) fn run(args: &HelloArgs) -> anyhow::Result<()> {
    let _flush = logging::start(Level::Info, LogFormat::Text);
    logging::detach()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", args.listen))?;
        hello::announce(&listener)?;
        tokio::select! {
            () = hello::serve(listener, args.accept_proxy) => Ok(()),
            stopped = stop() => stopped,
        }
    })
}

/// Until somebody wants it to end.
async fn stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
