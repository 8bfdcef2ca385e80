/* The answering half of verify: what a range of this leg holds, as a digest. */
#pragma once

#include "repl/sync/verify.h"

struct verify_reply;

/* NULL: out of memory. */
struct verify_reply *verify_reply_open(const struct resync_config *config);
void verify_reply_close(struct verify_reply *r);

/* Before the first question of a session. */
void verify_reply_begin(struct verify_reply *r, const struct digest_key *key);

/* FRAME_VERIFY_ASK. NULL, or what is wrong with it: a constant text. */
const char *verify_reply_frame(struct verify_reply *r, const struct frame *frame, uint64_t now_ns, struct actions *out);

/* Operations from VERIFY_REPLY_OP_FIRST on. */
void verify_reply_disk_done(struct verify_reply *r, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out);
void verify_reply_tick(struct verify_reply *r, uint64_t now_ns, struct actions *out);
uint64_t verify_reply_deadline_ns(const struct verify_reply *r); /* UINT64_MAX: none */
void verify_reply_stop(struct verify_reply *r, struct actions *out);
bool verify_reply_is_idle(const struct verify_reply *r);
