/*
 * table.c: plugins whose table arus has to refuse before it calls anything, and a few odd ones that it has to take.
 * Compiled once for each, with a -D of its name:
 *
 *     cc -DWRONG_MAGIC -Ic_plugins -fPIC -shared -o wrong_magic.so tests/plugins/table.c
 */
#include "arus_plugin.h"

#include <stdlib.h>

#ifndef NAME
#define NAME "table"
#endif

#ifndef NO_SYMBOL

static int32_t data(void *shard, void *scratch, arus_io *io) {
    (void)shard;
    (void)scratch;
    arus_pass(io, io->input_len);
    return ARUS_OK;
}

/* What a later version of arus_plugin.h may look like. */
struct grown {
    arus_plugin now;
    void (*later)(void);
    uint64_t more;
};

ARUS_EXTERN_C const arus_plugin *arus_plugin_v1(void) {
    static struct grown table = {
        {
            ARUS_PLUGIN_HEAD,
            .name = NAME,
            .version = "1.0",
            .flags = ARUS_UP | ARUS_DOWN,
            .data = data,
        },
        NULL,
        0,
    };
    arus_plugin *plugin = &table.now;
#if defined(WRONG_MAGIC)
    plugin->magic ^= 1;
#elif defined(NEWER_MAJOR)
    plugin->abi_major = ARUS_ABI_MAJOR + 1;
#elif defined(NO_MAJOR)
    plugin->abi_major = 0;
#elif defined(NEWER_MINOR) /* to be taken */
    plugin->abi_minor = ARUS_ABI_MINOR + 1;
    plugin->size = sizeof table;
#elif defined(TRUNCATED)
    plugin->size = offsetof(arus_plugin, data);
#elif defined(NO_SIZE)
    plugin->size = 0;
#elif defined(NO_DATA)
    plugin->data = NULL;
#elif defined(FOREIGN_FUNCTION)
    plugin->process_close = free;
#elif defined(FUNCTION_NOWHERE)
    plugin->shard_close = (void (*)(void *))(uintptr_t)0x10;
#elif defined(FUNCTION_IN_DATA)
    plugin->shard_close = (void (*)(void *))(uintptr_t)&table;
#elif defined(NO_NAME)
    plugin->name = NULL;
#elif defined(EMPTY_NAME)
    plugin->name = "";
#elif defined(LONG_NAME)
    plugin->name = "0123456789012345678901234567890123456789012345678901234567890123456789";
#elif defined(LONGEST_NAME) /* to be taken */
    plugin->name = "0123456789012345678901234567890123456789012345678901234567890123";
#elif defined(CONTROL_NAME)
    plugin->name = "red\033[31m";
#elif defined(NAME_NOWHERE)
    plugin->name = (const char *)(uintptr_t)0x10;
#elif defined(NO_VERSION)
    plugin->version = NULL;
#elif defined(NO_FLAGS)
    plugin->flags = 0;
#elif defined(UNKNOWN_FLAG)
    plugin->flags |= UINT32_C(1) << 31;
#elif defined(BIG_SCRATCH)
    plugin->connection_size = ARUS_CONNECTION_LIMIT + 1;
#elif defined(BIGGEST_SCRATCH) /* to be taken */
    plugin->connection_size = ARUS_CONNECTION_LIMIT;
#elif defined(BIG_HOLDBACK)
    plugin->holdback_max = ARUS_HOLDBACK_LIMIT + 1;
#elif defined(RESERVED)
    plugin->reserved = 1;
#elif defined(NO_TABLE)
    return NULL;
#elif defined(TABLE_NOWHERE)
    return (const arus_plugin *)(uintptr_t)0x10;
#elif defined(TABLE_ASKEW)
    return (const arus_plugin *)((uintptr_t)plugin + 1);
#endif
    return plugin;
}

#else
const int no_symbol = 1;
#endif
