#include "stream/store.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace weightsmith {

namespace {

constexpr uint64_t kWriteback = 1ull << 20;  // smaller pieces are not worth a system call of their own
constexpr uint64_t kHashPiece = 1ull << 20;

void checkRange(uint64_t offset, uint64_t size, uint64_t whole) {
  if (offset <= whole && size <= whole - offset) return;
  throw Error(Code::ARGUMENT, "A range of " + std::to_string(size) + " bytes at " + std::to_string(offset) +
                                  " is outside a memory of " + std::to_string(whole) + " bytes.");
}

}  // namespace

Input::Input(const Place& place) : memory_(place.memory), size_(place.size) {
  if (!memory_) file_ = std::make_unique<File>(File::openRead(place.path));
}

void Input::read(uint64_t offset, void* data, uint64_t size) const {
  if (file_) return file_->readAt(offset, data, size);
  checkRange(offset, size, size_);
  std::memcpy(data, memory_ + offset, size);
}

Output::Output(const Place& place, ThreadPool* hashers, bool keep, bool sync)
    : memory_(place.memory), size_(place.size), hashers_(hashers) {
  if (!memory_) file_ = std::make_unique<File>(File::create(place.path, place.size, keep));
  if (file_ && sync && DirectFile::within(0, place.size).end > 0) direct_ = DirectFile::open(place.path, place.size);
  if (!place.header.empty()) write(0, place.header.data(), place.header.size());
}

void Output::store(uint64_t offset, const uint8_t* data, uint64_t size) {
  if (!file_) {
    checkRange(offset, size, size_);
    std::memcpy(memory_ + offset, data, size);
    return;
  }
  DirectFile::Range pages;
  if (direct_) pages = DirectFile::within(offset, size);
  if (pages.end > 0) {
    // Pages that are not whole are shared with other tensors, and a disk cannot write parts of them.
    file_->writeAt(offset, data, pages.begin - offset);
    pages.end = pages.begin + direct_->writeAt(pages.begin, data + (pages.begin - offset), pages.end - pages.begin);
    data += pages.end - offset;
    size -= pages.end - offset;
    offset = pages.end;
  }
  file_->writeAt(offset, data, size);
  if (size >= kWriteback) file_->startWriteback(offset, size);
}

void Output::write(uint64_t offset, const uint8_t* data, uint64_t size) {
  if (!hashers_ || size == 0) return store(offset, data, size);
  {
    const std::lock_guard lock(mutex_);
    inside_[offset] = offset + size;
  }
  try {
    store(offset, data, size);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    inside_.erase(offset);
    turn_.notify_all();
    throw;
  }
  written(offset, data, size);
}

void Output::known(uint64_t offset, uint64_t size) {
  if (hashers_) written(offset, nullptr, size);
}

// Whether writes that are under way lead from what is hashed to `offset`: each has begun, so none waits for a thread.
bool Output::reaches(uint64_t offset) const {
  uint64_t at = hashed_;
  for (auto next = inside_.find(at); at < offset && next != inside_.end(); next = inside_.find(at)) at = next->second;
  return at == offset;
}

void Output::written(uint64_t offset, const uint8_t* data, uint64_t size) {
  std::unique_lock lock(mutex_);
  if (offset == prefix_) {
    prefix_ += size;
    while (!early_.empty() && early_.begin()->first == prefix_) {
      prefix_ = early_.begin()->second;
      early_.erase(early_.begin());
    }
  } else {
    early_[offset] = offset + size;
  }
  if (data) {
    turn_.wait(lock, [&] { return hashed_ >= offset || !reaches(offset); });
    if (hashed_ == offset && !hashing_) {
      hashing_ = true;
      lock.unlock();
      hash_.update(data, size);
      lock.lock();
      hashed_ += size;
      hashing_ = false;
    }
    inside_.erase(offset);
    turn_.notify_all();
  }
  if (hashed_ < prefix_ && !hashing_ && !reaches(prefix_)) {
    hashing_ = true;
    hashers_->submit(hashes_, [this] { hashOn(); });
  }
}

void Output::hashOn() {
  std::vector<uint8_t> piece(kHashPiece);
  while (!abandoned_) {
    uint64_t size = 0;
    {
      std::lock_guard lock(mutex_);
      size = std::min(kHashPiece, prefix_ - hashed_);
      if (size == 0) {
        hashing_ = false;
        return;
      }
    }
    // Only the thread that has the hash moves `hashed_`.
    if (file_)
      file_->readAt(hashed_, piece.data(), size);
    else
      std::memcpy(piece.data(), memory_ + hashed_, size);
    hash_.update(piece.data(), size);
    std::lock_guard lock(mutex_);
    hashed_ += size;
  }
}

void Output::sync() {
  if (file_) file_->sync();
}

void Output::syncData() {
  if (file_) file_->syncData();
}

std::string Output::checksum() {
  if (!hashers_) return "";
  hashes_.wait();
  if (hashed_ != size_) {
    throw Error(Code::INTERNAL, "An output of " + std::to_string(size_) + " bytes was hashed up to byte " +
                                    std::to_string(hashed_) + "; the plan leaves a hole.");
  }
  return hash_.hex();
}

void Output::abandon() noexcept {
  abandoned_ = true;
  try {
    hashes_.wait();
  } catch (const Error&) {
    // The first error is on its way to the caller already.
  }
}

}  // namespace weightsmith
