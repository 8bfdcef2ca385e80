/* A YAML file as a tree that knows its line numbers. */
#include "repl/node/yaml_doc.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/node/printable.h"

#define DESCRIBE_BYTES_MAX 60

static unsigned line_of(const yaml_node_t *node) { return (unsigned)node->start_mark.line + 1; }

static bool scalar_is(const yaml_node_t *node, const char *word, size_t word_bytes)
{
    return node->type == YAML_SCALAR_NODE && node->data.scalar.length == word_bytes &&
           memcmp(node->data.scalar.value, word, word_bytes) == 0;
}

static const yaml_node_pair_t *pair_of(yaml_document_t *d, const yaml_node_t *mapping, const char *key,
                                       size_t key_bytes)
{
    for (const yaml_node_pair_t *p = mapping->data.mapping.pairs.start; p < mapping->data.mapping.pairs.top; p++)
        if (scalar_is(yaml_document_get_node(d, p->key), key, key_bytes))
            return p;
    return NULL;
}

/* `seen` has a byte for each node: one that is met twice was reached by an alias, and may even contain itself. */
static int check(yaml_document_t *d, int index, unsigned depth, bool *seen, const char *file, struct err *err)
{
    const yaml_node_t *node = yaml_document_get_node(d, index);
    if (seen[index])
        return err_set(err, -EINVAL, "%s:%u: anchors and aliases are not supported here: write the value out", file,
                       line_of(node));
    seen[index] = true;
    if (depth > YAML_DOC_DEPTH_MAX)
        return err_set(err, -EINVAL, "%s:%u: nested more than %u deep, which no key here is", file, line_of(node),
                       YAML_DOC_DEPTH_MAX);
    switch (node->type) {
    case YAML_NO_NODE:
    case YAML_SCALAR_NODE: return 0;
    case YAML_SEQUENCE_NODE:
        for (const yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
            int rc = check(d, *i, depth + 1, seen, file, err);
            if (rc)
                return rc;
        }
        return 0;
    case YAML_MAPPING_NODE:
        for (const yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
            const yaml_node_t *key = yaml_document_get_node(d, p->key);
            if (key->type != YAML_SCALAR_NODE)
                return err_set(err, -EINVAL, "%s:%u: expected a word as the key, found a list or a mapping", file,
                               line_of(key));
            const char *word = (const char *)key->data.scalar.value;
            char shown[DESCRIBE_BYTES_MAX];
            printable(shown, sizeof(shown), word, key->data.scalar.length);
            if (strcmp(word, shown) != 0 || strlen(word) != key->data.scalar.length || strpbrk(word, ".["))
                return err_set(err, -EINVAL, "%s:%u: %s: unknown key", file, line_of(key), shown);
            const yaml_node_pair_t *first = pair_of(d, node, word, key->data.scalar.length);
            if (first != p)
                return err_set(err, -EINVAL, "%s:%u: %s: expected each key once, found it also in line %u", file,
                               line_of(key), shown, line_of(yaml_document_get_node(d, first->key)));
            int rc = check(d, p->key, depth + 1, seen, file, err);
            if (!rc)
                rc = check(d, p->value, depth + 1, seen, file, err);
            if (rc)
                return rc;
        }
        return 0;
    }
    return 0;
}

static int parse_error(const yaml_parser_t *parser, const char *file, struct err *err)
{
    if (parser->error == YAML_MEMORY_ERROR)
        return err_set(err, -ENOMEM, "%s: out of memory", file);
    bool encoding = parser->error == YAML_READER_ERROR; /* has an offset in bytes only */
    return err_set(err, -EINVAL, "%s:%u: not YAML: %s%s%s", file,
                   encoding ? 1 : (unsigned)parser->problem_mark.line + 1,
                   parser->problem ? parser->problem : "cannot be parsed", parser->context ? ", " : "",
                   parser->context ? parser->context : "");
}

/* The parser stands behind the first document. */
static int check_nothing_follows(yaml_parser_t *parser, const char *file, struct err *err)
{
    yaml_document_t next;
    if (!yaml_parser_load(parser, &next))
        return parse_error(parser, file, err);
    const yaml_node_t *root = yaml_document_get_root_node(&next);
    int rc = root ? err_set(err, -EINVAL, "%s:%u: expected one document in the file, found a second one", file,
                            line_of(root))
                  : 0;
    yaml_document_delete(&next);
    return rc;
}

int yaml_doc_open(struct yaml_doc *doc, const uint8_t *text, size_t bytes, const char *file, struct err *err)
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return err_set(err, -ENOMEM, "%s: out of memory", file);
    yaml_parser_set_input_string(&parser, text, bytes);
    if (!yaml_parser_load(&parser, &doc->document)) {
        int rc = parse_error(&parser, file, err);
        yaml_parser_delete(&parser);
        return rc;
    }
    int rc = 0;
    if (!yaml_document_get_root_node(&doc->document)) {
        rc = err_set(err, -EINVAL, "%s:1: volume: expected a volume's configuration, found an empty file", file);
    } else {
        rc = check_nothing_follows(&parser, file, err);
        size_t nodes = (size_t)(doc->document.nodes.top - doc->document.nodes.start);
        bool *seen = rc ? NULL : calloc(nodes + 1, sizeof(*seen)); /* node indices begin with 1 */
        if (!rc)
            rc = seen ? check(&doc->document, 1, 0, seen, file, err) : err_set(err, -ENOMEM, "%s: out of memory", file);
        free(seen);
    }
    yaml_parser_delete(&parser);
    if (rc)
        yaml_document_delete(&doc->document);
    return rc;
}

void yaml_doc_close(struct yaml_doc *doc) { yaml_document_delete(&doc->document); }

/* Walks as far as the path leads. Returns the last node, with the line of the key or entry that led to it;
 * `*whole`: the path led all the way. */
static const yaml_node_t *walk(struct yaml_doc *doc, const char *path, unsigned *line, bool *whole)
{
    yaml_document_t *d = &doc->document;
    const yaml_node_t *node = yaml_document_get_root_node(d);
    *line = line_of(node);
    *whole = false;
    while (*path) {
        if (*path == '.')
            path++;
        if (*path == '[') {
            char *end = NULL;
            unsigned long index = strtoul(path + 1, &end, 10);
            assert(*end == ']');
            if (node->type != YAML_SEQUENCE_NODE)
                return node;
            if (index >= (size_t)(node->data.sequence.items.top - node->data.sequence.items.start))
                return node;
            node = yaml_document_get_node(d, node->data.sequence.items.start[index]);
            *line = line_of(node);
            path = end + 1;
        } else {
            size_t word_bytes = strcspn(path, ".[");
            if (node->type != YAML_MAPPING_NODE)
                return node;
            const yaml_node_pair_t *pair = pair_of(d, node, path, word_bytes);
            if (!pair)
                return node;
            *line = line_of(yaml_document_get_node(d, pair->key));
            node = yaml_document_get_node(d, pair->value);
            path += word_bytes;
        }
    }
    *whole = true;
    return node;
}

const yaml_node_t *yaml_doc_find(struct yaml_doc *doc, const char *path)
{
    unsigned line;
    bool whole;
    const yaml_node_t *node = walk(doc, path, &line, &whole);
    return whole ? node : NULL;
}

unsigned yaml_doc_line(struct yaml_doc *doc, const char *path)
{
    unsigned line;
    bool whole;
    walk(doc, path, &line, &whole);
    return line;
}

void yaml_doc_describe(struct yaml_doc *doc, const char *path, char *out, size_t out_bytes)
{
    const yaml_node_t *node = yaml_doc_find(doc, path);
    if (!node || (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)) {
        snprintf(out, out_bytes, "nothing");
    } else if (node->type == YAML_SCALAR_NODE) {
        char shown[DESCRIBE_BYTES_MAX];
        printable(shown, sizeof(shown), (const char *)node->data.scalar.value, node->data.scalar.length);
        snprintf(out, out_bytes, "\"%s\"", shown);
    } else if (node->type == YAML_SEQUENCE_NODE) {
        snprintf(out, out_bytes, "a list of %zu",
                 (size_t)(node->data.sequence.items.top - node->data.sequence.items.start));
    } else {
        snprintf(out, out_bytes, "a mapping");
    }
}
