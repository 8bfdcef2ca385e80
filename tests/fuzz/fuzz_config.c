/* The configuration: any text gives a volume that keeps every promise of config.h, or one line that says why not. */
#include <stdlib.h>
#include <string.h>

#include "repl/node/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int truth)
{
    if (!truth)
        abort();
}

static void must_be_a_name(const char *name)
{
    size_t bytes = strnlen(name, NAME_BYTES_MAX);
    must(bytes > 0 && bytes < NAME_BYTES_MAX && !strchr(name, '/') && name[0] != '.');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct volume_config c;
    struct config_options options = { .node = "a", .allow_test_faults = size % 2 };
    struct err err = { 0 };
    struct witness_config w;
    if (config_parse_witness(data, size, "dir/f.yaml", &options, &w, &err)) {
        must(err.code < 0 && strncmp(err.text, "dir/f.yaml:", strlen("dir/f.yaml:")) == 0);
        must(!strchr(err.text, '\n'));
    } else {
        must(config_is_witness(data, size, "dir/f.yaml") && w.listen[0] && w.state[0]);
    }
    err = (struct err) { 0 };
    if (config_parse(data, size, "dir/f.yaml", &options, &c, &err)) {
        must(err.code < 0 && strncmp(err.text, "dir/f.yaml:", strlen("dir/f.yaml:")) == 0);
        must(!strchr(err.text, '\n'));
        return 0;
    }
    must_be_a_name(c.volume);
    must(c.size_bytes <= CONFIG_SIZE_BYTES_MAX && c.size_bytes % 4096 == 0);
    must(c.node_count >= 1 && c.node_count <= CONFIG_NODES_MAX && c.self < c.node_count);
    must(strcmp(config_self(&c)->name, "a") == 0);
    must(c.dead_after_ns >= CONFIG_DEAD_AFTER_NS_MIN && c.dead_after_ns <= CONFIG_DEAD_AFTER_NS_MAX);
    must(options.allow_test_faults || (!c.test.disk_fault_on && !c.test.disk_delay_on && !c.test.link_fault_on));
    for (unsigned i = 0; i < c.node_count; i++) {
        const struct config_node *n = &c.nodes[i];
        must_be_a_name(n->name);
        must(n->backing[0] && n->device[0] && strcmp(n->backing, n->metadata) != 0);
        must(n->path_count == c.nodes[0].path_count && n->path_count <= CONFIG_PATHS_MAX);
        must((n->path_count == 0) == (c.node_count == 1));
    }
    return 0;
}
