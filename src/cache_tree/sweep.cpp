#include "cache_tree/sweep.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/limits.h"

namespace guard::cache_tree {

using Kind = Directory::Found::Kind;

namespace {

/// A path of the tree as one component: what is odd becomes a dash.
std::string quarantine_name(const std::string& path) {
  constexpr std::size_t longest = 200;  // of 255; the rest is for a number behind it
  std::string name = "cache-" + path.substr(path.size() > longest ? path.size() - longest : 0);
  for (char& c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '_' || c == '-';
    if (!plain) c = '-';
  }
  return name;
}

class Sweeper {
 public:
  Sweeper(Directory& state, const ImportedKeys& imported, Removal removal, Logger& log)
      : state_(state), imported_(imported), removal_(removal), log_(log) {}

  /// A whole tree, or what stands in its place.
  void tree(const std::string& name) {
    each(state_, name, "", [this](Directory& dir, const std::string& child, const std::string& path) {
      if (!parse_vm(child)) return anything(dir, child, path, 1);
      each(dir, child, path, [this](Directory& vm, const std::string& key, const std::string& key_path) {
        if (!parse_key(key)) return anything(vm, key, key_path, 2);
        values(vm, key, key_path);
      });
    });
    (void)state_.sync();  // what is there again after a power cut is swept again
  }

  Swept swept_;
  std::size_t told_ = 0;

 private:
  struct Aside {
    std::string name;
    std::string path;
    std::string why;
  };

  /// Does `work` to everything in a directory and removes it; sets aside what is none.
  template <class Work>
  void each(Directory& dir, const std::string& name, const std::string& path, Work work) {
    auto sub = open(dir, name, path);
    if (!sub) return;
    const auto names = sub->list();
    if (!names) return left(path, names.error().message);
    for (const std::string& child : *names) work(*sub, child, path.empty() ? child : path + "/" + child);
    remove_dir(dir, name);
  }

  /// nullptr: it is no directory, and was dealt with.
  std::unique_ptr<Directory> open(Directory& dir, const std::string& name, const std::string& path) {
    const auto found = dir.look_at(name);
    if (found && found->kind == Kind::directory) {
      auto sub = dir.open_dir(name, false);
      if (sub) return std::move(*sub);
      left(path, sub.error().message);
    } else {
      set_aside(dir, {{name, path.empty() ? name : path, "not a directory"}});
    }
    return nullptr;
  }

  /// One key's directory.
  void values(Directory& dir, const std::string& name, const std::string& path) {
    auto key_dir = open(dir, name, path);
    if (!key_dir) return;
    const auto names = key_dir->list();
    if (!names) return left(path, names.error().message);
    const auto imported = imported_.find({*parse_vm(path.substr(0, path.find('/'))), *parse_key(name)});
    std::vector<Aside> aside;
    for (const std::string& child : *names) {
      const std::string child_path = path + "/" + child;
      const auto timestamp = parse_timestamp(child);
      const auto found = key_dir->look_at(child);
      const bool file = found && found->kind == Kind::file;
      if (found && found->kind == Kind::directory) {
        anything(*key_dir, child, child_path, 3);
      } else if (!file || !timestamp) {
        aside.push_back({child, child_path, child.ends_with(".pre") ? "temporary" : "no value"});
      } else if (imported == imported_.end() || *timestamp > imported->second) {
        aside.push_back({child, child_path, "not imported"});
      } else if (removal_ == Removal::later) {
        ++swept_.removed;
      } else if (auto gone = key_dir->unlink(child); gone) {
        ++swept_.removed;
      } else {
        left(child_path, gone.error().message);
      }
    }
    set_aside(*key_dir, aside);
    remove_dir(dir, name);
  }

  /// What has no place in the tree, with everything in it.
  void anything(Directory& dir, const std::string& name, const std::string& path, unsigned depth) {
    const auto found = dir.look_at(name);
    if (!found || found->kind != Kind::directory) {
      return set_aside(dir, {{name, path, "no name of the tree"}});
    }
    if (depth > limits::cache_tree_depth) return left(path, "too deep");
    each(dir, name, path, [this, depth](Directory& sub, const std::string& child, const std::string& below) {
      anything(sub, child, below, depth + 1);
    });
  }

  /// Moves files of one directory: first all get their new names, which is made durable, then they lose the
  /// old ones.
  void set_aside(Directory& dir, const std::vector<Aside>& files) {
    if (files.empty()) return;
    if (!quarantine_) {
      if (auto place = state_.open_dir("quarantine", true); place && state_.sync()) {
        quarantine_ = std::move(*place);
      }
    }
    std::vector<const Aside*> named;
    for (const Aside& file : files) {
      if (auto error = give_name(dir, file); !error.empty()) {
        left(file.path, error);
      } else {
        named.push_back(&file);
      }
    }
    if (named.empty()) return;
    const auto synced = quarantine_->sync();
    for (const Aside* file : named) {
      const auto gone = synced ? dir.unlink(file->name) : synced;
      if (!gone) {
        left(file->path, gone.error().message);
        continue;
      }
      ++swept_.set_aside;
      if (told_++ < limits::log_lines_per_event) {
        log_.log(LogLevel::warning, "cache_tree_set_aside", {{"file", file->path}, {"reason", file->why}});
      }
    }
  }

  /// Empty on success.
  std::string give_name(Directory& dir, const Aside& file) {
    if (!quarantine_) return "there is no place to move it to";
    const std::string first = quarantine_name(file.path);
    std::string name = first;
    for (unsigned i = 2; i < limits::set_aside_names; ++i) {
      const auto linked = dir.link(file.name, *quarantine_, name);
      if (linked) return {};
      if (linked.error().code != Errc::busy) return linked.error().message;
      name = first + "." + std::to_string(i);
    }
    return "too many of its name were moved before";
  }

  void remove_dir(Directory& dir, const std::string& name) {
    // Not empty: it holds what is left, and that is counted already.
    (void)dir.remove_dir(name);
  }

  void left(const std::string& path, const std::string& why) {
    ++swept_.left;
    if (told_++ < limits::log_lines_per_event) {
      log_.log(LogLevel::warning, "cache_tree_left", {{"file", path}, {"reason", why}});
    }
  }

  Directory& state_;
  const ImportedKeys& imported_;
  const Removal removal_;
  Logger& log_;
  std::unique_ptr<Directory> quarantine_;
};

/// Empties a directory and removes it. False when `files` were removed and it is not empty yet.
bool remove_all(Directory& parent, const std::string& name, std::size_t& files, unsigned depth) {
  auto dir = parent.open_dir(name, false);
  const auto names = dir ? (*dir)->list() : Result<std::vector<std::string>>();
  if (!dir || !names || depth > limits::cache_tree_depth) return true;
  for (const std::string& child : *names) {
    if (files == 0) return false;
    const auto found = (*dir)->look_at(child);
    if (found && found->kind == Kind::directory) {
      if (!remove_all(**dir, child, files, depth + 1)) return false;
    } else {
      (void)(*dir)->unlink(child);
      --files;
    }
  }
  (void)parent.remove_dir(name);
  return true;
}

}  // namespace

Swept sweep(Directory& state, const std::string& name, const ImportedKeys& imported, Removal removal,
            Logger& log) {
  Sweeper sweeper(state, imported, removal, log);
  sweeper.tree(name);
  return sweeper.swept_;
}

bool clear_done(Directory& state, std::size_t files) {
  const auto names = state.list();
  if (!names) return false;
  for (const std::string& name : *names) {
    if (name.starts_with(done_name) && !remove_all(state, name, files, 1)) return true;
  }
  return false;
}

}  // namespace guard::cache_tree
