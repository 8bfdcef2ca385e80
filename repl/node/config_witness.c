/* The configuration of a witness: its file, told from a volume's, and what its strings mean. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repl/node/config_internal.h"
#include "repl/node/quantity.h"

#define WITNESS_STATE_BYTES 201 /* of its directory's name, with the final NUL: with room for the files in it */

static bool doc_is_witness(struct yaml_doc *doc)
{
    const yaml_node_t *witness = yaml_doc_find(doc, "witness");
    return witness && witness->type == YAML_MAPPING_NODE && !yaml_doc_find(doc, "volume");
}

bool config_is_witness(const uint8_t *text, size_t bytes, const char *file)
{
    struct yaml_doc doc;
    struct err ignored;
    if (yaml_doc_open(&doc, text, bytes, file, &ignored))
        return false;
    bool is_witness = doc_is_witness(&doc);
    yaml_doc_close(&doc);
    return is_witness;
}

static int read_witness(struct reading *r, const struct raw_witness *raw, struct witness_config *out)
{
    bool loopback;
    if (!quantity_address(raw->listen, &loopback))
        return config_unexpected(&r->place, "witness.listen", r->err);
    snprintf(out->listen, sizeof(out->listen), "%s", raw->listen);
    if (!*raw->state || !config_join_path(r, raw->state, out->state, WITNESS_STATE_BYTES))
        return config_unexpected(&r->place, "witness.state", r->err);
    if (raw->tls)
        return config_unsupported(r, "witness.tls", "TLS", "write none, and keep the witness on a network of its own");
    if (raw->tls_word && strcmp(raw->tls_word, "none") != 0)
        return config_unexpected(&r->place, "witness.tls", r->err);
    if (!raw->tls_word && !loopback)
        return config_wrong(&r->place, "witness.tls", r->err,
                            "missing, expected none to be written out, as nodes reach the witness unencrypted and "
                            "unauthenticated");
    out->is_open = !loopback;
    out->tls_missing = !raw->tls_word;
    return 0;
}

int config_parse_witness(const uint8_t *text, size_t bytes, const char *file, const struct config_options *options,
                         struct witness_config *out, struct err *err)
{
    struct reading r = { .place = { .file = file }, .options = options, .err = err };
    memset(out, 0, sizeof(*out));
    if (strlen(file) >= sizeof(out->file))
        return err_set(err, -EINVAL, "%.200s...: expected a file name of at most %zu bytes", file,
                       sizeof(out->file) - 1);
    snprintf(out->file, sizeof(out->file), "%s", file);
    int rc = yaml_doc_open(&r.place.doc, text, bytes, file, err);
    if (rc)
        return rc;
    struct raw_witness_file *raw = NULL;
    rc = config_schema_load_witness(&r.place, text, bytes, &raw, err);
    if (!rc)
        rc = read_witness(&r, raw->witness, out);
    if (raw)
        config_schema_free_witness(&r.place, raw);
    yaml_doc_close(&r.place.doc);
    return rc;
}
