#include "guest.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "crypto.h"
#include "tpm_marshal.h"

namespace guard::tool {

namespace {

constexpr std::uint16_t longest_nv_command = 1024;
constexpr std::uint16_t filler_index_bytes = 2048;

std::unexpected<Error> wrong(std::string text) { return std::unexpected(Error::corrupt(std::move(text))); }

/// An index of this size, defined now or before.
Result<> ensure_nv(Tpm& tpm, const NvIndex& index) {
  const auto size = tpm.nv_size(index.handle);
  if (!size) return std::unexpected(size.error());
  if (!*size) return tpm.define_nv(index);
  if (**size == index.bytes) return {};
  return wrong("NV index " + hex_number(index.handle) + " has another size already");
}

Result<> fill_nv(Tpm& tpm, std::uint32_t bytes) {
  for (std::uint32_t i = 0; i * filler_index_bytes < bytes; ++i) {
    const std::uint32_t handle = filler_handle + i;
    if (auto defined = ensure_nv(tpm, {.handle = handle, .bytes = filler_index_bytes}); !defined)
      return defined;
    for (std::uint16_t offset = 0; offset < filler_index_bytes; offset += longest_nv_command) {
      const auto random = sha256(std::to_string(i) + "." + std::to_string(offset));
      std::string text;
      while (text.size() < longest_nv_command) text += random;
      if (auto written = tpm.write_nv(handle, text, offset); !written) return written;
    }
  }
  return {};
}

/// The key's public point, made now or before.
Result<std::string> ensure_key(Tpm& tpm) {
  auto point = tpm.key_point(key_handle);
  if (point && !*point) {
    if (auto created = tpm.create_persistent_key(key_handle); !created)
      return std::unexpected(created.error());
    point = tpm.key_point(key_handle);
  }
  if (!point) return std::unexpected(point.error());
  if (!*point) return wrong("the persistent key is not there right after it was made");
  return **point;
}

Result<> check_counter(Tpm& tpm, const Ledger& ledger, bool& took_effect, const CheckReport& report) {
  const auto counter = tpm.read_counter(counter_handle);
  if (!counter) return std::unexpected(counter.error());
  const auto& under_way = ledger.under_way();
  took_effect = under_way && under_way->counter && *counter == under_way->amount;
  const std::string is = "the NV counter is " + std::to_string(*counter);
  const std::string last = std::to_string(ledger.counter()) + " was acknowledged last";
  if (*counter < ledger.counter()) return wrong(is + ": it went back, " + last);
  if (*counter != ledger.counter() && !took_effect) return wrong(is + ", but " + last);
  report(is + (took_effect ? ", with the increment that was under way" : ", as acknowledged last"));
  return {};
}

Result<> check_nv(Tpm& tpm, const Ledger& ledger, bool& took_effect, const CheckReport& report) {
  const auto content = tpm.read_nv(nv_handle, ledger.identity()->nv_bytes);
  if (!content) return std::unexpected(content.error());
  const auto& under_way = ledger.under_way();
  const bool may_differ = under_way && !under_way->counter;
  if (may_differ && *content == ledger.nv_content_after(*under_way)) {
    took_effect = true;
    report("the NV index carries operation " + std::to_string(under_way->number) + ", which was under way");
    return {};
  }
  if (*content != ledger.nv_content()) {
    return wrong("the NV index begins with \"" + content->substr(0, content->find('.')) +
                 "\"; acknowledged last was \"" +
                 ledger.nv_content().substr(0, ledger.nv_content().find('.')) + "\"");
  }
  report("the NV index carries \"" + content->substr(0, content->find('.')) + "\" in all " +
         std::to_string(content->size()) + " bytes, as acknowledged last");
  return {};
}

/// Counter and NV content; true when the operation that was under way took effect.
Result<bool> check_memory(Tpm& tpm, const Ledger& ledger, const CheckReport& report) {
  bool counted = false;
  bool written = false;
  if (auto right = check_counter(tpm, ledger, counted, report); !right) {
    return std::unexpected(right.error());
  }
  if (auto right = check_nv(tpm, ledger, written, report); !right) return std::unexpected(right.error());
  if (ledger.under_way() && !counted && !written) {
    report("operation " + std::to_string(ledger.under_way()->number) +
           ", never acknowledged, did not take effect");
  }
  return counted || written;
}

Result<> check_key(Tpm& tpm, const Ledger& ledger, const CheckReport& report) {
  const auto point = tpm.key_point(key_handle);
  if (!point) return std::unexpected(point.error());
  if (!*point) return wrong("the persistent key is gone");
  if (**point != ledger.identity()->key_point) return wrong("the persistent key is another one");
  report("the persistent key has the same public key");
  const auto nonce = tpm.random(32);
  if (!nonce) return std::unexpected(nonce.error());
  const std::string digest = sha256(*nonce);
  const auto signature = tpm.sign(key_handle, digest);
  if (!signature) return std::unexpected(signature.error());
  if (!verify_ecdsa(ledger.identity()->key_point, digest, *signature)) {
    return wrong("a fresh signature of the persistent key is not valid");
  }
  if (verify_ecdsa(ledger.identity()->key_point, sha256(digest), *signature)) {
    return wrong("a signature over something else is taken for valid");
  }
  report("OpenSSL verified a fresh signature of it");
  return {};
}

}  // namespace

Result<> initialise(Tpm& tpm, Ledger& ledger, const InitOptions& options) {
  if (auto defined = ensure_nv(tpm, {.handle = nv_handle, .bytes = options.nv_bytes}); !defined)
    return defined;
  if (auto written = tpm.write_nv(nv_handle, nv_pattern(0, options.nv_bytes)); !written) return written;
  if (auto defined = ensure_nv(tpm, {.handle = counter_handle, .bytes = 8, .counter = true}); !defined) {
    return defined;
  }
  if (auto counted = tpm.increment_counter(counter_handle); !counted) return counted;
  const auto counter = tpm.read_counter(counter_handle);
  if (!counter) return std::unexpected(counter.error());
  if (auto filled = fill_nv(tpm, options.filler_bytes); !filled) return filled;
  const auto point = ensure_key(tpm);
  if (!point) return std::unexpected(point.error());
  ledger.ready({*point, options.nv_bytes}, *counter);
  return {};
}

Result<> check(Tpm& tpm, const Ledger& ledger, const CheckReport& report) {
  const auto took_effect = check_memory(tpm, ledger, report);
  if (!took_effect) return std::unexpected(took_effect.error());
  return check_key(tpm, ledger, report);
}

Result<> check_and_settle(Tpm& tpm, Ledger& ledger, const CheckReport& report) {
  const auto took_effect = check_memory(tpm, ledger, report);
  if (!took_effect) return std::unexpected(took_effect.error());
  if (ledger.under_way() && *took_effect) {
    ledger.done();
  } else if (ledger.under_way()) {
    ledger.lost();
  }
  return check_key(tpm, ledger, report);
}

Result<> write_operations(Tpm& tpm, Ledger& ledger, const WriteOptions& options) {
  const std::uint16_t bytes = options.bytes.value_or(ledger.identity()->nv_bytes);
  if (bytes > ledger.identity()->nv_bytes) {
    return std::unexpected(Error::invalid("the NV index has room for " +
                                          std::to_string(ledger.identity()->nv_bytes) + " bytes only"));
  }
  const auto start = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < options.count; ++i) {
    if (options.per_second) {
      std::this_thread::sleep_until(
          start + std::chrono::duration_cast<std::chrono::nanoseconds>(
                      std::chrono::duration<double>(static_cast<double>(i) / *options.per_second)));
    }
    const std::uint64_t number = ledger.last_operation() + 1;
    const bool count = number % 2 == 0;
    ledger.begin({number, count, count ? ledger.counter() + 1 : bytes});
    const auto result =
        count ? tpm.increment_counter(counter_handle) : tpm.write_nv(nv_handle, nv_pattern(number, bytes));
    if (!result) return result;
    ledger.done();
  }
  return {};
}

Result<SuspendedState> suspend(Tpm& tpm, Ledger& ledger) {
  const auto random = tpm.random(32);
  if (!random) return std::unexpected(random.error());
  if (auto extended = tpm.extend_pcr(suspend_pcr, sha256(*random)); !extended) {
    return std::unexpected(extended.error());
  }
  const auto value = tpm.read_pcr(suspend_pcr);
  if (!value) return std::unexpected(value.error());
  ledger.expect_pcr(suspend_pcr, *value);
  return tpm.suspend();
}

Result<> check_pcr(Tpm& tpm, const Ledger& ledger, const CheckReport& report) {
  const auto& expected = ledger.pcr();
  if (!expected) return std::unexpected(Error::invalid("the ledger knows of no suspension"));
  const auto value = tpm.read_pcr(expected->first);
  if (!value) return std::unexpected(value.error());
  if (*value != expected->second) return wrong("PCR " + std::to_string(expected->first) + " lost its value");
  report("PCR " + std::to_string(expected->first) + " has the value it had before the suspension");
  return {};
}

}  // namespace guard::tool
