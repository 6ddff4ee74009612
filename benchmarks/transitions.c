/* A plugin of qemu: how often control went from one block of instructions to another.
 *
 *     cc -O2 -shared -fPIC -o transitions.so transitions.c
 *     qemu-system-arm ... -plugin ./transitions.so,from=ADDRESS,to=ADDRESS,out=FILE
 *
 * A block is what qemu translates at once: instructions that run one after the other, from `first` to
 * `last`. Counted is from each time the block at `from` begins until the block at `to` does. At its
 * end qemu writes a line `first last next count` for each pair of blocks, addresses in hexadecimal;
 * a block's counts add up to how often it ran. The functions of qemu are declared here because few
 * distributions install their header (API version 1: qemu 4.2 to 8.2). */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*call)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                          void (*call)(unsigned int, void *), int flags,
                                          void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*call)(qemu_plugin_id_t, void *),
                                    void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);

int qemu_plugin_version = 1;
int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv);

/* How often one block was followed by another. */
struct edge {
    const struct block *next;
    uint64_t count;
    struct edge *other;
};

struct block {
    uint64_t first, last;
    struct edge *edges;
    struct block *older;
};

static struct block *blocks, *current; /* all of them, and the one that runs if it is counted */
static uint64_t begin, end;            /* blocks between which is counted */
static const char *path;

static void *made(size_t size)
{
    void *const memory = calloc(1, size);
    if (memory == NULL)
        abort();
    return memory;
}

static void ran(unsigned int core, void *data)
{
    struct block *const block = data;
    struct edge **at;
    (void)core;
    if (current == NULL) {
        current = block->first == begin ? block : NULL;
        return;
    }
    for (at = &current->edges; *at != NULL && (*at)->next != block;)
        at = &(*at)->other;
    if (*at == NULL) {
        *at = made(sizeof **at);
        (*at)->next = block;
    }
    (*at)->count++;
    current = block->first == end ? NULL : block;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    struct block *const block = made(sizeof *block);
    (void)id;
    block->first = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
    block->last =
        qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, qemu_plugin_tb_n_insns(tb) - 1));
    block->older = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, ran, 0, block);
}

static void write_all(qemu_plugin_id_t id, void *data)
{
    FILE *const file = fopen(path, "w");
    (void)id;
    (void)data;
    if (file == NULL)
        return;
    for (const struct block *block = blocks; block != NULL; block = block->older)
        for (const struct edge *edge = block->edges; edge != NULL; edge = edge->other)
            fprintf(file, "%" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIu64 "\n", block->first,
                    block->last, edge->next->first, edge->count);
    fclose(file);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        char *const value = strchr(argv[i], '=') + 1;
        if (strncmp(argv[i], "from=", 5) == 0)
            begin = strtoull(value, NULL, 16);
        else if (strncmp(argv[i], "to=", 3) == 0)
            end = strtoull(value, NULL, 16);
        else
            path = strcpy(made(strlen(value) + 1), value);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, write_all, NULL);
    return 0;
}
