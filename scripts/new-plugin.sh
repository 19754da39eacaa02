#!/usr/bin/env bash
# Writes the skeleton of a plugin, NAME.c: it compiles, passes everything, and says where to go on from there.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/new-plugin.sh NAME [DIR]
    NAME   a-z first, then a-z, 0-9 and _; at most 40 characters
    DIR    where to write NAME.c (default c_plugins, which `make build-plugin` compiles)
TEXT
}

fail() {
    echo "new-plugin: $*" >&2
    exit 1
}

case ${1-} in
    -h | --help)
        usage
        exit 0
        ;;
esac
if (($# < 1 || $# > 2)); then
    usage >&2
    exit 2
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=$1
dir=${2:-$root/c_plugins}
# LC_ALL: a-z are 26 letters in every language.
LC_ALL=C
[[ $name =~ ^[a-z][a-z0-9_]{0,39}$ ]] || fail "\"$name\" is no name for a plugin: a-z first, then a-z, 0-9 and _, at most 40"
[[ -d $dir ]] || fail "$dir is not a directory"
file=$dir/$name.c
[[ ! -e $file && ! -L $file ]] || fail "$file exists; nothing was written"
header=$root/c_plugins
case $file in
    "$root"/*) shown=${file#"$root"/} header=c_plugins ;;
    *) shown=$file ;;
esac

# Written beside and linked: a file that appears meanwhile is not overwritten.
draft=$(mktemp "$dir/.$name.XXXXXX")
trap 'rm -f "$draft"' EXIT
skeleton=$(cat <<'C'
/*
 * @NAME@.c: says here, in a line, what it does.
 *
 *     config = "..."    what the text after `config` in the [[plugin]] table means
 *
 * Build and try it:
 *
 *     cc -std=c99 -O2 -Wall -Wextra -fPIC -shared -fvisibility=hidden -I@HEADER@ -o @SO@ @FILE@
 *     arus plugin check @SO@ --config ""
 *     echo hello | arus plugin run @SO@ --config ""
 *
 * docs/PLUGINS.md is the tutorial, arus_plugin.h says what each function may do.
 */
#include "arus_plugin.h"

#include <stdio.h>
#include <stdlib.h>

/* What `config` says. All shards (threads) share it, so it is only read once process_open has made it. */
struct settings {
    const arus_host *host;
    int32_t pieces; /* a counter */
};

/* What is kept of each connection. arus makes it, all zero, and takes it away. [0] is up (client to backend), [1] down. */
struct connection {
    uint64_t bytes[2];
};

/* Once for each start and each reload that changes something here. May allocate and open files. */
static int32_t process_open(const arus_host *host, const char *config, size_t config_len, char *error,
                            size_t error_size, void **process) {
    if (config_len > 0) { /* read `config` here instead; there is a NUL behind it */
        /* This line is what `arus check` and `arus reload` print. */
        snprintf(error, error_size, "no config is expected, not \"%.40s\"", config);
        return ARUS_ERROR;
    }
    struct settings *settings = calloc(1, sizeof *settings);
    if (settings == NULL) {
        snprintf(error, error_size, "out of memory");
        return ARUS_ERROR;
    }
    settings->host = host;
    settings->pieces = arus_counter(host, "pieces", "Pieces seen");
    *process = settings;
    return ARUS_OK;
}

static void process_close(void *process) {
    free(process);
}

/* A piece of one direction. Must not block: all connections of the shard wait for it. */
static int32_t data(void *shard, void *scratch, arus_io *io) {
    const struct settings *settings = shard; /* there is no shard_open, so this is what process_open made */
    struct connection *connection = scratch;
    int down = io->direction == ARUS_DOWN;

    connection->bytes[down] += io->input_len;
    arus_counter_add(io->host, settings->pieces, 1);

    /* To see or change all bytes in place, where the length stays the same:
     *
     *     uint8_t *bytes = arus_rewrite(io, io->input_len);
     *
     * To write something else instead: arus_reserve, fill it, arus_commit, and arus_drop what it replaces.
     * To wait for more before deciding: pass what is decided, set .holdback_max below, answer ARUS_NEED_MORE.
     * When nothing more is of interest in this direction: answer ARUS_DETACH. */
    arus_pass(io, io->input_len);
    return ARUS_OK;
}

static const arus_plugin plugin = {
    ARUS_PLUGIN_HEAD,
    .name = "@NAME@",
    .version = "0.1",
    .flags = ARUS_UP | ARUS_DOWN, /* the directions that it wants to see */
    .connection_size = sizeof(struct connection),
    .holdback_max = 0, /* most bytes that it leaves for the next call */
    .process_open = process_open,
    .process_close = process_close,
    .data = data,
};
ARUS_PLUGIN(plugin)
C
)
skeleton=${skeleton//@NAME@/"$name"}
skeleton=${skeleton//@HEADER@/"$header"}
skeleton=${skeleton//@SO@/"${shown%.c}.so"}
skeleton=${skeleton//@FILE@/"$shown"}
printf '%s\n' "$skeleton" >"$draft"
chmod 644 "$draft"
ln "$draft" "$file" || fail "$file exists; nothing was written"
echo "$shown"
