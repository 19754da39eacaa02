/* Logs what it is told of each connection, one attribute a line, and has nothing to do with its bytes. */

#include <stdio.h>
#include <string.h>

#include "arus_plugin.h"

static const struct {
    uint32_t which;
    const char *name;
} attributes[] = {
    {ARUS_ATTRIBUTE_CLIENT, "client"},     {ARUS_ATTRIBUTE_SOURCE, "source"},   {ARUS_ATTRIBUTE_LISTENER, "listener"},
    {ARUS_ATTRIBUTE_TARGET, "target"},     {ARUS_ATTRIBUTE_UPSTREAM, "upstream"}, {ARUS_ATTRIBUTE_BACKEND, "backend"},
    {ARUS_ATTRIBUTE_SNI, "sni"},           {ARUS_ATTRIBUTE_ALPN, "alpn"},       {ARUS_ATTRIBUTE_USER, "user"},
};

static const arus_host *host;

static int32_t process_open(const arus_host *own, const char *config, size_t config_len, char *error, size_t error_size,
                            void **process) {
    (void)config, (void)config_len, (void)error, (void)error_size, (void)process;
    host = own;
    return ARUS_OK;
}

static int32_t connection_open(void *shard, const arus_connection *connection, void *scratch) {
    (void)shard, (void)scratch;
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        size_t len = 0;
        const char *text = arus_attribute(connection, attributes[i].which, &len);
        char line[ARUS_ATTRIBUTE_MAX + 32];
        snprintf(line, sizeof line, "fact %s=%.*s", attributes[i].name, (int)len, text == NULL ? "" : text);
        if (text != NULL) arus_log(host, ARUS_LOG_INFO, line);
    }
    return ARUS_BYPASS;
}

static int32_t data(void *shard, void *scratch, arus_io *io) {
    (void)shard, (void)scratch;
    arus_pass(io, io->input_len);
    return ARUS_OK;
}

static const arus_plugin plugin = {
    ARUS_PLUGIN_HEAD,
    .name = "facts",
    .version = "1.0",
    .flags = ARUS_UP | ARUS_DOWN,
    .process_open = process_open,
    .connection_open = connection_open,
    .data = data,
};
ARUS_PLUGIN(plugin)
