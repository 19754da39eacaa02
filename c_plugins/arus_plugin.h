/*
 * arus_plugin.h: what an arus plugin and arus agree on, version 1.
 *
 * A plugin is a shared library (.so) that sees, and may change, the bytes of the connections that arus relays. This file
 * is all that it needs: C99 or newer, or C++, on 64-bit Linux. docs/PLUGINS.md is a tutorial. Build with
 *
 *     cc -std=c99 -O2 -Wall -Wextra -fPIC -shared -fvisibility=hidden -o name.so name.c
 *
 * IN SHORT
 *
 *   A library exports one symbol, arus_plugin_v1(), which returns a constant table: what the plugin is called, how much
 *   memory it wants for each connection, and up to seven functions. Only `data` must be there. The smallest plugin:
 *
 *     #include "arus_plugin.h"
 *
 *     static int32_t data(void *shard, void *scratch, arus_io *io) {
 *         (void)shard; (void)scratch;
 *         arus_pass(io, io->input_len);
 *         return ARUS_OK;
 *     }
 *
 *     static const arus_plugin plugin = {
 *         ARUS_PLUGIN_HEAD,
 *         .name = "example", .version = "1.0", .flags = ARUS_UP | ARUS_DOWN, .data = data,
 *     };
 *     ARUS_PLUGIN(plugin)
 *
 *   (C++ before C++20 has no such initialisers: there the table is filled in its order.)
 *
 * FOUR LIFETIMES, each inside the one before it
 *
 *   process     a [[plugin]] table of the configuration: process_open gets its `config` text. A reload with another text
 *               or another file opens a new one beside the old one, which lives until its last connection has ended.
 *   shard       one thread of arus. Each has its own `shard` pointer, so nothing in it needs a lock.
 *   connection  a client's connection: `scratch`, memory that arus makes, of the size that the table states.
 *   data call   a piece of one direction: `io`.
 *
 * THREADS
 *
 *   process_open, process_close and shard_open run on a control thread, one at a time. They may open files and
 *   allocate, but a reload waits for them, and `arus check` calls process_open, shard_open for one shard, shard_close
 *   and process_close. process_close may also run on the thread that has just closed the last shard.
 *   connection_open, data and connection_close of one shard run on that shard's thread, one at a time; so does
 *   shard_close (a configuration that never went into force is closed on the control thread).
 *   The threads run at the same time: process_open of one generation runs while connections of another are served. So
 *   do not write to global or static variables; keep what you write in `shard` and `scratch`.
 *
 * FORBIDDEN, everywhere
 *
 *   - to let a C++ exception, a Rust panic or a longjmp leave a function of the plugin;
 *   - to call a host function from a thread of the plugin's own, from a signal handler, or after the function of the
 *     plugin that was given the pointer has returned (arus ignores such calls where it can);
 *   - to fork, to change signal handlers or signal masks, to call exit, to close descriptors that are not the plugin's;
 *   - to keep `io`, `io->input`, a `connection`, an attribute or reserved memory after the call that gave it.
 *   And in connection_open, data and connection_close, because every connection of the shard waits meanwhile:
 *   - to block (sleep, locks, files, DNS, system calls that wait). A call longer than max_call is logged and counted.
 *   Host functions never call back into the plugin.
 *
 * FAULTS
 *
 *   Every number and answer that arus gets from a plugin is checked. What is called a fault below is counted, logged
 *   with plugin, connection and generation, and handled as `on_fault` says: the connection is closed, or the plugin is
 *   bypassed for the rest of it, or disabled until a reload. What was consumed and put out before the fault stays so; the
 *   host functions that the call still calls do nothing (those that give pointers give NULL) and its answer means nothing,
 *   so that a plugin may just go on to its return. With bypass and disable the rest of the input and everything later
 *   passes untouched, in both directions. connection_close is called with ARUS_REASON_FAULT.
 *   arus cannot check what a plugin does to memory: a plugin that crashes ends arus, with one line that names the plugin.
 *
 * GROWTH
 *
 *   Structures begin with their size (the table with its magic and version) and only ever grow at their end. A library
 *   that was compiled with an older minor version keeps working; one that was compiled with a newer one works too, as
 *   long as it looks with ARUS_HAS before it uses what is newer. Another major version, or an unknown flag, is refused.
 *   The library stays loaded until arus ends; a changed file is loaded beside it.
 */
#ifndef ARUS_PLUGIN_H
#define ARUS_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define ARUS_EXTERN_C extern "C"
extern "C" {
#else
#define ARUS_EXTERN_C
#endif

#define ARUS_PLUGIN_MAGIC UINT64_C(0x31676c7073757261) /* the bytes "arusplg1" */
#define ARUS_ABI_MAJOR 1
#define ARUS_ABI_MINOR 0

/* ---- Bounds ---------------------------------------------------------------------------------------------------- */

#define ARUS_INPUT_MAX 16384         /* new bytes in one data call; held-back ones come on top */
#define ARUS_RESERVE_MAX 16384       /* bytes of one arus_reserve */
#define ARUS_HOLDBACK_LIMIT 65536    /* the largest holdback_max */
#define ARUS_CONNECTION_LIMIT 65536  /* the largest connection_size */
#define ARUS_NAME_MAX 64             /* bytes of `name`, `version` and of a counter's name, without the NUL */
#define ARUS_ERROR_MAX 512           /* bytes of the error text of process_open and shard_open, with its NUL */
#define ARUS_ATTRIBUTE_MAX 512       /* bytes of an attribute; the rest is cut off */
#define ARUS_LOG_MAX 1024            /* bytes of a log text; the rest is cut off */
#define ARUS_COUNTERS_MAX 32         /* counters of one plugin */
#define ARUS_IDLE_CALLS_MAX 16       /* ARUS_MORE_OUTPUT in a row without consuming or producing a byte */

/* ---- Words ----------------------------------------------------------------------------------------------------- */

/* Directions: the plugin's `flags` say which ones it wants to see, `io->direction` is one of them. Both directions of a
 * connection share its scratch memory and are never called at the same time, but in any order and not in step. */
#define ARUS_UP UINT32_C(1)   /* client to backend */
#define ARUS_DOWN UINT32_C(2) /* backend to client */

/* io->flags */
#define ARUS_END UINT32_C(1) /* nothing comes behind this input; it may be empty. Set again after ARUS_MORE_OUTPUT. */

/* Answers. The functions that open something answer ARUS_OK or ARUS_ERROR, connection_open those marked (c), data any
 * but ARUS_BYPASS. Every other number is a fault. "The rest" is the input that was neither passed nor dropped. */
enum {
    /* (c) Go on. data: all input was consumed; a rest is a fault. */
    ARUS_OK = 0,
    /* data: the rest, at most holdback_max bytes, comes again at the front of the next call, with new bytes behind it
     * (or ARUS_END). With ARUS_END set a rest is a fault: nothing more will come. Without a rest it is ARUS_OK. */
    ARUS_NEED_MORE = 1,
    /* data: call again, with exactly the rest (also when there is none), as soon as there is room for output. What to
     * answer when arus_reserve gave NULL. ARUS_IDLE_CALLS_MAX such calls in a row that neither consumed nor produced a
     * byte, and did not see NULL, are a fault. */
    ARUS_MORE_OUTPUT = 2,
    /* data: this direction is not called again. The rest and everything that comes later passes untouched, on arus's
     * fastest path once no other plugin wants to see it. */
    ARUS_DETACH = 3,
    /* (c) Close the connection cleanly: in data after the output so far has been delivered. The rest is dropped. */
    ARUS_CLOSE = 4,
    /* (c) Reset the connection (RST to both sides) at once. */
    ARUS_RESET = 5,
    /* (c) The plugin cannot go on: a fault. */
    ARUS_ERROR = 6,
    /* (c) connection_open only: not interested; as ARUS_DETACH for both directions. connection_close is not called. */
    ARUS_BYPASS = 7
};

/* Why connection_close is called. */
enum {
    ARUS_REASON_ENDED = 0,    /* no direction is left that the plugin sees, and at least one has had its ARUS_END */
    ARUS_REASON_DETACHED = 1, /* no direction is left that the plugin sees: it has detached from all */
    ARUS_REASON_CUT = 2,      /* anything else: a reset, a time limit, `arus kill`, a close by this or another plugin */
    ARUS_REASON_FAULT = 3     /* a fault of this plugin */
};

/* Levels of arus_log. */
enum { ARUS_LOG_ERROR = 1, ARUS_LOG_WARN = 2, ARUS_LOG_INFO = 3, ARUS_LOG_DEBUG = 4 };

/* What arus_attribute can tell of a connection. All are text without a NUL at the end; any but the first four may be
 * missing. What a client chose (SNI, ALPN, user, target) is not to be trusted. */
enum {
    ARUS_ATTRIBUTE_SESSION = 1,  /* its id in logs, as 01923e4f-... (36 bytes) */
    ARUS_ATTRIBUTE_CLIENT = 2,   /* who connected: "192.0.2.7:51234", "[2001:db8::1]:51234" or "unix" */
    ARUS_ATTRIBUTE_SOURCE = 3,   /* the same, or what a trusted PROXY header said */
    ARUS_ATTRIBUTE_LISTENER = 4, /* the listener's name in the configuration */
    ARUS_ATTRIBUTE_TARGET = 5,   /* where the client wants to go: the address it connected to, or its SOCKS request */
    ARUS_ATTRIBUTE_UPSTREAM = 6, /* the name of the chosen upstream */
    ARUS_ATTRIBUTE_BACKEND = 7,  /* the chosen backend */
    ARUS_ATTRIBUTE_SNI = 8,      /* server name of the TLS ClientHello */
    ARUS_ATTRIBUTE_ALPN = 9,     /* the agreed application protocol */
    ARUS_ATTRIBUTE_USER = 10     /* the authenticated user */
};

/* ---- What arus gives -------------------------------------------------------------------------------------------- */

typedef struct arus_host arus_host;
typedef struct arus_connection arus_connection;
typedef struct arus_io arus_io;

/* A connection, as connection_open sees it. Valid during that call only: copy what is needed into the scratch memory. */
struct arus_connection {
    uint32_t size;        /* of this structure, in bytes */
    uint32_t shard;       /* number of the shard, from 0 */
    const arus_host *host;
    uint8_t session[16];  /* its id, a UUIDv7 in network order */
    uint64_t generation;  /* of the configuration */
};

/* One data call. Only read it; arus does not look at what is written here. Consuming changes nothing here: input and
 * input_len are the whole input of this call until it returns, and the plugin knows its own position in it. */
struct arus_io {
    uint32_t size;        /* of this structure, in bytes */
    uint32_t flags;       /* ARUS_END or 0 */
    uint32_t direction;   /* ARUS_UP or ARUS_DOWN */
    uint32_t reserved;
    const uint8_t *input; /* the bytes held back, then new ones; not NULL, not aligned; arus's memory, read only */
    size_t input_len;     /* at most holdback_max + ARUS_INPUT_MAX; 0 only with ARUS_END or after ARUS_MORE_OUTPUT */
    const arus_host *host;
};

/*
 * The functions of arus. The table is the same memory for the whole life of the process that process_open opened. Call
 * them as arus_pass(io, n) and so on: the wrappers are at the end of this file.
 *
 * Input is consumed from its front, in order, by pass, rewrite and drop. Output appears in the order of the calls of
 * pass, rewrite and commit. Consumed input must not be read any more: arus may move it. 0 bytes may be asked of each; that
 * does nothing, and counts as nothing (the pointer that rewrite and reserve give then must not be written to).
 */
struct arus_host {
    uint32_t size;         /* of this structure, in bytes: see ARUS_HAS */
    uint16_t abi_major;
    uint16_t abi_minor;
    const char *version;   /* of arus, as "0.1.0" */

    /* data only. The next n bytes of the input go out as they are; arus copies them only where it must. More than is
     * left is a fault. */
    void (*pass)(arus_io *io, size_t n);

    /* data only. The next n bytes of the input are gone. More than is left is a fault. */
    void (*drop)(arus_io *io, size_t n);

    /* data only. As pass, and gives these n bytes to be changed in place: the cheapest way where the output is as long
     * as the input. The pointer holds until the next call of pass, rewrite, drop, reserve or commit, or the return. NULL
     * only with a fault. */
    uint8_t *(*rewrite)(arus_io *io, size_t n);

    /* data only. Memory for n bytes of output in one piece, not zeroed; it ends with the next commit, reserve, pass or
     * rewrite, or the return: what was not committed is gone. drop leaves it alone, and input can be read meanwhile.
     * NULL when there is no room now: answer ARUS_MORE_OUTPUT, and arus calls again when there is; the first reserve of
     * that call, before anything is passed, gets its memory. More than ARUS_RESERVE_MAX is a fault, and NULL. */
    uint8_t *(*reserve)(arus_io *io, size_t n);

    /* data only. The first n reserved bytes go out. More than reserved, or nothing reserved, is a fault. */
    void (*commit)(arus_io *io, size_t n);

    /* connection_open only. An attribute and its length; NULL and 0 when there is none. */
    const char *(*attribute)(const arus_connection *connection, uint32_t attribute, size_t *len);

    /* Any function of the plugin. A line of arus's log, with the plugin's name and, where there is one, the connection.
     * An unknown level is ARUS_LOG_DEBUG. Control characters are
     * escaped; a plugin that logs more than some lines a second loses the rest, which are counted. */
    void (*log)(const arus_host *host, uint32_t level, const char *text, size_t len);

    /* process_open only. Makes a counter, which appears in `arus status --json` (plugins[].counters), and gives its number.
     * Names are [a-z][a-z0-9_]*, `help` is one line of text; both end with NUL. A name a second time gives its number again;
     * -1: a bad name, or too many. */
    int32_t (*counter)(const arus_host *host, const char *name, const char *help);

    /* shard_open and later. Adds to a counter; no lock and no atomic instruction is behind it. An unknown number does
     * nothing. */
    void (*counter_add)(const arus_host *host, int32_t counter, uint64_t n);

    /* Any function of the plugin. Nanoseconds of a clock that only goes forward. */
    uint64_t (*clock)(const arus_host *host);
};

/* ---- What a plugin gives ---------------------------------------------------------------------------------------- */

/* All of it is constant and lies in the library, the functions too: `.process_close = free` is refused, as libc's free is
 * another library's; write a function that calls it. Any function but `data` may be NULL. */
typedef struct arus_plugin {
    uint64_t magic;            /* these four: ARUS_PLUGIN_HEAD */
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t size;
    const char *name;          /* printable ASCII, 1 to ARUS_NAME_MAX bytes; for people */
    const char *version;       /* the same */
    uint32_t flags;            /* ARUS_UP, ARUS_DOWN or both */
    uint32_t connection_size;  /* bytes of scratch memory, at most ARUS_CONNECTION_LIMIT */
    uint32_t holdback_max;     /* most bytes of rest with ARUS_NEED_MORE, at most ARUS_HOLDBACK_LIMIT */
    uint32_t reserved;         /* 0; this version does not look at it */

    /* Reads the `config` text: config_len bytes, without a NUL among them but with one behind. It is gone after the call.
     * Sets *process to whatever the other functions shall get (it is NULL before), or writes a line of text that says
     * what is wrong, with its NUL, into error[error_size] (ARUS_ERROR_MAX bytes) and answers ARUS_ERROR: the reload fails
     * then, and everything stays as it was. `host` may be kept until process_close. Absent: any `config` is taken, *process is NULL. */
    int32_t (*process_open)(const arus_host *host, const char *config, size_t config_len, char *error,
                            size_t error_size, void **process);

    /* The end of what process_open opened; not called when that answered ARUS_ERROR. Everything else was closed. */
    void (*process_close)(void *process);

    /* As process_open, for shard number `shard`. Absent: `process` itself is given as `shard` to the functions below, on
     * all shards at the same time: then it must only be read. */
    int32_t (*shard_open)(void *process, uint32_t shard, char *error, size_t error_size, void **out);
    void (*shard_close)(void *shard);

    /* A connection begins: after the backend was reached, before the first byte. `scratch` is connection_size bytes, all
     * zero, aligned to 16 (NULL where the size is 0), the same for all calls of this connection. connection_close is
     * called exactly when this answered ARUS_OK or is absent. Answers: ARUS_OK, ARUS_BYPASS, ARUS_CLOSE, ARUS_RESET,
     * ARUS_ERROR. */
    int32_t (*connection_open)(void *shard, const arus_connection *connection, void *scratch);

    /* The connection has ended, or the plugin has detached from all of it; see ARUS_REASON_... Free here what `scratch`
     * points to. */
    void (*connection_close)(void *shard, void *scratch, uint32_t reason);

    /* A piece of one direction: see arus_io, the functions of arus_host, and the answers. Called when there is input, at
     * the end of the direction (ARUS_END), and after ARUS_MORE_OUTPUT. A direction is not called again after ARUS_DETACH,
     * or once ARUS_END was answered with anything but ARUS_MORE_OUTPUT; neither is, after ARUS_CLOSE, ARUS_RESET or a
     * fault. A direction that is cut (a reset, a time limit) has no ARUS_END. How a stream is cut into pieces means
     * nothing: the same bytes come in other pieces the next time. */
    int32_t (*data)(void *shard, void *scratch, arus_io *io);
} arus_plugin;

/* The one symbol. */
ARUS_EXTERN_C
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const arus_plugin *arus_plugin_v1(void);

#if defined(__cplusplus) && __cplusplus < 202002L
#define ARUS_PLUGIN_HEAD ARUS_PLUGIN_MAGIC, ARUS_ABI_MAJOR, ARUS_ABI_MINOR, (uint32_t)sizeof(arus_plugin)
#else
#define ARUS_PLUGIN_HEAD \
    .magic = ARUS_PLUGIN_MAGIC, .abi_major = ARUS_ABI_MAJOR, .abi_minor = ARUS_ABI_MINOR, \
    .size = (uint32_t)sizeof(arus_plugin)
#endif
/* Exports a table; stands once in a library, outside of functions, without a semicolon. */
#define ARUS_PLUGIN(table) \
    ARUS_EXTERN_C const arus_plugin *arus_plugin_v1(void) { return &(table); }
/* Whether a structure of arus's (host, io, connection) is new enough to have a member. */
#define ARUS_HAS(pointer, member) \
    ((pointer)->size >= (size_t)((const char *)&(pointer)->member - (const char *)(pointer)) + sizeof((pointer)->member))

/* ---- Wrappers: what to call -------------------------------------------------------------------------------------- */

static inline void arus_pass(arus_io *io, size_t n) { io->host->pass(io, n); }
static inline void arus_drop(arus_io *io, size_t n) { io->host->drop(io, n); }
static inline uint8_t *arus_rewrite(arus_io *io, size_t n) { return io->host->rewrite(io, n); }
static inline uint8_t *arus_reserve(arus_io *io, size_t n) { return io->host->reserve(io, n); }
static inline void arus_commit(arus_io *io, size_t n) { io->host->commit(io, n); }
static inline const char *arus_attribute(const arus_connection *connection, uint32_t attribute, size_t *len) {
    return connection->host->attribute(connection, attribute, len);
}
/* `text` ends with NUL. */
static inline void arus_log(const arus_host *host, uint32_t level, const char *text) {
    size_t len = 0;
    while (len < ARUS_LOG_MAX && text[len] != '\0') len++;
    host->log(host, level, text, len);
}
static inline int32_t arus_counter(const arus_host *host, const char *name, const char *help) {
    return host->counter(host, name, help);
}
static inline void arus_counter_add(const arus_host *host, int32_t counter, uint64_t n) {
    host->counter_add(host, counter, n);
}
static inline uint64_t arus_clock(const arus_host *host) { return host->clock(host); }

/* ---- The layout, fixed. src/plugin/ffi/ asserts the same numbers. ------------------------------------------------ */

#if defined(__cplusplus) && __cplusplus >= 201103L
#define ARUS_ASSERT(what, condition) static_assert(condition, #what);
#elif !defined(__cplusplus) && defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define ARUS_ASSERT(what, condition) _Static_assert(condition, #what);
#else
#define ARUS_ASSERT(what, condition) typedef char arus_assert_##what[(condition) ? 1 : -1];
#endif
#define ARUS_AT(type, member, offset) ARUS_ASSERT(type##_##member, offsetof(type, member) == (offset))
#define ARUS_SIZE(type, bytes) ARUS_ASSERT(type##_in_all, sizeof(type) == (bytes))

ARUS_ASSERT(lp64, sizeof(void *) == 8 && sizeof(size_t) == 8)

ARUS_AT(arus_connection, size, 0)
ARUS_AT(arus_connection, shard, 4)
ARUS_AT(arus_connection, host, 8)
ARUS_AT(arus_connection, session, 16)
ARUS_AT(arus_connection, generation, 32)
ARUS_SIZE(arus_connection, 40)

ARUS_AT(arus_io, size, 0)
ARUS_AT(arus_io, flags, 4)
ARUS_AT(arus_io, direction, 8)
ARUS_AT(arus_io, reserved, 12)
ARUS_AT(arus_io, input, 16)
ARUS_AT(arus_io, input_len, 24)
ARUS_AT(arus_io, host, 32)
ARUS_SIZE(arus_io, 40)

ARUS_AT(arus_host, size, 0)
ARUS_AT(arus_host, abi_major, 4)
ARUS_AT(arus_host, abi_minor, 6)
ARUS_AT(arus_host, version, 8)
ARUS_AT(arus_host, pass, 16)
ARUS_AT(arus_host, drop, 24)
ARUS_AT(arus_host, rewrite, 32)
ARUS_AT(arus_host, reserve, 40)
ARUS_AT(arus_host, commit, 48)
ARUS_AT(arus_host, attribute, 56)
ARUS_AT(arus_host, log, 64)
ARUS_AT(arus_host, counter, 72)
ARUS_AT(arus_host, counter_add, 80)
ARUS_AT(arus_host, clock, 88)
ARUS_SIZE(arus_host, 96)

ARUS_AT(arus_plugin, magic, 0)
ARUS_AT(arus_plugin, abi_major, 8)
ARUS_AT(arus_plugin, abi_minor, 10)
ARUS_AT(arus_plugin, size, 12)
ARUS_AT(arus_plugin, name, 16)
ARUS_AT(arus_plugin, version, 24)
ARUS_AT(arus_plugin, flags, 32)
ARUS_AT(arus_plugin, connection_size, 36)
ARUS_AT(arus_plugin, holdback_max, 40)
ARUS_AT(arus_plugin, reserved, 44)
ARUS_AT(arus_plugin, process_open, 48)
ARUS_AT(arus_plugin, process_close, 56)
ARUS_AT(arus_plugin, shard_open, 64)
ARUS_AT(arus_plugin, shard_close, 72)
ARUS_AT(arus_plugin, connection_open, 80)
ARUS_AT(arus_plugin, connection_close, 88)
ARUS_AT(arus_plugin, data, 96)
ARUS_SIZE(arus_plugin, 104)

#undef ARUS_ASSERT
#undef ARUS_AT
#undef ARUS_SIZE

#ifdef __cplusplus
}
#endif

#endif
