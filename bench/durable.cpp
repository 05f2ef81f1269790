#include "bench/durable.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>

#include "journal/journal.h"

namespace guard::bench {

void give_up(const std::string& what) {
  std::fprintf(stderr, "bench: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

namespace {

int open_or_end(const std::string& path, int flags) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0600);
  if (fd < 0) give_up("open " + path);
  return fd;
}

class BareAppends final : public Durable {
 public:
  BareAppends(const std::string& dir, std::size_t file_bytes)
      : fd_(open_or_end(dir + "/bare", O_RDWR | O_CREAT | O_TRUNC)), size_(file_bytes) {
    const std::string zeros(1 << 20, '\0');
    for (std::size_t at = 0; at < size_; at += zeros.size()) {
      if (::pwrite(fd_, zeros.data(), zeros.size(), static_cast<off_t>(at)) < 0) give_up("pwrite");
    }
    if (::fsync(fd_) < 0) give_up("fsync");
  }
  ~BareAppends() override { ::close(fd_); }
  void commit(const std::vector<std::string>& values) override {
    std::vector<iovec> parts;
    std::size_t bytes = 0;
    for (const auto& value : values) {
      parts.push_back({const_cast<char*>(value.data()), value.size()});
      bytes += value.size();
    }
    if (at_ + bytes > size_) at_ = 0;
    const auto wrote = ::pwritev(fd_, parts.data(), static_cast<int>(parts.size()), static_cast<off_t>(at_));
    if (wrote != static_cast<ssize_t>(bytes)) give_up("pwritev");
    if (::fdatasync(fd_) < 0) give_up("fdatasync");
    at_ += (bytes + 4095) / 4096 * 4096;
  }

 private:
  int fd_;
  std::size_t size_;
  std::size_t at_ = 0;
};

class JournalBed final : public Durable {
 public:
  JournalBed(const std::string& dir, std::size_t file_bytes) {
    journal::Options options;
    options.size = file_bytes;
    auto place = open_directory(dir + "/journal");
    if (!place) give_up(place.error().message);
    auto random = [] {
      std::random_device device;
      return std::uint64_t{device()} << 32 | device();
    };
    auto store = journal::Store::open(std::move(*place), options, random, null_logger());
    if (!store) give_up(store.error().message);
    journal_ = std::make_unique<journal::Journal>(
        std::move(*store), [this](const std::vector<journal::Completion>& done) { completed(done); });
  }
  void commit(const std::vector<std::string>& values) override {
    std::vector<journal::Request> requests;
    for (std::uint32_t key = 0; key < values.size(); ++key) {
      journal::Entry entry;
      std::memcpy(entry.owner.vm.bytes.data(), &key, sizeof key);
      entry.sequence = ++sequence_;
      entry.value = Value(values[key]);
      requests.emplace_back(std::move(entry));
    }
    journal_->submit(std::move(requests));
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ == values.size(); });
    done_ = 0;
  }

 private:
  void completed(const std::vector<journal::Completion>& completions) {
    for (const auto& completion : completions) {
      if (!completion.result) give_up(completion.result.error().message);
    }
    const std::lock_guard lock(mutex_);
    done_ += completions.size();
    changed_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t done_ = 0;
  Sequence sequence_ = 0;
  std::unique_ptr<journal::Journal> journal_;
};

class Sqlite final : public Durable {
 public:
  explicit Sqlite(const std::string& dir) {
    check(sqlite3_open((dir + "/sqlite.db").c_str(), &db_));
    run("PRAGMA journal_mode=WAL");
    run("PRAGMA synchronous=FULL");
    run("CREATE TABLE entries (key INTEGER PRIMARY KEY, value BLOB NOT NULL)");
    check(sqlite3_prepare_v2(db_, "INSERT OR REPLACE INTO entries VALUES (?, ?)", -1, &insert_, nullptr));
  }
  ~Sqlite() override {
    sqlite3_finalize(insert_);
    sqlite3_close(db_);
  }
  void commit(const std::vector<std::string>& values) override {
    run("BEGIN");
    for (std::size_t key = 0; key < values.size(); ++key) {
      check(sqlite3_bind_int64(insert_, 1, static_cast<sqlite3_int64>(key)));
      check(sqlite3_bind_blob(insert_, 2, values[key].data(), static_cast<int>(values[key].size()),
                              SQLITE_STATIC));
      if (sqlite3_step(insert_) != SQLITE_DONE) check(SQLITE_ERROR);
      check(sqlite3_reset(insert_));
    }
    run("COMMIT");
  }

 private:
  void check(int status) {
    if (status == SQLITE_OK) return;
    std::fprintf(stderr, "bench: SQLite: %s\n", sqlite3_errmsg(db_));
    std::exit(1);
  }
  void run(const char* statement) { check(sqlite3_exec(db_, statement, nullptr, nullptr, nullptr)); }

  sqlite3* db_ = nullptr;
  sqlite3_stmt* insert_ = nullptr;
};

class FilePerValue final : public Durable {
 public:
  explicit FilePerValue(const std::string& dir) : dir_(dir + "/files") {
    if (::mkdir(dir_.c_str(), 0700) < 0) give_up("mkdir " + dir_);
  }
  void commit(const std::vector<std::string>& values) override {
    for (const auto& name : superseded_) {
      if (::unlink(name.c_str()) < 0) give_up("unlink " + name);
    }
    superseded_.clear();
    for (std::size_t key = 0; key < values.size(); ++key) superseded_.push_back(store(key, values[key]));
  }

 private:
  /// Directories per key were made by earlier writes; their making is not measured.
  std::string store(std::size_t key, const std::string& value) {
    const std::string place = dir_ + "/" + std::to_string(key);
    if (key >= directories_) {
      if (::mkdir(place.c_str(), 0700) < 0) give_up("mkdir " + place);
      directories_ = key + 1;
    }
    const std::string name = place + "/" + std::to_string(++number_);
    const std::string temporary = name + ".pre";
    const int fd = open_or_end(temporary, O_WRONLY | O_CREAT | O_EXCL | O_SYNC);
    if (::write(fd, value.data(), value.size()) != static_cast<ssize_t>(value.size())) give_up("write");
    if (::fsync(fd) < 0) give_up("fsync");
    ::close(fd);
    if (::rename(temporary.c_str(), name.c_str()) < 0) give_up("rename");
    const int directory = open_or_end(place, O_RDONLY | O_DIRECTORY);
    if (::fsync(directory) < 0) give_up("fsync of a directory");
    ::close(directory);
    return name;
  }

  std::string dir_;
  std::size_t directories_ = 0;
  std::uint64_t number_ = 0;
  std::vector<std::string> superseded_;
};

}  // namespace

std::unique_ptr<Durable> bare_appends(const std::string& dir, std::size_t file_bytes) {
  return std::make_unique<BareAppends>(dir, file_bytes);
}
std::unique_ptr<Durable> journal(const std::string& dir, std::size_t file_bytes) {
  return std::make_unique<JournalBed>(dir, file_bytes);
}
std::unique_ptr<Durable> sqlite_wal_full(const std::string& dir) { return std::make_unique<Sqlite>(dir); }
std::unique_ptr<Durable> file_per_value(const std::string& dir) {
  return std::make_unique<FilePerValue>(dir);
}

}  // namespace guard::bench
