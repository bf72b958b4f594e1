#include <cmath>

#include <droid_backends/dense_ba.h>

namespace droid {

bool cholesky_solve(int n, double* A, double* b) {
  for (int i = 0; i < n; ++i) {
    double* row_i = A + static_cast<long>(i) * n;
    for (int j = 0; j <= i; ++j) {
      const double* row_j = A + static_cast<long>(j) * n;
      double sum = row_i[j];
      for (int k = 0; k < j; ++k) sum -= row_i[k] * row_j[k];
      if (i == j) {
        if (!(sum > 0.0) || !std::isfinite(sum)) return false;
        row_i[i] = std::sqrt(sum);
      } else {
        row_i[j] = sum / row_j[j];
      }
    }
  }
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < i; ++k) b[i] -= A[static_cast<long>(i) * n + k] * b[k];
    b[i] /= A[static_cast<long>(i) * n + i];
  }
  for (int i = n - 1; i >= 0; --i) {
    for (int k = i + 1; k < n; ++k) b[i] -= A[static_cast<long>(k) * n + i] * b[k];
    b[i] /= A[static_cast<long>(i) * n + i];
  }
  for (int i = 0; i < n; ++i)
    if (!std::isfinite(b[i])) return false;
  return true;
}

}  // namespace droid
