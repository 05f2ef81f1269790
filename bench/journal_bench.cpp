// How close the journal comes to what the disk can do: bare appends to a preallocated file with one fdatasync
// per batch, beside a Journal on the same file system in the same run.
//
// journal_bench [--dir DIR] [--seconds S] [--size BYTES]
//
// Prints one line per row: durable writes per second, latency p50/p99/max, syncs per second, CPU per write.
// "In flight" is the number of writers that each wait for their write before they begin the next.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "journal/journal.h"

namespace {

using guard::Sequence;
using Clock = std::chrono::steady_clock;

struct Settings {
  std::string dir = ".";
  double seconds = 3;
  std::size_t size = 8192;
};

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::uint64_t random_salt() {
  static std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Latencies of all writes of a row, and what else is printed.
class Row {
 public:
  Row(const char* name, unsigned in_flight) : name_(name), in_flight_(in_flight), cpu_(cpu_seconds()) {}

  void add(double latency_s) { latencies_us_.push_back(static_cast<float>(latency_s * 1e6)); }

  void print(double seconds, std::uint64_t syncs, const char* more = "") {
    const double cpu = cpu_seconds() - cpu_;
    std::sort(latencies_us_.begin(), latencies_us_.end());
    const auto n = latencies_us_.size();
    const auto at = [&](double part) {
      return n == 0 ? 0.f
                    : latencies_us_[std::min(n - 1, static_cast<std::size_t>(part * static_cast<double>(n)))];
    };
    const auto count = static_cast<double>(n);
    std::printf("%-14s %9u %10.0f %9.2f %9.2f %9.2f %9.0f %9.1f %s\n", name_, in_flight_, count / seconds,
                at(0.5) / 1e3, at(0.99) / 1e3, at(1) / 1e3, static_cast<double>(syncs) / seconds,
                cpu / std::max(count, 1.0) * 1e6, more);
    std::fflush(stdout);
  }

 private:
  const char* name_;
  unsigned in_flight_;
  double cpu_;
  std::vector<float> latencies_us_;
};

std::vector<std::string> make_values(std::size_t size) {
  std::mt19937_64 random(1);
  std::vector<std::string> values(64, std::string(size, ' '));
  for (auto& value : values) {
    for (auto& c : value) c = static_cast<char>('A' + random() % 26);
  }
  return values;
}

/// What no journal can beat: the same bytes, no headers, no checksums, no thread.
void bare(const Settings& settings, unsigned in_flight) {
  const std::string path = settings.dir + "/bare";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return std::perror("open");
  const std::size_t file_size = guard::limits::journal_size;
  const std::string zeros(file_size, '\0');
  if (::pwrite(fd, zeros.data(), zeros.size(), 0) < 0 || ::fsync(fd) < 0) return std::perror("write");
  const auto values = make_values(settings.size);
  std::vector<iovec> parts;
  for (unsigned i = 0; i < in_flight; ++i)
    parts.push_back({const_cast<char*>(values[i % 64].data()), settings.size});
  const std::size_t batch = (settings.size * in_flight + 4095) / 4096 * 4096;

  Row row("bare appends", in_flight);
  std::uint64_t syncs = 0;
  std::size_t at = 0;
  const auto start = Clock::now();
  while (since(start) < settings.seconds) {
    const auto begun = Clock::now();
    if (at + batch > file_size) at = 0;
    if (::pwritev(fd, parts.data(), static_cast<int>(parts.size()), static_cast<off_t>(at)) < 0)
      return std::perror("pwritev");
    if (::fdatasync(fd) < 0) return std::perror("fdatasync");
    at += batch;
    ++syncs;
    const double latency = since(begun);
    for (unsigned i = 0; i < in_flight; ++i) row.add(latency);
  }
  row.print(since(start), syncs);
  ::close(fd);
  std::filesystem::remove(path);
}

void journal(const Settings& settings, unsigned in_flight) {
  const std::string path = settings.dir + "/journal";
  std::filesystem::remove_all(path);
  auto dir = guard::open_directory(path);
  if (!dir) return (void)std::fprintf(stderr, "%s\n", dir.error().message.c_str());
  auto store = guard::journal::Store::open(std::move(*dir), {}, random_salt, guard::null_logger());
  if (!store) return (void)std::fprintf(stderr, "%s\n", store.error().message.c_str());

  std::mutex mutex;
  std::condition_variable done;
  std::vector<guard::journal::Completion> finished;
  std::vector<guard::journal::Completion> taken;
  guard::journal::Journal journal(
      std::move(*store), [&](std::vector<guard::journal::Completion> completions) {
        {
          const std::lock_guard lock(mutex);
          std::move(completions.begin(), completions.end(), std::back_inserter(finished));
        }
        done.notify_one();
      });
  std::vector<guard::Value> values;
  for (auto& text : make_values(settings.size)) values.emplace_back(std::move(text));
  Sequence sequence = 0;
  std::vector<Clock::time_point> begun(in_flight);
  const auto write_of = [&](unsigned writer) {
    guard::journal::Entry entry;
    entry.owner.vm.bytes[0] = static_cast<std::uint8_t>(writer);
    entry.sequence = ++sequence;
    entry.value = values[sequence % values.size()];
    begun[writer] = Clock::now();
    return entry;
  };

  Row row("journal", in_flight);
  const auto before = journal.stats();
  const auto start = Clock::now();
  std::vector<guard::journal::Request> requests;
  for (unsigned i = 0; i < in_flight; ++i) requests.emplace_back(write_of(i));
  journal.submit(std::move(requests));
  unsigned failed = 0;
  for (unsigned under_way = in_flight; under_way > 0;) {
    taken.clear();
    {
      std::unique_lock lock(mutex);
      done.wait(lock, [&] { return !finished.empty(); });
      std::swap(taken, finished);
    }
    std::vector<guard::journal::Request> next;
    const bool over = since(start) >= settings.seconds;
    for (const auto& completion : taken) {
      const unsigned writer = completion.owner.vm.bytes[0];
      row.add(since(begun[writer]));
      failed += completion.result ? 0 : 1;
      if (over)
        --under_way;
      else
        next.emplace_back(write_of(writer));
    }
    journal.submit(std::move(next));
  }
  const auto after = journal.stats();
  const std::string more = std::to_string(after.switches - before.switches) + " switches" +
                           (failed == 0 ? "" : ", " + std::to_string(failed) + " FAILED");
  row.print(since(start), after.syncs - before.syncs, more.c_str());
}

/// How long opening takes with many live entries, read from the page cache.
void recovery(const Settings& settings, unsigned entries) {
  const std::string path = settings.dir + "/journal";
  std::filesystem::remove_all(path);
  guard::journal::Options options;
  options.size = 256 * guard::limits::MiB;
  const auto open = [&] {
    return guard::journal::Store::open(guard::open_directory(path).value(), options, random_salt,
                                       guard::null_logger())
        .value();
  };
  {
    auto store = open();
    std::vector<guard::journal::Request> batch;
    for (unsigned i = 0; i < entries; ++i) {
      guard::journal::Entry entry;
      std::memcpy(entry.owner.vm.bytes.data(), &i, sizeof i);
      entry.sequence = i + 1;
      entry.value = guard::Value(std::string(settings.size, 'x'));
      batch.emplace_back(std::move(entry));
      if (batch.size() == 256 || i + 1 == entries) store->run(std::exchange(batch, {}));
    }
    store->seal();
  }
  const auto start = Clock::now();
  const double cpu = cpu_seconds();
  const auto store = open();
  std::printf("recovery of %zu live entries of %zu bytes: %.0f ms, CPU %.0f ms\n",
              store->recovery().live.size(), settings.size, since(start) * 1e3, (cpu_seconds() - cpu) * 1e3);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view option = argv[i];
    if (option == "--dir")
      settings.dir = argv[i + 1];
    else if (option == "--seconds")
      settings.seconds = std::atof(argv[i + 1]);
    else if (option == "--size")
      settings.size = static_cast<std::size_t>(std::atoll(argv[i + 1]));
    else
      return std::fprintf(stderr, "usage: journal_bench [--dir DIR] [--seconds S] [--size BYTES]\n"), 2;
  }
  std::string place = settings.dir + "/journal-bench-XXXXXX";
  if (::mkdtemp(place.data()) == nullptr) return std::perror(place.c_str()), 1;
  settings.dir = place;
  std::printf("values of %zu bytes\n%-14s %9s %10s %9s %9s %9s %9s %9s\n", settings.size, "", "in flight",
              "writes/s", "p50 ms", "p99 ms", "max ms", "syncs/s", "CPU us");
  for (const unsigned in_flight : {1u, 64u}) {
    bare(settings, in_flight);
    journal(settings, in_flight);
  }
  recovery(settings, 10'000);
  std::filesystem::remove_all(place);
  return 0;
}
