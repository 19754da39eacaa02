/*
 * filter.c: changes letters, or ends connections in which a text appears.
 *
 *     config = "upper"         a-z become A-Z
 *     config = "lower"         A-Z become a-z
 *     config = "rot13"         letters move by 13 places; twice gives the original
 *     config = "block:TEXT"    what comes before TEXT is delivered, then the connection is closed (1 to 1024 bytes)
 *
 * Both directions are filtered. With "up:" (client to backend) or "down:" in front, as in "up:upper", only that one.
 *
 *     arus plugin run c_plugins/filter.so --config upper <in >out
 *
 * What it shows: reading a configuration, changing bytes in place, holding back a few bytes because the next piece may
 * decide about them, detaching from a direction that is of no interest, a counter.
 */
#include "arus_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 1024

enum mode { UPPER, LOWER, ROT13, BLOCK };

/* Made by process_open, and only read after that: all shards may share it. */
struct filter {
    enum mode mode;
    uint32_t directions;
    int32_t blocked; /* the counter */
    size_t text_len;
    uint8_t text[TEXT_MAX];
    /* border[n]: how many of the last bytes of the first n of `text` are also its first bytes (but not all n). After a
     * mismatch behind n matching bytes, that many still match, and no byte is looked at twice (Knuth, Morris, Pratt). */
    size_t border[TEXT_MAX];
};

/* The scratch memory of a connection; all zero at first. */
struct connection {
    size_t matched[2]; /* per direction: the end of what was seen are so many of the first bytes of `text` */
};

static void find_borders(struct filter *filter) {
    size_t matched = 0;
    for (size_t n = 1; n + 1 < filter->text_len; n++) {
        while (matched > 0 && filter->text[n] != filter->text[matched]) matched = filter->border[matched];
        if (filter->text[n] == filter->text[matched]) matched++;
        filter->border[n + 1] = matched;
    }
}

/* Whether `*text` begins with `word`, which is cut off then. */
static int cut(const char **text, const char *word) {
    size_t len = strlen(word);
    if (strncmp(*text, word, len) != 0) return 0;
    *text += len;
    return 1;
}

static int32_t process_open(const arus_host *host, const char *config, size_t config_len, char *error,
                            size_t error_size, void **process) {
    const char *end = config + config_len;
    struct filter *filter = calloc(1, sizeof *filter);
    if (filter == NULL) {
        snprintf(error, error_size, "out of memory");
        return ARUS_ERROR;
    }
    filter->directions = cut(&config, "up:") ? ARUS_UP : cut(&config, "down:") ? ARUS_DOWN : ARUS_UP | ARUS_DOWN;
    if (cut(&config, "block:")) {
        filter->mode = BLOCK;
        filter->text_len = (size_t)(end - config);
        if (filter->text_len < 1 || filter->text_len > TEXT_MAX) {
            snprintf(error, error_size, "block:TEXT wants 1 to %d bytes of TEXT, not %zu", TEXT_MAX, filter->text_len);
            free(filter);
            return ARUS_ERROR;
        }
        memcpy(filter->text, config, filter->text_len);
        find_borders(filter);
    } else if (strcmp(config, "upper") == 0) {
        filter->mode = UPPER;
    } else if (strcmp(config, "lower") == 0) {
        filter->mode = LOWER;
    } else if (strcmp(config, "rot13") == 0) {
        filter->mode = ROT13;
    } else {
        snprintf(error, error_size, "config is upper, lower, rot13 or block:TEXT, with up: or down: in front or not");
        free(filter);
        return ARUS_ERROR;
    }
    filter->blocked = arus_counter(host, "blocked", "Connections closed because the text appeared");
    *process = filter;
    return ARUS_OK;
}

static void process_close(void *process) {
    free(process);
}

static inline uint8_t upper(uint8_t c) {
    return (uint8_t)(c - ((uint8_t)(c - 'a') < 26 ? 32 : 0));
}

static inline uint8_t lower(uint8_t c) {
    return (uint8_t)(c + ((uint8_t)(c - 'A') < 26 ? 32 : 0));
}

static inline uint8_t rot13(uint8_t c) {
    uint8_t place = (uint8_t)((c | 32) - 'a'); /* 0 to 25 for a letter */
    return (uint8_t)(c + (place < 26 ? 13 : 0) - (place >= 13 && place < 26 ? 26 : 0));
}

/* In blocks of a constant size, because then compilers turn the inner loop into vector instructions at -O2 already. */
#define CHANGE_EACH(bytes, n, change)                                    \
    for (; (n) >= 64; (bytes) += 64, (n) -= 64)                          \
        for (int i = 0; i < 64; i++) (bytes)[i] = change((bytes)[i]);    \
    for (; (n) > 0; (bytes)++, (n)--) *(bytes) = change(*(bytes))

/* Ends the connection in front of the text. Whatever may be its beginning waits for the next piece. */
static int32_t block(const struct filter *filter, size_t *held, arus_io *io) {
    size_t matched = *held; /* the first bytes of the input are those that were held back, and known to match */
    for (size_t at = matched; at < io->input_len; at++) {
        if (matched == 0) { /* the common case, and memchr is fast */
            const uint8_t *begin = memchr(io->input + at, filter->text[0], io->input_len - at);
            if (begin == NULL) break;
            at = (size_t)(begin - io->input);
        }
        while (matched > 0 && io->input[at] != filter->text[matched]) matched = filter->border[matched];
        if (io->input[at] == filter->text[matched]) matched++;
        if (matched == filter->text_len) {
            arus_pass(io, at + 1 - matched);
            arus_counter_add(io->host, filter->blocked, 1);
            return ARUS_CLOSE;
        }
    }
    if (io->flags & ARUS_END) matched = 0; /* it stays a beginning: let it go */
    arus_pass(io, io->input_len - matched);
    *held = matched;
    return matched > 0 ? ARUS_NEED_MORE : ARUS_OK;
}

static int32_t data(void *shard, void *scratch, arus_io *io) {
    const struct filter *filter = shard; /* without shard_open, what process_open made */
    struct connection *connection = scratch;
    if (!(filter->directions & io->direction)) return ARUS_DETACH;
    if (filter->mode == BLOCK) return block(filter, &connection->matched[io->direction == ARUS_DOWN], io);

    size_t n = io->input_len;
    if (n == 0) return ARUS_OK; /* only the end */
    uint8_t *bytes = arus_rewrite(io, n);
    if (bytes == NULL) return ARUS_ERROR;
    switch (filter->mode) {
    case UPPER: CHANGE_EACH(bytes, n, upper); break;
    case LOWER: CHANGE_EACH(bytes, n, lower); break;
    default: CHANGE_EACH(bytes, n, rot13); break;
    }
    return ARUS_OK;
}

static const arus_plugin plugin = {
    ARUS_PLUGIN_HEAD,
    .name = "filter",
    .version = "1.0",
    .flags = ARUS_UP | ARUS_DOWN,
    .connection_size = sizeof(struct connection),
    .holdback_max = TEXT_MAX - 1,
    .process_open = process_open,
    .process_close = process_close,
    .data = data,
};
ARUS_PLUGIN(plugin)
