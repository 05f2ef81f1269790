#include "upstream/vtpm_lookup.h"

#include <memory>
#include <string>
#include <utility>

namespace guard::upstream {

namespace {

struct Lookup {
  XapiSession& session;
  Time deadline;
  std::function<void(Result<std::optional<Uuid>>)> done;
};
using LookupPtr = std::shared_ptr<Lookup>;

void fail(const Lookup& lookup, const Failure& failure) {
  // Deleted before, or between two look-ups.
  const bool gone = failure.kind == Failure::Kind::vm || failure.kind == Failure::Kind::reference;
  if (gone) return lookup.done(std::optional<Uuid>());
  lookup.done(std::unexpected(Error{Errc::unavailable, 0, failure.reason}));
}

/// Makes one look-up and goes on with the text it found.
void ask(const LookupPtr& lookup, Method method, std::string param,
         std::function<void(const std::string&)> next) {
  lookup->session.look_up(method, std::move(param), lookup->deadline,
                          [lookup, method, next = std::move(next)](XapiSession::FoundResult found) {
                            const auto text = text_of(method, std::move(found));
                            if (!text) return fail(*lookup, text.error());
                            next(*text);
                          });
}

}  // namespace

void find_vm_of_vtpm(XapiSession& session, Uuid vtpm, Time deadline,
                     std::function<void(Result<std::optional<Uuid>>)> done) {
  const auto lookup = std::make_shared<Lookup>(Lookup{session, deadline, std::move(done)});
  ask(lookup, Method::vtpm_get_by_uuid, vtpm.str(), [lookup](const std::string& vtpm_reference) {
    ask(lookup, Method::vtpm_get_vm, vtpm_reference, [lookup](const std::string& vm_reference) {
      ask(lookup, Method::vm_get_uuid, vm_reference, [lookup](const std::string& text) {
        const auto vm = Uuid::parse(text);
        if (!vm) return fail(*lookup, malformed(Method::vm_get_uuid, "no uuid"));
        lookup->done(std::optional<Uuid>(vm));
      });
    });
  });
}

}  // namespace guard::upstream
