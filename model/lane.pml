// One lane, formally: the rules of the lane as a model that spin searches exhaustively. docs/MODEL.md explains
// it and holds its results; scripts/model runs it. Names follow src/core/lane.h.
//
// A value is a number: 0 stands upstream at the start, the writes are 1, 2, 3 in the order of their sequence.
// So "newer" is ">", which only the assertions may use for values upstream. What the guard can know of them is
// their contents: a DELETE has the contents of value 0 (CONTENT).
//
// One process, one step per event. An event is what src/core/events.h calls one (a write arrives, a commit is
// durable, a call is answered), an action of the lane that may take its time (go direct, commit, deliver), or
// a fault. Everything that may happen is an option of one loop, and each step is atomic. Faults and writes have
// budgets, so every run ends; it must end with the lane idle (QUIET), which is the proof that nothing hangs.
//
// What is left out: several lanes (a lane knows only itself), held lanes and parking (a delivery overwrites
// whatever it finds: the rules must keep the order without help from the conflict check, because contents
// repeat), contents calls, time (a time-out may come at any moment; a window ends when what it waits for
// can happen no more).

#include "settings.pml"

// --- The upstream -----------------------------------------------------------------------------------------

byte mem[SLOTS];    // what xapi holds in memory: what it answers
byte flushed[SLOTS];  // what it has written out: what its crash leaves
bit dead;           // xapi has restarted, our session with it is gone, and the guard has not noticed

// Updates on their way. With all rules there is never more than one.
#define FREE 0
#define SENT 1      // may take effect at any time
#define APPLIED 2   // took effect, the answer is on its way
#define KILLED 3    // xapi died before it took effect
byte wire[WIRES];
byte wire_value[WIRES * SLOTS];  // the whole contents: an update replaces all slots (see `merge`)

// --- The lane: memory of the guard, lost at any crash ------------------------------------------------------

#define NONE 0
#define DIRECT 1
#define DELIVERY 2
byte call[WIRES];         // what the lane waits for on that wire
byte sent[WIRES * SLOTS];  // the values it carries for the lane
bit late[WIRES];          // unanswered for direct-timeout: doubt is open
bit old[WIRES];           // the session it was sent in is known to have ended

bit doubt;                // doubt window: an update without an answer whose connection is gone
bit compare;              // new session: retained values are not yet compared (rule 6)
bit known;                // the contents upstream are known ...
byte base[SLOTS];         // ... to be these; a direct write is merged into them
#if !RULE_4_FRESH
bit outdated;             // not for direct writes: there was doubt since
#define FRESH (known && !outdated)
#else
#define FRESH known
#endif

byte next[SLOTS];        // newest value not yet handed to anybody
byte committing[SLOTS];  // handed to the journal, not acknowledged
byte durable[SLOTS];     // newest acknowledged entry until its removal is durable
bit unsaved[SLOTS];      // ... a retained direct write, delivered again from memory only
byte delivered[SLOTS];   // values up to this one have arrived upstream
byte removing[SLOTS];    // removal under way up to this value
byte keeping[SLOTS];     // ... which keeps this one as retained
byte failed[SLOTS];      // a failed commit that may be on the disk all the same (rule 10)
byte retained[SLOTS];    // delivered, perhaps not yet durable upstream
bit on_disk[SLOTS];      // ... and its record is in the journal
byte releasing[SLOTS];   // the record that ends this retention is under way

// A read whose answer may come late. (Reads that are answered at once are checked in every state: CHECK.)
byte fetch;              // 0 none, 1 sent, 2 answered
byte fetched[SLOTS];
bit overlapped;          // an update was under way meanwhile

// --- The disk: what recovery finds --------------------------------------------------------------------------

byte record[SLOTS];      // newest record of the slot that was not ended, 0 none
bit record_retained[SLOTS];
#if !RULE_2
byte hard[SLOTS];        // without rule 2: what a power cut would leave of what recovery read
bit hard_retained[SLOTS];
bit soft;
#endif

// --- Ghosts: what the promises speak of ---------------------------------------------------------------------

byte acked[SLOTS];       // newest value that a client was told of, by an acknowledgement or a read
bit journaled[SLOTS];    // ... and the journal vouches for it, not only the upstream
bit weak[SLOTS];         // the guard forgot it in a crash: it survives what the upstream's database survives
byte written;            // values given out so far
byte deletes;            // bit v: value v is a DELETE
byte deleted[SLOTS];     // newest DELETE that took effect upstream

byte writes_left = WRITES;
byte lost_left = LOST;
byte fails_left = FAILS;
byte kills_left = KILLS;
byte cuts_left = CUTS;
byte restarts_left = RESTARTS;
byte reads_left = READS;
byte deletes_left = DELETES;

byte i, j, k, v, up;  // scratch, all 0 between steps

// A step is told in words when a trace is replayed: one line each, details after commas.
#define SAY_IF(condition, text) if :: condition -> printf(text) :: else fi
#define CONTENT(x) (((deletes >> (x)) & 1) -> 0 : (x))
#define SAME(x, y) (CONTENT(x) == CONTENT(y))
#define AT_LEAST(x, y) ((x) >= (y) || SAME(x, y))
// What stands upstream has the contents of `value` or of a newer one.
#define HOLDS(s, value) (AT_LEAST(mem[s], value) || (CONTENT(mem[s]) == 0 && deleted[s] >= (value)))
#define W(w, s) ((w) * SLOTS + (s))

#if SLOTS == 1
#define ALL(cond0, cond1) (cond0)
#define ANY(cond0, cond1) (cond0)
#else
#define ALL(cond0, cond1) ((cond0) && (cond1))
#define ANY(cond0, cond1) ((cond0) || (cond1))
#endif
#if WIRES == 1
#define ANY_WIRE(cond0, cond1) (cond0)
#else
#define ANY_WIRE(cond0, cond1) ((cond0) || (cond1))
#endif

#define CALLING ANY_WIRE(call[0] != NONE, call[1] != NONE)
#define DIRECT_IN_TIME ANY_WIRE(call[0] == DIRECT && !late[0], call[1] == DIRECT && !late[1])
// An update nobody waits for any more, and which may still take effect.
#define ORPHAN ANY_WIRE(wire[0] == SENT && call[0] == NONE, wire[1] == SENT && call[1] == NONE)
#define FREE_WIRE ANY_WIRE(wire[0] == FREE && call[0] == NONE, wire[1] == FREE && call[1] == NONE)

// The journal holds nothing of this slot that a recovery would deliver, and never will.
#if RULE_1
#define NOTHING_DURABLE(s) (durable[s] == 0 && removing[s] == 0)
#else
#define NOTHING_DURABLE(s) (durable[s] <= delivered[s])
#endif
#if RULE_10
#define NOTHING_FAILED(s) (failed[s] == 0)
#else
#define NOTHING_FAILED(s) true
#endif
#define CLEAN(s) (committing[s] == 0 && NOTHING_DURABLE(s) && NOTHING_FAILED(s))
#define JOURNAL_CLEAN ALL(CLEAN(0), CLEAN(1))

#if RULE_12_ONE
#define MAY_CALL (!CALLING)
#else
#define MAY_CALL FREE_WIRE
#endif
#if RULE_DOUBT
#define NO_DOUBT (!doubt)
#else
#define NO_DOUBT true
#endif
#define MAY_GO_DIRECT (MAY_CALL && FREE_WIRE && NO_DOUBT && JOURNAL_CLEAN && !compare)

#if NEVER_RELEASE
#define RELEASED(s) (next[s] == 0 || !on_disk[s])
#elif RULE_1B
#define RELEASED(s) (next[s] == 0 || (!on_disk[s] && releasing[s] == 0))
#else
#define RELEASED(s) true
#endif

#if RULE_12_DURABLE
#define PENDING(s) (durable[s] > delivered[s] -> durable[s] : 0)
#else
#define PENDING(s) (committing[s] > delivered[s] -> committing[s] : (durable[s] > delivered[s] -> durable[s] : 0))
#endif

#define SLOT_QUIET(s) (next[s] == 0 && CLEAN(s) && removing[s] == 0 && releasing[s] == 0)
#define QUIET (!CALLING && !ORPHAN && !doubt && !dead && !compare && ALL(SLOT_QUIET(0), SLOT_QUIET(1)))

// --- Promises -------------------------------------------------------------------------------------------------

// P1, at rest: upstream holds the newest acknowledged value or a newer one.
#define P1(s) HOLDS(s, acked[s])
// P2, at each update: no slot goes back to an older value. One exception, left to P1 and P3: a DELETE whose client was
// told "try again" took effect all the same; it looks like value 0, so an acknowledged value is delivered over it.
#define P2(value, s) (AT_LEAST(value, mem[s]) || CONTENT(mem[s]) == 0)
// P3: what a read that arrives now would be answered is no older than what was acknowledged. A slot whose
// commit is under way, or a lane that has to compare first, lets the read wait.
#if RULE_1 && RULE_12_DURABLE
#define READ_PENDING(s) (durable[s] != 0)
#else
#define READ_PENDING(s) (durable[s] > delivered[s] && committing[s] == 0)
#endif
#define READ_RETAINED(s) (compare && retained[s] != 0)
#define READ_WAITS(s) (committing[s] != 0 || compare || dead)
#define READ(s) (READ_PENDING(s) -> durable[s] : (READ_RETAINED(s) -> retained[s] : mem[s]))
#define P3(s) (READ_PENDING(s) -> AT_LEAST(durable[s], acked[s]) : \
  (READ_RETAINED(s) -> AT_LEAST(retained[s], acked[s]) : (READ_WAITS(s) -> true : HOLDS(s, acked[s]))))

#define BROKEN(text, held, least) printf(text, held, least); assert(false)

// After every step. A trace that ends here says which promise it breaks.
inline check() {
  printf("\n");
  for (i : 0 .. SLOTS - 1) {
    if
    :: QUIET && !P1(i) ->
      BROKEN("BROKEN P1: at rest the upstream holds %d, though %d was acknowledged\n", mem[i], acked[i])
    :: !P3(i) ->
      BROKEN("BROKEN P3: a read is answered with %d, though %d was acknowledged\n", READ(i), acked[i])
    :: else
    fi
  }
  i = 0; j = 0; k = 0; v = 0; up = 0
}

inline acknowledge(s, value, by_journal) {
  if
  :: value > acked[s] ->
    acked[s] = value; journaled[s] = by_journal; weak[s] = 0;
    printf("; the client of write %d is told: accepted", value)
  :: value == acked[s] && by_journal -> journaled[s] = 1; weak[s] = 0
  :: else
  fi
}

// --- Pieces of the lane -----------------------------------------------------------------------------------------

// An update replaces all slots, so it carries all of them. A delivery reads what stands there first (rule 4); a direct
// write may be merged into what is known.
inline merge_and_send(w, kind, cached) {
  for (j : 0 .. SLOTS - 1) {
    if
    :: cached -> wire_value[W(w, j)] = base[j]
    :: else -> wire_value[W(w, j)] = mem[j]
    fi;
    if
    :: kind == DIRECT -> v = next[j]; next[j] = 0
    :: else -> v = PENDING(j)
    fi;
    sent[W(w, j)] = v;
    if
    :: v != 0 -> wire_value[W(w, j)] = v
    :: else
    fi
  }
  wire[w] = SENT; call[w] = kind; overlapped = (fetch != 0)
}

// durable (delivered), or a failed commit with nothing newer behind it -> removing.
inline start_removal(s) {
  if
  :: removing[s] == 0 ->
    up = 0;
    if
    :: durable[s] != 0 && durable[s] <= delivered[s] && unsaved[s] -> durable[s] = 0; unsaved[s] = 0
    :: durable[s] != 0 && durable[s] <= delivered[s] && !unsaved[s] -> up = durable[s]; keeping[s] = (RULE_RETAIN -> durable[s] : 0)
    :: else
    fi;
    if
    :: RULE_10 && failed[s] > up && committing[s] == 0 && (up != 0 || durable[s] == 0) ->
      // The removal of what failed must not end the retention of the older entry that was delivered.
      if
      :: up == 0 && on_disk[s] && RULE_STAIN_KEEPS -> keeping[s] = retained[s]
      :: up == 0 && !(on_disk[s] && RULE_STAIN_KEEPS) -> keeping[s] = 0
      :: else
      fi;
      up = failed[s]
    :: else
    fi;
    removing[s] = up;
    up = 0
  :: else
  fi
}

// The values of a direct call without an answer in time go to the journal; a newer one waiting takes their place.
inline to_journal(w) {
  for (j : 0 .. SLOTS - 1) {
    if
    :: sent[W(w, j)] != 0 && next[j] == 0 -> next[j] = sent[W(w, j)]
    :: else
    fi
  }
}

inline hang_up(w) {
  call[w] = NONE; late[w] = 0; old[w] = 0;
  overlapped = (fetch != 0);
  for (j : 0 .. SLOTS - 1) {
    sent[W(w, j)] = 0;
    if
    :: wire[w] != SENT -> wire_value[W(w, j)] = 0
    :: else
    fi
  }
  if
  :: wire[w] != SENT -> wire[w] = FREE
  :: else
  fi
}

// The answer of an update: it has taken effect.
inline on_delivered(w) {
  for (k : 0 .. SLOTS - 1) {
    v = sent[W(w, k)];
    if
    :: v != 0 ->
      if
      :: v > delivered[k] -> delivered[k] = v
      :: else
      fi;
      if
      :: call[w] == DIRECT && !late[w] -> acknowledge(k, v, 0)
      :: else ->
        // Clients that wait for the journal are answered by the delivery (rule 11).
        if
        :: committing[k] != 0 && committing[k] <= v -> acknowledge(k, committing[k], 0)
        :: else
        fi;
        if
        :: next[k] != 0 && next[k] <= v -> acknowledge(k, next[k], 0); next[k] = 0
        :: else
        fi
      fi;
      if
      :: v > retained[k] && RULE_RETAIN -> retained[k] = v
      :: else
      fi;
      start_removal(k);
      if
      :: !RULE_1B && on_disk[k] && releasing[k] == 0 && durable[k] == 0 -> releasing[k] = v
      :: else
      fi
    :: else
    fi
  }
  // Accepted in a session that is known to have ended: it must be compared like all that is retained.
  if
  :: old[w] && RULE_6 && RULE_6_LATE -> compare = 1
  :: else
  fi;
  known = !old[w] && !doubt && SLOTS > 1;
#if !RULE_4_FRESH
  outdated = 0;
#endif
  for (k : 0 .. SLOTS - 1) {
    base[k] = (known -> wire_value[W(w, k)] : 0);
    if
    :: durable[k] == 0 && committing[k] == 0 && removing[k] == 0 -> delivered[k] = 0
    :: else
    fi
  };
  hang_up(w)
}

inline forget_known() {
  known = 0;
  for (j : 0 .. SLOTS - 1) { base[j] = 0 }
}

// Doubt: what was known is no base any more.
inline doubt_known() {
#if !RULE_4_FRESH
  outdated = known
#else
  if
  :: RULE_4_DROP -> forget_known()
  :: else
  fi
#endif
}

// Time-out or connection lost without an answer: the update may take effect later than a newer one.
inline on_unknown(w) {
  doubt_known();
  // xapi refuses calls of an ended session: what was sent in it can take effect no more.
  doubt = (doubt || (!old[w] && RULE_WINDOW));
  if
  :: call[w] == DIRECT && !late[w] -> to_journal(w)
  :: else
  fi;
  hang_up(w)
}

// What recovery finds of one slot. Each record that was on its way to the disk is there or not.
inline settle_disk(s) {
  if
  :: failed[s] > record[s] -> record[s] = failed[s]; record_retained[s] = 0;
     printf("; on the disk: write %d, whose commit had failed", failed[s])
  :: true
  fi;
  if
  :: committing[s] > record[s] -> record[s] = committing[s]; record_retained[s] = 0;
     printf("; on the disk: write %d, whose commit was under way", committing[s])
  :: true
  fi;
  if
  :: removing[s] != 0 -> end_record(s, removing[s], keeping[s]); printf("; on the disk: the removal that was under way")
  :: true
  fi;
  if
  :: releasing[s] != 0 -> release_record(s); printf("; on the disk: the release that was under way")
  :: true
  fi
}

// A removal or release up to a value, which keeps at most one record as retained.
inline end_record(s, up_to, keep) {
  if
  :: record[s] != 0 && record[s] <= up_to && keep != 0 && (RULE_STAIN_KEEPS || record[s] == keep) ->
    record[s] = keep; record_retained[s] = 1
  :: record[s] != 0 && record[s] <= up_to && (keep == 0 || !(RULE_STAIN_KEEPS || record[s] == keep)) ->
    record[s] = 0; record_retained[s] = 0
  :: else
  fi
}

inline release_record(s) {
  end_record(s, releasing[s], 0);
  if
  :: acked[s] <= releasing[s] && !STRICT_RELEASE -> journaled[s] = 0
  :: else
  fi
}

// The guard is dead and comes back: memory is lost, the journal is read.
inline recover() {
  for (i : 0 .. WIRES - 1) { hang_up(i) }
  for (i : 0 .. SLOTS - 1) {
    next[i] = 0; committing[i] = 0; delivered[i] = 0; removing[i] = 0; keeping[i] = 0; failed[i] = 0;
    releasing[i] = 0; unsaved[i] = 0; base[i] = 0; fetched[i] = 0;
    durable[i] = (record_retained[i] -> 0 : record[i]);
    retained[i] = (record_retained[i] -> record[i] : 0);
    on_disk[i] = record_retained[i];
    // P1 promises of a direct write what the upstream's own database keeps, once the guard has forgotten it.
    if
    :: !journaled[i] && !HOLDS(i, acked[i]) -> acked[i] = mem[i]
    :: else
    fi;
    weak[i] = restarts_left > 0 && !journaled[i] && acked[i] > flushed[i]
  }
  known = 0; dead = 0; fetch = 0; overlapped = 0;
  compare = RULE_6_START && ANY(retained[0] != 0, retained[1] != 0)
}

// --- Everything that may happen ------------------------------------------------------------------------------------

inline write_arrives(s, is_delete) {
  writes_left--; written++;
  if
  :: is_delete -> deletes = deletes | (1 << written); deletes_left--
  :: else
  fi;
  next[s] = written;
  printf("write %d of slot %d arrives", written, s); SAY_IF(is_delete, " (a DELETE: the contents of value 0)")
}

inline go_direct(w) {
  printf("a direct call is sent"); SAY_IF(FRESH, ", merged into what is known");
  merge_and_send(w, DIRECT, FRESH)
}

inline start_commit(s) {
  committing[s] = next[s]; next[s] = 0;
  printf("write %d goes to the journal", committing[s]);
  if
  :: !RULE_7 && durable[s] != 0 && unsaved[s] -> durable[s] = 0; unsaved[s] = 0; retained[s] = 0
  :: else
  fi;
  if
  :: !RULE_12_SYNC -> acknowledge(s, committing[s], 1)
  :: else
  fi
}

// A sync makes durable whatever is in the file.
inline synced() {
#if !RULE_2
  soft = 0;
  for (j : 0 .. SLOTS - 1) { hard[j] = 0; hard_retained[j] = 0 }
#else
  skip
#endif
}

inline commit_durable(s) {
  synced();
  v = committing[s]; committing[s] = 0;
  printf("the commit of write %d is durable", v);
  if
  :: failed[s] < v -> failed[s] = 0
  :: else
  fi;
  durable[s] = v; unsaved[s] = 0;
  if
  :: retained[s] < v -> retained[s] = 0
  :: else
  fi;
  on_disk[s] = 0;
  record[s] = v; record_retained[s] = 0;
  acknowledge(s, v, 1);
  start_removal(s)
}

inline commit_failed(s) {
  fails_left--;
  failed[s] = committing[s]; committing[s] = 0;
  printf("the commit of write %d fails; its client is told: unavailable", failed[s]);
  start_removal(s)
}

inline removal_durable(s) {
  up = removing[s]; removing[s] = 0;
  synced();
  printf("the removal up to %d is durable", up);
  if
  :: !RULE_UP_TO && durable[s] > up -> up = durable[s]
  :: else
  fi;
  end_record(s, up, keeping[s]);
  if
  :: failed[s] <= up -> failed[s] = 0
  :: else
  fi;
  if
  :: durable[s] != 0 && durable[s] <= up ->
    on_disk[s] = (record[s] != 0);
    // Not when a comparison made it pending again meanwhile.
    if
    :: durable[s] <= delivered[s] || !RULE_7_REMOVAL || !RULE_UP_TO -> durable[s] = 0; unsaved[s] = 0
    :: else
    fi
  :: durable[s] == 0 && up >= record[s] -> on_disk[s] = (record[s] != 0)
  :: else
  fi;
  keeping[s] = 0;
  start_removal(s);
  if
  :: durable[s] == 0 && committing[s] == 0 && removing[s] == 0 -> delivered[s] = 0
  :: else
  fi
}

inline release_durable(s) {
  synced();
  printf("the release of %d is durable", releasing[s]);
  release_record(s);
  // Not that of a newer value, delivered meanwhile.
  on_disk[s] = (RULE_RELEASE_UP_TO && on_disk[s] && retained[s] > releasing[s]);
  releasing[s] = 0
}

inline start_delivery(w) {
  printf("delivery: reads, merges what is durable, writes");
  merge_and_send(w, DELIVERY, !RULE_4_FRESH && known)
}

// xapi carries out an update. P2: no slot goes back to an older value.
inline takes_effect(w) {
  printf("the update takes effect");
  SAY_IF(call[w] == NONE, ", though nobody waits for it any more");
  for (j : 0 .. SLOTS - 1) {
    printf(", slot %d from %d to %d", j, mem[j], wire_value[W(w, j)]);
    if
    :: !P2(wire_value[W(w, j)], j) ->
      BROKEN("\nBROKEN P2: the upstream goes back from %d to %d\n", mem[j], wire_value[W(w, j)])
    :: else
    fi;
    mem[j] = wire_value[W(w, j)];
    if
    :: CONTENT(mem[j]) == 0 && mem[j] > deleted[j] -> deleted[j] = mem[j]
    :: else
    fi
  }
    if
  :: call[w] == NONE ->
    wire[w] = FREE;
    for (j : 0 .. SLOTS - 1) { wire_value[W(w, j)] = 0 }
  :: else -> wire[w] = APPLIED
  fi
}

inline session_noticed() {
  printf("the guard notices that its session has ended"); SAY_IF(doubt, ", and doubt with it");
  dead = 0; doubt = 0;
  for (j : 0 .. WIRES - 1) {
    if
    :: call[j] != NONE -> old[j] = 1
    :: else
    fi
  }
  if
  :: RULE_4_DROP -> forget_known()
  :: else
  fi;
  fetch = 0; overlapped = 0;
  for (j : 0 .. SLOTS - 1) { fetched[j] = 0 }
  compare = RULE_6 && ANY(retained[0] != 0, retained[1] != 0)
}

// The upstream went back if it holds contents that the guard knew before the retained value, and not its own. What is
// known is contents, not their order: a newer DELETE looks like value 0.
#define WENT_BACK(s) (!SAME(mem[s], retained[s]) && (mem[s] < retained[s] || CONTENT(mem[s]) == 0))

inline compared() {
  printf("retained values are compared with the upstream");
  compare = 0;
  for (j : 0 .. SLOTS - 1) {
    if
    :: retained[j] != 0 && WENT_BACK(j) && (durable[j] == 0 || durable[j] == retained[j]) ->
      printf("; slot %d went back: write %d is pending again", j, retained[j]);
      if
      :: durable[j] == 0 -> unsaved[j] = !on_disk[j]
      :: else
      fi;
      durable[j] = retained[j]; delivered[j] = 0
    :: else
    fi
  }
}

inline xapi_restarts() {
  restarts_left--;
  printf("xapi crashes and restarts with what it had flushed:");
  for (j : 0 .. SLOTS - 1) {
    printf(" slot %d from %d to %d", j, mem[j], flushed[j]);
    mem[j] = flushed[j];
    if
    :: weak[j] && !HOLDS(j, acked[j]) -> acked[j] = mem[j]
    :: else
    fi
  }
    for (k : 0 .. WIRES - 1) {
    if
    :: wire[k] == SENT && call[k] != NONE -> wire[k] = KILLED
    :: wire[k] == SENT && call[k] == NONE ->
      wire[k] = FREE;
      for (j : 0 .. SLOTS - 1) { wire_value[W(k, j)] = 0 }
    :: else
    fi
  }
  dead = 1
}

inline xapi_flushes() {
  printf("xapi writes its database out");
  for (j : 0 .. SLOTS - 1) { flushed[j] = mem[j] }
}

inline retention_over(s) {
  printf("the time to retain %d is over", retained[s]);
  if
  :: on_disk[s] -> releasing[s] = retained[s]
  :: else
  fi;
  retained[s] = 0
}

inline start_release(s) {
  releasing[s] = retained[s];
  printf("before a direct write of slot %d the retention of %d is ended", s, retained[s])
}

inline read_shows(s, value) {
  reads_left--;
  acked[s] = value; journaled[s] = (record[s] == value || !RULE_3); weak[s] = 0;
  printf("a read of slot %d is answered with %d", s, value)
}

inline fetch_sent() {
  reads_left--; fetch = 1; overlapped = (CALLING || doubt);
  printf("a read is sent to xapi")
}

inline fetch_reads() {
  fetch = 2;
  printf("xapi reads");
  for (j : 0 .. SLOTS - 1) { fetched[j] = mem[j] }
}

inline fetch_done() {
  printf("the read is answered");
  for (j : 0 .. SLOTS - 1) {
    if
    :: (!overlapped && !doubt) || !RULE_4_OVERLAP -> known = 1; base[j] = fetched[j]
    :: else
    fi;
    fetched[j] = 0
  }
  fetch = 0; overlapped = 0
}

inline session_lost() {
  restarts_left--; dead = 1;
  printf("the session ends, though xapi goes on")
}

inline never_takes_effect(w) {
  printf("the update that nobody waits for is gone, without effect");
  wire[w] = FREE;
  for (j : 0 .. SLOTS - 1) { wire_value[W(w, j)] = 0 }
}

inline window_over() {
  printf("the window of doubt is over");
  doubt = 0
}

inline times_out(w) {
  lost_left--;
  printf("the direct call has not answered in time: its values go to the journal");
  late[w] = 1;
  doubt_known();
  to_journal(w)
}

inline connection_lost(w) {
  printf("the connection of the call is lost without an answer");
  SAY_IF(wire[w] == SENT, ", and the update may still take effect");
  on_unknown(w)
}

inline refused(w) {
  lost_left--;
  printf("xapi refuses the call, nothing was changed");
  wire[w] = KILLED;
  if
  :: call[w] == DIRECT && !late[w] -> to_journal(w)
  :: else
  fi;
  hang_up(w)
}

inline answered(w) {
  printf("the call is answered: delivered");
  on_delivered(w)
}

inline guard_dies(power) {
  SAY_IF(power, "power cut, and the guard starts again"); SAY_IF(!power, "kill -9, and the guard starts again");
#if !RULE_2
  for (i : 0 .. SLOTS - 1) {
    if
    :: power && soft -> record[i] = hard[i]; record_retained[i] = hard_retained[i];
       printf("; what recovery had only read from memory is gone")
    :: true
    fi;
    if
    :: !power && !soft -> hard[i] = record[i]; hard_retained[i] = record_retained[i]
    :: else
    fi
  }
  soft = !power;
#endif
  for (i : 0 .. SLOTS - 1) { settle_disk(i) }
  // Of what was under way only a file in memory tells: kill -9 leaves it; without it every lane is in doubt.
  doubt = (power || (RULE_NOTE && (CALLING || (doubt && RULE_NOTE_WINDOW))));
  recover()
}

// One step: when it may happen, and what happens then. (spin wants a plain statement at the end.)
#define STEP(condition, event) :: d_step { (condition) -> event; i = 0 }

#define SLOT_EVENTS(s) \
  STEP(writes_left > 0 && (s == 0 || written > 0), write_arrives(s, false)) \
  STEP(writes_left > 0 && deletes_left > 0 && written > 0, write_arrives(s, true)) \
  STEP(next[s] != 0 && committing[s] == 0 && !(DIRECT_IN_TIME && JOURNAL_CLEAN), start_commit(s)) \
  STEP(committing[s] != 0, commit_durable(s)) \
  STEP(committing[s] != 0 && fails_left > 0, commit_failed(s)) \
  STEP(removing[s] != 0, removal_durable(s)) \
  STEP(next[s] != 0 && RULE_1B && !NEVER_RELEASE && on_disk[s] && releasing[s] == 0 && MAY_GO_DIRECT, start_release(s)) \
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
