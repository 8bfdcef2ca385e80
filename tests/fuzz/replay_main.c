/* Runs a fuzzer's function over every file of its corpus, so that each input that ever broke something is tried again
 * in every test run, without a fuzzer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_BYTES_MAX (4u << 20)

static int replay(const char *dir, const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return 1;
    }
    uint8_t *room = malloc(INPUT_BYTES_MAX);
    size_t n = room ? fread(room, 1, INPUT_BYTES_MAX, f) : 0;
    fclose(f);
    /* Exactly as long as the input, so that the address sanitizer sees every step beyond it. */
    uint8_t *data = malloc(n ? n : 1);
    if (!room || !data)
        abort();
    for (size_t i = 0; i < n; i++)
        data[i] = room[i];
    free(room);
    LLVMFuzzerTestOneInput(data, n);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s CORPUS-DIRECTORY\n", argv[0]);
        return 2;
    }
    DIR *dir = opendir(argv[1]);
    if (!dir) {
        perror(argv[1]);
        return 1;
    }
    unsigned count = 0;
    int failed = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        failed |= replay(argv[1], e->d_name);
        count++;
    }
    closedir(dir);
    printf("%u inputs replayed\n", count);
    return failed || count == 0;
}
