// The journal beside other ways to make values durable, in one run on one disk: bare appends, SQLite, and a
// file per value. Then what is rare: the stall of a switch, and recovery.
//
// journal_bench [--dir DIR] [--seconds S] [--rounds N] [NAME...]     names: batches, switch, recovery; none =
// all
//
// All four take turns within a round, and the medians of the rounds are printed, because machines are noisy.
// The files are made in a new directory in DIR (default /var/tmp, which is on a disk).
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "bench/durable.h"
#include "bench/load.h"
#include "journal/journal.h"

namespace guard::bench {
namespace {

struct Settings {
  std::string dir = "/var/tmp";
  double seconds = 0.3;  ///< of one measurement: one store, one kind of batch, one round
  unsigned rounds = 5;
  std::vector<std::string> names;

  bool wanted(const char* name) const {
    return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
  }
};

double median(std::vector<double> samples) { return percentiles(std::move(samples)).p50; }

std::uint64_t random_salt() {
  static std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

// --- Batches ----------------------------------------------------------------------------------------------

struct Measured {
  std::vector<double> per_second, p50_ms, p99_ms;  ///< one per round
};

void measure(Durable& store, const std::vector<std::vector<std::string>>& batches, double seconds,
             Measured& into) {
  std::vector<double> latencies;
  const double start = now_seconds();
  double end = start;
  for (std::size_t i = 0; end - start < seconds; ++i) {
    const double before = now_seconds();
    store.commit(batches[i % batches.size()]);
    end = now_seconds();
    latencies.push_back(end - before);
  }
  const double writes = static_cast<double>(latencies.size() * batches[0].size());
  const Percentiles p = percentiles(std::move(latencies));
  into.per_second.push_back(writes / (end - start));
  into.p50_ms.push_back(p.p50 * 1e3);
  into.p99_ms.push_back(p.p99 * 1e3);
}

/// A few batches with different bytes, so that nobody can recognise what is there already.
std::vector<std::vector<std::string>> make_batches(std::size_t values, std::size_t bytes) {
  std::mt19937_64 random(values * bytes);
  std::vector<std::vector<std::string>> batches(4, std::vector<std::string>(values, std::string(bytes, ' ')));
  for (auto& batch : batches) {
    for (auto& value : batch) {
      for (auto& c : value) c = static_cast<char>('A' + random() % 26);
    }
  }
  return batches;
}

void batches(const Settings& settings) {
  std::printf(
      "Durable writes per second, and milliseconds per batch (p50 / p99); medians of %u rounds of %.1f s\n\n",
      settings.rounds, settings.seconds);
  std::printf("%8s %6s", "value", "batch");
  for (const char* name : {"bare appends", "journal", "SQLite WAL, FULL", "file per value"})
    std::printf("  %26s", name);
  std::printf("\n");
  for (const std::size_t kib : {1u, 8u, 64u}) {
    const std::string dir = settings.dir + "/" + std::to_string(kib);
    std::filesystem::create_directory(dir);
    constexpr std::size_t file_bytes = 64 * limits::MiB;
    std::vector<std::unique_ptr<Durable>> stores;
    stores.push_back(bare_appends(dir, file_bytes));
    stores.push_back(journal(dir, file_bytes));
    stores.push_back(sqlite_wal_full(dir));
    stores.push_back(file_per_value(dir));
    // Keys, directories and pages come into being before anything is measured.
    for (auto& store : stores) store->commit(make_batches(256, kib * limits::KiB)[0]);
    for (const std::size_t count : {1u, 4u, 16u, 64u, 256u}) {
      const auto values = make_batches(count, kib * limits::KiB);
      std::vector<Measured> measured(stores.size());
      for (unsigned round = 0; round < settings.rounds; ++round) {
        for (std::size_t i = 0; i < stores.size(); ++i)
          measure(*stores[i], values, settings.seconds, measured[i]);
      }
      std::printf("%4zu KiB %6zu", kib, count);
      for (const auto& m : measured) {
        std::printf("  %8.0f %8.2f /%7.2f", median(m.per_second), median(m.p50_ms), median(m.p99_ms));
      }
      std::printf("\n");
      std::fflush(stdout);
    }
    stores.clear();
    std::filesystem::remove_all(dir);
  }
}

// --- Switch and recovery ----------------------------------------------------------------------------------

constexpr std::size_t entry_bytes = 8 * limits::KiB;

/// A store in which nothing grows, so that only what is named is measured.
std::unique_ptr<journal::Store> open_store(const std::string& path, std::uint64_t size) {
  journal::Options options;
  options.size = options.max_size = size;
  auto place = open_directory(path);
  if (!place) give_up(place.error().message);
  auto store = journal::Store::open(std::move(*place), options, random_salt, null_logger());
  if (!store) give_up(store.error().message);
  return std::move(*store);
}

class Filler {
 public:
  explicit Filler(journal::Store& store) : store_(store) {}
  /// Writes `count` values in one batch: of the VMs from `first` on.
  void write(unsigned first, unsigned count) {
    std::vector<journal::Request> batch;
    for (unsigned vm = first; vm < first + count; ++vm) {
      journal::Entry entry;
      std::memcpy(entry.owner.vm.bytes.data(), &vm, sizeof vm);
      entry.sequence = ++sequence_;
      entry.value = Value(std::string(entry_bytes, static_cast<char>('a' + sequence_ % 26)));
      batch.emplace_back(std::move(entry));
    }
    for (const auto& done : store_.run(std::move(batch))) {
      if (!done.result) give_up(done.result.error().message);
    }
  }
  void fill(unsigned entries) {
    for (unsigned vm = 0; vm < entries; vm += 200) write(vm, std::min(200u, entries - vm));
  }

 private:
  journal::Store& store_;
  Sequence sequence_ = 0;
};

/// How long a batch of 16 values takes that meets the switch, beside those that come before it.
void stall_of_a_switch(const Settings& settings, unsigned entries, std::uint64_t size) {
  const std::string path = settings.dir + "/switch";
  auto store = open_store(path, size);
  Filler filler(*store);
  filler.fill(entries);
  std::vector<double> stalls, ordinary, zeroing;
  for (unsigned round = 0; round < settings.rounds; ++round) {
    for (const auto before = store->stats().switches; store->stats().switches == before;) {
      const double start = now_seconds();
      filler.write(0, 16);
      const double took = now_seconds() - start;
      (store->stats().switches == before ? ordinary : stalls).push_back(took * 1e3);
    }
    for (bool more = true; more;) {
      const double start = now_seconds();
      more = store->idle_work();
      zeroing.push_back((now_seconds() - start) * 1e3);
    }
  }
  const Percentiles stall = percentiles(stalls);
  std::printf("  %6u live entries: %zu switches, median %.0f ms, longest %.0f ms;", entries, stalls.size(),
              stall.p50, stall.max);
  std::printf(" batches before them p50 %.2f ms, p99 %.2f ms;", percentiles(ordinary).p50,
              percentiles(ordinary).p99);
  std::printf(" longest piece of zeroing %.0f ms\n", percentiles(zeroing).max);
  std::fflush(stdout);
  store.reset();
  std::filesystem::remove_all(path);
}

double resident_mb(const char* line) {
  std::ifstream status("/proc/self/status");
  for (std::string text; std::getline(status, text);) {
    if (text.rfind(line, 0) == 0) return std::atof(text.c_str() + std::strlen(line)) / 1024;
  }
  give_up("no such line in /proc/self/status");
}

/// In a process of its own, whose memory holds nothing else.
int recover_once(const std::string& path, std::uint64_t size, bool cold) {
  for (const char* name : {"/a", "/b"}) {
    const int fd = ::open((path + name).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (cold && ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)) give_up("open");
    ::close(fd);
  }
  const double before = resident_mb("VmRSS:");
  const double start = now_seconds();
  const auto store = open_store(path, size);
  const double took = now_seconds() - start;
  std::printf("  %-24s %6zu entries: %5.0f ms, %5.1f MB more resident at the peak\n",
              cold ? "read from the disk," : "from the page cache,", store->recovery().live.size(),
              took * 1e3, resident_mb("VmHWM:") - before);
  return 0;
}

void recover_in_a_process(const std::string& path, std::uint64_t size, bool cold) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child < 0) give_up("fork");
  if (child == 0) {
    ::execl("/proc/self/exe", "journal_bench", "--recover", path.c_str(), std::to_string(size).c_str(),
            cold ? "cold" : "cached", nullptr);
    give_up("exec");
  }
  int status = 0;
  if (::waitpid(child, &status, 0) < 0 || status != 0) give_up("recovery failed");
}

void recovery(const Settings& settings) {
  constexpr unsigned entries = 10'000;
  constexpr std::uint64_t size = 256 * limits::MiB;
  const std::string path = settings.dir + "/recovery";
  {
    auto store = open_store(path, size);
    Filler(*store).fill(entries);
    store->seal();
  }
  std::printf("\nRecovery, values of 8 KiB, files of %llu MiB\n",
              static_cast<unsigned long long>(size / limits::MiB));
  for (const bool cold : {false, true}) {
    for (unsigned round = 0; round < 3; ++round) recover_in_a_process(path, size, cold);
  }
  std::filesystem::remove_all(path);
}

int run(Settings settings) {
  std::string place = settings.dir + "/journal-bench-XXXXXX";
  if (::mkdtemp(place.data()) == nullptr) give_up(place);
  settings.dir = place;
  if (settings.wanted("batches")) batches(settings);
  if (settings.wanted("switch")) {
    std::printf("\nA batch of 16 values of 8 KiB that has to wait for a switch\n");
    stall_of_a_switch(settings, 1000, 32 * limits::MiB);
    stall_of_a_switch(settings, 10'000, 256 * limits::MiB);
  }
  if (settings.wanted("recovery")) recovery(settings);
  std::filesystem::remove_all(place);
  return 0;
}

int usage() {
  std::fprintf(stderr,
               "usage: journal_bench [--dir DIR] [--seconds S] [--rounds N] [batches|switch|recovery]...\n");
  return 2;
}

int start(int argc, char** argv) {
  if (argc == 5 && std::string_view(argv[1]) == "--recover") {  // recover_in_a_process()
    return recover_once(argv[2], std::strtoull(argv[3], nullptr, 10), std::string_view(argv[4]) == "cold");
  }
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option.rfind("--", 0) != 0) {
      if (option != "batches" && option != "switch" && option != "recovery") return usage();
      settings.names.emplace_back(option);
      continue;
    }
    if (++i == argc) return usage();
    if (option == "--dir")
      settings.dir = argv[i];
    else if (option == "--seconds")
      settings.seconds = std::atof(argv[i]);
    else if (option == "--rounds")
      settings.rounds = static_cast<unsigned>(std::atoi(argv[i]));
    else
      return usage();
  }
  if (settings.rounds == 0 || settings.seconds <= 0) return usage();
  return run(std::move(settings));
}

}  // namespace
}  // namespace guard::bench

int main(int argc, char** argv) { return guard::bench::start(argc, argv); }
