// What the tests of the xapi upstream share: a fixture with a fake xapi, the upstream under test and its
// events.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "net/scripted_peer.h"
#include "upstream/fake_xapi.h"
#include "upstream/xapi_upstream.h"

namespace guard::upstream::testing {

using net::testing::run_until;
using Kind = Outcome::Kind;

inline const Uuid vm_a = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
inline const Uuid vm_b = *Uuid::parse("b1c0e5a3-8f5b-4c0e-9d2b-6a1e5b7c9d11");
inline const Uuid vtpm_a = *Uuid::parse("7c9e6679-7425-40de-944b-e07fc1f90ae7");
inline const Uuid vtpm_b = *Uuid::parse("8c9e6679-7425-40de-944b-e07fc1f90ae8");

struct RecordedEvents final : UpstreamEvents {
  std::vector<Epoch> ended;
  int signs = 0;
  void session_ended(Epoch epoch) override { ended.push_back(epoch); }
  void sign_of_life() override { ++signs; }
};

struct RecordedLog final : Logger {
  struct Line {
    LogLevel level;
    std::string event;
    std::string fields;  ///< "key=value " for each
  };
  std::vector<Line> lines;
  void log(LogLevel level, std::string_view event, std::initializer_list<Field> fields) override {
    Line line{level, std::string(event), {}};
    for (const Field& field : fields) line.fields += std::string(field.key) + "=" + field.text + " ";
    lines.push_back(std::move(line));
  }
  bool enabled(LogLevel) const override { return true; }
  std::size_t count(std::string_view event) const {
    std::size_t found = 0;
    for (const Line& line : lines) found += line.event == event ? 1 : 0;
    return found;
  }
};

inline SlotWrite write_of(Slot slot, std::string value) {
  SlotWrite write;
  write.slot = slot;
  write.sequence = 1;
  write.value = Value(std::move(value));
  return write;
}

class XapiUpstreamTest : public ::testing::Test {
 protected:
  XapiUpstreamTest() {
    xapi.add_vm(vm_a, vtpm_a, "permA  volA");
    xapi.add_vm(vm_b, vtpm_b, "permB  ");
    xapi.start();
    make();
  }

  void make() {
    options.uri = "unix:" + socket.path();
    auto made = make_xapi_upstream(loop, options, log);
    ASSERT_TRUE(made);
    upstream = std::move(*made);
    upstream->set_events(&events);
  }

  Delivery delivery_of(std::vector<SlotWrite> writes, Uuid vm = vm_a) {
    Delivery delivery;
    delivery.owner = {vm, Device::vtpm};
    delivery.writes = std::move(writes);
    return delivery;
  }
  /// A delivery that merges into what the last outcome or fetch told.
  Delivery based(std::vector<SlotWrite> writes, Contents base, Epoch epoch, Uuid vm = vm_a) {
    Delivery delivery = delivery_of(std::move(writes), vm);
    delivery.base = std::move(base);
    delivery.base_epoch = epoch;
    return delivery;
  }

  Outcome deliver(Delivery delivery) {
    std::optional<Outcome> outcome;
    upstream->deliver(std::move(delivery), [&outcome](Outcome got) {
      EXPECT_FALSE(outcome) << "exactly once";
      outcome = std::move(got);
    });
    EXPECT_TRUE(run_until(loop, [&outcome] { return outcome.has_value(); }));
    return outcome ? std::move(*outcome) : Outcome{};
  }
  Fetched fetch(Uuid vm = vm_a) {
    std::optional<Fetched> fetched;
    upstream->fetch({vm, Device::vtpm}, [&fetched](Fetched got) { fetched = std::move(got); });
    EXPECT_TRUE(run_until(loop, [&fetched] { return fetched.has_value(); }));
    return fetched ? std::move(*fetched) : Fetched{};
  }
  Outcome probe() {
    std::optional<Outcome> outcome;
    upstream->probe([&outcome](Outcome got) { outcome = std::move(got); });
    EXPECT_TRUE(run_until(loop, [&outcome] { return outcome.has_value(); }));
    return outcome ? std::move(*outcome) : Outcome{};
  }
  /// Brings session and references into being and forgets the calls that took; returns the contents.
  Fetched warm_up(Uuid vm = vm_a) {
    Fetched fetched = fetch(vm);
    EXPECT_EQ(fetched.kind, Kind::delivered) << fetched.reason;
    xapi.forget();
    return fetched;
  }
  void settle(std::chrono::milliseconds time = std::chrono::milliseconds(20)) {
    run_until(loop, [] { return false; }, time);
  }

  net::testing::SocketPath socket;
  net::Loop loop;
  FakeXapi xapi{socket.path()};
  RecordedEvents events;
  RecordedLog log;
  XapiOptions options;
  std::unique_ptr<XapiUpstream> upstream;
};

using Names = std::vector<std::string>;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr const char* login = "session.login_with_password";
inline constexpr const char* set_contents = "VTPM.set_contents";
inline constexpr const char* get_contents = "VTPM.get_contents";

/// For tests of troubles: shorthands, and an upstream that gives up soon.
class XapiFailuresTest : public XapiUpstreamTest {
 protected:
  Delivery new_permall() { return delivery_of({write_of(Slot::permall, "newP")}); }
  /// A delivery over the base that `warm_up` tells.
  Delivery direct() {
    const Fetched known = warm_up();
    return based({write_of(Slot::permall, "newP")}, known.contents, known.epoch);
  }
  void make_impatient() {
    options.read_patience = milliseconds(150);
    options.probe_timeout = milliseconds(70);
    options.upstream_timeout = milliseconds(120);
    options.login_timeout = milliseconds(250);
    options.direct_timeout = milliseconds(50);
    make();
  }
};

}  // namespace guard::upstream::testing
