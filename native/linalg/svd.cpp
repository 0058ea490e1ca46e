#include "linalg/svd.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "linalg/columns.h"
#include "linalg/qr.h"
#include "linalg/share.h"

namespace weightsmith {
namespace {

constexpr size_t kBlock = 16;         // columns that two blocks turn against each other: they stay in the cache
constexpr size_t kAlone = 64 * 1024;  // smaller matrices, in numbers, are not worth a thread
constexpr int kSweeps = 60;           // many times what any matrix has needed

// Turns columns of w until they are orthogonal; w becomes w J. J starts as the identity.
class Jacobi {
 public:
  Jacobi(Columns& w, Columns& j, const Share& share)
      : w_(w),
        j_(j),
        share_(share),
        squares_(w.columns()),
        tolerance_(std::numeric_limits<double>::epsilon() * std::sqrt(static_cast<double>(w.rows()))) {}

  void run() {
    for (int sweep = 0; sweep < kSweeps; sweep++) {
      if (!turnAll()) return;
    }
    throw Error(Code::INTERNAL, "A singular value decomposition has not converged.");
  }

 private:
  size_t begin(size_t block) const { return block * kBlock; }
  size_t end(size_t block) const { return std::min(w_.columns(), (block + 1) * kBlock); }

  // Every pair of columns once: inside blocks, then blocks against each other as in a round-robin tournament, where the
  // pairs of a round have no block in common. Whether anything was turned.
  bool turnAll() {
    const size_t blocks = (w_.columns() + kBlock - 1) / kBlock;
    std::atomic<bool> turned{false};
    share_(blocks, [&](size_t b) {
      bool here = false;
      for (size_t p = begin(b); p < end(b); p++) squares_[p] = dot(w_[p], w_[p], w_.rows());
      for (size_t p = begin(b); p < end(b); p++) {
        for (size_t q = p + 1; q < end(b); q++) here |= turn(p, q);
      }
      if (here) turned = true;
    });
    const size_t seats = blocks + blocks % 2;
    for (size_t round = 0; round + 1 < seats; round++) {
      share_(seats / 2, [&](size_t table) {
        // The last player keeps its seat, the others go around.
        const size_t others = seats - 1;
        size_t a = (round + table) % others;
        size_t b = table == 0 ? others : (round + others - table) % others;
        if (a > b) std::swap(a, b);
        if (b >= blocks) return;
        bool here = false;
        for (size_t p = begin(a); p < end(a); p++) {
          for (size_t q = begin(b); q < end(b); q++) here |= turn(p, q);
        }
        if (here) turned = true;
      });
    }
    return turned;
  }

  bool turn(size_t p, size_t q) {
    double* a = w_[p];
    double* b = w_[q];
    const double gamma = dot(a, b, w_.rows());
    if (std::abs(gamma) <= tolerance_ * std::sqrt(squares_[p]) * std::sqrt(squares_[q])) return false;
    const double zeta = (squares_[q] - squares_[p]) / (2 * gamma);
    const double t = std::copysign(1 / (std::abs(zeta) + std::sqrt(1 + zeta * zeta)), zeta);
    const double c = 1 / std::sqrt(1 + t * t);
    const double s = c * t;
    rotate(a, b, w_.rows(), s, s / (1 + c));
    rotate(j_[p], j_[q], j_.rows(), s, s / (1 + c));
    squares_[p] = dot(a, a, w_.rows());
    squares_[q] = dot(b, b, w_.rows());
    return true;
  }

  // By the angle of sine s, with h the tangent of its half: as corrections, so that small angles round little.
  static void rotate(double* a, double* b, size_t count, double s, double h) {
    for (size_t i = 0; i < count; i++) {
      const double x = a[i];
      const double y = b[i];
      a[i] = x - s * (y + h * x);
      b[i] = y + s * (x - h * y);
    }
  }

  Columns& w_;
  Columns& j_;
  const Share& share_;
  std::vector<double> squares_;
  double tolerance_;
};

// Replaces the columns of x from `known` on by orthonormal ones that are orthogonal to those before, which are
// orthonormal.
void complete(Columns& x, size_t known, const Share& share) {
  if (known == x.columns()) return;
  Columns basis(x.rows(), known);
  std::copy(x[0], x[0] + known * x.rows(), basis[0]);
  const Householder householder(std::move(basis), share, false);
  std::fill(x[known], x[0] + x.columns() * x.rows(), 0.0);
  for (size_t i = known; i < x.columns(); i++) x[i][i] = 1;
  householder.multiply(x, known);
}

struct Factors {
  Columns u;
  std::vector<double> s;
  Columns v;
};

// Of a square matrix.
Factors factorise(Columns a, const Share& share) {
  const size_t n = a.columns();
  const Householder qr(std::move(a), share, true);
  const size_t rank = qr.rank();
  Columns w(n, rank);
  Columns j(rank, rank);
  for (size_t i = 0; i < rank; i++) {
    for (size_t k = i; k < n; k++) w[i][k] = qr.r(i, k);
    j[i][i] = 1;
  }
  Jacobi(w, j, share).run();

  // A P = Q R and R^T J = V S, so that A = (Q J) S (P V)^T.
  std::vector<double> lengths(rank);
  for (size_t i = 0; i < rank; i++) lengths[i] = std::sqrt(dot(w[i], w[i], n));
  std::vector<size_t> order(rank);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t x, size_t y) { return lengths[x] > lengths[y]; });
  Factors result{Columns(n, n), std::vector<double>(n), Columns(n, n)};
  for (size_t i = 0; i < rank; i++) {
    const size_t from = order[i];
    result.s[i] = lengths[from];
    std::copy(j[from], j[from] + rank, result.u[i]);
    for (size_t k = 0; k < n; k++) result.v[i][qr.column(k)] = w[from][k] / lengths[from];
  }
  for (size_t i = rank; i < n; i++) result.u[i][i] = 1;
  qr.multiply(result.u);
  complete(result.v, rank, share);
  return result;
}

// Makes the component of largest magnitude of each column of u positive.
void orient(Columns& u, Columns& v) {
  for (size_t i = 0; i < u.columns(); i++) {
    const double* largest =
        std::max_element(u[i], u[i] + u.rows(), [](double x, double y) { return std::abs(x) < std::abs(y); });
    if (*largest > 0) continue;
    for (size_t k = 0; k < u.rows(); k++) u[i][k] = -u[i][k];
    for (size_t k = 0; k < v.rows(); k++) v[i][k] = -v[i][k];
  }
}

}  // namespace

Svd smallSvd(std::span<const double> matrix, size_t rows, size_t columns) {
  checkMatrix(matrix, rows, columns);
  const bool wide = rows < columns;
  const size_t m = std::max(rows, columns);
  const size_t n = std::min(rows, columns);
  const double scale = scaleOf(matrix);
  Columns a = Columns::from(matrix, m, n, wide);
  for (double& value : a.values()) value *= scale;
  const Share share(matrix.size() >= kAlone);

  Columns left(m, n);
  Factors factors{Columns(0, 0), {}, Columns(0, 0)};
  if (m == n) {
    factors = factorise(std::move(a), share);
    left = std::move(factors.u);
  } else {
    const Householder qr(std::move(a), share, false);
    Columns r(n, n);
    for (size_t k = 0; k < n; k++) {
      for (size_t i = 0; i <= k; i++) r[k][i] = qr.r(i, k);
    }
    factors = factorise(std::move(r), share);
    for (size_t k = 0; k < n; k++) std::copy(factors.u[k], factors.u[k] + n, left[k]);
    qr.multiply(left);
  }
  for (double& value : factors.s) value /= scale;
  Columns& u = wide ? factors.v : left;
  Columns& v = wide ? left : factors.v;
  orient(u, v);
  return {u.rowMajor(), std::move(factors.s), v.rowMajor()};
}

}  // namespace weightsmith
