#include <cassert>

#include "journal/store_impl.h"

namespace guard::journal {

namespace {

std::span<const std::byte> as_bytes(const Value& value) { return std::as_bytes(std::span(value.view())); }

Record record_of(const Entry& entry) {
  Record r;
  r.type = entry.type;
  r.owner = entry.owner;
  r.slot = entry.slot;
  r.flags = entry.flags;
  r.sequence = entry.sequence;
  r.wall_ms = entry.wall_ms;
  r.vtpm = entry.vtpm;
  r.digest = entry.value.digest();
  r.payload_size = static_cast<std::uint32_t>(entry.value.size());
  r.known_count = static_cast<std::uint8_t>(entry.known.size());
  std::copy(entry.known.begin(), entry.known.end(), r.known.begin());
  return r;
}

Record record_of(const Removal& removal, const Live* live) {
  Record r;
  r.type =
      live != nullptr && live->retained && !removal.retained ? RecordType::released : RecordType::removed;
  r.owner = removal.owner;
  r.slot = removal.slot;
  r.sequence = removal.up_to;
  r.digest = removal.delivered;
  r.retained = removal.retained;
  r.alert = removal.alert;
  return r;
}

std::unexpected<Error> journal_failed() {
  return std::unexpected(Error{Errc::io, 0, "journal: no file can be used"});
}

/// One call of run(): forms batches from requests in their order and commits them.
class Run {
 public:
  Run(Store::Impl& store, const std::vector<Request>& requests, std::vector<Completion>& completions)
      : store_(store), requests_(requests), completions_(completions) {}

  void commit_all() {
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (const auto* entry = std::get_if<Entry>(&requests_[i])) {
        if (auto good = check(*entry); !good)
          completions_[i].result = good;
        else
          place(i, record_of(*entry), as_bytes(entry->value));
      } else if (const auto* removal = std::get_if<Removal>(&requests_[i])) {
        place(i, record_of(*removal, live_of(*removal)), {});
      }
    }
    flush();
  }

 private:
  /// What no caller may ask for.
  static Result<> check(const Entry& entry) {
    const bool entry_type = entry.type == RecordType::write || entry.type == RecordType::contents ||
                            entry.type == RecordType::alert;
    const bool good = entry_type && entry.sequence != 0 && entry.known.size() <= limits::known_digests &&
                      entry.value.size() <= limits::journal_payload &&
                      (entry.type != RecordType::contents || unpack_contents(entry.value.view()));
    if (!good) return std::unexpected(Error::invalid("journal: malformed entry"));
    return {};
  }

  const Live* live_of(const Removal& removal) const {
    return removal.alert ? nullptr : store_.index.newest({removal.owner, removal.slot});
  }

  void place(std::size_t request, Record record, std::span<const std::byte> payload) {
    store_.highest_sequence = std::max(store_.highest_sequence, record.sequence);
    if (record.is_entry() && stale(record)) {
      completions_[request].result = std::unexpected(Error::invalid("journal: sequence is not the newest"));
      return;
    }
    for (bool switched = false;;) {
      // Without a usable other file, what is left of a good one still takes what ends entries.
      if (store_.current().bad || (store_.blocked && record.is_entry())) {
        completions_[request].result = journal_failed();
        return;
      }
      const Growth growth = growth_of(record, payload);
      const bool admitted = admits(growth);
      const bool fitting = has_room(batch().bytes() + record.padded_size(),
                                    store_.index.entries() + new_entries_ + growth.entries);
      if (admitted && (fitting || (batch().empty() && last_resort(record)))) {
        return add(request, record, payload, growth);
      }
      // The sums over a batch are estimates from above; exact, and after a switch roomier, they may do.
      if (!batch().empty()) {
        flush();
        continue;
      }
      Result<> room;
      if (!admitted) {
        room = store_.find_space(with(growth), touched(record));
      } else if (record.retained && store_.blocked) {
        record.retained = false;  // rather than keep its lane from going on
        ++store_.stats.retained_given_up;
      } else if (store_.blocked) {
        room = journal_failed();
      } else if (std::exchange(switched, true)) {
        room = std::unexpected(Error{Errc::no_space, 0, "journal: full"});
      } else if (auto made = store_.make_room(); !made && record.is_entry()) {
        room = made;
      }
      if (room) continue;
      completions_[request].result = room;
      return;
    }
  }

  /// A newer entry of the slot is live: the caller handed out sequences in the wrong order.
  bool stale(const Record& record) const {
    if (record.type == RecordType::alert) return store_.index.alert(record.sequence) != nullptr;
    const unsigned slots = record.type == RecordType::contents ? 3 : 1;
    for (unsigned i = 0; i < slots; ++i) {
      const Live* live = store_.index.newest({record.owner, slots == 3 ? static_cast<Slot>(i) : record.slot});
      if (live != nullptr && live->sequence >= record.sequence) return true;
    }
    return false;
  }

  struct Growth {
    std::int64_t bytes = 0;  ///< of the live set
    std::uint64_t entries = 0;
    std::uint64_t largest = 0;
  };

  Growth growth_of(const Record& record, std::span<const std::byte> payload) const {
    Growth growth;
    if (!record.is_entry()) return growth;
    std::array<std::string_view, 3> values{as_text(payload)};
    const bool contents = record.type == RecordType::contents;
    if (contents) values = *unpack_contents(as_text(payload));
    for (std::size_t i = 0; i < (contents ? 3u : 1u); ++i) {
      const SlotKey key{record.owner, contents ? static_cast<Slot>(i) : record.slot};
      const Live* old = record.type == RecordType::alert ? nullptr : store_.index.newest(key);
      growth.bytes += static_cast<std::int64_t>(Index::copy_bytes(values[i].size()));
      if (old != nullptr) growth.bytes -= static_cast<std::int64_t>(Index::copy_bytes(old->value_size));
      growth.entries += old == nullptr ? 1 : 0;
    }
    growth.bytes = std::max<std::int64_t>(growth.bytes, 0);
    // What could replace everything the owner then has, in one record.
    growth.largest = record.type == RecordType::alert
                         ? Index::copy_bytes(record.payload_size)
                         : store_.index.owner_bytes(record.owner, record.slot) +
                               static_cast<std::uint64_t>(growth_ + growth.bytes);
    return growth;
  }

  Store::Impl::Room with(const Growth& growth) const {
    Store::Impl::Room room = store_.room();
    room.live += static_cast<std::uint64_t>(growth_ + growth.bytes);
    room.entries += new_entries_ + growth.entries;
    room.largest = std::max(room.largest, growth.largest);
    return room;
  }

  /// What does not enlarge the live set always passes.
  bool admits(const Growth& growth) const {
    return (growth.bytes == 0 && growth.entries == 0) ||
           Store::Impl::needed(with(growth)) <= store_.smallest_file();
  }

  /// Whether a batch of this size leaves a block for the removal of each of so many live entries.
  bool has_room(std::uint64_t bytes, std::uint64_t entries) const {
    return store_.write_position + round_up(bytes, block) + Store::Impl::removal_room(entries) <=
           store_.current().size;
  }

  /// Whether the record, alone in a batch, may take the block that is kept for the removal of its entry.
  bool last_resort(const Record& record) const {
    if (!store_.blocked || record.is_entry() || record.retained) return false;
    const Live* live =
        record.alert ? store_.index.alert(record.sequence) : store_.index.newest({record.owner, record.slot});
    const bool ends = live != nullptr && live->sequence <= record.sequence;
    return ends && has_room(record.padded_size(), store_.index.entries() - 1);
  }

  /// Which slots an entry replaces.
  std::vector<SlotKey> touched(const Record& record) const {
    if (record.type != RecordType::contents) return {{record.owner, record.slot}};
    return {
        {record.owner, Slot::permall}, {record.owner, Slot::savestate}, {record.owner, Slot::volatilestate}};
  }

  void add(std::size_t request, const Record& record, std::span<const std::byte> payload,
           const Growth& growth) {
    batch().add(record, payload);
    request_of_.push_back(request);
    growth_ += growth.bytes;
    new_entries_ += growth.entries;
    has_entries_ = has_entries_ || record.is_entry();
  }

  void flush() {
    if (batch().empty()) return;
    const Result<> result = commit();
    for (std::size_t i = 0; i < request_of_.size(); ++i) {
      completions_[request_of_[i]].result = result;
      if (result) apply(batch().records()[i], requests_[request_of_[i]]);
    }
    batch().clear();
    request_of_.clear();
    growth_ = 0;
    new_entries_ = 0;
    has_entries_ = false;
  }

  /// One write, one sync. If they fail the batch goes to the other file, behind a copy of everything live:
  /// then what the failed one left behind is in a file that is never replayed.
  Result<> commit() {
    auto result = store_.write_and_sync(batch());
    if (result) return result;
    if (auto switched = store_.make_room(); !switched) return result;
    const std::uint64_t end = store_.write_position + batch().disk_bytes();
    const bool removals_fit = !has_entries_ && end <= store_.current().size;
    if (!removals_fit && !has_room(batch().bytes(), store_.index.entries() + new_entries_)) return result;
    return store_.write_and_sync(batch());
  }

  void apply(const Record& record, const Request& request) {
    std::array<std::uint32_t, 3> sizes{};
    if (record.type == RecordType::contents) {
      const auto values = unpack_contents(std::get<Entry>(request).value.view());
      for (std::size_t i = 0; i < 3; ++i) sizes[i] = static_cast<std::uint32_t>((*values)[i].size());
    }
    store_.index.apply(record, sizes);
    if (!record.is_entry()) return;
    const std::uint64_t largest = record.type == RecordType::alert
                                      ? Index::copy_bytes(record.payload_size)
                                      : store_.index.owner_bytes(record.owner, record.slot);
    store_.largest_copy = std::max(store_.largest_copy, largest);
  }

  Batch& batch() { return store_.batch; }
  const Batch& batch() const { return store_.batch; }

  Store::Impl& store_;
  const std::vector<Request>& requests_;
  std::vector<Completion>& completions_;
  std::vector<std::size_t> request_of_;  ///< per record of the batch
  std::int64_t growth_ = 0;              ///< of the live set by the batch, from above
  std::uint64_t new_entries_ = 0;
  bool has_entries_ = false;
};

void serve(Store::Impl& store, const ReadBack& read, Completion& completion) {
  const SlotKey key{read.owner, read.slot};
  const Live* live = store.index.find(key, read.sequence);
  if (live == nullptr) {
    completion.result = std::unexpected(Error{Errc::not_found, 0, "journal: no such live entry"});
    return;
  }
  const JournalFile& file = store.current();
  const auto record = read_record(*file.file, file.header, live->position, live->record_size, live->sequence,
                                  store.read_buffer);
  if (!record) {
    completion.result = std::unexpected(record.error());
    return;
  }
  std::string_view value = std::string_view(store.read_buffer).substr(record->header_size());
  if (live->part != Live::whole) value = (*unpack_contents(value))[live->part];
  completion.value = Value(std::string(value));
}

std::vector<Completion> unanswered(const std::vector<Request>& requests) {
  std::vector<Completion> completions(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Completion& completion = completions[i];
    std::visit(
        [&completion]<class Kind>(const Kind& request) {
          completion.owner = request.owner;
          completion.slot = request.slot;
          if constexpr (std::is_same_v<Kind, Removal>) {
            completion.kind = Completion::Kind::removal;
            completion.sequence = request.up_to;
          } else {
            completion.kind =
                std::is_same_v<Kind, ReadBack> ? Completion::Kind::read : Completion::Kind::entry;
            completion.sequence = request.sequence;
          }
        },
        requests[i]);
  }
  return completions;
}

}  // namespace

std::string_view name_of(State state) {
  switch (state) {
    case State::ok:
      return "ok";
    case State::failed:
      return "failed";
    case State::stalled:
      return "stalled";
  }
  return "unknown";
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

Result<std::unique_ptr<Store>> Store::open(std::unique_ptr<Directory> dir, Options options,
                                           std::function<std::uint64_t()> random_salt, Logger& log) {
  if (options.size % block != 0 || options.size < smallest_size || options.size > options.max_size) {
    return std::unexpected(Error::invalid("journal: size is not a multiple of 4 KiB within its bounds"));
  }
  auto impl = std::make_unique<Impl>(std::move(dir), options, std::move(random_salt), log);
  if (auto opened = impl->open(); !opened) return std::unexpected(opened.error());
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

const Recovery& Store::recovery() const { return impl_->recovery; }

std::vector<Completion> Store::run(std::vector<Request> batch) {
  impl_->growth_tried = false;
  auto completions = unanswered(batch);
  Run(*impl_, batch, completions).commit_all();
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (const auto* read = std::get_if<ReadBack>(&batch[i])) serve(*impl_, *read, completions[i]);
  }
  return completions;
}

void Store::seal() {
  if (impl_->sealed || impl_->failed()) return;
  impl_->sealed = true;  // once is enough, also if it is not possible
  const std::uint64_t kept = Impl::removal_room(impl_->index.entries());
  if (impl_->write_position + block + kept > impl_->current().size) return;
  Record complete;
  complete.type = RecordType::complete;
  impl_->batch.add(complete, {});
  const auto written = impl_->write_and_sync(impl_->batch);
  impl_->batch.clear();
  impl_->sealed = true;
  // Nobody waits for this batch; what is live moves on at once.
  if (!written) impl_->blocked = !impl_->make_room();
}

bool Store::idle_work() {
  seal();
  if (impl_->failed()) return false;
  return grow_ahead() || impl_->zero_some();
}

bool Store::grow_ahead() { return impl_->grow_some(); }

bool Store::revive() {
  if (!impl_->failed()) return true;
  impl_->blocked = false;
  return impl_->make_room().has_value();
}

void Store::keep(std::shared_ptr<void> kept) { impl_->anchor = std::move(kept); }

Logger& Store::logger() { return impl_->log; }

void Store::mute() { impl_->log.close(); }

Stats Store::stats() const {
  Stats stats = impl_->stats;
  stats.state = impl_->failed() ? State::failed : State::ok;
  stats.reserved = impl_->dir->overwrites_in_place();
  stats.live_bytes = impl_->index.copy_bytes();
  stats.retained_entries = impl_->index.retained();
  stats.capacity_bytes = impl_->capacity();
  stats.generation = impl_->current().header.generation;
  return stats;
}

Result<> Store::Impl::write_and_sync(Batch& records) {
  assert(write_position + records.disk_bytes() <= current().size);
  auto result = records.write(*current().file, write_position, current().header.salt);
  if (result) result = current().file->sync_data();
  if (!result) {
    file_failed(current(), result.error());
    // The system may say "no space" of a write into blocks that exist: where the device under the file system
    // is itself only promised (thin), or on copy on write. Callers must not take that for "nothing was
    // written".
    result.error().code = Errc::io;
    return result;
  }
  write_position += records.disk_bytes();
  sealed = false;
  ++stats.batches;
  ++stats.syncs;
  stats.bytes_written += records.disk_bytes();
  return result;
}

Result<> Store::Impl::make_room() {
  auto switched = switch_files();
  blocked = !switched;
  // It is tried again every few seconds, for as long as the disk is bad.
  const bool told = std::exchange(failure_told, blocked);
  if (blocked && !told) log.log(LogLevel::error, "journal_failed", {{"error", switched.error().message}});
  return switched;
}

void Store::Impl::file_failed(JournalFile& file, const Error& error) {
  if (std::exchange(file.bad, true)) return;
  log.log(LogLevel::error, "journal_file_failed", {{"file", file.name}, {"error", error.message}});
}

}  // namespace guard::journal
