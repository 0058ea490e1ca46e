#include "stream/executor.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <optional>
#include <utility>

#include "base/error.h"
#include "host/draw.h"
#include "host/select.h"
#include "stream/completed_jobs.h"
#include "stream/cursor.h"
#include "stream/store.h"
#include "stream/table.h"
#include "stream/tiling.h"

namespace weightsmith {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

constexpr uint64_t kReadPiece = 1ull << 20;
constexpr uint64_t kWritePiece = 8ull << 20;
constexpr auto kProgressInterval = std::chrono::milliseconds(100);

// Busy time of a stage, added up over threads.
class Timer {
 public:
  void add(double milliseconds) { nanos_ += static_cast<int64_t>(milliseconds * 1e6); }
  double value() const { return static_cast<double>(nanos_.load()) / 1e6; }

 private:
  std::atomic<int64_t> nanos_{0};
};

// A tile on its way through its group's current kernels.
struct Visit {
  size_t group = 0;
  size_t tile = 0;
};

// What tasks on the pools refer to outlives them: `reads` and `writes` are waited for before anything goes.
struct RingSlot {
  std::unique_ptr<Slot> slot;
  Completion reads;
  Completion writes;  // of copies, which are written from the slot itself
};

struct RingResult {
  std::unique_ptr<Result> result;
  Completion writes;
};

class Execution {
 public:
  Execution(const RunContext& context, const Plan& plan, const std::atomic<bool>& abort,
            const std::function<void(const Progress&)>& onProgress)
      : context_(context), plan_(plan), abort_(abort), onProgress_(onProgress) {}

  Report run() {
    const auto start = Clock::now();
    for (const Place& place : plan_.inputs) inputs_.push_back(std::make_unique<Input>(place));
    report_.results.resize(plan_.jobs.size());
    try {
      openOutputs();
      tiling_ = tile(plan_, finished_, limitsOf(plan_, context_.device.maxBinding(), context_.device.mapped()));
      schedule();
      for (size_t i = 0; i < std::min(kSlots, pending_.size()); i++) slots_.push_back(std::make_unique<RingSlot>());
      for (size_t i = 0; i < kResults; i++) results_.push_back(std::make_unique<RingResult>());
      loop();
      for (auto& item : slots_) item->writes.wait();
      for (auto& item : results_) item->writes.wait();
      notes_.wait();
      finish();
    } catch (...) {
      settle();
      throw;
    }
    for (auto& item : slots_) {
      if (item->slot) context_.cache.slots.push_back(std::move(item->slot));
    }
    for (auto& item : results_) {
      if (item->result) context_.cache.results.push_back(std::move(item->result));
    }
    report_.total = since(start);
    report_.read = read_.value();
    report_.write = write_.value();
    report_.bytesRead = bytesRead_;
    report_.bytesWritten = bytesWritten_;
    progress(true);
    return std::move(report_);
  }

 private:
  // Outputs are new, or go on from an earlier run; what that has finished is left out of this one.
  void openOutputs() {
    if (plan_.journal) completed_.emplace(plan_);
    const bool keep = completed_ && completed_->resumes();
    for (const Place& place : plan_.outputs) {
      outputs_.push_back(
          std::make_unique<Output>(place, plan_.checksum ? &context_.hashers : nullptr, keep, plan_.sync));
    }
    finished_.resize(plan_.jobs.size());
    if (!keep) return;
    if (!std::all_of(outputs_.begin(), outputs_.end(), [](const auto& output) { return output->kept(); })) {
      completed_->startOver();
      return;
    }
    finished_ = completed_->finished();
    for (size_t i = 0; i < finished_.size(); i++) {
      if (!finished_[i]) continue;
      report_.resumed++;
      for (const Variant& variant : plan_.jobs[i].variants) {
        const auto& output = variant.output;
        if (output) outputs_[output->place]->known(output->offset, bytesOf(output->dtype, plan_.jobs[i].elements));
      }
    }
    for (const Counts& counts : completed_->counts()) report(counts);
  }

  // A tensor that is larger than a tile is read again for each kernel of its program; a tile that holds whole tensors
  // stays in its slot for all of them.
  void schedule() {
    cursors_.resize(tiling_.groups.size());
    for (size_t g = 0; g < tiling_.groups.size(); g++) {
      const Group& group = tiling_.groups[g];
      for (size_t round = 0; round < roundsOf(plan_, group); round++) {
        for (size_t t = 0; t < group.tiles.size(); t++) pending_.push_back({g, t});
      }
      report_.tiles += group.tiles.size();
    }
    outstanding_.resize(tiling_.groups.size());
    for (const Visit& visit : pending_) {
      totalRead_ += visitBytes(visit);
      outstanding_[visit.group]++;
    }
    for (size_t i = 0; i < plan_.jobs.size(); i++) {
      if (finished_[i]) continue;
      for (const Variant& variant : plan_.jobs[i].variants) {
        if (variant.output) totalWrite_ += bytesOf(variant.output->dtype, plan_.jobs[i].elements);
      }
    }
  }

  uint64_t sourceBytes(const Group& group, const Segment& segment, size_t input) const {
    if (group.program < 0) return segment.elements;
    return readBytes(plan_.jobs[segment.job].inputs[input], segment.before + segment.elements + segment.after);
  }

  uint64_t visitBytes(const Visit& visit) const {
    const Group& group = tiling_.groups[visit.group];
    uint64_t bytes = 0;
    for (const Segment& segment : group.tiles[visit.tile].segments) {
      for (size_t i = 0; i < segment.inputOffsets.size(); i++) bytes += sourceBytes(group, segment, i);
    }
    return bytes;
  }

  // Tasks on the pools refer to slots and stores: none may be left behind when an error ends the run.
  void settle() noexcept {
    stop_ = true;
    const auto drain = [](Completion& completion) {
      try {
        completion.wait();
      } catch (const Error&) {
        // The first error is on its way to the caller already.
      }
    };
    for (auto& item : slots_) {
      drain(item->reads);
      drain(item->writes);
    }
    for (auto& item : results_) drain(item->writes);
    drain(notes_);
    for (auto& output : outputs_) output->abandon();
    try {
      // What was finished before the run ended is not computed again by the next one.
      if (completed_) completed_->note(outputs_);
    } catch (const Error&) {
      // Then it is computed again.
    }
  }

  void loop() {
    std::deque<std::pair<Visit, size_t>> issued;  // visits whose reads are under way, with their slot
    size_t next = 0;
    while (!pending_.empty() || !issued.empty()) {
      while (!pending_.empty() && issued.size() < slots_.size()) {
        const Visit visit = pending_.front();
        pending_.pop_front();
        issueReads(visit, *slots_[next]);
        issued.emplace_back(visit, next);
        next = (next + 1) % slots_.size();
      }
      if (abort_) throw Error(Code::ABORTED, "The run was aborted.");
      const auto [visit, position] = issued.front();
      issued.pop_front();
      RingSlot& item = *slots_[position];
      wait(item.reads);
      process(visit, item);
      if (completed_ && completed_->due()) context_.hashers.submit(notes_, [this] { completed_->note(outputs_); });
      progress(false);
    }
  }

  void wait(Completion& completion) {
    const auto start = Clock::now();
    completion.wait();
    report_.wait += since(start);
  }

  void issueReads(const Visit& visit, RingSlot& item) {
    wait(item.writes);
    if (!item.slot) {
      item.slot = take(context_.cache.slots, {tiling_.input, tiling_.table}, plan_.memory / (2 * kSlots));
    }
    item.slot->release();
    const Group& group = tiling_.groups[visit.group];
    const Tile& tile = group.tiles[visit.tile];
    uint8_t* memory = item.slot->input();
    // One task reads about a quarter of the tile: enough to share the work, few enough to cost nothing.
    const uint64_t piece = std::max(kReadPiece, tile.inputBytes / 4);
    const size_t inputs = group.program < 0 ? 1 : group.inputs;
    const size_t reads = tile.segments.size() * inputs;
    size_t first = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < reads; i++) {
      bytes += sourceBytes(group, tile.segments[i / inputs], i % inputs);
      if (bytes < piece && i + 1 < reads) continue;
      context_.readers.submit(item.reads, [this, &group, &tile, memory, inputs, first, last = i + 1, bytes] {
        if (stop_) return;
        const auto start = Clock::now();
        for (size_t r = first; r < last; r++) readSegment(group, tile.segments[r / inputs], r % inputs, memory);
        bytesRead_ += bytes;
        read_.add(since(start));
      });
      first = i + 1;
      bytes = 0;
    }
  }

  void readSegment(const Group& group, const Segment& segment, size_t input, uint8_t* memory) const {
    const Source& source = plan_.jobs[segment.job].inputs[input];
    const uint64_t first = source.whole ? 0 : segment.firstBlock * kBlock - segment.before;
    inputs_[source.place]->read(source.offset + (group.program < 0 ? first : bytesOf(source.dtype, first)),
                                memory + segment.inputOffsets[input] - bytesBefore(source, segment),
                                sourceBytes(group, segment, input));
  }

  // What an earlier run left, or a new one. Where nothing that is left is large enough, one item makes way for one that
  // also holds what it held: plans that come in turn soon share the same. What takes more than this plan needs, and
  // more than `share`, is let go.
  template <typename T>
  std::unique_ptr<T> take(std::vector<std::unique_ptr<T>>& left, Room need, uint64_t share) const {
    const uint64_t most = std::max(need.total(), share) + kPadding;
    std::erase_if(left, [most](const auto& item) { return item->room().total() > most; });
    const auto found =
        std::find_if(left.begin(), left.end(), [&](const auto& item) { return item->room().holds(need); });
    if (found != left.end()) {
      auto item = std::move(*found);
      left.erase(found);
      return item;
    }
    if (!left.empty()) {
      const Room both = need.with(left.back()->room());
      if (both.total() <= most) need = both;
      left.pop_back();
    }
    return std::make_unique<T>(context_.device, need);
  }

  // The next result, once nothing is written from it any more.
  RingResult& freeResult() {
    RingResult& item = *results_[result_];
    wait(item.writes);
    if (!item.result) {
      item.result = take(context_.cache.results, {tiling_.result, tiling_.counts}, plan_.memory / (4 * kResults));
    }
    return item;
  }

  void process(const Visit& visit, RingSlot& item) {
    const Group& group = tiling_.groups[visit.group];
    const Tile& tile = group.tiles[visit.tile];
    const Job& leader = plan_.jobs[tile.segments.front().job];
    tensor_ = leader.name;
    if (group.program < 0) {
      for (uint32_t v = 0; v < leader.variants.size(); v++) write(tile, v, item.slot->input(), true, item.writes);
      return;
    }
    auto& variants = cursors_[visit.group];
    if (variants.empty()) {
      for (uint32_t v = 0; v < leader.variants.size(); v++) {
        variants.push_back(std::make_unique<ProgramCursor>(plan_, group, v));
      }
    }
    bool fresh = true, roundOver = false, allDone = true;
    for (uint32_t v = 0; v < variants.size(); v++) {
      ProgramCursor& cursor = *variants[v];
      while (!cursor.done()) {
        if (dispatch(group, tile, v, cursor, item, fresh)) fresh = false;
        roundOver = cursor.tileDone(report_.results);
        if (group.tiles.size() > 1) break;  // the other tiles come first
      }
      allDone = allDone && cursor.done();
    }
    outstanding_[visit.group]--;
    if (allDone)
      variants.clear();
    else if (roundOver && outstanding_[visit.group] == 0)
      repeat(visit.group);
  }

  // False where the kernel concerns nothing in the tile.
  bool dispatch(const Group& group, const Tile& tile, uint32_t variant, ProgramCursor& cursor, RingSlot& item,
                bool fresh) {
    const KernelStep& step = cursor.step();
    auto table = parameterTable(plan_, group, tile, cursor);
    if (table.size() * 4 > tiling_.table) {
      throw Error(Code::INTERNAL, "A parameter table of " + std::to_string(table.size() * 4) +
                                      " bytes exceeds its slot of " + std::to_string(tiling_.table) + " bytes.");
    }
    Dispatch dispatch;
    dispatch.kernel = step.kernel;
    dispatch.constants = step.constants;
    dispatch.constants["INPUTS"] = group.inputs;
    dispatch.constants["IN_DTYPE"] = tile.inputCode;
    dispatch.constants["OUT_DTYPE"] = tile.outputCode;
    dispatch.blocks = table[1];
    if (dispatch.blocks == 0) return false;
    if (draws(step)) drawFirst(step, group.inputs, *item.slot, table, dispatch);
    dispatch.reduce = step.words != 0;
    if (step.words) {
      dispatch.resultBytes = uint64_t{dispatch.blocks} * step.words * 4;
    } else {
      const Segment& last = tile.segments.back();
      dispatch.resultBytes = last.outputOffset + bytesOf(storedAs(last, variant), last.elements);
    }
    RingResult& result = freeResult();
    auto start = Clock::now();
    if (!select(step, {table, item.slot->input(), group.inputs}, *result.result)) {
      item.slot->run(context_.pipelines, dispatch, table, fresh, *result.result);
    }
    report_.compute += since(start);
    if (step.words) {
      start = Clock::now();
      cursor.consume(tile, reinterpret_cast<const uint32_t*>(result.result->data()), report_.results);
      report_.cpuSteps += since(start);
      return true;
    }
    collectCounts(tile, variant, result.result->counts());
    write(tile, variant, result.result->data(), false, result.writes);
    result_ = (result_ + 1) % results_.size();
    return true;
  }

  // Whether this processor has done the kernel's work.
  bool select(const KernelStep& step, const HostTile& tile, Result& result) const {
    if (!context_.workers || step.kernel != "select" || has(step, "SPREAD")) return false;
    const auto cuts = step.constants.find("CUTS");
    return selectOnHost({tile, cuts == step.constants.end() ? 1 : static_cast<size_t>(cuts->second),
                         has(step, "WEIGHTED"), reinterpret_cast<uint32_t*>(result.memory())},
                        *context_.workers);
  }

  static bool has(const KernelStep& step, const char* constant) {
    const auto found = step.constants.find(constant);
    return found != step.constants.end() && found->second != 0;
  }

  // Whether this processor may draw what the kernel would.
  bool draws(const KernelStep& step) const {
    if (!context_.workers || !has(step, "RANKED")) return false;
    return step.kernel == "dare_norms" || (step.kernel == "dare" && !has(step, "MASKS"));
  }

  void drawFirst(const KernelStep& step, size_t inputs, const Slot& slot, std::vector<uint32_t>& table,
                 Dispatch& dispatch) {
    const auto start = Clock::now();
    const DrawWork work{table, tiling_.table / 4, slot.input(), inputs, has(step, "MASKS")};
    if (drawOnHost(work, *context_.workers)) dispatch.constants["GIVEN"] = 1;
    report_.compute += since(start);
  }

  DType storedAs(const Segment& segment, uint32_t variant) const {
    return plan_.jobs[segment.job].variants[variant].output->dtype;
  }

  // One more round over the group's tiles, where a CPU step asked for more than one a kernel.
  void repeat(size_t group) {
    const size_t tiles = tiling_.groups[group].tiles.size();
    for (size_t t = tiles; t-- > 0;) {
      pending_.push_front({group, t});
      totalRead_ += visitBytes({group, t});
    }
    outstanding_[group] = tiles;
  }

  void collectCounts(const Tile& tile, uint32_t variant, const uint32_t* words) {
    for (const Segment& segment : tile.segments) {
      const Counts counts{segment.job, variant, words[kCountNonFinite], words[kCountChanged], words[kCountSwallowed]};
      words += kCountWords;
      if (!counts.nonFinite && !counts.changed && !counts.swallowed) continue;
      if (completed_) completed_->found(counts);
      report(counts);
    }
  }

  void report(const Counts& counts) {
    report_.nonFinite += counts.nonFinite;
    auto& found = report_.counts;
    if (found.empty() || found.back().job != counts.job || found.back().variant != counts.variant) {
      found.push_back(counts);
      return;
    }
    found.back().nonFinite += counts.nonFinite;
    found.back().changed += counts.changed;
    found.back().swallowed += counts.swallowed;
  }

  // `data`: what a kernel stored, or (`copy`) the sources themselves.
  void write(const Tile& tile, uint32_t variant, const uint8_t* data, bool copy, Completion& writes) {
    struct Piece {
      uint32_t job;
      Output* output;
      uint64_t offset;
      const uint8_t* data;
      uint64_t size;
    };
    std::vector<Piece> batch;
    uint64_t bytes = 0;
    const auto flush = [&] {
      if (batch.empty()) return;
      context_.writers.submit(writes, [this, batch = std::exchange(batch, {}), bytes] {
        if (stop_) return;
        const auto start = Clock::now();
        for (const Piece& piece : batch) {
          piece.output->write(piece.offset, piece.data, piece.size);
          if (completed_) completed_->wrote(piece.job, piece.size);
        }
        bytesWritten_ += bytes;
        write_.add(since(start));
      });
      bytes = 0;
    };
    for (const Segment& segment : tile.segments) {
      const auto& output = plan_.jobs[segment.job].variants[variant].output;
      if (!output) continue;
      const uint64_t first = segment.firstBlock * kBlock;
      const uint64_t at = output->offset + (copy ? first : bytesOf(output->dtype, first));
      const uint64_t size = copy ? segment.elements : bytesOf(output->dtype, segment.elements);
      const uint8_t* from = data + (copy ? segment.inputOffsets[0] : segment.outputOffset);
      for (uint64_t start = 0; start < size; start += kWritePiece) {
        const uint64_t part = std::min(kWritePiece, size - start);
        Output* const target = outputs_[output->place].get();
        Piece* const last = batch.empty() ? nullptr : &batch.back();
        // Small tensors that are neighbours in memory and in the file are one write.
        if (last && last->job == segment.job && last->output == target && last->offset + last->size == at + start &&
            last->data + last->size == from + start) {
          last->size += part;
        } else {
          batch.push_back({segment.job, target, at + start, from + start, part});
        }
        bytes += part;
        if (bytes >= kWritePiece) flush();
      }
    }
    flush();
  }

  // Hashing goes on while the disk takes what is left.
  void finish() {
    const auto start = Clock::now();
    // From here on a run that ends early has nothing to compute again.
    if (completed_) completed_->note(outputs_);
    if (plan_.sync) {
      for (auto& output : outputs_) output->sync();
    }
    report_.sync = since(start);
    for (auto& output : outputs_) {
      if (plan_.checksum) report_.checksums.push_back(output->checksum());
    }
  }

  void progress(bool last) {
    if (!onProgress_) return;
    const auto now = Clock::now();
    if (!last && now - lastProgress_ < kProgressInterval) return;
    lastProgress_ = now;
    onProgress_({bytesRead_, bytesWritten_, totalRead_, totalWrite_, tensor_});
  }

  static constexpr uint64_t kPadding = 4 * 4096;  // buffers are whole pages

  const RunContext& context_;
  const Plan& plan_;
  const std::atomic<bool>& abort_;
  const std::function<void(const Progress&)>& onProgress_;
  std::optional<CompletedJobs> completed_;
  std::vector<bool> finished_;  // by an earlier run
  Tiling tiling_;
  std::vector<std::unique_ptr<Input>> inputs_;
  std::vector<std::unique_ptr<Output>> outputs_;
  std::vector<std::vector<std::unique_ptr<ProgramCursor>>> cursors_;  // of a group that is under way, one a variant
  std::deque<Visit> pending_;
  std::vector<size_t> outstanding_;  // visits a group that are pending or under way
  std::vector<std::unique_ptr<RingSlot>> slots_;
  std::vector<std::unique_ptr<RingResult>> results_;
  size_t result_ = 0;  // position in `results_`
  Completion notes_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> bytesRead_{0}, bytesWritten_{0};
  uint64_t totalRead_ = 0, totalWrite_ = 0;
  std::string tensor_;
  Timer read_, write_;
  Clock::time_point lastProgress_{};
  Report report_;
};

}  // namespace

Report execute(const RunContext& context, const Plan& plan, const std::atomic<bool>& abort,
               const std::function<void(const Progress&)>& onProgress) {
  return Execution(context, plan, abort, onProgress).run();
}

}  // namespace weightsmith
