#include "upstream/embedded_faulty_vfs.h"

#include <sqlite3.h>

#include <array>
#include <atomic>
#include <mutex>
#include <new>
#include <utility>

namespace guard::upstream::testing {

struct FaultyVfs::Impl {
  sqlite3_vfs vfs{};
  sqlite3_vfs* usual = nullptr;
  std::string name;

  mutable std::mutex mutex;
  std::array<unsigned, 3> counts{};
  bool armed = false;
  Op op = Op::write;
  unsigned left = 0;
  int code = 0;
  bool lasting = false;
  unsigned failures = 0;

  std::function<void()> on_sync;

  /// SQLITE_OK, or what the call has to fail with.
  int next(Op what) {
    const std::lock_guard lock(mutex);
    ++counts[static_cast<std::size_t>(what)];
    if (!armed || what != op) return SQLITE_OK;
    if (left > 0) {
      --left;
      return SQLITE_OK;
    }
    if (!lasting) armed = false;
    ++failures;
    return code;
  }
};

namespace {

/// Followed in memory by the file of the usual file system.
struct File {
  sqlite3_file base;
  FaultyVfs::Impl* owner;

  sqlite3_file* usual() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};

File* mine(sqlite3_file* file) { return reinterpret_cast<File*>(file); }
sqlite3_file* usual(sqlite3_file* file) { return mine(file)->usual(); }

int read(sqlite3_file* file, void* bytes, int count, sqlite3_int64 at) {
  if (const int code = mine(file)->owner->next(FaultyVfs::Op::read); code != SQLITE_OK) return code;
  return usual(file)->pMethods->xRead(usual(file), bytes, count, at);
}
int write(sqlite3_file* file, const void* bytes, int count, sqlite3_int64 at) {
  const int code = mine(file)->owner->next(FaultyVfs::Op::write);
  const int written =
      usual(file)->pMethods->xWrite(usual(file), bytes, code == SQLITE_OK ? count : count / 2, at);
  return code == SQLITE_OK ? written : code;
}
int sync(sqlite3_file* file, int flags) {
  std::function<void()> first;
  {
    const std::lock_guard lock(mine(file)->owner->mutex);
    first = std::exchange(mine(file)->owner->on_sync, nullptr);
  }
  if (first) first();
  if (const int code = mine(file)->owner->next(FaultyVfs::Op::sync); code != SQLITE_OK) return code;
  return usual(file)->pMethods->xSync(usual(file), flags);
}

/// Everything else is the usual.
const sqlite3_io_methods methods{
    2,
    [](sqlite3_file* f) { return usual(f)->pMethods->xClose(usual(f)); },
    read,
    write,
    [](sqlite3_file* f, sqlite3_int64 size) { return usual(f)->pMethods->xTruncate(usual(f), size); },
    sync,
    [](sqlite3_file* f, sqlite3_int64* size) { return usual(f)->pMethods->xFileSize(usual(f), size); },
    [](sqlite3_file* f, int level) { return usual(f)->pMethods->xLock(usual(f), level); },
    [](sqlite3_file* f, int level) { return usual(f)->pMethods->xUnlock(usual(f), level); },
    [](sqlite3_file* f, int* out) { return usual(f)->pMethods->xCheckReservedLock(usual(f), out); },
    [](sqlite3_file* f, int what, void* value) {
      return usual(f)->pMethods->xFileControl(usual(f), what, value);
    },
    [](sqlite3_file* f) { return usual(f)->pMethods->xSectorSize(usual(f)); },
    [](sqlite3_file* f) { return usual(f)->pMethods->xDeviceCharacteristics(usual(f)); },
    [](sqlite3_file* f, int page, int size, int extend, void volatile** out) {
      return usual(f)->pMethods->xShmMap(usual(f), page, size, extend, out);
    },
    [](sqlite3_file* f, int offset, int count, int flags) {
      return usual(f)->pMethods->xShmLock(usual(f), offset, count, flags);
    },
    [](sqlite3_file* f) { usual(f)->pMethods->xShmBarrier(usual(f)); },
    [](sqlite3_file* f, int remove) { return usual(f)->pMethods->xShmUnmap(usual(f), remove); },
    nullptr,
    nullptr};

int open(sqlite3_vfs* vfs, sqlite3_filename path, sqlite3_file* file, int flags, int* out_flags) {
  auto* impl = static_cast<FaultyVfs::Impl*>(vfs->pAppData);
  File* made = new (file) File{{nullptr}, impl};
  const int code = impl->usual->xOpen(impl->usual, path, made->usual(), flags, out_flags);
  if (made->usual()->pMethods != nullptr) made->base.pMethods = &methods;
  return code;
}

}  // namespace

FaultyVfs::FaultyVfs() : impl_(std::make_unique<Impl>()) {
  static std::atomic<unsigned> number{0};
  impl_->name = "guard-faulty-" + std::to_string(++number);
  impl_->usual = sqlite3_vfs_find(nullptr);
  impl_->vfs = *impl_->usual;
  impl_->vfs.szOsFile += static_cast<int>(sizeof(File));
  impl_->vfs.pNext = nullptr;
  impl_->vfs.zName = impl_->name.c_str();
  impl_->vfs.xOpen = open;
  // Of the usual calls only xOpen uses this, and it is given its own.
  impl_->vfs.pAppData = impl_.get();
  sqlite3_vfs_register(&impl_->vfs, 0);
}

FaultyVfs::~FaultyVfs() { sqlite3_vfs_unregister(&impl_->vfs); }

const std::string& FaultyVfs::name() const { return impl_->name; }

void FaultyVfs::fail(Op op, unsigned after, int code, bool lasting) {
  const std::lock_guard lock(impl_->mutex);
  impl_->armed = true;
  impl_->op = op;
  impl_->left = after;
  impl_->code = code;
  impl_->lasting = lasting;
  impl_->failures = 0;
}

void FaultyVfs::before_next_sync(std::function<void()> work) {
  const std::lock_guard lock(impl_->mutex);
  impl_->on_sync = std::move(work);
}

void FaultyVfs::heal() {
  const std::lock_guard lock(impl_->mutex);
  impl_->armed = false;
}

unsigned FaultyVfs::count(Op op) const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->counts[static_cast<std::size_t>(op)];
}

unsigned FaultyVfs::failed() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->failures;
}

}  // namespace guard::upstream::testing
