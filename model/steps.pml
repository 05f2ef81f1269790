// The steps of lane.pml: one event each, with what the lane does at once.

// --- Everything that may happen --------------------------------------------------------------------------

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

// The upstream went back if it holds contents that the guard knew before the retained value, and not its
// own. What is known is contents, not their order: a newer DELETE looks like value 0.
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
  SAY_IF(power, "power cut, and the guard starts again");
  SAY_IF(!power, "kill -9, and the guard starts again");
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
