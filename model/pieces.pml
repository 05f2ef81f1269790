// Parts of the steps of lane.pml.

// --- Pieces of the lane ----------------------------------------------------------------------------------

// An update replaces all slots, so it carries all of them. A delivery reads what stands there first (rule
// 4); a direct write may be merged into what is known.
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
    :: durable[s] != 0 && durable[s] <= delivered[s] && !unsaved[s] ->
      up = durable[s]; keeping[s] = (RULE_RETAIN -> durable[s] : 0)
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

// The values of a direct call without an answer in time go to the journal; a newer one waiting takes their
// place.
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
  :: removing[s] != 0 ->
     end_record(s, removing[s], keeping[s]); printf("; on the disk: the removal that was under way")
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
