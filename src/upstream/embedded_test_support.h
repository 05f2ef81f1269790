// What the tests of the embedded upstream share: a store in a directory of its own, seen from outside through
// connections of their own, as another process would.
#pragma once

#include <string>

#include "net/scripted_peer.h"
#include "upstream/embedded_identity.h"
#include "upstream/embedded_sqlite.h"
#include "upstream/embedded_store.h"

namespace guard::upstream::testing {

class StorePlace {
 public:
  EmbeddedOptions options() const {
    EmbeddedOptions options;
    options.file = file();
    options.identity_file = place_.directory() + "/embedded-store";
    return options;
  }
  std::string file() const { return place_.directory() + "/state.db"; }
  const std::string& directory() const { return place_.directory(); }

  /// Throws when the store cannot be read.
  Contents contents(const Owner& owner) const;
  /// As somebody else would: force, no questions.
  void write(const Owner& owner, std::vector<SlotWrite> writes) const;
  void replace_vtpm(const Uuid& vm, const Uuid& vtpm, const Contents& contents) const;
  /// Statements of SQL from outside.
  void sql(const std::string& text) const;
  std::int64_t number(const std::string& text) const;

 private:
  net::testing::SocketPath place_;
};

/// As SQL writes a blob.
std::string literal(const Uuid& uuid);

}  // namespace guard::upstream::testing
