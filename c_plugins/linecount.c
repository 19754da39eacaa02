/*
 * linecount.c: counts lines, and changes nothing.
 *
 *     config = ""          counts all lines of both directions
 *     config = "65536"     only those in the first 65536 bytes of each direction; then it detaches, and the rest of the
 *                          connection costs nothing: arus goes to its fastest path
 *
 *     arus plugin run c_plugins/linecount.so --config "" --verbose <in >/dev/null
 *
 * The counters lines_up and lines_down appear in `arus status --json`. With the log level `debug`, each
 * connection says at its end how many lines it had.
 *
 * What it shows: looking without touching, detaching, counters, attributes of a connection, opening and closing one.
 */
#include "arus_plugin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Made by process_open, and only read after that: all shards may share it. */
struct settings {
    const arus_host *host;
    uint64_t look_at; /* bytes of each direction; the largest number means all */
    int32_t counters[2];
};

/* The scratch memory of a connection; all zero at first. */
struct connection {
    char client[64];
    uint64_t seen[2];
    uint64_t lines[2];
};

/* Reads a decimal number that fills the text. */
static int parse(const char *text, uint64_t *number) {
    if (*text == '\0') return 0;
    for (*number = 0; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || *number > (UINT64_MAX - 9) / 10) return 0;
        *number = *number * 10 + (uint64_t)(*text - '0');
    }
    return 1;
}

static int32_t process_open(const arus_host *host, const char *config, size_t config_len, char *error,
                            size_t error_size, void **process) {
    uint64_t look_at = UINT64_MAX;
    if (config_len > 0 && !parse(config, &look_at)) {
        snprintf(error, error_size, "config is a number of bytes, or empty");
        return ARUS_ERROR;
    }
    struct settings *settings = calloc(1, sizeof *settings);
    if (settings == NULL) {
        snprintf(error, error_size, "out of memory");
        return ARUS_ERROR;
    }
    settings->host = host;
    settings->look_at = look_at;
    settings->counters[0] = arus_counter(host, "lines_up", "Line ends from clients");
    settings->counters[1] = arus_counter(host, "lines_down", "Line ends from backends");
    *process = settings;
    return ARUS_OK;
}

static void process_close(void *process) {
    free(process);
}

static int32_t connection_open(void *shard, const arus_connection *facts, void *scratch) {
    (void)shard;
    struct connection *connection = scratch;
    size_t len;
    const char *client = arus_attribute(facts, ARUS_ATTRIBUTE_CLIENT, &len);
    /* No NUL is behind it, and it is gone after this call: copy it. */
    if (len >= sizeof connection->client) len = sizeof connection->client - 1;
    if (client != NULL) memcpy(connection->client, client, len);
    return ARUS_OK;
}

static void connection_close(void *shard, void *scratch, uint32_t reason) {
    const struct settings *settings = shard;
    const struct connection *connection = scratch;
    char line[160];
    snprintf(line, sizeof line, "%s: %" PRIu64 " lines up, %" PRIu64 " down%s", connection->client,
             connection->lines[0], connection->lines[1], reason == ARUS_REASON_DETACHED ? ", and more not counted" : "");
    arus_log(settings->host, ARUS_LOG_DEBUG, line);
}

static uint64_t count_lines(const uint8_t *bytes, size_t n) {
    uint64_t lines = 0;
    const uint8_t *end = bytes + n;
    while (bytes < end && (bytes = memchr(bytes, '\n', (size_t)(end - bytes))) != NULL) {
        lines++;
        bytes++;
    }
    return lines;
}

static int32_t data(void *shard, void *scratch, arus_io *io) {
    const struct settings *settings = shard; /* without shard_open, what process_open made */
    struct connection *connection = scratch;
    int way = io->direction == ARUS_DOWN;

    uint64_t left = settings->look_at - connection->seen[way];
    size_t n = io->input_len < left ? io->input_len : (size_t)left;
    uint64_t lines = count_lines(io->input, n);
    connection->seen[way] += n;
    connection->lines[way] += lines;
    arus_counter_add(io->host, settings->counters[way], lines);

    if (connection->seen[way] == settings->look_at) return ARUS_DETACH; /* all that was not passed passes by itself */
    arus_pass(io, io->input_len);
    return ARUS_OK;
}

static const arus_plugin plugin = {
    ARUS_PLUGIN_HEAD,
    .name = "linecount",
    .version = "1.0",
    .flags = ARUS_UP | ARUS_DOWN,
    .connection_size = sizeof(struct connection),
    .process_open = process_open,
    .process_close = process_close,
    .connection_open = connection_open,
    .connection_close = connection_close,
    .data = data,
};
ARUS_PLUGIN(plugin)
