// simulate: plays histories of the guard in simulated worlds and looks for a broken promise.
//
//   simulate [--seed N] [--seconds N | --count N] [--jobs N] [--without KIND]... [--only KIND]...
//            [--stop]           --stop: at the first failure, unshrunk
//            [--each]           --each: names every history that fails, and shrinks none
//   simulate --replay SEED     plays one history aloud and, if it fails, its shortest form
//
// The last line is "N passed, M failed"; the exit status is 0 when none failed, 1 when one did, 2 for wrong
// usage. Histories have the seeds N, N+1, ...
#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "testing/simulation/plan.h"
#include "testing/simulation/shrink.h"
#include "testing/simulation/world.h"

namespace guard::simulation {
namespace {

using Clock = std::chrono::steady_clock;

/// Of the histories that are shown shrunk.
constexpr std::size_t most_shown = 3;
constexpr unsigned shrink_plays = 3000;

struct Options {
  std::uint64_t seed = 1;
  double seconds = 60;
  std::uint64_t count = 0;  ///< 0 = by time
  unsigned jobs = std::max(1u, std::thread::hardware_concurrency());
  Mask without = 0;
  Mask only = 0;
  bool replay = false;
  bool stop_at_first = false;
  bool each = false;
};

Plan plan_of(std::uint64_t seed, const Options& options) {
  const Plan plan = make_plan(seed);
  if (options.without == 0 && options.only == 0) return plan;
  Mask mask = plan.mask & ~options.without;
  if (options.only != 0) mask &= options.only;
  return make_plan(seed, mask);
}

struct Results {
  std::mutex mutex;
  std::atomic<bool> any_failed{false};
  std::uint64_t passed = 0;
  std::uint64_t failed = 0;
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> failures;  ///< text -> how often, first seed
  std::vector<Tally> tallies;                                               ///< of a sample
};

std::string promise_of(const std::string& failure) {
  // Without numbers: failures of one kind count together.
  std::string text;
  for (const char c : failure) {
    if (c < '0' || c > '9' || text.size() < 4) text += c;
  }
  return text;
}

void work(const Options& options, std::atomic<std::uint64_t>& next, Clock::time_point end, Results& results) {
  std::vector<Tally> tallies;
  std::uint64_t passed = 0;
  while (true) {
    const std::uint64_t number = next++;
    if (options.stop_at_first && results.any_failed) break;
    if (options.count != 0 ? number >= options.count : Clock::now() >= end) break;
    const Plan plan = plan_of(options.seed + number, options);
    std::string failure;
    try {
      World world(plan);
      failure = world.play();
      if (number % 16 == 0) tallies.push_back(world.tally());
    } catch (const std::exception& error) {
      failure = std::string("exception: ") + error.what();
    }
    if (failure.empty()) {
      ++passed;
      continue;
    }
    const std::lock_guard lock(results.mutex);
    ++results.failed;
    auto& [times, seed] = results.failures[promise_of(failure)];
    const bool first = times++ == 0;
    if (first) seed = plan.seed;
    if (first || options.each) {
      std::printf("seed %llu fails: %s  [%s]\n", static_cast<unsigned long long>(plan.seed), failure.c_str(),
                  names_in(plan.mask).c_str());
      std::fflush(stdout);
    }
    results.any_failed = true;
  }
  const std::lock_guard lock(results.mutex);
  results.passed += passed;
  results.tallies.insert(results.tallies.end(), tallies.begin(), tallies.end());
}

template <class Number>
std::uint64_t median(const std::vector<Tally>& tallies, Number number) {
  if (tallies.empty()) return 0;
  std::vector<std::uint64_t> all;
  for (const Tally& tally : tallies) all.push_back(number(tally));
  std::ranges::sort(all);
  return all[all.size() / 2];
}

void play_aloud(const Plan& plan) {
  World world(plan, [](const std::string& line) { std::printf("%s\n", line.c_str()); });
  const std::string failure = world.play();
  std::printf("%s\n", failure.empty() ? "all promises kept" : failure.c_str());
}

void show_shrunk(std::uint64_t seed, const Options& options) {
  const Plan plan = plan_of(seed, options);
  const Plan small = shrink(plan, shrink_plays);
  std::printf("\nseed %llu, shrunk from %zu to %zu steps, troubles: %s\n",
              static_cast<unsigned long long>(seed), plan.steps.size(), small.steps.size(),
              names_in(small.mask).c_str());
  play_aloud(small);
}

int run(const Options& options) {
  if (options.replay) {
    const Plan plan = plan_of(options.seed, options);
    std::printf("seed %llu, troubles: %s\n", static_cast<unsigned long long>(plan.seed),
                names_in(plan.mask).c_str());
    play_aloud(plan);
    const bool failed = !failure_of(plan).empty();
    if (failed) show_shrunk(options.seed, options);
    std::printf("%d passed, %d failed\n", failed ? 0 : 1, failed ? 1 : 0);
    return failed ? 1 : 0;
  }
  Results results;
  std::atomic<std::uint64_t> next{0};
  const auto start = Clock::now();
  const auto end =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds));
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < options.jobs; ++i) {
    threads.emplace_back([&] { work(options, next, end, results); });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::size_t shown = 0;
  for (const auto& [text, found] : results.failures) {
    std::printf("%llu times: %s (first seed %llu)\n", static_cast<unsigned long long>(found.first),
                text.c_str(), static_cast<unsigned long long>(found.second));
    if (!options.stop_at_first && !options.each && shown++ < most_shown) show_shrunk(found.second, options);
  }
  const auto& tallies = results.tallies;
  const std::uint64_t total = results.passed + results.failed;
  std::printf(
      "a history has (medians of %zu): %llu operations, %llu crashes of the guard, %llu other troubles, "
      "%llu events\n",
      tallies.size(),
      static_cast<unsigned long long>(median(tallies, [](const Tally& t) { return t.operations; })),
      static_cast<unsigned long long>(median(tallies, [](const Tally& t) { return t.crashes; })),
      static_cast<unsigned long long>(median(tallies, [](const Tally& t) { return t.troubles; })),
      static_cast<unsigned long long>(median(tallies, [](const Tally& t) { return t.events; })));
  std::printf("%llu histories in %.1f s, %.0f per minute, %u at a time, seeds from %llu\n",
              static_cast<unsigned long long>(total), seconds, static_cast<double>(total) * 60 / seconds,
              options.jobs, static_cast<unsigned long long>(options.seed));
  std::printf("%llu passed, %llu failed\n", static_cast<unsigned long long>(results.passed),
              static_cast<unsigned long long>(results.failed));
  return results.failed == 0 && total > 0 ? 0 : 1;
}

Mask kind_named(const char* name) {
  for (std::size_t i = 0; i < trouble_count; ++i) {
    if (std::strcmp(name, simulation::name_of(static_cast<Trouble>(i))) == 0) return Mask{1} << i;
  }
  return 0;
}

bool parse(int argc, char** argv, Options& options) {
  const auto number = [](const char* text, auto& value) {
    const char* end = text + std::strlen(text);
    const auto [rest, error] = std::from_chars(text, end, value);
    return error == std::errc() && rest == end;
  };
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--stop") {
      options.stop_at_first = true;
      continue;
    }
    if (name == "--each") {
      options.each = true;
      continue;
    }
    if (i + 1 >= argc) return false;
    const char* value = argv[++i];
    if (name == "--seed" && number(value, options.seed)) continue;
    if (name == "--seconds" && number(value, options.seconds)) continue;
    if (name == "--count" && number(value, options.count)) continue;
    if (name == "--jobs" && number(value, options.jobs) && options.jobs > 0) continue;
    if (name == "--replay" && number(value, options.seed)) {
      options.replay = true;
      continue;
    }
    Mask* mask = name == "--without" ? &options.without : name == "--only" ? &options.only : nullptr;
    const Mask kind = kind_named(value);
    if (mask == nullptr || kind == 0) return false;
    *mask |= kind;
  }
  return true;
}

}  // namespace
}  // namespace guard::simulation

int main(int argc, char** argv) {
  guard::simulation::Options options;
  if (!guard::simulation::parse(argc, argv, options)) {
    std::fprintf(stderr,
                 "usage: simulate [--seed N] [--seconds N | --count N] [--jobs N] [--without KIND]... "
                 "[--only KIND]... [--stop] [--each]\n       simulate --replay SEED [--without KIND]...\n");
    return 2;
  }
  return guard::simulation::run(options);
}
