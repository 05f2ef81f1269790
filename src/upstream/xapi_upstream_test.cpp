// What the upstream does while xapi is well: which calls it makes, byte for byte, and what it merges.
#include "upstream/xapi_upstream.h"

#include "upstream/upstream_test_support.h"

namespace guard::upstream::testing {
namespace {

TEST_F(XapiUpstreamTest, TheFirstReadLogsInAndLooksUpWhatItNeedsWithExactBodies) {
  const Fetched fetched = fetch();
  ASSERT_EQ(fetched.kind, Kind::delivered) << fetched.reason;
  EXPECT_EQ(fetched.contents[Slot::permall].view(), "permA");
  EXPECT_EQ(fetched.contents[Slot::savestate].view(), "");
  EXPECT_EQ(fetched.contents[Slot::volatilestate].view(), "volA");
  EXPECT_EQ(fetched.contents.vtpm, vtpm_a);
  EXPECT_EQ(fetched.epoch, 1u);
  const auto seen = xapi.seen();
  ASSERT_EQ(seen.size(), 5u);
  const std::string session = seen[1].params[0];
  const std::string vm = xapi.vm(vm_a).reference;
  const std::string vtpm = xapi.vm(vm_a).vtpms[0];
  EXPECT_EQ(
      seen[0].body,
      R"({"method":"session.login_with_password","params":["root","","xapi-guard","xapi-guard"],"id":1})");
  EXPECT_EQ(seen[1].body, R"({"method":"VM.get_by_uuid","params":[")" + session +
                              R"(","3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"],"id":2})");
  EXPECT_EQ(seen[2].body,
            R"({"method":"VM.get_VTPMs","params":[")" + session + R"(",")" + vm + R"("],"id":3})");
  EXPECT_EQ(seen[3].body,
            R"({"method":"VTPM.get_uuid","params":[")" + session + R"(",")" + vtpm + R"("],"id":4})");
  EXPECT_EQ(seen[4].body,
            R"({"method":"VTPM.get_contents","params":[")" + session + R"(",")" + vtpm + R"("],"id":5})");
  EXPECT_EQ(xapi.connections(), 1u) << "one kept-alive connection";
}

TEST_F(XapiUpstreamTest, TheSecondReadCostsOneCall) {
  warm_up();
  EXPECT_EQ(fetch().kind, Kind::delivered);
  EXPECT_EQ(xapi.methods(), Names{"VTPM.get_contents"});
}

TEST_F(XapiUpstreamTest, TellsWhichVmAVtpmBelongsToWithoutRememberingIt) {
  using Found = Result<std::optional<Uuid>>;
  const auto find = [this](const Uuid& vtpm, milliseconds patience = std::chrono::seconds(10)) {
    std::optional<Found> found;
    upstream->find_vm(vtpm, patience, [&found](Found got) { found = std::move(got); });
    EXPECT_TRUE(run_until(loop, [&found] { return found.has_value(); }));
    return found.value_or(std::nullopt);
  };
  EXPECT_EQ(find(vtpm_a), vm_a);
  EXPECT_EQ(xapi.methods(),
            (Names{"session.login_with_password", "VTPM.get_by_uuid", "VTPM.get_VM", "VM.get_uuid"}));
  EXPECT_EQ(find(vm_a), std::nullopt) << "the uuid of something else";
  const Uuid reverted = *Uuid::parse("11111111-2222-4333-8444-555555555555");
  xapi.replace_vtpm(vm_a, reverted, "permR");
  EXPECT_EQ(find(vtpm_a), std::nullopt);
  EXPECT_EQ(find(reverted), vm_a);
  // It goes away between two look-ups.
  xapi.react("VTPM.get_VM", {Reaction::error({"HANDLE_INVALID", "VTPM", "x"})});
  EXPECT_EQ(find(reverted), std::nullopt);
  // Whoever cannot be asked has not said that there is none.
  xapi.react("VM.get_uuid", {Reaction::error({"INTERNAL_ERROR", "x"})});
  EXPECT_EQ(find(reverted).error().code, Errc::unavailable);
  xapi.react("VM.get_uuid", {Reaction::result("7")});
  EXPECT_EQ(find(reverted).error().code, Errc::unavailable);
  xapi.react("VTPM.get_by_uuid", {Reaction::hang()});
  EXPECT_EQ(find(reverted, milliseconds(100)).error().code, Errc::unavailable);
}

TEST_F(XapiUpstreamTest, NothingIsContactedBeforeTheFirstUse) {
  settle();
  EXPECT_EQ(xapi.connections(), 0u);
  EXPECT_EQ(upstream->epoch(), 0u);
}

TEST_F(XapiUpstreamTest, AnotherVmSharesTheSession) {
  warm_up();
  EXPECT_EQ(fetch(vm_b).contents[Slot::permall].view(), "permB");
  EXPECT_EQ(xapi.count("session.login_with_password"), 0u);
}

TEST_F(XapiUpstreamTest, ADeliveryOverAKnownBaseIsExactlyOneCall) {
  const Fetched known = warm_up();
  const Outcome outcome = deliver(based({write_of(Slot::permall, "newP")}, known.contents, known.epoch));
  ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
  const auto seen = xapi.seen();
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].body, R"({"method":"VTPM.set_contents","params":[")" + seen[0].params[0] + R"(",")" +
                              xapi.vm(vm_a).vtpms[0] + R"(","newP  volA"],"id":6})");
  EXPECT_EQ(xapi.contents(vtpm_a), "newP  volA");
  EXPECT_EQ(outcome.epoch, known.epoch);
  ASSERT_TRUE(outcome.contents);
  EXPECT_EQ((*outcome.contents)[Slot::permall].view(), "newP");
  EXPECT_EQ((*outcome.contents)[Slot::volatilestate].view(), "volA");
  EXPECT_EQ(outcome.contents->vtpm, vtpm_a);
}

TEST_F(XapiUpstreamTest, AHundredDeliveriesOverTheLastOutcomeAreAHundredCallsOnOneConnection) {
  const Fetched known = warm_up();
  Contents base = known.contents;
  for (int i = 0; i < 100; ++i) {
    const Outcome outcome = deliver(based({write_of(Slot::permall, std::to_string(i))}, base, known.epoch));
    ASSERT_EQ(outcome.kind, Kind::delivered);
    base = *outcome.contents;
  }
  EXPECT_EQ(xapi.seen().size(), 100u);
  EXPECT_EQ(xapi.contents(vtpm_a), "99  volA");
  EXPECT_EQ(xapi.connections(), 1u);
}

TEST_F(XapiUpstreamTest, WithoutABaseItReadsThenMergesAllSlotsIntoOneUpdate) {
  const Outcome outcome = deliver(delivery_of(
      {write_of(Slot::savestate, "S"), write_of(Slot::volatilestate, ""), write_of(Slot::permall, "P")}));
  ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
  EXPECT_EQ(xapi.contents(vtpm_a), "P S ");
  EXPECT_EQ(xapi.methods(), (Names{"session.login_with_password", "VM.get_by_uuid", "VM.get_VTPMs",
                                   "VTPM.get_uuid", "VTPM.get_contents", "VTPM.set_contents"}));
  xapi.forget();
  EXPECT_EQ(deliver(delivery_of({write_of(Slot::permall, "Q")})).kind, Kind::delivered);
  EXPECT_EQ(xapi.methods(), (Names{"VTPM.get_contents", "VTPM.set_contents"}));
}

TEST_F(XapiUpstreamTest, TheOlderFormOfContentsBecomesTheThreeFieldForm) {
  xapi.set_contents(vtpm_a, "OLD");
  EXPECT_EQ(deliver(delivery_of({write_of(Slot::volatilestate, "V")})).kind, Kind::delivered);
  EXPECT_EQ(xapi.contents(vtpm_a), "OLD  V");
}

TEST_F(XapiUpstreamTest, ValuesThatStandThereAlreadyAreNotWrittenAgain) {
  const Outcome outcome =
      deliver(delivery_of({write_of(Slot::permall, "permA"), write_of(Slot::savestate, "")}));
  ASSERT_EQ(outcome.kind, Kind::delivered);
  EXPECT_EQ(xapi.count("VTPM.set_contents"), 0u);
  ASSERT_TRUE(outcome.contents);
  EXPECT_EQ((*outcome.contents)[Slot::volatilestate].view(), "volA");
  EXPECT_EQ(outcome.epoch, 1u);
}

TEST_F(XapiUpstreamTest, SomebodyElsesValueIsAConflictAndNothingIsWritten) {
  SlotWrite write = write_of(Slot::permall, "mine");
  write.known = {digest_of("what stood there before")};
  Outcome outcome = deliver(delivery_of({write, write_of(Slot::savestate, "S")}));
  EXPECT_EQ(outcome.kind, Kind::conflict);
  EXPECT_EQ(outcome.reason, "another value of permall stands there");
  EXPECT_EQ(xapi.contents(vtpm_a), "permA  volA");
  write.force = true;
  outcome = deliver(delivery_of({write}));
  EXPECT_EQ(outcome.kind, Kind::delivered);
  EXPECT_EQ(xapi.contents(vtpm_a), "mine  volA");
}

TEST_F(XapiUpstreamTest, AnotherVtpmIsAConflict) {
  SlotWrite write = write_of(Slot::permall, "mine");
  write.vtpm = vtpm_b;
  EXPECT_EQ(deliver(delivery_of({write})).kind, Kind::conflict);
  write.vtpm = vtpm_a;
  EXPECT_EQ(deliver(delivery_of({write})).kind, Kind::delivered);
}

TEST_F(XapiUpstreamTest, ABaseOfAnotherSessionIsStaleAndNothingIsSent) {
  const Fetched known = warm_up();
  for (const Epoch epoch : {known.epoch + 1, Epoch{0}}) {
    const Outcome outcome = deliver(based({write_of(Slot::permall, "newP")}, known.contents, epoch));
    EXPECT_EQ(outcome.kind, Kind::stale);
    EXPECT_FALSE(outcome.upstream_suspect);
  }
  EXPECT_TRUE(xapi.seen().empty());
}

TEST_F(XapiUpstreamTest, ABaseWithoutReferencesIsStaleAndNothingIsSent) {
  const Fetched known = warm_up();
  EXPECT_EQ(deliver(based({write_of(Slot::permall, "x")}, known.contents, known.epoch, vm_b)).kind,
            Kind::stale);
  Contents of_another = known.contents;
  of_another.vtpm = vtpm_b;
  EXPECT_EQ(deliver(based({write_of(Slot::permall, "x")}, of_another, known.epoch)).kind, Kind::stale);
  EXPECT_TRUE(xapi.seen().empty());
}

TEST_F(XapiUpstreamTest, VerifyingReadsBackWhatWasWritten) {
  Delivery delivery = delivery_of({write_of(Slot::permall, "newP")});
  delivery.verify = true;
  const Outcome outcome = deliver(delivery);
  ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
  EXPECT_EQ(xapi.methods().back(), "VTPM.get_contents");
  EXPECT_EQ(xapi.count("VTPM.get_contents"), 2u);
}

TEST_F(XapiUpstreamTest, VerifyingFindsOutWhenTheValueDoesNotStandThere) {
  warm_up();
  Delivery delivery = delivery_of({write_of(Slot::permall, "newP")});
  delivery.verify = true;
  xapi.react("VTPM.set_contents", {Reaction::result("\"\"")});  // says so and does nothing
  const Outcome outcome = deliver(delivery);
  EXPECT_EQ(outcome.kind, Kind::unknown);
  EXPECT_NE(outcome.reason.find("do not stand there"), std::string::npos) << outcome.reason;
}

TEST_F(XapiUpstreamTest, VerifyingThatCannotReadIsUnknown) {
  warm_up();
  Delivery delivery = delivery_of({write_of(Slot::permall, "newP")});
  delivery.verify = true;
  xapi.react("VTPM.get_contents", {{}, Reaction::error({"INTERNAL_ERROR", "x"})});
  EXPECT_EQ(deliver(delivery).kind, Kind::unknown);
  EXPECT_EQ(xapi.contents(vtpm_a), "newP  volA");
}

TEST_F(XapiUpstreamTest, ValuesWithSpacesAreRefusedBeforeAnythingIsSent) {
  const Outcome outcome = deliver(delivery_of({write_of(Slot::permall, "a b")}));
  EXPECT_EQ(outcome.kind, Kind::payload);
  EXPECT_TRUE(xapi.seen().empty());
}

TEST_F(XapiUpstreamTest, ValuesThatNeedEscapingArriveAsTheyWere) {
  const std::string odd = "\"\\/\b\f\n\r\t\x01\x7f\xc3\xa4";
  ASSERT_EQ(deliver(delivery_of({write_of(Slot::permall, odd)})).kind, Kind::delivered);
  EXPECT_EQ(xapi.contents(vtpm_a), odd + "  volA");
  EXPECT_EQ(fetch().contents[Slot::permall].view(), odd);
}

TEST_F(XapiUpstreamTest, ARequestOfExactlyTheLimitIsSentAndOneByteMoreIsNot) {
  const Fetched known = warm_up();
  xapi.forget();
  const Outcome small = deliver(
      based({write_of(Slot::permall, "x"), write_of(Slot::volatilestate, "")}, known.contents, known.epoch));
  ASSERT_EQ(small.kind, Kind::delivered);
  const std::size_t envelope = xapi.seen().back().body.size() - 1;
  Outcome outcome =
      deliver(based({write_of(Slot::permall, std::string(limits::xapi_request - envelope, 'A'))},
                    *small.contents, known.epoch));
  ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
  EXPECT_EQ(xapi.seen().back().body.size(), 307'200u);
  outcome = deliver(based({write_of(Slot::permall, std::string(limits::xapi_request - envelope + 1, 'A'))},
                          *small.contents, known.epoch));
  EXPECT_EQ(outcome.kind, Kind::payload);
  EXPECT_FALSE(outcome.upstream_suspect);
  EXPECT_EQ(xapi.count("VTPM.set_contents"), 2u);
}

TEST_F(XapiUpstreamTest, ContentsOfTheSizeItPromisesToTakeAreTaken) {
  const std::size_t room = upstream->limits().vtpm_contents;
  EXPECT_EQ(deliver(delivery_of({write_of(Slot::permall, std::string(room - 2 - 4, 'A'))})).kind,
            Kind::delivered);
  EXPECT_EQ(xapi.contents(vtpm_a).size(), room);
}

TEST_F(XapiUpstreamTest, AXapiWithoutVtpmUuidsIsServedWithoutThem) {
  xapi.hide_vtpm_uuids();
  const Fetched fetched = fetch();
  ASSERT_EQ(fetched.kind, Kind::delivered) << fetched.reason;
  EXPECT_TRUE(fetched.contents.vtpm.is_nil());
  SlotWrite write = write_of(Slot::permall, "x");
  write.vtpm = vtpm_b;
  EXPECT_EQ(deliver(delivery_of({write})).kind, Kind::delivered);
  EXPECT_EQ(fetch(vm_b).kind, Kind::delivered);
  EXPECT_EQ(log.count("xapi_tells_no_vtpm_uuids"), 1u);
}

TEST_F(XapiUpstreamTest, AProbeLogsInAndMakesASmallCallAboutNoVm) {
  const Outcome outcome = probe();
  EXPECT_EQ(outcome.kind, Kind::delivered);
  EXPECT_EQ(outcome.epoch, 1u);
  const auto seen = xapi.seen();
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].method, "session.login_with_password");
  EXPECT_EQ(seen[1].method, "VM.get_by_uuid");
  EXPECT_EQ(seen[1].params[1], "00000000-0000-0000-0000-000000000000");
  EXPECT_EQ(probe().kind, Kind::delivered);
  EXPECT_EQ(xapi.seen().size(), 3u);
}

TEST_F(XapiUpstreamTest, LoggingOutEndsTheSessionOnceAndIsNoEndOfSession) {
  bool out = false;
  upstream->logout([&out] { out = true; });
  EXPECT_TRUE(out) << "without a session there is nothing to do";
  warm_up();
  out = false;
  upstream->logout([&out] { out = true; });
  EXPECT_TRUE(run_until(loop, [&out] { return out; }));
  EXPECT_EQ(xapi.methods(), Names{"session.logout"});
  EXPECT_TRUE(events.ended.empty());
  EXPECT_EQ(upstream->epoch(), 0u);
}

TEST_F(XapiUpstreamTest, LoggingOutOfAXapiThatHangsOrIsGoneTakesLittleTime) {
  warm_up();
  xapi.react("session.logout", {Reaction::hang()});
  const Time start = loop.now();
  bool out = false;
  upstream->logout([&out] { out = true; });
  EXPECT_TRUE(run_until(loop, [&out] { return out; }));
  EXPECT_LT(loop.now() - start, limits::logout_timeout + std::chrono::seconds(2));
  warm_up();
  xapi.stop();
  out = false;
  upstream->logout([&out] { out = true; });
  EXPECT_TRUE(run_until(loop, [&out] { return out; }));
}

TEST_F(XapiUpstreamTest, TheAppearanceOfTheSocketFileIsASignOfLife) {
  xapi.stop();
  settle();
  events.signs = 0;
  xapi.start();
  EXPECT_TRUE(run_until(loop, [this] { return events.signs > 0; }));
}

TEST_F(XapiUpstreamTest, CountsCallsByMethodAndResult) {
  xapi.react("VM.get_VTPMs", {Reaction::error({"INTERNAL_ERROR", "x"}), Reaction::close()});
  EXPECT_EQ(fetch().kind, Kind::transient);
  EXPECT_EQ(fetch().kind, Kind::delivered) << "a closed connection is replaced for a look-up";
  const XapiCounters& counters = upstream->counters();
  EXPECT_EQ(counters.of(Method::vm_get_vtpms).refused, 1u);
  EXPECT_EQ(counters.of(Method::vm_get_vtpms).succeeded, 1u);
  EXPECT_EQ(counters.of(Method::login).succeeded, 1u);
  EXPECT_EQ(counters.logins, 1u);
  EXPECT_EQ(counters.connects, xapi.connections());
}

TEST_F(XapiUpstreamTest, ServesBothKindsOfDevices) {
  EXPECT_TRUE(upstream->supports(Device::vtpm));
  EXPECT_TRUE(upstream->supports(Device::uefi));
  EXPECT_NE(upstream->uefi(), nullptr);
}

TEST(XapiUpstream, TheAddressIsAUnixPathOfBearableLength) {
  net::Loop loop;
  for (const std::string& bad : {std::string(), std::string("unix:"), std::string("/var/lib/xcp/xapi"),
                                 std::string("tcp:localhost:80"), "unix:/" + std::string(107, 'a')}) {
    XapiOptions options;
    options.uri = bad;
    const auto made = make_xapi_upstream(loop, options, null_logger());
    ASSERT_FALSE(made) << bad;
    EXPECT_EQ(made.error().code, Errc::invalid);
  }
  XapiOptions options;
  options.uri = "unix:/" + std::string(106, 'a');
  EXPECT_TRUE(make_xapi_upstream(loop, options, null_logger()));
}

}  // namespace
}  // namespace guard::upstream::testing
