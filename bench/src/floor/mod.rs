//! `floor`: a deliberately featureless relay, the least that a user-space relay costs here.
//!
//! One io_uring, no limits, no timeouts, no configuration, no logging: bytes from one socket to
//! the other, half-close, nothing else. arus is reported as a ratio to it; so it is made as cheap
//! as can be, and it is not made to look cheap.

mod pool;
mod relay;
mod ring;

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;

use crate::net;

#[derive(Args)]
pub(crate) struct FloorArgs {
    /// Loopback address to listen on; port 0 takes a free one. The bound address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where every connection is relayed to
    #[arg(long)]
    upstream: SocketAddr,
    /// Receive buffers of 16 KiB, a power of two
    #[arg(long, default_value_t = 256)]
    buffers: u16,
    /// Received pieces that may wait for one direction
    #[arg(long, default_value_t = 32)]
    queue: usize,
    /// Bytes that one socket may bring in one go (0: no cap of its own)
    #[arg(long, default_value_t = 0)]
    gulp: u32,
}

pub(crate) fn run(args: &FloorArgs) -> Result<()> {
    net::ensure_loopback(args.upstream)?;
    net::raise_descriptor_limit()?;
    let listener = net::listen(args.listen)?;
    // The ring waits by itself; a non-blocking socket would make it give up instead.
    listener.set_nonblocking(false)?;
    let ring = ring::Ring::new(args.buffers, args.gulp, args.upstream)?;
    crate::say_listening(listener.local_addr()?)?;
    relay::Relay::new(ring, args.queue).serve(&listener)
}
