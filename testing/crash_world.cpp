#include "testing/crash_world.h"

#include <cassert>
#include <cerrno>

#include "base/log.h"
#include "testing/journal_model.h"

namespace guard::journal {

using testing::SimDisk;

CrashWorld::CrashWorld(CrashExplorer& explorer, const Fault& fault, Empty)
    : explorer_(explorer),
      fault_(fault),
      options_(explorer.settings().options),
      disk_(std::make_unique<SimDisk>(explorer.settings().seed)) {
  disk_->set_failed_write(fault.write);
}

CrashWorld::CrashWorld(CrashExplorer& explorer, const Fault& fault) : CrashWorld(explorer, fault, Empty()) {
  open();
}

void CrashWorld::explore() {
  exploring_ = true;
  if (fault_.operation != 0) arm(fault_.operation);
  attach();
  look();
}

/// The fault is to happen at this operation from now.
void CrashWorld::arm(std::uint64_t operation) {
  armed_ = disk_->operations() + operation;
  disk_->fail_at(armed_, fault_.os_errno, fault_.for_ever);
}

void CrashWorld::attach() {
  if (exploring_) disk_->set_on_change([this] { look(); });
}

/// Before its fault a run is like the one without any, which was explored already.
void CrashWorld::look() {
  if (exploring_ && (fault_.operation == 0 || fault_happened()))
    explorer_.point(*disk_, oracle_, fault_happened());
}

void CrashWorld::run(std::vector<Request> batch) {
  if (!store_) return;
  const auto all = with_ends(may_end_, batch);
  oracle_.submitted(all);
  const auto changes = disk_->changes();
  const auto answers = store_->run(std::move(batch));
  const bool written = disk_->changes() != changes;
  oracle_.answered(all, answers_with_ends(*store_, may_end_, answers, fault_happened()), written);
  oracle_.generation(store_->stats().generation);
  look();
}

void CrashWorld::idle() {
  if (!store_) return;
  store_->idle_work();
  oracle_.generation(store_->stats().generation);
  look();
}

void CrashWorld::seal() {
  if (!store_) return;
  store_->seal();
  oracle_.generation(store_->stats().generation);
  look();
}

void CrashWorld::revive() {
  if (!store_) return;
  store_->revive();
  oracle_.generation(store_->stats().generation);
  look();
}

void CrashWorld::open() {
  auto opened = Store::open(disk_->root(), options_, salts(++salt_ * 1000), null_logger());
  if (!opened) {
    if (!fault_happened()) problem_ = "the journal cannot be opened: " + opened.error().message + "\n";
    return;
  }
  store_ = std::move(*opened);
  const Recovery& found = store_->recovery();
  if (found.corrupt_records != 0) {
    if (!fault_happened()) problem_ = "the trace of an end was taken for damage\n";
    store_.reset();  // of no more use here: what follows damage is not the subject
    return;
  }
  if (auto wrong = oracle_.compare(found); !wrong.empty()) problem_ = wrong;
  oracle_.recovered(found);
  sequence_ = std::max(sequence_, found.highest_sequence);
  look();
}

void CrashWorld::reopen() {
  faulty_ = fault_happened();
  store_.reset();
  open();
}

void CrashWorld::power_cut(std::vector<Request> batch, unsigned percent) {
  std::unique_ptr<SimDisk> left;
  if (store_) {
    oracle_.submitted(batch);
    disk_->set_on_change([&] {
      look();
      if (left) return;
      std::vector<std::uint16_t> choices;
      const auto effects = disk_->effects();
      for (const auto& effect : effects)
        choices.push_back(choices.size() * 100 < effects.size() * percent ? effect.newest : 0);
      left = disk_->after_power_cut(choices, 1);
    });
    const auto completions = store_->run(batch);
  }
  if (!left) left = disk_->after_power_cut();
  faulty_ = fault_happened();
  store_.reset();
  const bool to_come = armed_ != 0 && !faulty_;
  const std::uint64_t distance = to_come ? armed_ - disk_->operations() : 1;
  disk_ = std::move(left);
  disk_->set_failed_write(fault_.write);
  if (to_come || (armed_ != 0 && fault_.for_ever)) arm(distance);
  attach();
  open();
}

void CrashWorld::heal() {
  faulty_ = fault_happened();
  armed_ = 0;
  disk_->heal();
}

void CrashWorld::end() {
  heal();
  if (!problem_.empty()) return;
  if (!store_) reopen();
  for (int attempt = 0; store_ && attempt < 5 && store_->stats().state == State::failed; ++attempt) revive();
  if (store_ && store_->stats().state != State::ok) problem_ = "the journal does not revive\n";
  run({write(7, Slot::permall, 10)});
}

Entry CrashWorld::write(unsigned vm_number, Slot slot, std::size_t size) {
  Entry entry = write_of(vm(vm_number), slot, next(), size);
  entry.owner.device = device_of(slot);
  entry.known = {digest_of("base")};
  entry.flags = static_cast<std::uint8_t>(sequence_);
  entry.wall_ms = static_cast<std::int64_t>(1000 + sequence_);
  entry.vtpm.bytes[3] = static_cast<std::uint8_t>(vm_number);
  return entry;
}

Entry CrashWorld::contents(unsigned vm_number, std::size_t size) {
  Entry entry = write(vm_number, Slot::permall, 0);
  entry.type = RecordType::contents;
  const auto text = [&](std::size_t bytes) { return Value(text_of(entry.sequence, bytes)); };
  entry.value = pack_contents({text(size), text(size / 2), text(0)});
  return entry;
}

Entry CrashWorld::alert(unsigned vm_number, std::size_t size) {
  Entry entry = write(vm_number, Slot::permall, size);
  entry.type = RecordType::alert;
  return entry;
}

Removal CrashWorld::removal(unsigned vm_number, Slot slot, bool retained) {
  Removal removal = removal_of(vm(vm_number), slot, sequence_);
  removal.owner.device = device_of(slot);
  removal.delivered = digest_of("delivered " + std::to_string(sequence_));
  removal.retained = retained;
  return removal;
}

namespace {

struct FaultKind {
  const char* name;
  Fault fault;
};

const std::vector<FaultKind>& fault_kinds() {
  using Write = SimDisk::FailedWrite;
  static const std::vector<FaultKind> kinds{
      {":eio-some@", {0, EIO, false, Write::some}},
      {":eio-all@", {0, EIO, false, Write::everything}},
      {":enospc-none@", {0, ENOSPC, false, Write::nothing}},
      {":enospc-some@", {0, ENOSPC, false, Write::some}},
      {":eio-for-ever@", {0, EIO, true, Write::some}},
      {":enospc-for-ever@", {0, ENOSPC, true, Write::nothing}},
  };
  return kinds;
}

/// Returns whether the fault happened.
bool run_once(CrashExplorer& explorer, const Campaign& campaign, const std::string& run, const Fault& fault,
              std::string& problem) {
  explorer.begin(run, fault.operation != 0);
  const auto world = campaign.from_nothing
                         ? std::make_unique<CrashWorld>(explorer, fault, CrashWorld::Empty())
                         : std::make_unique<CrashWorld>(explorer, fault);
  campaign.scenario(*world);
  const bool happened = world->fault_happened();
  world->end();
  if (!world->problem().empty()) problem = world->problem() + "in the run " + run + "\n";
  return happened;
}

}  // namespace

std::string run_campaign(CrashExplorer& explorer, const Campaign& campaign) {
  std::string problem;
  const auto bad = [&] { return !problem.empty() || !explorer.failure().empty(); };
  if (explorer.wanted("")) run_once(explorer, campaign, "", {}, problem);
  for (const FaultKind& kind : fault_kinds()) {
    bool happened = true;
    for (std::uint64_t n = 1; happened && !bad(); ++n) {
      const std::string run = kind.name + std::to_string(n);
      if (!explorer.wanted(run)) {
        // A replay: the run may be a later one of this kind.
        happened = !explorer.settings().replay.empty() && n < 10'000;
        continue;
      }
      Fault fault = kind.fault;
      fault.operation = n;
      happened = run_once(explorer, campaign, run, fault, problem);
    }
  }
  return problem + explorer.failure();
}

}  // namespace guard::journal
