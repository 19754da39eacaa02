//! What a snapshot has for TLS beside its plan: everything that a handshake needs, ready made.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::certificates::Certificates;
use super::tickets::Tickets;

/// Of a listener that terminates TLS.
#[derive(Debug)]
pub struct ListenerTls {
    /// Its resolver is `certificates`, its ticketer `tickets`.
    pub config: Arc<ServerConfig>,
    /// May change while connections live; the config sees it at the next handshake.
    pub certificates: Arc<Certificates>,
    pub tickets: Arc<Tickets>,
}

/// Of an upstream that is spoken to with TLS.
#[derive(Debug)]
pub struct UpstreamTls {
    pub config: Arc<ClientConfig>,
    /// In the order of the plan's backends: the name that each one's certificate must have. A DNS name is also sent.
    pub names: Vec<ServerName<'static>>,
}
