//! TLS as the shards use it. Control loads and replaces what is here (`control::tls`); a handshake only reads, and never
//! waits for a lock.

pub mod certificates;
pub mod terms;
pub mod tickets;
