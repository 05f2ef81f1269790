// The reference model of the journal for exhaustive enumeration: from what was asked for and what was
// answered it knows every content that a recovery may find. Made to be asked millions of times between two
// changes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "journal/journal.h"

namespace guard::journal {

/// Stands for all of these entries but their known digests: owner, slot, sequence, vTPM, digest and size of
/// the value, flags, time, retained, suspect. Order matters; that of Recovery::live is canonical.
std::uint64_t fingerprint(std::span<const LiveEntry> live);

/// Whether `later` has the same entries, and knows for each at least what `earlier` did.
bool still_holds(std::span<const LiveEntry> earlier, std::span<const LiveEntry> later);

class Oracle {
 public:
  /// An empty journal.
  Oracle() { settle(); }

  /// Before Store::run(): each request may come to be on the disk, in whole or not at all.
  void submitted(std::span<const Request> batch);
  /// After it. `written` = the disk was written to meanwhile: otherwise what failed cannot be on it.
  void answered(std::span<const Request> batch, std::span<const Completion> completions, bool written);
  /// Stats::generation after any call: what failed under an earlier one was left behind.
  void generation(std::uint64_t now);
  /// What this recovery found is what is there, from now on and after any later end.
  void recovered(const Recovery& found);

  /// Empty when a recovery may find this; otherwise what is wrong with it.
  std::string compare(const Recovery& found) const;

 private:
  using Content = std::vector<LiveEntry>;
  using SlotOf = std::pair<Owner, Slot>;
  struct Asked {
    Request request;
    bool certain = false;
    std::uint64_t generation = 0;  ///< under which it failed
  };

  static void apply(const Request& request, Content& content);
  bool knows_enough(std::span<const LiveEntry> found, const Content& allowed) const;
  void settle();
  std::string describe(const Recovery& found) const;

  Content base_;  ///< what stood there before asked_
  std::vector<Asked> asked_;
  struct Allowed {
    std::uint64_t fingerprint = 0;
    Content content;
  };
  std::vector<Allowed> allowed_;
  std::vector<std::pair<SlotOf, Digest>> delivered_;  ///< as removals said
  Sequence acknowledged_ = 0;                         ///< the highest sequence of an entry
  std::uint64_t generation_ = 0;
};

/// To the oracle an end of a retention that the journal may decide on itself, for lack of room, is a request
/// like any other, asked before the batch; what became of it is seen from whether its value can be read.
std::vector<Request> with_ends(std::span<const Removal> ends, std::span<const Request> batch);
/// `faulty` = an operation has failed: what can still be read may have been ended on the disk all the same.
std::vector<Completion> answers_with_ends(Store& store, std::span<const Removal> ends,
                                          std::span<const Completion> answers, bool faulty);

}  // namespace guard::journal
