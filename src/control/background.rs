//! Threads of control that give way to the shards where they share a core with them.

/// Passwords can wait: a tenth of the weight of a shard.
pub(super) const PASSWORDS: i32 = 10;
/// Records and lines of the access log may not be lost while a core is busy all the time: a third.
pub(super) const RECORDS: i32 = 5;

/// Sets the nice value of the calling thread. Where that is not allowed, it works as well.
pub(super) fn give_way(nice: i32) {
    // Of this thread alone: Linux takes 0 for whoever calls.
    let _ = rustix::process::setpriority_process(None, nice);
}
