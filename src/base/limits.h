// Every bound of the product, with its reason (P8). Options may lower or raise those marked "option".
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace guard::limits {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

inline constexpr std::size_t KiB = 1024;
inline constexpr std::size_t MiB = 1024 * KiB;

// --- Device sockets ---------------------------------------------------------------------------------------
/// Option max-body. xapi takes requests of at most 307,200 bytes, so nothing larger can be delivered; the
/// rest is room to answer 413 to what is only a little too large.
inline constexpr std::size_t max_body_vtpm = 320 * KiB;
/// A legitimate variable store is at most 128 KiB, base64 175,000 bytes.
inline constexpr std::size_t max_body_xmlrpc = 512 * KiB;
inline constexpr std::size_t max_header = 8 * KiB;
inline constexpr seconds header_deadline{10};
inline constexpr seconds body_deadline{30};
inline constexpr minutes idle_deadline{10};
/// Per connection: a head and the 8 KiB of a usual state arrive in one receive.
inline constexpr std::size_t read_buffer = 16 * KiB;
/// How much, and how long, is read on behind a body that is too large, so that its sender sees the answer.
inline constexpr std::size_t linger_bytes = 4 * MiB;
inline constexpr seconds linger_deadline{5};
/// At a stop, for connections that were accepted and whose first request is not there yet.
inline constexpr milliseconds drain_grace{200};
/// Out of descriptors: when accepting is tried again.
inline constexpr milliseconds accept_retry{250};
/// swtpm uses one connection and, after a close in mid-request, briefly two.
inline constexpr unsigned connections_per_socket = 4;
/// Descriptors for a full host: 2,000 VMs with a socket and a connection each, the calls to xapi, and room.
inline constexpr unsigned long descriptors_wanted = 8192;
/// What waits while four connections are busy; and while the guard restarts.
inline constexpr int listen_backlog = 128;
/// A GET that the upstream has not answered by then is 503 (the client tries again).
inline constexpr seconds read_patience{10};

// --- XML-RPC (varstored) ----------------------------------------------------------------------------------
/// Elements within each other. The deepest call of varstored's has 6; an array in a struct some more.
inline constexpr std::size_t xmlrpc_depth = 32;
/// message.create has six; surplus ones are ignored.
inline constexpr std::size_t xmlrpc_params = 16;
/// The longest method name has 36 bytes.
inline constexpr std::size_t xmlrpc_method = 128;
/// varstored reads an answer, head and body, into a buffer of 256 KiB and cuts off what is longer.
inline constexpr std::size_t varstored_response = 262'143;
/// What must stay free in such an answer beside the variables: its head, its frame and other entries of the
/// map. Variables that could be stored and not be read back would keep their VM from starting.
inline constexpr std::size_t varstored_response_rest = 4 * KiB;
/// Room in a request to xapi for everything but the variables, or the text of an alert.
inline constexpr std::size_t xapi_envelope_uefi = 512;
/// Option varstored-patience: how long requests of a socket wait for an answer in all, counted from the first
/// one that waits. xenopsd gives a starting varstored 30 s.
inline constexpr seconds varstored_patience{20};
/// The longest it may be: all that time a guest's processor waits for its SetVariable.
inline constexpr minutes varstored_patience_max{10};
/// From when on requests may wait again: safely more than the start of a varstored takes, and than the
/// patience.
inline constexpr seconds varstored_patience_renewed{60};
/// A request without an answer for this long counts as one that waits: with xapi away a write takes
/// direct_timeout and a commit.
inline constexpr seconds varstored_grace{2};
/// How often a request that waits is tried again.
inline constexpr milliseconds varstored_retry{250};

// --- Upstream ---------------------------------------------------------------------------------------------
/// Largest request xapi takes (Db_globs.http_limit_max_rpc_size).
inline constexpr std::size_t xapi_request = 307'200;
/// Room in such a request for everything but the contents: method, references, id.
inline constexpr std::size_t xapi_envelope = 180;
/// A response is never larger than a few values; more is an attack or a wrong server.
inline constexpr std::size_t xapi_response = 2 * MiB;
/// Option direct-timeout: how long a client waits for xapi before its write goes to the journal.
inline constexpr milliseconds direct_timeout{500};
/// Option upstream-timeout: look-ups and reads of a delivery.
inline constexpr seconds upstream_timeout{120};
/// Option doubt-window: how long after a lost connection an unanswered update is still feared.
inline constexpr seconds doubt_window{120};
/// How often a lane in doubt asks whether the session of the doubtful update still lives.
inline constexpr seconds doubt_probe{5};
/// A doubt that lasts longer than this is reported.
inline constexpr minutes doubt_report{15};
inline constexpr seconds probe_timeout{2};
inline constexpr milliseconds probe_backoff_min{100};
inline constexpr seconds probe_backoff_max{5};
inline constexpr seconds held_backoff_min{1};
inline constexpr minutes held_backoff_max{5};
/// Alerts of one VM that wait. varstored sends one for each boot that fails; more say nothing new.
inline constexpr std::size_t alerts_per_vm = 16;
/// The text of an alert; varstored's has 47 bytes.
inline constexpr std::size_t alert_body = 16 * KiB;
/// Alerts on their way to the upstream at once, all VMs together: they must never crowd out state.
inline constexpr unsigned alert_concurrency = 2;
/// A lane that is held for so long is worth a message: a VM that is being deleted is gone by then.
inline constexpr seconds held_alert{60};
/// Option alert-after: data that is pending for so long is worth one; a restart of xapi takes a few minutes.
inline constexpr minutes pending_alert{15};
/// Messages about one thing come no closer than this, however often it begins anew.
inline constexpr minutes concern_pause{5};
/// Messages that wait for xapi; with more the text of the first few tells it all.
inline constexpr std::size_t concerns_waiting = 64;
/// What is remembered of a VM's NVRAM map besides the variables, to be shown with pending ones.
inline constexpr std::size_t nvram_rest = 16 * KiB;
/// The same refusal this often over this long makes a VM's trouble permanent: 503 at once.
inline constexpr unsigned held_confirmations = 3;
inline constexpr seconds held_confirmation_span{30};
/// Option delivery-concurrency.
inline constexpr unsigned delivery_concurrency = 8;
/// Kept-alive connections to xapi that count; calls overdue by direct-timeout count no more.
inline constexpr unsigned upstream_connections = 16;
/// All connections to xapi, also those of overdue calls: one for each VM of a full host that hangs at once,
/// and still well below the usual 1024 descriptors of a process.
inline constexpr unsigned upstream_ceiling = 512;
/// An idle connection costs xapi a thread, and a new one costs us next to nothing.
inline constexpr seconds upstream_idle{60};
/// A login takes milliseconds; one that hangs holds up every call, so it is given up for a fresh one.
inline constexpr seconds login_timeout{20};
/// At an orderly stop nobody waits for xapi to forget a session.
inline constexpr seconds logout_timeout{2};
/// How often one call gets a new session, or a read is repeated because the value changed hands meanwhile.
inline constexpr unsigned session_renewals = 2;
inline constexpr unsigned race_repeats = 3;
/// VMs whose references are kept, four times what a host can run.
inline constexpr std::size_t reference_cache = 4096;

/// The embedded upstream takes what device sockets take: three full slots and two separators; a full variable
/// store.
inline constexpr std::size_t embedded_vtpm = 3 * max_body_vtpm + 2;
inline constexpr std::size_t embedded_nvram = max_body_xmlrpc;
/// How long one statement waits for locks that another process holds; a backup holds one for milliseconds.
inline constexpr seconds embedded_busy{1};
/// Calls that are served together: bounds a transaction, and how long its first update waits for the last.
inline constexpr std::size_t embedded_batch = 256;
/// Pages of 4 KiB in the write-ahead log that are copied into the database as soon as nobody waits.
inline constexpr int embedded_log_pages = 1000;

// --- Core -------------------------------------------------------------------------------------------------
/// Option queue-capacity: entries whose values stay in memory while pending, and their bytes.
inline constexpr std::size_t queue_entries = 512;
inline constexpr std::size_t queue_bytes = 32 * MiB;
/// Notes of updates under way that survive this process, 128 bytes each: twice as many as there can be device
/// sockets. When there are more, a crash leaves every lane in doubt.
inline constexpr std::size_t call_notes = 8192;
/// Known contents cached for one-call direct writes and reads during an outage, all lanes together.
inline constexpr std::size_t known_bytes = 64 * MiB;
/// Values handed to the journal and not yet durable, all lanes together; beyond it lanes wait.
inline constexpr std::size_t commit_bytes = 16 * MiB;
/// Digests of known upstream values that travel with an entry: the base and up to 15 later ones.
inline constexpr std::size_t known_digests = 16;
/// Digests of the values of one slot that stood upstream, kept in memory: as many as a busy vTPM writes in
/// the five minutes that a crash of xapi may cost; and of all slots together, 32 MiB.
inline constexpr std::size_t history_slot = 64 * KiB;
inline constexpr std::size_t history_digests = 2 * MiB;
/// Option retain: how long a delivered value is kept (P13). xapi writes its database out at least every five
/// minutes.
inline constexpr minutes retain{15};
/// Ends of retentions are gathered, so that one small call serves many lanes.
inline constexpr seconds retain_step{30};
/// Values retained in memory, all lanes together; beyond it they are retained in the journal.
inline constexpr std::size_t retained_bytes = 64 * MiB;
/// How soon a value that could not be written to the journal for retention is tried again.
inline constexpr seconds save_retry{5};
/// A journal that has not gone well within this time is tried by one such value before the others follow; if
/// it fails, once in this time.
inline constexpr seconds save_probe{30};
/// So long the journal must have gone well before its trouble counts as over.
inline constexpr seconds trouble_quiet{5};
/// Entries older than this are delivered only after asking where the VM runs.
inline constexpr seconds residence_age{60};
/// How long the first read after a socket's birth waits for older entries to be compared with an upstream
/// that answers.
inline constexpr seconds verify_patience{2};
/// vtpm_get_contents and vtpm_set_contents: their caller gives up after 20 s.
inline constexpr seconds contents_patience{15};
/// Contents calls of one vTPM that wait.
inline constexpr std::size_t contents_calls = 16;
/// How soon a removal that the journal refused is tried again.
inline constexpr seconds removal_retry{2};

// --- Journal ----------------------------------------------------------------------------------------------
/// Option journal-size, of each of the two files.
inline constexpr std::uint64_t journal_size = 32 * MiB;
/// Option journal-max.
inline constexpr std::uint64_t journal_max = 1024 * MiB;
inline constexpr std::uint64_t journal_block = 4096;
/// Payload of one record: the three slots of a vTPM in one, each at most max_body_vtpm, fit.
inline constexpr std::size_t journal_payload = 1 * MiB;
inline constexpr seconds journal_stall{5};
/// Bytes of one batch: bounds how long those at its front wait for those at its end.
inline constexpr std::size_t journal_batch = 8 * MiB;
/// Live entries are copied to the other file in pieces of this size; bounds memory.
inline constexpr std::size_t journal_copy = 4 * MiB;
/// Zeroes are written, and synced, in pieces of this size; bounds how long a request waits for one.
inline constexpr std::size_t journal_zero = 1 * MiB;
/// Without requests for this long, the journal seals its last batch and zeroes the old file.
inline constexpr milliseconds journal_quiet{100};
/// How often a failed journal tries to become usable again.
inline constexpr seconds journal_retry{2};
/// A live record that the disk refuses to read is given up when this many switches have failed because of it
/// while the rest of the file could be read; a minute with journal_retry between them. A device that comes
/// back later than that has cost one record; one that comes back earlier, nothing.
inline constexpr unsigned journal_read_attempts = 30;
/// A switch that meets more unreadable records than this looks no further: each may take the device seconds.
inline constexpr std::size_t journal_unreadable_records = 16;
/// More unreadable blocks than this are a device that is in trouble, not damage to a file.
inline constexpr std::uint64_t journal_unreadable_blocks = 256;
inline constexpr std::uint64_t quarantine_bytes = 64 * MiB;
/// Names that `quarantine list` gives, about 1 MB of text. The rest is counted.
inline constexpr std::size_t quarantine_listed = 10'000;
/// Records that `journal inspect --records` lists: some 150 MB of memory. The rest is counted.
inline constexpr std::size_t inspect_records = 1'000'000;
/// How often what looks damaged in a journal that is being written is looked at.
inline constexpr unsigned inspect_attempts = 3;

// --- The original's cache tree ----------------------------------------------------------------------------
/// Of export-manifest.json: 50,000 files, many times what a host with 1,000 VMs may have pending.
inline constexpr std::size_t manifest_bytes = 8 * MiB;
/// Values of the tree that are in memory at once.
inline constexpr std::size_t import_batch = 4 * MiB;
/// Directories within each other below the tree; it has three. What lies deeper is left where it is.
inline constexpr unsigned cache_tree_depth = 16;
/// Files of an imported tree that are removed in one go, while others wait for the worker thread.
inline constexpr std::size_t cache_tree_removed = 50;
/// Names tried for a file that is set aside.
inline constexpr unsigned set_aside_names = 1000;

// --- The library (guard/buffer.h) -------------------------------------------------------------------------
/// Owners whose lanes are kept open, and with them what is known of the upstream (bounded by known_bytes):
/// reads of the last ones used are answered while the upstream is down.
inline constexpr std::size_t buffer_lanes = 1024;

// --- Resume file ------------------------------------------------------------------------------------------
/// What is searched for one entry of a damaged resume file: its path is at most 4096 bytes, rarely above 108.
inline constexpr std::size_t resume_entry = 8 * KiB;
/// How many bytes of candidates are looked at before the rest of such a file is given up: tens of thousands
/// of whole entries, thousands of broken ones, a fraction of a second for a hostile file.
inline constexpr std::size_t resume_salvage_work = 64 * MiB;

// --- Control plane ----------------------------------------------------------------------------------------
/// Two sockets for each of the 1,000 VMs a host may run, and as many again for those coming and going.
inline constexpr std::size_t device_sockets = 4096;
/// Creates and destroys not yet answered. xenopsd works on a few VMs at a time and waits for each answer.
inline constexpr std::size_t registry_operations = 1024;
/// An entry of the resume file has about 200 bytes.
inline constexpr std::size_t resume_file_bytes = 4 * MiB;
/// Damaged resume files kept for inspection.
inline constexpr unsigned broken_resume_files = 9;
/// Lines in the log for many troubles of one kind at one moment; the rest is counted.
inline constexpr std::size_t log_lines_per_event = 20;
/// The largest command is vtpm_set_contents: what xapi takes, escaped for JSON.
inline constexpr std::size_t max_body_control = 512 * KiB;
/// Operators and monitoring; each `status --watch` holds one.
inline constexpr unsigned control_connections = 16;
/// Metrics over TCP: a few scrapers. Those that are idle make room for others, as any user of the host may
/// connect.
inline constexpr unsigned metrics_connections = 8;
inline constexpr int metrics_backlog = 16;
inline constexpr minutes metrics_idle{2};
/// What a request's own words may take up in an answer or in the log, bytes.
inline constexpr std::size_t echoed_text = 200;
/// `drain` without a time limit of its own, and the longest it may ask for.
inline constexpr seconds drain_default{60};
inline constexpr minutes drain_max{60};

// --- systemd ----------------------------------------------------------------------------------------------
/// How long a message waits for room in systemd's queue; it usually takes less than a millisecond.
inline constexpr seconds notify_patience{1};
/// Descriptors that are looked at when systemd passes some: more than its store may hold (the unit's
/// FileDescriptorStoreMax).
inline constexpr std::size_t inherited_descriptors = 8192;
/// How often STATUS= is sent at most.
inline constexpr seconds status_interval{1};
/// A journal that takes longer to be read keeps nobody from being told that the sockets listen: reading it
/// may take as long as a hung disk hangs, while systemd gives a service 90 s to start.
inline constexpr seconds ready_patience{10};

// --- Log --------------------------------------------------------------------------------------------------
/// What one value may take up in a line, before it is escaped: the longest path of a socket, four times.
inline constexpr std::size_t log_field = 432;
/// A line: below what a pipe takes at once without waiting (PIPE_BUF, 4096), with room for time and level.
inline constexpr std::size_t log_line = 3 * KiB;
/// Lines of one VM in a second; the rest is counted. No trouble needs more, and a VM must not fill the log of
/// the others, or the disk. Lines at level debug do not count: who wants them wants all.
inline constexpr unsigned log_lines_per_vm = 10;
/// The same for all lines together that are about no VM.
inline constexpr unsigned log_lines_of_host = 200;
/// VMs whose lines are counted at a time; those beyond share the bound of the host.
inline constexpr std::size_t log_vms = 4096;

// --- Message switch ---------------------------------------------------------------------------------------
/// How long the switch holds a poll that finds nothing; its own clients ask for as much.
inline constexpr seconds switch_poll{30};
/// What it may take beyond that, or for anything else: then it hangs, and another connection is tried.
inline constexpr seconds switch_patience{15};
/// While it cannot be reached. Callers wait for 20 s, so that the longest pause leaves time to serve them.
inline constexpr milliseconds switch_retry_min{100};
inline constexpr seconds switch_retry_max{2};
/// The answer to one poll: fifty of the largest requests, tens of thousands of ordinary ones.
inline constexpr std::size_t switch_answer = 16 * MiB;
/// An answer that cannot be read comes again and again; after so many the queue is made anew.
inline constexpr unsigned switch_unreadable = 3;
/// Requests being executed or answered; beyond it there is no poll, and the rest waits in the switch.
inline constexpr std::size_t switch_requests = 256;
/// Requests that are remembered after their answer, should the switch list them again; and the length up to
/// which answers are remembered: those that are longer are of reads, which may be executed twice.
inline constexpr std::size_t switch_remembered = 1024;
inline constexpr std::size_t switch_remembered_answer = 4 * KiB;
/// How often an answer is tried to be brought to a switch that refuses it.
inline constexpr unsigned switch_attempts = 3;
/// When a caller of the privileged interface gives up (xenopsd, and the command line tool).
inline constexpr seconds caller_patience{20};
/// A vtpm_set_contents that may be older than this when it is read is refused: with what it may still take,
/// its caller could have gone on, and newer states could stand.
inline constexpr seconds contents_age{2};
/// How long the upstream is asked whose vTPM it is; and for how many vTPMs at a time.
inline constexpr seconds contents_lookup{3};
inline constexpr std::size_t contents_lookups = 1024;
/// What the switch queued so soon after its start may come from its disk, with a new date.
inline constexpr seconds switch_settled{5};

static_assert(max_body_vtpm > xapi_request, "what is a little too large must be told apart from nonsense");
static_assert(xapi_envelope < xapi_request);
static_assert(3 * max_body_vtpm <= journal_payload, "a contents record must fit");
static_assert(varstored_response < max_body_xmlrpc && varstored_response < xapi_request);
static_assert(direct_timeout < varstored_grace && varstored_grace < varstored_patience);
static_assert(varstored_patience < varstored_patience_renewed);
static_assert(direct_timeout < read_patience);
static_assert(embedded_busy < probe_timeout, "a probe tells that a lock is held");
static_assert(max_body_control > xapi_request);
static_assert(contents_age + contents_lookup + contents_patience <= caller_patience,
              "never after the caller has given up");
static_assert(switch_answer > max_body_control);
static_assert(switch_remembered > 2 * switch_requests, "what is not answered yet is never forgotten");
static_assert(switch_retry_max <= contents_age);
static_assert(device_sockets * 512 <= resume_file_bytes);
static_assert(inherited_descriptors > device_sockets);
static_assert(call_notes >= 2 * device_sockets);
static_assert(commit_bytes >= journal_payload);
static_assert(journal_size <= journal_max);
static_assert(import_batch + max_body_vtpm <= journal_batch);
static_assert(journal_batch + 2 * journal_payload < journal_size);
static_assert(journal_copy > 2 * journal_payload);

}  // namespace guard::limits
