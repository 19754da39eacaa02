/*
 * driver.c: plays the part of arus for one plugin, so that the plugin can be run under AddressSanitizer, valgrind or a
 * debugger without anything else. It pushes seeded random bytes through both directions of a connection, cut at random,
 * and compares what comes out with what the same bytes give in the largest pieces. It is stricter than arus where that
 * finds mistakes: each piece of memory that it lends has exactly its size and is gone afterwards, consumed input is
 * overwritten, and room for output is refused at random.
 *
 *     cc -g -fsanitize=address,undefined -Ic_plugins tests/plugins/driver.c name.c -o driver
 *     ./driver CONFIG [SEED [ROUNDS]]
 *
 * Ends with 0, or with 1 and a line that says what the plugin did and in which round (SEED repeats it).
 */
#include "arus_plugin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_LIMIT 200000

static uint64_t round_seed;
static const arus_plugin *table;

#define FAIL(...)                                              \
    do {                                                       \
        fprintf(stderr, "driver: seed %" PRIu64 ": ", round_seed); \
        fprintf(stderr, __VA_ARGS__);                          \
        fputc('\n', stderr);                                   \
        exit(1);                                               \
    } while (0)

/* SplitMix64. */
static uint64_t below(uint64_t *random, uint64_t bound) {
    uint64_t mixed = *random += UINT64_C(0x9E3779B97F4A7C15);
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (mixed ^ (mixed >> 31)) % bound;
}

static void *lend(size_t n) {
    void *memory = malloc(n > 0 ? n : 1);
    if (memory == NULL) FAIL("out of memory");
    return memory;
}

/* Bytes that grow. */
struct bytes {
    uint8_t *at;
    size_t len, room;
};

static void append(struct bytes *bytes, const uint8_t *more, size_t n) {
    if (n == 0) return;
    if (bytes->len + n > bytes->room) {
        bytes->room = (bytes->len + n) * 2;
        bytes->at = realloc(bytes->at, bytes->room);
        if (bytes->at == NULL) FAIL("out of memory");
    }
    memcpy(bytes->at + bytes->len, more, n);
    bytes->len += n;
}

/* ---- The host ---- */

/* The call that is in progress; the plugin sees the first member. */
struct call {
    arus_io io;
    uint8_t *input;
    size_t len, used;
    struct bytes *output;
    uint8_t *changing, *reserved; /* lent by rewrite and by reserve */
    size_t changing_len, reserved_len;
    uint64_t *random; /* NULL: there is always room */
    int refused;      /* reserve gave NULL in this call */
    int may_refuse;
};

static struct call *current;
static arus_host host;
static char *counter_names[ARUS_COUNTERS_MAX];
static int counters, in_process_open;

/* Takes back what was lent. */
static void settle(struct call *call, int keep_reserved) {
    if (call->changing != NULL) append(call->output, call->changing, call->changing_len);
    free(call->changing);
    call->changing = NULL;
    if (keep_reserved) return;
    free(call->reserved);
    call->reserved = NULL;
}

static struct call *begin(arus_io *io, const char *what, size_t n, int consumes) {
    if (current == NULL || io != &current->io) FAIL("%s with an io that is not of this call", what);
    if (consumes && n > current->len - current->used) FAIL("%s of %zu bytes, more than is left", what, n);
    return current;
}

static void host_pass(arus_io *io, size_t n) {
    struct call *call = begin(io, "pass", n, 1);
    settle(call, 0);
    append(call->output, call->input + call->used, n);
    memset(call->input + call->used, 0xA5, n);
    call->used += n;
}

static void host_drop(arus_io *io, size_t n) {
    struct call *call = begin(io, "drop", n, 1);
    settle(call, 1);
    memset(call->input + call->used, 0xA5, n);
    call->used += n;
}

static uint8_t *host_rewrite(arus_io *io, size_t n) {
    struct call *call = begin(io, "rewrite", n, 1);
    settle(call, 0);
    call->changing = lend(n);
    call->changing_len = n;
    memcpy(call->changing, call->input + call->used, n);
    memset(call->input + call->used, 0xA5, n);
    call->used += n;
    return call->changing;
}

static uint8_t *host_reserve(arus_io *io, size_t n) {
    struct call *call = begin(io, "reserve", n, 0);
    settle(call, 0);
    if (n > ARUS_RESERVE_MAX) FAIL("reserve of %zu bytes", n);
    if (call->refused || (call->may_refuse && call->random != NULL && below(call->random, 4) == 0)) {
        call->refused = 1;
        return NULL;
    }
    call->may_refuse = 1; /* the first one of a call that follows a refusal succeeds */
    call->reserved = lend(n);
    call->reserved_len = n;
    return call->reserved;
}

static void host_commit(arus_io *io, size_t n) {
    struct call *call = begin(io, "commit", n, 0);
    settle(call, 1);
    if (call->reserved == NULL) FAIL("commit of %zu bytes without a reserve", n);
    if (n > call->reserved_len) FAIL("commit of %zu bytes of %zu reserved", n, call->reserved_len);
    append(call->output, call->reserved, n);
    settle(call, 0);
}

static char *attributes[16];

static const char *host_attribute(const arus_connection *connection, uint32_t attribute, size_t *len) {
    static const char *const texts[] = {NULL, "01923e4f-0000-7000-8000-000000000000", "192.0.2.7:51234",
                                        "192.0.2.7:51234", "driver", "192.0.2.1:80"};
    if (connection == NULL || connection->size != sizeof *connection) FAIL("attribute of no connection");
    *len = 0;
    if (attribute >= sizeof texts / sizeof *texts || texts[attribute] == NULL) return NULL;
    *len = strlen(texts[attribute]);
    if (attributes[attribute] == NULL) attributes[attribute] = lend(*len); /* no NUL behind it */
    return memcpy(attributes[attribute], texts[attribute], *len);
}

static void host_log(const arus_host *its, uint32_t level, const char *text, size_t len) {
    if (its != &host || level < ARUS_LOG_ERROR || level > ARUS_LOG_DEBUG) FAIL("log of level %u", level);
    if (getenv("DRIVER_VERBOSE")) fprintf(stderr, "plugin: %.*s\n", (int)len, text);
}

static int32_t host_counter(const arus_host *its, const char *name, const char *help) {
    if (its != &host || !in_process_open || help == NULL) FAIL("counter outside of process_open");
    size_t good = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
    if (name[0] < 'a' || name[0] > 'z' || name[good] != '\0') return -1;
    for (int i = 0; i < counters; i++)
        if (strcmp(counter_names[i], name) == 0) return i;
    if (counters == ARUS_COUNTERS_MAX || strlen(name) > ARUS_NAME_MAX) return -1;
    counter_names[counters] = memcpy(lend(strlen(name) + 1), name, strlen(name) + 1);
    return counters++;
}

static void host_counter_add(const arus_host *its, int32_t counter, uint64_t n) {
    (void)n;
    if (its != &host || in_process_open || counter < 0 || counter >= counters) FAIL("counter_add to counter %d", counter);
}

static uint64_t host_clock(const arus_host *its) {
    static uint64_t now;
    if (its != &host) FAIL("clock of no host");
    return now += 1000;
}

static arus_host host = {
    sizeof(arus_host), ARUS_ABI_MAJOR, ARUS_ABI_MINOR, "driver", host_pass, host_drop, host_rewrite, host_reserve,
    host_commit, host_attribute, host_log, host_counter, host_counter_add, host_clock,
};

/* ---- A connection ---- */

struct direction {
    const struct bytes *source;
    size_t given;        /* of the source */
    struct bytes rest;   /* was not consumed, and comes again */
    struct bytes output;
    int again;           /* the last answer was MORE_OUTPUT */
    int idle;
    int detached, ended;
    int refused;
};

struct connection {
    void *shard, *scratch;
    struct direction directions[2];
    int closed; /* -1, or the direction that answered CLOSE or RESET */
};

static void free_direction(struct direction *direction) {
    free(direction->rest.at);
    free(direction->output.at);
}

/* One data call with up to `piece` new bytes. */
static void push(struct connection *connection, int way, size_t piece, uint64_t *random) {
    struct direction *direction = &connection->directions[way];
    size_t left = direction->source->len - direction->given;
    if (direction->again) piece = 0;
    if (piece > left) piece = left;
    append(&direction->rest, direction->source->at + direction->given, piece);
    direction->given += piece;
    size_t len = direction->rest.len;
    int end = direction->given == direction->source->len;

    struct call call = {0};
    call.input = lend(len);
    call.len = len;
    if (len > 0) memcpy(call.input, direction->rest.at, len);
    call.output = &direction->output;
    call.random = random;
    call.may_refuse = !direction->refused;
    arus_io io = {sizeof io, end ? ARUS_END : 0, way ? ARUS_DOWN : ARUS_UP, 0, call.input, len, &host};
    call.io = io;
    size_t output_before = direction->output.len;
    current = &call;
    int32_t answer = table->data(connection->shard, connection->scratch, &call.io);
    current = NULL;
    settle(&call, 0);
    if (memcmp(&io, &call.io, sizeof io) != 0) FAIL("the plugin wrote to io");
    size_t rest = len - call.used;
    for (size_t i = 0; i < rest; i++)
        if (call.input[call.used + i] != direction->rest.at[call.used + i]) FAIL("the plugin changed its input");
    if (rest > 0) memmove(direction->rest.at, direction->rest.at + call.used, rest);
    direction->rest.len = rest;
    free(call.input);

    int idle = call.used == 0 && direction->output.len == output_before && !call.refused;
    direction->again = answer == ARUS_MORE_OUTPUT;
    direction->refused = call.refused;
    direction->idle = direction->again && idle ? direction->idle + 1 : 0;
    if (direction->idle >= ARUS_IDLE_CALLS_MAX) FAIL("the plugin never progresses");
    switch (answer) {
    case ARUS_OK:
    case ARUS_NEED_MORE:
        if (rest > 0 && answer == ARUS_OK) FAIL("OK with a rest of %zu bytes", rest);
        if (rest > 0 && end) FAIL("a rest of %zu bytes at the end", rest);
        if (rest > table->holdback_max) FAIL("a rest of %zu bytes, holdback_max is %u", rest, table->holdback_max);
        direction->ended = end;
        break;
    case ARUS_MORE_OUTPUT: break;
    case ARUS_DETACH:
        append(&direction->output, direction->rest.at, rest);
        append(&direction->output, direction->source->at + direction->given, direction->source->len - direction->given);
        direction->detached = 1;
        break;
    case ARUS_CLOSE:
    case ARUS_RESET: connection->closed = way; break;
    default: FAIL("the plugin answered %d", answer);
    }
}

static void open_connection(struct connection *connection, void *shard, const struct bytes *inputs) {
    memset(connection, 0, sizeof *connection);
    connection->shard = shard;
    connection->closed = -1;
    for (int way = 0; way < 2; way++) {
        connection->directions[way].source = &inputs[way];
        connection->directions[way].detached = !(table->flags & (way ? ARUS_DOWN : ARUS_UP));
    }
    size_t size = table->connection_size;
    if (size > 0) connection->scratch = memset(lend(size), 0, size);
    if (table->connection_open != NULL) {
        arus_connection *facts = memset(lend(sizeof *facts), 0, sizeof *facts);
        facts->size = sizeof *facts;
        facts->host = &host;
        int32_t answer = table->connection_open(shard, facts, connection->scratch);
        free(facts);
        for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
            free(attributes[i]);
            attributes[i] = NULL;
        }
        if (answer != ARUS_OK) FAIL("connection_open answered %d", answer);
    }
}

static void close_connection(struct connection *connection) {
    uint32_t reason = connection->closed < 0 ? ARUS_REASON_ENDED : ARUS_REASON_CUT;
    if (table->connection_close != NULL) table->connection_close(connection->shard, connection->scratch, reason);
    free(connection->scratch);
    free_direction(&connection->directions[0]);
    free_direction(&connection->directions[1]);
}

static int is_over(const struct direction *direction) {
    return direction->detached || direction->ended;
}

/* ---- What is pushed through ---- */

/* Random bytes, or text, or beginnings of the text that the configuration names. */
static void make_input(struct bytes *bytes, const char *config, uint64_t *random) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ@[`{ \n\n.,";
    const char *colon = strrchr(config, ':');
    const char *word = colon != NULL ? colon + 1 : config;
    size_t word_len = strlen(word), len = (size_t)below(random, below(random, 3) == 0 ? INPUT_LIMIT : 3000);
    uint64_t kind = below(random, 3);
    bytes->len = 0;
    while (bytes->len < len) {
        uint8_t byte = (uint8_t)below(random, 256);
        if (kind == 1 || (kind == 2 && byte < 100)) byte = (uint8_t)letters[below(random, sizeof letters - 1)];
        append(bytes, &byte, 1);
        /* Rarely all of it: most inputs shall go on. */
        if (kind == 2 && word_len > 0 && below(random, 8) == 0)
            append(bytes, (const uint8_t *)word, (size_t)below(random, word_len + (below(random, 500) == 0)));
    }
}

static void compare(const struct direction *found, const struct bytes *expected, int way, int whole) {
    size_t len = found->output.len;
    if (len > expected->len || (whole && len != expected->len))
        FAIL("direction %d: %zu bytes came out, and %zu in one piece", way, len, expected->len);
    for (size_t i = 0; i < len; i++)
        if (found->output.at[i] != expected->at[i]) FAIL("direction %d: byte %zu differs from that in one piece", way, i);
}

static void one_round(void *shard, const char *config) {
    uint64_t random = round_seed;
    struct bytes inputs[2] = {{0}, {0}};
    struct connection whole[2], pieces;
    for (int way = 0; way < 2; way++) make_input(&inputs[way], config, &random);
    /* Each direction by itself, in the largest pieces that arus gives. */
    for (int way = 0; way < 2; way++) {
        open_connection(&whole[way], shard, inputs);
        struct direction *direction = &whole[way].directions[way];
        while (!is_over(direction) && whole[way].closed < 0) push(&whole[way], way, ARUS_INPUT_MAX, NULL);
    }
    /* Both at once, cut at random: single bytes, some, or many. */
    open_connection(&pieces, shard, inputs);
    uint64_t largest = below(&random, 3) == 0 ? 3 : below(&random, 2) == 0 ? 100 : ARUS_INPUT_MAX;
    while (pieces.closed < 0 && (!is_over(&pieces.directions[0]) || !is_over(&pieces.directions[1]))) {
        int way = (int)below(&random, 2);
        if (!is_over(&pieces.directions[way])) push(&pieces, way, (size_t)below(&random, largest) + 1, &random);
    }
    for (int way = 0; way < 2; way++) {
        /* A close in one direction may come at any time for the other. */
        int complete = pieces.closed < 0 || pieces.closed == way;
        if (pieces.closed == way && whole[way].closed < 0) FAIL("direction %d: closed only when cut", way);
        if (pieces.closed < 0 && whole[way].closed >= 0) FAIL("direction %d: closed only in one piece", way);
        if (table->flags & (way ? ARUS_DOWN : ARUS_UP))
            compare(&pieces.directions[way], &whole[way].directions[way].output, way, complete);
    }
    close_connection(&pieces);
    for (int way = 0; way < 2; way++) {
        close_connection(&whole[way]);
        free(inputs[way].at);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: driver CONFIG [SEED [ROUNDS]]\n");
        return 2;
    }
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    uint64_t rounds = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;
    char error[256] = "";
    void *process = NULL, *shard;
    table = arus_plugin_v1();
    if (table->magic != ARUS_PLUGIN_MAGIC || table->size != sizeof *table || table->data == NULL) FAIL("a wrong table");
    char *config = memcpy(lend(strlen(argv[1]) + 1), argv[1], strlen(argv[1]) + 1);
    in_process_open = 1;
    int32_t opened = ARUS_OK;
    if (table->process_open != NULL)
        opened = table->process_open(&host, config, strlen(config), error, sizeof error, &process);
    if (opened != ARUS_OK) FAIL("process_open: %.*s", (int)sizeof error, error);
    in_process_open = 0;
    free(config); /* gone after the call */
    shard = process;
    if (table->shard_open != NULL && table->shard_open(process, 0, error, sizeof error, &shard) != ARUS_OK)
        FAIL("shard_open: %.*s", (int)sizeof error, error);
    for (uint64_t i = 0; i < rounds; i++) {
        round_seed = seed + i;
        one_round(shard, argv[1]);
    }
    if (table->shard_open != NULL && table->shard_close != NULL) table->shard_close(shard);
    if (table->process_close != NULL) table->process_close(process);
    for (int i = 0; i < counters; i++) free(counter_names[i]);
    printf("ok: %" PRIu64 " rounds\n", rounds);
    return 0;
}
