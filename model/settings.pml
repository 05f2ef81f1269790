// Constants of lane.pml; scripts/model sets others with -D. First the bounds of a search.

#ifndef SLOTS  // 1 or 2
#define SLOTS 1
#endif
#ifndef WIRES  // updates that may be on their way at once, 1 or 2
#define WIRES 1
#endif
#ifndef WRITES  // how many arrive
#define WRITES 2
#endif
#ifndef DELETES  // how many of them may be DELETEs
#define DELETES 0
#endif
#ifndef LOST  // refusals, time-outs and lost answers of updates
#define LOST 0
#endif
#ifndef FAILS  // failed commits
#define FAILS 0
#endif
#ifndef KILLS  // kill -9 of the guard
#define KILLS 0
#endif
#ifndef CUTS  // power cuts
#define CUTS 0
#endif
#ifndef RESTARTS  // crashes of xapi
#define RESTARTS 0
#endif
#ifndef READS  // reads that show something or whose answer is late
#define READS 0
#endif

// Rules; 0 leaves one out.

#ifndef RULE_1  // a lane goes direct only when the removal of what it delivered is durable
#define RULE_1 1
#endif
#ifndef RULE_1B  // before a direct write of a slot with a retained record, a record that ends the retention is durable
#define RULE_1B 1
#endif
#ifndef RULE_2  // recovery syncs what it has read before it trusts it
#define RULE_2 1
#endif
#ifndef RULE_3  // a read never shows a write whose commit is under way
#define RULE_3 1
#endif
#ifndef RULE_4_OVERLAP  // a read that an update overlapped does not count as known contents
#define RULE_4_OVERLAP 1
#endif
#ifndef RULE_4_DROP  // doubt and a new session drop the known contents
#define RULE_4_DROP 1
#endif
#ifndef RULE_4_FRESH  // a delivery merges into contents read freshly, never into known ones
#define RULE_4_FRESH 1
#endif
#ifndef RULE_6  // after a new session a lane compares what it retains
#define RULE_6 1
#endif
#ifndef RULE_7  // a value that is delivered again stays until a newer one is durable
#define RULE_7 1
#endif
#ifndef RULE_10  // a failed commit may be on the disk all the same
#define RULE_10 1
#endif
#ifndef RULE_STAIN_KEEPS  // ending a failed commit does not end the retention of the value before it
#define RULE_STAIN_KEEPS 1
#endif
#ifndef RULE_12_ONE  // one update of a lane at a time
#define RULE_12_ONE 1
#endif
#ifndef RULE_12_DURABLE  // only durable entries are delivered
#define RULE_12_DURABLE 1
#endif
#ifndef RULE_12_SYNC  // acknowledged after the sync, not after the write
#define RULE_12_SYNC 1
#endif
#ifndef RULE_DOUBT  // no update of a lane in doubt
#define RULE_DOUBT 1
#endif
#ifndef RULE_WINDOW  // a lost connection does not end doubt, only begins its window
#define RULE_WINDOW 1
#endif
#ifndef RULE_NOTE  // which lanes have a call under way survives kill -9
#define RULE_NOTE 1
#endif
#ifndef RULE_NOTE_WINDOW  // and so does which lanes are in a window of doubt
#define RULE_NOTE_WINDOW 1
#endif
#ifndef RULE_RELEASE_UP_TO  // a release that becomes durable late ends no newer retention
#define RULE_RELEASE_UP_TO 1
#endif
#ifndef RULE_6_LATE  // what an update of an ended session delivered is compared too
#define RULE_6_LATE 1
#endif
#ifndef RULE_6_START  // what recovery finds retained is compared
#define RULE_6_START 1
#endif
#ifndef RULE_6_QUIET  // nothing is compared while an update is under way or in doubt
#define RULE_6_QUIET 1
#endif
#ifndef RULE_7_REMOVAL  // a removal under way does not end a value that is to be delivered again
#define RULE_7_REMOVAL 1
#endif
#ifndef RULE_UP_TO  // a removal ends nothing newer than what was delivered
#define RULE_UP_TO 1
#endif
#ifndef RULE_RETAIN  // what was delivered is retained
#define RULE_RETAIN 1
#endif

// Assumptions; 0 leaves one out.

#ifndef ASSUME_WINDOW  // after the window an update that was sent before it takes effect no more
#define ASSUME_WINDOW 1
#endif
#ifndef ASSUME_SESSION  // a session ends only with xapi
#define ASSUME_SESSION 1
#endif
#ifndef ASSUME_FLUSH  // what was accepted is flushed before its retention is over
#define ASSUME_FLUSH 1
#endif

// Questions.

#ifndef STRICT_RELEASE  // 1: a value whose retention was ended for a newer direct write must survive all the same
#define STRICT_RELEASE 0
#endif
#ifndef NEVER_RELEASE  // 1: no retention is ended for a direct write; the write goes to the journal instead
#define NEVER_RELEASE 0
#endif
