// What the library costs: acknowledged writes through guard::Buffer while its upstream is away, beside bare
// appends of the same bytes to a preallocated file on the same file system in the same run.
//
// buffer_bench [--dir DIR] [--seconds S] [--size BYTES]
//
// Each writer is a thread that waits for its write before it begins the next, or, in the rows "callbacks", a
// callback that begins the next. Bare appends: one thread, one pwritev and one fdatasync per round of all
// writers.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "guard/buffer.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string dir = ".";
  double seconds = 3;
  std::size_t size = 8192;
};

/// Away all the time.
class Away final : public guard::Upstream {
 public:
  guard::UpstreamLimits limits() const override { return {std::size_t{1} << 20, 0}; }
  void set_events(guard::UpstreamEvents*) override {}
  void deliver(guard::Delivery, std::function<void(guard::Outcome)> done) override { done(away()); }
  void fetch(guard::Owner, std::function<void(guard::Fetched)> done) override { done({}); }
  void probe(std::function<void(guard::Outcome)> done) override { done(away()); }

 private:
  static guard::Outcome away() {
    guard::Outcome outcome;
    outcome.upstream_suspect = true;
    return outcome;
  }
};

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Row {
  const char* name;
  unsigned writers;
  double cpu = cpu_seconds();
  Clock::time_point start = Clock::now();
  std::vector<float> latencies_us = {};

  void print() {
    const double seconds = since(start);
    const double used = cpu_seconds() - cpu;
    std::sort(latencies_us.begin(), latencies_us.end());
    const std::size_t n = latencies_us.size();
    if (n == 0) return (void)std::printf("%-22s nothing was written\n", name);
    const auto count = static_cast<double>(n);
    const auto at = [&](double part) {
      return latencies_us[std::min(n - 1, static_cast<std::size_t>(part * count))] / 1e3;
    };
    std::printf("%-22s %8u %10.0f %9.2f %9.2f %9.2f %9.1f\n", name, writers, count / seconds, at(0.5),
                at(0.99), at(1), used / count * 1e6);
    std::fflush(stdout);
  }
};

void bare(const Settings& settings, unsigned writers) {
  const std::string path = settings.dir + "/bare";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const std::string zeros(std::size_t{32} << 20, '\0');
  if (fd < 0 || ::pwrite(fd, zeros.data(), zeros.size(), 0) < 0 || ::fsync(fd) < 0)
    return std::perror("bare appends");
  std::string body(settings.size, 'x');
  const std::vector<iovec> parts(writers, iovec{body.data(), body.size()});
  const std::size_t round = (settings.size * writers + 4095) / 4096 * 4096;
  std::size_t at = 0;
  Row row{"bare appends", writers};
  while (since(row.start) < settings.seconds) {
    const auto begun = Clock::now();
    if (at + round > zeros.size()) at = 0;
    if (::pwritev(fd, parts.data(), static_cast<int>(writers), static_cast<off_t>(at)) < 0 ||
        ::fdatasync(fd) < 0) {
      return std::perror("bare appends");
    }
    at += round;
    row.latencies_us.insert(row.latencies_us.end(), writers, static_cast<float>(since(begun) * 1e6));
  }
  row.print();
  ::close(fd);
  std::filesystem::remove(path);
}

guard::Key key_of(unsigned writer) {
  guard::Key key;
  key.owner.bytes[0] = static_cast<std::uint8_t>(writer);
  return key;
}

/// Runs `work` with a fresh buffer and says how many writes it reports as failed.
void with_buffer(const Settings& settings, const std::function<unsigned(guard::Buffer&)>& work) {
  Away away;
  auto buffer = guard::Buffer::open(settings.dir + "/state", {}, away);
  if (!buffer) return (void)std::fprintf(stderr, "%s\n", buffer.error().message.c_str());
  // The first write finds out that the upstream is away.
  unsigned failed = buffer->write(key_of(0), guard::Value("x")) ? 0 : 1;
  failed += work(*buffer);
  if (failed > 0) std::printf("%u writes FAILED\n", failed);
  (void)buffer->close();
  std::filesystem::remove_all(settings.dir + "/state");
}

void threads(const Settings& settings, unsigned writers) {
  with_buffer(settings, [&](guard::Buffer& buffer) {
    const guard::Value value(std::string(settings.size, 'x'));
    std::atomic<unsigned> failed = 0;
    std::vector<std::vector<float>> latencies(writers);
    Row row{"buffer, threads", writers};
    std::vector<std::thread> running;
    for (unsigned writer = 0; writer < writers; ++writer) {
      running.emplace_back([&, writer] {
        while (since(row.start) < settings.seconds) {
          const auto begun = Clock::now();
          if (!buffer.write(key_of(writer), value)) ++failed;
          latencies[writer].push_back(static_cast<float>(since(begun) * 1e6));
        }
      });
    }
    for (auto& thread : running) thread.join();
    for (const auto& some : latencies) {
      row.latencies_us.insert(row.latencies_us.end(), some.begin(), some.end());
    }
    row.print();
    return failed.load();
  });
}

void callbacks(const Settings& settings, unsigned writers) {
  with_buffer(settings, [&](guard::Buffer& buffer) {
    const guard::Value value(std::string(settings.size, 'x'));
    std::atomic<unsigned> failed = 0, running = writers;
    Row row{"buffer, callbacks", writers};
    std::function<void(unsigned)> next = [&](unsigned writer) {
      const auto begun = Clock::now();
      const auto taken = buffer.write(key_of(writer), value, [&, writer, begun](guard::Result<> result) {
        if (!result) ++failed;
        row.latencies_us.push_back(static_cast<float>(since(begun) * 1e6));  // the buffer's thread only
        if (since(row.start) < settings.seconds) return next(writer);
        if (--running == 0) running.notify_one();
      });
      if (!taken) std::abort();  // far from any bound
    };
    for (unsigned writer = 0; writer < writers; ++writer) next(writer);
    for (unsigned left = running; left > 0; left = running) running.wait(left);
    row.print();
    return failed.load();
  });
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--dir")
      settings.dir = value;
    else if (option == "--seconds")
      settings.seconds = std::atof(value);
    else if (option == "--size")
      settings.size = static_cast<std::size_t>(std::atoll(value));
    else
      return std::fprintf(stderr, "usage: buffer_bench [--dir DIR] [--seconds S] [--size BYTES]\n"), 2;
  }
  std::string place = settings.dir + "/buffer-bench-XXXXXX";
  if (::mkdtemp(place.data()) == nullptr) return std::perror(place.c_str()), 1;
  settings.dir = place;
  std::printf("values of %zu bytes, upstream away\n%-22s %8s %10s %9s %9s %9s %9s\n", settings.size, "",
              "writers", "writes/s", "p50 ms", "p99 ms", "max ms", "CPU us");
  for (const unsigned writers : {1u, 64u}) {
    bare(settings, writers);
    threads(settings, writers);
    callbacks(settings, writers);
  }
  std::filesystem::remove_all(place);
  return 0;
}
