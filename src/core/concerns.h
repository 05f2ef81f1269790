// What somebody should look at: devices held for long, conflicts, damage, a journal that fails, data that
// stays pending. Each occurrence is told once, to the log at once, and to xapi as a message on the VM or the
// host when xapi answers. Pure: see events.h.
//
//   concern    begins                                  ends                     message on
//   ---------- --------------------------------------- ------------------------ -----------------------
//   held       a lane was held for limits::held_alert  it is not held           its VM, else the host
//   conflict   entries were parked                     at once                  its VM, else the host
//   journal    a request failed, or it is not read     it goes well             the host
//   damage     damaged records were found              at once                  the host
//   pending    an entry waits for pending_alert, and   none does                the host
//              its lane is not held
//
// A message that was sent and not answered is not sent again: better one too few than the same again and
// again, as the log has it anyway. What is not sent yet is lost when the daemon ends; what lasts is told anew
// by the next one.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "core/shared.h"

namespace guard::core {

class Concerns {
 public:
  /// What `pending` looks at: entries of lanes that are not held.
  struct Waiting {
    std::optional<Time> oldest;
    std::size_t entries = 0;
    std::size_t vms = 0;
  };

  /// After anything happened to a lane; nullopt: it is not held.
  void lane(Context& cx, Owner owner, const std::optional<std::pair<Time, std::string>>& held);
  void conflict(Context& cx, Owner owner, const std::string& reason);
  /// The journal is in trouble (`what`), or all is well again (nullopt).
  void journal(Context& cx, const std::optional<std::string>& what);
  void damage(Context& cx, std::uint64_t records);
  /// At the end of each step: whether entries are pending, and how to find out which are old (linear in the
  /// number of lanes, hence asked only when it may matter). Sends what waits.
  void run(Context& cx, bool pending, const std::function<Waiting()>& waiting);
  /// False: the call is none of these.
  bool raised(Context& cx, const AlertRaised& event);

  /// Entries were found that may be older than this process: the next step looks how old.
  void look_again() { pending_due_ = Time::min(); }

  std::optional<Time> next_wake(const Shared& shared) const;
  bool calling() const { return call_ != 0; }
  /// Messages that wait for xapi.
  std::size_t messages() const { return messages_.size(); }

 private:
  enum class Kind { held, conflict, journal, damage, pending };
  struct Held {
    Time since{};
    std::string reason;
    bool told = false;
    Time due() const { return since + Time(limits::held_alert); }
  };
  struct Message {
    Kind kind = Kind::held;
    std::optional<Owner> owner;  ///< nullopt: about the host
    bool on_host = false;        ///< also if there is an owner: xapi does not know the VM
    std::string text;
  };
  using Key = std::pair<Kind, std::optional<Owner>>;

  static Alert alert_of(const Message& message, Uuid host);
  void check_held(Context& cx);
  void check_pending(Context& cx, bool pending, const std::function<Waiting()>& waiting);
  void tell(Context& cx, Kind kind, std::optional<Owner> owner, std::string text);
  void send(Context& cx);
  void drop(Context& cx, Report::What what, std::string reason);

  std::map<Owner, Held> held_;
  std::optional<Time> held_due_;  ///< when to look for one that is due and not told; never too late
  bool journal_told_ = false;
  std::optional<Time> pending_due_ = Time::min();  ///< when to look next; nullopt: nothing is pending
  bool pending_told_ = false;
  std::deque<Message> messages_;  ///< the first is sent first
  std::map<Key, Time> last_;      ///< when the last message about this was made
  CallId call_ = 0;               ///< of the first message, 0 = none is under way
  Time retry_at_{};
  Backoff backoff_;
};

}  // namespace guard::core
