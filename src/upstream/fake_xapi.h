// For tests of the xapi upstream: a small xapi on a real unix socket, which answers regularly unless the test
// decides otherwise, call by call, and remembers every byte it was sent.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guard/types.h"
#include "net/scripted_peer.h"

namespace guard::upstream::testing {

struct SeenCall {
  std::string method;
  std::vector<std::string> params;
  std::string body;  ///< the whole request body
  std::string head;
  unsigned connection = 0;
};

/// What to do with a call instead of answering it regularly.
struct Reaction {
  enum class Kind {
    regular,
    answer,     ///< `text` as the JSON answer, with the members around it already there
    raw,        ///< `text` as the bytes on the wire
    close,      ///< close without an answer, not carrying it out
    act_close,  ///< carry it out, then close without an answer
    hang,       ///< never answer, not carrying it out
  };
  Kind kind = Kind::regular;
  std::string text;
  std::size_t piece = 0;  ///< send the answer in pieces of so many bytes
  std::chrono::milliseconds delay{};

  static Reaction result(std::string_view json);
  static Reaction error(std::vector<std::string> code_and_params);
  static Reaction emergency(std::string_view code);
  static Reaction raw(std::string bytes) { return {Kind::raw, std::move(bytes)}; }
  static Reaction close() { return {Kind::close, {}}; }
  static Reaction act_close() { return {Kind::act_close, {}}; }
  static Reaction hang() { return {Kind::hang, {}}; }
  /// The regular answer, late.
  static Reaction after(std::chrono::milliseconds delay) { return {Kind::regular, {}, 0, delay}; }
  /// The regular answer, so many bytes at a time.
  static Reaction in_pieces(std::size_t piece) { return {Kind::regular, {}, piece}; }
};

struct FakeVm {
  std::string reference;
  std::map<std::string, std::string> nvram;
  std::vector<std::string> vtpms;
};
struct FakeVtpm {
  std::string uuid;
  std::string contents;
};

class FakeXapi {
 public:
  explicit FakeXapi(std::string path);
  /// Ends the peer; the state stays, so that start() is a restart.
  void stop();
  /// Sessions of earlier starts are not known any more.
  void start(int backlog = 64);

  /// `rule` is asked about every call, on the thread of its connection; nullopt means the regular answer.
  using Rule = std::function<std::optional<Reaction>(const SeenCall&)>;
  void set_rule(Rule rule);
  /// The next calls of `method` are treated so, one reaction each.
  void react(const std::string& method, std::vector<Reaction> reactions);

  void add_vm(const Uuid& vm, const Uuid& vtpm, std::string contents);
  /// The VM's vTPM is replaced by another, as a snapshot revert does.
  void replace_vtpm(const Uuid& vm, const Uuid& vtpm, std::string contents);
  void remove_vm(const Uuid& vm);
  void set_vtpms(const Uuid& vm, std::vector<std::string> references);
  FakeVm vm(const Uuid& vm);
  void hide_vtpm_uuids();
  std::string contents(const Uuid& vtpm);
  void set_contents(const Uuid& vtpm, std::string contents);
  void set_nvram(const Uuid& vm, std::string name, std::string value);
  void change_references();
  void end_session();

  std::vector<SeenCall> seen();
  std::vector<std::string> methods();
  std::size_t count(std::string_view method);
  void forget();
  unsigned connections() const { return peer_ ? peer_->accepted() : 0; }

 private:
  void serve(net::testing::PeerConnection& connection);
  Reaction reaction_to(const SeenCall& call);
  std::string regular_answer(const SeenCall& call, const std::string& id);
  std::string variables_answer(const SeenCall& call, const std::string& id);
  std::string new_reference();

  const std::string path_;
  std::mutex mutex_;                       ///< guards all that follows but the peer
  std::map<std::string, FakeVm> vms_;      ///< by uuid
  std::map<std::string, FakeVtpm> vtpms_;  ///< by reference
  bool knows_vtpm_uuids_ = true;
  Rule rule_;
  std::map<std::string, std::vector<Reaction>> planned_;
  std::vector<SeenCall> seen_;
  std::string session_;
  unsigned references_ = 0;
  std::unique_ptr<net::testing::ScriptedPeer> peer_;
};

}  // namespace guard::upstream::testing
