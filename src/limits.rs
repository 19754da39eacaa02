//! Every bound of the program with its reason, asserted against each other.

/// Bytes that one direction of a connection may have queued inside arus: 16 default buffers.
/// SPEC section 3 point 2 states this bound to users.
pub const QUEUED_BYTES_PER_DIRECTION: usize = 256 * 1024;
/// Shards of a process: one byte short of what `ShardId` could count, far above any machine's cores.
pub const SHARDS: u16 = 1024;
/// Listeners of a plan; `ListenerIndex` is a u16.
pub const LISTENERS: usize = 4096;
/// Addresses of one listener after its port ranges are spread out: one socket each and shard.
pub const ADDRESSES_PER_LISTENER: usize = 4096;
/// Routes of one listener; they are looked through in order.
pub const ROUTES_PER_LISTENER: usize = 1024;
/// Upstreams of a plan; `UpstreamIndex` is a u16.
pub const UPSTREAMS: usize = 4096;
/// Backends of one upstream; a choice looks at each at most once.
pub const BACKENDS_PER_UPSTREAM: usize = 1024;
/// The heaviest backend (HAProxy has the same bound).
pub const BACKEND_WEIGHT: u16 = 256;
/// Addresses of one resolved host name that are tried.
pub const ADDRESSES_PER_HOST: usize = 16;
/// Bytes of a configuration file.
pub const CONFIG_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of a health check's `send` and `expect`, and of the answer that is searched.
pub const HEALTH_BYTES: usize = 4096;
/// Largest buffer ring: the kernel's bound for IORING_REGISTER_PBUF_RING (io_uring_register(2)).
pub const MAX_BUFFERS: u32 = 32 * 1024;
/// Smallest and largest receive buffer.
pub const BUFFER_SIZE: std::ops::RangeInclusive<u32> = 1024..=1024 * 1024;

const _: () = assert!(LISTENERS <= u16::MAX as usize && UPSTREAMS <= u16::MAX as usize);
const _: () = assert!(MAX_BUFFERS as usize <= u16::MAX as usize + 1);
