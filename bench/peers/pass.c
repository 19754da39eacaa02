/* A plugin that looks at nothing: what is left is the price of calling one. -DANSWER=ARUS_DETACH makes it the plugin that
 * leaves each direction at its first bytes. */
#include "arus_plugin.h"

static int32_t data(void *shard, void *scratch, arus_io *io) {
    (void)shard;
    (void)scratch;
    arus_pass(io, io->input_len);
    return ANSWER;
}

static const arus_plugin plugin = {
    ARUS_PLUGIN_HEAD,
    .name = "pass",
    .version = "1.0",
    .flags = ARUS_UP | ARUS_DOWN,
    .data = data,
};
ARUS_PLUGIN(plugin)
