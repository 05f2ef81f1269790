// The embedded upstream on its loop: time limits, sessions, an orderly stop, and its end with calls under
// way.
#include "upstream/embedded_upstream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <optional>

#include "upstream/embedded_faulty_vfs.h"
#include "upstream/embedded_test_support.h"
#include "upstream/upstream_test_support.h"

namespace guard::upstream::testing {
namespace {

using Kind = Outcome::Kind;
using net::testing::run_until;
using std::chrono::milliseconds;

const Uuid vm_a = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
const Owner owner_a{vm_a, Device::vtpm};

class EmbeddedUpstreamTest : public ::testing::Test {
 protected:
  EmbeddedUpstreamTest() { make(); }

  void make() {
    EmbeddedOptions options = place.options();
    options.vfs = vfs.name();
    options.probe_timeout = options.read_patience = patience;
    upstream = *make_embedded_upstream(loop, options, null_logger());
  }
  static Delivery delivery_of(std::string permall) {
    Delivery delivery;
    delivery.owner = owner_a;
    delivery.writes.push_back({Slot::permall, 1, Value(std::move(permall)), {}, {}, false});
    return delivery;
  }
  void deliver(std::string permall, std::optional<Outcome>& outcome) {
    upstream->deliver(delivery_of(std::move(permall)), [&outcome](Outcome got) { outcome = std::move(got); });
  }
  Outcome deliver_and_wait(std::string permall) {
    std::optional<Outcome> outcome;
    deliver(std::move(permall), outcome);
    EXPECT_TRUE(run_until(loop, [&] { return outcome.has_value(); }));
    return outcome.value_or(Outcome());
  }
  /// The next sync waits until `go` is set; `reached` tells that it does.
  void hold_next_sync() {
    vfs.before_next_sync([this] {
      reached.set_value();
      go.get_future().wait();
    });
  }

  milliseconds patience = std::chrono::seconds(20);
  StorePlace place;
  FaultyVfs vfs;
  net::Loop loop;
  std::promise<void> reached, go;
  std::unique_ptr<EmbeddedUpstream> upstream;
};

TEST_F(EmbeddedUpstreamTest, AStoreThatHangsIsGivenUpByReadsAndProbesAndNeverByUpdates) {
  ASSERT_EQ(deliver_and_wait("1").kind, Kind::delivered);
  upstream.reset();
  patience = milliseconds(100);
  make();
  hold_next_sync();
  std::optional<Outcome> update, probe;
  std::optional<Fetched> fetched;
  std::optional<Result<std::optional<Uuid>>> found;
  deliver("2", update);
  ASSERT_EQ(reached.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  upstream->probe([&](Outcome got) { probe = std::move(got); });
  upstream->fetch(owner_a, [&](Fetched got) { fetched = std::move(got); });
  upstream->find_vm(vm_a, patience, [&](Result<std::optional<Uuid>> got) { found = std::move(got); });
  ASSERT_TRUE(run_until(loop, [&] { return probe && fetched && found; }));
  EXPECT_EQ(probe->kind, Kind::transient);
  EXPECT_TRUE(probe->upstream_suspect);
  EXPECT_EQ(fetched->kind, Kind::transient);
  EXPECT_TRUE(fetched->upstream_suspect);
  EXPECT_EQ(found->error().code, Errc::timeout);
  EXPECT_FALSE(update);
  go.set_value();
  ASSERT_TRUE(run_until(loop, [&] { return update.has_value(); }));
  EXPECT_EQ(update->kind, Kind::delivered);
  EXPECT_EQ(update->epoch, upstream->epoch());
}

TEST_F(EmbeddedUpstreamTest, AnOrderlyStopClosesTheStoreAndReportsNoEnd) {
  struct Events final : UpstreamEvents {
    int ended = 0;
    void session_ended(Epoch) override { ++ended; }
    void sign_of_life() override {}
  } events;
  upstream->set_events(&events);
  const Outcome first = deliver_and_wait("1");
  EXPECT_EQ(upstream->figures().front().second, 1u);
  bool out = false;
  upstream->logout([&] { out = true; });
  ASSERT_TRUE(run_until(loop, [&] { return out; }));
  EXPECT_EQ(upstream->epoch(), 0u);
  EXPECT_EQ(events.ended, 0);
  EXPECT_GT(deliver_and_wait("2").epoch, first.epoch) << "a session of its own, if there is more to do";
}

TEST_F(EmbeddedUpstreamTest, ALogoutWithoutASessionIsAnswered) {
  bool out = false;
  upstream->logout([&] { out = true; });
  EXPECT_TRUE(run_until(loop, [&] { return out; }));
}

TEST_F(EmbeddedUpstreamTest, ItsEndWaitsForWhatTheDiskIsDoingAndAnswersNobody) {
  ASSERT_EQ(deliver_and_wait("1").kind, Kind::delivered);
  hold_next_sync();
  std::optional<Outcome> under_way, queued;
  deliver("2", under_way);
  ASSERT_EQ(reached.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  upstream->deliver(delivery_of("3"), [&](Outcome got) { queued = std::move(got); });
  auto releasing = std::async(std::launch::async, [this] { go.set_value(); });
  upstream.reset();
  releasing.wait();
  run_until(loop, [] { return false; }, milliseconds(50));
  EXPECT_FALSE(under_way);
  EXPECT_FALSE(queued);
  EXPECT_EQ(place.contents(owner_a)[Slot::permall].view(), "2");
}

TEST_F(EmbeddedUpstreamTest, WhatAVmHasToSayGoesToTheLogAndWhatTheGuardSaysOfItselfStandsThereAlready) {
  RecordedLog log;
  const auto own = *make_embedded_upstream(loop, place.options(), log);
  unsigned taken = 0;
  const auto done = [&taken](const Outcome& outcome) { taken += outcome.kind == Kind::delivered ? 1 : 0; };
  own->uefi()->raise(Alert{vm_a, 3, Value("text"), "XAPI_GUARD_HELD", false}, done);
  EXPECT_TRUE(log.lines.empty());
  own->uefi()->raise(Alert{vm_a, 5, Value("text")}, done);
  EXPECT_EQ(log.count("vm_secure_boot_failed"), 1u);
  EXPECT_EQ(taken, 2u);
}

TEST_F(EmbeddedUpstreamTest, PathsThatMakeNoSenseAreRefused) {
  EmbeddedOptions options = place.options();
  for (const std::string& file :
       {std::string("relative.db"), std::string(), std::string("/tmp/"), options.identity_file}) {
    options.file = file;
    EXPECT_FALSE(make_embedded_upstream(loop, options, null_logger())) << file;
  }
}

}  // namespace
}  // namespace guard::upstream::testing
