/* The configuration of a node: which files it is made of, and what the volumes in them must not share. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/base/scoped.h"
#include "repl/node/config.h"

static int read_file(const char *file, uint8_t **text, size_t *bytes, struct err *err)
{
    CLEANUP_CLOSE int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* never wait for a FIFO */
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(err, -EINVAL, "%s: cannot be read: %s", file, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, "%s: expected a YAML file, found something that is no regular file", file);
    CLEANUP_FREE uint8_t *buffer = malloc(CONFIG_FILE_BYTES_MAX + 1);
    if (!buffer)
        return err_set(err, -ENOMEM, "%s: out of memory", file);
    size_t used = 0;
    while (used <= CONFIG_FILE_BYTES_MAX) {
        ssize_t n = read(fd, buffer + used, CONFIG_FILE_BYTES_MAX + 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, -EINVAL, "%s: cannot be read: %s", file, strerror(errno));
        if (n == 0)
            break;
        used += (size_t)n;
    }
    if (used > CONFIG_FILE_BYTES_MAX)
        return err_set(err, -EINVAL, "%s: expected a file of at most %u KiB", file,
                       (unsigned)(CONFIG_FILE_BYTES_MAX / KIB));
    *text = buffer;
    *bytes = used;
    buffer = NULL;
    return 0;
}

static int add_witness(struct config *config, const uint8_t *text, size_t bytes, const char *file,
                       const struct config_options *options, struct err *err)
{
    if (config->has_witness)
        return err_set(err, -EINVAL, "%s:1: witness: expected one witness in a daemon, found another in %s", file,
                       config->witness.file);
    config->has_witness = true;
    return config_parse_witness(text, bytes, file, options, &config->witness, err);
}

/* What two volumes on one node must not share. NULL: nothing is shared. `what` gets the words for it. */
static const char *shared_with(const struct volume_config *a, const struct volume_config *b, const char **what)
{
    *what = "the name";
    if (strcmp(a->volume, b->volume) == 0)
        return a->volume;
    const struct config_node *x = config_self(a);
    const struct config_node *y = config_self(b);
    *what = "the backing";
    if (strcmp(x->backing, y->backing) == 0)
        return x->backing;
    *what = "the metadata";
    if (x->metadata[0] && strcmp(x->metadata, y->metadata) == 0)
        return x->metadata;
    *what = "the device";
    if (strcmp(x->device, y->device) == 0)
        return x->device;
    *what = "the path";
    for (unsigned i = 0; i < x->path_count; i++)
        for (unsigned j = 0; j < y->path_count; j++)
            if (strcmp(x->paths[i], y->paths[j]) == 0)
                return x->paths[i];
    return NULL;
}

static int add_file(struct config *config, const char *file, const struct config_options *options, struct err *err)
{
    if (config->count == CONFIG_VOLUMES_MAX)
        return err_set(err, -EINVAL, "%s: expected at most %u volumes", file, CONFIG_VOLUMES_MAX);
    CLEANUP_FREE uint8_t *text = NULL;
    size_t bytes = 0;
    int rc = read_file(file, &text, &bytes, err);
    if (rc)
        return rc;
    if (config_is_witness(text, bytes, file))
        return add_witness(config, text, bytes, file, options, err);
    struct volume_config *grown = realloc(config->volumes, (config->count + 1) * sizeof(*grown));
    if (!grown)
        return err_set(err, -ENOMEM, "%s: out of memory", file);
    config->volumes = grown;
    struct volume_config *added = &grown[config->count];
    rc = config_parse(text, bytes, file, options, added, err);
    if (rc)
        return rc;
    for (unsigned i = 0; i < config->count; i++) {
        const char *what;
        const char *shared = shared_with(added, &grown[i], &what);
        if (shared)
            return err_set(err, -EINVAL,
                           "%s:%u: volume: expected every volume of this node to have its own, found %s "
                           "%s also in %s:%u",
                           file, added->line, what, shared, grown[i].file, grown[i].line);
    }
    config->count++;
    return 0;
}

static int is_config_file(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return entry->d_name[0] != '.' && dot && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

static int add_directory(struct config *config, const char *path, const struct config_options *options, struct err *err)
{
    struct dirent **entries = NULL;
    int count = scandir(path, &entries, is_config_file, alphasort);
    if (count < 0)
        return err_set(err, -EINVAL, "%s: cannot be read: %s", path, strerror(errno));
    int rc = 0;
    for (int i = 0; i < count; i++) {
        char file[CONFIG_PATH_BYTES + NAME_MAX];
        const char *slash = path[strlen(path) - 1] == '/' ? "" : "/";
        if (!rc) {
            snprintf(file, sizeof(file), "%s%s%s", path, slash, entries[i]->d_name);
            rc = add_file(config, file, options, err);
        }
        free(entries[i]);
    }
    free(entries);
    return rc;
}

int config_load(const char *path, const struct config_options *options, struct config *out, struct err *err)
{
    memset(out, 0, sizeof(*out));
    struct stat st;
    if (strlen(path) >= CONFIG_PATH_BYTES || !*path)
        return err_set(err, -EINVAL, "%.200s: expected a file name of 1 to %d bytes", path, CONFIG_PATH_BYTES - 1);
    if (stat(path, &st) < 0)
        return err_set(err, -EINVAL, "%s: cannot be read: %s", path, strerror(errno));
    int rc = S_ISDIR(st.st_mode) ? add_directory(out, path, options, err) : add_file(out, path, options, err);
    if (rc)
        config_free(out);
    return rc;
}

void config_free(struct config *c)
{
    free(c->volumes);
    memset(c, 0, sizeof(*c));
}
