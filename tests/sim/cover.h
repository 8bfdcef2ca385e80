/* What a batch of runs must have reached, and how often: a check that never meets its case proves nothing. */
#pragma once

#include <stdint.h>
#include <stdio.h>

/* X(name, batches, text): to be hit at least once by a batch of that many times COVER_SEEDS_MIN seeds, or more; 0: it
 * need not be. */
#define COVER_LIST(X)                                                                                                  \
    X(requests, 1, "requests given to an engine")                                                                      \
    X(writes_ok, 1, "writes acknowledged")                                                                             \
    X(zeroes_ok, 1, "discards and write-zeroes acknowledged")                                                          \
    X(flushes_ok, 1, "flushes acknowledged")                                                                           \
    X(fua_ok, 1, "FUA changes acknowledged")                                                                           \
    X(reads_ok, 1, "reads answered")                                                                                   \
    X(changes_failed, 1, "changes and flushes answered with an error")                                                 \
    X(reads_failed, 1, "reads answered with an error")                                                                 \
    X(not_supported, 1, "fast zeroes answered with EOPNOTSUPP")                                                        \
    X(requests_lost, 1, "requests lost with the daemon that had them")                                                 \
    X(overlap_queued, 1, "requests that overlapped a change in flight")                                                \
    X(front_full, 1, "requests held back because the engine was full")                                                 \
    X(front_starved, 1, "requests held back because no buffer was free")                                               \
    X(link_starved, 1, "frames held back because no buffer was free")                                                  \
    X(sessions_up, 1, "sessions that came up")                                                                         \
    X(sessions_down, 1, "sessions that went down")                                                                     \
    X(down_with_changes, 1, "sessions that went down with changes on their way")                                       \
    X(resent, 1, "changes sent again on a later session")                                                              \
    X(resent_had_it, 1, "changes sent again that the peer's disk already had")                                         \
    X(refused, 1, "sessions refused")                                                                                  \
    X(epoch_heard, 1, "promotions on a node that had refused a peer, and knew its epoch")                              \
    X(hellos, 1, "hellos delivered")                                                                                   \
    X(acks_lost, 1, "acknowledgements lost on their way")                                                              \
    X(frames, 1, "frames delivered")                                                                                   \
    X(connect_failed, 1, "fault: connects that failed")                                                                \
    X(connect_hung, 1, "fault: connects that hung")                                                                    \
    X(conn_broken, 1, "fault: connections broken")                                                                     \
    X(half_open, 1, "fault: connections broken so that one end did not notice")                                        \
    X(frame_dropped, 1, "fault: single frames dropped")                                                                \
    X(payload_corrupted, 1, "fault: payloads corrupted")                                                               \
    X(header_corrupted, 1, "fault: headers corrupted")                                                                 \
    X(frame_stale, 1, "fault: frames of a closed connection handed over late")                                         \
    X(stalled, 1, "fault: one-way stalls")                                                                             \
    X(partition, 1, "fault: partitions")                                                                               \
    X(stranger, 1, "fault: strangers that connected")                                                                  \
    X(old_conn_delivers, 1, "frames of an older connection delivered while a newer one was being made")                \
    X(disk_write_error, 1, "fault: writes that failed")                                                                \
    X(disk_zero_error, 1, "fault: discards and zeroes that failed")                                                    \
    X(disk_read_error, 1, "fault: reads that failed")                                                                  \
    X(disk_flush_error, 1, "fault: flushes that failed")                                                               \
    X(disk_short_write, 1, "fault: writes that were cut short")                                                        \
    X(disk_stall, 1, "fault: disks that hung for a while")                                                             \
    X(meta_copy_error, 1, "fault: superblock copies that failed")                                                      \
    X(log_page_error, 1, "fault: pages of the activity log that failed")                                               \
    X(bitmap_page_error, 1, "fault: pages of the bitmap that failed")                                                  \
    X(page_power, 1, "... of either, whose node lost its power just then")                                             \
    X(meta_failed, 1, "superblock writes that failed as a whole")                                                      \
    X(meta_cut, 1, "superblock writes cut by a crash")                                                                 \
    X(meta_torn, 1, "superblock writes torn by a loss of power")                                                       \
    X(meta_damage, 1, "fault: metadata that rots or cannot be read any more")                                          \
    X(seal_damage, 1, "... and was the seal of the activity log's newest block, or that block")                        \
    X(meta_unreadable, 1, "metadata that could not be read")                                                           \
    X(superblock_repaired, 1, "superblocks with a copy that was damaged or left behind")                               \
    X(disk_latent_error, 1, "reads of what cannot be read any more")                                                   \
    X(disk_rot, 1, "fault: bits that rotted")                                                                          \
    X(disk_lost_write, 1, "fault: writes that never happened")                                                         \
    X(disk_misdirected_write, 1, "fault: writes that landed elsewhere")                                                \
    X(power_primary, 1, "fault: the primary's machine lost power")                                                     \
    X(power_secondary, 1, "fault: the secondary's machine lost power")                                                 \
    X(power_both, 1, "fault: both machines lost power at once")                                                        \
    X(power_at_start, 1, "fault: a machine lost power while a daemon started")                                         \
    X(power_lost_sectors, 1, "losses of power that took unflushed blocks with them")                                   \
    X(cut_torn, 1, "blocks torn inside by a loss of power")                                                            \
    X(cut_unreadable, 1, "blocks that cannot be read after a loss of power")                                           \
    X(cut_torn_superblock, 1, "sectors torn inside by a loss of power, of a superblock")                               \
    X(cut_torn_log, 1, "... of the activity log")                                                                      \
    X(cut_torn_bitmap, 1, "... of the bitmap")                                                                         \
    X(cut_unreadable_meta, 1, "... of either that cannot be read after it")                                            \
    X(read_nobody, 1, "blocks that a read failed on as neither leg can be read there")                                 \
    X(torn_read, 1, "reads of a block that a loss of power has torn inside")                                           \
    X(torn_stayed, 1, "such blocks that were on both legs in the end")                                                 \
    X(power_lost_both, 1, "losses of power after which no leg had everything")                                         \
    X(clock_jump, 1, "fault: clocks that went forward")                                                                \
    X(secondary_crash, 1, "fault: secondary daemons killed")                                                           \
    X(crash_torn_write, 1, "disk writes torn by a crash")                                                              \
    X(secondary_detach, 1, "operator: secondaries detached and attached again")                                        \
    X(primary_detach, 1, "operator: primaries detached")                                                               \
    X(primary_crash, 1, "fault: primary daemons killed")                                                               \
    X(survivor_checked, 1, "promotions whose leg was proven to hold every acknowledged write")                         \
    X(acked_alone, 1, "changes and flushes acknowledged that the other leg lacked")                                    \
    X(whole_targeted, 1, "legs that had everything and became targets, of a leg that had it on stable storage")        \
    X(left_behind, 1, "decrees without the other leg, of what was acknowledged and not flushed")                       \
    X(acked_late, 0, "changes acknowledged after the other node, who had them, served apart")                          \
    X(acked_diskless, 1, "changes and flushes acknowledged through the peer's leg, the own one having failed")         \
    X(read_diskless, 1, "reads answered by a primary whose leg has failed")                                            \
    X(diskless_cut_peer, 1, "fault: the node with the only leg killed while it recorded that")                         \
    X(diskless_cut_primary, 1, "fault: a primary killed whose leg had failed")                                         \
    X(diskless_power, 1, "fault: the node with the only leg lost power")                                               \
    X(diskless_swapped, 1, "operator: the node with the only leg became primary")                                      \
    X(caught_up, 1, "legs that were behind, and in sync again")                                                        \
    X(stale_served, 1, "promotions, by force or apart, of a leg that lacked something")                                \
    X(split_brain, 1, "split brains: both nodes acknowledged alone")                                                   \
    X(unreadable_healed, 1, "blocks written because a resync could not read them")                                     \
    X(finish_raced, 1, "resyncs whose target was done while changes were in flight")                                   \
    X(zeroes_resync, 1, "discards and write-zeroes acknowledged during a resync")                                      \
    X(bits_left, 1, "hellos with set bits and a history equal to the other's")                                         \
    X(read_old, 6, "blocks read from a disk that shows what it had before a failed flush")                             \
    X(reads_lie, 1, "daemons that ended after a failed flush, whose disk still shows what it has lost")                \
    X(resync_resumed, 1, "resyncs that went on where they had been interrupted")                                       \
    X(resync_full_resumed, 1, "... of everything, likewise")                                                           \
    X(break_bits, 1, "fault: sessions cut at the bits of a resync")                                                    \
    X(break_ask, 1, "fault: sessions cut at a question of the target")                                                 \
    X(break_data, 1, "fault: sessions cut at an answer of the source")                                                 \
    X(break_stable, 1, "fault: sessions cut at the word of what is stable")                                            \
    X(break_done, 1, "fault: sessions cut when the target was done")                                                   \
    X(break_taken, 1, "fault: sessions cut when the target was taken in")                                              \
    X(finish_source_dies, 1, "fault: sources killed between their record of the finish and the target's")              \
    X(power_stable, 1, "fault: the target of a resync lost power just after it had called blocks stable")              \
    X(resync_power_both, 1, "fault: both machines lost power during a resync")                                         \
    X(replaced, 1, "operator: disks replaced")                                                                         \
    X(replaced_alone, 1, "operator: disks replaced while the other node, primary, went on alone")                      \
    X(replaced_again, 1, "operator: replaced disks replaced before they were whole")                                   \
    X(replaced_resumed, 1, "first resyncs of replaced disks that went on where they had been interrupted")             \
    X(replaced_power, 1, "fault: a replaced disk lost power in its first resync")                                      \
    X(replaced_source_power, 1, "fault: the node from which a replaced disk gets everything lost power")               \
    X(resized, 1, "operator: volumes grown")                                                                           \
    X(resize_refused, 1, "operator: resizes refused, or cut off")                                                      \
    X(copied, 1, "disks copied")                                                                                       \
    X(put_back, 1, "fault: disks put back from an older copy")                                                         \
    X(copy_by_peer, 1, "... of which the peer knew a later state")                                                     \
    X(copy_by_register, 1, "... the register")                                                                         \
    X(resize_cut, 1, "fault: sessions cut, nodes killed and disks replaced in a resize")                               \
    X(grown, 1, "larger sizes that clients were told")                                                                 \
    X(promoted_half, 1, "operator: targets of a resync promoted by force half-way")                                    \
    X(split_told, 1, "split brains that stood in the end, and were told on both nodes")                                \
    X(half_lacks, 1, "fault: secondaries that lost power in runs in which operators use force")                        \
    X(half_served, 1, "... that were served on while they were half made, and behind")                                 \
    X(half_told, 1, "... as a target had been promoted by force, likewise")                                            \
    X(two_volumes, 1, "two volumes of one name, likewise")                                                             \
    X(promoted, 1, "operator: promotions")                                                                             \
    X(promoted_force, 1, "operator: promotions by force")                                                              \
    X(promote_refused, 1, "operator: promotions refused")                                                              \
    X(promote_race, 1, "operator: both nodes told to promote at once")                                                 \
    X(takeover, 1, "operator: the peer promoted while the primary's disk hangs")                                       \
    X(two_primaries, 1, "operator: promoted while the other, out of sight, is primary")                                \
    X(demoted, 1, "operator: demotions")                                                                               \
    X(role_swapped, 1, "operator: the other node became primary")                                                      \
    X(decrees, 1, "decrees of the register")                                                                           \
    X(decree_of_the_dead, 6, "... that were asked for before the node's last start")                                   \
    X(swap_answer_lost, 1, "swaps that were carried out, and the answer got lost")                                     \
    X(register_down, 1, "times that the register was out of reach for both nodes")                                     \
    X(register_cut, 1, "... for one of them, or its answers were")                                                     \
    X(deaf_primary, 1, "times that a primary heard its peer, and was heard by nobody")                                 \
    X(register_restart, 1, "starts of the register, which forgets whom it has heard")                                  \
    X(paused, 1, "times that a node stood still")                                                                      \
    X(register_forced, 1, "operator: no member was whole, and one was forced")                                         \
    X(register_confirmed, 1, "operator: confirmed a register that waited for a node")                                  \
    X(register_adopted, 0, "operator: adopted over a register that was older than nodes promoted by hand")             \
    X(rollback_witness, 1, "fault: witnesses put back to an older copy, or an empty one")                              \
    X(rollback_etcd, 1, "fault: etcds put back to a snapshot, with their keys or without")                             \
    X(rollback_foreign, 1, "fault: etcds put back as another cluster")                                                 \
    X(rollback_to_nothing, 1, "... of these three, without any decree")                                                \
    X(rollback_adopted, 1, "operator: adopted over one of these")                                                      \
    X(rollback_without, 6, "operator: took it out of the configuration, as the nodes did not know everything")         \
    X(nobody_waited, 1, "operator: nobody serves, and two good legs are left to find each other")                      \
    X(taken_by_word, 1, "targets whose source had died, and that found themselves in the register's set")              \
    X(switched, 1, "operator: switchovers")                                                                            \
    X(switched_in_sync, 1, "... after which nothing had to be resynced")                                               \
    X(switch_refused, 1, "operator: switchovers refused, or whose end was not known in time")                          \
    X(switch_called_off, 1, "... after which the primary served on")                                                   \
    X(switch_cut, 1, "fault: nodes killed, sessions cut and the register lost in one")                                 \
    X(held_failed, 1, "reads that were held for a switchover for too long, and failed (`fail-after`)")                 \
    X(outage, 1, "fault: both machines lost power at once, with a register")                                           \
    X(outage_register, 1, "... and the register with them")                                                            \
    X(sole_resumed, 1, "nodes that had lost power, and resumed as the only member")                                    \
    X(sleeps, 1, "fault: machines that slept, with a register")                                                        \
    X(sleeps_both, 1, "... both at once")                                                                              \
    X(sleeps_long, 1, "... longer than anything that a node waits for")                                                \
    X(sleeps_read, 1, "reads that waited for a machine that slept")                                                    \
    X(sleeps_read_deposed, 1, "... while the other node served")                                                       \
    X(clock_jump_alone, 1, "fault: clocks that went forward by themselves, with a register")                           \
    X(probes, 1, "reads on a node that served while a newer one did, which changed what they read")                    \
    X(no_goodbye, 1, "fault: connections of a primary that is heard by nobody, whose end it did not hear")             \
    X(force_refused, 1, "operator: promotions by force refused, with a register")                                      \
    X(forced_living, 1, "operator: forced a promotion while the other node served")                                    \
    X(forced_past_whole, 1, "... while the other one's leg was whole")                                                 \
    X(took_living, 0, "automatic failovers from a primary that served and ran")                                        \
    X(calm_runs, 1, "runs with a register in which nothing strikes, and service must not move")                        \
    X(rested, 1, "times that nobody touched anything, in the end, and service had not moved")                          \
    X(took_over, 1, "automatic failovers")                                                                             \
    X(verified, 1, "verifies that found both legs equal")                                                              \
    X(verify_unreadable, 1, "verifies that met what cannot be read")                                                   \
    X(verify_refused, 1, "verifies refused, or overtaken by a change of roles")                                        \
    X(verify_broken, 1, "verifies ended by the end of their session")                                                  \
    X(verify_found, 1, "verifies that found what a disk had spoilt")                                                   \
    X(compare_found, 1, "verifies of the end that found exactly what disks had spoilt, and had it repaired")           \
    X(compared, 1, "... that found nothing any more, or nothing left")                                                 \
    X(found_power, 1, "fault: the primary's machine lost power after a verify had found something")                    \
    X(found_refused, 1, "operator: chose by force between two legs, each with what the other one may lack")            \
    X(apart_refused, 0, "... as both had been promoted at one epoch")                                                  \
    X(found_kept, 0, "... and kept the leg that was found to differ")                                                  \
    X(decided, 1, "operator: ended a split brain: kept one leg, and made the other one anew")                          \
    X(resolves, 1, "operator: ended a split brain: gave up one leg, by resolve")                                       \
    X(resolve_cut, 1, "fault: nodes killed, or without power, in a resolve")                                           \
    X(resolve_broken, 1, "resolves that came to nothing")                                                              \
    X(given_up, 1, "legs that were given up on their record")                                                          \
    X(kept, 1, "blocks that were kept, and only this leg had")                                                         \
    X(resolved, 1, "resolves done")                                                                                    \
    X(leg_failed, 1, "failed legs that nobody was to mend, and that were told")                                        \
    X(converged, 1, "runs that ended with both legs equal and in sync")                                                \
    X(audits, 1, "audits of both legs against the model")

enum cover_mark {
#define COVER_ENUM(name, batches, text) COVER_##name,
    COVER_LIST(COVER_ENUM)
#undef COVER_ENUM
        COVER_MARKS
};

#define COVER_SEEDS_MIN 10000

struct cover {
    uint64_t hits[COVER_MARKS];
};

/* Where this process counts. */
extern struct cover *cover_here;

#define COVER(name) (cover_here->hits[COVER_##name]++)

void cover_add(struct cover *to, const struct cover *from);
void cover_print(FILE *f, const struct cover *c);

/* Prints the marks that were expected and not reached; returns their number. */
unsigned cover_missing(FILE *f, const struct cover *c, uint64_t seeds);
