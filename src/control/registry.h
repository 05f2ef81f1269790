// Which device sockets exist, and that they exist again after a restart (P12).
//
// The registry makes and removes sockets (socket_birth.h) and keeps the resume file. What happens on a socket
// is not its business: a factory given to it turns a listening descriptor into something that serves it.
//
// The resume file is written after every create and every destroy, and an operation is answered only after
// the write that contains it. A write that fails does *not* fail the operation: the socket serves its VM now,
// while failing a create would stop that VM's start over something that matters only if the daemon restarts
// before the next change. The failure is logged once, stands in stats(), and every later change writes the
// whole file again.
//
// Thread: the loop thread only. Everything that blocks goes through RegistryOptions::run_blocking, except in
// resume(), which is called before the loop runs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "control/descriptor_store.h"
#include "control/inherited.h"
#include "guard/result.h"
#include "guard/types.h"
#include "wire/resume_file.h"

namespace guard::control {

/// One device socket: device, gid, path and VM. The path identifies it.
using SocketEntry = wire::ResumeEntry;

/// What serves one device socket. Destroying it closes the listener and all its connections; a copy of the
/// listener kept elsewhere goes on queueing clients.
class SocketHandle {
 public:
  virtual ~SocketHandle() = default;
  /// The socket goes away for good, not only this process: shuts the listener down, so that copies kept
  /// elsewhere are of no use any more. Destruction follows.
  virtual void retire() = 0;
};

/// Runs `work` on a thread where blocking is allowed, then `then` on the loop thread. Several works may be
/// under way at once, in any order. When the daemon ends, works not yet begun may be dropped.
using RunBlocking = std::function<void(std::function<void()> work, std::function<void()> then)>;

struct RegistryOptions {
  /// Absolute path of the resume file; its directory is made (0700) when it is missing.
  std::string resume_file;
  /// The devices this daemon can serve. Entries of others are kept in the resume file and not listened for.
  std::vector<Device> devices;
  /// Starts serving a listening socket, whose descriptor it owns from then on, also when it throws. Never
  /// returns null. An exception (the kernel's limits) costs this one socket: the create fails, or the entry
  /// is not served until the next start.
  std::function<std::unique_ptr<SocketHandle>(const SocketEntry&, int listening_fd)> open;
  RunBlocking run_blocking;
  /// Keeps every listening socket while this process is away; may be null. Outlives the registry.
  DescriptorStore* store = nullptr;
  /// What it has kept for us. resume() takes what the resume file lists and closes the rest.
  std::vector<InheritedFd> inherited = {};
};

/// What resume() found, for the log and the tests.
struct ResumeReport {
  std::size_t listening = 0;  ///< sockets that exist again
  std::size_t inherited = 0;  ///< of them, those that never ceased to exist
  std::size_t dropped = 0;    ///< the directory is gone, so the VM is; forgotten
  std::size_t failed = 0;   ///< could not be created for another reason; kept in the file for the next start
  std::size_t foreign = 0;  ///< of a device this daemon does not serve; kept in the file
  std::size_t unreadable = 0;  ///< parts of the file that are no entry
  bool damaged = false;        ///< the file was no whole list
  std::string set_aside;       ///< name of the copy of a file that could not be read completely
};

struct RegistryStats {
  std::size_t sockets = 0;     ///< listening
  std::size_t not_served = 0;  ///< in the file but not listening
  std::uint64_t creates = 0;   ///< successful ones
  std::uint64_t destroys = 0;  ///< that removed a socket
  std::uint64_t saves = 0;     ///< successful writes of the resume file
  std::uint64_t save_failures = 0;
  bool unsaved = false;  ///< the last write failed: a restart now would not find the latest change
};

class Registry {
 public:
  using Done = std::function<void(Result<>)>;

  Registry(RegistryOptions options, Logger& log);
  /// Closes all handles. Socket files, the resume file and what the descriptor store keeps stay, for the next
  /// start. Operations under way are not answered any more.
  ~Registry();
  Registry(const Registry&) = delete;

  /// Reads the resume file and listens on all its sockets; clients wait in the backlogs until serve().
  /// Blocks; called at most once, before anything else. Cannot fail as a whole: what cannot be read is set
  /// aside (file.broken-<n>), what cannot be listened on is reported, the rest is there.
  ResumeReport resume();

  /// Opens a handle for every listening socket, in the order of paths; sockets created later get theirs at
  /// once. Called once, when requests can be served.
  void serve();

  /// Creates the socket of `entry`. Errors: busy ("Path <path> is already in use": it is served; nothing has
  /// changed), those of create_socket, no_space (a bound of limits.h). If the file of a socket that is served
  /// has disappeared from its path, nobody can reach that socket any more and it is replaced. `task`: the
  /// caller's words, for the log.
  void create(SocketEntry entry, Done done, std::string task = {});

  /// Stops serving `path`: listener and connections are closed, the file is removed if it is still ours, the
  /// entry is forgotten. Success with nothing done when the path is unknown or serves another device. Errors:
  /// invalid when the socket was created for another gid (the caller means a socket of another VM), no_space.
  void destroy(Device device, std::string path, std::uint32_t gid, Done done, std::string task = {});

  /// Every socket that is listening, ordered by path.
  std::vector<SocketEntry> sockets() const;
  RegistryStats stats() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace guard::control
