#include "upstream/embedded_worker.h"

#include <algorithm>
#include <utility>

#include "upstream/conflict.h"
#include "upstream/xapi_message.h"
#include "wire/vtpm_contents.h"

namespace guard::upstream {

namespace {

using Kind = Outcome::Kind;

std::size_t bytes_of(const Delivery& delivery) {
  std::size_t bytes = 0;
  for (const SlotWrite& write : delivery.writes) bytes += write.value.size();
  return bytes;
}

Outcome outcome_of(Kind kind, std::string reason, Epoch epoch) {
  Outcome outcome;
  outcome.kind = kind;
  outcome.reason = bounded_reason(std::move(reason));
  outcome.epoch = epoch;
  return outcome;
}

Fetched fetched_of(Kind kind, const std::string& reason, bool suspect, Epoch epoch) {
  return {kind, bounded_reason(reason), suspect, epoch, {}};
}

/// Why the merged contents can never be stored, empty when they can.
std::string unfit(const Contents& merged, const Delivery& delivery) {
  if (delivery.owner.device == Device::uefi) {
    return merged[Slot::nvram].size() > limits::embedded_nvram ? "the value is too large" : "";
  }
  for (const SlotWrite& write : delivery.writes) {
    // The control plane's form of the contents, which is also that of xapi, cannot hold it.
    if (!wire::is_packable_field(write.value.view())) return "a value with a space cannot be stored";
  }
  return wire::packed_vtpm_size(merged) > limits::embedded_vtpm ? "the contents are too large" : "";
}

}  // namespace

/// A delivery on its way through a transaction.
struct EmbeddedWorker::Update {
  EmbeddedCallId id = 0;
  Delivery delivery;
  Outcome outcome;       ///< as it will be, provided that the transaction is committed
  bool decided = false;  ///< without writing anything
};

EmbeddedWorker::EmbeddedWorker(EmbeddedOptions options, std::function<void(std::vector<EmbeddedAnswer>)> emit)
    : store_(std::move(options)), emit_(std::move(emit)) {}

void EmbeddedWorker::serve(std::vector<EmbeddedCall> calls) {
  const auto closes = [](const EmbeddedCall& call) {
    return std::holds_alternative<EmbeddedCall::Close>(call.what);
  };
  if (!std::ranges::all_of(calls, closes)) {
    if (const auto usable = ensure_session(); !usable) {
      fail_all(calls, usable.error());
    } else {
      serve_reads(calls);
      flush();
      serve_updates(calls);
      serve_probes(calls);
    }
  }
  flush();
  if (std::ranges::any_of(calls, closes)) store_.close();
  for (const EmbeddedCall& call : calls) {
    if (closes(call)) answer(call.id, EmbeddedAnswer::Closed{});
  }
  flush();
  store_.tidy();
}

void EmbeddedWorker::answer(EmbeddedCallId id, decltype(EmbeddedAnswer::what) what) {
  answers_.push_back({id, std::move(what)});
}

void EmbeddedWorker::flush() {
  if (!answers_.empty()) emit_(std::exchange(answers_, {}));
}

// --- The session ------------------------------------------------------------------------------------------

Result<> EmbeddedWorker::ensure_session() {
  if (store_.is_open() && store_.has_moved())
    end_session("another file stands in the place of the store", false);
  if (store_.is_open()) return {};
  if (auto opened = store_.open(); !opened) return opened;
  ++epoch_;
  ++counters_.opens;
  return {};
}

void EmbeddedWorker::end_session(std::string reason, bool distrusted) {
  store_.close(distrusted);
  answer(0, EmbeddedAnswer::Ended{epoch_, std::move(reason)});
}

void EmbeddedWorker::fail_all(const std::vector<EmbeddedCall>& calls, const Error& error) {
  for (const EmbeddedCall& call : calls) {
    if (std::holds_alternative<EmbeddedCall::Fetch>(call.what)) {
      answer(call.id, fetched_of(Kind::transient, error.message, true, 0));
    } else if (std::holds_alternative<EmbeddedCall::FindVm>(call.what)) {
      answer(call.id, EmbeddedAnswer::FoundVm(std::unexpected(error)));
    } else if (!std::holds_alternative<EmbeddedCall::Close>(call.what)) {
      Outcome outcome = outcome_of(Kind::transient, error.message, 0);
      outcome.upstream_suspect = true;
      answer(call.id, std::move(outcome));
    }
  }
}

// --- Reads ------------------------------------------------------------------------------------------------

void EmbeddedWorker::serve_reads(const std::vector<EmbeddedCall>& calls) {
  std::vector<EmbeddedCall> reads;
  for (const EmbeddedCall& call : calls) {
    if (std::holds_alternative<EmbeddedCall::Fetch>(call.what) ||
        std::holds_alternative<EmbeddedCall::FindVm>(call.what)) {
      reads.push_back(call);
    }
  }
  if (reads.empty()) return;
  if (const auto begun = store_.begin_read(); !begun) return fail_all(reads, begun.error());
  std::vector<std::pair<EmbeddedCallId, Error>> failed;
  for (const EmbeddedCall& call : reads) {
    if (const auto* find = std::get_if<EmbeddedCall::FindVm>(&call.what)) {
      answer(call.id, store_.vm_of(find->vtpm));
      continue;
    }
    auto contents = store_.read(std::get<EmbeddedCall::Fetch>(call.what).owner);
    if (contents) {
      answer(call.id, Fetched{Kind::delivered, {}, false, epoch_, std::move(*contents)});
    } else {
      failed.emplace_back(call.id, std::move(contents.error()));
    }
  }
  store_.roll_back();
  if (failed.empty()) return;
  // One device's damage, or everybody's trouble?
  const bool healthy = check().has_value();
  for (const auto& [id, error] : failed) {
    const bool lane = healthy && error.code == Errc::corrupt;
    answer(id, fetched_of(lane ? Kind::lane : Kind::transient, error.message, !healthy, epoch_));
  }
}

// --- Updates ----------------------------------------------------------------------------------------------

void EmbeddedWorker::serve_updates(std::vector<EmbeddedCall>& calls) {
  std::vector<Update> updates;
  for (EmbeddedCall& call : calls) {
    if (auto* delivery = std::get_if<Delivery>(&call.what)) {
      updates.push_back({call.id, std::move(*delivery), {}, false});
    }
  }
  if (updates.empty()) return;
  const auto together = transact(updates);
  const bool apart = !together && together.error().code != Errc::busy && updates.size() > 1;
  std::optional<bool> healthy;
  for (Update& update : updates) {
    Result<> done = together;
    if (apart) done = transact({&update, 1});
    if (done) continue;
    // It is certain that nothing of this update was written; else the outcome was decided as `unknown`.
    const Error& error = done.error();
    if (error.code == Errc::no_space) wanted_bytes_ = std::max(wanted_bytes_, bytes_of(update.delivery));
    const bool known_cause = error.code == Errc::busy || error.code == Errc::no_space;
    if (!known_cause && !healthy) healthy = check().has_value();
    const bool suspect = known_cause || !*healthy;
    const bool lane = !suspect && error.code == Errc::corrupt;
    update.outcome = outcome_of(lane ? Kind::lane : Kind::transient, error.message, epoch_);
    update.outcome.upstream_suspect = suspect;
  }
  for (Update& update : updates) answer(update.id, std::move(update.outcome));
}

/// One transaction for all of them. After an error nothing was written by any of them. When it cannot be told
/// whether the commit took effect, that is an outcome, not an error.
Result<> EmbeddedWorker::transact(std::span<Update> updates) {
  if (auto usable = ensure_session(); !usable) return usable;
  if (auto begun = store_.begin_write(); !begun) return begun;
  for (Update& update : updates) {
    update.decided = false;
    if (auto attempted = attempt(update); !attempted) {
      store_.roll_back();
      return attempted;
    }
  }
  return commit(updates);
}

Result<> EmbeddedWorker::attempt(Update& update) {
  const Delivery& delivery = update.delivery;
  const auto decide = [&](Kind kind, std::string reason) -> Result<> {
    update.outcome = outcome_of(kind, std::move(reason), epoch_);
    update.decided = true;
    return {};
  };
  if (delivery.base && delivery.base_epoch != epoch_) return decide(Kind::stale, "the session has changed");
  auto standing = store_.read(delivery.owner);
  if (!standing) return std::unexpected(std::move(standing.error()));
  if (delivery.base) {
    if (standing->slots != delivery.base->slots || standing->vtpm != delivery.base->vtpm) {
      return decide(Kind::stale, "the store holds something else by now");
    }
  } else if (const auto slot = find_conflict(*standing, delivery.writes)) {
    auto decided =
        decide(Kind::conflict, "another value of " + std::string(name_of(*slot)) + " stands there");
    update.outcome.found = std::move(*standing);
    return decided;
  }
  Contents merged = *standing;
  for (const SlotWrite& write : delivery.writes) merged[write.slot] = write.value;
  if (std::string why = unfit(merged, delivery); !why.empty()) return decide(Kind::payload, std::move(why));
  update.outcome = outcome_of(Kind::delivered, {}, epoch_);
  if (all_stand_in(*standing, delivery.writes)) {
    update.decided = true;
  } else {
    const auto vtpm = store_.write(delivery.owner, delivery.writes);
    if (!vtpm) return std::unexpected(vtpm.error());
    merged.vtpm = *vtpm;
  }
  update.outcome.contents = std::move(merged);
  if (!delivery.base) update.outcome.found = std::move(*standing);
  return {};
}

Result<> EmbeddedWorker::commit(std::span<Update> updates) {
  if (std::ranges::all_of(updates, &Update::decided)) {
    store_.roll_back();
    return {};
  }
  const auto committed = store_.commit();
  if (committed && !store_.has_moved()) {
    ++counters_.transactions;
    for (Update& update : updates) {
      if (update.delivery.verify && update.outcome.kind == Kind::delivered) read_back(update);
    }
    return {};
  }
  if (!committed && (committed.error().code == Errc::busy || committed.error().code == Errc::no_space)) {
    store_.roll_back();
    return committed;
  }
  // A sync that fails leaves open what is on the disk; and what went into a file that is not the store any
  // more may be lost with it.
  const std::string why = committed ? "the store was replaced meanwhile" : committed.error().message;
  for (Update& update : updates) {
    if (update.decided) continue;
    update.outcome.kind = Kind::unknown;
    update.outcome.reason = bounded_reason("the commit: " + why);
    update.outcome.contents.reset();
  }
  end_session(why, !committed);
  return {};
}

void EmbeddedWorker::read_back(Update& update) {
  store_.forget_pages();
  Result<Contents> standing = std::unexpected(Error{});
  if (const auto begun = store_.begin_read(); begun) {
    standing = store_.read(update.delivery.owner);
    store_.roll_back();
  } else {
    standing = std::unexpected(begun.error());
  }
  if (standing && all_stand_in(*standing, update.delivery.writes)) return;
  update.outcome.kind = Kind::unknown;
  update.outcome.reason =
      bounded_reason("reading back: " +
                     (standing ? std::string("the values do not stand there") : standing.error().message));
  update.outcome.contents.reset();
}

// --- Probes -----------------------------------------------------------------------------------------------

void EmbeddedWorker::serve_probes(const std::vector<EmbeddedCall>& calls) {
  for (const EmbeddedCall& call : calls) {
    if (!std::holds_alternative<EmbeddedCall::Probe>(call.what)) continue;
    const auto checked = check();
    Outcome outcome = outcome_of(Kind::delivered, {}, epoch_);
    if (!checked) outcome = outcome_of(Kind::transient, checked.error().message, epoch_);
    outcome.upstream_suspect = !checked;
    answer(call.id, std::move(outcome));
  }
}

/// A small write, durable like any other. What fails but for want of space or a lock ends the session: a
/// fresh one sees what is on the disk then.
Result<> EmbeddedWorker::check() {
  if (auto usable = ensure_session(); !usable) return usable;
  bool committing = false;
  Result<> done = store_.begin_write();
  if (done) done = store_.write_probe(wanted_bytes_);
  if (done) {
    committing = true;
    done = store_.commit();
  }
  if (done) {
    wanted_bytes_ = 0;
    return done;
  }
  store_.roll_back();
  if (done.error().code != Errc::busy && done.error().code != Errc::no_space) {
    end_session(done.error().message, committing);
  }
  return done;
}

}  // namespace guard::upstream
