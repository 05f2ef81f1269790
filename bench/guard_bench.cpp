// The whole product, measured over its sockets: real xapi-guard, real xapi-sim, real clients, beside
// baselines in the same run, because machines are noisy. Prints tables; asserts nothing about time.
//
//   guard_bench [SECONDS-PER-MEASUREMENT] [NAME...]     names: down, slow, hung, delivery, start, idle; none
//   = all
//
// Binaries are taken from the directory of this program; the work is done in a new directory in /var/tmp,
// which is on a disk, while /tmp may be in memory.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "bench/load.h"
#include "bench/processes.h"

namespace guard::bench {
namespace {

constexpr std::size_t body_bytes = 8192;

struct Row {
  double per_second = 0;
  Percentiles latency;
};

/// What the disk can do: `writers` values of 8 KiB appended to a preallocated file with one pwritev and one
/// fdatasync per batch of all of them.
Row bare_appends(const std::string& dir, unsigned writers, double seconds) {
  const std::string path = dir + "/bare";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const std::string zeros(1 << 20, '\0');
  constexpr std::size_t size = 32u << 20;
  for (std::size_t at = 0; at < size; at += zeros.size()) {
    if (::pwrite(fd, zeros.data(), zeros.size(), static_cast<off_t>(at)) < 0) std::abort();
  }
  ::fsync(fd);
  const std::string value(body_bytes, 'A');
  std::vector<iovec> parts(writers, iovec{const_cast<char*>(value.data()), value.size()});
  std::vector<double> latencies;
  std::size_t offset = 0;
  const double start = now_seconds();
  double end = start;
  while (end - start < seconds) {
    if (offset + writers * body_bytes > size) offset = 0;
    const double before = now_seconds();
    if (::pwritev(fd, parts.data(), static_cast<int>(writers), static_cast<off_t>(offset)) < 0) std::abort();
    if (::fdatasync(fd) != 0) std::abort();
    end = now_seconds();
    latencies.push_back(end - before);
    offset += writers * body_bytes;
  }
  ::close(fd);
  ::unlink(path.c_str());
  const double count = static_cast<double>(latencies.size()) * writers;
  return {count / (end - start), percentiles(latencies)};
}

void print_head() {
  std::printf("  %-44s %10s %9s %9s %9s %9s %9s\n", "", "writes/s", "p50 ms", "p99 ms", "max ms", "syncs/s",
              "us CPU/wr");
}

void print_row(const std::string& name, const Row& row, double syncs, double cpu_us) {
  std::printf("  %-44s %10.0f %9.2f %9.2f %9.2f", name.c_str(), row.per_second, row.latency.p50 * 1e3,
              row.latency.p99 * 1e3, row.latency.max * 1e3);
  if (syncs >= 0) std::printf(" %9.0f", syncs);
  if (cpu_us >= 0) std::printf(" %9.1f", cpu_us);
  std::printf("\n");
  std::fflush(stdout);
}

/// Writes from one client per VM, one request in flight each, for `seconds`; also prints the guard's own
/// cost.
Row measure(Stack& stack, const std::string& name, const std::vector<std::string>& sockets, double seconds) {
  const double cpu_before = stack.guard_cpu_seconds();
  const double syncs_before = stack.counter("syncs");
  const LoadResult load = put_load(sockets, body_bytes, seconds);
  const double writes = static_cast<double>(load.latencies.size());
  const double cpu = stack.guard_cpu_seconds() - cpu_before;
  const double syncs = stack.counter("syncs") - syncs_before;
  const Row row{writes / load.seconds, percentiles(load.latencies)};
  print_row(name, row, syncs / load.seconds, writes > 0 ? cpu / writes * 1e6 : 0);
  if (load.failures > 0) std::printf("    (%zu requests failed)\n", load.failures);
  return row;
}

void upstream_down(const std::string& bin, const std::string& dir, double seconds) {
  std::printf("\nUpstream down: every write is durable on disk before it is acknowledged (8 KiB)\n");
  print_head();
  for (const unsigned vms : {1u, 8u, 64u}) {
    const std::string label = std::to_string(vms) + (vms == 1 ? " VM" : " VMs");
    print_row("bare appends, " + label + " per batch", bare_appends(dir, vms, seconds / 2), -1, -1);
    Stack stack(bin, dir + "/down" + std::to_string(vms));
    stack.start_sim({});
    stack.start_guard({});
    const auto sockets = stack.create_vms(vms);
    put_load(sockets, body_bytes, 0.2);
    stack.stop_sim();
    put_load(sockets, body_bytes, 0.5);
    measure(stack, "xapi-guard, " + label, sockets, seconds);
  }
}

void upstream_slow(const std::string& bin, const std::string& dir, double seconds) {
  std::printf("\nUpstream answers in 2 ms, 64 VMs: direct writes\n");
  print_head();
  Stack stack(bin, dir + "/slow");
  stack.start_sim({"--latency", "2ms"});
  stack.start_guard({});
  const auto sockets = stack.create_vms(64);
  put_load(sockets, body_bytes, 1);
  const double calls = stack.counter("direct_calls");
  const double writes = stack.counter("writes_direct");
  const double connects = stack.counter("upstream_connects");
  const double set_calls = stack.sim_calls();
  measure(stack, "xapi-guard, 64 VMs", sockets, seconds);
  const double made = stack.counter("writes_direct") - writes;
  std::printf("    upstream calls per write: %.3f (updates %.3f), new connections: %.0f\n",
              (stack.sim_calls() - set_calls) / made, (stack.counter("direct_calls") - calls) / made,
              stack.counter("upstream_connects") - connects);
}

void one_hangs(const std::string& bin, const std::string& dir, double seconds) {
  std::printf("\nOne VM's xapi calls hang; the p99 of 63 others, runs interleaved\n");
  Stack stack(bin, dir + "/hung");
  stack.start_sim({"--latency", "2ms"});
  stack.start_guard({"--doubt-window", "1s"});
  auto sockets = stack.create_vms(64);
  put_load(sockets, body_bytes, 0.5);
  const std::vector<std::string> others(sockets.begin() + 1, sockets.end());
  std::vector<double> without, with;
  for (int run = 0; run < 5; ++run) {
    without.push_back(percentiles(put_load(others, body_bytes, seconds / 2).latencies).p99 * 1e3);
    stack.hang_vm(0);
    LoadResult hung;
    std::thread victim([&] { hung = put_load({sockets[0]}, body_bytes, seconds / 2); });
    with.push_back(percentiles(put_load(others, body_bytes, seconds / 2).latencies).p99 * 1e3);
    victim.join();
    stack.release_hangs();
    std::printf(
        "  run %d: without %.2f ms, with %.2f ms (the VM itself: %zu writes acknowledged, %zu failed)\n",
        run + 1, without.back(), with.back(), hung.latencies.size(), hung.failures);
    std::fflush(stdout);
  }
  std::sort(without.begin(), without.end());
  std::sort(with.begin(), with.end());
  std::printf("  median: without %.2f ms, with %.2f ms, difference %+.2f ms (%+.0f %%)\n", without[2],
              with[2], with[2] - without[2], (with[2] / without[2] - 1) * 100);
}

void delivery(const std::string& bin, const std::string& dir) {
  std::printf("\n192 pending entries of 64 VMs, then xapi is back at 2 ms per call\n");
  Stack stack(bin, dir + "/delivery");
  stack.start_sim({});
  stack.start_guard({});
  const auto sockets = stack.create_vms(64);
  stack.stop_sim();
  for (const char* state : {"permall", "savestate", "volatilestate"}) put_once(sockets, state, body_bytes);
  const double pending = stack.pending_entries();
  stack.start_sim({"--latency", "2ms"});
  const double took = stack.drain();
  std::printf("  %.0f entries, %.0f updates, %.0f ms from the first call to nothing pending\n", pending,
              stack.counter("delivery_calls"), took * 1e3);
}

void start_up(const std::string& bin, const std::string& dir) {
  std::printf("\nStart with 10,000 pending entries (8 KiB), xapi down\n");
  Stack stack(bin, dir + "/start");
  stack.start_guard({"--journal-size", "256MiB"});
  const unsigned rounds = 20;
  std::vector<std::string> sockets;
  for (unsigned round = 0; round < rounds; ++round) {
    // 167 VMs at a time, three states each: their sockets need not all exist at once.
    sockets = stack.create_vms(167, round * 167);
    for (const char* state : {"permall", "savestate", "volatilestate"}) put_once(sockets, state, body_bytes);
    stack.destroy_vms(sockets);
  }
  const double pending = stack.pending_entries();
  stack.kill_guard();
  const double ready = stack.start_guard({"--journal-size", "256MiB"});
  const ProcessFigures figures = stack.guard_figures();
  std::printf("  %.0f entries: ready after %.0f ms, %.1f MB resident, %u descriptors, %u threads\n", pending,
              ready * 1e3, figures.resident_mb, figures.descriptors, figures.threads);
}

void idle(const std::string& bin, const std::string& dir) {
  std::printf("\nIdle with 64 device sockets and 64 connected clients\n");
  Stack stack(bin, dir + "/idle");
  stack.start_sim({});
  stack.start_guard({});
  const auto sockets = stack.create_vms(64);
  const auto clients = connect_all(sockets);
  put_load(sockets, body_bytes, 0.5);
  std::this_thread::sleep_for(std::chrono::seconds(2));
  const ProcessFigures before = stack.guard_figures();
  std::this_thread::sleep_for(std::chrono::seconds(5));
  const ProcessFigures after = stack.guard_figures();
  std::printf("  %.1f MB resident, %u threads, %.1f wake-ups/s, %u descriptors\n", after.resident_mb,
              after.threads, static_cast<double>(after.switches - before.switches) / 5, after.descriptors);
  close_all(clients);
}

int run(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 4;
  char name[] = "/var/tmp/guard-bench-XXXXXX";
  const std::string dir = ::mkdtemp(name);
  const std::string bin = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const std::vector<std::string> names(argv + std::min(argc, 2), argv + argc);
  const auto wanted = [&names](const char* section) {
    return names.empty() || std::find(names.begin(), names.end(), section) != names.end();
  };
  std::printf("%u cores; %.1f s per measurement\n", std::thread::hardware_concurrency(), seconds);
  if (wanted("down")) upstream_down(bin, dir, seconds);
  if (wanted("slow")) upstream_slow(bin, dir, seconds);
  if (wanted("hung")) one_hangs(bin, dir, seconds);
  if (wanted("delivery")) delivery(bin, dir);
  if (wanted("start")) start_up(bin, dir);
  if (wanted("idle")) idle(bin, dir);
  std::filesystem::remove_all(dir);
  return 0;
}

}  // namespace
}  // namespace guard::bench

int main(int argc, char** argv) { return guard::bench::run(argc, argv); }
