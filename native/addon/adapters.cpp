#include "addon/adapters.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "addon/environment.h"
#include "base/dtype.h"
#include "io/file.h"
#include "linalg/low_rank.h"
#include "linalg/product.h"

namespace weightsmith {
namespace {

// A tensor in a file: NativeStored of lib/native/border.ts.
struct Stored {
  std::string path;
  uint64_t begin;
  size_t elements;
  DType dtype;
};

double fromHalf(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const double fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

template <typename T, typename F>
void convert(const std::vector<uint8_t>& bytes, std::vector<double>& to, F value) {
  for (size_t i = 0; i < to.size(); i++) {
    T stored;
    std::memcpy(&stored, &bytes[i * sizeof(T)], sizeof(T));
    to[i] = value(stored);
  }
}

std::vector<double> read(const Stored& stored) {
  std::vector<uint8_t> bytes(stored.elements * dtypeBits(stored.dtype) / 8);
  File::openRead(stored.path).readAt(stored.begin, bytes.data(), bytes.size());
  std::vector<double> values(stored.elements);
  const auto plain = [](auto value) { return static_cast<double>(value); };
  switch (stored.dtype) {
    case DType::F64:
      convert<double>(bytes, values, plain);
      break;
    case DType::F32:
      convert<float>(bytes, values, plain);
      break;
    case DType::BF16:
      convert<uint16_t>(bytes, values, [](uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); });
      break;
    case DType::F16:
      convert<uint16_t>(bytes, values, fromHalf);
      break;
    default:
      throw Error(Code::DTYPE, std::string("A tensor of ") + stored.path + " is " + dtypeName(stored.dtype) +
                                   ", which has no place in an adapter.");
  }
  return values;
}

Stored storedFrom(const Napi::Value& value) {
  const auto tensor = value.As<Napi::Object>();
  const auto name = tensor.Get("dtype").ToString().Utf8Value();
  const auto dtype = parseDType(name);
  if (!dtype) throw Error(Code::DTYPE, "There is no type " + name + ".");
  return {tensor.Get("path").ToString().Utf8Value(), static_cast<uint64_t>(tensor.Get("begin").ToNumber().Int64Value()),
          static_cast<size_t>(tensor.Get("elements").ToNumber().Int64Value()), *dtype};
}

size_t sizeAt(const Napi::Object& object, const char* key) {
  return static_cast<size_t>(object.Get(key).ToNumber().Int64Value());
}

template <typename Array, typename T>
Array arrayOf(Napi::Env env, const std::vector<T>& values) {
  auto result = Array::New(env, values.size());
  std::copy(values.begin(), values.end(), result.Data());
  return result;
}

// A weight as it is stored, and an object of its `rows` and `columns`, `transposed` where it is [inputs, outputs],
// `rank`, `scale` and `start`.
Napi::Value startOf(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    const auto options = info[1].As<Napi::Object>();
    return PromiseWorker<LowRankFactors>::start(
        info.Env(),
        [stored = storedFrom(info[0]), rows = sizeAt(options, "rows"), columns = sizeAt(options, "columns"),
         turned = options.Get("transposed").ToBoolean().Value(), rank = sizeAt(options, "rank"),
         scale = options.Get("scale").ToNumber().DoubleValue(),
         olora = options.Get("start").ToString().Utf8Value() == "olora"] {
          auto weight = read(stored);
          if (turned) weight = transposed(weight, rows, columns);
          const size_t outputs = turned ? columns : rows;
          const size_t inputs = turned ? rows : columns;
          return olora ? oloraStart(weight, outputs, inputs, rank) : pissaStart(weight, outputs, inputs, rank, scale);
        },
        [](Napi::Env env, LowRankFactors& factors) -> Napi::Value {
          Napi::Object result = Napi::Object::New(env);
          result.Set("a", arrayOf<Napi::Float32Array>(env, factors.a));
          result.Set("b", arrayOf<Napi::Float32Array>(env, factors.b));
          return result;
        });
  });
}

struct Values {
  std::vector<double> values;
  bool finiteA;
  bool finiteB;
};

bool finite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

// A and B as they are stored, and an object of `outputs`, `rank`, `inputs`, `experts` and `stacked`; see LowRank of
// lib/lora/adapter.ts.
Napi::Value valuesOf(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    const auto sizes = info[2].As<Napi::Object>();
    return PromiseWorker<Values>::start(
        info.Env(),
        [a = storedFrom(info[0]), b = storedFrom(info[1]), outputs = sizeAt(sizes, "outputs"),
         rank = sizeAt(sizes, "rank"), inputs = sizeAt(sizes, "inputs"), experts = sizeAt(sizes, "experts"),
         stacked = sizes.Get("stacked").ToBoolean().Value()] {
          const auto allA = read(a), allB = read(b);
          Values found{{}, finite(allA), finite(allB)};
          std::vector<double> own(outputs * rank);
          for (size_t e = 0; e < experts && found.finiteA && found.finiteB; e++) {
            // In a file of PEFT the expert is the fastest index of B.
            const size_t first = stacked ? e * own.size() : e;
            for (size_t i = 0; i < own.size(); i++) own[i] = allB.at(first + i * (stacked ? 1 : experts));
            const auto ownA = std::span(allA).subspan(e * rank * inputs, rank * inputs);
            const auto values = productValues(own, ownA, outputs, rank, inputs);
            found.values.insert(found.values.end(), values.begin(), values.end());
          }
          return found;
        },
        [](Napi::Env env, Values& found) -> Napi::Value {
          Napi::Object result = Napi::Object::New(env);
          result.Set("values", arrayOf<Napi::Float64Array>(env, found.values));
          result.Set("finiteA", Napi::Boolean::New(env, found.finiteA));
          result.Set("finiteB", Napi::Boolean::New(env, found.finiteB));
          return result;
        });
  });
}

// Two matrices of float64, the rows of the first, its columns and those of the second; see linalg/product.h.
Napi::Value productOf(const Napi::CallbackInfo& info) {
  const auto left = info[0].As<Napi::Float32Array>();
  const auto right = info[1].As<Napi::Float64Array>();
  const auto size = [&](size_t i) { return static_cast<size_t>(info[i].ToNumber().Int64Value()); };
  return PromiseWorker<std::vector<double>>::start(
      info.Env(),
      [a = std::vector<double>(left.Data(), left.Data() + left.ElementLength()),
       b = std::vector<double>(right.Data(), right.Data() + right.ElementLength()), rows = size(2), inner = size(3),
       columns = size(4)] { return product(a, b, rows, inner, columns); },
      [](Napi::Env env, std::vector<double>& result) -> Napi::Value {
        return arrayOf<Napi::Float32Array>(env, result);
      });
}

}  // namespace

void exportAdapters(Napi::Env env, Napi::Object exports) {
  exports.Set("adapterStart", Napi::Function::New(env, startOf));
  exports.Set("lowRankValues", Napi::Function::New(env, valuesOf));
  exports.Set("thinProduct", Napi::Function::New(env, productOf));
}

}  // namespace weightsmith
