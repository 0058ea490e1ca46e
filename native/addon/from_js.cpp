#include "addon/from_js.h"

#include <cmath>
#include <map>
#include <string>

#include "base/error.h"

namespace weightsmith {
namespace {

[[noreturn]] void misuse(const std::string& what) {
  throw Error(Code::ARGUMENT, "The native border got " + what + ".");
}

std::string text(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsString()) misuse(std::string("no string for '") + key + "'");
  return value.As<Napi::String>().Utf8Value();
}

std::string optionalText(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string();
}

double number(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsNumber()) misuse(std::string("no number for '") + key + "'");
  return value.As<Napi::Number>().DoubleValue();
}

uint64_t natural(const Napi::Object& object, const char* key) {
  const double value = number(object, key);
  if (!(value >= 0 && value <= 9007199254740992.0 && std::floor(value) == value)) {
    misuse(std::string("no whole number from 0 to 2^53 for '") + key + "'");
  }
  return static_cast<uint64_t>(value);
}

bool flag(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  return value.IsBoolean() && value.As<Napi::Boolean>().Value();
}

Napi::Array list(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsArray()) misuse(std::string("no array for '") + key + "'");
  return value.As<Napi::Array>();
}

Napi::Object item(const Napi::Array& array, uint32_t i) {
  const Napi::Value value = array.Get(i);
  if (!value.IsObject()) misuse("something that is no object in a list");
  return value.As<Napi::Object>();
}

Place placeFrom(const Napi::Object& value, std::vector<Napi::ObjectReference>& pins) {
  Place place;
  const Napi::Value memory = value.Get("memory");
  if (memory.IsTypedArray()) {
    auto array = memory.As<Napi::TypedArray>();
    place.memory = static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
    place.size = array.ByteLength();
    pins.push_back(Napi::Persistent(memory.As<Napi::Object>()));
  } else {
    place.path = text(value, "path");
    place.size = natural(value, "size");
  }
  const Napi::Value header = value.Get("header");
  if (header.IsTypedArray()) {
    auto array = header.As<Napi::TypedArray>();
    const auto* bytes = static_cast<const uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
    place.header.assign(bytes, bytes + array.ByteLength());
  }
  return place;
}

std::map<std::string, double> constantsFrom(const Napi::Object& value) {
  std::map<std::string, double> result;
  if (!value.Get("constants").IsObject()) return result;
  const Napi::Object constants = value.Get("constants").As<Napi::Object>();
  const Napi::Array keys = constants.GetPropertyNames();
  for (uint32_t c = 0; c < keys.Length(); c++) {
    const std::string key = keys.Get(c).As<Napi::String>().Utf8Value();
    result[key] = number(constants, key.c_str());
  }
  return result;
}

uint32_t word(const Napi::Object& object, const char* key) {
  const uint64_t value = natural(object, key);
  if (value >> 32) misuse(std::string("a number of more than 32 bits for '") + key + "'");
  return static_cast<uint32_t>(value);
}

std::vector<uint32_t> words(const Napi::Object& object, const char* key) {
  const Napi::Array array = list(object, key);
  std::vector<uint32_t> result;
  for (uint32_t i = 0; i < array.Length(); i++) result.push_back(array.Get(i).ToNumber().Uint32Value());
  return result;
}

Source sourceFrom(const Napi::Object& value, size_t places) {
  Source source;
  source.place = static_cast<uint32_t>(natural(value, "place"));
  if (source.place >= places) misuse("a place number beyond the list of places");
  source.offset = natural(value, "offset");
  const std::string name = text(value, "dtype");
  const auto dtype = parseDType(name);
  if (!dtype) misuse("the unknown dtype " + quoted(name));
  source.dtype = *dtype;
  if (value.Has("whole")) source.whole = natural(value, "whole");
  return source;
}

Variant variantFrom(const Napi::Object& value, size_t outputs) {
  Variant variant;
  if (value.Get("output").IsObject()) variant.output = sourceFrom(value.Get("output").As<Napi::Object>(), outputs);
  const Napi::Array coefficients = list(value, "coefficients");
  for (uint32_t c = 0; c < coefficients.Length(); c++) {
    variant.coefficients.push_back(coefficients.Get(c).ToNumber().DoubleValue());
  }
  return variant;
}

void checkJob(const Job& job, const Plan& plan) {
  if (job.inputs.empty()) misuse("a job without inputs");
  if (job.inputs[0].whole) misuse("a job whose first input is whole, and has no elements of its own");
  if (job.variants.empty()) misuse("a job without variants");
  const bool copy = job.program < 0;
  if (copy && job.inputs.size() != 1) misuse("a copy of more than one input");
  bool stores = copy;
  if (!copy) {
    for (const auto& step : plan.programs[job.program].kernels) stores = stores || !step.words;
  }
  const auto& first = job.variants[0].output;
  for (const Variant& variant : job.variants) {
    if (stores && !variant.output) misuse("a program that stores elements for a job without output");
    if (variant.output.has_value() != first.has_value() || (first && variant.output->dtype != first->dtype)) {
      misuse("variants of one job that are stored differently");
    }
  }
  if (!copy && first && !storable(first->dtype)) {
    throw Error(Code::DTYPE, "The tensor " + quoted(job.name) + " cannot be stored as " + dtypeName(first->dtype) +
                                 "; F32, F16 and BF16 can.");
  }
}

}  // namespace

OpenOptions openOptions(const Napi::Object& value) {
  OpenOptions options;
  options.dawn = text(value, "dawn");
  options.vulkanLoader = optionalText(value, "vulkanLoader");
  options.icd = optionalText(value, "icd");
  options.device = optionalText(value, "device");
  options.slots = optionalText(value, "slots");
  if (value.Get("maxBufferBytes").IsNumber()) options.maxBufferBytes = natural(value, "maxBufferBytes");
  options.kernels = optionalText(value, "kernels");
  const Napi::Array toggles = list(value, "toggles");
  for (uint32_t i = 0; i < toggles.Length(); i++) options.toggles.push_back(toggles.Get(i).ToString().Utf8Value());
  options.verbose = flag(value, "verbose");
  return options;
}

DeviceFacts deviceFacts(const Napi::Object& value) {
  return {natural(value, "maxBinding"), text(value, "slots") == "mapped"};
}

Plan planFrom(const Napi::Object& value, std::vector<Napi::ObjectReference>& pins) {
  Plan plan;
  const Napi::Array inputs = list(value, "inputs"), outputs = list(value, "outputs");
  for (uint32_t i = 0; i < inputs.Length(); i++) plan.inputs.push_back(placeFrom(item(inputs, i), pins));
  for (uint32_t i = 0; i < outputs.Length(); i++) plan.outputs.push_back(placeFrom(item(outputs, i), pins));
  const Napi::Array programs = list(value, "programs");
  for (uint32_t i = 0; i < programs.Length(); i++) {
    const Napi::Object source = item(programs, i);
    Program program;
    program.cpuStep = optionalText(source, "cpuStep");
    if (source.Get("lines").IsObject()) {
      const Napi::Object lines = source.Get("lines").As<Napi::Object>();
      program.lines = {natural(lines, "size"), flag(lines, "across")};
      if (program.lines.size == 0 || program.lines.size >> 31) misuse("lines of no or of 2^31 elements");
    }
    program.shared = source.Get("shared").ToBoolean();
    program.rows = source.Get("rows").ToBoolean();
    const Napi::Array kernels = list(source, "kernels");
    for (uint32_t k = 0; k < kernels.Length(); k++) {
      const Napi::Object entry = item(kernels, k);
      KernelStep step;
      step.kernel = text(entry, "kernel");
      if (entry.Get("writes").IsNumber()) {
        step.words = static_cast<uint32_t>(natural(entry, "writes"));
        if (step.words == 0) misuse("a kernel that writes 0 words");
      }
      step.constants = constantsFrom(entry);
      program.kernels.push_back(std::move(step));
    }
    if (program.kernels.empty()) misuse("a program without kernels");
    plan.programs.push_back(std::move(program));
  }
  const Napi::Array jobs = list(value, "jobs");
  plan.jobs.reserve(jobs.Length());
  for (uint32_t i = 0; i < jobs.Length(); i++) {
    Napi::HandleScope scope(value.Env());
    const Napi::Object entry = item(jobs, i);
    Job job;
    job.name = text(entry, "name");
    const double program = number(entry, "program");
    if (program >= static_cast<double>(plan.programs.size())) misuse("a program number beyond the list of programs");
    job.program = program < 0 ? -1 : static_cast<int32_t>(program);
    job.elements = natural(entry, "elements");
    if (job.program >= 0 && plan.programs[job.program].rows) {
      job.row = natural(entry, "row");
      if (job.row == 0 && job.elements > 0) misuse("a row of no elements");
    }
    const Napi::Array sources = list(entry, "inputs");
    for (uint32_t s = 0; s < sources.Length(); s++) {
      job.inputs.push_back(sourceFrom(item(sources, s), plan.inputs.size()));
      if (job.program >= 0 && !kernelCode(job.inputs.back().dtype)) {
        throw Error(Code::DTYPE, "The tensor " + quoted(job.name) + " is stored as " +
                                     dtypeName(job.inputs.back().dtype) + ", which no kernel can load.");
      }
    }
    const Napi::Array variants = list(entry, "variants");
    for (uint32_t v = 0; v < variants.Length(); v++) {
      job.variants.push_back(variantFrom(item(variants, v), plan.outputs.size()));
    }
    checkJob(job, plan);
    plan.jobs.push_back(std::move(job));
  }
  plan.memory = natural(value, "memory");
  plan.seed = natural(value, "seed");
  plan.checksum = flag(value, "checksum");
  plan.sync = flag(value, "sync");
  if (value.Get("journal").IsObject()) {
    const Napi::Object source = value.Get("journal").As<Napi::Object>();
    plan.journal = {text(source, "path"), text(source, "run"), flag(source, "resume"), natural(source, "every")};
  }
  return plan;
}

std::vector<uint64_t> sizesFrom(const Napi::Value& value) {
  if (!value.IsArray()) misuse("no list of sizes");
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<uint64_t> sizes;
  for (uint32_t i = 0; i < array.Length(); i++) {
    sizes.push_back(static_cast<uint64_t>(array.Get(i).ToNumber().Int64Value()));
  }
  return sizes;
}

DeviceWork workFrom(const Napi::Object& value) {
  DeviceWork work;
  const Napi::Array writes = list(value, "writes");
  for (uint32_t i = 0; i < writes.Length(); i++) {
    Napi::HandleScope scope(value.Env());
    const Napi::Object entry = item(writes, i);
    BufferWrite write;
    write.buffer = word(entry, "buffer");
    write.offset = natural(entry, "offset");
    const Napi::Value memory = entry.Get("memory");
    if (memory.IsTypedArray()) {
      const auto array = memory.As<Napi::TypedArray>();
      const auto* bytes = static_cast<const uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
      write.memory.assign(bytes, bytes + array.ByteLength());
      write.bytes = write.memory.size();
    } else {
      write.path = text(entry, "path");
      write.begin = natural(entry, "begin");
      write.bytes = natural(entry, "bytes");
    }
    work.writes.push_back(std::move(write));
  }
  const Napi::Array dispatches = list(value, "dispatches");
  for (uint32_t i = 0; i < dispatches.Length(); i++) {
    Napi::HandleScope scope(value.Env());
    const Napi::Object entry = item(dispatches, i);
    KernelDispatch dispatch;
    dispatch.kernel = text(entry, "kernel");
    dispatch.constants = constantsFrom(entry);
    dispatch.parameters = words(entry, "parameters");
    dispatch.buffers = words(entry, "buffers");
    const auto grid = words(entry, "grid");
    if (grid.size() != 3) misuse("a grid that has no three dimensions");
    std::copy(grid.begin(), grid.end(), dispatch.grid.begin());
    work.dispatches.push_back(std::move(dispatch));
  }
  const Napi::Array reads = list(value, "reads");
  for (uint32_t i = 0; i < reads.Length(); i++) {
    const Napi::Object entry = item(reads, i);
    work.reads.push_back({word(entry, "buffer"), natural(entry, "offset"), natural(entry, "bytes")});
  }
  return work;
}

}  // namespace weightsmith
