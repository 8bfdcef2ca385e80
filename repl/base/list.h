/* An intrusive, circular, doubly linked list: the element carries the node, so linking never allocates. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next;
    struct list *prev;
};

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void list_init(struct list *head)
{
    head->next = head;
    head->prev = head;
}

static inline bool list_empty(const struct list *head) { return head->next == head; }

static inline void list_append(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

/* Puts `node` in front of `where`. */
static inline void list_insert_before(struct list *where, struct list *node) { list_append(where, node); }

/* Leaves `node` pointing at itself, so that removing it twice is harmless and list_empty() tells whether it is linked.
 */
static inline void list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

/* NULL when the list is empty. */
static inline struct list *list_first(const struct list *head) { return list_empty(head) ? NULL : head->next; }

static inline struct list *list_pop(struct list *head)
{
    struct list *node = list_first(head);
    if (node)
        list_remove(node);
    return node;
}

/* NOLINTBEGIN(bugprone-macro-parentheses): `pos` is declared here, and a declared name takes no parentheses. */
#define list_for_each(pos, head) for (struct list *pos = (head)->next; pos != (head); pos = pos->next)

/* `pos` may be removed from the list inside the loop. */
#define list_for_each_safe(pos, head)                                                                                  \
    for (struct list *pos = (head)->next, *pos##_next = pos->next; pos != (head);                                      \
         pos = pos##_next, pos##_next = pos->next)
/* NOLINTEND(bugprone-macro-parentheses) */
