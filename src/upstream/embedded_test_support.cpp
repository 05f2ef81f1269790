#include "upstream/embedded_test_support.h"

#include <chrono>
#include <stdexcept>
#include <utility>

namespace guard::upstream::testing {

namespace {

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

std::unique_ptr<SqlConnection> connect(const std::string& file) {
  return must(SqlConnection::open(file, "", std::chrono::seconds(10)));
}

}  // namespace

std::string literal(const Uuid& uuid) {
  std::string hex = uuid.str();
  std::erase(hex, '-');
  return "x'" + hex + "'";
}

Contents StorePlace::contents(const Owner& owner) const {
  EmbeddedStore store(options());
  must(store.open());
  must(store.begin_read());
  Contents contents = must(store.read(owner));
  store.roll_back();
  return contents;
}

void StorePlace::write(const Owner& owner, std::vector<SlotWrite> writes) const {
  EmbeddedStore store(options());
  must(store.open());
  must(store.begin_write());
  must(store.write(owner, writes));
  must(store.commit());
}

void StorePlace::replace_vtpm(const Uuid& vm, const Uuid& vtpm, const Contents& contents) const {
  const std::string which = "vm = " + literal(vm) + " AND device = 0";
  sql("DELETE FROM value WHERE id / 4 IN (SELECT id FROM device WHERE " + which + ");" +
      "DELETE FROM device WHERE " + which + "; UPDATE meta SET devices = devices - 1");
  std::vector<SlotWrite> writes;
  for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate}) {
    writes.push_back({slot, 0, contents[slot], vtpm, {}, true});
  }
  write({vm, Device::vtpm}, std::move(writes));
}

void StorePlace::sql(const std::string& text) const { must(connect(file())->run(text.c_str())); }

std::int64_t StorePlace::number(const std::string& text) const {
  return must(connect(file())->number(text.c_str()));
}

}  // namespace guard::upstream::testing
