// vtpm_set_contents and vtpm_get_contents (P11): from the vTPM that is named to the lane of its VM.
//
// Calls of one vTPM begin in the order in which they came. Whose vTPM it is, the upstream is asked, unless
// the lane knows for certain; while the upstream does not answer, what lanes and earlier calls remember has
// to do. All of it together, age in the message switch included, is over before the caller gives up
// (limits::caller_patience).
//
// Thread: the loop thread only.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <unordered_map>

#include "control/commands.h"
#include "engine/engine.h"
#include "guard/types.h"
#include "upstream/managed_upstream.h"

namespace guard::daemon {

class ContentsCalls {
 public:
  using Done = control::Operations::Done;

  /// Both outlive it. Calls under way when it ends are not answered.
  ContentsCalls(engine::Engine& engine, upstream::ManagedUpstream& upstream);
  ~ContentsCalls();
  ContentsCalls(const ContentsCalls&) = delete;

  /// The packed contents as a string: empty if the vTPM has no state at all, else three fields.
  void get(Uuid vtpm, Done done);
  /// `packed` has one or three fields; Errc::invalid otherwise, and when it can never be stored. Null once it
  /// is accepted (P1).
  void set(Uuid vtpm, const Value& packed, Done done);

 private:
  struct Call {
    std::optional<std::array<Value, 3>> values;  ///< absent: a get
    Done done;
  };
  using Found = Result<std::optional<Uuid>>;

  void submit(Uuid vtpm, Call call);
  void found(Uuid vtpm, Found vm);
  Result<Owner> owner_of(Uuid vtpm, Found vm);
  void begin(Owner owner, Uuid vtpm, Call call);

  engine::Engine& engine_;
  upstream::ManagedUpstream& upstream_;
  std::shared_ptr<ContentsCalls*> self_;                ///< what callbacks hold: null once this is gone
  std::unordered_map<Uuid, std::deque<Call>> waiting_;  ///< for the upstream to say whose vTPM it is
  std::unordered_map<Uuid, Uuid> remembered_;           ///< vTPM to VM, for when it cannot be asked
};

}  // namespace guard::daemon
