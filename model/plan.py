"""What scripts/model searches: bounds, rules to leave out, and what that breaks."""

# Names of the model's constants in words.
BOUND_NAMES = {
    "WRITES": "writes", "DELETES": "of them DELETEs", "LOST": "lost answers", "FAILS": "failed commits",
    "KILLS": "kill -9", "CUTS": "power cuts", "RESTARTS": "crashes of xapi", "READS": "reads",
}


def bounds(slots=1, wires=1, **budgets):
    return {"SLOTS": slots, "WIRES": wires, **{name.upper(): value for name, value in budgets.items()}}


# With all rules. One wire is enough there: a second update under way would itself be a fault of the rules, so
# configuration `wires` gives room for one and shows that it stays unused.
CONFIGURATIONS = {
    "one-slot": {"bounds": bounds(writes=3, deletes=1, lost=1, fails=1, kills=1, cuts=1, restarts=1, reads=1)},
    "two-slots": {"bounds": bounds(slots=2, writes=3, lost=1, fails=1, kills=1, cuts=1, restarts=1)},
    "merging": {"bounds": bounds(slots=2, writes=3, lost=2, fails=1, reads=1)},
    "crashes": {"bounds": bounds(writes=3, lost=1, fails=1, kills=2, cuts=2, reads=1)},
    "rollbacks": {"bounds": bounds(writes=3, deletes=1, lost=2, fails=1, kills=1, restarts=2)},
    "wires": {"bounds": bounds(wires=2, writes=3, lost=2, fails=1, kills=1, restarts=1)},
    # Without the known limit release-gap: a write of a slot with a retained record goes to the journal instead.
    "no-release": {"bounds": {**bounds(writes=3, deletes=1, lost=1, fails=1, kills=1, cuts=1, restarts=1, reads=1),
                              "STRICT_RELEASE": 1, "NEVER_RELEASE": 1}},
}
QUICK_CONFIGURATIONS = ["merging"]

KINDS = {"rule": "Without a rule", "assumption": "Without an assumption", "limit": "Known limits"}


def rule(switch, breaks, text, limits, kind="rule", **more):
    return {"switch": switch, "breaks": breaks, "text": text, "bounds": limits, "kind": kind, **more}


LEFT_OUT = {
    "1": rule("RULE_1", "P3", "direct only when the removal is durable", bounds(writes=2, cuts=1)),
    "1b": rule("RULE_1B", "P3", "a retained record is released, durably, before a direct write of its slot is sent",
               bounds(writes=2, kills=1, deletes=1)),
    "2": rule("RULE_2", "P3", "recovery syncs what it has read before it trusts it",
              bounds(writes=2, kills=1, cuts=1, reads=1)),
    "3": rule("RULE_3", "P1", "a read never shows a write whose commit is under way", bounds(writes=1, kills=1, reads=1)),
    "4-overlap": rule("RULE_4_OVERLAP", "P2", "a read that an update overlapped does not count as known contents",
                      bounds(slots=2, writes=2, reads=1)),
    "4-doubt": rule("RULE_4_DROP", "P2", "doubt and a new session drop the known contents",
                    bounds(slots=2, writes=3, lost=2, fails=1)),
    "4-fresh": rule("RULE_4_FRESH", "P2", "a delivery merges into contents read freshly, never into known ones",
                    bounds(slots=2, writes=3, lost=2, fails=1)),
    "6": rule("RULE_6", "P1", "after a new session a lane compares what it retains", bounds(writes=1, restarts=1)),
    "7": rule("RULE_7", "P3", "a value that is delivered again stays until a newer one is durable",
              bounds(writes=2, restarts=1, fails=1)),
    "10": rule("RULE_10", "P3", "a failed commit may be on the disk all the same", bounds(writes=2, fails=1, kills=1)),
    "10-keep": rule("RULE_STAIN_KEEPS", "P1", "ending a failed commit does not end the retention of the value before it",
                    bounds(writes=2, fails=1, kills=1, restarts=1)),
    "12-one": rule("RULE_12_ONE", "P2", "one update of a lane at a time", bounds(wires=2, writes=2)),
    "12-durable": rule("RULE_12_DURABLE", "P3", "only durable entries are delivered", bounds(writes=2, cuts=1)),
    "12-sync": rule("RULE_12_SYNC", "P3", "acknowledged after the sync, not after the write", bounds(writes=1, cuts=1)),
    "doubt": rule("RULE_DOUBT", "P2", "no update of a lane in doubt", bounds(wires=2, writes=2, lost=1)),
    "doubt-eof": rule("RULE_WINDOW", "P2", "a lost connection does not end doubt, only begins its window",
                      bounds(wires=2, writes=2, lost=1)),
    "note": rule("RULE_NOTE", "P2", "which lanes have a call under way survives kill -9",
                 bounds(wires=2, writes=2, kills=1)),
    "note-window": rule("RULE_NOTE_WINDOW", "P2", "and so does which lanes are in a window of doubt",
                        bounds(wires=2, writes=2, lost=1, kills=1)),
    "6-late": rule("RULE_6_LATE", "P1", "what an update of an ended session delivered is compared too",
                   bounds(writes=1, restarts=1)),
    "6-start": rule("RULE_6_START", "P1", "what recovery finds retained is compared", bounds(writes=1, kills=1, restarts=1)),
    "6-quiet": rule("RULE_6_QUIET", "P3", "nothing is compared while an update is under way or in doubt",
                    bounds(writes=3, lost=1, restarts=1)),
    "7-removal": rule("RULE_7_REMOVAL", "P1", "a removal under way does not end a value that is to be delivered again",
                      bounds(writes=1, restarts=1)),
    "up-to": rule("RULE_UP_TO", "P1", "a removal ends nothing newer than what was delivered", bounds(writes=2)),
    "release-up-to": rule("RULE_RELEASE_UP_TO", "P3", "a release that becomes durable late ends no newer retention",
                          bounds(writes=3, kills=1, deletes=1)),
    "retain": rule("RULE_RETAIN", "P1", "what was delivered is retained", bounds(writes=1, restarts=1)),
    "window": rule("ASSUME_WINDOW", "P2", "after the window an update that was sent before takes effect no more",
                   bounds(wires=2, writes=2, lost=1), kind="assumption"),
    "session": rule("ASSUME_SESSION", "P2", "a session ends only when xapi does", bounds(wires=2, writes=2, lost=1, restarts=1),
                    kind="assumption"),
    "flush": rule("ASSUME_FLUSH", "P1", "what xapi accepted is flushed before its retention is over",
                  bounds(writes=1, restarts=1), kind="assumption"),
    "release-gap": rule("STRICT_RELEASE", "P1", "a value whose retention was ended for a newer direct write, which was not "
                        "accepted, may go when guard and xapi both crash", bounds(writes=2, kills=1, restarts=1),
                        kind="limit", value=1),
}
QUICK_LEFT_OUT = ["1", "10", "doubt"]
