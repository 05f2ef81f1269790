// One lane, formally: the rules of the lane as a model that spin searches exhaustively. docs/MODEL.md
// explains it and holds its results; scripts/model runs it. Names follow src/core/lane.h.
//
// A value is a number: 0 stands upstream at the start, the writes are 1, 2, 3 in the order of their
// sequence. So "newer" is ">", which only the assertions may use for values upstream. What the guard can
// know of them is their contents: a DELETE has the contents of value 0 (CONTENT).
//
// One process, one step per event. An event is what src/core/events.h calls one (a write arrives, a commit
// is durable, a call is answered), an action of the lane that may take its time (go direct, commit,
// deliver), or a fault. Everything that may happen is an option of one loop, and each step is atomic.
// Faults and writes have budgets, so every run ends; it must end with the lane idle (QUIET), which is the
// proof that nothing hangs.
//
// What is left out: several lanes (a lane knows only itself), held lanes and parking (a delivery overwrites
// whatever it finds: the rules must keep the order without help from the conflict check, because contents
// repeat), contents calls, time (a time-out may come at any moment; a window ends when what it waits for
// can happen no more).

#include "settings.pml"
#include "state.pml"   // xapi, the lane, the disk; the promises
#include "pieces.pml"  // what the lane does in several of the steps, and recovery
#include "steps.pml"   // what happens at each event

// One step: when it may happen, and what happens then. (spin wants a plain statement at the end.)
#define STEP(condition, event) :: d_step { (condition) -> event; i = 0 }

#define SLOT_EVENTS(s) \
  STEP(writes_left > 0 && (s == 0 || written > 0), write_arrives(s, false)) \
  STEP(writes_left > 0 && deletes_left > 0 && written > 0, write_arrives(s, true)) \
  STEP(next[s] != 0 && committing[s] == 0 && !(DIRECT_IN_TIME && JOURNAL_CLEAN), start_commit(s)) \
  STEP(committing[s] != 0, commit_durable(s)) \
  STEP(committing[s] != 0 && fails_left > 0, commit_failed(s)) \
  STEP(removing[s] != 0, removal_durable(s)) \
  STEP(next[s] != 0 && RULE_1B && !NEVER_RELEASE && on_disk[s] && \
       releasing[s] == 0 && MAY_GO_DIRECT, start_release(s)) \
  STEP(releasing[s] != 0, release_durable(s)) \
  STEP(!ASSUME_FLUSH && retained[s] != 0 && !compare && SLOT_QUIET(s), retention_over(s)) \
  STEP(reads_left > 0 && durable[s] > acked[s], read_shows(s, durable[s])) \
  STEP(reads_left > 0 && !RULE_3 && committing[s] > acked[s], read_shows(s, committing[s]))

#define WIRE_EVENTS(w) \
  STEP(wire[w] == SENT, takes_effect(w)) \
  STEP(wire[w] == SENT && call[w] == NONE, never_takes_effect(w)) \
  STEP(wire[w] == APPLIED, answered(w)) \
  STEP(wire[w] == SENT && call[w] != NONE && lost_left > 0, refused(w)) \
  STEP(wire[w] != KILLED && call[w] != NONE && lost_left > 0, lost_left--; connection_lost(w)) \
  STEP(wire[w] == KILLED, connection_lost(w)) \
  STEP(call[w] == DIRECT && !late[w] && lost_left > 0, times_out(w)) \
  STEP(wire[w] == FREE && (w == 0 || wire[0] != FREE) && MAY_GO_DIRECT && !dead && \
       ANY(next[0] != 0, next[1] != 0) && ALL(RELEASED(0), RELEASED(1)), go_direct(w)) \
  STEP(wire[w] == FREE && (w == 0 || wire[0] != FREE) && MAY_CALL && NO_DOUBT && !compare && !dead && \
       ANY(PENDING(0) != 0, PENDING(1) != 0), start_delivery(w))

active proctype lane() {
  do
  :: atomic {
    if
  SLOT_EVENTS(0)
#if SLOTS > 1
  SLOT_EVENTS(1)
#endif
  WIRE_EVENTS(0)
#if WIRES > 1
  WIRE_EVENTS(1)
#endif
  // The window is long enough: what was sent before has taken effect by then, or never will (assumption 2).
  STEP(doubt && (!ORPHAN || !ASSUME_WINDOW), window_over())
  STEP(dead, session_noticed())
  STEP(compare && !dead && ((!CALLING && !doubt) || !RULE_6_QUIET), compared())
  STEP(restarts_left > 0 && ANY(mem[0] != flushed[0], mem[1] != flushed[1]), xapi_flushes())
  STEP(restarts_left > 0, xapi_restarts())
  STEP(restarts_left > 0 && !ASSUME_SESSION, session_lost())
  STEP(fetch == 0 && reads_left > 0 && SLOTS > 1 && !known && !compare && !dead &&
       ANY(durable[0] == 0, durable[1] == 0), fetch_sent())
  STEP(fetch == 1 && !dead, fetch_reads())
  STEP(fetch == 2, fetch_done())
  :: kills_left > 0 -> kills_left--; guard_dies(false)
  :: cuts_left > 0 -> cuts_left--; guard_dies(true)
  // Nothing can happen any more: nobody may be left waiting.
  :: else ->
    if
    :: !QUIET -> printf("BROKEN: something waits for ever\n"); assert(false)
    :: else
    fi;
    break
    fi;
    check()
  }
  od
}
