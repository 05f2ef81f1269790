#include "upstream/delivery.h"

#include <memory>
#include <utility>

#include "upstream/conflict.h"
#include "wire/vtpm_contents.h"

namespace guard::upstream {

namespace {

class Run : public std::enable_shared_from_this<Run> {
 public:
  Run(const DeliveryTools& tools, Delivery delivery, std::function<void(Outcome)> done)
      : tools_(tools), delivery_(std::move(delivery)), done_(std::move(done)) {}

  void start() {
    for (const SlotWrite& write : delivery_.writes) {
      flag_ = write.update;
      if (write.slot == Slot::nvram) continue;
      if (!wire::is_packable_field(write.value.view())) {
        return end(Outcome::Kind::payload, "a value with a space cannot be stored");
      }
    }
    if (delivery_.base) {
      update_base();
    } else if (delivery_.ask_residence) {
      ask_residence();
    } else {
      read();
    }
  }

 private:
  Time deadline() const { return tools_.loop.now() + tools_.patience; }
  const Uuid& vm() const { return delivery_.owner.vm; }

  void update_base() {
    const References* references = tools_.store.references(vm());
    const Contents& base = *delivery_.base;
    if (delivery_.base_epoch == 0 || delivery_.base_epoch != tools_.session.epoch()) {
      return end(Outcome::Kind::stale, "the session has changed");
    }
    if (!references) return end(Outcome::Kind::stale, "the references are not known any more");
    if (!base.vtpm.is_nil() && base.vtpm != references->vtpm_uuid) {
      return end(Outcome::Kind::stale, "the VM has another vTPM now");
    }
    update(*references, std::move(*delivery_.base));
  }

  void read() {
    tools_.store.read(vm(), deadline(), [self = shared_from_this()](DeviceStore::ReadResult read) {
      if (read) return self->merge(std::move(*read));
      self->tools_.health.judge(std::move(read.error()),
                                [self](Failure failure) { self->end(std::move(failure)); });
    });
  }

  /// Before the contents are read, so that little time lies between reading and writing them.
  void ask_residence() {
    if (const References* references = tools_.store.references(vm())) return ask_residence(references->vm);
    tools_.store.read(vm(), deadline(), [self = shared_from_this()](DeviceStore::ReadResult read) {
      if (read) return self->ask_residence(std::move(read->references.vm));
      self->tools_.health.judge(std::move(read.error()),
                                [self](Failure failure) { self->end(std::move(failure)); });
    });
  }

  void ask_residence(std::string vm_reference) {
    auto answered = [self = shared_from_this()](Residence::Answer elsewhere) {
      if (!elsewhere) return self->residence_unknown(std::move(elsewhere.error()));
      if (*elsewhere) return self->end(Outcome::Kind::elsewhere, "the VM runs on another host");
      self->read();
    };
    tools_.residence.runs_elsewhere(std::move(vm_reference), deadline(), std::move(answered));
  }

  void residence_unknown(Failure failure) {
    if (failure.kind == Failure::Kind::reference) {
      tools_.store.drop_references(vm());
      if (!std::exchange(again_, true)) return ask_residence();
      failure.kind = Failure::Kind::vm;
    }
    tools_.health.judge(std::move(failure),
                        [self = shared_from_this()](Failure judged) { self->end(std::move(judged)); });
  }

  void merge(DeviceStore::Read read) {
    found_ = read.contents;
    if (const auto slot = find_conflict(read.contents, delivery_.writes)) {
      epoch_ = read.epoch;
      return end(Outcome::Kind::conflict,
                 "another value of " + std::string(name_of(*slot)) + " stands there");
    }
    if (all_done_in(read.contents, delivery_.writes)) {
      epoch_ = read.epoch;
      return delivered(std::move(read.contents));
    }
    if (read.epoch != tools_.session.epoch()) return end(Outcome::Kind::stale, "the session has changed");
    update(read.references, std::move(read.contents));
  }

  void update(const References& references, Contents contents) {
    for (const SlotWrite& write : delivery_.writes) contents[write.slot] = write.value;
    contents.vtpm = references.vtpm_uuid;
    epoch_ = tools_.session.epoch();
    // The references may be shared with `self`; the request is encoded before update() returns.
    auto answered = [self = shared_from_this(), contents](DeviceStore::UpdateResult result) mutable {
      self->updated(std::move(result), std::move(contents));
    };
    tools_.store.update(references, contents, flag_, deadline(), std::move(answered));
  }

  void updated(DeviceStore::UpdateResult result, Contents contents) {
    if (!result) return refused(std::move(result.error()));
    if (delivery_.verify) return read_back(std::move(contents));
    delivered(std::move(contents));
  }

  void refused(Failure failure) {
    switch (failure.kind) {
      case Failure::Kind::session:
        // What was merged may be out of date together with the session.
        tools_.session.refused(epoch_);
        return end(Outcome::Kind::stale, std::move(failure.reason));
      case Failure::Kind::reference:
        tools_.store.drop_references(vm());
        if (delivery_.base) return end(Outcome::Kind::stale, std::move(failure.reason));
        if (!std::exchange(again_, true)) return read();
        return end(Outcome::Kind::lane, std::move(failure.reason));
      case Failure::Kind::race:
        // Another update overlapped ours; which of the two stands is not known.
        return end(Outcome::Kind::unknown, std::move(failure.reason));
      default:
        return end(std::move(failure));
    }
  }

  void read_back(Contents contents) {
    tools_.store.read(
        vm(), deadline(), [self = shared_from_this(), vtpm = contents.vtpm](DeviceStore::ReadResult read) {
          if (!read) {
            self->end(Outcome::Kind::unknown, "reading back: " + read.error().reason);
          } else if (read->contents.vtpm != vtpm || !all_stand_in(read->contents, self->delivery_.writes)) {
            self->end(Outcome::Kind::unknown, "reading back: the values do not stand there");
          } else {
            self->delivered(std::move(read->contents));
          }
        });
  }

  void delivered(Contents contents) {
    Outcome outcome;
    outcome.kind = Outcome::Kind::delivered;
    outcome.epoch = epoch_;
    outcome.contents = std::move(contents);
    outcome.found = std::move(found_);
    std::exchange(done_, nullptr)(std::move(outcome));
  }

  void end(Failure failure) {
    Outcome::Kind kind = Outcome::Kind::transient;
    if (failure.kind == Failure::Kind::unknown) kind = Outcome::Kind::unknown;
    if (failure.kind == Failure::Kind::payload) kind = Outcome::Kind::payload;
    if (failure.kind == Failure::Kind::vm || failure.kind == Failure::Kind::unsupported) {
      kind = Outcome::Kind::lane;
    }
    end(kind, std::move(failure.reason), failure.host_wide);
  }

  void end(Outcome::Kind kind, std::string reason, bool suspect = false) {
    Outcome outcome;
    outcome.kind = kind;
    outcome.reason = bounded_reason(std::move(reason));
    outcome.upstream_suspect = suspect;
    outcome.epoch = epoch_;
    if (kind == Outcome::Kind::conflict || kind == Outcome::Kind::unknown) outcome.found = std::move(found_);
    std::exchange(done_, nullptr)(std::move(outcome));
  }

  const DeliveryTools tools_;
  Delivery delivery_;
  std::function<void(Outcome)> done_;
  UpdateFlag flag_ = UpdateFlag::no;
  Epoch epoch_ = 0;                ///< in which the update was sent
  bool again_ = false;             ///< references were refused once
  std::optional<Contents> found_;  ///< what stood there before
};

}  // namespace

void deliver_to(const DeliveryTools& tools, Delivery delivery, std::function<void(Outcome)> done) {
  std::make_shared<Run>(tools, std::move(delivery), std::move(done))->start();
}

}  // namespace guard::upstream
