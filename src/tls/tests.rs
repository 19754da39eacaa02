//! Record layer and handshake against rustls as the peer.
