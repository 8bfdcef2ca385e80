/* A YAML file as a tree that knows its line numbers: libcyaml loads a file by schema but forgets where each value
 * stood, and messages about a value that is well-formed but wrong need the line.
 *
 * The walk is also the edge for what no schema of ours has and libcyaml is loose about: duplicate keys, keys that are
 * no words, anchors, several documents, absurd depth. */
#pragma once

#include <stdint.h>
#include <yaml.h>

#include "repl/base/err.h"

#define YAML_DOC_DEPTH_MAX 8

struct yaml_doc {
    yaml_document_t document;
};

/* Returns 0, or -EINVAL with "FILE:LINE: ..."; then there is nothing to free. */
int yaml_doc_open(struct yaml_doc *doc, const uint8_t *text, size_t bytes, const char *file, struct err *err);
void yaml_doc_close(struct yaml_doc *doc);

/* The node at a path such as "nodes[1].paths[0]" (indices from 0, "" is the whole document); NULL when there is none.
 */
const yaml_node_t *yaml_doc_find(struct yaml_doc *doc, const char *path);

/* The line, from 1, of the key that ends `path`, or of the list entry. Where there is no such key: of the nearest thing
 * around it that is there. */
unsigned yaml_doc_line(struct yaml_doc *doc, const char *path);

/* Describes the node for a person: `"40 parsecs"`, `a list of 3`, `a mapping`, `nothing`. */
void yaml_doc_describe(struct yaml_doc *doc, const char *path, char *out, size_t out_bytes);
