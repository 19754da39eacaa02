//! The control plane: ordinary threads that prepare, watch and ask. Nothing here is on a connection's path.

pub mod handle;
