#include "journal/scan.h"

#include <algorithm>
#include <cassert>

namespace guard::journal {

namespace {

/// Reads a file forward through a buffer. A block that cannot be read counts as zeros and is remembered.
class Window {
 public:
  Window(File& file, std::uint64_t size) : file_(file), size_(size) {}

  /// At least `want` bytes from `offset`, or what is left of the file; valid until the next call.
  Result<std::span<const std::byte>> at(std::uint64_t offset, std::size_t want) {
    want = static_cast<std::size_t>(std::min<std::uint64_t>(want, size_ - std::min(offset, size_)));
    if (offset < start_ || offset + want > start_ + buffer_.size()) {
      if (auto filled = fill(offset, want); !filled) return std::unexpected(filled.error());
    }
    return std::span<const std::byte>(buffer_).subspan(offset - start_);
  }

  const std::vector<std::uint64_t>& unreadable() const { return unreadable_; }

 private:
  static constexpr std::size_t step = limits::journal_copy;

  Result<> fill(std::uint64_t offset, std::size_t want) {
    start_ = offset / block * block;
    const auto length = std::min<std::uint64_t>(size_ - start_, std::max<std::uint64_t>(step, want + block));
    buffer_.resize(length);
    if (auto all = file_.read_at(start_, buffer_); all && *all == length) return {};
    for (std::uint64_t done = 0; done < length; done += block) {
      const auto piece = std::span(buffer_).subspan(done, std::min(block, length - done));
      auto got = file_.read_at(start_ + done, piece);
      if (got && *got == piece.size()) continue;
      std::fill(piece.begin(), piece.end(), std::byte{0});
      if (unreadable_.empty() || unreadable_.back() < start_ + done) unreadable_.push_back(start_ + done);
      if (unreadable_.size() > limits::journal_unreadable_blocks) {
        return std::unexpected(got ? Error{Errc::io, 0, "journal: the file became shorter"} : got.error());
      }
    }
    return {};
  }

  File& file_;
  std::uint64_t size_;
  std::uint64_t start_ = 0;
  std::vector<std::byte> buffer_;
  std::vector<std::uint64_t> unreadable_;
};

using OnRecord = std::function<void(const Record&, std::span<const std::byte>)>;

class Scanner {
 public:
  Scanner(File& file, std::uint64_t size, const FileHeader& header, const OnRecord& on_record)
      : window_(file, size), size_(size), header_(header), on_record_(on_record) {}

  Result<Scan> run() {
    while (position_ < size_) {
      auto bytes = window_.at(position_, record_header_max);
      if (!bytes) return std::unexpected(bytes.error());
      const auto record = decode_record(*bytes, position_, header_.salt);
      if (record && fits(*record)) {
        if (auto taken = take(*record); !taken) return std::unexpected(taken.error());
      } else if (auto skipped = skip(); !skipped) {
        return std::unexpected(skipped.error());
      }
    }
    if (bad_from_ != 0 && batch_end_ > bad_from_)
      add_bad(batch_end_, batch_start_);  // the last batch lacks its end
    finish();
    return std::move(scan_);
  }

 private:
  /// A record must lie within the file and not reach back into an earlier batch.
  bool fits(const Record& r) const {
    if (r.position + r.padded_size() > size_) return false;
    return r.batch_start == batch_start_ ? r.batch_end() == batch_end_
                                         : r.batch_start >= round_up(batch_end_, block);
  }

  Result<> take(const Record& r) {
    if (r.batch_start != batch_start_) begin_batch(r);
    if (bad_from_ != 0) add_bad(position_, batch_start_);
    auto bytes = window_.at(position_, r.padded_size());
    if (!bytes) return std::unexpected(bytes.error());
    const auto payload = bytes->subspan(r.header_size(), r.payload_size);
    const auto padding = bytes->subspan(r.size(), r.padded_size() - r.size());
    scan_.highest_sequence = std::max(scan_.highest_sequence, r.sequence);
    ++scan_.records;
    // A batch that no switch wrote can only follow `complete`, even when that is damaged.
    if (r.type == RecordType::complete || !r.copied) scan_.complete = true;
    scan_.committed = scan_.committed || (!r.copied && !r.resumed);
    sealed_ = false;
    if (r.is_entry() && (digest_of(as_text(payload)) != r.digest || !well_formed(r, payload))) {
      bad_.push_back({{position_, position_ + r.padded_size(), r, false}, batch_start_});
    } else {
      if (!all_zero(padding))
        bad_.push_back({{position_, position_ + r.padded_size(), {}, false}, batch_start_});
      // Those of a switch or a recovery are what has to be synced, not what tells of a sync.
      sealed_ = r.type == RecordType::complete && !r.copied && !r.resumed;
      if (r.type == RecordType::complete && r.copied && scan_.complete_at == 0) scan_.complete_at = position_;
      on_record_(r, payload);
    }
    position_ += r.padded_size();
    return position_ == batch_end_ ? end_batch() : Result<>();
  }

  static bool well_formed(const Record& r, std::span<const std::byte> payload) {
    return r.type != RecordType::contents || unpack_contents(as_text(payload)).has_value();
  }

  /// Whatever could not be read since bad_from_ is missing: from the end of the batch before, up to this
  /// one, and perhaps at its front.
  void begin_batch(const Record& r) {
    // A switch writes `complete` twice, with one sync: a crash may spoil either, which is no damage then.
    const bool second = r.type == RecordType::complete && r.copied;
    if (second && scan_.complete_at == batch_start_) {
      for (Bad& bad : bad_) bad.batch = bad.batch == batch_start_ ? r.batch_start : bad.batch;
    }
    if (bad_from_ != 0 && bad_from_ < r.batch_start) {
      const bool first_lost =
          second && bad_from_ == round_up(batch_end_, block) && bad_from_ + block == r.batch_start;
      add_bad(r.batch_start, first_lost ? r.batch_start : batch_start_);
    }
    if (position_ > r.batch_start) bad_from_ = r.batch_start;
    if (r.resumed) {
      std::erase_if(bad_, [this](const Bad& bad) { return bad.batch == batch_start_; });
    } else {
      unproven_from_ = r.batch_start;
    }
    batch_start_ = r.batch_start;
    batch_end_ = r.batch_end();
  }

  Result<> end_batch() {
    const std::uint64_t next = std::min(round_up(position_, block), size_);
    auto bytes = window_.at(position_, next - position_);
    if (!bytes) return std::unexpected(bytes.error());
    if (!all_zero(bytes->first(next - position_)))
      bad_.push_back({{position_, next, {}, false}, batch_start_});
    position_ = next;
    return {};
  }

  /// Goes to the next place where a record could begin.
  Result<> skip() {
    if (bad_from_ == 0) bad_from_ = position_;
    position_ += 8;
    while (position_ < size_) {
      auto bytes = window_.at(position_, block);
      if (!bytes) return std::unexpected(bytes.error());
      const std::size_t found = find_magic(*bytes, 0);
      position_ += found;
      if (found < bytes->size() / 8 * 8) return {};
      if (found == 0) position_ = size_;  // less than 8 bytes are left
    }
    return {};
  }

  /// Closes the bad range that began at bad_from_.
  void add_bad(std::uint64_t to, std::uint64_t batch) {
    if (bad_from_ < to) bad_.push_back({{bad_from_, to, {}, true}, batch});
    bad_from_ = 0;
  }

  /// Tells what a crash cut off from damage: only in the last batch. Anything before it was synced before it
  /// was written; but it was not, as far as anybody knows, synced itself.
  void finish() {
    scan_.end = std::max(scan_.end, round_up(batch_end_, block));
    scan_.end = std::min(scan_.end, size_);
    const bool broken =
        std::any_of(bad_.begin(), bad_.end(), [this](const Bad& bad) { return bad.batch == batch_start_; });
    const bool proven = (sealed_ && !broken) || batch_start_ < data_start;
    if (!proven) scan_.unproven_from = unproven_from_;
    for (auto& [damage, batch] : bad_) {
      if (!proven && batch == batch_start_)
        scan_.torn = true;
      else
        scan_.damage.push_back(damage);
    }
    for (const std::uint64_t at : window_.unreadable()) {
      const bool within = std::any_of(scan_.damage.begin(), scan_.damage.end(),
                                      [at](const Damage& d) { return d.from < at + block && at < d.to; });
      if (!within) scan_.damage.push_back({at, std::min(at + block, size_), {}, !proven || at < scan_.end});
    }
    scan_.unreadable_blocks = window_.unreadable().size();
    std::sort(scan_.damage.begin(), scan_.damage.end(),
              [](const Damage& a, const Damage& b) { return a.from < b.from; });
  }

  struct Bad {
    Damage damage;
    std::uint64_t batch;  ///< start of the batch it lies in
  };

  Window window_;
  const std::uint64_t size_;
  const FileHeader& header_;
  const OnRecord& on_record_;

  Scan scan_;
  std::uint64_t position_ = data_start;
  std::uint64_t batch_start_ = 0;
  std::uint64_t batch_end_ = data_start;
  std::uint64_t unproven_from_ = 0;
  std::uint64_t bad_from_ = 0;  ///< where nothing readable has been found since; 0 = all is well
  bool sealed_ = false;
  std::vector<Bad> bad_;
};

}  // namespace

Result<Scan> scan_file(File& file, const FileHeader& header, const OnRecord& on_record) {
  auto size = file.size();
  if (!size) return std::unexpected(size.error());
  return Scanner(file, *size / block * block, header, on_record).run();
}

const FileHeader* Headers::best() const {
  const FileHeader* best = nullptr;
  for (const auto& copy : copies) {
    if (copy && (best == nullptr || copy->generation > best->generation)) best = &*copy;
  }
  return best;
}

std::size_t Headers::safe() const {
  if (!copies[0] || !copies[1]) return copies[0] ? 0 : 1;
  return copies[0]->generation <= copies[1]->generation ? 0 : 1;
}

Result<Headers> read_headers(File& file) {
  Headers headers;
  std::optional<Error> error;
  unsigned failed = 0;
  for (std::size_t i = 0; i < 2; ++i) {
    std::array<std::byte, block> bytes{};
    auto got = file.read_at(i * block, bytes);
    if (!got) got = file.read_at(i * block, bytes);  // a failure that passes is not damage
    if (!got) {
      error = got.error();
      ++failed;
      continue;
    }
    headers.copies[i] = decode_file_header(bytes);
  }
  if (failed == 2) return std::unexpected(*error);
  return headers;
}

Result<Record> read_record(File& file, const FileHeader& header, std::uint64_t position, std::uint64_t size,
                           Sequence sequence, std::string& bytes) {
  bytes.resize(size);
  auto got = file.read_at(position, std::as_writable_bytes(std::span(bytes)));
  if (!got) return std::unexpected(got.error());
  const auto raw = std::as_bytes(std::span(bytes));
  const auto record = decode_record(raw, position, header.salt);
  const bool good =
      *got == size && record && record->size() == size && record->sequence == sequence &&
      (!record->is_entry() || digest_of(as_text(raw.subspan(record->header_size()))) == record->digest);
  if (!good) return std::unexpected(Error::corrupt("journal: a record is not what was written"));
  return *record;
}

}  // namespace guard::journal
