#include "run/executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>

#include "base/error.h"
#include "base/fnv.h"
#include "base/sha256.h"
#include "gpu/slot.h"
#include "io/file.h"
#include "run/coefficients/host_step.h"
#include "run/tiling.h"

namespace weightsmith {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

constexpr size_t kRing = 4;
constexpr uint64_t kWritePiece = 8ull << 20;
constexpr uint64_t kHashPiece = 1ull << 20;
constexpr auto kProgressInterval = std::chrono::milliseconds(100);

// Busy time of a stage, added up over threads.
class Timer {
 public:
  void add(double milliseconds) { nanos_ += static_cast<int64_t>(milliseconds * 1e6); }
  double value() const { return static_cast<double>(nanos_.load()) / 1e6; }

 private:
  std::atomic<int64_t> nanos_{0};
};

// An input or output: a file, or memory of the caller.
class Store {
 public:
  Store(const Place& place, bool output) : memory_(place.memory), size_(place.size) {
    if (memory_) return;
    file_ = std::make_unique<File>(output ? File::create(place.path, place.size) : File::openRead(place.path));
  }
  void read(uint64_t offset, void* data, uint64_t size) const {
    if (memory_) {
      check(offset, size);
      std::memcpy(data, memory_ + offset, size);
    } else {
      file_->readAt(offset, data, size);
    }
  }
  void write(uint64_t offset, const void* data, uint64_t size) {
    if (memory_) {
      check(offset, size);
      std::memcpy(memory_ + offset, data, size);
    } else {
      file_->writeAt(offset, data, size);
      file_->startWriteback(offset, size);
    }
  }
  File* file() { return file_.get(); }

 private:
  void check(uint64_t offset, uint64_t size) const {
    if (offset > size_ || size > size_ - offset) {
      throw Error(Code::ARGUMENT, "A range of " + std::to_string(size) + " bytes at " + std::to_string(offset) +
                                      " is outside a memory of " + std::to_string(size_) + " bytes.");
    }
  }
  std::unique_ptr<File> file_;
  uint8_t* memory_;
  uint64_t size_;
};

// What a group of tiles has reached; host steps are one a job.
struct GroupState {
  size_t kernel = 0;
  size_t tilesDone = 0;
  std::map<uint32_t, std::unique_ptr<HostStep>> hosts;
  std::map<uint32_t, std::vector<uint32_t>> words;
  std::map<uint32_t, std::vector<uint32_t>> nextWords;  // for the next kernel, once all jobs are settled
  std::map<uint32_t, bool> settled;                     // a job that needs no repetition of this kernel
};

struct Visit {
  size_t group = 0;
  size_t tile = 0;
};

struct RingSlot {
  std::unique_ptr<Slot> slot;
  Completion reads, writes;
};

class Execution {
 public:
  Execution(const RunContext& context, const Plan& plan, const std::atomic<bool>& abort,
            const std::function<void(const Progress&)>& onProgress)
      : context_(context), plan_(plan), abort_(abort), onProgress_(onProgress) {}

  Report run() {
    const auto start = Clock::now();
    // A staging slot exists twice: on the device and on the host.
    share_ = plan_.memory / kRing / (context_.device.mapped() ? 1 : 2);
    tiling_ = tile(plan_, {context_.device.maxBinding(), share_});
    for (const Place& place : plan_.inputs) inputs_.push_back(std::make_unique<Store>(place, false));
    for (const Place& place : plan_.outputs) {
      outputs_.push_back(std::make_unique<Store>(place, true));
      if (!place.header.empty()) outputs_.back()->write(0, place.header.data(), place.header.size());
    }
    states_.resize(tiling_.groups.size());
    report_.results.resize(plan_.jobs.size());
    uint64_t tiles = 0;
    for (size_t g = 0; g < tiling_.groups.size(); g++) {
      const Group& group = tiling_.groups[g];
      const size_t rounds =
          group.tiles.size() > 1 && group.program >= 0 ? plan_.programs[group.program].kernels.size() : 1;
      for (size_t round = 0; round < rounds; round++) {
        for (size_t t = 0; t < group.tiles.size(); t++) pending_.push_back({g, t});
      }
      tiles += group.tiles.size();
    }
    report_.tiles = tiles;
    countTotals();
    const size_t ring = std::min<size_t>(kRing, std::max<size_t>(1, pending_.size()));
    for (size_t i = 0; i < ring; i++) ring_.push_back(std::make_unique<RingSlot>());
    try {
      loop();
      for (auto& item : ring_) item->writes.wait();
    } catch (...) {
      settle();
      throw;
    }
    for (auto& item : ring_) {
      if (item->slot) context_.slots.push_back(std::move(item->slot));
    }
    finish();
    report_.total = since(start);
    report_.read = read_.value();
    report_.write = write_.value();
    report_.bytesRead = bytesRead_;
    report_.bytesWritten = bytesWritten_;
    progress(true);
    return std::move(report_);
  }

 private:
  void countTotals() {
    for (const Visit& visit : pending_) totalRead_ += visitBytes(visit);
    for (const Job& job : plan_.jobs) {
      if (job.output) totalWrite_ += bytesOf(job.output->dtype, job.elements);
    }
  }

  uint64_t visitBytes(const Visit& visit) const {
    const Group& group = tiling_.groups[visit.group];
    uint64_t bytes = 0;
    for (const Segment& segment : group.tiles[visit.tile].segments) {
      for (const Source& source : plan_.jobs[segment.job].inputs) {
        bytes += group.program < 0 ? segment.elements : bytesOf(source.dtype, segment.elements);
      }
    }
    return bytes;
  }

  // Tasks on the pools refer to slots and stores: none may be left behind when an error ends the run.
  void settle() {
    stop_ = true;
    for (auto& item : ring_) {
      for (Completion* completion : {&item->reads, &item->writes}) {
        try {
          completion->wait();
        } catch (const Error&) {
          // The first error is on its way to the caller already.
        }
      }
    }
  }

  void loop() {
    std::deque<std::pair<Visit, size_t>> issued;  // visits whose reads are under way, with their ring position
    size_t next = 0;
    while (!pending_.empty() || !issued.empty()) {
      // One slot is left out: its writes are still on their way while the next tile computes.
      while (!pending_.empty() && issued.size() < std::max<size_t>(1, ring_.size() - 1)) {
        const Visit visit = pending_.front();
        pending_.pop_front();
        issueReads(visit, *ring_[next]);
        issued.emplace_back(visit, next);
        next = (next + 1) % ring_.size();
      }
      if (abort_) throw Error(Code::ABORTED, "The run was aborted.");
      const auto [visit, position] = issued.front();
      issued.pop_front();
      RingSlot& item = *ring_[position];
      const auto waited = Clock::now();
      item.reads.wait();
      report_.wait += since(waited);
      process(visit, item);
      progress(false);
    }
  }

  void issueReads(const Visit& visit, RingSlot& item) {
    const auto waited = Clock::now();
    item.writes.wait();
    report_.wait += since(waited);
    if (!item.slot) item.slot = takeSlot();
    item.slot->release();
    const Group& group = tiling_.groups[visit.group];
    const Tile& tile = group.tiles[visit.tile];
    uint8_t* memory = item.slot->input();
    // One task reads about a quarter of the tile: enough to share the work, few enough to cost nothing.
    const uint64_t piece = std::max<uint64_t>(1 << 20, tile.inputBytes / 4);
    size_t first = 0;
    uint64_t bytes = 0;
    const size_t reads = tile.segments.size() * (group.program < 0 ? 1 : group.inputs);
    const size_t inputs = group.program < 0 ? 1 : group.inputs;
    for (size_t i = 0; i < reads; i++) {
      const Segment& segment = tile.segments[i / inputs];
      bytes += group.program < 0 ? segment.elements
                                 : bytesOf(plan_.jobs[segment.job].inputs[i % inputs].dtype, segment.elements);
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

  std::unique_ptr<Slot> takeSlot() {
    while (!context_.slots.empty()) {
      auto slot = std::move(context_.slots.back());
      context_.slots.pop_back();
      const SlotSize &has = slot->size(), &needs = tiling_.slot;
      const bool fits = has.input >= needs.input && has.result >= needs.result && has.table >= needs.table &&
                        has.counts >= needs.counts && has.total() <= std::max(share_, needs.total());
      if (fits) return slot;
    }
    return std::make_unique<Slot>(context_.device, tiling_.slot);
  }

  void readSegment(const Group& group, const Segment& segment, size_t input, uint8_t* memory) const {
    const Job& job = plan_.jobs[segment.job];
    const Source& source = job.inputs[input];
    const bool copy = group.program < 0;
    const uint64_t start = copy ? segment.firstBlock * kBlock : bytesOf(source.dtype, segment.firstBlock * kBlock);
    const uint64_t size = copy ? segment.elements : bytesOf(source.dtype, segment.elements);
    inputs_[source.place]->read(source.offset + start, memory + segment.inputOffsets[input], size);
  }

  void process(const Visit& visit, RingSlot& item) {
    const Group& group = tiling_.groups[visit.group];
    const Tile& tile = group.tiles[visit.tile];
    tensor_ = plan_.jobs[tile.segments.front().job].name;
    if (group.program < 0) {
      write(group, tile, item, item.slot->input(), true);
      return;
    }
    const Program& program = plan_.programs[group.program];
    GroupState& state = states_[visit.group];
    if (state.kernel == 0 && state.tilesDone == 0 && state.words.empty()) begin(group, program, state);
    bool fresh = true;
    while (true) {
      const KernelStep& step = program.kernels[state.kernel];
      dispatch(group, tile, program, step, state, item, fresh);
      fresh = false;
      if (!step.words)
        write(group, tile, item, item.slot->result(), false);
      else
        consume(tile, state, item, step);
      if (++state.tilesDone < group.tiles.size()) return;
      state.tilesDone = 0;
      const bool again = advance(group, program, state);
      if (group.tiles.size() > 1) {
        if (again) repeat(visit.group);
        return;
      }
      if (state.kernel == program.kernels.size()) return;
      // The tile stays in its slot for the next kernel.
    }
  }

  void begin(const Group& group, const Program& program, GroupState& state) {
    for (const Tile& tile : group.tiles) {
      for (const Segment& segment : tile.segments) {
        if (state.words.count(segment.job)) continue;
        const Job& job = plan_.jobs[segment.job];
        if (program.host.empty()) {
          state.words[segment.job] = floatWords(job.coefficients);
          continue;
        }
        const auto make = findHostStep(program.host);
        if (!make) throw Error(Code::INTERNAL, "There is no host step named '" + program.host + "'.");
        auto& host = state.hosts[segment.job];
        host = make({job.coefficients, job.inputs.size(), job.elements});
        state.words[segment.job] = host->begin();
      }
    }
  }

  void dispatch(const Group& group, const Tile& tile, const Program& program, const KernelStep& step,
                const GroupState& state, RingSlot& item, bool fresh) {
    (void)program;
    Dispatch dispatch;
    dispatch.kernel = step.kernel;
    dispatch.constants = step.constants;
    dispatch.constants["INPUTS"] = group.inputs;
    dispatch.constants["IN_DTYPE"] = group.inputCode;
    dispatch.constants["OUT_DTYPE"] = group.outputCode;
    dispatch.blocks = tile.blocks;
    dispatch.reduce = step.words != 0;
    if (step.words) {
      dispatch.resultBytes = uint64_t{tile.blocks} * step.words * 4;
    } else {
      const Segment& last = tile.segments.back();
      dispatch.resultBytes = last.outputOffset + bytesOf(plan_.jobs[last.job].output->dtype, last.elements);
    }
    const auto table = parameterTable(group, tile, state);
    const auto start = Clock::now();
    item.slot->run(context_.pipelines, dispatch, table, fresh);
    report_.compute += since(start);
    if (!step.words) collectNonFinite(tile, item);
  }

  // The layout is described in native/kernels/include/tile.wgsl and ARCHITECTURE.md.
  std::vector<uint32_t> parameterTable(const Group& group, const Tile& tile, const GroupState& state) const {
    size_t coefficients = 0;
    for (const Segment& segment : tile.segments) {
      coefficients = std::max(coefficients, state.words.at(segment.job).size());
    }
    const uint32_t record = recordWords(group.inputs, coefficients);
    const uint32_t map = 8, records = map + tile.blocks;
    std::vector<uint32_t> table(records + tile.segments.size() * record);
    table[1] = tile.blocks;
    table[2] = map;
    table[3] = records;
    table[4] = record;
    table[5] = static_cast<uint32_t>(plan_.seed);
    table[6] = static_cast<uint32_t>(plan_.seed >> 32);
    if (table.size() * 4 > tiling_.slot.table) {
      throw Error(Code::INTERNAL, "A parameter table of " + std::to_string(table.size() * 4) +
                                      " bytes exceeds its slot of " + std::to_string(tiling_.slot.table) + " bytes.");
    }
    uint32_t block = 0;
    for (uint32_t s = 0; s < tile.segments.size(); s++) {
      const Segment& segment = tile.segments[s];
      const Job& job = plan_.jobs[segment.job];
      uint32_t* row = &table[records + s * record];
      const uint64_t firstElement = segment.firstBlock * kBlock;
      row[0] = static_cast<uint32_t>(segment.elements);
      row[1] = block;
      row[2] = static_cast<uint32_t>(firstElement);
      row[3] = static_cast<uint32_t>(firstElement >> 32);
      row[4] = static_cast<uint32_t>(segment.outputOffset / 16);
      row[5] = s;
      for (uint32_t i = 0; i < group.inputs; i++) {
        row[6 + i] = static_cast<uint32_t>(segment.inputOffsets[i] / 16) | *kernelCode(job.inputs[i].dtype) << 28;
        const uint64_t key = tensorKey(job.name, i);
        row[6 + group.inputs + 2 * i] = static_cast<uint32_t>(key);
        row[6 + group.inputs + 2 * i + 1] = static_cast<uint32_t>(key >> 32);
      }
      const auto& words = state.words.at(segment.job);
      std::copy(words.begin(), words.end(), row + 6 + 3 * group.inputs);
      std::fill_n(&table[map + block], segment.blocks, s);
      block += segment.blocks;
    }
    return table;
  }

  void consume(const Tile& tile, GroupState& state, RingSlot& item, const KernelStep& step) {
    const auto start = Clock::now();
    const auto* words = reinterpret_cast<const uint32_t*>(item.slot->result());
    uint64_t block = 0;
    for (const Segment& segment : tile.segments) {
      const std::span<const uint32_t> partials(words + block * step.words, size_t{segment.blocks} * step.words);
      block += segment.blocks;
      const auto host = state.hosts.find(segment.job);
      if (host != state.hosts.end()) {
        if (!state.settled[segment.job]) host->second->consume(state.kernel, partials, segment.firstBlock);
      } else {
        // Without a host step the partial results themselves are the result (a kernel called on its own).
        auto& result = report_.results[segment.job];
        result.insert(result.end(), partials.begin(), partials.end());
      }
    }
    report_.host += since(start);
  }

  // All tiles have been through the kernel: what comes next? True if some job needs the kernel once more.
  bool advance(const Group& group, const Program& program, GroupState& state) {
    const auto start = Clock::now();
    bool again = false;
    if (!program.host.empty() && program.kernels[state.kernel].words) {
      std::map<uint32_t, bool> visited;
      for (const Tile& tile : group.tiles) {
        for (const Segment& segment : tile.segments) {
          if (visited[segment.job] || state.settled[segment.job]) continue;
          visited[segment.job] = true;
          Outcome outcome = state.hosts.at(segment.job)->finish(state.kernel);
          if (outcome.again)
            again = true;
          else
            state.settled[segment.job] = true;
          state.nextWords[segment.job] = std::move(outcome.words);
          if (!outcome.result.empty()) report_.results[segment.job] = std::move(outcome.result);
          if (outcome.again) state.words[segment.job] = state.nextWords[segment.job];
        }
      }
    }
    if (!again) {
      for (auto& [job, words] : state.nextWords) state.words[job] = std::move(words);
      state.nextWords.clear();
      state.settled.clear();
      state.kernel++;
    }
    report_.host += since(start);
    return again;
  }

  // One more round over the group's tiles, after its last planned visit.
  void repeat(size_t group) {
    auto position = pending_.begin();
    for (auto it = pending_.begin(); it != pending_.end(); ++it) {
      if (it->group == group) position = it + 1;
    }
    std::vector<Visit> visits;
    for (size_t t = 0; t < tiling_.groups[group].tiles.size(); t++) visits.push_back({group, t});
    for (const Visit& visit : visits) totalRead_ += visitBytes(visit);
    pending_.insert(position, visits.begin(), visits.end());
  }

  void collectNonFinite(const Tile& tile, const RingSlot& item) {
    for (uint32_t s = 0; s < tile.segments.size(); s++) {
      const uint32_t count = item.slot->counts()[s];
      if (!count) continue;
      report_.nonFinite += count;
      auto& jobs = report_.nonFiniteJobs;
      const uint32_t job = tile.segments[s].job;
      if (!jobs.empty() && jobs.back().first == job)
        jobs.back().second += count;
      else
        jobs.emplace_back(job, count);
    }
  }

  void write(const Group& group, const Tile& tile, RingSlot& item, const uint8_t* data, bool copy) {
    (void)group;
    struct Piece {
      const Segment* segment;
      uint64_t start, size;
    };
    std::vector<Piece> batch;
    uint64_t bytes = 0;
    const auto flush = [&] {
      if (batch.empty()) return;
      context_.writers.submit(item.writes, [this, batch = std::move(batch), data, copy, bytes] {
        if (stop_) return;
        const auto start = Clock::now();
        for (const Piece& piece : batch) {
          const Job& job = plan_.jobs[piece.segment->job];
          const uint64_t first = piece.segment->firstBlock * kBlock;
          const uint64_t at = copy ? first : bytesOf(job.output->dtype, first);
          const uint64_t from = copy ? piece.segment->inputOffsets[0] : piece.segment->outputOffset;
          outputs_[job.output->place]->write(job.output->offset + at + piece.start, data + from + piece.start,
                                             piece.size);
        }
        bytesWritten_ += bytes;
        write_.add(since(start));
      });
      batch = {};
      bytes = 0;
    };
    for (const Segment& segment : tile.segments) {
      const Job& job = plan_.jobs[segment.job];
      if (!job.output) continue;
      const uint64_t size = copy ? segment.elements : bytesOf(job.output->dtype, segment.elements);
      for (uint64_t start = 0; start < size; start += kWritePiece) {
        const uint64_t part = std::min(kWritePiece, size - start);
        batch.push_back({&segment, start, part});
        bytes += part;
        if (bytes >= kWritePiece) flush();
      }
    }
    flush();
  }

  void finish() {
    const auto start = Clock::now();
    if (plan_.sync) {
      for (auto& output : outputs_) {
        if (output->file()) output->file()->sync();
      }
    }
    report_.sync = since(start);
    if (plan_.checksum) hashOutputs();
  }

  void hashOutputs() {
    for (size_t i = 0; i < outputs_.size(); i++) {
      Sha256 hash;
      std::vector<uint8_t> buffer(kHashPiece);
      const uint64_t size = plan_.outputs[i].size;
      for (uint64_t at = 0; at < size; at += kHashPiece) {
        const uint64_t part = std::min(kHashPiece, size - at);
        outputs_[i]->read(at, buffer.data(), part);
        hash.update(buffer.data(), part);
      }
      report_.checksums.push_back(hash.hex());
    }
  }

  void progress(bool last) {
    if (!onProgress_) return;
    const auto now = Clock::now();
    if (!last && now - lastProgress_ < kProgressInterval) return;
    lastProgress_ = now;
    onProgress_({bytesRead_, bytesWritten_, totalRead_, totalWrite_, tensor_});
  }

  const RunContext& context_;
  const Plan& plan_;
  const std::atomic<bool>& abort_;
  const std::function<void(const Progress&)>& onProgress_;
  Tiling tiling_;
  std::vector<std::unique_ptr<Store>> inputs_, outputs_;
  std::vector<GroupState> states_;
  std::deque<Visit> pending_;
  std::vector<std::unique_ptr<RingSlot>> ring_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> bytesRead_{0}, bytesWritten_{0};
  uint64_t share_ = 0;  // bytes one slot may take
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
