#include "journal/batch.h"

#include <cassert>
#include <cstring>

namespace guard::journal {

void Batch::clear() {
  records_.clear();
  payloads_.clear();
  bytes_ = 0;
  header_bytes_ = 0;
}

void Batch::add(const Record& record, std::span<const std::byte> payload) {
  assert(payload.size() == record.payload_size);
  records_.push_back(record);
  payloads_.push_back(payload);
  bytes_ += record.padded_size();
  header_bytes_ += record.padded_size() - record.payload_size;
}

Result<> Batch::write(File& file, std::uint64_t position, std::uint64_t salt) {
  headers_.resize(header_bytes_ + block);
  parts_.clear();
  std::byte* const begin = headers_.data();
  std::byte* piece = begin;  // headers and padding not yet among the parts
  std::byte* out = begin;
  std::uint64_t at = position;
  for (std::size_t i = 0; i < records_.size(); ++i) {
    Record& record = records_[i];
    record.position = at;
    record.batch_start = position;
    record.batch_length = bytes_;
    encode(record, salt, out);
    out += record.header_size();
    if (!payloads_[i].empty()) {
      parts_.emplace_back(piece, out);
      parts_.push_back(payloads_[i]);
      piece = out;
    }
    const std::size_t padding = record.padded_size() - record.size();
    std::memset(out, 0, padding);
    out += padding;
    at += record.padded_size();
  }
  const std::size_t rest = disk_bytes() - bytes_;
  std::memset(out, 0, rest);
  out += rest;
  assert(out <= begin + headers_.size());
  if (out != piece) parts_.emplace_back(piece, out);
  return file.write_at(position, parts_);
}

}  // namespace guard::journal
