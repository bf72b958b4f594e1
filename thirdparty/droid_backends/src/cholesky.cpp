#include <algorithm>
#include <cmath>
#include <utility>

#include <droid_backends/envelope.h>

namespace droid {

EnvelopeMatrix::EnvelopeMatrix(std::vector<int> first) : first_(std::move(first)), origin_(first_.size()) {
  std::ptrdiff_t end = 0;
  for (int i = 0; i < size(); ++i) {
    origin_[i] = end - first_[i];
    end += i - first_[i] + 1;
  }
  values_.assign(end, 0.0);
}

void EnvelopeMatrix::add(int i, int j, int rows, int columns, const double* block, int stride, double factor) {
  for (int a = 0; a < rows; ++a) {
    double* target = row(i + a);
    const int inside = std::min(columns, i + a - j + 1);
    for (int b = 0; b < inside; ++b) target[j + b] += factor * block[static_cast<std::ptrdiff_t>(a) * stride + b];
  }
}

bool EnvelopeMatrix::factorise() {
  for (int i = 0; i < size(); ++i) {
    double* row_i = row(i);
    for (int j = first_[i]; j <= i; ++j) {
      const double* row_j = row(j);
      double sum = 0.0;
#pragma omp simd reduction(+ : sum)
      for (int k = std::max(first_[i], first_[j]); k < j; ++k) sum += row_i[k] * row_j[k];
      const double rest = row_i[j] - sum;
      if (j < i) {
        row_i[j] = rest / row_j[j];
      } else {
        if (!(rest > 0.0) || !std::isfinite(rest)) return false;
        row_i[i] = std::sqrt(rest);
      }
    }
  }
  return true;
}

bool EnvelopeMatrix::solve(double* b) {
  if (!factorise()) return false;
  for (int i = 0; i < size(); ++i) {
    const double* L = row(i);
    for (int k = first_[i]; k < i; ++k) b[i] -= L[k] * b[k];
    b[i] /= L[i];
  }
  for (int i = size() - 1; i >= 0; --i) {
    const double* L = row(i);
    b[i] /= L[i];
    for (int k = first_[i]; k < i; ++k) b[k] -= L[k] * b[i];
  }
  return std::all_of(b, b + size(), [](double x) { return std::isfinite(x); });
}

}  // namespace droid
