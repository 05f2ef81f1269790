// What is told to monitoring, read back with a parser as strict as the format: every sample belongs to the
// family above it, no series comes twice, histograms add up.
#include "daemon/metrics.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "daemon/exposition.h"

namespace guard::daemon {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// One scrape. `error` is the first offence against the format, empty when there is none.
struct Scrape {
  std::map<std::string, std::string> types;
  std::map<std::string, std::string> samples;  ///< by name and labels as written
  std::string error;

  double value(const std::string& series) const {
    const auto found = samples.find(series);
    if (found == samples.end()) ADD_FAILURE() << "no series " << series;
    return found == samples.end() ? -1 : std::strtod(found->second.c_str(), nullptr);
  }
};

bool belongs(const std::string& name, const std::string& family, const std::string& type) {
  if (type != "histogram") return name == family;
  return name == family + "_bucket" || name == family + "_sum" || name == family + "_count";
}

Scrape parse(const std::string& text) {
  static const std::regex help("# HELP (xapi_guard_[a-z0-9_]+) ([ -~]+)");
  static const std::regex type("# TYPE (xapi_guard_[a-z0-9_]+) (counter|gauge|histogram)");
  static const std::regex sample(
      R"re((xapi_guard_[a-z0-9_]+)(\{([a-z_]+="([^"\\\n]|\\\\|\\"|\\n)*")(,[a-z_]+="([^"\\\n]|\\\\|\\"|\\n)*")*\})? (-?[0-9][0-9.e+-]*))re");
  Scrape scrape;
  const auto wrong = [&scrape](const std::string& why, const std::string& line) {
    if (scrape.error.empty()) scrape.error = why + ": " + line;
  };
  if (text.empty() || text.back() != '\n') wrong("does not end with a line feed", text.substr(0, 40));
  std::istringstream lines(text);
  std::string family, family_type, helped;
  std::set<std::string> with_help;
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_match(line, match, help)) {
      if (!with_help.insert(match[1]).second) wrong("a second HELP", line);
      helped = match[1];
    } else if (std::regex_match(line, match, type)) {
      if (helped != match[1]) wrong("TYPE without its HELP above", line);
      if (!scrape.types.emplace(match[1], match[2]).second) wrong("a second TYPE", line);
      family = match[1];
      family_type = match[2];
    } else if (std::regex_match(line, match, sample)) {
      const std::string name = match[1];
      if (!belongs(name, family, family_type)) wrong("not of the family above", line);
      if (family_type == "counter" && !name.ends_with("_total")) wrong("a counter is named _total", line);
      char* end = nullptr;
      const std::string value = match[7];
      (void)std::strtod(value.c_str(), &end);
      if (*end != '\0') wrong("not a number", line);
      if (!scrape.samples.emplace(name + std::string(match[2]), value).second) wrong("a series twice", line);
    } else {
      wrong("neither comment nor sample", line);
    }
  }
  return scrape;
}

/// Everything different from everything else, so that a mixed-up figure shows.
MetricsView some_view() {
  MetricsView view;
  view.core.mode = core::Mode::engaged;
  view.core.upstream = core::Health::State::down;
  view.core.pending_entries = 11;
  view.core.pending_vms = 7;
  view.core.pending_bytes = 1300;
  view.core.alerts = 2;
  view.core.oldest_since = seconds(100);
  view.now = seconds(160) + milliseconds(500);
  view.core.held.resize(3);
  view.core.parked.resize(4);
  view.core.doubt = 5;
  view.core.counters.writes_direct = 21;
  view.core.counters.writes_journaled = 22;
  view.core.counters.reads_known = 23;
  view.core.counters.failed_lane = 24;
  view.core.counters.delivery_calls = 25;
  view.swtpm.requests[device::SwtpmStats::put][device::SwtpmStats::refused] = 31;
  view.varstored.requests[device::VarstoredStats::alert][device::VarstoredStats::success] = 32;
  view.stats.emplace();
  view.stats->corrupt_records = 41;
  view.stats->generation = 42;
  view.quarantine_bytes = 43;
  view.sockets = 44;
  view.message_switch.emplace().connected = true;
  view.version = "1.2.3";
  view.start_seconds = 1'795'000'000.25;
  return view;
}

TEST(Metrics, AreValidWhateverTheStateIs) {
  for (const bool read : {false, true}) {
    for (const auto state : {journal::State::ok, journal::State::failed, journal::State::stalled}) {
      MetricsView view = some_view();
      if (!read) view.stats.reset();
      if (read) view.stats->state = state;
      if (state == journal::State::failed) view.message_switch.reset();
      const Scrape scrape = parse(metrics_text(view));
      EXPECT_EQ(scrape.error, "");
      EXPECT_GT(scrape.types.size(), 40u);
      const std::string name = read ? std::string(journal::name_of(state)) : "unread";
      EXPECT_EQ(scrape.value("xapi_guard_journal_state{state=\"" + name + "\"}"), 1);
    }
  }
}

TEST(Metrics, SayWhatTheyWereTold) {
  const Scrape scrape = parse(metrics_text(some_view()));
  ASSERT_EQ(scrape.error, "");
  EXPECT_EQ(scrape.value("xapi_guard_pending_entries"), 11);
  EXPECT_EQ(scrape.value("xapi_guard_pending_vms"), 7);
  EXPECT_EQ(scrape.value("xapi_guard_pending_bytes"), 1300);
  EXPECT_EQ(scrape.value("xapi_guard_pending_alerts"), 2);
  EXPECT_EQ(scrape.value("xapi_guard_pending_oldest_seconds"), 60.5);
  EXPECT_EQ(scrape.value("xapi_guard_mode{mode=\"direct\"}"), 0);
  EXPECT_EQ(scrape.value("xapi_guard_mode{mode=\"engaged\"}"), 1);
  EXPECT_EQ(scrape.value("xapi_guard_upstream_state{state=\"down\"}"), 1);
  EXPECT_EQ(scrape.value("xapi_guard_upstream_state{state=\"up\"}"), 0);
  EXPECT_EQ(scrape.value("xapi_guard_held_lanes"), 3);
  EXPECT_EQ(scrape.value("xapi_guard_parked_entries"), 4);
  EXPECT_EQ(scrape.value("xapi_guard_doubtful_lanes"), 5);
  EXPECT_EQ(scrape.value("xapi_guard_writes_total{outcome=\"direct\"}"), 21);
  EXPECT_EQ(scrape.value("xapi_guard_writes_total{outcome=\"journaled\"}"), 22);
  EXPECT_EQ(scrape.value("xapi_guard_reads_total{source=\"known\"}"), 23);
  EXPECT_EQ(scrape.value("xapi_guard_updates_total{outcome=\"lane\"}"), 24);
  EXPECT_EQ(scrape.value("xapi_guard_update_calls_total{kind=\"delivery\"}"), 25);
  EXPECT_EQ(scrape.value("xapi_guard_requests_total{method=\"PUT\",result=\"refused\"}"), 31);
  EXPECT_EQ(scrape.value("xapi_guard_varstored_calls_total{method=\"message\",result=\"success\"}"), 32);
  EXPECT_EQ(scrape.value("xapi_guard_journal_corrupt_records_total"), 41);
  EXPECT_EQ(scrape.value("xapi_guard_journal_generation"), 42);
  EXPECT_EQ(scrape.value("xapi_guard_quarantine_bytes"), 43);
  EXPECT_EQ(scrape.value("xapi_guard_device_sockets"), 44);
  EXPECT_EQ(scrape.value("xapi_guard_switch_state{state=\"connected\"}"), 1);
  EXPECT_EQ(scrape.value("xapi_guard_build_info{version=\"1.2.3\"}"), 1);
  EXPECT_EQ(scrape.value("xapi_guard_start_time_seconds"), 1'795'000'000.25);
}

TEST(Metrics, NoSeriesDependsOnHowManyVmsThereAre) {
  MetricsView view = some_view();
  const std::size_t before = parse(metrics_text(view)).samples.size();
  view.core.held.resize(500);
  view.core.parked.resize(500);
  view.sockets = 2000;
  EXPECT_EQ(parse(metrics_text(view)).samples.size(), before);
}

TEST(Metrics, HistogramsAreCumulativeAndAddUp) {
  MetricsView view = some_view();
  for (const auto lasted :
       {microseconds(99), microseconds(100), microseconds(101), microseconds(2'000'000)}) {
    view.direct.record(lasted);
  }
  view.direct.record(seconds(60));
  const Scrape scrape = parse(metrics_text(view));
  ASSERT_EQ(scrape.error, "");
  const auto bucket = [&](const char* le) {
    return scrape.value(std::string("xapi_guard_acknowledge_seconds_bucket{path=\"direct\",le=\"") + le +
                        "\"}");
  };
  EXPECT_EQ(bucket("0.0001"), 2);
  EXPECT_EQ(bucket("0.00025"), 3);
  EXPECT_EQ(bucket("1"), 3);
  EXPECT_EQ(bucket("2.5"), 4);
  EXPECT_EQ(bucket("10"), 4);
  EXPECT_EQ(bucket("+Inf"), 5);
  EXPECT_EQ(scrape.value("xapi_guard_acknowledge_seconds_count{path=\"direct\"}"), 5);
  EXPECT_NEAR(scrape.value("xapi_guard_acknowledge_seconds_sum{path=\"direct\"}"), 62.0003, 1e-6);
  EXPECT_EQ(scrape.value("xapi_guard_acknowledge_seconds_count{path=\"journal\"}"), 0);
  EXPECT_EQ(scrape.value("xapi_guard_journal_batch_seconds_bucket{le=\"+Inf\"}"), 0);
}

TEST(Metrics, TheirParserSeesWhatIsWrong) {
  const std::string head = "# HELP xapi_guard_a_total A.\n# TYPE xapi_guard_a_total counter\n";
  EXPECT_EQ(parse(head + "xapi_guard_a_total 1\n").error, "");
  for (const std::string bad :
       {"xapi_guard_b 1\n", "xapi_guard_a_total 1\nxapi_guard_a_total 1\n", "xapi_guard_a_total one\n",
        "xapi_guard_a_total{x=\"1} 1\n", "xapi_guard_a_total 1", "\n", "xapi_guard_a_total 1 \n"}) {
    EXPECT_NE(parse(head + bad).error, "") << bad;
  }
  EXPECT_NE(parse(head + head).error, "");
  EXPECT_NE(parse("# TYPE xapi_guard_a gauge\nxapi_guard_a 1\n").error, "");
}

TEST(Exposition, EscapesTheValuesOfLabels) {
  Exposition out;
  out.family("xapi_guard_a", "gauge", "A.");
  out.sample({{"label", "a\"b\\c\nd"}}, 1);
  const std::string text = out.take();
  EXPECT_EQ(parse(text).error, "");
  EXPECT_TRUE(text.ends_with("xapi_guard_a{label=\"a\\\"b\\\\c\\nd\"} 1\n")) << text;
}

TEST(Histogram, CountsWhatWouldBeNegativeAsNothing) {
  Histogram histogram;
  histogram.record(seconds(-1));
  EXPECT_EQ(histogram.in_bucket(0), 1u);
  EXPECT_EQ(histogram.sum(), Time{});
}

}  // namespace
}  // namespace guard::daemon
