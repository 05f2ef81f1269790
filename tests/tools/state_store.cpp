#include "state_store.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <thread>
#include <utility>

namespace guard::tool {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds first_pause{100};
constexpr std::chrono::milliseconds longest_pause{20'000};

// swtpm's blobheader: version, least version that can read it, size of this header, flags, total length
// (big-endian); then fields of tag, length, bytes.
constexpr std::size_t header_bytes = 10;
constexpr std::size_t field_header_bytes = 6;
constexpr unsigned char blob_version = 2;
constexpr unsigned char blob_min_version = 1;
constexpr unsigned tag_data = 1;

std::string resource_of(Slot slot) { return "tpm2-00." + std::string(name_of(slot)); }

void append_be(std::string& out, std::uint64_t number, int bytes) {
  for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) out += static_cast<char>(number >> shift & 0xff);
}

std::uint64_t read_be(std::string_view bytes) {
  std::uint64_t number = 0;
  for (const char byte : bytes) number = number << 8 | static_cast<unsigned char>(byte);
  return number;
}

std::string base64(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  const int length =
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                      reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(length));
  return text;
}

std::optional<std::string> decode_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  std::string bytes(text.size() / 4 * 3, '\0');
  const int length =
      EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                      reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (length < 0) return std::nullopt;
  const auto padding = static_cast<std::size_t>(std::count(text.end() - 2, text.end(), '='));
  bytes.resize(static_cast<std::size_t>(length) - padding);
  return bytes;
}

}  // namespace

HttpStateStore::HttpStateStore(HttpStoreOptions options, StoreWitness* witness)
    : options_(std::move(options)),
      client_({.socket_path = options_.socket_path, .exchange_limit = options_.give_up_after}),
      witness_(witness) {}

Result<std::string> HttpStateStore::load(Slot slot) {
  auto answer = until_answered("GET", slot, {});
  if (!answer) return std::unexpected(answer.error());
  if (witness_) {
    if (auto right = witness_->loaded(slot, answer->body); !right) return std::unexpected(right.error());
  }
  return std::move(answer->body);
}

Result<> HttpStateStore::store(Slot slot, std::string_view text) {
  const auto start = Clock::now();
  if (witness_) witness_->store_begins(slot, text);
  auto answer = until_answered("PUT", slot, text);
  if (!answer) return std::unexpected(answer.error());
  if (witness_) witness_->store_acknowledged(slot);
  stats_.put_us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  return {};
}

Result<> HttpStateStore::remove(Slot slot) {
  if (witness_) witness_->store_begins(slot, {});
  auto answer = until_answered("DELETE", slot, {});
  if (!answer) return std::unexpected(answer.error());
  if (witness_) witness_->store_acknowledged(slot);
  return {};
}

HttpStoreStats HttpStateStore::stats() const {
  HttpStoreStats stats = stats_;
  stats.connects = client_.connects();
  return stats;
}

/// The retry loop of the backend. Succeeds with a 200 or 204 only.
Result<Answer> HttpStateStore::until_answered(std::string_view method, Slot slot, std::string_view body) {
  const auto start = Clock::now();
  const std::string resource = resource_of(slot);
  for (auto pause = first_pause;; pause = std::min(pause * 2, longest_pause)) {
    auto answer = client_.exchange(method, resource, body);
    if (answer && (answer->status == 200 || answer->status == 204)) return answer;
    const std::string what = std::string(method) + " " + resource;
    if (answer && answer->status < 500) {
      return std::unexpected(Error::invalid(what + " was refused with " + std::to_string(answer->status)));
    }
    ++stats_.retries;
    if (options_.give_up_after && Clock::now() - start + pause >= *options_.give_up_after) {
      return std::unexpected(Error{Errc::timeout, 0,
                                   what + ": given up, the last attempt ended with " +
                                       (answer ? std::to_string(answer->status) : answer.error().message)});
    }
    std::this_thread::sleep_for(pause);
  }
}

Result<ContentsStateStore> ContentsStateStore::parse(std::string_view contents, StoreWitness* witness) {
  ContentsStateStore store;
  store.witness_ = witness;
  const auto spaces = std::count(contents.begin(), contents.end(), ' ');
  if (spaces != 0 && spaces != 2) {
    return std::unexpected(Error::invalid("contents have " + std::to_string(spaces + 1) + " fields"));
  }
  for (std::string& field : store.fields_) {
    const auto end = contents.find(' ');
    field = contents.substr(0, end);
    if (end == std::string_view::npos) break;
    contents.remove_prefix(end + 1);
  }
  return store;
}

Result<std::string> ContentsStateStore::load(Slot slot) {
  const std::string& text = fields_[static_cast<std::size_t>(slot)];
  if (witness_) {
    if (auto right = witness_->loaded(slot, text); !right) return std::unexpected(right.error());
  }
  return text;
}

Result<> ContentsStateStore::store(Slot slot, std::string_view text) {
  fields_[static_cast<std::size_t>(slot)] = text;
  witness_ = nullptr;  // what is read from now on was not stored by the TPM of the ledger
  return {};
}

Result<> ContentsStateStore::remove(Slot slot) { return store(slot, {}); }

std::string wrap_state(std::string_view state) {
  std::string blob;
  blob += static_cast<char>(blob_version);
  blob += static_cast<char>(blob_min_version);
  append_be(blob, header_bytes, 2);
  append_be(blob, 0, 2);
  append_be(blob, header_bytes + field_header_bytes + state.size(), 4);
  append_be(blob, tag_data, 2);
  append_be(blob, state.size(), 4);
  blob += state;
  return base64(blob);
}

std::optional<std::string> unwrap_state(std::string_view text) {
  const auto blob = decode_base64(text);
  if (!blob || blob->size() < header_bytes + field_header_bytes) return std::nullopt;
  const std::string_view view = *blob;
  const bool fits = static_cast<unsigned char>(view[1]) <= blob_version &&
                    read_be(view.substr(2, 2)) == header_bytes && read_be(view.substr(6, 4)) == view.size() &&
                    read_be(view.substr(10, 2)) == tag_data &&
                    read_be(view.substr(12, 4)) == view.size() - header_bytes - field_header_bytes;
  if (!fits) return std::nullopt;
  return std::string(view.substr(header_bytes + field_header_bytes));
}

}  // namespace guard::tool
