// spool STATE TARGET: keeps input lines "NAME TEXT" in STATE until they are files in TARGET; survives kill -9
#include <fcntl.h>
#include <guard/buffer.h>
#include <unistd.h>

#include <iostream>
#include <thread>

bool put(const std::string& dir, const std::string& name, const guard::Value& value) {
  const int to = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY), size = static_cast<int>(value.size());
  const int file = ::openat(to, ("." + name).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const bool good = ::write(file, value.view().data(), value.size()) == size && ::fsync(file) == 0 &&
                    ::renameat(to, ("." + name).c_str(), to, name.c_str()) == 0 && ::fsync(to) == 0;
  return ::close(file), ::close(to), good;
}

struct Files final : guard::Upstream {  // calls must not block, and files take time: a thread answers each
  explicit Files(std::string target) : dir(std::move(target)) {}
  guard::UpstreamLimits limits() const override { return {65536, 0}; }
  void set_events(guard::UpstreamEvents*) override {}  // it notices nothing by itself
  void deliver(guard::Delivery delivery, std::function<void(guard::Outcome)> done) override {
    answer(done, [=, to = dir] { return put(to, delivery.owner.vm.str(), delivery.writes[0].value); });
  }
  void fetch(guard::Owner, std::function<void(guard::Fetched)> done) override { done({}); }  // no reads here
  void probe(std::function<void(guard::Outcome)> done) override {
    answer(done, [to = dir] { return ::access(to.c_str(), W_OK) == 0; });
  }
  static void answer(std::function<void(guard::Outcome)> done, std::function<bool()> work) {
    std::thread([=] {
      guard::Outcome outcome;
      outcome.upstream_suspect = !work();
      if (!outcome.upstream_suspect) outcome.kind = guard::Outcome::Kind::delivered;
      done(outcome);
    }).detach();
  }
  const std::string dir;
};

int main(int argc, char** argv) {
  if (argc != 3) return std::cerr << "usage: spool STATE TARGET\n", 2;
  Files files(argv[2]);
  auto buffer = guard::Buffer::open(argv[1], {}, files);
  if (!buffer) return std::cerr << buffer.error().message << '\n', 1;
  for (std::string name, text; std::cin >> name && std::getline(std::cin, text);) {
    guard::Key key;
    name.copy(reinterpret_cast<char*>(key.owner.bytes.data()), key.owner.bytes.size());
    std::cout << (buffer->write(key, guard::Value(text)) ? "kept " : "refused ") << name << std::endl;
  }
  std::cout << (buffer->drain(std::chrono::seconds(5)) ? "all delivered" : "the rest waits") << std::endl;
}
