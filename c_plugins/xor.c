/*
 * xor.c: a toy stream cipher. Every byte is XORed with the next byte of a repeated key; doing it twice with the same key
 * gives the original, so two arus with this plugin, one behind the other, are a (very weak) tunnel.
 *
 *     config = "any key of 1 to 256 bytes"
 *
 *     arus plugin run c_plugins/xor.so --config secret <in | arus plugin run c_plugins/xor.so --config secret >out
 *
 * What it shows: a state per connection and direction, in the scratch memory. The place in the key has to be kept from
 * one call to the next, because the bytes may come in pieces of any size.
 */
#include "arus_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MAX 256
#define BLOCK 64

/* Made by process_open, and only read after that: all shards may share it. */
struct cipher {
    size_t key_len;
    uint8_t key[KEY_MAX + BLOCK]; /* repeated, so that a whole block can be read from any place of the key on */
};

/* The scratch memory of a connection; all zero at first. */
struct connection {
    size_t at[2]; /* per direction: the place in the key for the next byte */
};

static int32_t process_open(const arus_host *host, const char *config, size_t config_len, char *error,
                            size_t error_size, void **process) {
    (void)host;
    if (config_len < 1 || config_len > KEY_MAX) {
        snprintf(error, error_size, "config is the key, 1 to %d bytes, not %zu", KEY_MAX, config_len);
        return ARUS_ERROR;
    }
    struct cipher *cipher = calloc(1, sizeof *cipher);
    if (cipher == NULL) {
        snprintf(error, error_size, "out of memory");
        return ARUS_ERROR;
    }
    cipher->key_len = config_len;
    for (size_t i = 0; i < sizeof cipher->key; i++) cipher->key[i] = (uint8_t)config[i % config_len];
    *process = cipher;
    return ARUS_OK;
}

static void process_close(void *process) {
    memset(process, 0, sizeof(struct cipher)); /* a real cipher would use explicit_bzero */
    free(process);
}

/* A constant size, so that compilers make vector instructions of it at -O2 already. */
static inline void xor_block(uint8_t *restrict bytes, const uint8_t *restrict key) {
    for (int i = 0; i < BLOCK; i++) bytes[i] ^= key[i];
}

static int32_t data(void *shard, void *scratch, arus_io *io) {
    const struct cipher *cipher = shard; /* without shard_open, what process_open made */
    struct connection *connection = scratch;
    size_t *at = &connection->at[io->direction == ARUS_DOWN];

    size_t n = io->input_len;
    if (n == 0) return ARUS_OK; /* only the end */
    uint8_t *bytes = arus_rewrite(io, n);
    if (bytes == NULL) return ARUS_ERROR;
    for (; n >= BLOCK; bytes += BLOCK, n -= BLOCK) {
        xor_block(bytes, cipher->key + *at);
        *at = (*at + BLOCK) % cipher->key_len;
    }
    for (; n > 0; bytes++, n--) {
        *bytes ^= cipher->key[*at];
        *at = (*at + 1) % cipher->key_len;
    }
    return ARUS_OK;
}

static const arus_plugin plugin = {
    ARUS_PLUGIN_HEAD,
    .name = "xor",
    .version = "1.0",
    .flags = ARUS_UP | ARUS_DOWN,
    .connection_size = sizeof(struct connection),
    .process_open = process_open,
    .process_close = process_close,
    .data = data,
};
ARUS_PLUGIN(plugin)
