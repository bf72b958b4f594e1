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

// Factors of the rows i..i+5, which begin at the same column, up to column i: every earlier row is read once for all.
void EnvelopeMatrix::eliminate_six(int i) {
  double* r[6];
  for (int a = 0; a < 6; ++a) r[a] = row(i + a);
  for (int j = first_[i]; j < i; ++j) {
    const double* row_j = row(j);
    double s0 = 0.0, s1 = 0.0, s2 = 0.0, s3 = 0.0, s4 = 0.0, s5 = 0.0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5)
    for (int k = std::max(first_[i], first_[j]); k < j; ++k) {
      s0 += r[0][k] * row_j[k];
      s1 += r[1][k] * row_j[k];
      s2 += r[2][k] * row_j[k];
      s3 += r[3][k] * row_j[k];
      s4 += r[4][k] * row_j[k];
      s5 += r[5][k] * row_j[k];
    }
    const double sums[6] = {s0, s1, s2, s3, s4, s5};
    for (int a = 0; a < 6; ++a) r[a][j] = (r[a][j] - sums[a]) / row_j[j];
  }
}

bool EnvelopeMatrix::finish_row(int i, int begin) {
  double* row_i = row(i);
  for (int j = begin; j <= i; ++j) {
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
  return true;
}

bool EnvelopeMatrix::factorise() {
  for (int i = 0; i < size();) {
    int end = i + 1;  // the six rows of a pose begin together
    while (end < std::min(i + 6, size()) && first_[end] == first_[i]) ++end;
    const bool six = end == i + 6;
    if (six) eliminate_six(i);
    for (const int begin = six ? i : first_[i]; i < end; ++i)
      if (!finish_row(i, begin)) return false;
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
