#include "control/registry.h"

#include <sys/socket.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <deque>
#include <exception>
#include <map>
#include <utility>

#include "base/limits.h"
#include "control/resume_store.h"
#include "control/socket_birth.h"

namespace guard::control {

namespace {

/// One path of the registry: listening with a handle; listening without one, until serve(); or only kept in
/// the file (neither).
struct Socket {
  SocketEntry entry;
  FileId file;
  OwnedFd waiting;
  std::unique_ptr<SocketHandle> handle;

  bool listening() const { return handle != nullptr || static_cast<bool>(waiting); }
  /// Nobody listens any more, neither here nor in a descriptor store.
  void retire() {
    if (handle) handle->retire();
    if (waiting) ::shutdown(waiting.get(), SHUT_RDWR);
    handle.reset();
    waiting = OwnedFd();
  }
};

struct Operation {
  enum class Kind { create, destroy };
  Kind kind = Kind::create;
  SocketEntry entry;  ///< of a destroy: without vm
  Registry::Done done;
  std::string task;  ///< the caller's words
};

/// The operations of one path, in order of arrival; the first is under way when `busy`.
struct PathQueue {
  bool busy = false;
  std::deque<Operation> operations;
};

SocketSpec spec_of(const SocketEntry& entry) { return {.path = entry.path, .gid = entry.gid}; }

void forget(DescriptorStore* store, const std::string& path) {
  if (store != nullptr) store->forget(private_name(path));
}

/// Kept before anybody is told that it exists: from then on a restart must not refuse its clients.
Result<BornSocket> create_and_keep(DescriptorStore* store, const SocketEntry& entry) {
  auto born = create_socket(spec_of(entry));
  if (born && store != nullptr) store->keep(private_name(entry.path), born->listener.get());
  return born;
}

/// The directory of a socket belongs to its VM and ends with it.
bool directory_is_gone(const Error& error) {
  return error.code == Errc::not_found || error.os_errno == ENOTDIR;
}

}  // namespace

struct Registry::Impl : std::enable_shared_from_this<Registry::Impl> {
  Impl(RegistryOptions o, Logger& l) : options(std::move(o)), log(l), store(options.resume_file, l) {}

  RegistryOptions options;
  Logger& log;
  const ResumeStore store;
  std::map<std::string, Socket> sockets;
  std::map<std::string, PathQueue> queues;
  std::size_t operations = 0;  ///< in all queues
  bool serving = false;
  bool closed = false;
  bool saving = false;
  std::vector<std::function<void()>> waiting_for_save;
  RegistryStats stats;

  bool serves(Device device) const { return std::ranges::count(options.devices, device) > 0; }

  // --- Operations: one at a time per path -----------------------------------------------------------------

  void submit(Operation operation) {
    if (operations >= limits::registry_operations) {
      return operation.done(std::unexpected(Error{Errc::no_space, 0, "too many requests are under way"}));
    }
    ++operations;
    const std::string path = operation.entry.path;
    queues[path].operations.push_back(std::move(operation));
    run_next(path);
  }

  void run_next(const std::string& path) {
    const auto queue = queues.find(path);
    if (queue == queues.end() || queue->second.busy) return;
    if (queue->second.operations.empty()) {
      queues.erase(queue);
      return;
    }
    queue->second.busy = true;
    const SocketEntry entry = queue->second.operations.front().entry;
    if (queue->second.operations.front().kind == Operation::Kind::create) {
      begin_create(entry);
    } else {
      begin_destroy(entry);
    }
  }

  /// Answers the operation under way at `path` and goes on with the next. `done` may do anything, even end
  /// the registry.
  void finish(const std::string& path, Result<> result) {
    const auto queue = queues.find(path);
    assert(queue != queues.end() && queue->second.busy);
    const Done done = std::move(queue->second.operations.front().done);
    queue->second.operations.pop_front();
    queue->second.busy = false;
    --operations;
    const auto self = shared_from_this();
    done(std::move(result));
    if (!closed) run_next(path);
  }

  /// The words of the caller whose operation is under way at `path`.
  const std::string& task_of(const std::string& path) const {
    return queues.at(path).operations.front().task;
  }

  /// Runs `work` where it may block and `then` with its result here, unless the registry has ended.
  template <class Work, class Then>
  void blocking(Work work, Then then) {
    using Value = decltype(work());
    const auto result = std::make_shared<std::optional<Value>>();
    options.run_blocking([result, work = std::move(work)] { result->emplace(work()); },
                         [result, then = std::move(then), weak = weak_from_this()] {
                           const auto self = weak.lock();
                           if (self && !self->closed) then(std::move(**result));
                         });
  }

  // --- Create ---------------------------------------------------------------------------------------------

  struct Attempt {
    bool in_use = false;
    Result<BornSocket> born = std::unexpected(Error{});
  };

  void begin_create(const SocketEntry& entry) {
    const auto existing = sockets.find(entry.path);
    std::optional<FileId> ours;
    if (existing != sockets.end() && existing->second.listening()) ours = existing->second.file;
    if (!ours && listening() >= limits::device_sockets) {
      return finish(entry.path, std::unexpected(Error{Errc::no_space, 0, "too many sockets"}));
    }
    blocking(
        [entry, ours, store = options.store]() -> Attempt {
          if (ours && is_still_there(entry.path, *ours)) return {.in_use = true};
          // Before the new one is kept, which will have the same name.
          if (ours) forget(store, entry.path);
          return {.in_use = false, .born = create_and_keep(store, entry)};
        },
        [this, entry](Attempt attempt) { end_create(entry, std::move(attempt)); });
  }

  void end_create(const SocketEntry& entry, Attempt attempt) {
    if (attempt.in_use) {
      return finish(entry.path,
                    std::unexpected(Error{Errc::busy, 0, "Path " + entry.path + " is already in use"}));
    }
    if (!attempt.born) return finish(entry.path, std::unexpected(std::move(attempt.born).error()));
    if (const auto old = sockets.find(entry.path); old != sockets.end() && old->second.listening()) {
      log.log(LogLevel::warning, "socket_replaced",
              {{"path", entry.path}, {"vm", old->second.entry.vm}, {"reason", "its file had disappeared"}});
    }
    Socket& socket = sockets[entry.path];
    socket.retire();
    socket.entry = entry;
    socket.file = attempt.born->file;
    if (auto attached = attach(socket, std::move(attempt.born->listener)); !attached) {
      return undo_create(entry, std::move(attached).error());
    }
    ++stats.creates;
    log.log(LogLevel::info, "socket_created",
            {{"device", name_of(entry.device)},
             {"vm", entry.vm},
             {"gid", entry.gid},
             {"path", entry.path},
             {"task", task_of(entry.path)}});
    save([this, path = entry.path] { finish(path, {}); });
  }

  Result<> attach(Socket& socket, OwnedFd listener) {
    socket.waiting = OwnedFd();
    if (!serving) {
      socket.waiting = std::move(listener);
      return {};
    }
    try {
      socket.handle = options.open(socket.entry, listener.release());
    } catch (const std::exception& error) {
      return std::unexpected(
          Error{Errc::no_space, 0, "cannot serve " + socket.entry.path + ": " + error.what()});
    }
    assert(socket.handle != nullptr);
    return {};
  }

  /// The socket exists and cannot be served: it goes away again before the refusal.
  void undo_create(const SocketEntry& entry, const Error& error) {
    blocking(
        [path = entry.path, file = sockets[entry.path].file, store = options.store] {
          forget(store, path);
          return remove_socket(path, file);
        },
        [this, path = entry.path, error](const Result<>&) {
          sockets.erase(path);
          save([this, path, error] { finish(path, std::unexpected(error)); });
        });
  }

  std::size_t listening() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(sockets, [](const auto& item) { return item.second.listening(); }));
  }

  // --- Destroy --------------------------------------------------------------------------------------------

  void begin_destroy(const SocketEntry& asked) {
    const auto found = sockets.find(asked.path);
    if (found == sockets.end() || found->second.entry.device != asked.device) {
      log.log(LogLevel::notice, "socket_unknown",
              {{"path", asked.path},
               {"device", name_of(asked.device)},
               {"found", found == sockets.end() ? "nothing" : name_of(found->second.entry.device)},
               {"task", task_of(asked.path)}});
      return finish(asked.path, {});
    }
    Socket& socket = found->second;
    if (socket.entry.gid != asked.gid) {
      return finish(asked.path, std::unexpected(Error::invalid("Path " + asked.path + " belongs to gid " +
                                                               std::to_string(socket.entry.gid) + ", not " +
                                                               std::to_string(asked.gid))));
    }
    const bool was_listening = socket.listening();
    socket.retire();
    if (!was_listening) return end_destroy(asked.path, {});
    blocking(
        [path = asked.path, file = socket.file, store = options.store] {
          forget(store, path);
          return remove_socket(path, file);
        },
        [this, path = asked.path](Result<> removed) { end_destroy(path, removed); });
  }

  /// A file that cannot be unlinked is no reason to refuse: nobody listens on it any more, which is what the
  /// caller needs.
  void end_destroy(const std::string& path, const Result<>& removed) {
    if (!removed) {
      log.log(LogLevel::warning, "socket_file_left", {{"path", path}, {"error", removed.error().message}});
    }
    const SocketEntry entry = sockets.at(path).entry;
    sockets.erase(path);
    ++stats.destroys;
    log.log(LogLevel::info, "socket_destroyed",
            {{"device", name_of(entry.device)}, {"vm", entry.vm}, {"path", path}, {"task", task_of(path)}});
    save([this, path] { finish(path, {}); });
  }

  // --- The resume file ------------------------------------------------------------------------------------

  std::vector<SocketEntry> all_entries() const {
    std::vector<SocketEntry> entries;
    entries.reserve(sockets.size());
    for (const auto& [path, socket] : sockets) entries.push_back(socket.entry);
    return entries;
  }

  /// Calls `after` when a write that contains the present state has ended, well or not. One write at a time;
  /// changes made while one runs share the next.
  void save(std::function<void()> after) {
    waiting_for_save.push_back(std::move(after));
    if (!saving) begin_save();
  }

  void begin_save() {
    saving = true;
    blocking([store = store, text = wire::write_resume_file(all_entries())] { return store.write(text); },
             [this, served = std::exchange(waiting_for_save, {})](Result<> written) {
               end_save(written);
               const auto self = shared_from_this();
               for (const auto& after : served) {
                 if (!closed) after();
               }
               if (closed) return;
               saving = false;
               if (!waiting_for_save.empty()) begin_save();
             });
  }

  void end_save(const Result<>& written) {
    if (written) {
      ++stats.saves;
      if (std::exchange(stats.unsaved, false)) log.log(LogLevel::notice, "resume_file_saved_again");
      return;
    }
    ++stats.save_failures;
    if (std::exchange(stats.unsaved, true)) return;
    log.log(LogLevel::error, "resume_file_not_saved",
            {{"file", options.resume_file}, {"error", written.error().message}});
  }

  // --- Resume ---------------------------------------------------------------------------------------------

  void resume_entry(const SocketEntry& entry, Inherited& inherited, ResumeReport& report,
                    std::string& first_dropped) {
    Socket socket;
    socket.entry = entry;
    if (!serves(entry.device)) {
      ++report.foreign;
      sockets[entry.path] = std::move(socket);
      return;
    }
    auto kept = inherited.take(spec_of(entry));
    if (kept) ++report.inherited;
    Result<BornSocket> born = kept ? std::move(*kept) : create_and_keep(options.store, entry);
    if (!born && directory_is_gone(born.error())) {
      if (report.dropped++ == 0) first_dropped = entry.path;
      return;
    }
    if (born) {
      ++report.listening;
      socket.file = born->file;
      socket.waiting = std::move(born->listener);
    } else if (report.failed++ < limits::log_lines_per_event) {
      log.log(LogLevel::error, "socket_not_restored",
              {{"path", entry.path}, {"vm", entry.vm}, {"error", born.error().message}});
    }
    sockets[entry.path] = std::move(socket);
  }

  ResumeReport resume() {
    ResumeReport report;
    Inherited inherited(std::move(options.inherited), options.store, log);
    ResumeStore::Loaded loaded = store.load();
    report.unreadable = loaded.file.skipped;
    report.damaged = loaded.file.damaged;
    report.set_aside = loaded.set_aside;
    // The last entry of a path is the latest.
    std::map<std::string, SocketEntry> latest;
    for (SocketEntry& entry : loaded.file.entries) {
      std::string path = entry.path;
      if (check_socket_path(path)) {
        latest.insert_or_assign(std::move(path), std::move(entry));
      } else {
        ++report.unreadable;
      }
    }
    std::string first_dropped;
    for (const auto& [path, entry] : latest) {
      if (sockets.size() < limits::device_sockets) {
        resume_entry(entry, inherited, report, first_dropped);
      } else {
        ++report.unreadable;
      }
    }
    if (report.dropped > 0) {
      log.log(LogLevel::notice, "sockets_dropped",
              {{"count", report.dropped}, {"first", first_dropped}, {"reason", "directory is gone"}});
    }
    if (const std::string text = wire::write_resume_file(all_entries());
        loaded.found && text != loaded.text) {
      end_save(store.write(text));
    }
    return report;
  }
};

Registry::Registry(RegistryOptions options, Logger& log)
    : impl_(std::make_shared<Impl>(std::move(options), log)) {}

Registry::~Registry() {
  impl_->closed = true;
  impl_->sockets.clear();
}

ResumeReport Registry::resume() { return impl_->resume(); }

void Registry::serve() {
  impl_->serving = true;
  for (auto& [path, socket] : impl_->sockets) {
    if (!socket.waiting) continue;
    if (auto attached = impl_->attach(socket, std::move(socket.waiting)); !attached) {
      impl_->log.log(LogLevel::error, "socket_not_served",
                     {{"path", path}, {"vm", socket.entry.vm}, {"error", attached.error().message}});
    }
  }
}

void Registry::create(SocketEntry entry, Done done, std::string task) {
  if (auto good = check_socket_path(entry.path); !good) return done(std::move(good));
  if (!impl_->serves(entry.device)) {
    return done(std::unexpected(Error::invalid(std::string(name_of(entry.device)) + " is not served")));
  }
  impl_->submit({Operation::Kind::create, std::move(entry), std::move(done), std::move(task)});
}

void Registry::destroy(Device device, std::string path, std::uint32_t gid, Done done, std::string task) {
  impl_->submit(
      {Operation::Kind::destroy, {device, gid, std::move(path), Uuid()}, std::move(done), std::move(task)});
}

std::vector<SocketEntry> Registry::sockets() const {
  std::vector<SocketEntry> entries;
  for (const auto& [path, socket] : impl_->sockets) {
    if (socket.listening()) entries.push_back(socket.entry);
  }
  return entries;
}

RegistryStats Registry::stats() const {
  RegistryStats stats = impl_->stats;
  stats.sockets = impl_->listening();
  stats.not_served = impl_->sockets.size() - stats.sockets;
  return stats;
}

}  // namespace guard::control
