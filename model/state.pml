// What a state of lane.pml is made of, and what is promised of it.



// --- The upstream ----------------------------------------------------------------------------------------

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

// --- The lane: memory of the guard, lost at any crash ----------------------------------------------------

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

// --- The disk: what recovery finds -----------------------------------------------------------------------

byte record[SLOTS];      // newest record of the slot that was not ended, 0 none
bit record_retained[SLOTS];
#if !RULE_2
byte hard[SLOTS];        // without rule 2: what a power cut would leave of what recovery read
bit hard_retained[SLOTS];
bit soft;
#endif

// --- Ghosts: what the promises speak of ------------------------------------------------------------------

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
#define PENDING(s) (committing[s] > delivered[s] -> committing[s] : \
  (durable[s] > delivered[s] -> durable[s] : 0))
#endif

#define SLOT_QUIET(s) (next[s] == 0 && CLEAN(s) && removing[s] == 0 && releasing[s] == 0)
#define QUIET (!CALLING && !ORPHAN && !doubt && !dead && !compare && ALL(SLOT_QUIET(0), SLOT_QUIET(1)))

// --- Promises --------------------------------------------------------------------------------------------

// P1, at rest: upstream holds the newest acknowledged value or a newer one.
#define P1(s) HOLDS(s, acked[s])
// P2, at each update: no slot goes back to an older value. One exception, left to P1 and P3: a DELETE whose
// client was told "try again" took effect all the same; it looks like value 0, so an acknowledged value is
// delivered over it.
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
