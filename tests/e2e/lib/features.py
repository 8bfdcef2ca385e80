"""What the daemon cannot do yet, so that tests which are ahead of it say so in one place."""

# Legs that may differ are made equal again: after a loss of power, after the death of a primary. While this is False,
# such pairs are refused by design: power cuts are checked on what each leg holds, and only secondaries are killed in
# mid-round. True: every power cut must end in a protected volume with equal legs, and either node is killed.
RESYNC = False

# Why a pair is refused meanwhile (repl/sync/handshake.c).
REFUSALS_WITHOUT_RESYNC = ("may lack writes that were not flushed", "ended while it was primary")
