//! Every bound of the program with its reason, asserted against each other.

/// Bytes that one direction of a connection may have queued inside arus: 16 default buffers. docs/CONFIG.md states this
/// bound to users.
pub const QUEUED_BYTES_PER_DIRECTION: usize = 256 * 1024;
/// Bytes that it may have when a shard's first buffers are in use and more had to be made: 4 default buffers, so that many
/// slow readers cost little.
pub const QUEUED_BYTES_UNDER_PRESSURE: usize = 64 * 1024;
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
/// Users, and as many tokens, of the admin API: each request compares with every token.
pub const ADMINS: usize = 256;
/// Bytes of a configuration file.
pub const CONFIG_BYTES: u64 = 16 * 1024 * 1024;
/// Errors (and as many warnings) of a configuration that are shown; nobody reads on after so many.
pub const FINDINGS: usize = 1000;
/// Bytes of a listener's or upstream's name: it is repeated in every log line and metric.
pub const NAME_BYTES: usize = 64;
/// Bytes of a host name without the trailing dot (RFC 1035 section 2.3.4).
pub const HOST_BYTES: usize = 253;
/// Bytes of a PROXY header: what version 2 can announce, 16 and as many more as a u16 counts.
pub const PROXY_HEADER_BYTES: usize = 16 + u16::MAX as usize;
/// Bytes of a PROXY header of version 1 with its CR LF: the specification's worst case.
pub const PROXY_LINE_BYTES: usize = 107;
/// Bytes of a PROXY header's unique id (PROXY protocol 2.2.5).
pub const UNIQUE_ID_BYTES: usize = 128;
/// Bytes of a message of SOCKS: a user and a password of 255 bytes, each behind its length, and the version (RFC 1929);
/// a request of version 4A has a user and a name of 255 bytes, each with its NUL, behind 8 bytes.
pub const SOCKS_MESSAGE_BYTES: usize = 8 + 2 * 256;
/// Bytes of a TLS ClientHello without record headers: browsers send 0.5 KiB, 1.8 KiB with post-quantum key shares, and
/// some KiB more with a large session ticket.
pub const CLIENT_HELLO_BYTES: usize = 16 * 1024;
/// Bytes of it with the headers of its records, which are 5 each: room for one of 5 KiB in records of a single byte, and a
/// bound on what is looked through again whenever more comes.
pub const CLIENT_HELLO_WIRE_BYTES: usize = 32 * 1024;
/// Bytes of a unix socket's path: `sun_path` less its final NUL (unix(7)).
pub const UNIX_PATH_BYTES: usize = 107;
/// Networks of one `allow_sources` or `source` list; each connection looks through it in order.
pub const NETWORKS_PER_LIST: usize = 1024;
/// Names of one `sni` list, protocols of one `alpn` list: each connection looks through them in order.
pub const NAMES_PER_LIST: usize = 1024;
/// Bytes of a rule's description: it is repeated in every log line of a session that the rule decided on.
pub const RULE_DESCRIPTION_BYTES: usize = 128;
/// Bytes of a protocol's name: its length is one byte (RFC 7301 section 3.1).
pub const ALPN_BYTES: usize = 255;
/// Certificates of one listener: each is read again whenever one of them changes.
pub const CERTIFICATES_PER_LISTENER: usize = 1024;
/// Bytes of a file with certificates or a key; the system's whole list of authorities has some 200 KiB.
pub const PEM_BYTES: u64 = 4 * 1024 * 1024;
/// Connections of a process: above what a machine's descriptors allow (two each; `fs.nr_open` is 1,048,576 unless
/// raised), and a bound on the tables that are made for so many.
pub const CONNECTIONS: u32 = 10_000_000;
/// Connections that may wait in an accept queue: listen(2) takes an int, and the kernel cuts it to
/// `net.core.somaxconn`.
pub const BACKLOG: u32 = 1 << 20;
/// Other backends tried for one connection; more than that only delays the refusal.
pub const RETRIES: u32 = 100;
/// Connections made ahead, per backend and shard.
pub const WARM_CONNECTIONS: u16 = 1024;
/// Connections that may wait for one upstream.
pub const QUEUE: u32 = 1_000_000;
/// Checks in a row that change a backend's state, and failed connects that eject it.
pub const IN_A_ROW: u32 = 1000;
/// The longest duration of a configuration: a year. Sums of some of them stay far from any overflow.
pub const DURATION: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 60 * 60);
/// The shortest time limit: below it, waiting for anything is not meant.
pub const TIMEOUT: std::time::Duration = std::time::Duration::from_millis(1);
/// The shortest pause between health checks and between look-ups of a name: more often is an attack.
pub const CHECK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(10);
/// The longest spin before sleeping; who wants more wants "always".
pub const BUSY_POLL: std::time::Duration = std::time::Duration::from_millis(100);
/// Bytes of a health check's `send` and `expect`, and of the answer that is searched.
pub const HEALTH_BYTES: usize = 4096;
/// TLS records in a row that bring no payload (alerts, key updates, tickets, empty ones): each costs us work and the other
/// side next to nothing. A server sends a few tickets at once.
pub const TLS_IDLE_RECORDS: u32 = 64;
/// Bytes that the other side may send until a handshake is done: rustls takes messages of 64 KiB, and a certificate chain
/// is the largest.
pub const TLS_HANDSHAKE_BYTES: usize = 256 * 1024;
/// Largest buffer ring: the kernel's bound for IORING_REGISTER_PBUF_RING (io_uring_register(2)).
pub const MAX_BUFFERS: u32 = 32 * 1024;
/// Smallest and largest receive buffer.
pub const BUFFER_SIZE: std::ops::RangeInclusive<u32> = 1024..=1024 * 1024;
/// Bytes of a plugin's file: it is read into memory, twice.
pub const PLUGIN_BYTES: u64 = 64 * 1024 * 1024;
/// Different plugin files that one process loads: none is ever unloaded, and each keeps a descriptor.
pub const PLUGIN_IMAGES: usize = 1000;
/// Users of `[auth]`; more belong into PAM.
pub const AUTH_USERS: usize = 100_000;
/// Bytes of a user's or group's name and of a password: their lengths are one byte each (RFC 1929 section 2).
pub const CREDENTIAL_BYTES: usize = 255;
/// Groups of one user: what Linux allows a process is 65,536, and each is compared with those of access rules.
pub const GROUPS_PER_USER: usize = 1024;
/// Failed logins that may be allowed before a ban: the times of so many are kept for each source.
pub const AUTH_FAILURES: u32 = 100;
/// Plugins of a plan.
pub const PLUGINS: usize = 256;
/// Plugins of one listener: each may hold back and produce for both directions of each connection.
pub const PLUGINS_PER_LISTENER: usize = 16;
/// Bytes of a plugin's `config` text; what is larger belongs into a file of its own.
pub const PLUGIN_CONFIG_BYTES: usize = 1024 * 1024;
/// Users that are known at once, with sessions or a minute ago: some 300 bytes each, and only who is authenticated is one.
pub const USERS: usize = 100_000;
/// Users with limits of their own.
pub const QOS_USERS: usize = 10_000;
/// Bytes per second that a rate may have: what is less could not tell two small messages apart, what is more (a terabyte)
/// is none.
pub const RATES: std::ops::RangeInclusive<u64> = 1024..=1 << 40;
/// UDP associations of a process that are counted by user: three descriptors each.
pub const UDP_ASSOCIATIONS: u32 = 65_536;
/// Targets of one UDP association that may answer; those that were used longest ago are forgotten first. More than a
/// resolver or a game has, and 100 KiB at most.
pub const UDP_PEERS: usize = 1024;
/// Names whose addresses one UDP association keeps.
pub const UDP_NAMES: usize = 64;
/// Names that one UDP association has looked up at the same time.
pub const UDP_LOOKUPS: usize = 8;
/// Datagrams of one UDP association that wait for names, and bytes of all of them: one of the largest must fit.
pub const UDP_WAITING: usize = 32;
pub const UDP_WAITING_BYTES: usize = 128 * 1024;
/// Session records of one transaction: some milliseconds of the writer's time.
pub const BATCH: u32 = 100_000;
/// The shortest wait for a batch to fill: below it a transaction costs more than its records.
pub const BATCH_INTERVAL: std::time::Duration = std::time::Duration::from_millis(10);
/// Finished sessions in memory: some 500 bytes each.
pub const RECENT_SESSIONS: u32 = 1_000_000;
/// Records that may wait for the database, beyond which they are dropped and counted: five seconds of 20,000 a second, and
/// some 40 MB.
pub const UNWRITTEN_SESSIONS: usize = 100_000;
/// Telemetry events in memory: some 500 bytes each.
pub const EVENTS: u32 = 100_000;
/// Bytes of a name, target or rule in a session's record; what is longer is cut.
pub const RECORD_TEXT_BYTES: usize = 512;

const _: () = assert!(LISTENERS <= u16::MAX as usize && UPSTREAMS <= u16::MAX as usize);
const _: () = assert!(MAX_BUFFERS as usize <= u16::MAX as usize + 1);
const _: () = assert!(CLIENT_HELLO_BYTES < CLIENT_HELLO_WIRE_BYTES && PROXY_LINE_BYTES < PROXY_HEADER_BYTES);
