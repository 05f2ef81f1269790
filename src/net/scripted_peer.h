// For tests of clients: a server on a real unix socket whose every byte the test decides. Each connection
// runs a script on a thread of its own, with plain blocking calls.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "net/loop.h"

namespace guard::net::testing {

struct PeerRequest {
  std::string head;  ///< up to and including the blank line
  std::string body;
};

/// One accepted connection, seen from the server. Used by its script's thread only.
class PeerConnection {
 public:
  PeerConnection(int fd, unsigned number) : fd_(fd), number_(number) {}
  /// Counts the connections of the peer from 1.
  unsigned number() const { return number_; }
  /// A request with a content-length; nullopt when the client closed first.
  std::optional<PeerRequest> read_request();
  /// Reads so many bytes and no more; returns what came before the end.
  std::string read_bytes(std::size_t count);
  /// False when the client has closed.
  bool send(std::string_view bytes);
  /// Every piece arrives at the client by itself.
  bool send_in_pieces(std::string_view bytes, std::size_t piece);
  /// Returns when the client has closed (or the peer is being destroyed).
  void wait_for_close();
  void stop_sending();

 private:
  int fd_;
  unsigned number_;
  std::string read_ahead_;
};

class ScriptedPeer {
 public:
  using Script = std::function<void(PeerConnection&)>;
  /// Listens at `path` from now on. When a script returns its connection is closed.
  ScriptedPeer(std::string path, Script script, int backlog = 64);
  /// Ends all connections and removes the socket file.
  ~ScriptedPeer();
  unsigned accepted() const { return accepted_; }
  /// Does not accept while paused; connections wait in the backlog.
  void pause(bool paused) { paused_ = paused; }

 private:
  void accept_all();
  void serve(int fd, unsigned number);

  std::string path_;
  Script script_;
  int listener_ = -1;
  std::atomic<unsigned> accepted_ = 0;
  std::atomic<bool> paused_ = false;
  std::atomic<bool> ending_ = false;
  std::mutex mutex_;
  std::list<int> open_;             ///< guarded by mutex_
  std::list<std::thread> threads_;  ///< used by the accepting thread, then by the destructor
  std::thread acceptor_;
};

/// "HTTP/1.1 200 OK" with the headers xapi sends.
std::string xapi_http_answer(std::string_view body);

/// A path for a socket in a fresh directory that is removed at the end.
class SocketPath {
 public:
  SocketPath();
  ~SocketPath();
  const std::string& path() const { return path_; }
  const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
  std::string path_;
};

/// Runs the loop until `done` returns true, looking after every event; false after ten seconds.
bool run_until(Loop& loop, const std::function<bool()>& done,
               std::chrono::milliseconds limit = std::chrono::seconds(10));

}  // namespace guard::net::testing
