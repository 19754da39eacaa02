/* Every behaviour that the unit tests of src/plugin need; `config` says which. */
#include "arus_plugin.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { char what[32]; long n; const arus_host *host; int32_t bytes; } process;
typedef struct { uint64_t seen[2]; uint64_t canary; } scratch;

static int is(const process *p, const char *what) { return strcmp(p->what, what) == 0; }

static int32_t process_open(const arus_host *host, const char *config, size_t len, char *error, size_t error_size,
                            void **out) {
    process *p = calloc(1, sizeof *p);
    size_t word = strcspn(config, ":");
    if (word >= sizeof p->what || strlen(config) != len) return ARUS_ERROR;
    memcpy(p->what, config, word);
    if (config[word]) p->n = atol(config + word + 1);
    p->host = host;
    p->bytes = arus_counter(host, "bytes", "Bytes seen");
    arus_log(host, ARUS_LOG_INFO, "opened\nwith a \x1b[31mtrick");
    *out = p;
    if (is(p, "open-error")) { strcpy(error, "no such\nmode"); return ARUS_ERROR; }
    if (is(p, "open-long-error")) { memset(error, 'x', error_size); return ARUS_ERROR; }
    if (is(p, "open-rubbish")) return 77;
    return ARUS_OK;
}

static void process_close(void *p) { free(p); }

static int32_t connection_open(void *shard, const arus_connection *connection, void *memory) {
    const process *p = shard;
    scratch *s = memory;
    size_t len;
    const char *client = arus_attribute(connection, ARUS_ATTRIBUTE_CLIENT, &len);
    if (s->canary || s->seen[0] || ((uintptr_t)memory & 15)) return ARUS_RESET;
    s->canary = 42;
    if (is(p, "attributes")) {
        const char *none = arus_attribute(connection, ARUS_ATTRIBUTE_USER, &len);
        if (none || len) return ARUS_RESET;
        client = arus_attribute(connection, ARUS_ATTRIBUTE_CLIENT, &len);
        if (len != 15 || memcmp(client, "192.0.2.7:51234", len)) return ARUS_RESET;
        client = arus_attribute(connection, ARUS_ATTRIBUTE_SNI, &len);
        if (len != 11 || memcmp(client, "example.com", len)) return ARUS_RESET;
        if (arus_attribute(connection, 0, &len) || arus_attribute(connection, 99, &len)) return ARUS_RESET;
        return connection->host == p->host && connection->session[15] == 5 ? ARUS_BYPASS : ARUS_RESET;
    }
    if (is(p, "refuse-close")) return ARUS_CLOSE;
    if (is(p, "refuse-error")) return ARUS_ERROR;
    if (is(p, "refuse-rubbish")) return ARUS_DETACH;
    return ARUS_OK;
}

static void connection_close(void *shard, void *memory, uint32_t reason) {
    const process *p = shard;
    scratch *s = memory;
    if (s->canary == 42) arus_counter_add(p->host, p->bytes, 1000000 * (uint64_t)(reason + 1));
}

static int32_t copy_upper(arus_io *io, size_t times) {
    size_t at = 0;
    while (at < io->input_len) {
        size_t n = io->input_len - at, i, k;
        uint8_t *out;
        if (n > ARUS_RESERVE_MAX / times) n = ARUS_RESERVE_MAX / times;
        out = arus_reserve(io, n * times);
        if (!out) return ARUS_MORE_OUTPUT;
        for (i = 0; i < n; i++)
            for (k = 0; k < times; k++) {
                uint8_t c = io->input[at + i];
                *out++ = c >= 'a' && c <= 'z' ? (uint8_t)(c - 32) : c;
            }
        arus_drop(io, n);
        arus_commit(io, n * times);
        at += n;
    }
    return ARUS_OK;
}

/* Each line backwards; a line without an end, and the last one, as it is. */
static int32_t reverse_lines(arus_io *io) {
    size_t at = 0;
    for (;;) {
        const uint8_t *line = io->input + at;
        const uint8_t *end = at < io->input_len ? memchr(line, '\n', io->input_len - at) : NULL;
        size_t n, i;
        uint8_t *out;
        if (!end) break;
        n = (size_t)(end - line);
        if (n + 1 > ARUS_RESERVE_MAX) return ARUS_ERROR;
        out = arus_reserve(io, n + 1);
        if (!out) return ARUS_MORE_OUTPUT;
        for (i = 0; i < n; i++) out[i] = line[n - 1 - i];
        out[n] = '\n';
        arus_drop(io, n + 1);
        arus_commit(io, n + 1);
        at += n + 1;
    }
    if (io->flags & ARUS_END) arus_pass(io, io->input_len - at);
    return ARUS_NEED_MORE;
}

static int32_t data(void *shard, void *memory, arus_io *io) {
    const process *p = shard;
    scratch *s = memory;
    uint64_t *seen = &s->seen[io->direction == ARUS_DOWN];
    size_t n = io->input_len, i;
    uint8_t *out;
    if (s->canary != 42 || (io->host != p->host)) return ARUS_ERROR;
    arus_counter_add(p->host, p->bytes, n);

    if (is(p, "pass")) { arus_pass(io, n); return ARUS_OK; }
    if (is(p, "upper")) {
        out = arus_rewrite(io, n);
        for (i = 0; i < n; i++) if (out[i] >= 'a' && out[i] <= 'z') out[i] = (uint8_t)(out[i] - 32);
        return ARUS_OK;
    }
    if (is(p, "copy")) return copy_upper(io, 1);
    if (is(p, "triple")) return copy_upper(io, 3);
    if (is(p, "reverse")) return reverse_lines(io);
    if (is(p, "swallow")) { arus_drop(io, n); return ARUS_OK; }
    if (is(p, "odd")) { /* drops every other byte of the stream */
        for (i = 0; i < n; i++, ++*seen) if (*seen & 1) arus_drop(io, 1); else arus_pass(io, 1);
        return ARUS_OK;
    }
    if (is(p, "brackets")) { /* puts brackets around each 'a' */
        for (i = 0; i < n; i++) {
            int a = io->input[i] == 'a';
            if (a) { if (!(out = arus_reserve(io, 1))) return ARUS_MORE_OUTPUT; *out = '<'; arus_commit(io, 1); }
            /* Passing and adding is one step: '>' goes where the next reserve would. */
            if (a) { arus_drop(io, 1); out = arus_reserve(io, 2); if (!out) return ARUS_ERROR; memcpy(out, "a>", 2); arus_commit(io, 2); }
            else arus_pass(io, 1);
        }
        return ARUS_OK;
    }
    if (is(p, "trailer")) {
        arus_pass(io, n);
        if (io->flags & ARUS_END) {
            if (!(out = arus_reserve(io, 4))) return ARUS_MORE_OUTPUT;
            memcpy(out, "tail", 4);
            arus_commit(io, 4);
        }
        return ARUS_OK;
    }
    if (is(p, "pairs")) { /* consumes two bytes at a time, and swaps them */
        for (i = 0; i + 1 < n; i += 2) {
            uint8_t a = io->input[i], b = io->input[i + 1];
            out = arus_rewrite(io, 2);
            out[0] = b; out[1] = a;
        }
        if (io->flags & ARUS_END) arus_pass(io, n - i);
        return ARUS_NEED_MORE;
    }
    if (is(p, "nibble")) { /* takes one byte a call */
        if (n) arus_pass(io, 1);
        return n > 1 ? ARUS_MORE_OUTPUT : ARUS_OK;
    }
    if (is(p, "detach")) {
        size_t left = (uint64_t)p->n > *seen ? (size_t)((uint64_t)p->n - *seen) : 0;
        if (n < left) left = n;
        out = arus_rewrite(io, left);
        for (i = 0; i < left; i++) out[i] = '*';
        *seen += left;
        return *seen >= (uint64_t)p->n ? ARUS_DETACH : ARUS_OK;
    }
    if (is(p, "close") || is(p, "reset") || is(p, "error")) {
        const uint8_t *mark = n ? memchr(io->input, '!', n) : NULL;
        arus_pass(io, mark ? (size_t)(mark - io->input) : n);
        return !mark ? ARUS_OK : is(p, "close") ? ARUS_CLOSE : is(p, "reset") ? ARUS_RESET : ARUS_ERROR;
    }
    if (is(p, "endless")) {
        arus_drop(io, n);
        while ((out = arus_reserve(io, 100))) { memset(out, 'e', 100); arus_commit(io, 100); }
        return ARUS_MORE_OUTPUT;
    }
    if (is(p, "drip")) { /* endless, a byte a call */
        arus_drop(io, n);
        if ((out = arus_reserve(io, 1))) { *out = 'd'; arus_commit(io, 1); }
        return ARUS_MORE_OUTPUT;
    }
    if (is(p, "slow")) {
        struct timespec t = {p->n / 1000, p->n % 1000 * 1000000};
        nanosleep(&t, NULL);
        arus_pass(io, n);
        return ARUS_OK;
    }

    /* Lies; the first byte is passed first. */
    if (n) arus_pass(io, 1);
    if (is(p, "pass-too-much")) { arus_pass(io, n); return ARUS_OK; }
    if (is(p, "rewrite-too-much")) return arus_rewrite(io, SIZE_MAX) ? ARUS_RESET : ARUS_OK;
    if (is(p, "drop-too-much")) { arus_drop(io, SIZE_MAX); return ARUS_OK; }
    if (is(p, "commit-too-much")) { arus_reserve(io, 4); arus_commit(io, 5); return ARUS_OK; }
    if (is(p, "commit-nothing")) { arus_commit(io, 1); return ARUS_OK; }
    if (is(p, "commit-twice")) { out = arus_reserve(io, 2); memcpy(out, "ok", 2); arus_commit(io, 1); arus_commit(io, 1); return ARUS_OK; }
    if (is(p, "commit-after-pass")) { arus_reserve(io, 4); arus_pass(io, 1); arus_commit(io, 4); return ARUS_OK; }
    if (is(p, "reserve-too-much")) return arus_reserve(io, (size_t)4 << 30) ? ARUS_RESET : ARUS_MORE_OUTPUT;
    if (is(p, "idle")) return ARUS_MORE_OUTPUT;
    if (is(p, "left")) return ARUS_OK;
    if (is(p, "hold-too-much")) return ARUS_NEED_MORE;
    if (is(p, "rubbish")) return -559038737;
    if (is(p, "bypass-late")) return ARUS_BYPASS;
    if (is(p, "foreign")) { arus_io other = *io; io->host->pass(&other, 1); return ARUS_OK; }
    if (is(p, "scribble")) { io->input_len = SIZE_MAX; io->input = NULL; io->flags = 99; arus_pass(io, n ? n - 1 : 0); return ARUS_OK; }
    return ARUS_ERROR;
}

#ifndef TABLE
#define TABLE                                                                                                          \
    static const arus_plugin plugin = {ARUS_PLUGIN_HEAD, .name = "script", .version = "1.0",                           \
        .flags = ARUS_UP | ARUS_DOWN, .connection_size = sizeof(scratch), .holdback_max = 1000,                        \
        .process_open = process_open, .process_close = process_close, .connection_open = connection_open,              \
        .connection_close = connection_close, .data = data};                                                           \
    ARUS_PLUGIN(plugin)
#endif
TABLE
