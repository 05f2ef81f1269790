#include "upstream/socket_watch.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstring>
#include <string_view>
#include <utility>

namespace guard::upstream {

namespace asio = boost::asio;

struct SocketWatch::Impl : std::enable_shared_from_this<SocketWatch::Impl> {
  Impl(net::Loop& loop, const std::string& path, std::function<void()> the_appeared)
      : notify(loop.context()), appeared(std::move(the_appeared)) {
    const std::size_t slash = path.rfind('/');
    directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    name = slash == std::string::npos ? path : path.substr(slash + 1);
  }

  asio::posix::stream_descriptor notify;
  std::string directory;
  std::string name;
  std::function<void()> appeared;
  int watch = -1;  ///< -1 = the directory is not watched

  void open() {
    const int fd = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0) return;
    notify.assign(fd);
    wait();
  }

  bool ensure() {
    if (!notify.is_open() || watch >= 0) return watch >= 0;
    watch = ::inotify_add_watch(notify.native_handle(), directory.c_str(),
                                IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_MOVE_SELF | IN_ONLYDIR);
    return watch >= 0;
  }

  void wait() {
    notify.async_wait(asio::posix::descriptor_base::wait_read,
                      [self = shared_from_this()](const boost::system::error_code& error) {
                        if (!error && self->notify.is_open()) self->on_events();
                      });
  }

  void on_events() {
    alignas(inotify_event) char buffer[4096];
    bool seen = false;
    for (;;) {
      const ssize_t n = ::read(notify.native_handle(), buffer, sizeof(buffer));
      if (n <= 0) break;
      for (const char* at = buffer; at < buffer + n;) {
        inotify_event event;
        std::memcpy(&event, at, sizeof(event));
        const std::string_view file(event.len != 0 ? at + sizeof(event) : "");
        at += sizeof(event) + event.len;
        if (on_event(event, file)) seen = true;
      }
    }
    wait();
    if (seen) appeared();
  }

  /// Returns true when the event is about our file.
  bool on_event(const inotify_event& event, std::string_view file) {
    if ((event.mask & IN_MOVE_SELF) != 0) {
      // Another directory may take the name, and this one is no longer ours to watch.
      ::inotify_rm_watch(notify.native_handle(), event.wd);
      if (event.wd == watch) watch = -1;
    }
    if ((event.mask & IN_IGNORED) != 0 && event.wd == watch) watch = -1;
    return (event.mask & (IN_CREATE | IN_MOVED_TO | IN_ATTRIB)) != 0 && file == name;
  }
};

SocketWatch::SocketWatch(net::Loop& loop, const std::string& path, std::function<void()> appeared)
    : impl_(std::make_shared<Impl>(loop, path, std::move(appeared))) {
  impl_->open();
  impl_->ensure();
}

SocketWatch::~SocketWatch() {
  boost::system::error_code ignored;
  if (impl_->notify.is_open()) impl_->notify.close(ignored);
}

bool SocketWatch::ensure() { return impl_->ensure(); }

}  // namespace guard::upstream
