#include "journal/inspect.h"

#include <algorithm>
#include <utility>

#include "journal/index.h"

namespace guard::journal {

namespace {

RecordView view_of(const Record& r) {
  RecordView view;
  view.type = r.type;
  view.owner = r.owner;
  view.slot = r.slot;
  view.sequence = r.sequence;
  view.wall_ms = r.wall_ms;
  view.vtpm = r.vtpm;
  view.digest = r.digest;
  view.payload_size = r.payload_size;
  view.known_count = r.known_count;
  view.retained = r.retained;
  view.suspect = r.suspect;
  view.alert = r.alert;
  view.copied = r.copied;
  view.resumed = r.resumed;
  view.position = r.position;
  view.batch_start = r.batch_start;
  return view;
}

std::string_view what_of(const Damage& damage) {
  if (damage.lost) return "the payload of a record is not what was written";
  return damage.hides_records ? "records may have stood here" : "the padding is not zero";
}

/// One look at both files. The rules are those of recovery.cpp; a test compares the two on damaged journals.
class Look {
 public:
  Look(Directory& dir, const InspectOptions& options) : dir_(dir), options_(options) {}

  Result<Inspection> run() {
    for (std::size_t i = 0; i < 2; ++i) open(i);
    if (!out_.files[0].present && !out_.files[1].present) {
      return std::unexpected(Error{Errc::not_found, 0, "there is no journal: neither a nor b exists"});
    }
    for (std::size_t i = 0; i < 2; ++i) scan(i);
    choose();
    for (std::size_t i = 0; i < 2 && !out_.changed; ++i) out_.changed = header_changed(i);
    return std::move(out_);
  }

 private:
  /// What one pass over a file gathers.
  struct Pass {
    Scan scan;
    Index index;
    std::vector<RecordView> records;
    std::uint64_t omitted = 0;
  };

  void open(std::size_t i) {
    FileView& view = out_.files[i];
    view.name = i == 0 ? "a" : "b";
    auto file = dir_.open_for_read(view.name);
    view.present = file || file.error().code != Errc::not_found;
    if (!view.present) return;
    if (!file) return fail(view, file.error());
    const auto size = (*file)->size();
    if (!size) return fail(view, size.error());
    view.size = *size;
    auto headers = read_headers(**file);
    if (!headers) return fail(view, headers.error());
    view.headers = *headers;
    files_[i] = std::move(*file);
  }

  void fail(FileView& view, const Error& error) {
    view.error = error;
    if (!out_.unreadable) out_.unreadable = error;
  }

  void scan(std::size_t i) {
    FileView& view = out_.files[i];
    const FileHeader* header = view.headers.best();
    if (files_[i] == nullptr || header == nullptr) return;
    Pass& pass = passes_[i];
    std::uint64_t batch = 0;
    auto done = scan_file(*files_[i], *header, [&](const Record& r, std::span<const std::byte> payload) {
      std::array<std::uint32_t, 3> sizes{};
      if (r.type == RecordType::contents) {
        const auto values = *unpack_contents(as_text(payload));
        for (std::size_t part = 0; part < 3; ++part) {
          sizes[part] = static_cast<std::uint32_t>(values[part].size());
        }
      }
      pass.index.apply(r, sizes);
      if (std::exchange(batch, r.batch_start) != r.batch_start) ++view.batches;
      if (!options_.records) return;
      if (pass.records.size() < limits::inspect_records) {
        pass.records.push_back(view_of(r));
      } else {
        ++pass.omitted;
      }
    });
    if (!done) return fail(view, done.error());
    pass.scan = std::move(*done);
    view.records = pass.scan.records;
    view.end = pass.scan.end;
    view.complete = pass.scan.complete;
    view.torn = pass.scan.torn;
  }

  /// Which file counts. The highest generation first, as in a recovery.
  void choose() {
    if (out_.unreadable) return;
    const bool recreated = !out_.files[0].present || !out_.files[1].present;
    out_.lost = true;  // unless one of them counts; no crash leaves neither
    const auto generation = [this](std::size_t i) {
      const FileHeader* best = out_.files[i].headers.best();
      return best == nullptr ? 0 : best->generation;
    };
    const std::size_t newer = generation(1) > generation(0) ? 1 : 0;
    for (const std::size_t i : {newer, 1 - newer}) {
      const FileHeader* header = out_.files[i].headers.best();
      if (header == nullptr) continue;
      const Scan& scan = passes_[i].scan;
      out_.highest_sequence =
          std::max({out_.highest_sequence, header->highest_sequence, scan.highest_sequence});
      if (scan.complete) return judge(i, recreated);
      if (scan.unreadable_blocks != 0) {
        out_.lost = false;
        out_.unreadable =
            Error{Errc::io, 0, "cannot tell whether file " + out_.files[i].name + " is complete"};
        return;
      }
    }
    for (const FileView& file : out_.files) {
      out_.damage.push_back({file.name, 0, file.size, "neither file can be replayed", {}, true});
    }
  }

  void judge(std::size_t replayed, bool recreated) {
    out_.replayed = replayed;
    out_.lost = false;
    const FileView& own = out_.files[replayed];
    const FileView& other = out_.files[1 - replayed];
    Pass& pass = passes_[replayed];
    for (std::size_t i = 0; i < 2; ++i) {
      const auto& copy = own.headers.copies[i];
      if (copy && copy->generation == own.headers.best()->generation) continue;
      out_.damage.push_back(
          {own.name,
           i * block,
           (i + 1) * block,
           i == 0 ? "the first copy of the header is not good" : "the second copy of the header is not good",
           {},
           false});
    }
    if (own.size < own.headers.best()->size) {
      out_.damage.push_back({own.name, own.size, own.headers.best()->size, "the file was cut off", {}, true});
      pass.index.suspect_before(~std::uint64_t{0});
    }
    for (const Damage& damage : pass.scan.damage) {
      out_.damage.push_back({own.name, damage.from, damage.to, std::string(what_of(damage)), damage.lost,
                             damage.hides_records});
      if (damage.lost && damage.lost->is_entry()) {
        const Record& lost = *damage.lost;
        const bool contents = lost.type == RecordType::contents;
        for (std::size_t i = 0; i < (contents ? 3u : 1u); ++i) {
          pass.index.suspect({lost.owner, contents ? static_cast<Slot>(i) : lost.slot}, lost.sequence);
        }
      } else if (damage.hides_records && (pass.scan.complete_at == 0 || damage.to > pass.scan.complete_at)) {
        pass.index.suspect_before(damage.from);
      }
    }
    const bool headerless = other.present && other.headers.best() == nullptr;
    const bool cut = other.present && !headerless && other.size < other.headers.best()->size &&
                     other.headers.best()->generation > own.headers.best()->generation;
    if (headerless || cut || (recreated && pass.index.entries() != 0)) {
      const char* what = headerless ? "the file has no good header"
                         : cut      ? "the file was cut off"
                                    : "the file is missing";
      out_.damage.push_back({other.name, 0, headerless || cut ? other.size : 0, what, {}, true});
      pass.index.suspect_before(~std::uint64_t{0});
    }
    list_live(replayed);
    out_.records = std::move(pass.records);
    out_.omitted = pass.omitted;
  }

  void list_live(std::size_t replayed) {
    const Index& index = passes_[replayed].index;
    const auto add = [&](const SlotKey& key, const Live& live) {
      auto entry = live_entry(replayed, key, live);
      // Only somebody who writes while we read can cause this.
      if (entry) {
        out_.live.push_back(std::move(*entry));
      } else {
        out_.changed = true;
      }
    };
    for (const auto& [key, live] : index.slots()) add(key, live);
    for (const auto& [sequence, alert] : index.alerts()) add(alert.key, alert.live);
    std::sort(out_.live.begin(), out_.live.end(), [](const LiveEntry& a, const LiveEntry& b) {
      return std::pair(a.sequence, a.slot) < std::pair(b.sequence, b.slot);
    });
  }

  Result<LiveEntry> live_entry(std::size_t file, const SlotKey& key, const Live& live) {
    const auto record = read_record(*files_[file], *out_.files[file].headers.best(), live.position,
                                    live.record_size, live.sequence, buffer_);
    if (!record) return std::unexpected(record.error());
    LiveEntry entry;
    entry.type = record->type;
    entry.owner = key.owner;
    entry.slot = key.slot;
    entry.sequence = live.sequence;
    entry.vtpm = record->vtpm;
    entry.known =
        merge_known({record->known.data(), record->known_count}, passes_[file].index.more_known(key));
    entry.digest = record->digest;
    if (live.part != Live::whole) {
      const auto payload = std::string_view(buffer_).substr(record->header_size());
      entry.digest = digest_of((*unpack_contents(payload))[live.part]);
    }
    entry.size = live.value_size;
    entry.wall_ms = record->wall_ms;
    entry.flags = record->flags;
    entry.retained = live.retained;
    entry.suspect = live.suspect;
    return entry;
  }

  bool header_changed(std::size_t i) {
    if (files_[i] == nullptr) return false;
    const auto now = read_headers(*files_[i]);
    const FileHeader* before = out_.files[i].headers.best();
    const FileHeader* after = now ? now->best() : nullptr;
    return (before == nullptr) != (after == nullptr) ||
           (before != nullptr && before->generation != after->generation);
  }

  Directory& dir_;
  const InspectOptions& options_;
  std::array<std::unique_ptr<File>, 2> files_;
  std::array<Pass, 2> passes_;
  std::string buffer_;
  Inspection out_;
};

bool overlap(const Finding& a, const Finding& b) {
  return a.file == b.file && (a.from == b.from || (a.from < b.to && b.from < a.to));
}

}  // namespace

Result<Inspection> inspect(Directory& dir, const InspectOptions& options) {
  auto first = Look(dir, options).run();
  if (!first || !options.in_use) return first;
  for (unsigned attempt = 1; attempt < limits::inspect_attempts && !first->good(); ++attempt) {
    auto again = Look(dir, options).run();
    if (!again) return again;
    const auto gone = std::erase_if(again->damage, [&](const Finding& finding) {
      return std::ranges::none_of(first->damage,
                                  [&](const Finding& before) { return overlap(finding, before); });
    });
    again->changed =
        again->changed || first->changed || gone != 0 || again->damage.size() != first->damage.size();
    first = std::move(again);
  }
  return first;
}

}  // namespace guard::journal
