#include "sim/faults.h"

#include <gtest/gtest.h>

namespace guard::sim {
namespace {

using wire::Json;

const Uuid one = *Uuid::parse("00000001-0000-4000-8000-000000000000");
const Uuid two = *Uuid::parse("00000002-0000-4000-8000-000000000000");

std::uint64_t add(Faults& faults, std::string_view json) {
  const auto number = faults.add(wire::parse_json(json).value());
  EXPECT_TRUE(number) << (number ? "" : number.error());
  return number.value_or(0);
}

TEST(Faults, CatchTheirMethodOrEveryOne) {
  Faults faults;
  EXPECT_FALSE(faults.match("a", {}));
  add(faults, R"({"method":"a","kind":"hang"})");
  EXPECT_EQ(faults.match("a", {})->kind, FaultPlan::Kind::hang);
  EXPECT_FALSE(faults.match("b", {}));
  add(faults, R"({"method":"*","kind":"garbage"})");
  EXPECT_EQ(faults.match("b", one)->kind, FaultPlan::Kind::garbage);
  EXPECT_EQ(faults.match("a", {})->kind, FaultPlan::Kind::hang);  // the first one counts
}

TEST(Faults, CatchTheirVmOnly) {
  Faults faults;
  EXPECT_FALSE(faults.need_vm());
  const auto number =
      add(faults, R"({"method":"*","kind":"hang","vm":"00000001-0000-4000-8000-000000000000"})");
  EXPECT_TRUE(faults.need_vm());
  EXPECT_TRUE(faults.match("a", one));
  EXPECT_FALSE(faults.match("a", two));
  EXPECT_FALSE(faults.match("a", {}));
  EXPECT_TRUE(faults.remove(number));
  EXPECT_FALSE(faults.need_vm());
  EXPECT_FALSE(faults.remove(number));
}

TEST(Faults, SkipTheFirstAndEndAfterTheirCount) {
  Faults faults;
  add(faults, R"({"method":"a","kind":"drop_reply","after":2,"count":1})");
  EXPECT_FALSE(faults.match("a", {}));
  EXPECT_FALSE(faults.match("b", {}));
  EXPECT_FALSE(faults.match("a", {}));
  EXPECT_TRUE(faults.match("a", {}));
  EXPECT_FALSE(faults.match("a", {}));
  EXPECT_EQ(wire::to_string(faults.to_json()),
            R"([{"id":1,"method":"a","kind":"drop_reply","matched":3,"fired":1}])");
}

TEST(Faults, TakeEffectOrNotByKindUnlessToldOtherwise) {
  Faults faults;
  add(faults, R"({"method":"a","kind":"delay","ms":20})");
  add(faults, R"({"method":"b","kind":"drop_reply"})");
  add(faults, R"({"method":"c","kind":"drop_request"})");
  add(faults, R"({"method":"d","kind":"http_status","status":503,"effect":true})");
  add(faults, R"({"method":"e","kind":"error_v2","error":["HOST_STILL_BOOTING"]})");
  EXPECT_TRUE(faults.match("a", {})->effect);
  EXPECT_EQ(faults.match("a", {})->delay, std::chrono::milliseconds(20));
  EXPECT_TRUE(faults.match("b", {})->effect);
  EXPECT_FALSE(faults.match("c", {})->effect);
  EXPECT_TRUE(faults.match("d", {})->effect);
  EXPECT_EQ(faults.match("d", {})->status, 503u);
  EXPECT_FALSE(faults.match("e", {})->effect);
  EXPECT_EQ(faults.match("e", {})->error, std::vector<std::string>{"HOST_STILL_BOOTING"});
}

TEST(Faults, RefuseWhatTheyDoNotUnderstand) {
  Faults faults;
  for (const std::string_view json : {"[]",
                                      "{}",
                                      R"({"method":"a"})",
                                      R"({"kind":"hang"})",
                                      R"({"method":"a","kind":"hung"})",
                                      R"({"method":1,"kind":"hang"})",
                                      R"({"method":"a","kind":"hang","vm":"x"})",
                                      R"({"method":"a","kind":"hang","vm":1})",
                                      R"({"method":"a","kind":"delay","ms":-1})",
                                      R"({"method":"a","kind":"delay","ms":"1"})",
                                      R"({"method":"a","kind":"delay","ms":3600001})",
                                      R"({"method":"a","kind":"http_status","status":200})",
                                      R"({"method":"a","kind":"http_status","status":600})",
                                      R"({"method":"a","kind":"error"})",
                                      R"({"method":"a","kind":"error_v2","error":[]})",
                                      R"({"method":"a","kind":"error","error":"x"})",
                                      R"({"method":"a","kind":"error","error":[1]})",
                                      R"({"method":"a","kind":"hang","effect":true})",
                                      R"({"method":"a","kind":"garbage","effect":1})",
                                      R"({"method":"a","kind":"hang","count":-1})",
                                      R"({"method":"a","kind":"hang","after":1.5})",
                                      R"({"method":"a","kind":"hang","cuont":1})"}) {
    EXPECT_FALSE(faults.add(wire::parse_json(json).value())) << json;
  }
  EXPECT_EQ(faults.to_json(), Json(wire::JsonArray{}));
}

TEST(Faults, AllAreRemovedTogether) {
  Faults faults;
  add(faults, R"({"method":"*","kind":"hang"})");
  add(faults, R"({"method":"*","kind":"garbage"})");
  EXPECT_TRUE(faults.remove({}));
  EXPECT_FALSE(faults.match("a", {}));
  EXPECT_TRUE(faults.remove({}));
}

}  // namespace
}  // namespace guard::sim
