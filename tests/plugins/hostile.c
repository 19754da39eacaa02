/*
 * hostile.c: a plugin that does what plugins should not, and some unusual things that they may. The table is in order
 * (table.c has those that are not); `config` chooses the behaviour:
 *
 *     NAME[:NUMBER][@TRIGGER]
 *
 * With a TRIGGER the behaviour waits for a piece that contains this text, and passes what comes before; the behaviours
 * and what NUMBER means to them are in the list at the end.
 */
#define _POSIX_C_SOURCE 200809L
#include "arus_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LINE_MAX_BYTES 4096
#ifndef LETTER /* two libraries that can be told apart: -DLETTER='B' */
#define LETTER 'A'
#endif
#define GROWTH 100
#define CANARY 16

struct hostile;
struct connection;
typedef int32_t behaviour(const struct hostile *hostile, struct connection *connection, arus_io *io);

struct hostile {
    const arus_host *host;
    behaviour *act;
    char name[64];
    uint64_t number; /* 0 where there is none */
    size_t trigger_len;
    char trigger[64];
    int32_t calls; /* a counter */
};

struct connection {
    uint8_t head[CANARY];
    uint64_t calls[2], bytes[2];
    arus_io *io; /* of the last call */
    uint8_t tail[CANARY];
};

static int way(const arus_io *io) {
    return io->direction == ARUS_DOWN;
}

static int32_t pass(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    arus_pass(io, io->input_len);
    return ARUS_OK;
}

/* ---- Numbers that are lies ---- */

static int32_t pass_too_much(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    arus_pass(io, io->input_len + 1);
    return ARUS_OK;
}

static int32_t pass_twice(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    pass(hostile, connection, io);
    arus_pass(io, SIZE_MAX); /* input_len - consumed + SIZE_MAX must not wrap */
    return ARUS_OK;
}

static int32_t drop_too_much(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    arus_drop(io, SIZE_MAX);
    return ARUS_OK;
}

static int32_t rewrite_too_much(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    uint8_t *bytes = arus_rewrite(io, io->input_len + 1);
    if (bytes != NULL) memset(bytes, 'x', io->input_len + 1);
    return pass(hostile, connection, io);
}

static int32_t commit_too_much(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    uint8_t *bytes = arus_reserve(io, 10);
    if (bytes != NULL) memset(bytes, 'x', 10);
    arus_commit(io, 11);
    return pass(hostile, connection, io);
}

static int32_t commit_without_reserve(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    arus_commit(io, 1);
    return pass(hostile, connection, io);
}

static int32_t commit_twice(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    uint8_t *bytes = arus_reserve(io, 10);
    if (bytes != NULL) memset(bytes, 'x', 10);
    arus_commit(io, 5);
    arus_commit(io, 5);
    return pass(hostile, connection, io);
}

static int32_t commit_after_pass(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    uint8_t *bytes = arus_reserve(io, 10);
    if (bytes != NULL) memset(bytes, 'x', 10);
    pass(hostile, connection, io);
    arus_commit(io, 10);
    return ARUS_OK;
}

static int32_t reserve_gigabytes(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    uint8_t *bytes = arus_reserve(io, (size_t)4 << 30);
    if (bytes != NULL) memset(bytes, 'x', (size_t)4 << 30);
    return pass(hostile, connection, io);
}

/* ---- Answers that are wrong ---- */

static int32_t answer(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    pass(hostile, connection, io);
    return (int32_t)hostile->number;
}

static int32_t negative(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    pass(hostile, connection, io);
    return INT32_MIN;
}

static int32_t leave_a_rest(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    arus_pass(io, io->input_len / 2);
    return ARUS_OK;
}

static int32_t hold_everything(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    (void)io;
    return ARUS_NEED_MORE;
}

static int32_t never_progress(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    (void)io;
    return ARUS_MORE_OUTPUT;
}

static int32_t pretend_progress(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    if (arus_reserve(io, 100) != NULL) arus_commit(io, 0);
    arus_pass(io, 0);
    arus_drop(io, 0);
    return ARUS_MORE_OUTPUT;
}

/* ERROR at the call with this number. */
static int32_t error_at(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    if (connection->calls[way(io)] >= hostile->number) return ARUS_ERROR;
    return pass(hostile, connection, io);
}

/* A mark behind each piece: how the stream is cut can be seen from outside. */
static int32_t mark_pieces(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    uint8_t *bytes = arus_reserve(io, 1);
    if (bytes == NULL) return ARUS_MORE_OUTPUT;
    *bytes = '|';
    arus_commit(io, 1);
    return pass(hostile, connection, io);
}

static int32_t close_now(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    uint8_t *bytes = arus_reserve(io, 4);
    if (bytes == NULL) return ARUS_MORE_OUTPUT;
    memcpy(bytes, "bye\n", 4);
    arus_commit(io, 4);
    return ARUS_CLOSE;
}

static int32_t reset_now(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    pass(hostile, connection, io);
    return ARUS_RESET;
}

/* ---- Pointers that are wrong ---- */

static int32_t write_to_io(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    size_t len = io->input_len;
    io->input_len = SIZE_MAX;
    io->input = NULL;
    io->direction = 77;
    arus_pass(io, len);
    arus_pass(io, (size_t)1 << 40);
    return ARUS_OK;
}

static int32_t foreign_io(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    arus_io own = *io;
    arus_pass(&own, 1);
    return pass(hostile, connection, io);
}

static int32_t no_io(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    io->host->pass(NULL, 1);
    io->host->commit(NULL, 1);
    return pass(hostile, connection, io);
}

/* NULL wherever arus expects text, and numbers that it never gave. */
static int32_t bad_arguments(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    io->host->log(io->host, 99, NULL, 1000);
    io->host->log(NULL, ARUS_LOG_INFO, "\033[31mred\r\nsecond line", 20);
    arus_counter_add(io->host, -1, 1);
    arus_counter_add(io->host, 1000000, 1);
    arus_counter(io->host, "late", "not now");
    size_t len = 1;
    io->host->attribute(NULL, ARUS_ATTRIBUTE_CLIENT, &len);
    return pass(hostile, connection, io);
}

/* ---- Time and noise ---- */

/* For so many milliseconds. */
static int32_t hang(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    struct timespec span = {(time_t)(hostile->number / 1000), (long)(hostile->number % 1000) * 1000000};
    nanosleep(&span, NULL);
    return pass(hostile, connection, io);
}

/* Works instead of sleeping. */
static int32_t spin(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    const uint64_t end = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + hostile->number;
    do clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    while ((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 < end);
    return pass(hostile, connection, io);
}

static int32_t log_flood(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    for (uint64_t i = 0; i < hostile->number; i++) arus_log(io->host, ARUS_LOG_WARN, "flood");
    return pass(hostile, connection, io);
}

/* ---- Crashes ---- */

static int32_t crash(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    static volatile uintptr_t nowhere = 16; /* so that the compiler does not see it */
    *(volatile int *)nowhere = 1;
    return pass(hostile, connection, io);
}

static int32_t divide(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    static volatile int zero;
    if (7 / zero == 1) return ARUS_ERROR;
    return pass(hostile, connection, io);
}

static int32_t abort_now(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    abort();
    return pass(hostile, connection, io);
}

static int32_t recurse(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    volatile char frame[512]; /* smaller than the guard page, which must not be jumped over */
    frame[0] = (char)io->input_len;
    if (hostile == NULL) return frame[0]; /* never */
    return recurse(hostile, connection, io) + frame[0]; /* the end of the stack */
}

/* ---- Unusual, and allowed ---- */

/* Each byte 100 times. */
static int32_t grow(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    for (size_t at = 0; at < io->input_len; at++) {
        uint8_t *bytes = arus_reserve(io, GROWTH);
        if (bytes == NULL) return ARUS_MORE_OUTPUT;
        memset(bytes, io->input[at], GROWTH);
        arus_commit(io, GROWTH);
        arus_drop(io, 1);
    }
    return ARUS_OK;
}

static int32_t shrink(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    arus_drop(io, io->input_len);
    return ARUS_OK;
}

/* Every other byte, by place in the stream, in calls of the smallest pieces. */
static int32_t halve(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    for (size_t at = 0; at < io->input_len; at++) {
        if (connection->bytes[way(io)]++ % 2 == 0) arus_pass(io, 1);
        else arus_drop(io, 1);
    }
    return ARUS_OK;
}

/* At the end, NUMBER bytes more: "0123456789012..." */
static int32_t trailer(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    uint64_t *done = &connection->bytes[way(io)];
    pass(hostile, connection, io);
    if (!(io->flags & ARUS_END)) return ARUS_OK;
    while (*done < hostile->number) {
        size_t n = hostile->number - *done < 1000 ? (size_t)(hostile->number - *done) : 1000;
        uint8_t *bytes = arus_reserve(io, n);
        if (bytes == NULL) return ARUS_MORE_OUTPUT;
        for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)('0' + (*done + i) % 10);
        arus_commit(io, n);
        *done += n;
    }
    return ARUS_OK;
}

/* At the end, output without an end. */
static int32_t flood(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    uint8_t *bytes;
    pass(hostile, connection, io);
    if (!(io->flags & ARUS_END)) return ARUS_OK;
    while ((bytes = arus_reserve(io, ARUS_RESERVE_MAX)) != NULL) {
        memset(bytes, 'f', ARUS_RESERVE_MAX);
        arus_commit(io, ARUS_RESERVE_MAX);
    }
    return ARUS_MORE_OUTPUT;
}

/* Reverses each line (its LF stays behind it); longer ones in parts of LINE_MAX_BYTES. The beginning of a line is held
 * back until its end is there. */
static int32_t reverse(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    const uint8_t *at = io->input, *end = io->input + io->input_len;
    while (at < end) {
        size_t left = (size_t)(end - at), most = left < LINE_MAX_BYTES ? left : LINE_MAX_BYTES;
        const uint8_t *line_end = memchr(at, '\n', most);
        if (line_end == NULL && left < LINE_MAX_BYTES && !(io->flags & ARUS_END)) return ARUS_NEED_MORE;
        size_t len = line_end != NULL ? (size_t)(line_end - at) : most;
        size_t all = len + (line_end != NULL);
        uint8_t *bytes = arus_reserve(io, all);
        if (bytes == NULL) return ARUS_MORE_OUTPUT;
        for (size_t i = 0; i < len; i++) bytes[i] = at[len - 1 - i];
        if (line_end != NULL) bytes[len] = '\n';
        arus_commit(io, all);
        arus_drop(io, all);
        at += all;
    }
    return ARUS_OK;
}

/* Letters become capital letters in the first NUMBER bytes; then it detaches. */
static int32_t detach(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    uint64_t *seen = &connection->bytes[way(io)];
    uint64_t left = hostile->number - *seen;
    size_t n = io->input_len < left ? io->input_len : (size_t)left;
    uint8_t *bytes = n > 0 ? arus_rewrite(io, n) : NULL;
    for (size_t i = 0; i < n; i++)
        if (bytes[i] >= 'a' && bytes[i] <= 'z') bytes[i] = (uint8_t)(bytes[i] - 32);
    *seen += n;
    return *seen == hostile->number ? ARUS_DETACH : ARUS_OK;
}

/* Each byte becomes a letter that tells which library this is. */
static int32_t letter(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    (void)hostile;
    (void)connection;
    uint8_t *bytes = arus_rewrite(io, io->input_len);
    if (bytes != NULL) memset(bytes, LETTER, io->input_len);
    return ARUS_OK;
}

/* Writes all over its scratch memory, and looks whether that stays. The pattern is another for each connection. */
static int32_t scratch(const struct hostile *hostile, struct connection *connection, arus_io *io) {
    for (int i = 0; i < CANARY; i++)
        if (connection->head[i] != connection->tail[CANARY - 1 - i]) return ARUS_ERROR;
    for (int i = 0; i < CANARY; i++) connection->head[i]++;
    for (int i = 0; i < CANARY; i++) connection->tail[CANARY - 1 - i] = connection->head[i];
    return pass(hostile, connection, io);
}

/* What `config` may name. The last ones behave in the functions that open something. */
static const struct {
    const char *name;
    behaviour *act;
} behaviours[] = {
    {"pass", pass},
    {"pass-too-much", pass_too_much},
    {"pass-twice", pass_twice},
    {"drop-too-much", drop_too_much},
    {"rewrite-too-much", rewrite_too_much},
    {"commit-too-much", commit_too_much},
    {"commit-without-reserve", commit_without_reserve},
    {"commit-twice", commit_twice},
    {"commit-after-pass", commit_after_pass},
    {"reserve-gigabytes", reserve_gigabytes},
    {"answer", answer},                     /* NUMBER: the answer */
    {"negative", negative},
    {"leave-a-rest", leave_a_rest},
    {"hold-everything", hold_everything},
    {"never-progress", never_progress},
    {"pretend-progress", pretend_progress},
    {"error", error_at},                    /* NUMBER: of the call, from 1 */
    {"mark-pieces", mark_pieces},
    {"close", close_now},
    {"reset", reset_now},
    {"write-to-io", write_to_io},
    {"foreign-io", foreign_io},
    {"no-io", no_io},
    {"bad-arguments", bad_arguments},
    {"hang", hang},                         /* NUMBER: milliseconds */
    {"spin", spin},                         /* NUMBER: milliseconds of CPU */
    {"log-flood", log_flood},               /* NUMBER: lines in each call */
    {"crash", crash},
    {"divide", divide},
    {"abort", abort_now},
    {"recurse", recurse},
    {"grow", grow},
    {"shrink", shrink},
    {"halve", halve},
    {"trailer", trailer},                   /* NUMBER: bytes */
    {"flood", flood},
    {"reverse", reverse},
    {"detach", detach},                     /* NUMBER: bytes */
    {"letter", letter},
    {"scratch", scratch},
    {"open-error", pass},                   /* fills the whole error text, without a NUL */
    {"open-error-control", pass},           /* an error text that plays with the terminal */
    {"open-error-empty", pass},             /* no error text */
    {"open-rubbish", pass},                 /* process_open answers 42 */
    {"open-hang", pass},                    /* NUMBER: milliseconds in process_open */
    {"open-counters", pass},                /* more counters, and worse names, than there may be */
    {"open-crash", pass},
    {"shard-error", pass},                  /* NUMBER: of the shard */
    {"shard-rubbish", pass},
    {"connection", pass},                   /* NUMBER: what connection_open answers */
    {"connection-crash", pass},
    {"close-crash", pass},                  /* in connection_close */
    {"late-pass", pass},                    /* calls pass in connection_close with the io of the last call */
};

static int is(const struct hostile *hostile, const char *name) {
    return strcmp(hostile->name, name) == 0;
}

static int32_t open_counters(const arus_host *host) {
    static const char *const bad[] = {"", "9lives", "Upper", "has space", "has-dash", "x{y=\"z\"}", "a\nb", "\xc3\xa9"};
    char name[ARUS_NAME_MAX + 2];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (arus_counter(host, bad[i], "bad") != -1) return ARUS_ERROR;
    memset(name, 'a', sizeof name);
    name[sizeof name - 1] = '\0';
    if (arus_counter(host, name, "too long") != -1) return ARUS_ERROR;
    int32_t first = arus_counter(host, "number_0", "a \"quoted\\ help\"\nin two lines");
    if (first < 0 || arus_counter(host, "number_0", "again") != first) return ARUS_ERROR;
    for (int i = 0; i < 2 * ARUS_COUNTERS_MAX; i++) {
        snprintf(name, sizeof name, "number_%d", i);
        arus_counter(host, name, "one of many");
    }
    return arus_counter(host, "one_more", "") == -1 ? ARUS_OK : ARUS_ERROR;
}

static int32_t open_behaviour(const struct hostile *hostile, char *error, size_t error_size) {
    if (is(hostile, "open-error")) memset(error, 'x', error_size);
    if (is(hostile, "open-error-control")) snprintf(error, error_size, "\033[31mred\r\nproxy.toml:1:1: a lie");
    if (strncmp(hostile->name, "open-error", 10) == 0) return ARUS_ERROR;
    if (is(hostile, "open-rubbish")) return 42;
    if (is(hostile, "open-hang")) hang(hostile, NULL, &(arus_io){.host = hostile->host});
    if (is(hostile, "open-crash")) crash(hostile, NULL, NULL);
    if (is(hostile, "open-counters") && open_counters(hostile->host) != ARUS_OK) {
        snprintf(error, error_size, "a counter is not as the header says");
        return ARUS_ERROR;
    }
    return ARUS_OK;
}

static int32_t process_open(const arus_host *host, const char *config, size_t config_len, char *error,
                            size_t error_size, void **process) {
    struct hostile *hostile = calloc(1, sizeof *hostile);
    if (hostile == NULL) return ARUS_ERROR;
    size_t name_len = strcspn(config, ":@");
    const char *trigger = memchr(config, '@', config_len);
    if (name_len < sizeof hostile->name) memcpy(hostile->name, config, name_len);
    if (config[name_len] == ':') hostile->number = strtoull(config + name_len + 1, NULL, 10);
    if (trigger != NULL) snprintf(hostile->trigger, sizeof hostile->trigger, "%s", trigger + 1);
    hostile->trigger_len = strlen(hostile->trigger);
    hostile->host = host;
    for (size_t i = 0; i < sizeof behaviours / sizeof *behaviours; i++)
        if (is(hostile, behaviours[i].name)) hostile->act = behaviours[i].act;
    hostile->calls = arus_counter(host, "calls", "Calls of data");
    int32_t opened = ARUS_ERROR;
    if (hostile->act == NULL) snprintf(error, error_size, "no behaviour is called %s", config);
    else opened = open_behaviour(hostile, error, error_size);
    if (opened != ARUS_OK) {
        free(hostile);
        return opened;
    }
    *process = hostile;
    return ARUS_OK;
}

static void process_close(void *process) {
    free(process);
}

/* A copy for each shard, so that there is something to lose. */
static int32_t shard_open(void *process, uint32_t shard, char *error, size_t error_size, void **out) {
    const struct hostile *hostile = process;
    if (is(hostile, "shard-error") && shard == hostile->number) {
        snprintf(error, error_size, "shard %u is not to my liking", shard);
        return ARUS_ERROR;
    }
    if (is(hostile, "shard-rubbish")) return -7;
    struct hostile *own = malloc(sizeof *own);
    if (own == NULL) return ARUS_ERROR;
    *own = *hostile;
    *out = own;
    return ARUS_OK;
}

static void shard_close(void *shard) {
    memset(shard, 0xDB, sizeof(struct hostile)); /* whoever uses it afterwards finds out */
    free(shard);
}

static int32_t connection_open(void *shard, const arus_connection *facts, void *memory) {
    const struct hostile *hostile = shard;
    struct connection *connection = memory;
    const uint8_t *bytes = memory;
    if ((uintptr_t)memory % 16 != 0) return ARUS_ERROR;
    for (size_t i = 0; i < sizeof *connection; i++)
        if (bytes[i] != 0) return ARUS_ERROR;
    memcpy(connection->head, facts->session, CANARY);
    for (int i = 0; i < CANARY; i++) connection->tail[CANARY - 1 - i] = connection->head[i];
    if (is(hostile, "connection-crash")) crash(hostile, NULL, NULL);
    return is(hostile, "connection") ? (int32_t)hostile->number : ARUS_OK;
}

static void connection_close(void *shard, void *memory, uint32_t reason) {
    const struct hostile *hostile = shard;
    struct connection *connection = memory;
    char line[64];
    if (is(hostile, "close-crash")) crash(hostile, NULL, NULL);
    if (is(hostile, "late-pass")) hostile->host->pass(connection->io, 1);
    snprintf(line, sizeof line, "closed for reason %u", reason);
    arus_log(hostile->host, ARUS_LOG_DEBUG, line);
    memset(memory, 0xDB, sizeof *connection); /* the next connection must find zeros again */
}

static int contains(const arus_io *io, const char *text, size_t len) {
    for (size_t at = 0; at + len <= io->input_len; at++)
        if (memcmp(io->input + at, text, len) == 0) return 1;
    return 0;
}

static int32_t data(void *shard, void *memory, arus_io *io) {
    const struct hostile *hostile = shard;
    struct connection *connection = memory;
    connection->calls[way(io)]++;
    connection->io = io;
    arus_counter_add(io->host, hostile->calls, 1);
    int waits = hostile->trigger_len > 0 && !contains(io, hostile->trigger, hostile->trigger_len);
    if (waits) return pass(hostile, connection, io);
    return hostile->act(hostile, connection, io);
}

static const arus_plugin plugin = {
    ARUS_PLUGIN_HEAD,
    .name = "hostile",
    .version = "1.0",
    .flags = ARUS_UP | ARUS_DOWN,
    .connection_size = sizeof(struct connection),
    .holdback_max = LINE_MAX_BYTES - 1,
    .process_open = process_open,
    .process_close = process_close,
    .shard_open = shard_open,
    .shard_close = shard_close,
    .connection_open = connection_open,
    .connection_close = connection_close,
    .data = data,
};
ARUS_PLUGIN(plugin)
