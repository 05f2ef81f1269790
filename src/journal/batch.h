// A batch on its way to the disk: records and where their payloads are in memory. Payloads are not copied.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "guard/env.h"
#include "journal/format.h"

namespace guard::journal {

/// Reused from batch to batch, so that a record costs no allocation.
class Batch {
 public:
  void clear();
  /// The payload must stay where it is until clear().
  void add(const Record& record, std::span<const std::byte> payload);

  bool empty() const { return records_.empty(); }
  std::size_t count() const { return records_.size(); }
  /// Of all records, before rounding up to whole blocks.
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t disk_bytes() const { return round_up(bytes_, block); }

  /// Writes the batch in one piece at `position`, a multiple of the block size, and gives the records their
  /// places. Not durable before the file is synced. May be repeated elsewhere.
  Result<> write(File& file, std::uint64_t position, std::uint64_t salt);

  /// As added; with their places after write().
  std::span<const Record> records() const { return records_; }

 private:
  std::vector<Record> records_;
  std::vector<std::span<const std::byte>> payloads_;
  std::uint64_t bytes_ = 0;
  std::uint64_t header_bytes_ = 0;
  std::vector<std::byte> headers_;
  std::vector<std::span<const std::byte>> parts_;
};

}  // namespace guard::journal
